"""Text runs in 8 bits: embeddings, LSTMs and products become integers, and the record says what the file answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import effbench
from effbench import build, cli
from effbench.run.run import Run
from tests import texts

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

pytestmark = [pytest.mark.proof, pytest.mark.process, pytest.mark.slow]

NEAR = 1e-3  # ranges are taken from a whole batch, and by thread: the same samples in other batches differ by so much
FEW = ["rounds=3", "seconds=0.05", "backends=onnxruntime"]
WORDS = {
    "lstm_attention": [*texts.LSTM, "data.tokenizer=bytes", "data.max_length=64", "model.dim=32", "model.hidden=32"],
    "gpt": [*texts.GPT, "model.dim=32"],
}
Made = tuple[Run, Path, dict[str, Any]]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Model -> (the run, the folder of its result in 8 bits, the record of that)."""
    scratch = tmp_path_factory.mktemp("texts")
    files = {"lstm_attention": texts.write_texts(scratch, 300), "gpt": texts.write_text(scratch, 300)}
    made = {}
    for name, words in WORDS.items():
        own = [*words, f"data.file='{files[name]}'", "trainer.max_epochs=2", "optimizer.lr=3e-3"]
        run = effbench.train(own, scratch / name)
        small = scratch / f"{name} small"
        assert cli.main(["compress", str(run.folder), "method=quantize", *FEW, f"output={small}"]) == 0
        made[name] = (run, small, json.loads((small / "compression.json").read_text()))
    return made


def file_of(made: Made) -> Path:
    return made[1] / "export" / made[2]["file"]


def real_weights(file: Path) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Name of each weight in 8 bits -> what it stands for, and its scale."""
    kept = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer}
    found = {}
    for name in (name.removesuffix("_quantized") for name in kept if name.endswith("_quantized")):
        integers, scale = kept[f"{name}_quantized"].astype(np.int64), kept[f"{name}_scale"]
        found[name] = ((integers - kept[f"{name}_zero_point"]) * scale, scale)
    return found


def is_kept(weight: torch.Tensor, found: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> bool:
    """Whether an entry of the file is this weight, each value rounded to the next step of its scale, or the one after
    it: on processors whose products of 8 bits saturate a weight has 7 bits.
    """
    wanted = weight.detach().numpy()
    return any(
        real.squeeze().shape == wanted.shape and bool((np.abs(real.squeeze() - wanted) <= 1.01 * scale).all())
        for real, scale in found.values()
    )


def test_embedding_and_both_lstms_become_integers(quantized: dict[str, Made]) -> None:
    made = quantized["lstm_attention"]
    nodes = [node.op_type for node in onnx.load(file_of(made)).graph.node]
    assert (nodes.count("DynamicQuantizeLSTM"), nodes.count("LSTM")) == (2, 0)
    model, found = made[0].model(), real_weights(file_of(made))
    assert is_kept(model.embedding.weight, found)
    for layer in (*model.forwards, *model.backwards):
        for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
            i, f, g, o = weight.chunk(4)
            assert is_kept(torch.cat([i, o, f, g]).T, found), "the gates in the order of ONNX"


def test_embedding_and_every_product_of_gpt_become_integers(quantized: dict[str, Made]) -> None:
    made = quantized["gpt"]
    model, found = made[0].model(), real_weights(file_of(made))
    [block] = model.blocks
    assert is_kept(model.embedding.weight, found)
    layers = (block.attention.qkv, block.attention.out, block.mlp[0], block.mlp[2], model.embedding)
    assert all(is_kept(layer.weight.T, found) for layer in layers)
    assert len(found) == 6, "the table, and as the output layer"


@pytest.mark.parametrize("name", WORDS)
def test_a_text_run_in_8_bits_has_half_the_file_or_less(name: str, quantized: dict[str, Made]) -> None:
    details = quantized[name][2]["details"]
    assert (details["scheme"], details["floating"]) == ("dynamic", [])
    size = file_of(quantized[name]).stat().st_size
    assert details["bytes"] == size < 0.5 * details["float32_bytes"]


@pytest.mark.parametrize("name", WORDS)
def test_metrics_of_a_text_run_in_8_bits_are_onnxruntimes(name: str, quantized: dict[str, Made]) -> None:
    run, small, record = quantized[name]
    test = build.splits(run.config).test
    assert test is not None
    session = ort.InferenceSession(str(file_of(quantized[name])), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    [answers] = session.run(None, {given.name: test.inputs.long().numpy()})
    logits, labels = torch.from_numpy(answers).double(), test.labels.long()
    if name == "gpt":
        used = labels > 0  # a token is a byte
        nats = -logits.log_softmax(2).gather(2, labels[..., None]).squeeze(2)[used]
        wanted = {"loss": float(nats.mean()), "bits_per_byte": float(nats.mean()) / math.log(2)}
    else:
        loss = torch.nn.functional.cross_entropy(logits, labels)
        wanted = {"loss": float(loss), "acc": float((logits.argmax(1) == labels).double().mean())}
    assert record["after"]["metrics"] == pytest.approx(wanted, rel=NEAR)
    assert record["test"]["samples"] == len(labels)
    before, after = (effbench.evaluate_run(folder) for folder in (run.folder, small))
    assert {key: after[f"test/{key}"] for key in wanted} == pytest.approx(wanted, rel=NEAR)
    assert record["before"]["metrics"] == pytest.approx({key: before[f"test/{key}"] for key in wanted}, rel=1e-4)
    assert record["before"]["metrics"]["loss"] != pytest.approx(wanted["loss"], rel=1e-6)
