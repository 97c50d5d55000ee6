"""The atlas: medians over the problems of a group, the best by bytes, the fastest by intervals; counted again here."""

from statistics import median

import pytest

from normbench.report import load_run, terminal_table, write_plots
from normbench.report.data.atlas import GROUP, atlas, atlas_rows
from normbench.report.data.recommendation import recommendations
from normbench.report.data.summary import digest
from normbench.report.page.atlas import MEASURES, atlas_data
from normbench.report.plots import scatter as plots
from tests.report.synthetic_runs import (
    accuracy_row,
    case_row,
    compiled_rows,
    full_tables,
    timing_rows,
    trouble,
    write_run,
)

SHAPES = ("8x16x32x32", "1x64x56x56", "4x8x14x14")


def _compiled(case, launches, ratio, target="h200"):
    return {**compiled_rows(case, target)[0], "launches": launches, "traffic_ratio": ratio}


def _table(tmp_path, cases, compiled, **others):
    run = load_run(write_run(tmp_path / "run", {"cases": cases, "compiled": compiled, **others}))
    return digest(run).atlas


def _marked(table, column):
    return table.loc[table[column], "variant"].tolist()


def test_cells_are_medians_over_the_problems_of_a_group(run):
    tables = full_tables()
    rows = {(row["case"], row["target"]): row for row in tables["compiled"]}
    for row in digest(run).atlas.itertuples():
        mine = [
            rows[case["case"], row.target]
            for case in tables["cases"]
            if all(case[name] == getattr(row, name) for name in ("operator", "layout", "context", "dtype", "variant"))
        ]
        assert row.n == len(mine) == 2
        assert row.launches == median(each["launches"] for each in mine)
        assert row.traffic_ratio == median(each["traffic_ratio"] for each in mine)


def test_layouts_passes_contexts_and_dtypes_are_kept_apart(tmp_path):
    kinds = [{}, {"layout": "nhwc"}, {"pass": "backward"}, {"context": "silu"}, {"param_dtype": "bfloat16"}]
    cases = [{**case_row("batch_norm", "naive"), **kind, "case": f"case-{n}"} for n, kind in enumerate(kinds)]
    table = _table(tmp_path, cases, [_compiled(case, 1, 1.0) for case in cases])
    assert table["n"].tolist() == [1] * 5
    labels = [row.label for row in atlas_rows(table)]
    assert len(set(labels)) == 5
    assert "nhwc forward f32" in labels
    assert "nchw forward f32/bf16" in labels


def test_best_has_the_fewest_bytes_then_the_fewest_launches_and_ties_are_all_named(tmp_path):
    measured = {"naive": (2, 2.0), "folded": (3, 1.001), "prefolded": (1, 1.0), "pallas_triton": (1, 1.004)}
    cases = [case_row("batch_norm", variant) for variant in measured]
    table = _table(tmp_path, cases, [_compiled(case, *measured[case["variant"]]) for case in cases])
    assert _marked(table, "best") == ["prefolded", "pallas_triton"]


def test_a_variant_that_refuses_problems_says_so_and_cannot_be_best(tmp_path):
    cases = [case_row("batch_norm", variant, shape) for shape in SHAPES for variant in ("naive", "folded")]
    compiled = [_compiled(case, 2, 2.0) for case in cases if case["variant"] == "naive"]
    folded = [case for case in cases if case["variant"] == "folded"]
    compiled += [_compiled(case, 1, 1.0) for case in folded[1:]]
    compiled.append(trouble(folded[0], "unsupported", "too small", "h200", "compiled"))
    table = _table(tmp_path, cases, compiled)
    assert _marked(table, "best") == ["naive"]
    (row,) = atlas_rows(table)
    assert row.cells == {"naive": "2 2.00", "folded": "1 1.00 of 2"}
    assert row.n == 3


def test_a_wrong_result_is_never_best(tmp_path):
    cases = [case_row("batch_norm", "naive"), case_row("batch_norm", "folded")]
    compiled = [_compiled(cases[0], 2, 2.0), _compiled(cases[1], 1, 1.0)]
    table = _table(tmp_path, cases, compiled, accuracy=[accuracy_row(cases[1], status="wrong", reason="far off")])
    assert _marked(table, "best") == ["naive"]


@pytest.mark.parametrize(("own", "told_apart"), [(0.8, True), (0.9995, False)])
def test_the_fastest_is_told_apart_only_where_intervals_do_not_overlap(tmp_path, own, told_apart):
    cases = [case_row("batch_norm", variant, shape) for shape in SHAPES for variant in ("naive", "folded")]
    timings = [
        row for case in cases for row in timing_rows(case, seconds=1e-4 * (own if case["variant"] == "folded" else 1.0))
    ]
    table = _table(tmp_path, cases, [_compiled(case, 1, 1.0, "cpu") for case in cases], timings=timings)
    assert len(_marked(table, "fastest")) == 1
    assert _marked(table, "not_told_apart") == [] if told_apart else len(_marked(table, "not_told_apart")) == 1
    (row,) = atlas_rows(table)
    assert ("not told apart from" in row.fastest) == (not told_apart)
    if told_apart:
        assert row.fastest.startswith("folded 0.8")


