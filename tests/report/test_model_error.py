"""The model's error, on runs whose numbers are made up so that it is known beforehand."""

import pytest

from normbench.report import load_run, terminal_table
from normbench.report.data.summary import digest
from normbench.report.model.calibration import calibration
from normbench.report.model.error import (
    ABSENT,
    calibrations,
    case_errors,
    launch_errors,
    model_error_lines,
    poor,
    spread,
)
from normbench.report.model.predictions import CONFIG, attained, foreseen, predicted, same_device
from normbench.report.model.trust_map import order_lines, orders, trust_lines, trust_of_cases, trust_of_launches
from normbench.report.page.model_section import model_section
from normbench.report.plots.figure_parts import to_svg
from normbench.report.plots.gallery import model_pictures
from normbench.schema import TABLES
from tests.report.synthetic_runs import case_row, write_run

CALL_S, LAUNCH_S, BANDWIDTH = 8e-6, 2e-6, 1e9
SHAPES = tuple(f"{n}x16x32x32" for n in (1, 2, 3, 4))
SLOWER = {"loop": 2.0, "reduction": 3.0}
"""How much longer than streaming a launch of a kind takes in the run that is made up."""


def ceilings(device, clock):
    suffix = "" if clock == "wall" else f", {clock}"

    def row(program, size, seconds):
        columns = ("device", "program", "cache", "bytes", "process", "sample", "seconds")
        return dict(zip(columns, (device, program + suffix, "cold", size, 0, 0, seconds), strict=True))

    rows = [row("launch 1", None, CALL_S)]
    rows += [row("scale", 2**power, CALL_S + 2**power / BANDWIDTH) for power in range(13, 24)]
    rows += [row("triad", 2**power, CALL_S + 2 * 2**power / BANDWIDTH) for power in range(13, 24)]
    return rows + ([row("launch 5", None, CALL_S + 4 * LAUNCH_S)] if device == "gpu" else [])


def made(device="cpu", clock="pipelined", target=None, slower=SLOWER, **case):
    """A run of a problem per shape and two variants: a loop and a reduction each, the second variant with half the
    bytes; measured `slower` times what streaming takes."""
    tables = {name: [] for name in TABLES}
    tables["ceilings"] = ceilings(device, clock)
    launch_s = LAUNCH_S if device == "gpu" else 0.0
    for shape in SHAPES:
        for variant, share in (("naive", 1), ("folded", 2)):
            row = case_row("batch_norm", variant, shape, **case)
            tables["cases"].append(row)
            slug, size, whole = row["case"], 4 * row["elements"] // share, 0.0
            for index, (kind, factor) in enumerate(slower.items()):
                launch = {"case": slug, "index": index, "name": f"{kind}_fusion.{index}", "kind": kind}
                launch |= {"read_bytes": size, "write_bytes": size, "bytes_s": 1e-6 + 2 * size / 4.8e12}
                seconds = factor * (launch_s + 2 * size / BANDWIDTH)
                whole += seconds
                timed = {"case": slug, "device": device, "name": launch["name"], "source": "trace", "status": "ok"}
                tables["launch_times"] += [{**timed, "sample": one, "seconds": seconds} for one in range(3)]
                for place in {device, target or device}:
                    known = launch["bytes_s"] if place == target else None
                    foretold = {"bytes_s": known, "predicted_s": known and 1.2 * known}
                    tables["launches"].append({**launch, "target": place, **foretold})
            for place in {device, target or device}:
                tables["compiled"].append({"case": slug, "target": place, "launches": 2, "status": "ok"})
            for cache in ("cold", "warm"):
                timed = {"case": slug, "device": device, "stage": "call", "clock": clock, "cache": cache}
                seconds = CALL_S - launch_s + whole
                tables["timings"] += [{**timed, "process": 0, "sample": 0, "seconds": seconds, "status": "ok"}]
    return tables


def read(tmp_path, tables, **info):
    return load_run(write_run(tmp_path / "run", tables, **info))


@pytest.fixture
def cpu_run(tmp_path):
    return read(tmp_path, made())


