"""Verbs, flags, exit codes, and that nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench import cli
from effbench.cli import flags
from effbench.errors import ConfigError, DataError, EffbenchError, MissingExtraError
from tests.commandline import effbench, python


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_every_verb_on_stdout(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


def test_no_verb_is_a_mistake_and_shows_usage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("usage: effbench")


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"effbench {importlib.metadata.version('effbench')}\n"


@pytest.mark.parametrize(
    ("word", "nearest"), [("trian", "train"), ("Train", "train"), ("recipes", "recipe"), ("qqq", None), ("", None)]
)
def test_unknown_verb_is_named_with_all_verbs_and_the_nearest(
    word: str, nearest: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert f"verb '{word}'" in err
    assert all(verb in err for verb in cli.VERBS)
    assert (f"Did you mean '{nearest}'?" in err) if nearest else ("Did you mean" not in err)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: effbench {verb}")
    assert not err


@pytest.mark.parametrize("verb", ["eval", "predict", "export", "recipe"])
def test_a_verb_that_needs_words_says_so_on_stderr(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"usage: effbench {verb}")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (EffbenchError("it broke"), 1),
        (ConfigError("key is wrong"), 2),
        (DataError("file is wrong"), 2),
        (MissingExtraError("logger=wandb", "wandb"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_tell_a_failed_run_from_a_wrong_command(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise raised

    monkeypatch.setattr("effbench.cli.env.main", broken)
    assert cli.main(["env"]) == code
    out, err = capsys.readouterr()
    assert not out
    assert err == ("interrupted\n" if code == 130 else f"error: {raised}\n")


def test_output_to_a_broken_pipe_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("effbench.cli.env.main", broken)
    assert cli.main(["env"]) == 1
    assert capsys.readouterr().err.startswith("error: the reader of the output file has closed it")


def test_missing_extra_names_what_to_install() -> None:
    assert "pip install 'effbench[wandb]'" in str(MissingExtraError("logger=wandb", "wandb"))


WITHOUT_TORCH = [
    ["--help"],
    ["--version"],
    ["trian"],
    *([verb, "--help"] for verb in cli.VERBS),
    ["explain"],
    ["explain", "nuron"],
    ["explain", "attention", "nowhere", "text=a text"],
    ["recipe", "ls"],
    ["recipe", "ls", "--json"],
    ["recipe", "show", "swin_lion"],
    ["train", "--cfg", "job"],
    ["train", "optimizer.lrr=1"],
    ["train", "optimizer.lr=abc"],
    ["train", "-m", "model=mpl,nope"],
    ["train", "resume=nowhere"],
    ["eval", "nowhere"],
    ["predict", "nowhere", "a.png"],
    ["export", "nowhere"],
    ["summary", "model=mpl"],
]


@pytest.mark.process
def test_commands_without_computation_do_not_import_torch(tmp_path: Path) -> None:
    code = f"""
