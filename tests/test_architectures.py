"""docs/architectures.md: every model of conf/model is in the table, and each file passed the gate or has a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import export_table
from benchmarks.export_page import CHECKED, page
from benchmarks.export_table import ON_DATA, PAGE, SIZES, TOLERANCE, Case, built, cases, checked, is_done, measure
from effbench.export.portable import Portable
from tests.fitting import IMAGES, takes


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return export_table.read()


def test_every_model_of_the_table_is_there_at_all_sizes(kept: dict[str, Any]) -> None:
    models = {entry["model"] for entry in kept["entries"].values() if not entry["options"]}
    assert len(models) >= 24
    for model in models:
        entries = [entry for entry in kept["entries"].values() if entry["model"] == model and not entry["options"]]
        assert len(entries) == (1 if model in ON_DATA else len(SIZES)), model
        assert all(entry["formats"].keys() == set(CHECKED) for entry in entries), model


def test_every_file_passed_the_gate_or_has_a_reason(kept: dict[str, Any]) -> None:
    for key, entry in kept["entries"].items():
        for file in entry["formats"].values():
            if "reason" in file:
                assert file["reason"].strip(), key
                continue
            assert file["relative"] <= TOLERANCE, key
            assert file["batch_sizes"] == [1, 2, 7], key
            assert file["agreeing"] == file["samples"] == 9, key
        if "spread" in entry:
            assert entry["spread"] >= export_table.LEAST_SPREAD, key


def test_page_is_what_the_json_gives(kept: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(kept)


def test_models_without_images_are_those_that_take_none() -> None:
    assert not [model for model in ON_DATA if takes(model, IMAGES)]
    measured = {entry["model"] for entry in export_table.read()["entries"].values()}
    assert not [model for model in measured - set(ON_DATA) if not takes(model, IMAGES)]


def test_a_file_counts_as_done_at_its_versions_only() -> None:
    case, passed = Case("cnn", 32), {"versions": export_table.versions("onnx"), "processor_s": 1.0}

    def content(file: dict[str, Any]) -> dict[str, Any]:
        return {"entries": {case.key: {"formats": {"onnx": file}}}}

    assert is_done(content(passed), case, "onnx")
    assert not is_done(content(passed), case, "openvino")
    assert not is_done(content({**passed, "versions": {"torch": "1"}}), case, "onnx")
    assert not is_done(content({"versions": passed["versions"], "reason": "no"}), case, "onnx")


def test_each_file_keeps_the_machine_it_was_made_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of before has one machine for all; the next file is made on another one."""
    first, second = Case("linear", 32), Case("linear", 224)
    passed = {"processor_s": 1.0, "bytes": 10, "relative": 0.0, "free_length": None}

    def entry(case: Case) -> dict[str, Any]:
        return {"model": case.model, "options": [], "input": f"3 x {case.pixels} x {case.pixels}"}

    def cpu(name: str) -> dict[str, Any]:
        return {"cpu": name, "cpu_capability": "AVX2", "threads": 1}

    old = {**passed, "versions": export_table.versions("onnx")}
    table = {"machine": cpu("Z80"), "entries": {first.key: {**entry(first), "formats": {"onnx": old}}}}
    (tmp_path / "table.json").write_text(json.dumps(table))
    for name, value in {
        "DATA": tmp_path / "table.json", "PAGE": tmp_path / "table.md", "environment": lambda: cpu("6502"),
        "built": lambda _: None, "entry_of": lambda case, _: entry(case), "checked": lambda *_: dict(passed),
    }.items():  # fmt: skip
        monkeypatch.setattr(export_table, name, value)
    for case in (first, second):
        measure(case, ["onnx"])
    kept = json.loads((tmp_path / "table.json").read_text())
    files = {key: each["formats"]["onnx"] for key, each in kept["entries"].items()}
    assert files[first.key] == {**old, "machine": cpu("Z80")}  # kept, and not made again
    assert files[second.key]["machine"] == cpu("6502")
    text = (tmp_path / "table.md").read_text()
    assert "- 1 thread of Z80 (AVX2): `linear`, 3 x 32 x 32 (onnx).\n" in text
    assert "- 1 thread of 6502 (AVX2): `linear`, 3 x 224 x 224 (onnx).\n" in text
    kept["entries"][second.key]["formats"]["onnx"]["versions"] = {"torch": "9.9"}
    assert f"torch {export_table.versions('onnx')['torch']} and 9.9" in page(kept)


def test_large_models_come_last_and_a_name_limits_them() -> None:
    order = [case.model for case in cases() if not case.options]
    assert order[-4:] == ["vit_b", "vit_b", "vit_l", "vit_l"]
    assert [case.key for case in cases(["cnn"])] == ["cnn 32 px", "cnn 224 px"]


@pytest.mark.proof
@pytest.mark.slow
def test_nothing_in_an_untrained_model_is_neutral() -> None:
    """A file without batch norms' statistics, or without a head of zeros, would otherwise give the same answers."""
    for name in ("resnet18", "vit_tiny"):
        model = built(Case(name, 32)).model
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            assert float((norm.running_mean.abs() > 1e-3).float().mean()) > 0.9
            assert float(((norm.running_var - 1).abs() > 1e-3).float().mean()) > 0.9
        assert all(float(weight.detach().std()) > 0 for weight in model.parameters())


@pytest.mark.proof
@pytest.mark.slow
def test_a_wrong_file_gets_a_reason_in_place_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    found = built(Case("linear", 32))
    assert checked(found, "onnx")["relative"] < 1e-6
    whole = found.whole

    class Off(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answers: torch.Tensor = whole(images) + 0.01
            return answers

    monkeypatch.setattr(export_table.Built, "whole", property(lambda _: Portable(Off(), nn.Identity()).eval()))
    wrong = checked(found, "onnx")
    assert "does not give the model's answers" in wrong["reason"]
    assert "bytes" not in wrong
