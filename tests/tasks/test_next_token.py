"""task=next_token: the loss a token, bits per byte, sampling; one small run through every verb."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import effbench
from effbench import cli
from effbench.config.compose import compose
from effbench.data.modality import Settings
from effbench.data.splits import Split, Splits
from effbench.data.text.text_file import text_file
from effbench.data.text.windows import Windows
from effbench.errors import ConfigError, DataError
from effbench.export.opening import open_export, output_sides, read_record
from effbench.metrics import Accuracy, BitsPerByte
from effbench.models.gpt import GPT
from effbench.run.run import Run
from effbench.run.run_or_file import load_run_or_file
from effbench.schedulers import Constant
from effbench.tasks.classification import Classification
from effbench.tasks.generation import NotFiniteError, Sampling, continued, drawn
from effbench.tasks.losses import CrossEntropy
from effbench.tasks.next_token import NextToken
from effbench.training.callbacks import Callbacks
from effbench.training.distributed import DistributedContext
from effbench.training.evaluation import evaluate
from effbench.training.precision import Precision
from effbench.training.state import Limits
from effbench.training.trainer import Trainer
from tests.texts import CONTEXT, write_text

B, T, V = 3, 5, 7
GENERATOR = torch.Generator().manual_seed(0)
OUTPUTS = torch.randn(B, T, V, generator=GENERATOR)
TARGETS = torch.randint(1, V, (B, T), generator=GENERATOR)
BYTES = [0, 1, 2, 3, 4, 5, 6]


def task(**options: Any) -> NextToken:
    return NextToken(CrossEntropy(), [BitsPerByte(), Accuracy()], V, BYTES, **options)


def test_the_loss_is_torchs_mean_over_tokens() -> None:
    own = task()
    rows = own.rows(OUTPUTS, TARGETS, full=True)
    expected = F.cross_entropy(OUTPUTS.transpose(1, 2), TARGETS)
    torch.testing.assert_close(own.loss.summed(*rows) / own.loss.divisor(B * T, None), expected)
    torch.testing.assert_close(own.plain_loss(*rows) / (B * T), expected)


class Fixed(nn.Module):
    """Returns the outputs of the rows that its inputs name."""

    def forward(self, inputs: Tensor) -> Tensor:
        return OUTPUTS[inputs[:, 0]]


def test_metrics_over_uneven_batches_count_each_token_once() -> None:
    from effbench.data.batches import Batch

    own, targets = task(), TARGETS.clone()
    targets[2, 2:] = 0  # the end of the text
    numbers = torch.arange(B)[:, None].expand(B, T)
    batches = [Batch(numbers[:1], targets[:1]), Batch(numbers[1:], targets[1:])]
    found = evaluate(Fixed(), batches, Precision(), DistributedContext(), own)
    used = targets > 0
    nats = -OUTPUTS.double().log_softmax(-1).gather(2, targets[..., None]).squeeze(2)[used]
    assert found["loss"] == pytest.approx(float(nats.mean()), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(float(nats.sum()) / int(targets[used].sum()) / math.log(2), rel=1e-6)
    assert found["acc"] == pytest.approx(float((OUTPUTS.argmax(-1) == targets)[used].double().mean()))


def test_targets_of_another_form_are_refused_and_the_words_named() -> None:
    images = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match=r"token numbers \(N, T\).* data=kjv and data=text_file data.file=FILE"):
        task().checked(Splits("toy", images, None, None, ("a",), "0" * 64))
    with pytest.raises(DataError, match="from 0 to 6; got 0 to 7"):
        task().targets_of("toy train", torch.tensor([[0, 7]]), V)


@pytest.mark.parametrize("words", [["loss=bce"], ["task.metrics=[macro_f1]"], ["task.length=-1"], ["task.prompt=''"]])
def test_parts_and_options_that_do_not_fit_are_refused(words: list[str]) -> None:
    from effbench import build

    with pytest.raises(ConfigError, match="task|loss"):
        build.check_options(compose(["data=kjv", "task=next_token", "model=gpt", *words]))


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tokens_are_drawn_by_temperature_and_top_k() -> None:
    logits, generator = torch.tensor([5.0, 1.0, 3.0, 2.0]), torch.Generator().manual_seed(0)

    def shares(sampling: Sampling, banned: tuple[int, ...] = (0,)) -> list[float]:
        found = [drawn(logits, sampling, banned, generator) for _ in range(2000)]
        return [found.count(token) / len(found) for token in range(4)]

    assert shares(Sampling(1, 0.0, None)) == [0, 0, 1, 0]
    assert shares(Sampling(1, 1e-9, None)) == [0, 0, 1, 0]
    assert shares(Sampling(1, 5.0, 1)) == [0, 0, 1, 0]
    expected = (logits[[2, 3]] / 2).softmax(0).tolist()
    assert shares(Sampling(1, 2.0, 2)) == pytest.approx([0, 0, *expected], abs=0.04)
    assert shares(Sampling(1, 1.0, None), ()) == pytest.approx(logits.softmax(0).tolist(), abs=0.04)


class Counts(nn.Module):
    """Gives the token after the last one all the probability; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(1)), list[list[int]]()

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens[0].tolist())
        return 100.0 * F.one_hot((tokens + 1) % V, V)


