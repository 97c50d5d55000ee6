"""Fused kernels in Pallas Triton: x is read once, y is written once, whatever the shape, layout and activation."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.jax_compat.triton import triton_call, triton_load, triton_program_id, triton_store, triton_when
from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype, residual_like
from normbench.kernels.common.second_order import of_both_terms, plain_given, twice_differentiable, what_was_normalized
from normbench.kernels.common.targets import not_for_triton
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.left_to_xla import INFERENCE, moves_more
from normbench.kernels.pallas.triton.channel_tiles import view_of
from normbench.kernels.pallas.triton.inference import BlockConfig, backward, choose
from normbench.kernels.pallas.triton.training_shares import BatchPlan
from normbench.kernels.pallas.tuning import tuned
from normbench.kernels.problem import Problem

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
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y = act((x - mean) * (gamma / sqrt(variance + epsilon)) + beta), parameters included in one launch.

    Arguments and errors as for `naive`, and

    Args:
      residual: as x; then z = x + residual is normalized, and (y, z) returned.
      output_dtype: of y; None: x's.

    The mean is subtracted before scaling, which costs no bytes and avoids the cancellation of the folded form. A
    gradient reads x (or z) and dy once: they and the parameters are saved. On a CPU the kernels are interpreted: right,
    and very slow.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    residual = residual_like(a.x, residual)
    dtype = jnp.dtype(output_dtype or a.x.dtype)
    if a.x.size == 0:
        y = a.x.astype(dtype) + jnp.sum(sum(a[1:5]) * 0).astype(dtype)
        return y if residual is None else (y, a.x + residual)
    if a.x.size > MAXIMUM_ELEMENTS:
        raise UserError(f"x has {a.x.size} elements; allowed for pallas_triton: {MAXIMUM_ELEMENTS} (32-bit indices)")
    view = view_of(a.x.shape, a.channel_axis)
    plan = BatchPlan(view, a.epsilon, 0, activation, dtype.name, jnp.dtype(compute_dtype(*a[:5])).name)
    y, z = _differentiable((a.x, residual, tuple(a[1:5])), (plan, a.channel_axis, residual is not None))
    return y if residual is None else (y, z)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if refused := not_for_triton(target):
        return refused
    if math.prod(problem.shape) > MAXIMUM_ELEMENTS:
        return f"more than {MAXIMUM_ELEMENTS} elements; the kernel's indices are 32-bit"
    return None


def more(problem: Problem) -> str | None:
    """The reason why XLA moves less, or None; a residual is added in the same launch, as by XLA."""
    return None if problem.context == "residual" else moves_more(problem, 2, 3, INFERENCE)


def _forward(arrays, asked, saves):
    (x, residual, parameters), (plan, channel_axis, _) = arrays, asked
    key = plan.view.key("batch_norm.forward", x.dtype.name)
    config = tuned(choose(x.shape, channel_axis, x.dtype.itemsize), key)
    terms = (x,) if residual is None else (x, residual)
    inputs = (*parameters, *(term.reshape(-1) for term in terms))
    out = tuple(jax.ShapeDtypeStruct((x.size,), jnp.dtype(name)) for name in (plan.output_dtype, x.dtype)[: len(terms)])
    y, *z = triton_call(
        partial(_kernel, config=config, epsilon=plan.epsilon, activation=plan.activation, dtype=jnp.dtype(plan.dtype)),
        grid=config.grid,
        out=out,
        warps=config.warps,
        name="batch_norm_pallas_triton",
        cost=cost(inputs, out, flops=4 * x.size),
    )(*inputs)
    return (y.reshape(x.shape), z[0].reshape(x.shape) if z else None), () if saves else None


def _backward(kept, saved, cotangents, asked):
    w, parameters = kept
    cotangents = tuple(None if d is None else d.reshape(-1) for d in cotangents)
    dw, *gradients = backward((w.reshape(-1), *parameters), cotangents, asked[0])
    return dw.reshape(w.shape), tuple(gradients)


def _plain(kept, asked):
    (w, parameters), (plan, channel_axis, added) = kept, asked
    shape = tuple(size if axis == channel_axis else 1 for axis, size in enumerate(w.shape))
    y = plain_given(w, parameters, shape, plan.epsilon, plan.activation).astype(plan.output_dtype)
    return y, w if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)


def _kernel(gamma_ref, beta_ref, mean_ref, variance_ref, *refs, config, epsilon, activation, dtype):
    """`refs` are x and y, or x, the residual, y and their sum."""
    terms, (y_ref, *z_refs) = refs[: len(refs) // 2], refs[len(refs) // 2 :]
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
        x, *residuals = (triton_load(ref, index, mask) for ref in terms)
        for residual, z_ref in zip(residuals, z_refs, strict=True):
            x = (x.astype(dtype) + residual.astype(dtype)).astype(z_ref.dtype)
            triton_store(z_ref, index, x, mask)
        y = activate((x.astype(dtype) - mean) * scale + beta, activation)
        triton_store(y_ref, index, y.astype(y_ref.dtype), mask)

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
