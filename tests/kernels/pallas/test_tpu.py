"""Pallas TPU kernels interpreted: sizes around those of tiles, blocks of many pieces, races, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.pages import tpu_traffic
from normbench import kernels
from normbench.jax_compat.tpu import races_looked_for
from normbench.kernels.common.targets import is_tpu
from normbench.kernels.pallas.tpu import long_rows, pieces, rows
from normbench.kernels.pallas.tpu.columns import over_groups
from normbench.kernels.pallas.tpu.limits import lying
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import check

SIZES = {1, 7, 127, 129, 196, 3136, 4097}
CASES = [
    ("layer_norm", (196, 129), "nc", "bfloat16", {}),
    ("layer_norm", (3, 4097), "nc", "float32", {}),
    ("layer_norm", (3, 7, 5, 127), "nhwc", "bfloat16", {"ndim": 3}),
    ("rms_norm", (2, 196, 127), "nlc", "bfloat16", {}),
    ("rms_norm", (129, 1), "nc", "float32", {}),
    ("batch_norm", (3136, 7), "nc", "bfloat16", {}),
    ("batch_norm", (2, 9, 7, 129), "nhwc", "float32", {}),
    ("batch_norm_training", (3136, 129), "nc", "bfloat16", {}),
    ("batch_norm_training", (3, 12, 5, 7), "nchw", "float32", {}),
    ("group_norm", (2, 196, 129), "nlc", "bfloat16", {"groups": 43}),
    ("group_norm", (8, 9, 7, 130), "nhwc", "float32", {"groups": 13}),
    ("instance_norm", (1, 4097, 7), "nlc", "float32", {}),
]


def problem_of(operator, shape, layout, dtype, options, pass_="forward_backward"):
    return Problem(operator, shape, layout, dtype, "float32", pass_, "silu", options=tuple(options.items()))


def test_every_size_is_among_the_cases():
    assert {size for _, shape, *_ in CASES for size in shape} >= SIZES


IN_TURN = [
    pytest.param(case, pass_, id=f"{case[0]}-{case[1]}-{pass_}", marks=[pytest.mark.torture] * ((number + place) % 2))
    for number, case in enumerate(CASES)
    for place, pass_ in enumerate(("backward", "forward_backward"))
]
"""One pass of each case; `make torture` has the other."""


@pytest.mark.parametrize(("case", "pass_"), IN_TURN)
def test_forward_and_gradients_in_many_pieces(case, pass_, monkeypatch):
    """The last of which is not full; what lies beyond the end is no number where it is interpreted."""
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 5 * 2**12)
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 2**11)
    check(problem_of(*case, pass_), "pallas_tpu")


@pytest.mark.parametrize(
    "case", [("batch_norm_training", (801, 128), "nc", "bfloat16", {}), CASES[10]], ids=lambda case: case[0]
)
def test_what_vmem_does_not_hold_is_read_twice(case, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 5 * 2**12)
    monkeypatch.setattr(pieces, "HELD_BYTES", 2**14)
    problem = problem_of(*case)
    assert "reads it twice" in kernels.get(case[0], "pallas_tpu").supports(problem, "v6e")
    check(problem, "pallas_tpu")


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    ("operator", "dtype", "context"),
    [("layer_norm", "float32", "silu"), ("rms_norm", "bfloat16", "residual"), ("layer_norm", "bfloat16", "residual")],
)
def test_rows_that_no_block_holds_come_in_pieces(operator, dtype, context, held, monkeypatch):
    """The last of which is not full, of as few rows as are left."""
    monkeypatch.setattr(rows, "ROW_BYTES", 2**11)
    monkeypatch.setattr(long_rows, "PIECE_ELEMENTS", 16 * 256)
    monkeypatch.setattr(long_rows, "HELD_BYTES", 2**20 if held else 0)
    for pass_ in ("backward", "forward_backward"):
        problem = Problem(operator, (19, 700), "nc", dtype, "float32", pass_, context)
        assert (kernels.get(operator, "pallas_tpu").supports(problem, "v6e") is None) == held
        check(problem, "pallas_tpu")


def outputs(operator, x, **keywords):
    vector = jnp.linspace(0.5, 2, x.shape[-1], dtype="float32")
    running = (vector, vector) if operator == "batch_norm_training" else ()

    parameters = (vector,) * (1 if operator == "rms_norm" else 2)

    def y_of(x, *parameters):
        y = kernels.get(operator, "pallas_tpu")(x, *parameters, *running, **keywords)
        return y[0] if running else y

    y, pull = jax.vjp(y_of, x, *parameters)
    together, gradients = kernels.get(operator, "pallas_tpu").both_passes(
        x, *parameters, *running, cotangent=jnp.cos(y), **keywords
    )
    return y, *pull(jnp.cos(y)), *jax.tree.leaves(together), *gradients


@pytest.mark.parametrize(
    ("operator", "shape", "keywords"),
    [
        ("layer_norm", (40, 257), {}),
        ("group_norm", (3, 50, 7), {"channel_axis": -1, "groups": 7}),
        ("batch_norm_training", (50, 7), {"channel_axis": -1}),
    ],
)
def test_copies_that_run_beside_the_computation_race_with_nothing(operator, shape, keywords, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 16 * 128)
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 16 * 512)
    monkeypatch.setattr(rows, "ROW_BYTES", 2**14)
    monkeypatch.setattr(long_rows, "PIECE_ELEMENTS", 16 * 256)
    x = jnp.asarray(3 + np.random.default_rng(0).normal(size=shape), "float32")
    plain = jax.jit(lambda x: outputs(operator, x, **keywords))(x)
    with races_looked_for() as found:
        raced = jax.jit(lambda x: outputs(operator, x, **keywords))(x)
        assert not found()
    for one, other in zip(plain, raced, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_number_that_is_none_stays_in_its_group():
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    values[1, 5] = np.nan
    found = np.asarray(over_groups(jnp.asarray(values), 3))
    expected = np.repeat(values.reshape(2, 4, 3).sum(2), 3, axis=1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(over_groups(jnp.asarray(values[:1]), 3), expected[:1])


@pytest.mark.parametrize(
    ("shape", "dtype", "order"),
    [
        ((8, 197, 768), "bfloat16", (1, 0, 2)),
        ((2048, 4098), "bfloat16", (1, 0)),
        ((8, 256, 56, 56), "bfloat16", (0, 2, 3, 1)),
        ((32, 14, 14, 1024), "bfloat16", (1, 2, 0, 3)),
        ((5, 7), "bfloat16", (0, 1)),
    ],
)
def test_dimensions_lie_as_they_pad_least(shape, dtype, order):
    """What the compiler of libtpu 0.0.42.1 answers for v5e, v6e and TPU7x; test_tpu_targets.py asks it."""
    assert lying(shape, dtype) == order


@pytest.mark.parametrize(
    ("problem", "target", "reason"),
    [
        (Problem("layer_norm", (64, 256), "nc"), "v6e", None),
        (Problem("group_norm", (8, 64, 16, 16), "nchw", "bfloat16"), "tpu7x", None),
        (Problem("layer_norm", (64, 256), "nc"), "cpu", "a CPU checks it in interpret mode"),
        (Problem("layer_norm", (64, 256), "nc"), "h200", "Mosaic TPU compiles for TPUs (v5e, v5p, v6e, tpu7x)"),
        (Problem("layer_norm", (64, 256), "nc"), "v4", "48 MiB of VMEM, a v4 has 16"),
        (Problem("rms_norm", (64, 256), "nc", "float16"), "v5e", "float32, bfloat16, as Mosaic TPU loads no float16"),
        (Problem("rms_norm", (64, 2**20), "nc"), "v5e", "which VMEM does not hold"),
        (Problem("layer_norm", (2048, 4098), "nc", "bfloat16"), "v6e", "rows along the lanes"),
        (Problem("batch_norm", (8, 14, 14, 480), "nhwc", pass_="forward_backward"), "v6e", None),
        (
            Problem("batch_norm", (8, 14, 14, 480), "nhwc", pass_="forward_backward", context="residual"),
            "v6e",
            "moves more than XLA",
        ),
        (
            Problem("group_norm", (2, 64, 64, 320), "nhwc", "bfloat16", context="residual"),
            "tpu7x",
            "may not stay in the VMEM",
        ),
        (Problem("group_norm", (2, 64, 64, 320), "nhwc", "bfloat16", context="residual"), "v6e", None),
        (Problem("batch_norm", (8, 32, 160, 160)), "v6e", "dimension 3 along the lanes"),
        (Problem("batch_norm_training", (32, 56, 56, 64), "nhwc", "bfloat16"), "v6e", "take custom_vjp"),
    ],
)
def test_reasons(problem, target, reason):
    found = kernels.get(problem.operator, "pallas_tpu").supports(problem, target)
    assert found is None if reason is None else reason in found


def test_gpu_kernels_are_nothing_for_a_tpu():
    assert is_tpu("v6e")
    assert not is_tpu("h200")
    for variant in ("pallas_triton", "pallas_mosaic"):
        assert "target v6e" in kernels.get("layer_norm", variant).supports(
            Problem("layer_norm", (64, 256), "nc"), "v6e"
        )


TEXT = """HloModule f, entry_computation_layout={(f32[8,100]{1,0:T(8,128)})->f32[8,100]{1,0:T(8,128)}}

