"""Debian's Chromium, driven through its debugging pipe (DevTools protocol): pages, media, pictures, console."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.patience import patience

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """A tab. `complaints` collects what the console and the page's errors say."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._number, self._left, self._session = 0, b"", ""
        self.complaints: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        call = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            call["sessionId"] = self._session
        os.write(self._write, json.dumps(call).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            self._note(message)
        assert "error" not in message, (method, message["error"])
        return dict(message["result"])

    def open(self, path: Path, width: int, **media: str) -> None:
        """Open a file at a width in CSS pixels. media: features such as prefers_color_scheme, or type='print'."""
        kind = media.pop("type", "")
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self("Emulation.setEmulatedMedia", media=kind, features=features)
        phone = width < 500
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=phone)
        self("Page.navigate", url=path.as_uri())
        while (message := self._next()).get("method") != "Page.loadEventFired":
            self._note(message)

    def eval(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        path.write_bytes(
            base64.b64decode(self("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])
        )

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._read, 1 << 20)
            assert more, "Chromium has ended"
            self._left += more
        text, _, self._left = self._left.partition(b"\0")
        return dict(json.loads(text))

    def _note(self, message: dict[str, Any]) -> None:
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        if message.get("method") in told:
            self.complaints.append(json.dumps(message["params"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Yield a tab of a fresh browser; `profile` is a folder for its files."""
    assert CHROMIUM is not None
    from_browser, browser_out = os.pipe()
    browser_in, to_browser = os.pipe()
    # the protocol's pipe is descriptors 3 and 4 of the browser; the shell moves ours there
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    shell = f'exec "$@" 3<&{browser_in} 4>&{browser_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", CHROMIUM, *words],
        pass_fds=(browser_in, browser_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(browser_in)
    os.close(browser_out)
    try:
        yield Page(to_browser, from_browser)
    finally:
        os.close(to_browser)  # it ends with its pipe
        try:
            process.wait(patience(20))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_browser)
