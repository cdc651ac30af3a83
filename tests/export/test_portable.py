"""The copy that is exported: the run's normalisation inside, contiguous, the model itself left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from effbench.cpu.accelerate import accelerate
from effbench.data.images.batch_transform import BatchTransform
from effbench.data.modality import Normalise
from effbench.export.portable import portable

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )
    accelerate(layers)
    return layers.to(memory_format=torch.channels_last)


def test_portable_equals_the_model_on_normalised_images(model: nn.Module) -> None:
    images = torch.rand(3, 3, 8, 8)
    transform = BatchTransform(MEAN, STD)
    expected = model.eval()(transform(images.clone()))
    torch.testing.assert_close(
        portable(model, Normalise(MEAN, STD, inner_dims=2))(images), expected, rtol=1e-5, atol=1e-6
    )


def test_portable_model_is_in_eval_mode_contiguous_without_grad(model: nn.Module) -> None:
    model.train()
    own = portable(model, Normalise(MEAN, STD, inner_dims=2))
    assert not own.training
    assert not any(module.training for module in own.modules())
    assert all(tensor.is_contiguous() for tensor in own.state_dict().values())
    assert not any(parameter.requires_grad for parameter in own.parameters())


def test_portable_leaves_the_model_unchanged(model: nn.Module) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    portable(model, Normalise(MEAN, STD, inner_dims=2))(torch.rand(3, 3, 8, 8))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
