"""Loading, freezing and the training mode: what goes through, what is refused, and what the message says."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import DenseNet

from effbench.errors import ConfigError, DataError
from effbench.models.adapt import freeze, load_pretrained, set_train_mode
from effbench.models.cnn import cnn
from effbench.models.torchvision_zoo import create
from effbench.models.vit import vit


def net(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    return create("mobilenet_v3_small", num_classes=num_classes, in_channels=in_channels, image_size=(32, 32))


def same(one: nn.Module, other: nn.Module, but: str = "-") -> bool:
    """Whether the states are equal bit for bit, keys with the prefix `but` aside."""
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a if not key.startswith(but))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_file_of_the_same_model_arrives_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    trained, model, path = net(), net(), tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(trained.state_dict(), path)
    loaded = load_pretrained(model, path)
    assert same(trained, model)
    assert (loaded.tensors, loaded.fresh) == (len(model.state_dict()), ())


def test_head_for_other_class_count_is_kept_and_the_rest_loaded(tmp_path: Path) -> None:
    trained, model, path = net(num_classes=1000), net(num_classes=10), tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), path)
    head = model.classifier[3].weight.clone()
    loaded = load_pretrained(model, path)
    assert loaded.fresh == ("classifier.3.bias", "classifier.3.weight")
    assert same(model, trained, but="classifier.3")
    assert torch.equal(model.classifier[3].weight, head)


def test_an_absent_head_stays_fresh(tmp_path: Path) -> None:
    trained, model, path = cnn(10, 3, (32, 32)), cnn(10, 3, (32, 32)), tmp_path / "weights.pt"
    torch.save({key: value for key, value in trained.state_dict().items() if not key.startswith("head")}, path)
    assert load_pretrained(model, path).fresh == ("head.bias", "head.weight")
    assert same(model, trained, but="head")


def test_head_of_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({**cnn(10, 3, (32, 32)).state_dict(), "head.weight": torch.zeros(10, 9)}, path)
    with pytest.raises(ConfigError, match=r"head.weight: file \(10, 9\), model \(10, 512\)"):
        load_pretrained(cnn(10, 3, (32, 32)), path)


def test_head_of_another_width_and_class_count_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    head = {"head.weight": torch.zeros(7, 9), "head.bias": torch.zeros(7)}
    torch.save({**cnn(10, 3, (32, 32)).state_dict(), **head}, path)
    with pytest.raises(ConfigError, match=r"head.weight: file \(7, 9\), model \(10, 512\)"):
        load_pretrained(cnn(10, 3, (32, 32)), path)


def test_timms_heads_are_found_by_timms_own_record(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    trained = timm.create_model("test_vit", num_classes=9, img_size=32)
    model, path = timm.create_model("test_vit", num_classes=3, img_size=32), tmp_path / "weights.pt"
    torch.save(trained.state_dict(), path)
    assert load_pretrained(model, path).fresh == ("head.bias", "head.weight")


def test_an_older_layout_is_converted_as_torchvision_does(tmp_path: Path) -> None:
    trained, model = vit(10, 3, (32, 32), dim=24, depth=1), vit(10, 3, (32, 32), dim=24, depth=1)
    old = trained.state_dict()
    for key in list(old):
        new = key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")
        old[new] = old.pop(key)
    for record in old._metadata.values():
        record["version"] = 1
    torch.save(old, tmp_path / "old.pth")
    load_pretrained(model, tmp_path / "old.pth")
    assert same(trained, model)


def test_mnasnet_loads_from_safetensors_without_version_metadata(tmp_path: Path) -> None:
    def mnasnet() -> nn.Module:
        return create("mnasnet0_5", num_classes=4, in_channels=3, image_size=(32, 32))

    trained, model = mnasnet(), mnasnet()
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    load_pretrained(model, tmp_path / "weights.safetensors")
    assert same(trained, model)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_weights_wrapped_by_a_training_script_are_found(tmp_path: Path, wrapper: str, prefix: str) -> None:
    trained, model = cnn(10, 3, (32, 32)), cnn(10, 3, (32, 32))
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "weights.pt")
    load_pretrained(model, tmp_path / "weights.pt")
    assert same(trained, model)


def test_misfitting_weights_are_refused_with_5_keys_and_shapes(tmp_path: Path) -> None:
    state = cnn(10, 3, (32, 32)).state_dict()
    state["block1.0.weight"] = torch.zeros(32, 1, 3, 3)
    del state["block2.0.weight"]
    state |= {f"extra{i}": torch.zeros(2, i) for i in range(1, 6)}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ConfigError) as refusal:
        load_pretrained(cnn(10, 3, (32, 32)), tmp_path / "weights.pt")
    message = str(refusal.value)
    assert "weights.pt' does not fit the model in 7 tensors" in message
    assert "block1.0.weight: file (32, 1, 3, 3), model (32, 3, 3, 3)" in message
    assert "block2.0.weight: file has none, model (64, 32, 3, 3)" in message
    assert "extra1: file (2, 1), model has none" in message
    assert message.count("file ") == 5
    assert "and 2 more" in message


class Bomb:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2), "bomb": Bomb(tmp_path / "boom")}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"weights.pt' holds more than weights.*was not run"):
        load_pretrained(cnn(10, 3, (32, 32)), tmp_path / "weights.pt")
    assert not (tmp_path / "boom").exists()


def test_a_whole_pickled_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(cnn(10, 3, (32, 32)), tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"model.pt' holds more than weights.*Save model.state_dict\(\)"):
        load_pretrained(cnn(10, 3, (32, 32)), tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(cnn(10, 3, (32, 32)).state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="model.pretrained: '.*weights"):
        load_pretrained(cnn(10, 3, (32, 32)), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model.pretrained: there is no file '.*nowhere.pt'"):
        load_pretrained(cnn(10, 3, (32, 32)), tmp_path / "nowhere.pt")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(
        ConfigError, match=r"must be a .safetensors, .pt or .pth file, or a run's folder; got '.*weights.onnx'"
    ):
        load_pretrained(cnn(10, 3, (32, 32)), tmp_path / "weights.onnx")


def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"must hold a state dict of tensors; found keys \['epoch', 'loss'\]"):
        load_pretrained(cnn(10, 3, (32, 32)), tmp_path / "weights.pt")


def test_freeze_disables_gradients_of_matching_parameters_only() -> None:
    model = cnn(10, 3, (32, 32))
    count = freeze(model, ["block1.*", "*.bias"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        name for name, _ in model.named_parameters() if name.startswith("block1.") or name.endswith(".bias")
    }
    assert count == sum(p.numel() for p in model.parameters() if not p.requires_grad)


def test_freeze_takes_one_pattern_as_a_string() -> None:
    model = cnn(10, 3, (32, 32))
    freeze(model, "head.*")
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight", "head.bias"]


def test_freeze_pattern_without_match_shows_the_nearest_names() -> None:
    model = cnn(10, 3, (32, 32))
    with pytest.raises(
        ConfigError, match=r"'block9.0.weight' matches none of the model's .*Near it: .*block1.0.weight"
    ):
        freeze(model, ["head.*", "block9.0.weight"])
    assert all(p.requires_grad for p in model.parameters())


def test_freeze_of_a_bare_module_name_suggests_a_star() -> None:
    with pytest.raises(ConfigError, match=r"'block1' matches none .* write 'block1\.\*'"):
        freeze(cnn(10, 3, (32, 32)), ["block1"])


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match="freezes every parameter"):
        freeze(cnn(10, 3, (32, 32)), ["b*", "h*"])


def test_only_fully_frozen_norms_keep_their_running_statistics() -> None:
    model = cnn(10, 3, (32, 32))
    freeze(model, ["block1.*", "block2.1.weight"])
    norms = [model.block1[1], model.block2[1], model.block3[1]]
    before = [norm.running_mean.clone() for norm in norms]
    set_train_mode(model.eval())
    model(torch.randn(4, 3, 32, 32) + 1)
    moved = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert moved == [False, True, True]  # block2's norm still trains its bias
    assert model.training
    assert model.hidden[3].training


def test_a_norm_without_parameters_of_its_own_trains_as_usual() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 1))
    set_train_mode(model.eval())
    assert model[0].training


# --- files of other tools: wrappers, containers, old names ------------------------------------------------------------


def densenet() -> nn.Module:
    torch.manual_seed(0)
    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=10)


def blank(model: nn.Module) -> nn.Module:
    """A copy whose weights are all zero."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.zero_()
    return other


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    "prefix",
    [
        "module._orig_mod.",
        "_orig_mod.module.",
        "model._orig_mod.",
        "module.module.model.",
        "_orig_mod._orig_mod.",
        "net.",
    ],
)
def test_wrappers_nested_in_any_way_are_seen_through(tmp_path: Path, prefix: str, suffix: str) -> None:
    trained, path = cnn(10, 3, (32, 32)), tmp_path / f"weights{suffix}"
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    model = blank(trained)
    load_pretrained(model, path)
    assert same(trained, model)


