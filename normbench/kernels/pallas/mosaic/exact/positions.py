"""Inference batch norm in Mosaic GPU, channels first: a program has positions of one channel, which knows its scalars.

The formulas are those of `mosaic_channels` and `mosaic_channels_backward`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await,
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_fetch,
    mosaic_program,
    mosaic_send,
    mosaic_shared,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.mosaic.exact.channels import PARAMETERS, ChannelsPlan
from normbench.kernels.pallas.mosaic.exact.rows import chunk
from normbench.kernels.pallas.mosaic.limits import WARPGROUP, MosaicConfig, forward_config

TILE = 8192
"""Elements of a tile at most: four chunks, and small enough that many programs are in flight on a multiprocessor."""
LEAST_TILE_POSITIONS = 512
"""Four sums of float32 for each tile are then 1.6 % of it in bfloat16."""


def positions_refusal(positions: int) -> str | None:
    """Why so many positions of a channel are not what the kernels take, or None."""
    if positions % WARPGROUP or positions < LEAST_TILE_POSITIONS:
        return (
            f"{positions} positions of a channel; allowed for pallas_mosaic where channels come first: "
            f"multiples of {WARPGROUP} from {LEAST_TILE_POSITIONS}"
        )
    if tile_of(positions) < LEAST_TILE_POSITIONS:
        return f"{positions} positions of a channel; allowed for pallas_mosaic: what tiles up to {TILE} divide"
    return None


def tile_of(positions: int) -> int:
    """Positions of a tile: the most, in whole warpgroups, that divide those of a channel."""
    warpgroups = positions // WARPGROUP
    return WARPGROUP * max(n for n in range(1, TILE // WARPGROUP + 1) if warpgroups % n == 0)


def _config(x: jax.Array) -> MosaicConfig:
    tile = tile_of(x.shape[2])
    return forward_config(x.size // tile, tile)


def forward(x: jax.Array, parameters: tuple, plan: ChannelsPlan) -> jax.Array:
    """Returns y; x is (images, channels, positions), the parameters gamma, beta, mean and variance, (channels,)."""
    config, dtype = _config(x), jnp.dtype(plan.output_dtype)
    block = (config.lines, config.line)
    out = (jax.ShapeDtypeStruct((config.rows, *block), dtype),)
    (y,) = mosaic_call(
        partial(_forward_kernel, shape=x.shape, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=(mosaic_shared(block, x.dtype), mosaic_shared(block, dtype), mosaic_barrier(1)),
        name="batch_norm_forward",
        cost=cost((x, *parameters), out),
    )(x.reshape(config.rows, *block), *parameters)
    return y.reshape(x.shape)


def backward(saved: tuple, dy: jax.Array, plan: ChannelsPlan) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma, beta, mean and variance; `saved` is (x, gamma, beta, mean, variance)."""
    x, *parameters = saved
    config = _config(x)
    block = (config.lines, config.line)
    whole = (config.rows, *block)
    sums = jax.ShapeDtypeStruct((config.rows,), jnp.float32)
    out = (jax.ShapeDtypeStruct(whole, x.dtype), *(sums,) * PARAMETERS)
    dx, *partials = mosaic_call(
        partial(_backward_kernel, shape=x.shape, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=(mosaic_shared(block, x.dtype), mosaic_shared(block, dy.dtype), mosaic_barrier(2)),
        name="batch_norm_backward",
        cost=cost((x, dy, *parameters), out),
    )(x.reshape(whole), dy.reshape(whole), *parameters)
    by_channel = [array.reshape(x.shape[0], x.shape[1], -1) for array in partials]
    zeros = (jnp.float32(0),) * PARAMETERS
    summed = jax.lax.reduce(
        tuple(by_channel), zeros, lambda a, b: tuple(u + v for u, v in zip(a, b, strict=True)), dimensions=(0, 2)
    )
    return dx.reshape(x.shape), *(s.astype(p.dtype) for s, p in zip(summed, parameters, strict=True))


def _scalars(refs: tuple, tile: Any, shape: tuple[int, ...], config: MosaicConfig, epsilon: float) -> tuple:
    """mean, beta, r and scale of the channel of a tile."""
    channel = tile // (shape[2] // config.columns) % shape[1]
    gamma, beta, mean, variance = (ref[channel].astype(jnp.float32) for ref in refs)
    r = jax.lax.rsqrt(variance + epsilon)
    return mean, beta, r, gamma * r


def _forward_kernel(x_ref, *refs: Any, shape, plan: ChannelsPlan, config: MosaicConfig) -> None:
    parameters, (y_ref, x, y, arrived) = refs[:PARAMETERS], refs[PARAMETERS:]
    tile = mosaic_program()
    mosaic_fetch(x_ref.at[tile], x, arrived)
    mean, beta, _, scale = _scalars(parameters, tile, shape, config, plan.epsilon)
    mosaic_await(arrived)

    def step(index, carry):
        at = chunk(index, config)
        z = (x[at].astype(jnp.float32) - mean) * scale + beta
        y[at] = activate(z, plan.activation).astype(y.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, step, 0)
    mosaic_send((y, y_ref.at[tile]))
    mosaic_await_sent()


def _backward_kernel(x_ref, dy_ref, *refs: Any, shape, plan: ChannelsPlan, config: MosaicConfig) -> None:
    """dx takes the place of x."""
    parameters, (dx_ref, *found), (x, dy, arrived) = refs[:PARAMETERS], refs[PARAMETERS:-3], refs[-3:]
    tile = mosaic_program()
    mosaic_fetch(x_ref.at[tile], x, arrived)
    mosaic_fetch(dy_ref.at[tile], dy, arrived)
    mean, beta, r, scale = _scalars(parameters, tile, shape, config, plan.epsilon)
    mosaic_await(arrived)

    def step(index, carry):
        at = chunk(index, config)
        centred, dz = x[at].astype(jnp.float32) - mean, dy[at].astype(jnp.float32)
        if plan.activation != "none":
            dz = differentiate(centred * scale + beta, dz, plan.activation)
        x[at] = (scale * dz).astype(x.dtype)
        return carry[0] + dz * centred, carry[1] + dz

    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    with_x, alone = (jnp.sum(s) for s in jax.lax.fori_loop(0, config.chunks, step, (zero, zero)))
    terms = r * with_x, alone, -scale * alone, -0.5 * r * r * scale * with_x
    for ref, term in zip(found, terms, strict=True):
        ref[tile] = term
    mosaic_send((x, dx_ref.at[tile]))
    mosaic_await_sent()
