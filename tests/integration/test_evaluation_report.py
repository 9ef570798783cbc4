"""The report of `scripts/evaluate.py`: whole, self-contained, and rendered by a browser without errors."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OF_THE_BROWSER_ITSELF = (".google.com", ".googleapis.com", ".gvt1.com")


class _Page(HTMLParser):
    """What a page refers to, its sections and its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag in ("section", "header"):
            self.sections.append(given["id"] or "")
        if tag == "img":
            assert given["alt"]


@pytest.mark.usefixtures("no_solver")
def test_the_report_is_one_page_that_refers_to_nothing_outside(
    script: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    script.main([str(runs["tiny_s1"]), "--days", "3", "--baselines", "idle", "random", "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.html").read_text()
    page = _Page(text)
    wanted = ["headline", "table", "scores", "gaps", "money", "day-typical", "day-best", "day-worst", "bound", "method"]
    assert page.sections == wanted
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert len(page.references) == 4 + 2 * 3
    pictures = sorted((tmp_path / "out" / "figures").iterdir())
    embedded = [base64.b64decode(value.removeprefix("data:image/png;base64,")) for value in page.references]
    assert all(picture.startswith(b"\x89PNG") for picture in embedded)
    assert sorted(embedded) == sorted(path.read_bytes() for path in pictures)


def complaints(page: Path, folder: Path) -> list[str]:
    """Console messages, and addresses asked for, of a page in a headless browser without network."""
    log = folder / "net.json"
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *(f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr", "--v=0"),
        *("--virtual-time-budget=3000", "--window-size=1300,3000", f"--screenshot={folder / 'page.png'}"),
        f"file://{page}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    console = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    hosts = re.findall(r'"url":"(?:https?|ftp|wss?)://([^/"]+)', log.read_text(errors="replace"))
    return [*console, *sorted({host for host in hosts if not host.endswith(OF_THE_BROWSER_ITSELF)})]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
@pytest.mark.usefixtures("no_solver")
def test_a_browser_without_network_renders_the_report_without_errors(
    script: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    script.main([str(runs["tiny_s1"]), "--days", "3", "--baselines", "idle", "--out", str(tmp_path / "out")])
    assert complaints(tmp_path / "out" / "report.html", tmp_path) == []
    assert (tmp_path / "page.png").stat().st_size > 50_000
    broken = tmp_path / "broken.html"  # what is looked for is found where it is
    broken.write_text('<img src="https://example.org/x.png"><script>missing()</script>')
    console, host = complaints(broken, tmp_path)
    assert "missing is not defined" in console
    assert host == "example.org"


@pytest.mark.usefixtures("without_extra")
def test_without_a_bound_the_report_leaves_out_what_needs_one(
    script: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    script.main([str(runs["other"]), "--days", "1", "--baselines", "idle", "--out", str(tmp_path)])
    text = (tmp_path / "report.html").read_text()
    assert _Page(text).sections == ["headline", "table", "money", "day-typical", "method"]
    assert "there is no score" in text
    assert "A typical day by J: " in text
    assert "<h1>How good is other?</h1>" in text