def test_a_continuation_follows_the_last_tokens_in_the_context() -> None:
    model = Counts()
    assert continued(model, [3, 1, 2], 3, Sampling(4, 1.0, None), seed=0) == [3, 1, 2, 3, 4, 5, 6]
    assert model.seen == [[3, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_token_is_drawn_from_numbers_that_are_not_finite(value: float, temperature: float) -> None:
    generator, sampling = torch.Generator().manual_seed(0), Sampling(1, temperature, 2)
    with pytest.raises(NotFiniteError, match=r"logits of the next token are not finite.*lower optimizer\.lr"):
        drawn(torch.tensor([0.0, value, 1.0]), sampling, (), generator)
    with pytest.raises(NotFiniteError):
        drawn(torch.full((3,), -math.inf), sampling, (), generator)
    assert drawn(torch.tensor([value, -math.inf, 1.0]), sampling, (0,), generator) == 2


class Equal(nn.Module):
    """Gives all V tokens the same logit; keeps what it saw."""

    def __init__(self, V: int) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(V)), list[list[int]]()

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens[0].tolist())
        return self.weight.expand(*tokens.shape, -1)


@pytest.mark.parametrize(
    ("text", "prompt", "begins", "said"),
    [
        ("abc" * 60, None, "a", "the sampled text begins with the first token of train"),
        ("ab\n" * 60, None, "\n", ""),
        ("abc" * 60, "aZ", "aZ", "task.prompt: 50.0 % of the tokens are not in the run's vocabulary"),
        ("abc" * 60, "b", "b", ""),
    ],
)
def test_a_sample_begins_with_what_training_has_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, prompt: str | None, begins: str, said: str
) -> None:
    """A text without line breaks has no number for one: the unknown token's row of the embedding is as it was drawn."""
    (tmp_path / "own.txt").write_text(text)
    data = text_file(str(tmp_path / "own.txt"), context=8, tokenizer="chars")
    kind = Windows.fit(data, Settings())
    own, model = task(prompt=prompt, length=3), Equal(kind.vocab_size)
    caplog.clear()
    with caplog.at_level("INFO"):
        sample = own.sample_text(model, kind, 0, data.train.inputs)
    assert sample is not None
    assert sample.startswith(begins)
    assert len(sample) == len(begins) + 3
    assert model.seen[0] == kind.tokenizer.encode(begins)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


# --- a run ------------------------------------------------------------------------------------------------------------

