"""What the hand-written kernels share: declared bytes, partial sums, choices of blocks, the study of the barrier."""

import importlib.util
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.pages import barrier
from normbench import explain, kernels
from normbench.declared import declare, declared
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.pallas import tuning
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import (
    ENOUGH_PROGRAMS,
    MULTIPROCESSORS,
    WALK_BYTES,
    WORKSPACE_SHARE,
    power_of_two_from,
    power_of_two_to,
    walking_programs,
    warps_for,
    workspace_programs,
)
from normbench.kernels.pallas.triton.partial_sums import sum_partials
from normbench.kernels.pallas.triton.rows_config import forward_config
from normbench.study.check.accuracy import Oracle
from normbench.study.tune import choices
from normbench.study.tune import search as tune

READS_PROGRAMS = True

needs_compiler = pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"), reason="needs the extra gpu-targets"
)


def test_the_arithmetic_of_blocks():
    assert [power_of_two_from(n) for n in (0, 1, 2, 3, 1024, 1025)] == [1, 1, 2, 4, 1024, 2048]
    assert [power_of_two_to(n) for n in (0, 1, 3, 1024, 2047)] == [1, 1, 2, 1024, 1024]
    assert [warps_for(n, 16) for n in (1, 512, 513, 10**6)] == [1, 1, 2, 32]
    assert workspace_programs(8192 * 4096 * 2, 4096 * 8) == 225
    assert workspace_programs(10, 4096 * 8) == 1


@pytest.mark.parametrize("columns", [768, 4096, 12288])
def test_no_program_walks_over_many_rows_where_multiprocessors_have_none(columns):
    """Few partial sums are not worth it; where all multiprocessors are at work they stay a small share."""
    for rows in range(1, 20_000, 7):
        tensor_bytes, program_bytes = rows * columns * 2, columns * 8
        allowed = workspace_programs(tensor_bytes, program_bytes)
        programs = walking_programs(tensor_bytes, program_bytes)
        assert programs in (allowed, MULTIPROCESSORS)
        assert programs >= ENOUGH_PROGRAMS or tensor_bytes / programs < WALK_BYTES
        assert programs == 1 or programs > allowed or programs * program_bytes <= WORKSPACE_SHARE * tensor_bytes


def test_what_partial_sums_leave_idle_has_programs_and_what_is_at_work_keeps_few():
    """Layer norm of 2452 x 5120 and RMS norm of 8 x 197 x 768, of two bytes an element: 67 and 86 programs allowed."""
    assert walking_programs(2452 * 5120 * 2, 5120 * 8) == MULTIPROCESSORS
    assert walking_programs(8 * 197 * 768 * 2, 768 * 4) == 86


def test_a_cost_counts_every_walk():
    x, y = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16), jax.ShapeDtypeStruct((8, 4), jnp.float32)
    found = cost([x], [y], again=[x])
    assert (found.read_bytes, found.write_bytes) == (128, 128)


def test_what_is_declared_is_read_again():
    assert declared(f"jit(f)/jit(main)/{declare(12, 34)}/pallas_call") == (12, 34)
    assert declared("jit(f)/jit(main)/pallas_call") is None


@needs_compiler
def test_the_study_shows_what_a_kernel_declares_beside_what_crosses_its_boundary():
    parts = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
    report = explain(lambda a, b: sum_partials([a, b], ["float32", "bfloat16"]), parts, parts, target="h200")
    assert list(report.launches.declared_bytes) == [2 * 64 * 1024 * 4 + 1024 * 6]
    assert report.declared_bytes == report.bytes
    plain = explain(lambda a: a + 1, parts, target="h200")
    assert plain.declared_bytes is None
    assert plain.launches.declared_bytes.isna().all()


