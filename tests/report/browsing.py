"""Drives a page in headless Chromium: a small server hands out the page, and a frame around it whose script acts."""

import http.server
import json
import os
import queue
import shutil
import subprocess
import threading
from functools import partial
from importlib.resources import files
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = os.environ.get("NORMBENCH_BROWSER") == "required"
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1500,1000",
]
_CATCH = "<script>window.errors = []; addEventListener('error', (event) => errors.push(event.message));</script>"
_FRAME = """<!doctype html><iframe id="frame" src="/report.html" style="width:%dpx;height:900px;border:0"></iframe>
<script>
const frame = document.getElementById("frame");
frame.addEventListener("load", async () => {
  const window = frame.contentWindow, document = window.document, location = window.location;
  const { Event } = window;
  const until = async (test) => {
    for (let tries = 0; tries < 400 && !test(); tries++) await new Promise((done) => setTimeout(done, 25));
  };
  const result = {};
  try { %s } catch (error) { result.failed = String(error.stack); }
  result.errors = window.errors;
  result.resources = window.performance.getEntriesByType("resource").length;
  await fetch("/result", { method: "POST", body: JSON.stringify(result) });
});
</script>"""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((body or "").encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.results.put(json.loads(body))

    def log_message(self, *_):
        pass


_AXE = """
  const tag = document.createElement("script");
  tag.textContent = %s;
  document.head.append(tag);
  const audit = async (root) => {
    const found = await window.axe.run(root);
    const bad = found.violations.filter((each) => ["serious", "critical"].includes(each.impact));
    return { rules: found.passes.length,
      bad: bad.map((each) => `${each.id}: ${each.nodes[0].html.slice(0, 200)} ${each.nodes[0].failureSummary}`) };
  };
"""


def axe() -> str:
    """A script that defines `audit(root)`: the rules of axe-core that passed, and what is seriously wrong, in words."""
    source = files("axe_core_python") / "axe.min.js"
    return _AXE % json.dumps(source.read_text(encoding="utf-8")).replace("<", "\\u003c")


def _result(server: http.server.ThreadingHTTPServer, folder: Path, dark: bool = False) -> dict:
    """What the page at the server's root posts, opened in Chromium."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}", f"http://127.0.0.1:{server.server_port}/"]
    command[1:1] = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return server.results.get(timeout=120)
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        server.shutdown()


def drive(page: Path, folder: Path, script: str, width: int = 1400, dark: bool = False) -> dict:
    """What `script` left in `result`, acting on the page through `window`, `document` and `until(test)`.

    Beside its own results there are `errors` of the page's scripts, `resources` that the page loaded and what was
    `asked` of the server.
    """
    assert CHROMIUM, "no Chromium, though NORMBENCH_BROWSER says that it is required"
    text = page.read_text(encoding="utf-8").replace("<head>", f"<head>{_CATCH}", 1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.pages, server.asked, server.results = (
        {"/": _FRAME.replace("%d", str(width)).replace("%s", script), "/report.html": text},
        [],
        queue.Queue(),
    )
    result = _result(server, folder, dark)
    assert "failed" not in result, result["failed"]
    return {**result, "asked": sorted(set(server.asked) - {"/favicon.ico"})}


_SITE_FRAME = """<!doctype html><body><script>
(async () => {
  const result = {};
  for (const width of %s) for (const name of %s) {
    const frame = document.createElement("iframe");
    frame.style = `width:${width}px;height:900px;border:0`;
    frame.src = "/" + name;
    document.body.replaceChildren(frame);
    await new Promise((done) => frame.addEventListener("load", done));
    const page = frame.contentDocument.documentElement;
    result[`${name} at ${width}`] = { wide: page.scrollWidth - page.clientWidth, errors: frame.contentWindow.errors,
      title: frame.contentDocument.title };
  }
  await fetch("/result", { method: "POST", body: JSON.stringify(result) });
})();
</script>"""


class _Site(http.server.SimpleHTTPRequestHandler):
    do_POST, log_message = _Handler.do_POST, _Handler.log_message

    def do_GET(self):
        if self.path == "/":
            self._hand_out(self.server.frame)
        elif self.path.endswith(".html"):
            text = Path(self.directory, self.path.lstrip("/")).read_text(encoding="utf-8")
            self._hand_out(text.replace("<head>", f"<head>{_CATCH}", 1))
        else:
            super().do_GET()

    def _hand_out(self, text):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())


def tour(site: Path, names: list[str], widths: tuple[int, ...], folder: Path) -> dict:
    """Of each page of a folder at each width: its `title`, how `wide` it is beyond its window, its script `errors`."""
    assert CHROMIUM, "no Chromium, though NORMBENCH_BROWSER says that it is required"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Site, directory=str(site)))
    server.results = queue.Queue()
    server.frame = _SITE_FRAME % (json.dumps(widths), json.dumps(names))
    return _result(server, folder)
