"""One fused kernel in Pallas Triton: x is read once, y is written once, whatever the shape, layout and activation."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from kernels.activations import activate
from kernels.batch_norm.arguments import checked
from kernels.batch_norm.naive import naive
from kernels.batch_norm.pallas_triton_config import BlockConfig, choose
from kernels.checks import compute_dtype
from kernels.problem import Problem
from normbench.errors import UserError
from normbench.jax_compat_triton import triton_call, triton_load, triton_program_id, triton_store, triton_when

MAXIMUM_ELEMENTS = 2**31 - 2**16
"""Indices are 32-bit; the margin is for the last block, which reaches beyond the end before it is masked."""


def pallas_triton(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """y = act((x - mean) * (gamma / sqrt(variance + epsilon)) + beta), parameters included in one launch.

    Arguments, output and errors as for `naive`. The mean is subtracted before scaling, which costs no bytes and avoids
    the cancellation of the folded form. On a CPU the kernel is interpreted: right, and very slow. Gradients are those
    of `naive`, compiled by XLA, from x and the parameters: the kernel saves nothing for the backward pass.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    if a.x.size == 0:
        return a.x
    if a.x.size > MAXIMUM_ELEMENTS:
        raise UserError(f"x has {a.x.size} elements; allowed for pallas_triton: {MAXIMUM_ELEMENTS} (32-bit indices)")
    return _differentiable(*a[:5], a.epsilon, a.channel_axis, activation)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    if math.prod(problem.shape) > MAXIMUM_ELEMENTS:
        return f"more than {MAXIMUM_ELEMENTS} elements; the kernel's indices are 32-bit"
    return None


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _differentiable(x, gamma, beta, mean, variance, epsilon, channel_axis, activation):
    config = choose(x.shape, channel_axis, x.dtype.itemsize)
    dtype = compute_dtype(x, gamma, beta, mean, variance)
    launch = triton_call(
        partial(_kernel, config=config, epsilon=epsilon, activation=activation, dtype=dtype),
        grid=config.grid,
        out=jax.ShapeDtypeStruct((x.size,), x.dtype),
        warps=config.warps,
        name="batch_norm_pallas_triton",
    )
    return launch(x.reshape(-1), gamma, beta, mean, variance).reshape(x.shape)


def _forward(x, gamma, beta, mean, variance, epsilon, channel_axis, activation):
    arrays = (x, gamma, beta, mean, variance)
    return _differentiable(*arrays, epsilon, channel_axis, activation), arrays


def _backward(epsilon, channel_axis, activation, arrays, cotangent):
    formula = partial(naive, epsilon=epsilon, channel_axis=channel_axis, activation=activation)
    return jax.vjp(formula, *arrays)[1](cotangent)


_differentiable.defvjp(_forward, _backward)


def _kernel(x_ref, gamma_ref, beta_ref, mean_ref, variance_ref, y_ref, *, config, epsilon, activation, dtype):
    program = triton_program_id()
    row = program // config.column_blocks * config.block_rows + _range(config.block_rows)
    column = program % config.column_blocks * config.block_columns + _range(config.block_columns)
    index = column[None, :] if config.rows == 1 else (row * config.columns)[:, None] + column[None, :]

    def block(row_mask, column_mask):
        channel, mask, axis = _channel(row, column, column_mask, config)
        gamma, beta, mean, variance = (
            triton_load(ref, channel, mask).astype(dtype) for ref in (gamma_ref, beta_ref, mean_ref, variance_ref)
        )
        scale = gamma * jax.lax.rsqrt(variance + epsilon)
        mean, scale, beta = (jnp.expand_dims(parameter, axis) for parameter in (mean, scale, beta))
        mask = None if row_mask is None else row_mask[:, None] & column_mask[None, :]
        x = triton_load(x_ref, index, mask).astype(dtype)
        triton_store(y_ref, index, activate((x - mean) * scale + beta, activation).astype(y_ref.dtype), mask)

    masks = row < config.rows, column < config.columns
    if config.ragged and config.grid > 1:
        # A mask that ends inside a vector makes the compiler load element by element, so only the last block has one.
        triton_when(program < config.grid - 1)(lambda: block(None, None))
        triton_when(program == config.grid - 1)(lambda: block(*masks))
    else:
        block(*masks)


def _range(size: int) -> jax.Array:
    return jax.lax.iota(jnp.int32, size)


def _channel(row: jax.Array, column: jax.Array, column_mask: jax.Array | None, config: BlockConfig):
    """Channel of each row or column of the block, the mask to load its parameters with (None where the remainder keeps
    it inside them), and the axis along which they are broadcast."""
    if config.channel_of == "row":
        return row % config.channels, None, 1
    if config.channel_of == "column":
        return column, column_mask, 0  # no remainder: it would hide from the compiler that columns are contiguous
    return column // config.inner % config.channels, None, 0
