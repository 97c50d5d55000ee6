"""The committed notebooks agree with their percent files, hold no error, and show what they promise.

`make notebooks` executes them; these tests read what it left.
"""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
SOURCES = sorted(FOLDER.glob("n[0-9]*.py"))
IDS = [path.stem for path in SOURCES]
_ABSENT = "No run on a GPU is committed yet"
_EMPTY_BYTES = 2_000  # an SVG below it has axes at most


def _cells(source):
    """(kind, text) of each cell of a percent file."""
    body = source.read_text(encoding="utf-8").split("# ---\n", 2)[2]
    for part in re.split(r"^# %%", body, flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        if "[markdown]" in head:
            yield "markdown", re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE)
        else:
            yield "code", text.strip()


def _notebook(source):
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))


def _outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def _text(lines):
    return "".join(lines) if isinstance(lines, list) else lines


def test_there_are_notebooks():
    assert len(SOURCES) >= 5
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(IDS)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_the_executed_notebook_has_the_cells_of_its_source(source):
    executed = [(cell["cell_type"], _text(cell["source"]).strip()) for cell in _notebook(source)["cells"]]
    assert executed == list(_cells(source)), "run `make notebooks`"


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_every_cell_was_executed_in_order_and_none_failed(source):
    notebook = _notebook(source)
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert {output["output_type"] for output in _outputs(notebook)} <= {"execute_result", "display_data"}


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_no_figure_is_empty(source):
    outputs = _outputs(_notebook(source))
    figures = [_text(output["data"]["image/svg+xml"]) for output in outputs if "image/svg+xml" in output["data"]]
    assert figures or _ABSENT in json.dumps(outputs)
    for figure in figures:
        assert len(figure) > _EMPTY_BYTES
        assert len(re.findall(r"<(?:path|use|rect|polygon)\b", figure)) > 5


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_no_cell_shows_its_figure_twice(source):
    """What is drawn by pyplot, the notebook shows by itself, beside what the cell ends in."""
    shown = [cell.get("outputs", []) for cell in _notebook(source)["cells"]]
    assert all(sum(any("image" in kind for kind in each["data"]) for each in outputs) <= 1 for outputs in shown)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_it_begins_with_a_question_and_ends_with_answers_that_have_figures(source):
    cells = _notebook(source)["cells"]
    first = _text(cells[0]["source"])
    assert first.startswith("# ")
    assert "question" in first.lower()
    heading = max(place for place, cell in enumerate(cells) if "## " in _text(cell["source"]))
    assert re.search("## (?:The a|A)nswer", _text(cells[heading]["source"]))
    answer = _text(cells[heading + 1]["outputs"][0]["data"]["text/markdown"])
    assert "nan" not in answer.split()
    assert re.search(r"\d", answer) or _ABSENT in answer


@pytest.mark.parametrize(
    "source", [each for each in SOURCES if each.stem != "n8_norms_of_a_model"], ids=lambda each: each.stem
)
def test_it_closes_with_its_answer_in_one_figure(source):
    closing = _notebook(source)["cells"][-1]["outputs"][0]["data"]
    assert "image/svg+xml" in closing or _ABSENT in json.dumps(closing)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_it_is_smaller_than_a_megabyte(source):
    assert source.with_suffix(".ipynb").stat().st_size < 1_000_000


def test_no_path_of_the_machine_that_executed_them_is_left():
    for source in SOURCES:
        executed = source.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert not re.search(r"/(?:home|root|tmp|work|Users)/", executed)


def test_the_first_one_answers_its_four_questions():
    answer = _text(_notebook(FOLDER / "n1_batch_norm.py")["cells"][-2]["outputs"][0]["data"]["text/markdown"])
    questions = (
        "How many kernels",
        "Does folding reduce them",
        "What changes in bfloat16",
        "Is a Pallas kernel worth it",
    )
    for words in questions:
        sentence = answer.split(words, 1)[1].split("\n\n")[0]
        assert re.search(r"\d", sentence), words