@pytest.mark.slow
def test_weights_of_a_compiled_submodule_are_loaded(tmp_path: Path) -> None:
    trained, path = cnn(10, 3, (32, 32)), tmp_path / "weights.pt"
    model = blank(trained)
    trained.block1 = torch.compile(trained.block1)
    assert any("block1._orig_mod." in key for key in trained.state_dict())
    torch.save(nn.DataParallel(trained).state_dict(), path)
    load_pretrained(model, path)
    assert torch.equal(model.block1[0].weight, trained.state_dict()["block1._orig_mod.0.weight"])


@pytest.mark.parametrize(
    "content",
    [
        lambda state: {"model": {"state_dict": state}, "epoch": 3},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "optimizer_states": []},
        lambda state: {"ema": {"module": state}, "updates": 100},
        lambda state: {"model": state, "ema": {key: value * 2 for key, value in state.items()}},
        lambda state: {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in state.items()}},
        lambda state: {"_ema_steps": torch.tensor(3), **state},
    ],
)
def test_weights_in_containers_or_averaging_wrappers_are_loaded(tmp_path: Path, content: Any) -> None:
    trained, path = cnn(10, 3, (32, 32)), tmp_path / "weights.pt"
    torch.save(content(trained.state_dict()), path)
    model = blank(trained)
    assert load_pretrained(model, path).tensors == len(model.state_dict())
    assert same(trained, model)


