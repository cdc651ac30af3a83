"""Counts against published sizes and closed forms; kept bytes against what the allocator really keeps.

White-box: the shapes that stand in for a recurrent layer on the meta device.
"""

from __future__ import annotations

import copy
import gc
import resource
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from effbench.errors import ConfigError
from effbench.models import accounting
from effbench.models.accounting import activation_bytes, layer_table, macs, parameters
from effbench.models.cnn import cnn
from effbench.models.image_fit import check_image_fits
from effbench.models.swin import swin_micro
from effbench.models.torchvision_zoo import create
from effbench.models.vit import vit
from effbench.tasks.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError

# torchvision publishes, beside its weights, their parameters and GMACs (as `_ops`, to three decimals).
PUBLISHED = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "resnet50", "resnet152", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t",
    "vgg16_bn", "vit_b_16", "vit_l_16",
]  # fmt: skip


def published(arch: str) -> tuple[int, float, int]:
    """(parameters, GMACs, px)."""
    weights = next(iter(tv.get_model_weights(arch)))
    return weights.meta["num_params"], weights.meta["_ops"], weights.transforms.keywords["crop_size"]


def build(arch: str, side: int, in_channels: int = 3) -> nn.Module:
    # torchvision's RegNet computes its widths with tensors, which the meta device cannot read.
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):
        return create(arch, num_classes=1000, in_channels=in_channels, image_size=(side, side), stem="imagenet")


@pytest.mark.spread(3)
@pytest.mark.slow
@pytest.mark.parametrize("arch", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(arch: str) -> None:
    params, gmacs, side = published(arch)
    model = build(arch, side)
    # Inception's published count alone includes its auxiliary head, which effbench leaves out.
    if arch != "inception_v3":
        assert parameters(model).total == params
    assert macs(model, torch.empty(1, 3, side, side)).macs / 1e9 == pytest.approx(gmacs, abs=0.00051)


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "millions", "gmacs"),
    [("mobilenet_v3_small", 2.54, 0.06), ("swin_t", 28.29, 4.49), ("resnet152", 60.19, 11.51)],
)
def test_the_headline_sizes_come_out(arch: str, millions: float, gmacs: float) -> None:
    model = build(arch, 224)
    assert round(parameters(model).total / 1e6, 2) == millions
    assert round(macs(model, torch.empty(1, 3, 224, 224)).macs / 1e9, 2) == gmacs


def test_flops_are_twice_the_macs() -> None:
    compute = macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.empty(1, 3, 2, 2))
    assert (compute.macs, compute.flops) == (60, 120)