def test_a_device_is_calibrated_by_its_own_ceilings(cpu_run):
    costs = calibrations(cpu_run)["cpu"]
    assert (costs.clock, costs.call_s, costs.launch_known) == ("pipelined", CALL_S, False)
    sizes = [1.0, 2**13, 3e5, 2**23, 1e9]  # within and beyond those that were measured
    assert costs.launches_s(sizes) == pytest.approx([size / BANDWIDTH for size in sizes], rel=1e-6)
    assert "8.00 µs" in costs.sentence()


def test_a_further_launch_costs_what_four_more_took(tmp_path):
    run = read(tmp_path, made("gpu", "device_kernels"))
    costs = calibration(run.ceilings, "gpu")
    assert costs.launch_s == pytest.approx(LAUNCH_S)
    assert costs.of_call(2 * LAUNCH_S) == pytest.approx(CALL_S + LAUNCH_S)


def test_the_device_s_own_clock_goes_first_and_one_without_streaming_is_passed_over(tmp_path):
    tables = made("gpu", "pipelined")
    tables["ceilings"] += [row for row in ceilings("gpu", "device_kernels") if row["bytes"] is None]
    assert calibration(read(tmp_path, tables).ceilings, "gpu").clock == "pipelined"
    tables["ceilings"] += ceilings("gpu", "device_kernels")
    assert calibration(read(tmp_path, tables).ceilings, "gpu").clock == "device_kernels"


def test_the_error_of_streaming_is_what_launches_are_slower_by(cpu_run):
    errors = launch_errors(cpu_run).query("model == 'streaming'")
    assert len(errors) == 2 * 2 * len(SHAPES)
    for kind, rows in errors.groupby("kind"):
        assert rows["error"].tolist() == pytest.approx([SLOWER[kind] - 1] * len(rows), rel=1e-6)


def test_what_a_kind_attains_corrects_the_prediction(cpu_run):
    errors = launch_errors(cpu_run).query("model == 'attained'")
    assert len(errors) == 2 * 2 * len(SHAPES)
    assert errors["off"].max() == pytest.approx(0.0, abs=1e-6)
    rates = attained(predicted(cpu_run, "cpu", calibrations(cpu_run)["cpu"])[0]).set_index(["kind", "decade"])
    assert rates["share"]["loop", 5.0] == pytest.approx(1 / SLOWER["loop"])


def test_a_problem_is_never_predicted_from_its_own_launches(tmp_path):
    tables = made()
    odd = [row["case"] for row in tables["cases"] if row["shape"] == SHAPES[0]]
    for row in tables["launch_times"]:
        row["seconds"] *= 10 if row["case"] in odd else 1
    errors = launch_errors(read(tmp_path, tables)).query("model == 'attained' and case in @odd")
    assert errors["error"].tolist() == pytest.approx([9.0] * 4, rel=1e-6)


def test_too_few_other_launches_predict_nothing(tmp_path):
    tables = made()
    keep = {row["case"] for row in tables["cases"] if row["shape"] in SHAPES[:2]}
    tables["launch_times"] = [row for row in tables["launch_times"] if row["case"] in keep]
    errors = launch_errors(read(tmp_path, tables))
    assert set(errors["model"]) == {"streaming"}


def test_cases_are_predicted_by_their_launches_and_one_call(cpu_run):
    errors = case_errors(cpu_run).set_index(["model", "case"])
    assert len(errors) == 2 * 2 * len(SHAPES)
    row = errors.loc["streaming", cpu_run.cases["case"].iloc[0]]
    assert row["predicted_s"] == pytest.approx(CALL_S + 2 * 2 * 4 * 16 * 32 * 32 / BANDWIDTH, rel=1e-6)
    assert errors.loc["attained"]["off"].max() == pytest.approx(0.0, abs=1e-6)


def test_an_error_counts_the_same_in_either_direction(tmp_path):
    off = [launch_errors(read(tmp_path, made(slower={"loop": factor})))["off"].iloc[0] for factor in (4.0, 0.25)]
    assert off == pytest.approx([3.0, 3.0])


