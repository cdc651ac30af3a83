"""The page of a study in Chromium at the width of a phone: nothing refused, nothing cut off, names whole, sortable."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.study.planted import cost
from tests.study.test_page import ARMS, small_study, written

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.process, pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]  # fmt: skip

# the page's own policy forbids other scripts, so a page around it looks inside
AROUND = """<iframe src="study.html" style="border:0;width:375px;height:800px"></iframe><pre></pre><script>
document.querySelector("iframe").onload = (event) => {
  const page = event.target.contentDocument, table = page.querySelector("table");
  const lines = (each) => new Set([...each.getClientRects()].map((box) => box.top)).size;
  const arms = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
  const before = arms();
  table.querySelectorAll("th button")[0].click();
  table.querySelectorAll("th button")[0].click();
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth, before: before, after: arms(),
    broken: [...page.querySelectorAll("span.whole")].filter((each) => lines(each) > 1).length,
    whole: page.querySelectorAll("span.whole").length,
    cut: [...page.querySelectorAll("svg:not(.key)")].filter((svg) => [...svg.querySelectorAll("text")].some((text) => {
      const box = text.getBoundingClientRect(), frame = svg.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    })).map((svg) => svg.querySelector("title").textContent),
    drawn: page.querySelectorAll("svg:not(.key)").length,
  });
};
</script>"""


def opened(folder: Path) -> tuple[dict[str, Any], str]:
    """What the page around the study's page found, and the lines of the browser's console."""
    (folder / "around.html").write_text(AROUND)
    assert CHROMIUM is not None
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=4000", f"--user-data-dir={folder / 'profile'}"]
    result = subprocess.run(
        [CHROMIUM, *words, (folder / "around.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"<pre>({.*?})</pre>", result.stdout, re.DOTALL)
    assert found, result.stderr
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(found[1])), "\n".join(console)


def test_the_page_is_whole_on_a_phone(tmp_path: Path) -> None:
    costs = tuple(cost(arm, 0.01 + at / 100, 1000 * (at + 1)) for at, arm in enumerate(ARMS))
    table = small_study(costs=costs)
    curves = {arm.name: [[[10, 0.5], [20, 0.7 + at / 50]]] * 2 for at, arm in enumerate(table.arms)}
    written(tmp_path, table, curves)
    found, console = opened(tmp_path)
    assert console == ""
    assert found["width"] <= 375
    assert (found["broken"], found["cut"]) == (0, [])
    assert found["whole"] > 10
    assert found["drawn"] == 2 + 4  # curves, best against budget, and the fronts of four costs
    assert found["after"] == found["before"][::-1]
