"""The programs compute what the published kernels compute, and take what was published."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.published.block_kernels import Blocks, blocks_forward, blocks_vjp
from analysis.published.eager import eager_rms_norm
from analysis.published.programs import EPSILON, device_facts, form_of, program
from analysis.published.row_kernels import Rows, group_loops, row_forward, softmax_row, two_pass_row
from analysis.published.rows import DEVICES, published

RANDOM = np.random.default_rng(0)
FORM_ROWS = list({form_of(row): row for row in published()}.values())


def normal(*shape):
    return jnp.asarray(RANDOM.normal(size=shape) + 0.5, jnp.float32)


def expected(x, w, b, centred, axes=-1):
    x = np.asarray(x, np.float64)
    mean = x.mean(axis=axes, keepdims=True) if centred else np.zeros(())
    deviation = 1 / np.sqrt(np.mean((x - mean) ** 2, axis=axes, keepdims=True) + EPSILON)
    return (x - mean) * deviation * np.asarray(w) + np.asarray(b), mean, deviation


@pytest.mark.parametrize("columns", [64, 96])
@pytest.mark.parametrize("kernel", [partial(row_forward, num_warps=4), partial(two_pass_row, threads=32, vector=2)])
@pytest.mark.parametrize(("centred", "residual"), [(True, False), (False, True), (False, False)])
def test_rows(kernel, columns, centred, residual):
    plan = Rows(3, columns, "float32", "float32", centred, 1 + centred, residual)
    x, z, w, b = normal(3, columns), normal(3, columns), normal(columns), normal(columns)
    inputs = [x.reshape(-1), *([z.reshape(-1)] if residual else []), w, *([b] if centred else [])]
    y, *rest = jax.jit(kernel(plan))(*inputs)
    whole = x + z if residual else x
    want, mean, deviation = expected(whole, w, b if centred else 0, centred)
    np.testing.assert_allclose(y.reshape(3, columns), want, rtol=2e-5, atol=2e-5)
    if residual:
        np.testing.assert_array_equal(rest.pop(0), whole.reshape(-1))
    np.testing.assert_allclose(rest[-1], deviation.reshape(-1), rtol=1e-5)
    if centred:
        np.testing.assert_allclose(rest[0], mean.reshape(-1), rtol=1e-5)


def test_group_loops():
    shape, per_group = (2, 8, 16), 4
    function, inputs = group_loops(shape, "float32", per_group, 32, 4)
    x, w, b = normal(*shape), normal(8), normal(8)
    assert [array.shape for array in inputs] == [(256,), (8,), (8,)]
    y, mean, deviation = jax.jit(function)(x.reshape(-1), w, b)
    grouped = x.reshape(2, 2, per_group, 16)
    want, *statistics = expected(
        grouped, w.reshape(2, per_group, 1), b.reshape(2, per_group, 1), centred=True, axes=(2, 3)
    )
    np.testing.assert_allclose(y.reshape(want.shape), want, rtol=2e-5, atol=2e-5)
    for got, one in zip((mean, deviation), statistics, strict=True):
        np.testing.assert_allclose(got, one.reshape(-1), rtol=1e-5)


def test_softmax_rows():
    function, inputs = softmax_row(3, 64, "float32", 4)
    x = normal(3, 64)
    assert [array.shape for array in inputs] == [(192,)]
    np.testing.assert_allclose(jax.jit(function)(x.reshape(-1)).reshape(3, 64), jax.nn.softmax(x), rtol=1e-5)


@pytest.mark.parametrize("kernel_warps", [None, 4])
@pytest.mark.parametrize("residual", [False, True])
def test_operations_one_by_one(residual, kernel_warps):
    plan = Rows(3, 64, "bfloat16", "float32", centred=False, statistics=0, residual=residual)
    x, z, w = normal(3, 64).astype(jnp.bfloat16), normal(3, 64).astype(jnp.bfloat16), normal(64)
    inputs = (x, z, w) if residual else (x, w)
    y, *rest = jax.tree.leaves(jax.jit(eager_rms_norm(plan, kernel_warps))(*inputs))
    whole = x.astype(jnp.float32) + (z.astype(jnp.float32) if residual else 0)
    scale = w * w if kernel_warps else w  # the kernel has weights of its own, and the benchmark multiplies once more
    np.testing.assert_allclose(y, expected(whole, scale, 0, centred=False)[0], rtol=2e-2, atol=2e-2)
    if residual:
        np.testing.assert_array_equal(rest[0], whole.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    "plan",
    [Blocks(8, 32, 1, "float32", "float32", 4, 1, 4), Blocks(1, 32, 16, "float32", "float32", 1, 8, 4)],
    ids=["last axis", "first axis"],
)
def test_blocks(plan):
    x, dy, w, b = normal(*plan.x.shape), normal(*plan.x.shape), normal(plan.axis, 1), normal(plan.axis, 1)
    y, mean, deviation = jax.jit(blocks_forward(plan, residuals=True))(x, w, b)
    want, vjp = jax.vjp(_norm, x, w, b)
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-5)
    for one, other in zip(jax.jit(blocks_vjp(plan))(x, dy, w, mean, deviation), vjp(dy), strict=True):
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=2e-4, atol=2e-4)


def _norm(x, w, b):
    centre = x - x.mean(1, keepdims=True)
    deviation = jax.lax.rsqrt((centre**2).mean(1, keepdims=True) + EPSILON)
    return centre * deviation * w + b


@pytest.mark.parametrize("axis", [-1, 0])
def test_plain_jax_by_hand_and_by_automatic_differentiation_agree(axis):
    base = next(row for row in published() if row.form == "xla_vjp")
    row = replace(base, shape=(6, 4, 5), axis=axis, dtype="float32")
    x, dy, w, b = normal(6, 4, 5), normal(6, 4, 5), normal(row.shape[axis]), normal(row.shape[axis])
    forward = program(replace(row, form="xla_forward", settings={"residuals": True})).function
    y, mean, deviation = forward(x, w, b)
    _, vjp = jax.vjp(lambda *arrays: forward(*arrays)[0], x, w, b)
    for got, want in zip(program(row).function(x, dy, w, mean, deviation), vjp(dy), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)
    again, _ = program(replace(row, form="xla_forward_vjp", settings={})).function(x, w, b)
    np.testing.assert_allclose(again, y)


@pytest.mark.parametrize("row", FORM_ROWS, ids=lambda row: row.id)
def test_a_program_takes_the_published_shapes_and_dtypes(row):
    made = program(row)
    assert made.inputs[0].dtype == row.dtype
    assert math.prod(made.inputs[0].shape) == math.prod(row.shape)
    out = jax.tree.leaves(jax.eval_shape(made.function, *made.inputs))
    assert out[0].size == made.inputs[0].size
    # PyTorch leaves the product of a 16-bit array with weights in float32 in float32.
    assert out[0].dtype == (row.parameter_dtype if row.form == "eager_rms_norm" else row.dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_the_facts_of_every_device_are_known(device):
    facts = device_facts(device)
    assert facts.name == device
    assert facts.memory_bandwidth > 1.5e12 - 1e10


def test_the_two_memories_of_the_a100_differ_in_nothing_else():
    small, large = device_facts("a100_40gb"), device_facts("a100")
    assert small.memory_bandwidth < large.memory_bandwidth
    assert (small.cores, small.l2_bytes, small.core_memory_bytes) == (
        large.cores,
        large.l2_bytes,
        large.core_memory_bytes,
    )
