"""Instance norm in Mosaic GPU, channels first: a program has one channel of one image in shared memory.

With h = (x - mean) r, dh = gamma dz and E the mean over the positions:

    y = act(h gamma + beta),   dx = r (dh - E[dh] - h E[dh h]),   dgamma = sum(dz h),   dbeta = sum(dz)
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kernels.pallas.cost import cost
from kernels.pallas.mosaic_activations import activate, differentiate
from kernels.pallas.mosaic_channels import ChannelsPlan
from kernels.pallas.mosaic_config import RESERVED_BYTES, MosaicConfig, forward_config
from kernels.pallas.mosaic_rows import chunk, sum_over
from normbench.jax_compat_mosaic import (
    mosaic_await,
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_fetch,
    mosaic_program,
    mosaic_send,
    mosaic_shared,
)


def shared_bytes(positions: int, dtype: str, output_dtype: str, backward: bool) -> int:
    """Shared memory of a program: x, and y in another dtype, or dy."""
    of_y = jnp.dtype(output_dtype).itemsize if backward or output_dtype != dtype else 0
    return positions * (jnp.dtype(dtype).itemsize + of_y) + RESERVED_BYTES


def forward(x: jax.Array, gamma: jax.Array, beta: jax.Array, plan: ChannelsPlan) -> tuple[jax.Array, ...]:
    """Returns y, and mean and r in float32 by image and channel; x is (images, channels, positions)."""
    images, channels, positions = x.shape
    config, dtype = forward_config(images * channels, positions), jnp.dtype(plan.output_dtype)
    block = (config.lines, config.line)
    statistics = jax.ShapeDtypeStruct((config.rows,), jnp.float32)
    out = (jax.ShapeDtypeStruct((config.rows, *block), dtype), statistics, statistics)
    y, mean, r = mosaic_call(
        partial(_forward_kernel, channels=channels, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=(
            mosaic_shared(block, x.dtype),
            *(() if dtype == x.dtype else (mosaic_shared(block, dtype),)),
            mosaic_barrier(1),
        ),
        name="instance_norm_forward",
        cost=cost((x, gamma, beta), out),
    )(x.reshape(config.rows, *block), gamma, beta)
    return y.reshape(x.shape), mean, r


def backward(saved: tuple, dy: jax.Array, plan: ChannelsPlan) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma and beta; `saved` is (x, gamma, beta, mean, r)."""
    x, gamma, beta, *statistics = saved
    images, channels, positions = x.shape
    config = forward_config(images * channels, positions)
    block = (config.lines, config.line)
    whole = (config.rows, *block)
    sums = jax.ShapeDtypeStruct((config.rows,), jnp.float32)
    out = (jax.ShapeDtypeStruct(whole, x.dtype), sums, sums)
    dx, *partials = mosaic_call(
        partial(_backward_kernel, channels=channels, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=(mosaic_shared(block, x.dtype), mosaic_shared(block, dy.dtype), mosaic_barrier(2)),
        name="instance_norm_backward",
        cost=cost((*saved, dy), out),
    )(x.reshape(whole), dy.reshape(whole), gamma, beta, *statistics)
    zeros = (jnp.float32(0), jnp.float32(0))
    summed = jax.lax.reduce(
        tuple(array.reshape(images, channels) for array in partials),
        zeros,
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        dimensions=(0,),
    )
    return dx.reshape(x.shape), *(s.astype(p.dtype) for s, p in zip(summed, (gamma, beta), strict=True))


def _forward_kernel(x_ref, gamma_ref, beta_ref, *refs: Any, channels, plan: ChannelsPlan, config: MosaicConfig) -> None:
    y_ref, mean_ref, r_ref, x, *others, arrived = refs
    y = others[0] if others else x
    row = mosaic_program()
    mosaic_fetch(x_ref.at[row], x, arrived)
    gamma, beta = (ref[row % channels].astype(jnp.float32) for ref in (gamma_ref, beta_ref))
    mosaic_await(arrived)
    mean = sum_over(config, lambda at: x[at].astype(jnp.float32)) / config.columns

    def square(at):
        centred = x[at].astype(jnp.float32) - mean
        return centred * centred

    r = jax.lax.rsqrt(sum_over(config, square) / config.columns + plan.epsilon)
    scale = r * gamma

    def write(index, carry):
        at = chunk(index, config)
        z = (x[at].astype(jnp.float32) - mean) * scale + beta
        y[at] = activate(z, plan.activation).astype(y.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
    mean_ref[row] = mean
    r_ref[row] = r
    mosaic_send((y, y_ref.at[row]))
    mosaic_await_sent()


def _backward_kernel(x_ref, dy_ref, *refs: Any, channels, plan: ChannelsPlan, config: MosaicConfig) -> None:
    """dx takes the place of x."""
    gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *found, x, dy, arrived = refs
    row = mosaic_program()
    mosaic_fetch(x_ref.at[row], x, arrived)
    mosaic_fetch(dy_ref.at[row], dy, arrived)
    gamma, beta = (ref[row % channels].astype(jnp.float32) for ref in (gamma_ref, beta_ref))
    mean, r = mean_ref[row], r_ref[row]
    mosaic_await(arrived)

    def pull(at):
        h, dz = (x[at].astype(jnp.float32) - mean) * r, dy[at].astype(jnp.float32)
        if plan.activation != "none":
            dz = differentiate(h * gamma + beta, dz, plan.activation)
        return h, dz

    def add(index, carry):
        h, dz = pull(chunk(index, config))
        return carry[0] + dz * h, carry[1] + dz

    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
    with_h, alone = (jnp.sum(s) for s in jax.lax.fori_loop(0, config.chunks, add, (zero, zero)))
    scale = r * gamma

    def write(index, carry):
        at = chunk(index, config)
        h, dz = pull(at)
        x[at] = (scale * (dz - alone / config.columns - h * (with_h / config.columns))).astype(x.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
    found[0][row] = with_h
    found[1][row] = alone
    mosaic_send((x, dx_ref.at[row]))
    mosaic_await_sent()
