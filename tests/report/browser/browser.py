"""Headless Chromium through the DevTools protocol, with the standard library only: a pipe, JSON, a NUL after each.

As a program it takes the picture of a page's first screen, 1,280 × 800:

    python tests/report/browser/browser.py results/mini/index.html docs/images/first-screen.png
"""

import argparse
import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
OPTIONS += ("--hide-scrollbars", "--remote-debugging-pipe")
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120
"""Seconds to wait for an answer before the browser counts as stuck."""


class Browser:
    """One tab. `errors` are what its console said of kind error, exceptions that nobody caught, and failed loads."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        command = [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        # Chromium reads commands from descriptor 3 and answers on 4; dash knows descriptors of one digit only.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command]
        self.process = subprocess.Popen(shell, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.numbers = itertools.count(1)
        self.pending = b""
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result; events that come before are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.pending:
            ready, _, _ = select.select([self.read], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.read, 1 << 20) if ready else b""
            assert data, f"the browser said nothing for {PATIENCE} s, or ended (exit code {self.process.poll()})"
            self.pending += data
        text, _, self.pending = self.pending.partition(b"\0")
        return dict(json.loads(text))

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False, fragment: str = "") -> None:
        """Load a file at a window size and in a theme of the system; returns when it is loaded."""
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.size(width, height)
        self._go("about:blank")  # so that the next one is a new document, whatever its fragment
        self.events.clear()
        self._go(page.resolve().as_uri() + fragment)

    def _go(self, address: str) -> None:
        """Navigate, and wait until that very document is loaded."""
        document = self.call("Page.navigate", url=address)["loaderId"]
        known = self.events[:]
        while True:
            seen = [event["params"] for event in known if event.get("method") == "Page.lifecycleEvent"]
            if any((event["loaderId"], event["name"]) == (document, "load") for event in seen):
                return
            known = [self._next()]
            self.events += known

    def size(self, width: int, height: int) -> None:
        """Size of the window in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as a user does."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, out: Path, *, whole: bool = False) -> Path:
        """What is seen, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        out.write_bytes(base64.b64decode(answer["data"]))
        return out

    @property
    def errors(self) -> list[str]:
        """Everything that went wrong since the page was opened."""
        self.run("0")  # all events up to here have arrived
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif method == "Network.loadingFailed":
                found.append(str(params))
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, besides what it holds itself."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        addresses = [entry["request"]["url"] for entry in sent]
        return [address for address in addresses if not address.startswith(("data:", "about:"))]

    def close(self) -> None:
        """End the browser."""
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(timeout=20)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        finally:
            os.close(self.write)
            os.close(self.read)


def program() -> str | None:
    """Chromium's executable: the one named in CHROMIUM, else the first that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def main(page: str, out: Path, *, width: int, height: int, dark: bool, whole: bool) -> Path:
    """Write what is seen of a page as PNG: its first screen, the part named after `#`, or the whole page."""
    executable = program()
    if executable is None:
        sys.exit("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    path, sign, name = page.partition("#")
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(executable, Path(folder))
        try:
            browser.open(Path(path), width=width, height=height, dark=dark, fragment=sign + name)
            return browser.screenshot(out, whole=whole)
        finally:
            browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a picture of a page, as Chromium shows it.")
    parser.add_argument("page", help="HTML file; FILE#NAME: the part with this name")
    parser.add_argument("out", metavar="png", type=Path, help="file to write")
    parser.add_argument("--width", type=int, default=1280, help="CSS pixels of the window (1280; a phone: 390)")
    parser.add_argument("--height", type=int, default=800, help="CSS pixels of the window (800)")
    parser.add_argument("--dark", action="store_true", help="the dark theme of the system")
    parser.add_argument("--whole", action="store_true", help="the whole page, not only what is seen")
    options = parser.parse_args()
    print(main(**vars(options)))
