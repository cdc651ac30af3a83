"""Checkpoints that are whole or not there: what is kept, what is refused, and what a full disk leaves behind.

White-box: makes linking fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from effbench.errors import ConfigError, EffbenchError, shown
from effbench.training import checkpoint as module
from effbench.training import checkpoint_files
from effbench.training.checkpoint import Checkpoints
from effbench.training.checkpoint_files import (
    DamagedError,
    Snapshot,
    read_checkpoint,
    read_manifest,
    read_newest,
    read_weights,
    write_checkpoint,
)
from effbench.training.snapshots import load_weights
from tests.training.tiny import same


def snapshot(number: float = 1.0, size: int = 4, ema: bool = True) -> Snapshot:
    averaged = {"w": torch.full((size,), -number), "_ema_steps": torch.tensor(7)} if ema else {}
    optimizer = {"state": {0: {"momentum": torch.full((size,), number / 2)}}, "lr": number}
    return Snapshot({"w": torch.full((size,), number)}, averaged, {"optimizer": optimizer})


def keeper(folder: Path, keep_best: int = 1, keep_last: bool = True, mode: str = "max") -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "val/acc", mode, keep_best, keep_last)


def kept(keeper: Checkpoints) -> set[int]:
    return {int(path.name.removeprefix("step-")) for path in keeper.folder.glob("step-*")}


def points_to(keeper: Checkpoints, link: str) -> int | None:
    path = keeper.folder / link
    return int(path.readlink().name.removeprefix("step-")) if path.is_symlink() else None


def save_all(keeper: Checkpoints, values: list[float | None]) -> None:
    for number, value in enumerate(values, start=1):
        keeper.save(snapshot(number), number, value)


# --- what is kept


def test_what_is_written_is_read_back_to_the_bit(tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    back = read_checkpoint(tmp_path / "step")
    assert same(vars(back), vars(snapshot()))


def test_without_an_average_no_ema_file_is_written(tmp_path):
    write_checkpoint(tmp_path / "step", snapshot(ema=False))
    assert read_checkpoint(tmp_path / "step").ema == {}
    assert sorted(path.name for path in (tmp_path / "step").iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "state.pt",
    ]


def test_a_run_is_evaluated_with_its_average_where_it_has_one(tmp_path):
    for ema, expected in ((True, -1.0), (False, 1.0)):
        write_checkpoint(tmp_path / str(ema), snapshot(ema=ema))
        assert same(read_weights(tmp_path / str(ema)), {"w": torch.full((4,), expected)})


def test_tied_weights_and_views_are_saved_apart(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    tied = nn.Parameter(torch.ones(2))
    write_checkpoint(tmp_path / "step", Snapshot({"a": tied, "b": tied, "c": whole.t(), "d": whole[0]}, {}, {}))
    back = read_checkpoint(tmp_path / "step").weights
    assert same(back, {"a": torch.ones(2), "b": torch.ones(2), "c": whole.t().contiguous(), "d": whole[0].clone()})


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.1, 0.3, 0.2], 2),
        ("min", [0.1, 0.3, 0.2], 1),
        ("max", [0.1, 0.3, 0.3, 0.3], 2),
        ("min", [0.3, 0.1, 0.1], 2),
        ("max", [0.1, None, 0.05], 1),
        ("max", [None, None], None),
    ],
)
def test_best_is_the_earliest_of_the_best_and_last_the_newest(mode, values, best, tmp_path):
    keep = keeper(tmp_path, mode=mode)
    save_all(keep, values)
    assert (points_to(keep, "best"), points_to(keep, "last")) == (best, len(values))
    assert keep.best == (keep.folder / "best" if best else None)
    if best:
        assert float(read_weights(keep.folder / "best")["w"][0]) == -best


@pytest.mark.parametrize(
    ("keep_best", "keep_last", "expected"),
    [
        (0, True, {5, 6}),  # the one before the last, in case the last is damaged
        (1, True, {3, 5, 6}),
        (2, True, {3, 5, 6}),
        (9, True, {1, 2, 3, 4, 5, 6}),
        (1, False, {3}),
        (2, False, {3, 5}),
        (0, False, set()),
    ],
)
def test_save_top_k_and_save_last_decide_the_checkpoints_kept(keep_best, keep_last, expected, tmp_path):
    keep = keeper(tmp_path, keep_best, keep_last)
    save_all(keep, [0.1, 0.2, 0.9, 0.3, 0.5, 0.4])
    assert kept(keep) == expected
    assert points_to(keep, "best") == (3 if keep_best else None)
    assert points_to(keep, "last") == (6 if keep_last else None)
    assert [name for _, name in keep.ranking] == [f"step-{n:08d}" for n in (3, 5, 6, 4, 2, 1)][:keep_best]


def test_of_equal_checkpoints_the_earlier_is_kept(tmp_path):
    keep = keeper(tmp_path, keep_best=2, keep_last=False)
    save_all(keep, [0.5, 0.5, 0.5])
    assert kept(keep) == {1, 2}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_of_equal_values_the_smaller_loss_is_the_best(mode, tmp_path):
    keep = keeper(tmp_path, mode=mode)
    for step, loss in enumerate([0.4, 0.2, 0.3, 0.2], start=1):
        keep.save(snapshot(step), step, 0.5, loss=loss)
    assert points_to(keep, "best") == 2
    assert keep.ranking == [(0.5, "step-00000002")]
    keep.save(snapshot(5), 5, 0.6 if mode == "max" else 0.4, loss=9.0)  # a better value beats any loss
    assert points_to(keep, "best") == 5


def test_a_tie_with_smaller_loss_is_written_without_last(tmp_path):
    keep = keeper(tmp_path, keep_last=False)
    keep.save(snapshot(1), 1, 0.5, loss=0.3)
    keep.save(snapshot(2), 2, 0.5, loss=0.4)
    assert kept(keep) == {1}
    keep.save(snapshot(3), 3, 0.5, loss=0.2)
    assert kept(keep) == {3}


@pytest.mark.parametrize("older", [False, True], ids=["this version", "older checkpoints"])
def test_a_resumed_run_decides_ties_as_an_uninterrupted_one(older, tmp_path):
    """Checkpoints of before hold no losses of the ranking; each knows its own."""
    first = keeper(tmp_path)
    for step, loss in ((1, 0.3), (2, 0.4)):
        content = snapshot(step)
        content.state["train"] = {"metrics": {"val/loss": loss, "val/acc": 0.5}}
        first.save(content, step, 0.5, loss=loss)
    state = read_newest(first.folder)[1].state
    assert state["ranking_losses"] == {"step-00000001": 0.3}
    resumed = keeper(tmp_path)
    resumed.restore(state["ranking"], 2, None if older else state["ranking_losses"])
    resumed.save(snapshot(3), 3, 0.5, loss=0.35)
    assert points_to(resumed, "best") == 1
    resumed.save(snapshot(4), 4, 0.5, loss=0.25)
    assert points_to(resumed, "best") == 4


def test_a_ranked_checkpoint_of_unknown_loss_keeps_its_place(tmp_path):
    first = keeper(tmp_path)
    first.save(snapshot(1), 1, 0.5)
    resumed = keeper(tmp_path)
    resumed.restore(read_newest(first.folder)[1].state["ranking"], 1)
    resumed.save(snapshot(2), 2, 0.5, loss=0.1)
    assert points_to(resumed, "best") == 1


@pytest.mark.slow
def test_the_best_is_never_deleted_at_any_moment(tmp_path, monkeypatch):
    """Whatever is removed, `best` and `last` point at whole checkpoints before and after."""
    keep, removed = keeper(tmp_path, keep_best=2), []
    rename, remove = Path.replace, shutil.rmtree

    def watched(path, target):
        if path.name.startswith("step-"):
            linked = {points_to(keep, "best"), points_to(keep, "last")}
            assert int(path.name.removeprefix("step-")) not in linked
            removed.append(path)
        return rename(path, target)

    def aside(path, **options):
        assert not Path(path).name.startswith("step-"), "half of it could be left under its name"
        remove(path, **options)

    monkeypatch.setattr(Path, "replace", watched)
    monkeypatch.setattr(module.shutil, "rmtree", aside)
    rng = random.Random(0)
    for step in range(1, 41):
        value = rng.choice([None, rng.randrange(10) / 10])
        keep.save(snapshot(step), step, value)
        for link in ("best", "last"):
            if (keep.folder / link).is_symlink():
                read_checkpoint(keep.folder / link)
    assert len(removed) > 20


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_of_nan_is_ranked_last(mode, tmp_path):
    """Wherever it comes among the others; every comparison with it is False."""
    keep = keeper(tmp_path, keep_best=3, mode=mode)
    save_all(keep, [0.2, float("nan"), 0.5, 0.3])
    assert [value for value, _ in keep.ranking] == sorted([0.2, 0.5, 0.3], reverse=mode == "max")
    first = keeper(tmp_path / "nan", mode=mode)
    save_all(first, [float("nan"), 0.4])
    assert points_to(first, "best") == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_choose_no_best(value, tmp_path):
    """The first epoch would be the best, and its model the one that is tested."""
    keep = keeper(tmp_path)
    save_all(keep, [value, value, value])
    assert keep.best is None
    assert points_to(keep, "last") == 3


def test_the_ranking_is_restored_after_a_restart(tmp_path):
    first = keeper(tmp_path)
    save_all(first, [0.2, 0.9, 0.3])
    second = keeper(tmp_path)
    second.restore(read_checkpoint(first.folder / "last").state["ranking"], points_to(first, "last"))
    second.save(snapshot(4), 4, 0.5)
    assert (points_to(second, "best"), points_to(second, "last")) == (2, 4)
    assert kept(second) == {2, 3, 4}


@pytest.mark.row(2)
def test_restart_relinks_best_to_checkpoint_of_a_killed_save(tmp_path, monkeypatch):
    keep, link = keeper(tmp_path), module._link
    keep.save(snapshot(1), 1, 0.5)

    def killed_at_best(path, name):
        if path.name == "best":
            raise KeyboardInterrupt
        link(path, name)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_link", killed_at_best)
        with pytest.raises(KeyboardInterrupt):
            keep.save(snapshot(2), 2, 0.9)
    assert (points_to(keep, "last"), points_to(keep, "best")) == (2, 1)
    reopened = keeper(tmp_path)
    reopened.restore(read_checkpoint(keep.folder / "last").state["ranking"], points_to(keep, "last"))
    reopened.relink()
    assert points_to(reopened, "best") == 2


def test_leftovers_of_a_killed_save_are_removed_by_the_next(tmp_path):
    keep = keeper(tmp_path)
    keep.folder.mkdir()
    for name in (".step-00000001.123.tmp", ".step-00000001.123.old"):
        (keep.folder / name).mkdir()
        (keep.folder / name / "model.safetensors").write_bytes(b"half")
    keep.save(snapshot(), 2, 0.5)
    assert sorted(path.name for path in keep.folder.iterdir()) == ["best", "last", "step-00000002"]


@pytest.mark.row(1)
def test_leftovers_of_a_killed_process_of_same_pid_are_harmless(tmp_path):
    """In a container every run may be process 1."""
    keep = keeper(tmp_path)
    keep.save(snapshot(1), 1, 0.5)
    for name in (f".step-00000001.{os.getpid()}.old", f".step-00000002.{os.getpid()}.tmp", ".step-00000001.old"):
        (keep.folder / name / "model.safetensors").parent.mkdir()
        (keep.folder / name / "model.safetensors").write_bytes(b"half")
    keep.save(snapshot(9), 1, 0.6)
    keep.save(snapshot(2), 2, 0.7)
    assert float(read_checkpoint(keep.folder / "last").weights["w"][0]) == 2
    assert sorted(path.name for path in keep.folder.iterdir()) == ["best", "last", "step-00000001", "step-00000002"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    keep = keeper(tmp_path)
    keep.save(snapshot(1), 1, 0.5)
    keep.save(snapshot(2), 1, 0.6)
    assert float(read_checkpoint(keep.folder / "best").weights["w"][0]) == 2
    assert keep.ranking == [(0.6, "step-00000001")]


def test_an_interrupted_run_is_kept_though_last_ones_are_not(tmp_path):
    keep = keeper(tmp_path, keep_last=False)
    save_all(keep, [0.5, 0.3])
    keep.save(snapshot(3), 3, None, keep=True)
    assert (points_to(keep, "best"), points_to(keep, "last")) == (1, 3)
    assert kept(keep) == {1, 3}


@pytest.mark.parametrize("ends", ["a later save", "the end of the run"])
def test_the_checkpoint_of_an_interruption_is_not_last_for_ever(ends, tmp_path):
    keep = keeper(tmp_path, keep_last=False)
    save_all(keep, [0.5, 0.3])
    keep.save(snapshot(3), 3, None, keep=True)
    if ends == "a later save":
        keep.save(snapshot(4), 4, 0.6)
    else:
        keep.finish()
    best = 4 if ends == "a later save" else 1
    assert (points_to(keep, "best"), points_to(keep, "last")) == (best, None)
    assert kept(keep) == {best}


def test_the_end_of_a_run_keeps_the_last_where_it_is_wanted(tmp_path):
    keep = keeper(tmp_path)
    save_all(keep, [0.5, 0.3, 0.2])
    keep.finish()
    assert (points_to(keep, "best"), points_to(keep, "last"), kept(keep)) == (1, 3, {1, 2, 3})


# --- what is refused


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != "manifest.json")


@pytest.mark.row(3)
@pytest.mark.parametrize("which", range(3), ids=["ema", "model", "state"])
def test_a_flipped_bit_anywhere_is_found_and_the_file_named(which, tmp_path):
    write_checkpoint(tmp_path / "step", snapshot(size=50))
    path = files_of(tmp_path / "step")[which]
    content = path.read_bytes()
    rng = random.Random(which)
    for offset in [0, len(content) - 1, *rng.sample(range(len(content)), 20)]:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        for read in (read_checkpoint, read_weights):
            with pytest.raises(EffbenchError, match=rf"{path.name} is missing or damaged"):
                read(tmp_path / "step")
    path.write_bytes(content)
    read_checkpoint(tmp_path / "step")


@pytest.mark.row(4)
@pytest.mark.parametrize("percent", [0, 1, 50, 99])
@pytest.mark.parametrize("which", range(3), ids=["ema", "model", "state"])
def test_a_file_cut_short_is_named(which, percent, tmp_path):
    write_checkpoint(tmp_path / "step", snapshot(size=50))
    path = files_of(tmp_path / "step")[which]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * percent // 100])
    with pytest.raises(EffbenchError, match=rf"{path.name} is missing or damaged"):
        read_checkpoint(tmp_path / "step")


def test_a_missing_file_is_named(tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    (tmp_path / "step" / "state.pt").unlink()
    with pytest.raises(EffbenchError, match=r"state\.pt is missing or damaged"):
        read_checkpoint(tmp_path / "step")


def test_a_file_that_the_manifest_does_not_vouch_for_is_not_read(tmp_path):
    write_checkpoint(tmp_path / "step", snapshot(ema=False))
    write_checkpoint(tmp_path / "other", snapshot(9))
    shutil.copy(tmp_path / "other" / "ema.safetensors", tmp_path / "step")
    assert read_checkpoint(tmp_path / "step").ema == {}
    assert same(read_weights(tmp_path / "step"), snapshot().weights)


MANIFESTS = ["", "{", "[]", '{"format": 2}', '{"format": 2, "sha256": 3}', '{"format": 2, "sha256": {}}', "null"]


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_damaged_manifest_is_named(text, tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    (tmp_path / "step" / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match=r"manifest\.json is .*damaged"):
        read_checkpoint(tmp_path / "step")


def test_a_missing_manifest_is_named(tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    (tmp_path / "step" / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json is missing or damaged"):
        read_checkpoint(tmp_path / "step")


@pytest.mark.row(3)
def test_bit_flip_in_the_manifest_is_harmless_or_detected(tmp_path):
    """A space that becomes another space tells the same; whatever else would be read differently is damage."""
    write_checkpoint(tmp_path / "step", snapshot(), {"data": "ab", "step": 12})
    path = tmp_path / "step" / "manifest.json"
    content = path.read_bytes()
    told, rng, found = read_manifest(tmp_path / "step"), random.Random(0), 0
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with suppress(EffbenchError):
            assert read_manifest(tmp_path / "step") == told
            continue
        found += 1
    assert found > 0.9 * len(content)


def signed(manifest: dict) -> dict:
    """With the digest that its content has, computed here."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return content | {"digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


