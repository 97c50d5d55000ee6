"""The native kernels at their edges: blocks, strips and folds, all roundings, threads, and how they are built."""

import dataclasses
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import explain, kernels
from normbench.errors import UserError
from normbench.kernels import choice
from normbench.kernels.native import build
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import arrays_of, check, outputs

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

_BOTH = "forward_backward"
EDGES = (
    Problem("layer_norm", (70, 4097), "nc", "bfloat16", pass_=_BOTH, context="residual"),
    Problem("rms_norm", (9, 9001), "nc", pass_=_BOTH, context="silu"),
    Problem("group_norm", (3, 96), "nc", "float16", pass_=_BOTH),  # rows with a period
    Problem("group_norm", (2, 64, 67, 65), "nchw", pass_=_BOTH, context="gelu"),
    Problem("group_norm", (2, 63, 11, 320), "nhwc", "bfloat16", pass_=_BOTH, context="silu"),  # strips, and parts
    Problem("instance_norm", (1, 129, 131, 5), "nhwc", pass_=_BOTH),  # a fold that leaves rows over
    Problem("batch_norm_training", (3, 7, 101, 53), "nchw", "bfloat16", pass_=_BOTH, context="relu"),
    Problem("batch_norm_training", (7, 41, 43, 6), "nhwc", "float32", pass_=_BOTH, context="cast"),
    Problem("batch_norm_training", (3, 7, 9, 1031), "nhwc", pass_=_BOTH, context="relu"),  # strips of columns
    Problem("batch_norm_training", (5, 7, 9, 1100), "nhwc", "float16", pass_=_BOTH, context="silu"),
    Problem("instance_norm", (2, 20, 20, 530), "nhwc", "bfloat16", pass_=_BOTH),
    Problem("batch_norm", (2, 37, 41, 270), "nhwc", "float16", pass_=_BOTH, context="gelu"),
    Problem("local_response_norm", (2, 9, 13, 11), "nchw", "bfloat16", pass_=_BOTH, options=(("beta", 0.6),)),
)


@pytest.mark.parametrize("problem", EDGES, ids=lambda one: f"{one.operator}-{one.layout}-{one.shape[-1]}")
def test_it_is_right_where_blocks_strips_and_folds_end(problem):
    check(problem, "native")


@pytest.mark.parametrize(
    "problem", [EDGES[0], EDGES[4], EDGES[6], EDGES[8]], ids=lambda one: f"{one.operator}-{one.layout}"
)
def test_threads_leave_no_trace_in_the_result(problem):
    program = kernels.program(problem, "native")
    arrays = arrays_of(dataclasses.replace(problem, pass_="forward"))
    cotangent = jax.tree.map(lambda a: jnp.full(a.shape, 0.5, a.dtype), program.inputs[-1])
    function = jax.jit(program.function)
    first, *others = (function(tuple(arrays), cotangent) for _ in range(4))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, first)


def test_programs_that_run_at_once_do_not_disturb_each_other():
    problem = Problem("layer_norm", (512, 257), "nc")
    function = jax.jit(kernels.program(problem, "native").function)
    sets = [tuple(arrays_of(problem, seed=seed)) for seed in range(4)]
    alone = [np.asarray(function(*one)) for one in sets]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(25):
            for got, expected in zip(callers.map(lambda one: np.asarray(function(*one)), sets), alone, strict=True):
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("flags", [(), ("-fsanitize=thread",)], ids=["plain", "races looked for"])
def test_threads_do_each_task_once_also_together_and_after_a_fork(flags, tmp_path):
    program, sources = tmp_path / "threads", Path(__file__).with_name("native_threads.cc")
    includes = (f"-I{build.SOURCES}", f"-I{jax.ffi.include_dir()}")
    command = [str(build._compiler()), "-std=c++17", "-O1", "-g", *flags, *includes, "-pthread"]
    made = subprocess.run([*command, str(sources), "-o", str(program)], capture_output=True, text=True, check=False)
    if flags and "tsan" in made.stderr:
        pytest.skip("this compiler has no library that looks for races")
    assert made.returncode == 0, made.stderr
    environment = {**os.environ, "TSAN_OPTIONS": "die_after_fork=0"}
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, env=environment, check=False)
    if flags and "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel lays memory out as the library that looks for races cannot")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr[-3000:]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("operator", ["layer_norm", "group_norm", "instance_norm", "batch_norm_training"])
def test_constants_become_the_shift_exactly(operator, layout):
    shape = (2, 32, 33, 64) if layout == "nhwc" or operator == "layer_norm" else (2, 64, 32, 33)
    problem = Problem(operator, shape, "nhwc" if operator == "layer_norm" else layout, epsilon=1e-12)
    x, *others = arrays_of(problem)
    y = np.asarray(outputs(problem, "native", (jnp.full_like(x, 20.1), *others))[0])
    beta = np.asarray(others[1])
    lined_up = beta if layout == "nhwc" or operator == "layer_norm" else beta[:, None, None]
    np.testing.assert_array_equal(y, np.broadcast_to(lined_up, y.shape))


