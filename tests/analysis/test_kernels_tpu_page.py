"""The table of what the kernels for TPUs move: made of the file, and as the page has it."""

from pathlib import Path

from analysis.pages.kernels_tpu import (
    BEGIN,
    END,
    MOST_OF_LEAST,
    PAGE,
    PATH,
    TARGETS,
    Row,
    problems,
    read,
    section,
    write,
)

ROOT = Path(__file__).resolve().parents[2]


def row(target="v6e", moved=100, least=100, xla=150, reason="", context="alone"):
    return Row(f"layer_norm.{context}.8x16.nc.bf16.f32.forward", target, moved, least, xla, 100 * bool(xla), reason)


def test_the_page_is_as_the_file_has_it():
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0].strip() == section(read(ROOT / PATH))


def test_every_problem_of_standard_is_in_the_file_and_none_that_is_supported_moves_more():
    rows = read(ROOT / PATH)
    slugs = {case.slug.removesuffix(".pallas_tpu") for case in problems("pallas_tpu")}
    assert {(one.problem, one.target) for one in rows} == {(slug, target) for slug in slugs for target in TARGETS}
    assert all(one.reason or one.share <= MOST_OF_LEAST for one in rows)


def test_shares_are_told_by_operator_pass_and_context():
    rows = (row(), row(moved=125), row("tpu7x", xla=0), row(context="residual"), row("tpu7x", 0, 0, 0, "it is long"))
    text = section(rows)
    assert "| layer_norm | forward | any other | 2 | 1.00 to 1.25 | 1.00 | 1.50 |" in text
    assert "| layer_norm | forward | residual | 1 | 1.00 | – | 1.50 |" in text
    assert "- v6e: 2 of 3 problems move at most 1.05 × the least, the worst 1.250 ×; 0 are refused." in text
    assert "- tpu7x: 1 of 1 problems move at most 1.05 × the least, the worst 1.000 ×; 1 are refused." in text


def test_a_file_holds_what_was_written(tmp_path):
    rows = (row(), row("tpu7x", 0, 0, 0, 'it is "long", and wide'))
    write(rows, tmp_path / "rows.csv")
    assert read(tmp_path / "rows.csv") == rows
    assert read(tmp_path / "none.csv") == ()