@pytest.mark.row(22)
@pytest.mark.parametrize("version", [1, 3, 99, "2", None, 2.5])
def test_other_checkpoint_format_is_refused_without_fallback(version, tmp_path):
    """An older checkpoint must not quietly stand in for one that a newer effbench wrote."""
    for step in (1, 2):
        write_checkpoint(tmp_path / f"step-{step:08d}", snapshot())
    path = tmp_path / "step-00000002" / "manifest.json"
    path.write_text(json.dumps(signed({**json.loads(path.read_text()), "format": version})))
    with pytest.raises(
        ConfigError, match=rf"format {shown(version)}; this effbench reads 2. Use the effbench"
    ) as caught:
        read_checkpoint(path.parent)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="this effbench reads 2"):
        read_newest(tmp_path)


@pytest.mark.row(22)
@pytest.mark.parametrize("version", [0, 1])
def test_undigested_manifest_of_old_format_is_refused_by_version(version, tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    path = tmp_path / "step" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    path.write_text(json.dumps({**manifest, "format": version}))
    with pytest.raises(ConfigError, match=f"format {version}; this effbench reads 2"):
        read_checkpoint(tmp_path / "step")


@pytest.mark.row(22)
@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b"])
def test_manifest_naming_files_outside_its_folder_is_refused(name, tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    path = tmp_path / "step" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sha256"][name] = "0" * 64
    path.write_text(json.dumps(signed(manifest)))
    with pytest.raises(EffbenchError, match="missing or damaged"):
        read_checkpoint(tmp_path / "step")


@pytest.mark.row(58)
@pytest.mark.parametrize("left_out", ["model.safetensors", "state.pt"])
def test_a_manifest_that_lists_no_digest_of_a_file_is_damaged(left_out, tmp_path):
    write_checkpoint(tmp_path / "step", snapshot())
    path = tmp_path / "step" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"][left_out]
    path.write_text(json.dumps(signed(manifest)))
    with pytest.raises(DamagedError, match=f"lists no sha256 of {left_out}"):
        read_checkpoint(tmp_path / "step")
    path.write_text(json.dumps(signed({**manifest, "sha256": {}})))
    with pytest.raises(DamagedError, match=r"lists no sha256 of model\.safetensors, state\.pt"):
        read_manifest(tmp_path / "step")


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"no checkpoint at {tmp_path / 'none'}"):
        read_checkpoint(tmp_path / "none")
    with pytest.raises(DamagedError, match=r"manifest\.json is missing"):
        read_checkpoint(tmp_path)


# --- the newest that is whole


def three(folder: Path) -> Checkpoints:
    """Three checkpoints, the first of which is the best."""
    keep = keeper(folder)
    save_all(keep, [0.9, 0.2, 0.3])
    return keep


def damage(checkpoint: Path, file: str, how: str = "flipped") -> Path:
    """A bit in the middle of a file flipped, or the file cut there, or removed."""
    path = checkpoint / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if how != "gone":
        path.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    return path


FILES = ["model.safetensors", "ema.safetensors", "state.pt", "manifest.json"]


@pytest.mark.row(3, 4)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_newest_checkpoint_is_named_and_previous_is_read(how, file, tmp_path):
    keep = three(tmp_path)
    path, content, complaints = read_newest(keep.folder)
    assert (path.name, float(content.weights["w"][0]), complaints) == ("step-00000003", 3.0, [])
    spoilt = damage(keep.folder / "step-00000003", file, how)
    path, content, complaints = read_newest(keep.folder)
    assert (path.name, float(content.weights["w"][0])) == ("step-00000002", 2.0)
    assert [str(spoilt) in text for text in complaints] == [True]


@pytest.mark.row(3)
def test_two_damaged_in_a_row_are_both_named(tmp_path):
    keep = three(tmp_path)
    spoilt = [damage(keep.folder / f"step-0000000{n}", "state.pt") for n in (3, 2)]
    path, _, complaints = read_newest(keep.folder)
    assert path.name == "step-00000001"
    assert all(str(file) in text for file, text in zip(spoilt, complaints, strict=True))


@pytest.mark.row(3)
def test_if_all_checkpoints_are_damaged_each_is_named(tmp_path):
    keep = three(tmp_path)
    spoilt = [damage(keep.folder / f"step-0000000{n}", FILES[n]) for n in (1, 2, 3)]
    with pytest.raises(EffbenchError, match="no checkpoint is whole") as caught:
        read_newest(keep.folder)
    assert all(str(path) in str(caught.value) for path in spoilt)


def test_a_folder_without_any_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no checkpoint"):
        read_newest(tmp_path)


@pytest.mark.row(3)
def test_links_and_retention_follow_the_fallback_checkpoint(tmp_path):
    """Step 3 was the best and is damaged: from step 2 on it must be neither the best nor an heir."""
    keep = keeper(tmp_path)
    save_all(keep, [0.1, 0.2, 0.9])
    damage(keep.folder / "step-00000003", "model.safetensors")
    reopened = keeper(tmp_path)
    reopened.restore(read_newest(keep.folder)[1].state["ranking"], 2)
    reopened.relink()
    assert points_to(reopened, "best") == 2
    reopened.save(snapshot(3), 3, 0.15)
    assert (points_to(reopened, "best"), points_to(reopened, "last")) == (2, 3)
    assert kept(reopened) == {2, 3}
    assert float(read_checkpoint(reopened.folder / "last").weights["w"][0]) == 3


@pytest.mark.row(3)
def test_damaged_checkpoint_does_not_count_towards_the_two_kept(tmp_path):
    keep = keeper(tmp_path, keep_best=0)
    save_all(keep, [None] * 9)
    damage(keep.folder / "step-00000009", "state.pt")
    reopened = keeper(tmp_path, keep_best=0)
    reopened.restore(read_newest(keep.folder)[1].state["ranking"], 2)
    reopened.relink()
    reopened.save(snapshot(8.5), 8, None)
    assert kept(reopened) >= {8}
    assert read_newest(reopened.folder)[0].name == "step-00000008"


# --- weights of another model


@pytest.mark.row(20)
def test_weights_of_another_model_are_refused_by_key_and_shapes():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.wider, self.mine = nn.Linear(2, 3), nn.Linear(3, 5), nn.Linear(1, 1, bias=False)

    other = {
        "shared.weight": torch.zeros(3, 2), "shared.bias": torch.zeros(3), "wider.weight": torch.zeros(4, 3),
        "wider.bias": torch.zeros(4), "yours": torch.zeros(7),
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_weights(Other(), other)
    head, *lines = str(caught.value).splitlines()
    assert head == "the weights do not fit the model:"
    assert [line.strip() for line in lines] == [
        "wider.weight: checkpoint (4, 3), model (5, 3)",
        "wider.bias: checkpoint (4,), model (5,)",
        "mine.weight: checkpoint none, model (1, 1)",
        "yours: checkpoint (7,), model none",
    ]


@pytest.mark.row(20)
def test_a_long_list_of_misfits_is_cut_and_counted():
    with pytest.raises(ConfigError) as caught:
        load_weights(nn.Linear(1, 1), {f"key{number}": torch.zeros(1) for number in range(30)})
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "and 22 more"


@pytest.mark.row(41)
def test_a_state_with_code_in_it_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sentinel",))

    write_checkpoint(tmp_path / "step", snapshot())
    path = tmp_path / "step" / "state.pt"
    torch.save({"optimizer": Hostile()}, path)
    manifest = tmp_path / "step" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["sha256"]["state.pt"] = checkpoint_files.sha256_of(path)
    manifest.write_text(json.dumps(signed(content)))
    with pytest.raises(ConfigError, match=r"state\.pt holds more than tensors and plain values: refused"):
        read_checkpoint(tmp_path / "step")
    assert not (tmp_path / "sentinel").exists()


# --- interrupted and failing writes


@pytest.mark.row(2)
@pytest.mark.parametrize("name", ["_write_tensors", "sha256_of", "_sync_file", "sync_folder", "_link"])
def test_failed_write_keeps_old_checkpoint_and_leaves_no_partial(name, tmp_path, monkeypatch):
    keep = keeper(tmp_path)
    keep.save(snapshot(1), 1, 0.5)

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files if hasattr(checkpoint_files, name) else module, name, fail)
        with pytest.raises((OSError, EffbenchError), match="Input/output"):
            keep.save(snapshot(2), 2, 0.6)
    assert float(read_checkpoint(keep.folder / "last").weights["w"][0]) == 1
    assert float(read_checkpoint(keep.folder / "best").weights["w"][0]) == 1
    assert not list(keep.folder.glob(".*"))


@pytest.mark.row(2)
def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    """write, fsync(file), fsync(folder), rename, fsync(parent): the order that survives a power loss."""
    events = []
    rename = Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), rename(self, to))[1])
    write_checkpoint(tmp_path / "step", snapshot())
    renamed = events.index("rename")
    files = {"model.safetensors", "ema.safetensors", "state.pt", "manifest.json"}
    assert files <= set(events[:renamed])
    assert events[renamed - 1].startswith(".step.")
    assert events[renamed + 1 :] == [tmp_path.name]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def big(part: str) -> Snapshot:
    """2 MB in one of the three files, next to nothing in the others."""
    large, small = {"w": torch.ones(500_000)}, {"w": torch.ones(10)}
    return Snapshot(**{name: dict(large if name == part else small) for name in ("weights", "ema", "state")})


