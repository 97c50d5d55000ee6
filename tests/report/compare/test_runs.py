"""`normbench compare` on two made-up runs."""

import json

import numpy as np
import pytest

from normbench.cli.main import main
from tests.report.synthetic_runs import full_tables, write_run


@pytest.fixture
def tables():
    made = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    for index, row in enumerate(made["compiled"]):
        row["hlo_sha256"] = f"{index:064x}"  # no two programs are identical
    made["ceilings"] = streaming()
    return made


def streaming():
    """Eight streaming programs, each by three processes, under both clocks."""
    rng = np.random.default_rng(0)
    return [
        {
            "device": "cpu", "program": program, "cache": "cold", "bytes": 2**size, "process": process,
            "sample": sample, "seconds": 2**size * 1e-10 * rng.lognormal(0, 0.003),
        }
        for program in ("negate", "negate, pipelined") for size in range(13, 21) for process in range(3)
        for sample in range(10)
    ]  # fmt: skip


def reprogrammed(tables, variant):
    """The tables with other programs for one variant."""
    return altered(tables, "compiled", **{variant: lambda row: {"hlo_sha256": row["hlo_sha256"].replace("0", "f")}})


def compare(capsys, *arguments):
    status = main(["compare", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def altered(tables, table, **by_variant):
    """The tables with columns of one variant's rows replaced by functions of the row."""
    changed = {name: [dict(row) for row in rows] for name, rows in tables.items()}
    for variant, change in by_variant.items():
        for row in changed[table]:
            if row["case"].endswith(f".{variant}") and row.get("status") in ("ok", None):
                row.update(change(row))
    return changed


def test_a_run_is_the_same_as_itself(tables, tmp_path, capsys):
    run = write_run(tmp_path / "a", tables)
    status, out, _ = compare(capsys, run, run, "--json", "--fail-on-slower")
    found = json.loads(out)
    assert status == 0
    assert not any(found[name] for name in ("fusion", "errors", "only_a", "only_b", "environment"))
    assert found["counts"]["slower"] == found["counts"]["faster"] == 0
    assert {row["clocks"] for row in found["times"]} == {"one clock"}


def test_a_slower_variant_is_found_and_fails_where_asked(tables, tmp_path, capsys):
    a = write_run(tmp_path / "a", tables)
    slower = altered(reprogrammed(tables, "naive"), "timings", naive=lambda row: {"seconds": row["seconds"] * 1.25})
    b = write_run(tmp_path / "b", slower)
    status, out, _ = compare(capsys, a, b)
    assert status == 0
    assert "SLOWER (2)" in out
    assert "+25.0%" in out
    assert compare(capsys, a, b, "--fail-on-slower")[0] == 1
    assert compare(capsys, b, a, "--fail-on-slower")[0] == 0  # faster


def test_clocks_that_disagree_are_named(tables, tmp_path, capsys):
    both = altered(tables, "timings")
    both["timings"] += [{**row, "clock": "pipelined"} for row in tables["timings"]]

    def only_wall(row):
        return {"seconds": row["seconds"] * (1.25 if row["clock"] == "wall" else 1)}

    a = write_run(tmp_path / "a", both)
    b = write_run(tmp_path / "b", altered(reprogrammed(both, "naive"), "timings", naive=only_wall))
    found = json.loads(compare(capsys, a, b, "--json", "--threshold", "0.05")[1])
    rows = [row for row in found["times"] if row["case"].endswith(".naive")]
    assert {row["clocks"] for row in rows} == {"wall SLOWER, pipelined SAME"}


def test_a_change_of_fusion_is_reported_where_time_is_the_same(tables, tmp_path, capsys):
    changed = altered(tables, "compiled", folded=lambda row: {"launches": 3, "traffic_ratio": 2.5})
    extra = [row for row in changed["launches"] if row["case"].endswith(".folded")]
    changed["launches"] += [{**row, "index": 5, "kind": "triton"} for row in extra]
    a, b = write_run(tmp_path / "a", tables), write_run(tmp_path / "b", changed)
    status, out, _ = compare(capsys, a, b, "--fail-on-slower")
    assert status == 0
    assert "1 → 3 launches; 1.00 → 2.50 × the minimum bytes; kinds: triton 0 → 1" in out
    assert "0 FASTER, 0 SLOWER" in out
    assert compare(capsys, a, b, "--fail-on-change")[0] == 1
    assert compare(capsys, a, a, "--fail-on-change")[0] == 0


def test_a_program_that_did_not_change_cannot_be_slower(tables, tmp_path, capsys):
    a = write_run(tmp_path / "a", tables)
    b = write_run(tmp_path / "b", altered(tables, "timings", naive=lambda row: {"seconds": row["seconds"] * 1.25}))
    found = json.loads(compare(capsys, a, b, "--json")[1])
    own = [row for row in found["times"] if row["case"].endswith(".naive")]
    assert {row["verdict"] for row in own} == {"AMBIGUOUS"}
    assert {row["reason"] for row in own} <= {"same_program", "drift"}


def test_variants_of_one_run_are_compared_problem_by_problem(tables, tmp_path, capsys):
    slower = altered(tables, "timings", folded=lambda row: {"seconds": row["seconds"] * 2})
    run = write_run(tmp_path / "a", slower)
    found = json.loads(compare(capsys, run, "--variants", "naive", "folded", "--json")[1])
    assert {row["verdict"] for row in found["times"]} == {"SLOWER"}
    assert not any(row["case"].endswith(".naive") for row in found["times"])
    assert found["only_a"] == []
    back = json.loads(compare(capsys, run, "--variants", "folded", "naive", "--json")[1])
    assert {row["verdict"] for row in back["times"]} == {"FASTER"}


def test_a_change_of_error_or_status_is_reported(tables, tmp_path, capsys):
    changed = altered(tables, "accuracy", folded=lambda row: {"max_ulp": 9.0})
    changed = altered(changed, "compiled", naive=lambda row: {"status": "failed", "reason": "it broke"})
    a, b = write_run(tmp_path / "a", tables), write_run(tmp_path / "b", changed)
    _, out, _ = compare(capsys, a, b)
    assert "3.00 → 9.00 ulp" in out
    assert "ok → failed: it broke" in out


def test_cases_of_one_run_only_are_listed(tables, tmp_path, capsys):
    fewer = {name: [r for r in rows if not r.get("case", "").endswith(".folded")] for name, rows in tables.items()}
    a, b = write_run(tmp_path / "a", tables), write_run(tmp_path / "b", fewer)
    assert "ONLY IN A (2)" in compare(capsys, a, b)[1]
    assert "ONLY IN B (2)" in compare(capsys, b, a)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("RUN", "nowhere"), "nowhere"),
        (("RUN", "RUN", "--threshold", "3"), "threshold 3"),
        (("RUN",), "two run folders"),
        (("RUN", "RUN", "--variants", "naive", "folded"), "one with --variants"),
        (("RUN", "--variants", "naive", "nosuch"), "'nosuch'; allowed: "),
        (("--golden", "0.10.2", "HEAD"), "not of a kind"),
        (("--golden", "nosuchrevision", "HEAD"), "nosuchrevision"),
        (("RUN", "--golden", "HEAD", "HEAD"), "leave out runs"),
    ],
)
def test_bad_usage_exits_with_2(arguments, words, tables, tmp_path, capsys):
    run = write_run(tmp_path / "a", tables)
    status, _, err = compare(capsys, *(run if word == "RUN" else word for word in arguments))
    assert status == 2
    assert words in err
    assert "Traceback" not in err
