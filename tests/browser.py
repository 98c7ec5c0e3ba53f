"""A page in a real browser, headless: what a script sees in it, what it writes to the console, and what it asks the network for."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

#: Chromium's windows are never narrower than 500 px, so the page stands in a frame that is.
FRAME = """<!doctype html><body style="margin:0">
<iframe src="{name}" style="border:0;width:{width}px;height:{height}px"></iframe><pre id="said"></pre><script>
const said = document.getElementById("said");
addEventListener("message", (e) => {{ said.textContent += e.data + "\\n"; }});
</script></body>"""
WATCH = """<script>window.say = (t) => parent.postMessage(String(t), "*");
addEventListener("error", (e) => say("error " + e.message));
addEventListener("securitypolicyviolation", (e) => say("error blocked " + e.blockedURI));</script>"""


#: What the browser asks for by itself, whatever it shows.
ITS_OWN = re.compile(
    r"https?://(clients\d?\.google|update\.googleapis|accounts\.google|optimizationguide-pa\.googleapis)\.com/"
)


@dataclasses.dataclass(frozen=True)
class Seen:
    said: list[str]  # what the probe said
    console: list[str]
    requests: list[str]  # that left the file


def browser() -> str:
    """The browser's program, or a skip that says so."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium to look at the page with")
    return found


def look(page: Path, folder: Path, probe: str, *, width: int = 1200, height: int = 1600, dark: bool = False) -> Seen:
    """Opens the page and runs `probe` in it, once it has loaded: JavaScript that calls say(text)."""
    text = page.read_text(encoding="utf-8")
    script = f"<script>addEventListener('load', () => {{ {probe} }});</script>"
    (folder / "probed.html").write_text(
        text.replace("<head>", "<head>" + WATCH, 1).replace("</body>", script + "</body>")
    )
    (folder / "frame.html").write_text(FRAME.format(name="probed.html", width=width, height=height))
    command = [*run(folder, dark), "--dump-dom", "--virtual-time-budget=4000", f"--log-net-log={folder / 'net.json'}"]
    command += [
        "--enable-logging=stderr",
        f"--window-size={max(width, 500)},{height}",
        (folder / "frame.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[-500:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(html.unescape(match.group(1)).splitlines(), console, _requests(folder / "net.json"))


def screenshot(page: Path, target: Path, *, width: int = 1200, height: int = 2400, dark: bool = False) -> None:
    """A picture of the top of the page."""
    frame = page.parent / f".frame-{width}.html"
    frame.write_text(FRAME.format(name=page.name, width=width, height=height))
    command = [*run(target.parent, dark), "--hide-scrollbars", f"--window-size={width},{height}"]
    command.append(f"--screenshot={target}")
    subprocess.run([*command, frame.as_uri()], capture_output=True, timeout=120, check=True)
    frame.unlink()


def run(folder: Path, dark: bool = False) -> list[str]:
    """How the browser is started: without a screen, without talk of its own to the network."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    return [
        browser(),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        scheme,
        f"--user-data-dir={folder / 'profile'}",
    ]


def _requests(log: Path) -> list[str]:
    """Addresses other than files in the browser's own record of its network."""
    text = log.read_text(encoding="utf-8").rstrip().rstrip(",")
    try:
        record = json.loads(text)
    except ValueError:
        record = json.loads(text + "]}")
    urls = {str(e.get("params", {}).get("url", "")) for e in record["events"]}
    return sorted(u for u in urls if re.match(r"(https?|wss?|ftp):", u) and not ITS_OWN.match(u))
