"""The gradient of inference batch norm: one launch over x and dy, and a small one for the parameters.

With h = (x - mean) r, r = 1 / sqrt(variance + epsilon) and dz = dy act'(h gamma + beta), nothing waits for a sum:

    dx = r gamma dz,   dgamma = sum(dz h),   dbeta = sum(dz),
    dmean = -r gamma sum(dz),   dvariance = -r² gamma sum(dz h) / 2
"""

from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_program_id, triton_store
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.triton.channel_tiles import channel_sum, load_vector, part, spread, store_tile
from normbench.kernels.pallas.triton.training_shares import (
    BatchPlan,
    found_by_shares,
    h_and_dz,
    over_share,
    share,
    zero_tile,
)
from normbench.kernels.pallas.triton.training_streamed_config import WARPS, BatchConfig, batch_config
from normbench.kernels.pallas.tuning import tuned


def backward(saved: tuple, dy: jax.Array, plan: BatchPlan) -> tuple[jax.Array, ...]:
    """Returns dx, flat, and the gradients of gamma, beta, mean and variance, each in its parameter's dtype.

    Args:
      saved: x, flat, and gamma, beta, mean, variance, (C,).
      dy: flat.
      plan: what is computed; the momentum has no part in it.
    """
    x, gamma, _, _, variance = saved
    key = plan.view.key("batch_norm.backward", x.dtype.name)
    config = tuned(batch_config(plan.view, x.dtype.name), key)
    sums = (jax.ShapeDtypeStruct((config.splits * plan.view.channels,), jnp.dtype(plan.dtype)),) * 2
    inputs = (x, dy, *saved[1:])
    out = (jax.ShapeDtypeStruct(x.shape, x.dtype), *sums)
    dx, *found = triton_call(
        partial(_kernel, plan=plan, config=config),
        grid=config.blocks * config.splits,
        out=out,
        warps=config.warps,
        name="batch_norm_backward",
        cost=cost(inputs, out, flops=8 * x.size),
    )(*inputs)
    inputs = (gamma, variance, *found)
    parameters = tuple(jax.ShapeDtypeStruct(p.shape, p.dtype) for p in saved[1:])
    gradients = triton_call(
        partial(_parameters_kernel, plan=plan, config=config),
        grid=config.blocks,
        out=parameters,
        warps=WARPS,
        name="batch_norm_backward_parameters",
        cost=cost(inputs, parameters, flops=2 * sum(array.size for array in found)),
    )(*inputs)
    return dx, *gradients


def _kernel(x_ref, dy_ref, gamma_ref, beta_ref, mean_ref, variance_ref, dx_ref, *refs, plan, config) -> None:
    view = plan.view
    split, channels = share(config, backwards=False)
    parameters = (load_vector(ref, channels, plan.dtype) for ref in (gamma_ref, beta_ref, mean_ref, variance_ref))
    gamma, beta, mean, variance = (spread(view, vector) for vector in parameters)
    r = jax.lax.rsqrt(variance + plan.epsilon)
    known = mean, r, gamma, beta
    scale = r * gamma

    def step(image, positions, carry):
        h, dz = h_and_dz((x_ref, dy_ref), known, image, channels, positions, plan, "evict_first")
        store_tile(dx_ref, view, image, channels, positions, scale * dz)
        return carry[0] + dz * h, carry[1] + dz

    zero = zero_tile(plan, config)
    for ref, tile in zip(refs, over_share(config, split, step, (zero, zero)), strict=True):
        triton_store(ref, split * view.channels + channels.index, channel_sum(view, tile), channels.mask)


def _parameters_kernel(gamma_ref, variance_ref, *refs, plan: BatchPlan, config: BatchConfig) -> None:
    """The shares' sums put together, always in the same order."""
    first = triton_program_id() * config.block
    channels = part(first, config.block, config.view.channels, config.masks_channels)
    (with_h, alone), _ = found_by_shares(refs[:2], channels, config)
    with_h, alone = jnp.sum(with_h, axis=0), jnp.sum(alone, axis=0)
    gamma, variance = (load_vector(ref, channels, plan.dtype) for ref in (gamma_ref, variance_ref))
    r = jax.lax.rsqrt(variance + plan.epsilon)
    gradients = with_h, alone, -r * gamma * alone, -0.5 * r * (r * gamma * with_h)
    for ref, value in zip(refs[2:], gradients, strict=True):
        triton_store(ref, channels.index, value.astype(ref.dtype), channels.mask)
