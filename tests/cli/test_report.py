"""`effbench report`: a page and a table about runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effbench.units import percent
from tests.cli.conftest import Effbench
from tests.commandline import python
from tests.report.pages import Page, config, summary, write_run
from tests.report.test_trade_off import bench
from tests.report.test_trade_off import run as measured_run


@pytest.fixture
def runs(elsewhere: Path) -> Path:
    for seed, value in enumerate((0.5, 0.6)):
        write_run(elsewhere / "runs" / f"00{seed}", summary(value), config(seed))
    write_run(elsewhere / "runs" / "002_bad", summary())
    (elsewhere / "runs" / "002_bad" / "summary.json").write_text("{")
    return elsewhere / "runs"


def test_a_trained_run_is_a_page(run: Path, effbench: Effbench, elsewhere: Path) -> None:
    code, out, err = effbench("report", str(run))
    assert code == 0
    assert out.splitlines()[-1] == "report.html"
    assert "mlp + AdamW" in out
    assert err == "read 1 run\n"
    recorded = json.loads((run / "summary.json").read_text())
    page = Page((elsewhere / "report.html").read_text())
    assert percent(recorded["metrics"]["test/acc"]) in page.text
    assert recorded["data"]["sha256"] in page.text
    assert len(page.of("svg")) == 3


def test_stdout_table_equals_the_page_and_damage_is_on_stderr(runs: Path, effbench: Effbench) -> None:
    code, out, err = effbench("report", str(runs), "output=all.html")
    assert code == 0
    assert "55.00 ± 7.07 %" in out
    assert "55.00 ± 7.07 %" in Path("all.html").read_text()
    assert "002_bad: summary.json is not valid JSON" in err
    assert "002_bad" in Page(Path("all.html").read_text()).text


def test_json_is_all_there_is_on_stdout(runs: Path, effbench: Effbench) -> None:
    code, out, _ = effbench("report", str(runs), "--json")
    assert code == 0
    data = json.loads(out)
    assert data["report"] == "report.html"
    assert data["tables"][0]["rows"][0]["n"] == 2


def test_report_takes_several_paths_and_names_with_equals_sign(runs: Path, effbench: Effbench) -> None:
    write_run(runs / "seed=3", summary())
    code, out, err = effbench("report", str(runs / "000"), f"{runs}/seed=3", "--json")
    assert (code, err) == (0, "read 2 runs\n")
    assert json.loads(out)["tables"][0]["rows"][0]["runs"] == ["000", "seed=3"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["outptu=x.html"], "there is no folder outptu=x.html"),
        (["runs", "output=nowhere/x.html"], "nowhere is no folder that can be written to"),
        (["runs", "output=runs"], "output=runs"),
        (["runs", "output=notes.txt"], "must end in .html"),
        (["runs", "output="], "output="),
        (["empty"], "no run in empty"),
        (["runs", "-m"], "no flag -m"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_mistakes_are_named_and_write_nothing(
    words: list[str], named: str, effbench: Effbench, elsewhere: Path
) -> None:
    (elsewhere / "empty").mkdir()
    code, out, err = effbench("report", *words)
    assert (code, out) == (2, "")
    assert named in err
    assert not list(elsewhere.glob("*.html"))


@pytest.mark.usefixtures("runs")
def test_a_file_beside_the_page_is_checked_before_the_work(effbench: Effbench, elsewhere: Path) -> None:
    (elsewhere / "page-deployment.csv").mkdir()
    code, out, err = effbench("report", "runs", "output=page.html")
    assert (code, out) == (2, "")
    assert "page-deployment.csv is written beside it, and it is a folder. Give the page another name." in err
    assert not (elsewhere / "page.html").exists()


def test_help(effbench: Effbench) -> None:
    code, out, _ = effbench("report", "--help")
    assert code == 0
    assert "output=report.html" in out
    assert effbench("report")[0] == 2


@pytest.mark.process
def test_torch_is_not_imported(runs: Path) -> None:
    code = "import sys; from effbench.cli import main; assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    done = python("-c", code, "report", str(runs), cwd=runs)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "hydra", "matplotlib"} & set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
def test_long_tables_are_cut_on_stdout_and_whole_in_the_page(effbench: Effbench) -> None:
    for number in range(30):
        write_run(Path("many") / f"{number:02d}", summary(number / 100), config(optimizer={"lr": number}))
    _, out, _ = effbench("report", "many")
    assert "... and 10 more in the page" in out
    assert Path("report.html").read_text().count("<tr>") == 31


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_width_and_the_winner_is_on_one_line(
    width: int, effbench: Effbench, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for number, name in enumerate(["mobilenet_v3_small", "resnet18", "mlp"]):
        for seed in range(2):
            record = summary(0.9 - number / 10 + seed / 100, model={"name": name, "optimizer": "AdamW"})
            options = {"_target_": "x.create", "hidden": [512] * number, "memory_format": name, "kind": name}
            content = config(seed, model=options, trainer={"max_epochs": number})
            write_run(elsewhere / "runs" / f"{number}{seed}", record, content)
    _, out, _ = effbench("report", "runs")
    lines = out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("rank"))
    assert max(map(len, lines[head : head + 4])) <= width
    assert lines[head + 1].split()[:5] == ["1", "mobilenet_v3_small", "+", "AdamW", "2"]
    assert "90.50 ± 0.71 %" in lines[head + 1]
    assert "89.50 ± 0.71 %" in lines[head + 1]
    assert not {"hidden", "memory_format", "kind", "status"} & set(out.replace(".", " ").split())  # the name tells them
    assert lines[-1] == "report.html"


@pytest.mark.slow
def test_runs_that_were_measured_have_a_deployment_table(
    effbench: Effbench, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    measured_run(elsewhere / "runs" / "large", 0.9, 0.1, bench=bench(0.004, 4_000_000))
    measured_run(elsewhere / "runs" / "small", 0.8, 0.2, bench=bench(0.001, 1_000_000))
    code, out, _ = effbench("report", "runs", "output=page.html")
    assert code == 0
    lines = out.splitlines()
    assert lines[-3:] == ["page-deployment.csv", "page-deployment.svg", "page.html"]
    assert "Deployment: fashion, test acc against latency and size" in lines
    assert "No run beats small or large in both accuracy and latency." in lines
    rows = [line for line in lines if "onnxruntime" in line and "ms" in line]
    assert [row.split()[:2] for row in rows] == [["small", "80.00"], ["large", "90.00"]]
    assert max(map(len, rows)) <= 80
    assert (elsewhere / "page-deployment.csv").read_text().count("\n") == 3
    assert (elsewhere / "page-deployment.svg").read_text().startswith("<svg")
    code, out, _ = effbench("report", "runs", "--json")
    assert [row["run"] for row in json.loads(out)["deployments"][0]["rows"]] == ["small", "large"]


@pytest.mark.slow
def test_one_measured_run_has_no_trade_off(effbench: Effbench, elsewhere: Path) -> None:
    measured_run(elsewhere / "run", 0.9, bench=bench(0.004, 4_000_000))
    assert effbench("report", "run")[0] == 0
    assert not list(elsewhere.glob("*-deployment.*"))
