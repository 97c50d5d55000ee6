"""docs/ as a site: it builds strictly, every page is in its menu, and it loads nothing from the network."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.browsing import CHROMIUM, REQUIRED, tour
from tools.site_hooks import on_page_markdown

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name}: pip install 'normbench[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_the_reference_comes_from_docstrings(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).is_file() for page in pages)
    text = (site / "reference" / "explain.html").read_text(encoding="utf-8")
    assert "Compiles" in text
    assert "minimum_bytes" in text


def test_it_loads_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="https?:', text), page
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="https?:', text), page


@pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium: apt-get install chromium")
def test_no_page_is_wider_than_its_window_or_has_a_script_error(site, tmp_path):
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if path.name != "404.html")
    seen = tour(site, names, (390, 1280), tmp_path)
    assert len(seen) == 2 * len(names) >= 50
    assert [name for name, page in seen.items() if not page["title"].endswith("normbench")] == []
    assert {name: page for name, page in seen.items() if page["wide"] or page["errors"] != []} == {}


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = set(re.findall(r"([\w/-]+\.md)", menu))
    assert named == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_links_out_of_the_folder_become_text():
    assert on_page_markdown("see [a.csv](../results/a.csv) and [rows](../results/b.csv#x), [x](y.md)") == (
        "see `results/a.csv` and rows (`results/b.csv`), [x](y.md)"
    )
