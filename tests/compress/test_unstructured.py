"""method=unstructured: the weights that torch.nn.utils.prune would choose become zero, and nothing else changes.

White-box: the pruning of a model without a run.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from effbench.compress.unstructured import prunable, set_smallest_to_zero
from effbench.models.cnn import cnn
from effbench.models.gpt import GPT
from effbench.models.vit import vit


def model() -> nn.Module:
    torch.manual_seed(0)
    return cnn(5, 3, (16, 16), channels=(4, 8), hidden=12)


@pytest.mark.parametrize("ratios", [[0.5], [0.9], [0.01], [0.3, 0.6, 0.8]])
def test_zeros_are_those_of_torch(ratios: list[float]) -> None:
    ours, theirs = model(), model()
    chosen = ["block1.0.weight", "block2.0.weight", "hidden.1.weight", "head.weight"]
    assert list(prunable(ours)) == chosen
    layers = [(theirs.get_submodule(name.removesuffix(".weight")), "weight") for name in chosen]
    for ratio in ratios:
        set_smallest_to_zero(list(prunable(ours).values()), ratio)
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=ratio)
        for layer, key in layers:  # each step counts from the weights, as ours does
            prune.remove(layer, key)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_names_and_order_of_the_parameters_stay() -> None:
    """A resumed optimizer finds its state by the order."""
    changed, before = model(), [name for name, _ in model().named_parameters()]
    set_smallest_to_zero(list(prunable(changed).values()), 0.5)
    assert [name for name, _ in changed.named_parameters()] == before


def test_norms_biases_and_embeddings_stay() -> None:
    net = GPT(11, 8, dim=16, depth=1, heads=2)  # its output layer is the embedding
    before = copy.deepcopy(net.state_dict())
    chosen = prunable(net)
    assert set(chosen) == {f"blocks.0.{name}.weight" for name in ("attention.qkv", "attention.out", "mlp.0", "mlp.2")}
    set_smallest_to_zero(list(chosen.values()), 0.99)
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(chosen)


def test_attention_of_torch_is_pruned_too() -> None:
    """Its projection has another name: in_proj_weight."""
    names = prunable(vit(3, 1, (8, 8), dim=8, depth=1, heads=2))
    assert any(name.endswith("in_proj_weight") for name in names)
    assert not any("pos_embedding" in name or "class_token" in name for name in names)
