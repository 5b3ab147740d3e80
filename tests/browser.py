"""A headless Chromium with one page, driven through its debugging pipe: no package, no port."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = """
--headless --no-sandbox --no-first-run --disable-background-networking --disable-component-update --disable-sync
--disable-quic --disable-extensions --hide-scrollbars --use-angle=swiftshader --enable-unsafe-swiftshader
--remote-debugging-pipe
"""
LIMIT = 120  # seconds for one answer, or for a condition to come true; under load a start takes many


def executable() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page; `errors`: of its console, its policy and its scripts.

    A context manager, which ends the process. `profile`: an empty folder.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1200, 1000)):
        self.errors, self.number, self.rest, self.pressed = [], 0, b"", False
        child_in, self.out = _pipe()
        self.source, child_out = _pipe()

        # Chromium reads commands from descriptor 3 and answers on 4.
        options = [*SWITCHES.split(), f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{child_in} 4>&{child_out}', "bash", executable(), *options]
        self.process = subprocess.Popen(
            shell, pass_fds=(child_in, child_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(child_in)
        os.close(child_out)

    def __enter__(self) -> "Browser":
        targets = self.send("Target.getTargets")["targetInfos"]
        (target,) = [target["targetId"] for target in targets if target["type"] == "page"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.source)

    def open(self, path: Path) -> None:
        """Shows a file in place of the last one, whose errors are forgotten."""
        self.send("Page.navigate", url="about:blank")
        self.send("Log.clear")
        self.errors = []
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def send(self, method: str, **params) -> dict:
        """The result of a command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")

        while (answer := self._read()).get("id") != self.number:
            self._collect(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def evaluate(self, expression: str):
        """The value of an expression in the page; promises are awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + LIMIT
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"not true within {LIMIT} s: {condition}; errors: {self.errors}"
            time.sleep(0.1)

    def drag(self, selector: str, by: tuple[int, int]) -> None:
        """Scrolls to an element and drags its middle, in ten steps."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        box = f"{element}.getBoundingClientRect()"
        x, y = self.evaluate(f"(({{left, top, width, height}}) => [left + width / 2, top + height / 2])({box})")
        self._mouse("mouseMoved", x, y)
        self._mouse("mousePressed", x, y)
        for step in range(1, 11):
            self._mouse("mouseMoved", x + by[0] * step / 10, y + by[1] * step / 10)
        self._mouse("mouseReleased", x + by[0], y + by[1])

    def move_away(self) -> None:
        """Takes the pointer to the window's corner, so that nothing is under it."""
        self._mouse("mouseMoved", 1, 1)

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.pressed = kind == "mousePressed" or (self.pressed and kind == "mouseMoved")
        buttons = int(self.pressed)
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)
        time.sleep(0.05)

    def _read(self) -> dict:
        """The next message."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.source], [], [], LIMIT)
            assert ready, f"no answer within {LIMIT} s"
            part = os.read(self.source, 1 << 20)
            assert part, "Chromium ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _collect(self, event: dict) -> None:
        """Keeps errors of the page."""
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(part.get("value")) for part in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are above those that the shell sets."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20))
        os.close(end)
    return ends[0], ends[1]