@pytest.mark.parametrize("shape", [(1, 5), (17, 129), (40, 256)])
def test_partial_sums_are_added_up(shape):
    arrays = [jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32) for seed in range(2)]
    first, second = sum_partials(arrays, ["float32", "bfloat16"])
    assert (first.dtype, second.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(first, np.asarray(arrays[0]).sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(second.astype(jnp.float32), np.asarray(arrays[1]).sum(0), rtol=1e-2, atol=5e-2)


def fake(seconds):
    return iter(seconds).__next__


def test_the_search_takes_the_best_median_and_stores_it(tmp_path):
    key = tuning.problem_key("layer_norm.forward", (8192, 4096), "bfloat16")
    runs = {"heuristic": ({}, fake([3.0, 3.0, 3.0])), "8 warps": ({"warps": 8}, fake([2.0, 9.0, 2.0]))}
    choice = choices.search(key, runs, "heuristic", rounds=3)
    assert (choice.config, choice.median_s, choice.heuristic_s, choice.candidates) == ({"warps": 8}, 2.0, 3.0, 2)
    assert choices.note("NVIDIA H200", key, tmp_path).startswith("untuned: ")
    path = choices.store("NVIDIA H200", [choice], {"driver": "1"}, tmp_path)
    assert path.name == "nvidia-h200.json"
    assert json.loads(path.read_text())["environment"] == {"driver": "1"}
    assert choices.chosen("NVIDIA H200", key, tmp_path) == choice
    assert "1.50 times as fast as the heuristic" in choices.note("NVIDIA H200", key, tmp_path)
    with pytest.raises(UserError, match="'none' is not among those to tune"):
        choices.search(key, runs, "none")
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        tuning.load("NVIDIA H200", tmp_path)


def test_what_is_tried_replaces_the_heuristic_and_nothing_else_does_here():
    config = forward_config(64, 4096, "float32")
    assert tuning.tuned(config, "a key") == config
    with tuning.trying("a key", {"warps": 2}):
        assert tuning.tuned(config, "a key").warps == 2
        assert tuning.tuned(config, "another key") == config
    assert tuning.tuned(config, "a key") == config


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_the_command_that_tunes_lists_its_candidates_and_wants_a_gpu(pass_, capsys):
    arguments = ["rms_norm", "--shape", "8192x4096", "--pass", pass_]
    assert tune.main([*arguments, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"rms_norm.{pass_} 8192x4096 bfloat16"
    assert lines[1] == "  heuristic"
    assert len(lines) > 3
    assert tune.main(arguments) == 2
    assert "try --dry-run" in capsys.readouterr().err
    assert tune.main(["rms_norm", "--shape", "8192"]) == 2
    assert tune.main(["rms_norm", "--shape", "8192x64", "--layout", "nchw"]) == 2
    assert "layout 'nchw' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize(
    ("operator", "shape", "layout"),
    [
        ("batch_norm", (8, 16, 7, 7), "nchw"),
        ("batch_norm_training", (8, 16, 7, 7), "nchw"),
        ("batch_norm_training", (64, 512, 40, 40), "nchw"),
        ("group_norm", (2, 7, 7, 64), "nhwc"),
        ("instance_norm", (32, 3, 300, 300), "nchw"),
        ("layer_norm", (3, 70000), "nc"),
    ],
)
def test_every_kernel_can_be_tuned(operator, shape, layout, pass_):
    problem = Problem(operator, shape, layout, "bfloat16", pass_=pass_)
    found = tune.candidates(problem)
    assert len(found) == 1
    ((key, fields),) = found.items()
    assert key.startswith(f"{'group_norm' if operator == 'instance_norm' else operator}.{pass_} ")
    assert len(fields) > 3
    assert all(fields[name] for name in fields if name != tune.HEURISTIC)


@pytest.mark.parametrize(
    ("operator", "shape", "layout", "pass_"),
    [
        ("batch_norm", (3, 4, 5, 7), "nchw", "forward"),
        ("batch_norm_training", (3, 4, 5, 7), "nchw", "backward"),
        ("group_norm", (2, 32, 5, 7), "nchw", "forward"),
        ("rms_norm", (5, 300), "nc", "backward"),
    ],
)
def test_a_candidate_computes_the_same(operator, shape, layout, pass_):
    problem = Problem(operator, shape, layout, "float32", pass_=pass_)
    program, oracle = kernels.program(problem, "pallas_triton"), Oracle(problem, 0)
    inputs = jax.jit(program.setup)(*oracle.arrays_for(program))
    ((key, fields),) = tune.candidates(problem).items()
    for chosen in list(fields.values())[-1:]:
        with tuning.trying(key, chosen):
            outputs = jax.jit(lambda *arrays: program.function(*arrays))(*inputs)
        assert oracle.check(program, outputs).ok


@pytest.mark.parametrize("operator", ["batch_norm", "batch_norm_training", "group_norm"])
def test_a_share_of_any_number_of_tiles_is_walked_over_whole(operator):
    """Several tiles are under way at once; their number need not divide what a search has found."""
    options = (("groups", 2),) if operator == "group_norm" else ()
    problem = Problem(operator, (1, 131, 131, 8), "nhwc", "float32", pass_="backward", options=options)
    program, oracle = kernels.program(problem, "pallas_triton"), Oracle(problem, 0)
    inputs = jax.jit(program.setup)(*oracle.arrays_for(program))
    ((key, fields),) = tune.candidates(problem).items()
    assert fields
    for steps in (1, 3, 6):
        with tuning.trying(key, {"steps": steps}):
            outputs = jax.jit(lambda *arrays: program.function(*arrays))(*inputs)
        assert oracle.check(program, outputs).ok


@needs_compiler
@pytest.mark.parametrize("context", ["residual", "silu"])
def test_an_opaque_kernel_is_a_barrier_and_a_fused_one_is_none(context):
    """An activation behind it costs a kernel all that it gains; with it inside, it moves the least of the three."""
    plain, opaque, fused = barrier.facts("layer_norm", (8192, 4096), context, "forward")
    assert fused.launches == 1
    assert fused.ratio == pytest.approx(1, abs=0.01)
    assert opaque.launches == 2
    assert opaque.ratio > 1.2
    assert plain.ratio >= fused.ratio
    start = f"| layer_norm | 8192 × 4096 | {context} |"
    line = next(line for line in barrier.PAGE.read_text().splitlines() if line.startswith(start))
    assert line.endswith("| **1: 1.00 ×** |")


@pytest.mark.parametrize("operator", ["batch_norm_training", "group_norm"])
def test_second_derivatives_with_a_residual(operator):
    """Those of a function of y and of z = x + residual, by x, by the residual and by gamma and beta."""
    x, residual = (jnp.asarray(np.random.default_rng(n).normal(size=(2, 4, 3, 3)), jnp.float32) for n in range(2))
    vectors = jnp.linspace(0.5, 1.5, 4), jnp.linspace(-1.0, 1.0, 4)
    further = (jnp.zeros(4), jnp.ones(4)) if operator == "batch_norm_training" else ()
    keywords = {"groups": 2} if operator == "group_norm" else {}

    def twice(name):
        function = partial(kernels.get(operator, name).function, activation="silu", **keywords)

        def value(arrays):
            x, residual, *vectors = arrays
            if name == "pallas_triton":
                found = function(x, *vectors, *further, residual=residual)
                y, z = found[0] if further else found
            else:
                z = x + residual
                found = function(z, *vectors, *further)
                y = found[0] if further else found
            return jnp.sum(jnp.sin(y) + jnp.square(z) * y)

        first = jax.grad(value)
        return jax.grad(lambda arrays: sum(jnp.sum(jnp.sin(d)) for d in first(arrays)))((x, residual, *vectors))

    for found, expected in zip(twice("pallas_triton"), twice("naive"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
