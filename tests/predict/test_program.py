"""Predictions of compiled programs: seconds, their range, and what bounds them."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from normbench import explain, kernels
from normbench.fusion.machine_code import assembly
from normbench.fusion.targets import deviceless_target
from normbench.jax_compat.triton import triton_call, triton_load, triton_program_id, triton_store
from normbench.kernels import Problem
from normbench.predict import known_error
from normbench.predict.devices import device_of
from normbench.predict.model import norm
from normbench.predict.program import predict
from normbench.report import load_run

pytest.importorskip("jax_cuda13_plugin")

ROOT = Path(__file__).resolve().parents[2]


def of_variant(operator, variant, shape, pass_="forward", layout="nc", dtype="bfloat16", target="h200", **options):
    problem = Problem(operator, shape, layout, dtype, "float32", pass_=pass_, options=tuple(options.items()))
    program = kernels.program(problem, variant)
    return explain(program.function, *program.inputs, target=target)


def sums(programs, rows, columns):
    """Sums over the rows in few blocks that each walk over many of them, as a backward pass does."""
    each = rows // programs

    def kernel(x_ref, y_ref):
        program, lanes = triton_program_id(), jax.lax.iota(jnp.int32, columns)

        def step(i, total):
            return total + triton_load(x_ref, (program * each + i) * columns + lanes).astype(jnp.float32)

        triton_store(y_ref, program * columns + lanes, jax.lax.fori_loop(0, each, step, jnp.zeros(columns)))

    out = jax.ShapeDtypeStruct((programs * columns,), "float32")
    return triton_call(kernel, grid=programs, out=out, warps=8, name="sums"), jax.ShapeDtypeStruct(
        (rows * columns,), "bfloat16"
    )


def checked(report):
    """What holds of every prediction."""
    low, high = report.predicted_range_s
    assert 0 < low <= report.predicted_s <= high
    table = report.launches
    assert (table["predicted_low_s"] <= table["predicted_s"]).all()
    assert (table["predicted_s"] <= table["predicted_high_s"]).all()
    assert table["predicted_s"].sum() == pytest.approx(report.predicted_s)
    assert table["bound"].str.len().min() > 0
    assert set(table["predicted_from"]) <= {"ptx and sass", "ptx", "operations", "bytes", "interconnect"}
    return report


def test_a_forward_pass_that_streams_takes_its_bytes():
    """Two passes over 67 MB at 0.91 of 4.8 TB/s are 31 us, and each of 8192 blocks has its latency."""
    report = checked(of_variant("layer_norm", "pallas_triton", (8192, 4096)))
    assert report.predicted_s == pytest.approx(36e-6, rel=0.1)
    assert report.bytes_s < report.predicted_s


def test_few_blocks_are_told():
    function, x = sums(40, 8192, 4096)
    report = checked(explain(function, x, target="h200"))
    (row,) = report.launches.to_dict("records")
    assert row["bound"].startswith("40 blocks on 132 multiprocessors; ")
    assert row["waves"] < 1
    assert report.predicted_s > 2 * report.bytes_s
    spread, _ = sums(512, 8192, 4096)
    assert explain(spread, x, target="h200").predicted_s < report.predicted_s / 2
    assert "40 blocks" in repr(report)
    assert "predicted (not measured)" in " ".join(repr(report).split())


_PEAKS = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12}  # dense, bfloat16, by datasheet


@pytest.mark.parametrize("target", _PEAKS)
def test_a_product_is_taken_by_its_operations(target):
    square = jax.ShapeDtypeStruct((4096, 4096), "bfloat16")
    report = checked(explain(lambda a, b: a @ b, square, square, target=target))
    (row,) = report.launches.to_dict("records")
    assert row["predicted_from"] == "operations"
    assert row["bound"].startswith("operations")
    assert report.predicted_s == pytest.approx(2 * 4096**3 / (0.7 * _PEAKS[target]), rel=0.2)


@pytest.mark.parametrize("variant", ["pallas_triton", "pallas_mosaic"])
@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize(
    ("operator", "shape", "layout"),
    [("rms_norm", (4096, 4096), "nc"), ("batch_norm_training", (32, 14, 14, 1024), "nhwc")],
)
def test_hand_written_kernels_have_a_bound_in_words(operator, shape, layout, variant, pass_):
    report = checked(of_variant(operator, variant, shape, pass_, layout))
    hand_written = report.launches[report.launches["kind"] == "pallas"]
    assert len(hand_written)
    assert hand_written["predicted_from"].isin(["ptx and sass", "ptx"]).all()
    assert hand_written["bytes_in_flight"].notna().all()
    assert (hand_written["occupancy"] <= 1).all()


def test_so_has_every_one_of_the_committed_run():
    launches = load_run(ROOT / "results" / "runs" / "standard").tables["launches"]
    hand_written = launches[launches["case"].str.contains(".pallas_", regex=False)]
    assert hand_written["case"].nunique() > 200
    assert (hand_written["bound"].str.len() > 0).all()
    assert hand_written["predicted_low_s"].le(hand_written["predicted_s"]).all()
    assert hand_written["predicted_s"].le(hand_written["predicted_high_s"]).all()


@pytest.fixture
def without_machine_code(monkeypatch):
    """What was assembled is forgotten, before and after."""
    assembly._assembled.cache_clear()
    monkeypatch.setattr(assembly, "find_ptxas", lambda: None)
    monkeypatch.setattr(assembly, "kernels_of_cubin", lambda _: {})
    yield
    assembly._assembled.cache_clear()


def test_without_machine_code_the_prediction_says_so(request):
    report = of_variant("rms_norm", "pallas_triton", (4096, 4096))
    assert report.predicted_s is not None
    request.getfixturevalue("without_machine_code")
    (launch,) = predict(report.compilation.reading, "h200").launches
    assert launch.source == "ptx"
    assert launch.low_s < launch.seconds < launch.high_s
    assert launch.seconds == pytest.approx(report.predicted_s, rel=0.3)


def test_nothing_is_predicted_for_a_device_that_is_not_known():
    report = explain(lambda x: x + 1, jax.ShapeDtypeStruct((64, 64), "float32"), target="cpu")
    assert report.predicted_s is None
    assert report.predicted_range_s is None
    assert report.bounds == ()
    reading = report.compilation.reading
    assert predict(reading, "gpu").seconds is None
    assert predict(reading, replace(deviceless_target("h200"), device_name="another", config="")).seconds is None


def test_ranges_lie_around_the_prediction():
    ranges = [*known_error.RANGES.values(), *known_error.RANGES_ASSUMED.values()]
    assert all(known.low < 1 < known.high for known in ranges)


def test_less_is_known_of_a_device_of_which_much_is_assumed():
    devices = {name: device_of(deviceless_target(name)) for name in ("a100", "h100", "h200", "b200")}
    assert [name for name, device in devices.items() if device is not None and device.assumed] == ["b200"]
    for kind in known_error.RANGES:
        known, assumed = known_error.range_of(kind, assumed=False), known_error.range_of(kind, assumed=True)
        assert assumed.low <= known.low
        assert assumed.high >= known.high


def test_the_norm_is_a_maximum_that_grows_where_two_are_close():
    assert norm([1.0, 0.0]) == 1.0
    assert norm([1.0, 1.0]) == pytest.approx(2 ** (1 / 6))
    assert norm([0.0, 0.0]) == 0.0
