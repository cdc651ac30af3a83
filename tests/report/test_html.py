"""The page: what it shows, and that it is one file that asks for nothing."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from effbench.errors import EffbenchError
from effbench.report.html import as_data, link, view, write_html
from tests.report.pages import Page, config, page_of, read, summary, write_run


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """Two configs of three seeds, a failed one, a diverged one, and one that was killed."""
    for lr in (0.1, 0.2):
        for seed in range(3):
            record = summary(0.5 + lr + seed / 100)
            write_run(tmp_path / "runs" / f"{lr}_{seed}", record, config(seed, optimizer={"lr": lr}))
    write_run(tmp_path / "runs" / "failed", {"status": "failed", "error": "the cable was pulled", "metrics": {}})
    write_run(tmp_path / "runs" / "gone", summary(status="diverged", stop_reason="the loss is nan", best=None))
    write_run(tmp_path / "runs" / "killed", None)
    return tmp_path / "runs"


@pytest.mark.slow
def test_the_page_shows_ranking_charts_and_problems(swept: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", swept)
    assert "fashion by val/acc" in page.text
    assert "71.00 ± 1.00 %" in page.text
    assert "the cable was pulled" in page.text
    assert "the loss is nan" in page.text
    assert "has no summary.json" in page.text
    assert len(page.of("details")) == 9
    assert len(page.of("svg")) == 4 + 9 * 3
    assert [len(page.of(tag)) for tag in ("table", "h1")] == [2, 1]
    assert page.text.index("optimizer.lr 0.2") < page.text.index("optimizer.lr 0.1")
    assert all(link["href"] in ids(page) for link in page.of("a") if str(link["href"]).startswith("#"))


def ids(page: Page) -> set[str]:
    return {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}


def test_the_page_of_one_run_shows_all_facts_without_a_ranking(tmp_path: Path) -> None:
    write_run(tmp_path / "my run", summary(), config(7))
    page = page_of(tmp_path / "report.html", tmp_path / "my run")
    assert not page.of("table")
    assert not page.of("details")
    assert len(page.of("svg")) == 3
    for text in ("mlp + AdamW", "79.00 %", "optimizer.lr", "Z80", "cat, dog", "effbench train", "completed"):
        assert text in page.text


def test_the_page_has_no_script_and_loads_nothing(swept: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", swept)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "use"}
    [policy] = [meta for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy["content"]).startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    style = (tmp_path / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert "://" not in (tmp_path / "report.html").read_text()
    names = [name for _, attributes in page.elements for name in attributes]
    assert not any(name.startswith("on") or name in ("src", "style", "srcset") for name in names)


def test_links_lead_to_the_runs_from_wherever_the_page_is(tmp_path: Path) -> None:
    odd = 'a b#c?d%2e"&<javascript:x>'
    folder = write_run(tmp_path / "runs" / odd, summary())
    (tmp_path / "pages").mkdir()
    page = page_of(tmp_path / "pages" / "report.html", folder)
    [address] = [str(item["href"]) for item in page.of("a")]
    assert address.startswith("./../runs/")
    assert not set(address) & set(' #?"&<>:')
    assert (tmp_path / "pages" / unquote(address) / "summary.json").is_file()


def test_a_link_that_would_reveal_a_secret_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cr3t&value")
    folder = write_run(tmp_path / "s3cr3t&value", summary(argv=["effbench", "train", "x=s3cr3t&value"]))
    page_of(tmp_path / "report.html", folder)
    text = (tmp_path / "report.html").read_text()
    assert "s3cr3t" not in text
    assert "***" in text
    assert link(folder, tmp_path / "report.html") is None
    monkeypatch.setenv("PASSWORD", "default")  # a secret that is a word of the page itself
    page_of(tmp_path / "report.html", folder)
    assert "default-src 'none'" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_the_number_of_curves_is_capped_and_stated(tmp_path: Path) -> None:
    for number in range(60):
        record = summary(number / 100) if number < 50 else summary(status="diverged", stop_reason="nan")
        write_run(tmp_path / f"{number:02d}", record, config(optimizer={"lr": number}))
    content = view(read(tmp_path), tmp_path / "report.html")
    [table] = content["tables"]
    assert len(table["rows"]) == 50
    assert table["drawn"] == "Drawn: 8 of 50 runs, from the top of the table."
    assert [section["name"] for section in content["sections"]][:2] == ["49", "48"]
    assert len(content["sections"]) == content["shown"] == 18  # the best eight, and all that diverged
    assert len(content["unfinished"]) == 10


def test_the_page_is_whole_or_the_old_one(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "report.html"
    output.write_text("the old page")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("effbench.records.os.fsync", full)
    with pytest.raises(EffbenchError, match="output=FILE"):
        write_html(view(read(swept), output), output)
    assert output.read_text() == "the old page"
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_same_tables_as_values(swept: Path) -> None:
    data = json.loads(json.dumps(as_data(read(swept))))
    [table] = data["tables"]
    assert [(row["rank"], row["n"], row["runs"]) for row in table["rows"]] == [
        (1, 3, ["0.2_0", "0.2_1", "0.2_2"]), (2, 3, ["0.1_0", "0.1_1", "0.1_2"]),
    ]  # fmt: skip
    assert table["rows"][0]["value"] == pytest.approx(0.71)
    assert table["rows"][0]["value sd"] == pytest.approx(0.01)
    assert {row["run"]: row["status"] for row in data["unfinished"]} == {
        "failed": "failed", "gone": "diverged", "killed": "unreadable",
    }  # fmt: skip
    assert [row["run"] for row in data["problems"]] == ["killed"]