def refused_for_space(keep: Checkpoints, content: Snapshot) -> str:
    """The message; the checkpoint of step 1 is then all there is, and whole."""
    with pytest.raises(EffbenchError, match="no space at") as caught:
        keep.save(content, 2, 0.9)
    assert sorted(path.name for path in keep.folder.iterdir()) == ["best", "last", "step-00000001"]
    assert same(vars(read_checkpoint(keep.folder / "last"))["weights"], snapshot(1).weights)
    assert keep.ranking == [(0.5, "step-00000001")]
    return str(caught.value)


@pytest.mark.process
@pytest.mark.row(5)
@pytest.mark.parametrize("part", ["weights", "ema", "state"])
def test_a_full_disk_is_named_and_the_old_checkpoint_stays(part, small_disk):
    keep = keeper(small_disk)
    keep.save(snapshot(1), 1, 0.5)
    message = refused_for_space(keep, big(part))
    assert f"no space at {keep.folder / 'step-00000002'}, needs 2 MB" in message
    assert "Earlier files are kept" in message
    keep.save(snapshot(2), 2, 0.9)  # what was half written has made room again
    assert points_to(keep, "best") == 2


@pytest.mark.process
@pytest.mark.row(5)
def test_a_disk_without_room_for_one_more_file_is_named(small_disk):
    keep = keeper(small_disk)
    keep.save(snapshot(1), 1, 0.5)
    in_use = len([*small_disk.rglob("*")]) + 1
    subprocess.run(["mount", "-o", f"remount,nr_inodes={in_use + 1}", str(small_disk)], check=True)
    (small_disk / "the last one").touch()
    assert f"no space at {keep.folder / 'step-00000002'}" in refused_for_space(keep, snapshot(2))


@pytest.mark.row(5)
@pytest.mark.parametrize("part", ["weights", "ema", "state"])
def test_a_limit_on_file_sizes_is_named_too(part, tmp_path):
    keep = keeper(tmp_path)
    keep.save(snapshot(1), 1, 0.5)
    with largest_file(100_000):
        message = refused_for_space(keep, big(part))
    assert f"no space at {keep.folder / 'step-00000002'}, needs 2 MB" in message