def test_the_interval_is_that_of_the_medians(run):
    ratios = digest(run).ratios.merge(run.cases[["case", "operator", "dtype", "variant"]], on="case")
    for row in digest(run).atlas.query("target == 'cpu' and timed > 0").itertuples():
        mine = ratios[ratios["cache"] == "cold"].merge(
            digest(run).atlas.loc[[row.Index], ["operator", "dtype", "variant"]], on=["operator", "dtype", "variant"]
        )
        assert row.series == "wall_cold"
        assert (row.time_ratio, row.time_low, row.time_high) == pytest.approx(
            tuple(mine[name].median() for name in ("ratio", "ratio_low", "ratio_high"))
        )


def test_targets_with_the_same_figures_share_a_row(tmp_path):
    run = load_run(write_run(tmp_path / "run", full_tables(targets=("h200", "a100"))))
    rows = atlas_rows(digest(run).atlas)
    assert {row.targets for row in rows} == {("h200", "a100")}
    assert [row.group["dtype"] for row in rows[:2]] == ["bfloat16", "float32"]
    text = terminal_table(run, 120)
    assert "nchw forward bf16 · h200 a100  2  1 1.00*" in text


def test_narrow_tables_put_the_rest_of_the_variants_below(run):
    text = terminal_table(run, 60)
    for variant in ("naive", "folded", "prefolded", "pallas_triton", "naive_promoting"):
        assert variant in text[text.index("Atlas:") :]
    assert max(map(len, text.splitlines())) <= 60


def test_the_picture_frames_the_best_and_holds_the_medians(run):
    part = digest(run).atlas.query("dtype == 'bfloat16'")
    figure = plots.atlas(part, "caption")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["cpu", "h200"]
    for axes, (_, mine) in zip(figure.axes, part.groupby("target", sort=False), strict=True):
        known = mine[mine["n"] > 0]
        drawn = sorted(text.get_text() for text in axes.texts)
        assert drawn == sorted(f"{ratio:.2f}" for ratio in known["traffic_ratio"])
        assert len(axes.patches) == 2 * known["best"].sum()


def test_the_picture_has_in_brackets_what_computes_only_some_of_the_problems(tmp_path):
    """By these, one that refuses the hard problems would look as if it were the best."""
    cases = [case_row("batch_norm", "naive", shape=shape) for shape in ("8x16x32x32", "8x16x64x64")]
    leaner = {**cases[0], "variant": "leaner", "case": "leaner", "baseline": False}
    compiled = [*(_compiled(case, 1, 1.5, "h200") for case in cases), _compiled(leaner, 1, 1.0, "h200")]
    figure = plots.atlas(_table(tmp_path, [*cases, leaner], compiled), "caption")
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["(1.00)", "1.50"]
    assert "In brackets" in " ".join(text.get_text() for text in figure.texts)


def test_many_variants_and_targets_are_stacked(tmp_path):
    names = [f"variant_{number}" for number in range(15)]
    cases = [{**case_row("batch_norm", "naive"), "variant": name, "case": name, "baseline": False} for name in names]
    targets = ("h200", "h100", "a100")
    table = _table(tmp_path, cases, [_compiled(case, 1, 1.5, target) for target in targets for case in cases])
    figure = plots.atlas(table, "caption")
    assert figure.get_figwidth() <= 15
    assert len(figure.axes) == 3


def test_plots_are_written_as_files(tmp_path):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("bfloat16",), targets=("h200", "a100"))
    run = load_run(write_run(tmp_path / "run", tables))
    written = write_plots(run, tmp_path / "plots")
    names = {path.name for path in written}
    assert {"atlas-bfloat16.svg", "atlas-bfloat16-h200.svg", "conv_bn-forward-traffic.svg"} <= names
    assert all(path.read_text(encoding="utf-8").startswith("<svg") for path in written)


def test_an_empty_run_has_an_empty_atlas(tmp_path):
    run = load_run(write_run(tmp_path / "run", {}))
    assert atlas(digest(run).summary).empty
    assert write_plots(run, tmp_path / "plots") == []


def test_the_atlas_of_the_page_has_every_group_with_its_medians_and_what_to_use(run):
    data, shown = digest(run), atlas_data(digest(run))
    names = [name for name, _ in MEASURES]
    rows = data.summary
    assert shown["targets"] == ["cpu", "h200"]
    told = {(one.target, *one.group): one for one in recommendations(data, GROUP)}
    for target, pass_, dtype, operator, layout, context, problems, use, basis, _, cells in shown["rows"]:
        mine = rows[(rows["target"] == target) & (rows["pass"] == pass_) & (rows["dtype"] == dtype)]
        mine = mine[(mine["operator"] == operator) & (mine["layout"] == layout) & (mine["context"] == context)]
        assert problems == mine["problem"].nunique()
        one = told[target, operator, layout, pass_, context, dtype, str(mine["param_dtype"].iloc[0])]
        assert (use, basis) == (one.variant, "time" if target == "cpu" else "predicted")
        for variant, _, values in cells:
            part = mine[mine["variant"] == variant]
            for name, column in (("traffic", "traffic_ratio"), ("launches", "launches"), ("time", "wall_cold_ratio")):
                value = values[names.index(name)]
                expected = part[column].astype(float).median()
                assert value is None if expected != expected else value == pytest.approx(expected, rel=1e-4)
            worst = part["max_ulp"].astype(float).max()
            assert values[names.index("error")] == (None if worst != worst else pytest.approx(worst, rel=1e-4))