def test_submodules_named_like_a_wrapper_prefix_keep_their_names(tmp_path: Path) -> None:
    trained, path = nn.ModuleDict({"model": nn.Linear(2, 3)}), tmp_path / "weights.pt"
    model = blank(trained)
    for prefix in ("", "module.", "model."):
        torch.save({prefix + key: value for key, value in trained.state_dict().items()}, path)
        load_pretrained(model, path)
        assert same(trained, model)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_old_densenet_keys_and_norms_without_counter_are_loaded(tmp_path: Path, wrapper: str) -> None:
    trained, path = densenet(), tmp_path / "densenet.safetensors"
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")  # as in torchvision's published files
    state = {
        wrapper + old.sub(r"\1.\2.", key): value
        for key, value in trained.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert any("norm.1.weight" in key for key in state)
    save_file(state, path)
    model = blank(trained)
    load_pretrained(model, path)
    assert same(trained, model)


def test_auxiliary_heads_are_left_out_and_reported(tmp_path: Path) -> None:
    model, path = cnn(10, 3, (32, 32)), tmp_path / "weights.pt"
    aux = {"AuxLogits.conv0.weight": torch.zeros(3), "aux1.fc1.bias": torch.zeros(3)}
    torch.save({**model.state_dict(), **aux}, path)
    loaded = load_pretrained(model, path)
    assert loaded.left_out == ("AuxLogits", "aux1")
    assert "left out, auxiliary heads: AuxLogits, aux1" in str(loaded)
    torch.save({**model.state_dict(), "extra.weight": torch.zeros(3)}, path)
    with pytest.raises(ConfigError, match="extra.weight"):
        load_pretrained(model, path)


def test_tensors_that_map_to_the_same_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"fc.weight": torch.zeros(2), "fc._orig_mod.weight": torch.ones(2)}, path)
    with pytest.raises(DataError, match="the same name"):
        load_pretrained(nn.ModuleDict({"fc": nn.Linear(2, 1)}), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema")]
)
def test_raw_weights_are_preferred_to_averaged_and_both_named(
    raw: str, averaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, mean, model, path = net(), net(), net(), tmp_path / "weights.pth"
    torch.save({averaged: mean.state_dict(), raw: trained.state_dict(), "epoch": 3}, path)
    load_pretrained(model, path)
    assert same(trained, model)
    assert f"several sets of weights: '{raw}' is used, not '{averaged}'" in capsys.readouterr().err
    torch.save({averaged: mean.state_dict(), "epoch": 3}, path)
    load_pretrained(model, path)
    assert same(mean, model)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda value: value.int(), "file int32, model torch.float32"), (lambda value: value / 0, "that are not finite")],
)
def test_integer_or_nonfinite_weights_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    state = net().state_dict()
    torch.save({**state, "classifier.0.bias": change(state["classifier.0.bias"])}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=f"classifier.0.bias: .*{said}"):
        load_pretrained(net(), tmp_path / "weights.pth")
