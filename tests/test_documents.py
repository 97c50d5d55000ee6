"""Command lines in README and docs/ are ones that the programs take, the short ones run, and links lead somewhere."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`\n]+)`|^((?: {4}.*\n)+)", re.MULTILINE | re.DOTALL)
_WORDS = ("normbench", "make", "python", "pytest", "pip")
SHORT = (
    "normbench doctor",
    "normbench list --preset exhaustive",
    "normbench gpu --dry-run",
    "normbench explain batch_norm folded --shape 64x56x56x256 --layout nhwc --dtype bfloat16 --target h200",
    "normbench norms --function jax.nn:standardize --shape 8192x4096 --dtype bf16 --target h200",
)
"""Lines of README that are run here; the studies among the others are run by tests of their own."""


def _commands(text):
    """Lines of code that begin with a program that is ours to answer for, without comments and prompts."""
    for block, inline, indented in _CODE.findall(text):
        for line in (block or inline or indented).replace("\\\n", " ").splitlines():
            words = re.split(r"\s#\s|\s{2,}#", f"{line.strip()} ")[0].strip().removeprefix("$ ").removeprefix("nice ")
            if words.split(" ")[0] in _WORDS and not words.startswith("pip install normbench gives"):
                yield words


def _places(text):
    """(name, path) of each "`name` in `path.py`", and of several names before one path."""
    for names, path in re.findall(r"((?:`\w+`(?:,| and|, and to)?\s+)+)in\s+`([\w/]+\.py)`", text):
        yield from ((name, path) for name in re.findall(r"\w+(?=`)", names))


FOUND = sorted({(page.name, line) for page in PAGES for line in _commands(page.read_text(encoding="utf-8"))})

PLACES = sorted({(page.name, *place) for page in PAGES for place in _places(page.read_text(encoding="utf-8"))})


def test_there_are_command_lines_and_places_to_look_at():
    assert len([line for _, line in FOUND if line.startswith("normbench ")]) > 30
    assert len([page for page, *_ in PLACES if page == "CONTRIBUTING.md"]) >= 5


@pytest.mark.parametrize(("page", "line"), [each for each in FOUND if each[1].startswith("normbench ")])
def test_the_command_takes_it(page, line):
    words = shlex.split(line.split(" | ")[0].split(" && ")[0].replace("[", "").replace("]", ""))[1:]
    if not words or set(words) & {"...", "…"} or words[-1] in ("--help", "--version"):
        return
    assert words[0] in cli._COMMANDS, f"{page}: {line}"
    if len(words) == 1 or re.fullmatch(r"[a-z]+(/[a-z]+)+", words[0]):
        return  # the name of a command, in a sentence
    parsed = cli._parser().parse_args([re.sub(r"[<>]", "", word) for word in words])
    assert parsed.run


@pytest.mark.parametrize(("page", "line"), [each for each in FOUND if each[1].startswith("make ")])
def test_make_has_the_target(page, line):
    names = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = [word for word in shlex.split(line)[1:] if "=" not in word and not word.startswith("-")]
    assert set(asked) <= names, f"{page}: {line}"


@pytest.mark.parametrize(("page", "line"), [each for each in FOUND if each[1].startswith("python ")])
def test_python_finds_what_it_is_told_to_run(page, line):
    words = [word for word in shlex.split(line)[1:] if not word.startswith("-X")]
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) or words[1] in ("pip", "venv", "build"), f"{page}: {line}"
    elif words[0].endswith(".py") and "/" in words[0]:
        assert (ROOT / words[0]).is_file(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "name", "path"), PLACES)
def test_what_stands_in_a_file_stands_there(page, name, path):
    assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), f"{page}: {name} in {path}"


@pytest.mark.parametrize("line", SHORT)
def test_the_short_ones_of_readme_run(line, tmp_path):
    assert line in (ROOT / "README.md").read_text(encoding="utf-8")
    words = shlex.split(line)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "normbench.cli.main", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_problem_of_ones_own_is_answered_as_readme_says(tmp_path):
    line = "normbench study layer_norm --shape 8x197x768 --dtype bfloat16 --target cpu h200"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8")
    words = [word for word in shlex.split(line)[1:] if word != "cpu"]  # compiled, not measured: a few seconds
    done = subprocess.run(
        [sys.executable, "-m", "normbench.cli.main", *words, "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Which variant to use" in done.stdout
    assert "h200, by predicted time" in done.stdout
