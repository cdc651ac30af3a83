"""What comes out of a run's files is text in the report, and nothing else."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from PIL import Image

from effbench import cli
from effbench.escaping import for_terminal
from tests.commandline import TINY
from tests.report.pages import Page, config, curve, page_of, summary, write_run

pytestmark = pytest.mark.row(44)

HOSTILE = [
    "<script>alert(1)</script>",
    "</title></style></svg><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><b onmouseover=alert(1)>',
    "' onclick='alert(1)",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "&lt;script&gt;&#60;b&#62;&amp;",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "$\\frac{1}{2}$ \\input{/etc/passwd}",
    "<!-- --><![CDATA[x]]><?php x ?>",
    "=cmd|' '!A0",
    "a\x1b[31mred\x1b]0;t\x07\x9b",
    "a\u202etxt.exe\u2066\u2069\u200f",
    "nul\0nul",
    "a\nb\r\nc\td\x0b\x85\u2028",
    "half \udcff\ud800",
    "[bold red]markup[/] [/x]",
    "url(http://x.example)//x.example/@import",
]
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2", "h4", "p", "span", "i",
    "a", "b", "small", "ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg",
    "path", "text", "g", "polyline", "circle", "details", "summary", "dl", "dt", "dd", "pre",
}  # fmt: skip
ATTRIBUTES = {
    "class": r"c\d|n|t|run|x|y|grid|tick|axis|facts|good|bad|note|legend|charts|charts three|dense|plain|beside|scroll"
    r"|problems|reason",
    "href": r"#run-\d+|\./[\w.%/~-]*",
    "id": r"run-\d+",
    "viewbox": r"0 0 360 220", "role": "img", "lang": "en",
    "d": r"[MHhvV\d. -]+", "points": r"[\d., -]+", "cx": r"[\d.]+", "cy": r"[\d.]+", "r": "2", "x": r"[\d.]+",
    "y": r"[\d.]+", "charset": "utf-8", "name": r"viewport|referrer|color-scheme",
    "http-equiv": "Content-Security-Policy", "content": r"[\w ,;:'=-]+",
}  # fmt: skip


def inert(page: Page) -> str:
    """The page's text, once every element and attribute is one that the template wrote."""
    assert page.comments == []
    for tag, attributes in page.elements:
        assert tag in ALLOWED, tag
        for name, value in attributes.items():
            assert re.fullmatch(ATTRIBUTES[name], value or ""), (tag, name, value)
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", page.text)
    return page.text


def hostile_summary(text: str) -> dict[str, Any]:
    return summary(
        error=text,
        stop_reason=text,
        best={"metric": text, "value": 0.5, "checkpoint": text},
        model={"name": text, "optimizer": text, "parameters": 1, "macs": None},
        data={"name": text, "sha256": text, "classes": [text, text], text: text},
        metrics={"val/acc": 0.5, text: 0.5},
        environment={"cpu": text, text: text},
        device=text,
        precision=text,
        processes=text,
        git={"commit": text, "dirty": text},
        argv=[text, f"--{text}"],
        timing={"started": text, "training_s": 1.0, "images_per_s": None, "seconds": {text: 9.0}},
    )


def write_hostile(folder: Path, text: str, **changes: Any) -> Path:
    """A run that says `text` wherever a record can hold it, in its folder's name too as far as that can."""
    name = re.sub("[/\0]", "_", text).encode("utf-8", "surrogateescape" if "\ud800" not in text else "replace")[:200]
    place = write_run(folder / name.decode("utf-8", "surrogateescape"), None, config(), curve())
    record = {"schema_version": 1, **hostile_summary(text), **changes}
    (place / "summary.json").write_text(json.dumps(record))
    settings = {"seed": 1, "model": {"_target_": text, "name": text, text: [text]}, text: text}
    (place / "config.yaml").write_bytes(yaml.safe_dump(settings).encode("utf-8", "replace"))
    with (place / "metrics.csv").open("a", encoding="utf-8", errors="replace") as stream:
        stream.write(f'"{text}","{text}",3,{text}\n')
    return place


