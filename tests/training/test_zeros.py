"""Weights that are zero stay zero, whatever the optimizer does, and are like masked ones of torch.nn.utils.prune."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from effbench.errors import ConfigError
from effbench.optimizers.muon import Muon
from effbench.training.ema import Ema
from effbench.training.zeros import KeepZeros
from tests.training.tiny import At, data, dense, sgd, trainer

NAMES = ["hidden1.0.weight", "head.weight"]


def masks() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(dense().get_parameter(name).shape, generator=generator) > 0.6 for name in NAMES}


def sparse() -> nn.Module:
    model = dense()
    with torch.no_grad():
        for name, mask in masks().items():
            model.get_parameter(name).mul_(mask)
    return model


def test_training_equals_that_with_the_masks_of_torch() -> None:
    """Clipping sees all gradients: those of zeros must not count."""
    ours, theirs = sparse(), dense()
    for name, mask in masks().items():
        module, _, key = name.rpartition(".")
        prune.custom_from_mask(theirs.get_submodule(module), key, mask)
    for model, watch in ((ours, [KeepZeros(NAMES)]), (theirs, [])):
        clip = lambda model=model: nn.utils.clip_grad_norm_(model.parameters(), 0.3)  # noqa: E731
        trainer(data(), model, 20, optimizer=sgd(model, weight_decay=0.01), watch=watch, clip=clip).fit()
    for name in NAMES:
        module, _, key = name.rpartition(".")
        layer = theirs.get_submodule(module)
        # torch's `weight` is that of the last forward pass, before the last step
        expected = getattr(layer, f"{key}_orig") * getattr(layer, f"{key}_mask")
        torch.testing.assert_close(ours.get_parameter(name), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(ours.get_parameter(name), sparse().get_parameter(name)), "it has learnt"


@pytest.mark.parametrize("averages", [False, True])
def test_zeros_stay_with_an_optimizer_that_mixes_rows(averages: bool) -> None:
    model = sparse()
    ema = Ema(model, 0.5) if averages else None
    optimizer = Muon(model.parameters(), lr=0.02)
    trainer(data(), model, 12, optimizer=optimizer, watch=[KeepZeros(NAMES)], ema=ema).fit()
    for name, mask in masks().items():
        for each in (model, *([ema.model] if ema else [])):
            weight = each.get_parameter(name)
            assert torch.equal(weight != 0, mask), name


def test_zeros_are_those_that_the_weights_have_at_the_start() -> None:
    """A weight that becomes zero later is free to leave it."""
    model, place = sparse(), (0, int(masks()[NAMES[0]][0].nonzero()[0]))

    def clear(_: object) -> None:
        model.get_parameter(NAMES[0]).data[place] = 0

    trainer(data(), model, 10, watch=[KeepZeros(NAMES), At(4, clear)]).fit()
    assert model.get_parameter(NAMES[0])[place] != 0


def test_names_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"zeros names gone\.weight, which it lacks"):
        trainer(data(), dense(), 1, watch=[KeepZeros(["gone.weight"])]).fit()
