"""A headless Chromium that a test controls, by Chromium's own protocol over two pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

from conftest import wait_for

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tab:
    """One page."""

    def __init__(self, reading, writing):
        self._reading, self._writing = reading, writing
        self._received = b""
        self._session = {}
        self._n_sent = 0
        self.requested = []
        self.problems = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.send(f"{domain}.enable")

    def _receive(self):
        while b"\0" not in self._received:
            assert select.select([self._reading], [], [], 60)[0], "Chromium does not answer"
            part = os.read(self._reading, 1 << 20)
            assert part, "Chromium ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def send(self, method, **params):
        """Return the result of a command; note what the page asked the network for meanwhile, and its errors."""
        self._n_sent += 1
        command = {"id": self._n_sent, "method": method, "params": params, **self._session}
        os.write(self._writing, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self._n_sent:
                assert "error" not in message, message
                return message["result"]
            match message.get("method"):
                case "Network.requestWillBeSent":
                    self.requested.append(message["params"]["request"]["url"])
                case "Runtime.exceptionThrown":
                    self.problems.append(message["params"])
                case "Log.entryAdded" if message["params"]["entry"]["source"] != "network":  # a status of 4xx or 5xx
                    self.problems.append(message["params"]["entry"])

    def evaluate(self, script):
        """Return the value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, address, width_px=1280, height_px=800, scheme="light"):
        """Show an address in a window of a size."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width_px, height=height_px, deviceScaleFactor=1, mobile=False
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def wait(self, script, seconds=20):
        """Wait until an expression is true."""
        wait_for(lambda: self.evaluate(script), seconds)

    def choose_files(self, selector, paths):
        """Choose files, as a person does in the dialog of an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key):
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], **text)

    def draw(self, path):
        """Write a picture of the window as PNG."""
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def open_tab(profile):
    """Yield the page of a new Chromium that reaches this machine alone."""
    (commands, sending), (receiving, answers) = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'  # where Chromium looks for them
    command = ["bash", "-c", script, BROWSER, *options]
    process = subprocess.Popen(command, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
    os.close(commands)
    os.close(answers)
    try:
        yield Tab(receiving, sending)
    finally:
        process.kill()
        process.wait()
        os.close(sending)
        os.close(receiving)