def test_a_launch_that_moves_nothing_or_was_not_told_has_no_error(tmp_path):
    tables = made()
    tables["launches"][0] |= {"read_bytes": 0, "write_bytes": 0}
    tables["launch_times"] = [row for row in tables["launch_times"] if row["case"] != tables["cases"][-1]["case"]]
    run = read(tmp_path, tables)
    assert len(launch_errors(run).query("model == 'streaming'")) == 2 * 2 * len(SHAPES) - 1 - 2
    assert tables["cases"][0]["case"] not in set(case_errors(run)["case"])


def test_a_gpu_is_predicted_by_the_target_that_names_the_same_device(tmp_path):
    tables = made("gpu", "device_kernels", target="h200")
    run = read(tmp_path, tables, environment={"devices": [{"platform": "gpu", "kind": "NVIDIA H200"}]})
    assert foreseen(run, "gpu")[1] == "h200, without the GPU"
    errors = launch_errors(run)
    assert set(errors["model"]) == {"compiled", "datasheet", "streaming", "attained"}
    by_model = errors.set_index(["case", "name"]).groupby("model")["predicted_s"]
    ratio = by_model.get_group("compiled") / by_model.get_group("datasheet")
    assert ratio.tolist() == pytest.approx([1.2] * len(ratio))
    assert (errors.query("model == 'datasheet'")["error"] > 10).all()  # made up a thousand times slower
    assert errors.query("model == 'streaming' and kind == 'loop'")["error"].tolist() == pytest.approx([1.0] * 8)
    assert not any("make gpu" in line for line in model_error_lines(run))


def test_a_gpu_that_no_target_names_is_taken_as_compiled_there(tmp_path):
    run = read(tmp_path, made("gpu", "device_kernels", target="h200"))
    assert "itself" in foreseen(run, "gpu")[1]
    assert set(launch_errors(run)["model"]) == {"streaming", "attained"}


def test_the_gpu_s_own_description_goes_before_a_target_s(tmp_path):
    tables = made("gpu", "device_kernels", target="h200")
    columns = TABLES["described_launches"]
    own = [row for row in tables["launches"] if row["target"] == "h200"]
    tables["described_launches"] = [{name: row.get(name) for name in columns} for row in own]
    tables["launches"] = [row for row in tables["launches"] if row["target"] == "gpu"]
    run = read(tmp_path, tables)
    (run.path / CONFIG).write_text('gpu_device_info {\n  name: "NVIDIA H200"\n}\n')
    assert "description" in foreseen(run, "gpu")[1]
    assert {"compiled", "datasheet"} <= set(case_errors(run)["model"])


@pytest.mark.parametrize("other", ["name", "bytes"])
def test_a_launch_that_is_another_on_the_gpu_is_not_joined(tmp_path, other):
    tables = made("gpu", "device_kernels", target="h200")
    for row in tables["launches"]:
        if row["target"] == "gpu":
            row |= {"name": "another"} if other == "name" else {"read_bytes": 1}
    for row in tables["launch_times"]:
        row["name"] = "another" if other == "name" else row["name"]
    run = read(tmp_path, tables, environment={"devices": [{"platform": "gpu", "kind": "NVIDIA H200"}]})
    assert launch_errors(run).empty
    assert len(case_errors(run)), "the cases were timed all the same"
    assert "launches that were timed on gpu, " in model_section(run, "")


def test_targets_are_known_by_the_name_of_their_device():
    assert same_device("NVIDIA H200") == "h200"
    assert same_device(None) is None


def test_where_no_model_is_good_one_line_says_so(tmp_path):
    tables = made()
    for number, row in enumerate(tables["launch_times"]):
        row["seconds"] *= 40.0 if number // 12 % 2 else 1.0  # from problem to problem
    odd = read(tmp_path, tables)
    ((device, line),) = poor(odd).items()
    assert device == "cpu"
    assert "is to be trusted" in line
    assert model_error_lines(odd).count(line) == 1
    assert not any("per case" in each for each in model_error_lines(odd))
    assert "<table" not in model_section(odd, "")


