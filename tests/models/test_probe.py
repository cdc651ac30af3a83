"""A model of the user's own: what it gives for images is logits that can be trained, or is named before training."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effbench.errors import ConfigError
from effbench.models.probe import Probe, check_logits, initialize_lazy
from effbench.training.penalty import logits_of

SHAPE, CLASSES = (3, 8, 6), 4
PROBE = Probe(torch.zeros(2, *SHAPE), "image", f"images of (C, H, W) {SHAPE}")


class Net(nn.Module):
    def __init__(self, after: Callable[[Tensor], Any] = lambda logits: logits, outputs: int = CLASSES):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 6, outputs)
        self.after = after

    def forward(self, images: Tensor) -> Any:
        return self.after(self.linear(images.flatten(1)))


def boom(_: Tensor) -> Tensor:
    raise KeyError("nothing")


def check(model: nn.Module) -> None:
    check_logits(model, "net", PROBE, CLASSES, "mine")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Net(lambda logits: {"logits": logits}), "net returns a dict for images; it must return the logits alone"),
        (Net(lambda logits: (logits, 1)), "net returns a tuple"),
        (Net(boom), "net cannot take images of (C, H, W) (3, 8, 6): KeyError('nothing') (test_probe.py, line"),
        (Net(outputs=5), "net makes 5 outputs an image, but mine has 4 classes, labelled 0 to 3"),
        (Net(lambda logits: logits[0]), "net makes no batch of outputs"),
        (Net(lambda logits: logits.detach()), "net: its logits depend on no trained parameter"),
        (Net(lambda logits: logits.softmax(1)), "net returns probabilities (they add up to 1); it must return logits"),
        (Net().double(), "its parameter linear.weight is of torch.float64; it must be float32"),
        (Net().to("meta"), "its parameter linear.weight is without values (device meta)"),
        (nn.Module(), 'missing the required "forward" function'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_model_without_trainable_logits_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check(model)


def test_the_check_leaves_a_valid_model_unchanged() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), Net(), nn.LogSoftmax(1))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, drawn = [module.training for module in model.modules()], torch.get_rng_state()
    check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(drawn, torch.get_rng_state())


def test_lazy_layers_get_their_shapes() -> None:
    model = nn.Sequential(nn.LazyConv2d(5, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(CLASSES))
    initialize_lazy(model, "net", PROBE)
    check(model)
    assert model.training
    assert model[3].in_features == 5 * 6 * 4


def test_model_returning_more_than_logits_in_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model returns a tuple in training"):
        logits_of((torch.zeros(2, 4), torch.zeros(2, 4)))