import contextlib, io, json, sys
from effbench.cli import main
found = {{}}
for words in {WITHOUT_TORCH!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(words)
    found[" ".join(words)] = sorted({{"torch", "torchvision", "matplotlib"}} & set(sys.modules))
print(json.dumps(found))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    assert len(imported) == len(WITHOUT_TORCH)
    assert not {command: names for command, names in imported.items() if names}


@pytest.mark.process
def test_import_effbench_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys, effbench
from effbench.cli import main
main(["--help"])
heavy = {"torch", "hydra", "omegaconf", "pydantic", "yaml", "rich", "matplotlib", "numpy"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_python_m_effbench_equals_the_command_and_its_exit_code(tmp_path: Path) -> None:
    done = effbench("train", "modle=mlp", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no key 'modle'. The nearest: model.\n"


# --- flags ----------------------------------------------------------------------------------------------------------

FLAGS = [("-m",), ("--cfg", "job"), ("--config-dir", "x y"), ("--info",), ("--cfg=hydra",), ("-cd", "z")]


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(["model=mlp", "a=1,2", "b='x y'", "~c", "+d=[1,2]"]), unique=True),
    st.lists(st.tuples(st.sampled_from(FLAGS), st.integers(0, 9)), max_size=3, unique_by=lambda entry: entry[0]),
)
def test_flags_may_stand_anywhere(overrides: list[str], placed: list[tuple[tuple[str, ...], int]]) -> None:
    words = [[word] for word in overrides]
    for flag, place in placed:
        words.insert(min(place, len(words)), list(flag))
    flat = [word for group in words for word in group]
    first = [word for group in sorted(words, key=lambda group: not group[0].startswith("-")) for word in group]
    anywhere, in_front = (flags.parse_flags(line, flags.VERB_FLAGS["train"]) for line in (flat, first))
    assert anywhere.overrides == overrides
    assert anywhere == in_front


def test_a_flag_takes_its_value_behind_a_space_or_an_equals_sign() -> None:
    spaced = flags.parse_flags(["--cfg", "job", "--config-dir", "a b"], flags.VERB_FLAGS["train"])
    joined = flags.parse_flags(["--cfg=job", "--config-dir=a b"], flags.VERB_FLAGS["train"])
    assert spaced == joined
    assert spaced.values == {"cfg": "job", "config_dir": "a b"}


def test_info_takes_the_next_estimate_only_if_it_is_a_page() -> None:
    with_page = flags.parse_flags(["--info", "searchpath", "model=mlp"], flags.VERB_FLAGS["train"])
    without = flags.parse_flags(["--info", "model=mlp"], flags.VERB_FLAGS["train"])
    assert (with_page.values["info"], without.values["info"]) == ("searchpath", "")
    assert with_page.overrides == without.overrides == ["model=mlp"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--foo"], "--multirun"),
        (["train", "--cfg", "job", "--json"], "--json is for the result of training"),
        (["train", "--cfg"], "--cfg needs a value"),
        (["train", "--config-dir"], "--config-dir needs a value"),
        (["eval", "run", "-m"], "Flags: --help, --json, --quiet, --verbose"),
        (["env", "--cfg", "job"], "Flags: --help, --json, --quiet, --verbose"),
        (["recipe", "show", "swin_lion", "--json"], "recipe show has no --json"),
        (["summary", "--info"], "there is no flag --info"),
        (["predict", "run", "--", "x.png"], "there is no flag --"),
        (["eval", "run", "--config-dir", "mine"], "Verbs that have it: train, summary, verify, bench, recipe, study."),
    ],
)
def test_unknown_flag_is_refused_and_valid_flags_are_listed(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert expected in capsys.readouterr().err


# --- tab completion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("effbench ", set(cli.VERBS)),
        ("effbench tr", {"train"}),
        ("effbench recipe ", {"ls", "show", "cp", "validate"}),
        ("effbench recipe show sw", {"swin_lion", "swin_lion_cpu"}),
        ("effbench explain opt", {"optimizers"}),
        ("effbench explain attention outputs/", set()),
        ("effbench eval ", set()),
        ("effbench train model=mo", {"model=mobilenet"}),
        ("effbench train model=mlp optimizer=ada", {"optimizer=adam", "optimizer=adamw", "optimizer=adan"}),
        ("effbench summary recipe=swin", {"recipe=swin_lion", "recipe=swin_lion_cpu"}),
        ("effbench train optimizer.wei", {"optimizer.weight_decay="}),
        ("effbench -q train -v model=mo", {"model=mobilenet"}),
        ("effbench eval RUN --", {"--help", "--json", "--quiet", "--verbose"}),
        ("effbench train model=mlp --q", {"--quiet"}),
    ],
)
def test_completion_offers_matching_words(
    line: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert cli.main(["-sc", "query=bash"]) == 0
    assert set(capsys.readouterr().out.split()) == offered


def test_completion_knows_the_users_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text(
        "defaults: [_base, _self_]\n_target_: effbench.models.mlp.mlp\n"
    )
    monkeypatch.setenv("COMP_LINE", "effbench train --config-dir own model=mi")
    assert cli.main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["model=mine"]


def test_completion_installs_for_the_command_effbench(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("hydra_bash_completion effbench")


@pytest.mark.parametrize("request_", ["install=csh", "nonsense", ""])
def test_completion_refuses_an_unknown_request(request_: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-sc", request_]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.slow
def test_hydra_leaves_the_arguments_of_the_process_alone() -> None:
    before = list(sys.argv)
    assert cli.main(["train", "--info", "searchpath"]) == 0
    assert sys.argv == before


def test_every_verb_has_a_module() -> None:
    assert all(callable(importlib.import_module(f"effbench.cli.{verb}").main) for verb in cli.VERBS)