def test_without_a_gpu_the_command_is_named_and_no_figure(tmp_path):
    tables = made()
    tables["compiled"] += [{"case": row["case"], "target": "h200", "predicted_s": 1e-6} for row in tables["cases"]]
    lines = model_error_lines(read(tmp_path, tables))
    assert [line for line in lines if "h200" in line] == [lines[-1]]
    assert "make gpu PRESET=standard" in lines[-1]


def test_a_run_without_times_has_no_error(tmp_path):
    tables = made()
    tables["timings"] = tables["launch_times"] = tables["ceilings"] = []
    run = read(tmp_path, tables)
    assert model_error_lines(run) == [ABSENT]
    assert "no case of this run has both" in model_section(run, "")


def test_a_run_without_ceilings_has_times_and_no_error(tmp_path):
    tables = made()
    tables["ceilings"] = []
    assert model_error_lines(read(tmp_path, tables)) == [ABSENT]


def test_the_map_says_where_to_trust(tmp_path):
    run = read(tmp_path, made(slower={"loop": 1.1, "reduction": 2.5}))
    trust = trust_of_launches(run).query("model == 'streaming'").set_index(["kind", "decade"])["trust"]
    assert trust["loop", 5.0] == "trusted"
    assert trust["reduction", 5.0] == "not"
    text = "\n".join(trust_lines(run))
    assert "loop of 100 KB to 1 MB (10 %, measured longer, n " in text
    assert trust_of_cases(run).query("model == 'streaming'")["trust"].tolist() == ["rough"]


def test_few_cases_are_no_ground_for_trust(tmp_path):
    tables = made()
    few = {row["case"] for row in tables["cases"][:2]}
    tables["timings"] = [row for row in tables["timings"] if row["case"] in few]
    assert trust_of_cases(read(tmp_path, tables)).query("model == 'streaming'")["trust"].tolist() == ["few"]


def test_spread_is_median_and_ninetieth_percentile(cpu_run):
    errors = launch_errors(cpu_run).query("model == 'streaming'").assign(off=range(16))
    (row,) = spread(errors, ["device"]).to_dict("records")
    assert (row["n"], row["median"], row["p90"], row["hopeful"]) == (16, 7.5, 13.5, 1.0)


@pytest.mark.parametrize(
    ("measured", "verdict"), [(1.0, "right"), (4.0, "wrong"), (None, "silent")], ids=["right", "wrong", "silent"]
)
def test_the_order_of_variants_is_judged(tmp_path, measured, verdict):
    """The second variant has half the bytes, and is measured as that, or four times slower; or has as many bytes."""
    tables = made()
    for row in tables["launches"] if measured is None else tables["timings"]:
        if row["case"].endswith("folded"):
            for name in ("read_bytes", "write_bytes") if measured is None else ("seconds",):
                row[name] *= measured or 2
    run = read(tmp_path, tables)
    found = orders(run).query("model == 'streaming'").iloc[0]
    assert (found["pairs"], found[verdict]) == (len(SHAPES), len(SHAPES))
    assert verdict == "right" or "no better than chance" in order_lines(run)[0]


def test_a_difference_within_the_noise_is_no_order(tmp_path):
    tables = made()
    for row in tables["timings"]:
        row["seconds"] = 1e-5
    assert orders(read(tmp_path, tables)).empty


def test_the_pictures_have_their_figures_and_no_markup_of_their_own(cpu_run):
    drawn = {picture.name: to_svg(picture.figure, picture.name) for picture in model_pictures(digest(cpu_run))}
    assert list(drawn) == ["trust-operator-cpu", "trust-kind-cpu", "calibrated-cpu"]
    assert "factor 3.0" in drawn["trust-kind-cpu"]
    assert "n 8" in drawn["trust-operator-cpu"]
    assert "mathdefault" not in "".join(drawn.values())


def test_the_section_and_the_terminal_have_it(cpu_run):
    text = model_section(cpu_run, "<p>the map</p>")
    assert "factor 3.0" in text
    assert "<p>the map</p>" in text
    assert "8.00 µs" in text
    assert "Model 'streaming' on cpu, per case" in terminal_table(cpu_run, 200)