@pytest.mark.spread(6)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("status", ["completed", "diverged", "failed", "nonsense"])
def test_hostile_text_in_any_field_of_a_run_is_shown_as_text(text: str, status: str, tmp_path: Path) -> None:
    folder = write_hostile(tmp_path / "runs", text, status=text if status == "nonsense" else status)
    shown = for_terminal(text)
    for beside in (False, True):
        if beside:
            write_run(tmp_path / "runs" / "other", summary(0.1))
        page = page_of(tmp_path / "report.html", tmp_path / "runs")
        found = inert(page)
        assert "".join(shown.split()) in "".join(found.split()), shown
        addresses = [str(item["href"]) for item in page.of("a") if not str(item["href"]).startswith("#")]
        places = {(tmp_path / unquote(address, errors="surrogateescape")).resolve() for address in addresses}
        assert folder.resolve() in places


@pytest.mark.slow
def test_all_of_them_at_once_in_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(HOSTILE):
        write_hostile(tmp_path / "runs" / str(number), text, status=["completed", "failed"][number % 2])
    assert cli.main(["report", str(tmp_path / "runs"), f"output={tmp_path / 'report.html'}"]) == 0
    told = "".join(capsys.readouterr())
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", told)
    assert told.encode("utf-8")
    assert "[bold red]markup[/] [/x]" in told
    found = "".join(inert(Page((tmp_path / "report.html").read_text(encoding="utf-8"))).split())
    assert all("".join(for_terminal(text).split()) in found for text in HOSTILE)


def test_json_is_plain_ascii(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(HOSTILE):
        write_hostile(tmp_path / "runs" / str(number), text)
    assert cli.main(["report", str(tmp_path / "runs"), f"output={tmp_path / 'report.html'}", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.replace("\n", "").isprintable()


@pytest.mark.process
def test_a_hostile_run_that_really_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Class and folder names as far as the file system takes them, a project's and overrides' as far as Hydra does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    classes = [
        "<script>alert(1)<",
        "<img src=x onerror=alert(1)>",
        "' onclick='x",
        '"><b>',
        "b\x1b]0;t\x07",
        "c\u202etxt",
    ]
    for number, name in enumerate(classes):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            image = Image.new("RGB", (8, 8), (number * 20, index * 20, 0))
            image.save(tmp_path / "data" / name / f"{index}.png")
    words = ["data=image_folder", "data.root=data", "data.image_size=8", "logger.project='<script>alert(2)'"]
    assert cli.main(["train", *TINY, *words, "hydra.run.dir='<script>alert(3)/<img src=x>&javascript:'"]) == 0
    capsys.readouterr()
    assert cli.main(["report", "."]) == 0
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    found = inert(page)
    for text in (*classes[:4], "b\\x1b]0;t\\x07", "c\\u202etxt", "<script>alert(2)", "<img src=x>&javascript:"):
        assert text in found, text
    [address] = [str(item["href"]) for item in page.of("a")]
    assert (tmp_path / unquote(address) / "summary.json").is_file()


@pytest.mark.slow
def test_summaries_damaged_at_random_give_an_inert_page(tmp_path: Path) -> None:
    """Bytes replaced by what HTML, JSON and YAML act on; other runs stay in the table."""
    chance = random.Random(0)
    write_run(tmp_path / "runs" / "whole", summary())
    for number in range(150):
        place = write_hostile(tmp_path / "runs" / str(number), chance.choice(HOSTILE[:8]))
        for name in ("summary.json", "config.yaml", "metrics.csv"):
            content = bytearray((place / name).read_bytes())
            for _ in range(chance.randrange(4)):
                start = chance.randrange(len(content))
                content[start : start + chance.randrange(9)] = chance.choice(
                    [b"", b"<", b'"', b"}", b"\xff", b"null", b"-1e999", b"[", b"\0", b"true", b"</td>", b"'", b"*a"]
                )
            (place / name).write_bytes(content)
    page = page_of(tmp_path / "report.html", tmp_path / "runs")
    assert "whole" in inert(page)