ENTRY %main (x: f32[8,100]) -> f32[8,100] {
  %x = f32[8,100]{1,0:T(8,128)} parameter(0)
  %to = (f32[8,100]{1,0:T(8,128)S(1)}, f32[8,100]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %there = f32[8,100]{1,0:T(8,128)S(1)} copy-done(%to)
  %y = f32[8,100]{1,0:T(8,128)} fusion(%there), kind=kLoop, calls=%fused
  ROOT %z = f32[8,100]{1,0:T(8,128)} custom-call(%y), custom_call_target="tpu_custom_call"
}
"""


def test_bytes_of_hbm_are_counted_with_their_padding_and_those_of_vmem_are_not():
    tensor = 8 * 128 * 4
    assert tpu_traffic.least_bytes(TEXT) == 2 * tensor
    assert tpu_traffic.moved_bytes(TEXT) == 4 * tensor


@pytest.mark.parametrize(
    ("problem", "again"),
    [
        (Problem("layer_norm", (64, 200_000), "nc", "bfloat16", pass_="forward_backward"), 0),
        (Problem("layer_norm", (64, 2**19), "nc", "bfloat16", pass_="forward_backward"), 3),
        (Problem("batch_norm_training", (32, 14, 14, 1024), "nhwc", "bfloat16", pass_="forward_backward"), 0),
        (Problem("batch_norm_training", (32, 56, 56, 256), "nhwc", "bfloat16", pass_="backward"), 2),
    ],
)
def test_what_vmem_holds_is_brought_once(problem, again):
    """`again`: tensors of x's size that are brought once more, of which `supports` tells."""
    program = kernels.program(problem, "pallas_tpu")
    found = tpu_traffic.blocks_again(program.function, *program.inputs)
    assert found == pytest.approx(again * 2 * np.prod(problem.shape), abs=2**20)
    assert (kernels.get(problem.operator, "pallas_tpu").supports(problem, "v6e") is None) == (again == 0)