WORDS = [
    "data=text_file", "task=next_token", "model=gpt", "data.context=16", "model.dim=16", "model.depth=1",
    "model.heads=2", "trainer.max_epochs=2", "task.length=20", "device.threads=1", "data.batch_size=16",
    "scheduler=constant",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("next_token")
    (folder / "own.txt").write_text("".join(f"{row} and {row * row}.\n" for row in range(250)))
    return effbench.train([*WORDS, f"data.file='{folder / 'own.txt'}'"], folder / "run")


@pytest.mark.slow
def test_a_run_reports_bits_per_byte_tokens_and_a_text(run: Run) -> None:
    summary = run.summary
    assert summary["status"] == "completed"
    assert summary["best"]["metric"] == "val/bits_per_byte"
    assert summary["task"]["name"] == "next_token"
    metrics = summary["metrics"]
    assert metrics["val/bits_per_byte"] == pytest.approx(metrics["val/loss"] / math.log(2))
    assert summary["tokens_seen"] == summary["steps"] * 16 * 16
    assert "train/tokens_per_s" in run.metrics[0]
    sample = (run.folder / "samples.txt").read_text()
    assert sample == f"\n{run.continued(chr(10))}\n"


@pytest.mark.slow
def test_eval_is_the_mean_over_the_whole_text(run: Run) -> None:
    found = effbench.evaluate_run(run.folder, "val")
    text = (run.folder.parent / "own.txt").read_bytes()
    test = len(text) - round(0.1 * len(text))
    val = torch.tensor([byte + 1 for byte in text[test - round(0.1 * len(text)) : test]])
    model, nats = run.model(), 0.0
    with torch.no_grad():
        for start in range(0, len(val) - 1, 16):
            inputs, targets = val[start : min(start + 16, len(val) - 1)], val[start + 1 : start + 17]
            nats += float(F.cross_entropy(model(inputs[None])[0].double(), targets, reduction="sum"))
    assert found.keys() == {"val/loss", "val/bits_per_byte", "samples"}
    assert found["val/bits_per_byte"] == pytest.approx(nats / (len(val) - 1) / math.log(2), rel=1e-5)
    other = effbench.evaluate_run(run.folder, data_overrides={"file": str(run.folder.parent / "own.txt")})
    assert other["test/loss"] == run.summary["metrics"]["test/loss"]


@pytest.mark.slow
def test_predict_continues_texts_with_given_options(run: Run, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "prompts.txt").write_text("1 and\n2 and")
    command = ["predict", str(run.folder), str(tmp_path / "prompts.txt"), "--json", "length=9"]
    assert cli.main([*command, "temperature=0.5", "top_k=3", "seed=4"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["line"] for row in rows] == [1, 2]
    options = {"length": 9, "temperature": 0.5, "top_k": 3, "seed": 4}
    assert rows[0]["continuation"] == run.continued("1 and", **options)
    assert len(rows[0]["continuation"].encode()) >= 9
    themselves = [*command[:2], "text=1 and", "--text", "2 and", *command[3:], "temperature=0.5", "top_k=3", "seed=4"]
    assert cli.main(themselves) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["text"] for row in found] == ["1 and", "2 and"]
    assert [row["continuation"] for row in found] == [row["continuation"] for row in rows]
    assert cli.main([*command, "temperature=-1"]) == 2
    assert "temperature must be a number >= 0; got '-1'" in capsys.readouterr().err
    refused = [("", {}, "at least one character"), ("a", {"k": 1}, "option of continued 'k'")]
    for text, options, said in (
        *refused,
        ("a\ud800", {}, r"has a lone surrogate \(character 2\)"),
        ("a\0", {}, "a NUL"),
    ):
        with pytest.raises(ConfigError, match=said):
            run.continued(text, **options)


@pytest.mark.slow
def test_a_run_whose_weights_overflow_is_tested_and_completed(run: Run, tmp_path: Path, capsys: Any) -> None:
    """Its samples.txt is missing, which a warning says; `predict` names the texts that it cannot continue."""
    words = [word for word in WORDS if not word.startswith("trainer.max_epochs")]
    words += [f"data.file='{run.folder.parent / 'own.txt'}'", "trainer.max_steps=1", "optimizer.lr=1e30"]
    words += ["data.val_fraction=0", "early_stopping=off", "checkpoint.save_top_k=0"]
    diverged = effbench.train(words, tmp_path / "run")
    assert diverged.summary["status"] == "completed"
    assert any(text.startswith("samples.txt was not written: the model's") for text in diverged.summary["warnings"])
    assert not (diverged.folder / "samples.txt").exists()
    assert "test/loss" in diverged.summary["metrics"]
    (tmp_path / "prompts.txt").write_text("1 and\n2 and")
    capsys.readouterr()
    assert cli.main(["predict", str(diverged.folder), str(tmp_path / "prompts.txt"), "--json"]) == 1
    said = capsys.readouterr().err
    assert all(f"prompts.txt line {line}: the model's answer is not finite" in said for line in (1, 2))


@pytest.mark.slow
def test_memory_that_ends_in_sampling_fails_no_run(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    def fails(*_: Any) -> str:
        raise torch.OutOfMemoryError("out of memory\nwith details")

    monkeypatch.setattr(NextToken, "sample_text", fails)
    words = [word for word in WORDS if not word.startswith("trainer.max_epochs")]
    tested = effbench.train(
        [*words, f"data.file='{run.folder.parent / 'own.txt'}'", "trainer.max_steps=1"], tmp_path / "run"
    )
    assert tested.summary["status"] == "completed"
    assert "samples.txt was not written: out of memory" in tested.summary["warnings"]


@pytest.mark.slow
def test_predict_gives_probabilities_of_the_next_token(run: Run) -> None:
    chances = run.predict(["1 and", "2"])
    assert chances.shape == (2, 16, 257)
    tokens = torch.tensor([[byte + 1 for byte in b"1 and"]])
    torch.testing.assert_close(chances[0, :5], run.model()(tokens)[0].softmax(-1))


@pytest.mark.slow
def test_export_gives_the_logits_at_each_place(run: Run, tmp_path: Path) -> None:
    facts = effbench.export_run(run.folder, "torchscript", output=tmp_path)
    assert facts["output"]["shape"] == ["N", "T", 257]
    lengths = {"least": 1, "most": 16}
    assert facts["input"] == {"name": "windows", "shape": ["N", "T"], "dtype": "int64", "lengths": lengths}
    assert (facts["parity"]["agreement"], facts["parity"]["lengths"]) == (1, (1, 2, 8, 16))
    opened = open_export(Path(facts["path"]), trust=True)
    assert (opened.fixed_length, output_sides(opened.record)) == (None, (16, 257))
    file = load_run_or_file(facts["path"], trust=True)
    assert file.continued("1 and", temperature=0) == run.continued("1 and", temperature=0)


@pytest.mark.slow
def test_a_file_of_one_length_still_answers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files were before their length was free, and those of models that need all places."""
    monkeypatch.setattr(Windows, "free_length", None)
    facts = effbench.export_run(run.folder, "torchscript", output=tmp_path)
    monkeypatch.undo()
    assert facts["input"] == {"name": "windows", "shape": ["N", 16], "dtype": "int64"}
    assert facts["output"]["shape"] == ["N", 16, 257]
    assert open_export(Path(facts["path"]), trust=True).fixed_length == 16
    file = load_run_or_file(facts["path"], trust=True)
    for text in ("1 and", "a text of more than 16 tokens"):
        assert file.continued(text, temperature=0) == run.continued(text, temperature=0)
    chances = file.predict(["1 and", "2"])
    torch.testing.assert_close(chances, run.predict(["1 and", "2"]))


@pytest.mark.parametrize("side", ["U", "N", 0, None, ["T"]])
def test_a_record_names_no_other_side_of_an_output(side: object, tmp_path: Path) -> None:
    texts = dict.fromkeys(("file", "sha256", "run", "probabilities"), "")
    given = {"name": "windows", "shape": ["N", "T"], "dtype": "int64", "lengths": {"least": 1, "most": 16}}
    record = {**texts, "schema_version": 2, "format": "onnx", "checkpoint": {}, "model": {}, "input": given}
    for shape, fits in (["N", "T", 9], True), (["N", side, 9], False), (["N", "T", side], False):
        (tmp_path / "x.onnx.json").write_text(json.dumps({**record, "output": {"shape": shape}}))
        if fits:
            read_record(tmp_path / "x.onnx")
            continue
        with pytest.raises(ConfigError, match=r"output\.shape must be 'N' and whole numbers from 1 on"):
            read_record(tmp_path / "x.onnx")


@pytest.mark.slow
def test_accumulation_and_windows_of_one_step_give_one_gradient(run: Run, tmp_path: Path) -> None:
    words = [*WORDS, f"data.file='{run.folder.parent / 'own.txt'}'", "optimizer=sgd", "trainer.max_steps=3"]
    words = [word for word in words if not word.startswith(("data.batch_size", "trainer.max_epochs", "task.length"))]
    words += ["task.length=0", "trainer.max_epochs=null", "trainer.limit_test_batches=0"]
    one = effbench.train([*words, "data.batch_size=8"], tmp_path / "one")
    several = effbench.train([*words, "data.batch_size=3", "trainer.accumulate_grad_batches=3"], tmp_path / "several")
    nine = effbench.train([*words, "data.batch_size=9"], tmp_path / "nine")
    assert not (several.folder / "samples.txt").exists()
    eight, threes, whole = (list(each.model("last").parameters()) for each in (one, several, nine))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, threes, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(whole, eight, strict=True))


@pytest.mark.slow
def test_a_step_takes_the_gradient_of_the_mean_over_its_tokens(tmp_path: Path) -> None:
    from effbench.data.batches import TrainBatches

    data = text_file(str(write_text(tmp_path)), context=CONTEXT)
    kind = Windows.fit(data, Settings())
    train = TrainBatches(data.train, batch_size=4, accumulate=2, num_classes=257, modality=kind)
    halves = [train.make(0, 0, part) for part in (0, 1)]
    inputs, targets = (torch.cat([getattr(half, name) for half in halves]) for name in ("inputs", "targets"))
    torch.manual_seed(0)
    model = GPT(257, CONTEXT, dim=8, depth=1, heads=2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    wanted = torch.autograd.grad(F.cross_entropy(model(inputs).transpose(1, 2), targets), [*model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    own = NextToken(CrossEntropy(), [BitsPerByte()], 257, kind.tokenizer.token_bytes())
    Trainer(
        model=model, forward=model, optimizer=optimizer, schedule=Constant(optimizer), train=train, val=None,
        limits=Limits(1), task=own, callbacks=Callbacks([]),
    ).fit()  # fmt: skip
    for old, new, gradient in zip(before, model.parameters(), wanted, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.proof
@pytest.mark.slow
def test_summary_counts_a_window_and_refuses_what_does_not_fit(capsys: Any) -> None:
    words = ["model=gpt", "data=kjv", "task=next_token", "data.batch_size=2", "model.dim=32", "model.depth=1"]
    assert cli.main(["summary", *words, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["unit"] == "window"
    assert row["macs"] == 128 * (12 * 32 * 32 + 2 * 128 * 32 + 257 * 32)
    assert row["activation_bytes"] > 2 * 128 * 257 * 4, "the logits of a step are among what is kept"
    assert cli.main(["summary", "model=gpt", "data=kjv", "task=classification"]) == 2
    assert "Write task=next_token model=gpt" in capsys.readouterr().err
    assert cli.main(["summary", "model=cnn", "task=next_token"]) == 2
    assert "For task=next_token write data=kjv model=gpt" in capsys.readouterr().err


@pytest.mark.slow
def test_a_task_or_model_that_does_not_fit_gets_words(run: Run, tmp_path: Path) -> None:
    file = f"data.file='{run.folder.parent / 'own.txt'}'"
    with pytest.raises(ConfigError, match=r"Write task=next_token model=gpt"):
        effbench.train(["data=text_file", file, "task=classification"], tmp_path / "a")
    with pytest.raises(ConfigError, match=r"For windows write model=gpt"):
        effbench.train(["data=text_file", file, "model=mobilenet"], tmp_path / "b")
    with pytest.raises(DataError, match=r"data=kjv"):
        effbench.train(["data=language_id", "model=text_cnn", "task=next_token"], tmp_path / "c")
    assert Classification.label == "classification"