@pytest.mark.parametrize("columns", [255, 4096])
def test_a_pivot_far_from_the_mean_is_found_out(columns):
    x = 1e4 + np.random.default_rng(0).standard_normal((64, columns)).astype(np.float32)
    x[:, : 16 if columns > 255 else 1] = 0  # what the sums are first taken around
    y = np.asarray(kernels.get("layer_norm", "native")(jnp.asarray(x), None, None, epsilon=0.0), np.float64)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(1, keepdims=True)) / wide.std(1, keepdims=True)
    least = np.abs(exact[:, :1])  # of which the deviation is nearly the whole
    assert (np.abs(y[:, :1] - exact[:, :1]) <= 3e-7 * least).all()


def _floats() -> np.ndarray:
    """Of every exponent and sign: exact halves between two bfloat16, their neighbours, and what is no number."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    return np.concatenate([high | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).view(np.float32)


def test_every_rounding_to_half_precision_is_that_of_jax():
    bits = _floats()
    bits = bits[np.isfinite(bits) | np.isnan(bits)]
    one, zero = jnp.ones(1), jnp.zeros(1)
    for dtype in ("bfloat16", "float16"):
        native = kernels.get("batch_norm", "native")
        y = native(jnp.asarray(bits)[:, None], one, zero, zero, one, 0.0, channel_axis=1, output_dtype=dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            expected = bits[:, None].astype(jnp.dtype(dtype))
        np.testing.assert_array_equal(np.asarray(y).astype(np.float32), expected.astype(np.float32))


def test_what_is_no_number_stays_in_its_row():
    x = np.random.default_rng(0).standard_normal((6, 300)).astype(np.float32)
    x[2, 299], x[4, 0] = np.nan, np.inf
    y = np.asarray(kernels.get("layer_norm", "native")(jnp.asarray(x), None, None))
    assert np.isnan(y).any(1).tolist() == [False, False, True, False, True, False]


@pytest.mark.parametrize("variant", ["native", "pallas_triton"])
def test_arrays_of_numpy_in_float64_are_rounded_alike_where_jax_has_float32(variant):
    x, residual = np.random.default_rng(0).standard_normal((2, 3, 8))
    layer_norm = kernels.get("layer_norm", variant)
    with jax.enable_x64(False):
        got = layer_norm(x, None, None, residual=residual)
        expected = layer_norm(jnp.asarray(x), None, None, residual=jnp.asarray(residual))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_without_a_compiler_it_says_what_is_missing(monkeypatch):
    build._compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        reason = kernels.get("rms_norm", "native").supports(Problem("rms_norm", (2, 4), "nc"), "cpu")
        assert "install g++" in reason
        with pytest.raises(UserError, match="compiler is found"):
            build._built()
    finally:
        build._compiler.cache_clear()


def test_a_compiler_that_refuses_is_told_in_one_line(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'native.cc:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(UserError, match="refuses its sources") as raised:
        build._build(str(compiler), tmp_path / "library.so")
    assert str(raised.value).endswith("native.cc:1: error: no such thing")
    assert not list(tmp_path.glob("*.so")), "nothing half made is left"


def test_it_is_built_once_for_each_kind_of_compiler_flags_and_cpu(monkeypatch):
    compiler = str(build._compiler())
    key = build._key(compiler)
    assert key == build._key(compiler)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O2"))
    assert build._key(compiler) != key
    monkeypatch.undo()
    monkeypatch.setattr(build, "_processor", lambda: "another")
    assert build._key(compiler) != key


def test_other_targets_are_refused():
    problem = Problem("rms_norm", (2, 4), "nc")
    assert "CPU of this machine" in kernels.get("rms_norm", "native").supports(problem, "h200")
    spread = dataclasses.replace(problem, shape=(8, 4), context="batch over 2")
    if spread.context in kernels.operator("rms_norm").contexts:
        assert kernels.get("rms_norm", "native").supports(spread, "h200")


def test_best_is_what_was_measured_or_the_baseline(monkeypatch):
    rows = (
        {"operator": "rms_norm", "pass": "forward", "last": True, "dtype": "bfloat16", "elements": 4096,
         "variants": {"naive": 1.5, "native": 1.0}},
        {"operator": "rms_norm", "pass": "forward", "last": True, "dtype": "float32", "elements": 4096,
         "variants": {"naive": 1.0, "native": 1.1, "left": 0.5}},
    )  # fmt: skip
    monkeypatch.setattr(choice, "_table", lambda target: rows)
    assert kernels.best(Problem("rms_norm", (2, 4096), "nc", "float16")).name == "native"
    assert kernels.best(Problem("rms_norm", (2, 4096), "nc")).name == "naive"
    assert kernels.best(Problem("layer_norm", (2, 4096), "nc")).name == "naive"
    with pytest.raises(UserError, match="target"):
        kernels.best(Problem("rms_norm", (2, 4096), "nc"), target="abacus")


def test_flags_let_no_compiler_reorder_sums():
    assert not any("fast" in flag or "associative" in flag or "finite" in flag for flag in build.FLAGS)


def test_explain_compiles_it_where_its_call_is_registered():
    program = kernels.program(Problem("layer_norm", (4, 64), "nc"), "native")
    report = explain(program.function, *program.inputs, target="cpu")
    assert list(report.launches["kind"]) == ["custom call"]