def test_macs_of_a_strided_grouped_convolution_match_closed_form() -> None:
    conv = nn.Conv2d(8, 12, kernel_size=(3, 5), stride=2, padding=(1, 2), groups=4)
    assert macs(conv, torch.empty(1, 8, 10, 14)).macs == (5 * 7) * 12 * (8 // 4) * (3 * 5)


def test_attention_macs_include_both_products_even_if_frozen() -> None:
    model = vit(10, 3, (32, 32), dim=24, depth=1, heads=3, mlp_dim=96).requires_grad_(False)
    tokens, dim = 65, 24
    projections = 4 * tokens * dim * dim + 2 * tokens * dim * 96
    expected = 64 * (3 * 4 * 4) * dim + projections + 2 * tokens * tokens * dim + dim * 10
    assert macs(model, torch.empty(1, 3, 32, 32)).macs == expected


def test_parameters_count_shared_once_and_frozen_as_untrained() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    counted = parameters(model.to(torch.bfloat16))
    assert (counted.total, counted.trainable, counted.bytes) == (20, 16, 40)


def kept_bytes(model: nn.Module, shape: tuple[int, ...], batch_size: int, dtype: torch.dtype = torch.float32) -> int:
    """activation_bytes with cross-entropy of class numbers."""
    target = torch.zeros(1, dtype=torch.int64)
    return activation_bytes(model, torch.empty(1, *shape), batch_size, F.cross_entropy, target, dtype)


def test_counting_allocates_nothing_and_leaves_model_unchanged() -> None:
    model = cnn(10, 3, (32, 32)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    macs(model, torch.empty(1, 3, 32, 32))
    kept_bytes(model, (3, 32, 32), 4)
    layer_table(model, torch.empty(1, 3, 32, 32))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    huge = nn.Sequential(nn.Flatten(), nn.Linear(3 * 512 * 512, 10))
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # 100k images of 3 MB: 314 GB if they existed.
    assert kept_bytes(huge, (3, 512, 512), 100_000) == 100_000 * 10 * 4 + 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kb < 50_000


def allocated_by_forward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes that torch's CPU allocator gave out in the forward pass and did not get back."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = F.cross_entropy(model(images), labels)
    assert loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiler.events())


MEASURED = {
    "cnn": lambda: cnn(10, 3, (32, 32)),
    "separable cnn": lambda: cnn(10, 3, (32, 32), kind="separable"),
    "mobilenet": lambda: create("mobilenet_v3_small", num_classes=10, in_channels=3, image_size=(32, 32)),
    "resnet18": lambda: create("resnet18", num_classes=10, in_channels=3, image_size=(32, 32)),
    "swin": lambda: swin_micro(10, 3, (32, 32)),
    "vit": lambda: vit(10, 3, (32, 32), dim=48, depth=3),
}


@pytest.mark.spread(1)
@pytest.mark.slow
@pytest.mark.parametrize("which", MEASURED)
def test_activation_bytes_match_the_allocator_after_a_forward(which: str) -> None:
    model = MEASURED[which]().train()
    images, labels = torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.int64)
    loss_and_small_change = 256  # bytes
    measured = allocated_by_forward(model, images, labels)
    assert kept_bytes(model, (3, 32, 32), 16) == pytest.approx(measured, abs=loss_and_small_change)


def test_activation_bytes_of_an_mlp_follow_the_closed_form() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    # ReLU's output serves ReLU and the second layer; cross-entropy keeps log-softmax and one total weight.
    assert kept_bytes(model, (3, 4, 4), 8) == 4 * (8 * 32 + 8 * 10 + 1)


@pytest.mark.parametrize(
    ("loss", "target", "by_loss"),
    [
        (CrossEntropy(), torch.zeros(1, dtype=torch.int64), 8 * 10 + 1),  # log-softmax, total weight
        (MeanSquaredError(), torch.zeros(1, 10), 8 * 10),  # outputs
        (BinaryCrossEntropy(pos_weight=2.0), torch.zeros(1, 10), 8 * 10 + 10),  # outputs and a weight for each label
    ],
    ids=lambda value: type(value).__name__,
)
def test_activation_bytes_count_what_the_task_s_loss_keeps(loss: Loss, target: torch.Tensor, by_loss: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    kept = activation_bytes(model, torch.empty(1, 3, 4, 4), 8, loss.summed, target)
    assert kept == 4 * (8 * 32 + by_loss)


def test_activation_bytes_grow_with_batch_and_shrink_if_frozen() -> None:
    model = cnn(10, 3, (32, 32))
    one, two = (kept_bytes(model, (3, 32, 32), size) for size in (16, 32))
    assert two == pytest.approx(2 * one, rel=0.01)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    assert kept_bytes(model, (3, 32, 32), 16) < 0.1 * one


@pytest.mark.slow
def test_activation_bytes_under_autocast_match_a_real_forward() -> None:
    model = swin_micro(10, 3, (32, 32)).train()
    images, labels = torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
    kept: dict[int, torch.UntypedStorage] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), images, labels]}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(model(images), labels)
    measured = sum(storage.nbytes() for address, storage in kept.items() if address not in own)
    assert kept_bytes(model, (3, 32, 32), 8, torch.bfloat16) == pytest.approx(measured, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "side"), [("mobilenet_v3_small", 224), ("vit_b_16", 224), ("resnet18", 224)])
