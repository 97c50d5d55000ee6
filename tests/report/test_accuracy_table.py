"""The table of accuracy has a row per dtype, with what each error may be beside it."""

import math

from normbench.report.data.accuracy import accuracy_table
from normbench.report.data.frames import load_run
from normbench.report.terminal.overview import accuracy_lines
from tests.report.synthetic_runs import accuracy_row, case_row, write_run


def test_errors_stand_beside_their_bounds_by_dtype(tmp_path):
    narrow, wide, other = (
        case_row("batch_norm", "folded", dtype="bfloat16"),
        case_row("batch_norm", "folded"),
        case_row("batch_norm", "naive"),
    )
    accuracy = [
        accuracy_row(narrow, max_rel=4e-3, bound=2e-2, ulp_dtype="bfloat16", hard_max_rel=4e-3, hard_bound=2e-2),
        accuracy_row(wide, max_rel=1e-7, bound=1e-6, ulp_dtype="float32", hard_max_rel=200.0, hard_bound=math.nan),
        accuracy_row(other, status="wrong", reason="far off", max_rel=0.5, bound=1e-6),
    ]
    run = load_run(write_run(tmp_path / "run", {"cases": [narrow, wide, other], "accuracy": accuracy}))
    rows = {(row["dtype"], row["variant"]): row for row in accuracy_table(run).to_dict("records")}
    first, second, third = (
        rows["bfloat16", "folded"],
        rows["float32", "folded"],
        rows["float32", "naive"],
    )
    assert (first["of"], first["error"], first["bound"], first["declared"]) == (
        "bfloat16", "4.0e-03", "2.0e-02", "2.0e-02",
    )  # fmt: skip
    assert (second["of"], second["hard"], second["declared"]) == ("float32", "2.0e+02", "void")
    assert (third["wrong"], third["error"]) == ("1", "-")
    assert any("declared" in line for line in accuracy_lines(run, 100))
