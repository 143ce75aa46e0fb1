"""A headless Chromium, driven over its debugging pipe: nothing to install besides the browser."""

import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13,
         "Escape": 27, " ": 32}  # fmt: skip


def find_browser() -> str | None:
    """The browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class LeftPageError(Exception):
    """The tab left the page that was asked, before it answered."""


class Page:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == number:
                if "navigated" in reply.get("error", {}).get("message", ""):
                    raise LeftPageError(reply["error"]["message"])
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result
            self.events.append(reply)

    def _receive(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def open(self, address: str) -> None:
        """Go to an address; returns before it is loaded."""
        self._call("Page.navigate", url=address)

    def reload(self) -> None:
        """Load the page again; returns before it is loaded."""
        self._call("Page.reload")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        reply = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until a JavaScript expression is true, on this page or on one that it leads to."""
        end = time.monotonic() + seconds
        while not self._is_true(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.01)

    def _is_true(self, condition: str) -> bool:
        try:
            return bool(self.evaluate(f"Boolean({condition})"))
        except LeftPageError:
            return False

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key, as a person presses it; modifiers: 2 Ctrl, 8 Shift."""
        code = CODES.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 and modifiers != 2 else {}
        if key == "Enter":
            text = {"text": "\r"}
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self._call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Put text in where the cursor is."""
        self._call("Input.insertText", text=text)

    def size(self, width: int, height: int) -> None:
        """The window's size in pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def complaints(self) -> list[str]:
        """Errors and warnings of the console so far, blocked requests and failed scripts."""
        self.evaluate("1")
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown")
        found = [event for event in self.events if event.get("method") in kinds]
        return [json.dumps(event["params"]) for event in found]


@contextmanager
def browsing(browser: str, profile: Path) -> Iterator[Page]:
    """A tab of a browser of its own."""
    to_browser, from_browser = os.pipe(), os.pipe()

    def as_3_and_4() -> None:
        low, high = os.dup(to_browser[0]), os.dup(from_browser[1])
        os.dup2(low, 3)
        os.dup2(high, 4)

    process = subprocess.Popen(
        [
            browser, "--headless=new", "--remote-debugging-pipe", "--no-first-run",
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
            "--disable-background-networking", f"--user-data-dir={profile}", "about:blank",
        ],
        preexec_fn=as_3_and_4, close_fds=False, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Page(to_browser[1], from_browser[0])
    finally:
        os.close(to_browser[1])
        os.close(from_browser[0])
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