def test_the_layer_table_adds_up_to_the_published_totals(arch: str, side: int) -> None:
    rows = layer_table(build(arch, side), torch.empty(1, 3, side, side))
    params, gmacs, _ = published(arch)
    assert sum(row.params for row in rows) == params
    assert sum(row.macs for row in rows) / 1e9 == pytest.approx(gmacs, abs=0.00051)


def test_layer_table_lists_children_with_shapes_and_closed_forms() -> None:
    rows = layer_table(cnn(10, 3, (32, 32)), torch.empty(1, 3, 32, 32))
    assert [(row.name, row.type, row.output_shape) for row in rows] == [
        ("block1", "Sequential", (1, 32, 16, 16)),
        ("block2", "Sequential", (1, 64, 8, 8)),
        ("block3", "Sequential", (1, 128, 4, 4)),
        ("pool", "Identity", (1, 128, 4, 4)),
        ("hidden", "Sequential", (1, 512)),
        ("head", "Linear", (1, 10)),
    ]
    assert (rows[0].params, rows[0].macs) == (3 * 32 * 9 + 64, 32 * 32 * 32 * 3 * 9)
    assert (rows[-1].params, rows[-1].macs) == (5130, 5120)


@pytest.mark.slow
def test_layer_table_separates_own_parameters_and_unused_layers() -> None:
    rows = layer_table(build("vit_b_16", 224), torch.empty(1, 3, 224, 224))
    assert rows[-1].name == "(outside its children)"
    assert rows[-1].params == 768  # the class token

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.used(images.flatten(1)) + self.used(images.flatten(1))

    used, idle = layer_table(Idle(), torch.empty(1, 3, 1, 1))
    assert (used.macs, idle.macs, idle.output_shape, idle.params) == (12, 0, None, 16)


def test_image_size_that_does_not_fit_is_refused_with_model_name() -> None:
    with pytest.raises(ConfigError, match="model 'x' cannot take data.image_size 28 x 28"):
        check_image_fits(cnn(7, 1, (32, 32)), "model 'x'", (1, 28, 28))


@pytest.mark.parametrize("size", [28, 32])
def test_the_look_whether_an_image_fits_leaves_no_trace(size: int) -> None:
    model = cnn(7, 1, (32, 32))
    model[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(ConfigError) if size == 28 else nullcontext():
        check_image_fits(model, "model 'x'", (1, size, size))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.RNN, {}),
        (nn.GRU, {"num_layers": 2, "bidirectional": True}),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
        (nn.LSTM, {"batch_first": True, "bias": False}),
        (nn.LSTM, {"proj_size": 3, "bidirectional": True}),
    ],
)
def test_recurrent_layers_cost_what_a_loop_over_steps_costs(kind: type[nn.RNNBase], options: dict[str, int]) -> None:
    layer = kind(5, 7, **options)
    shape = (1, 4, 5) if options.get("batch_first") else (4, 1, 5)
    with FlopCounterMode(display=False) as counter:  # torch's loop over the steps, on the meta device
        expected = copy.deepcopy(layer).to("meta")(torch.zeros(shape, device="meta"))

    assert macs(layer, torch.zeros(shape)).macs == counter.get_total_flops() // 2 > 0
    assert shapes(accounting._shapes_of(layer)(torch.zeros(shape, device="meta"))) == shapes(expected)


def shapes(found: object) -> object:
    return tuple(found.shape) if isinstance(found, torch.Tensor) else [shapes(each) for each in found]


def test_long_recurrent_layers_are_counted_without_a_loop() -> None:
    """Steps are counted by torch's dispatcher: far fewer operations than time steps."""
    layer, seen = nn.LSTM(8, 16, batch_first=True), []

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Counted():
        found = macs(layer, torch.zeros(1, 10_000, 8))
    assert found.macs == 10_000 * 4 * 16 * (8 + 16)
    assert len(seen) < 100
