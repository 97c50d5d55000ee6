"""Group and instance norm in Mosaic GPU, channels first: a program has one group of one image in shared memory.

With h = (x - mean) r, dh = gamma dz and E the mean over the channels and positions of the group:

    y = act(h gamma + beta),   dx = r (dh - E[dh] - h E[dh h]),   dgamma = sum(dz h),   dbeta = sum(dz)

A group of one channel is an instance.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
from normbench.kernels.pallas.mosaic.activations import activate, pulled
from normbench.kernels.pallas.mosaic.exact.channels import ChannelsPlan
from normbench.kernels.pallas.mosaic.exact.rows import chunk
from normbench.kernels.pallas.mosaic.limits import RESERVED_BYTES, MosaicConfig, forward_config
from normbench.kernels.pallas.mosaic.partial_sums import sum_partials


@dataclass(frozen=True, slots=True)
class _Slabs:
    """x as (rows, each, lines, line): a group of an image is a row, of `each` channels that lie as `config` says."""

    groups: int
    each: int
    config: MosaicConfig

    @property
    def block(self) -> tuple[int, int, int]:
        return self.each, self.config.lines, self.config.line

    @property
    def elements(self) -> int:
        return self.each * self.config.columns


def _slabs(x: jax.Array, groups: int) -> _Slabs:
    images, channels, positions = x.shape
    return _Slabs(groups, channels // groups, forward_config(images * groups, positions))


def shared_bytes(elements: int, dtype: str, output_dtype: str, backward: bool) -> int:
    """Shared memory of a program whose group has `elements`: x, and y in another dtype, or dy."""
    of_y = jnp.dtype(output_dtype).itemsize if backward or output_dtype != dtype else 0
    return elements * (jnp.dtype(dtype).itemsize + of_y) + RESERVED_BYTES


def forward(x: jax.Array, gamma: jax.Array, beta: jax.Array, groups: int, plan: ChannelsPlan) -> tuple[jax.Array, ...]:
    """Returns y, and mean and r in float32 by image and group; x is (images, channels, positions)."""
    slabs, dtype = _slabs(x, groups), jnp.dtype(plan.output_dtype)
    rows, block = slabs.config.rows, slabs.block
    statistics = jax.ShapeDtypeStruct((rows,), jnp.float32)
    out = (jax.ShapeDtypeStruct((rows, *block), dtype), statistics, statistics)
    y, mean, r = mosaic_call(
        partial(_forward_kernel, plan=plan, slabs=slabs),
        grid=slabs.config.programs,
        out=out,
        scratch=(
            mosaic_shared(block, x.dtype),
            *(() if dtype == x.dtype else (mosaic_shared(block, dtype),)),
            mosaic_barrier(1),
        ),
        name="group_norm_forward",
        cost=cost((x, gamma, beta), out),
    )(x.reshape(rows, *block), gamma, beta)
    return y.reshape(x.shape), mean, r


def backward(saved: tuple, dy: jax.Array, groups: int, plan: ChannelsPlan) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma and beta; `saved` is (x, gamma, beta, mean, r)."""
    x, gamma, beta, *statistics = saved
    slabs = _slabs(x, groups)
    block = slabs.block
    whole = (slabs.config.rows, *block)
    sums = jax.ShapeDtypeStruct(x.shape[:2], jnp.float32)
    out = (jax.ShapeDtypeStruct(whole, x.dtype), sums, sums)
    dx, *partials = mosaic_call(
        partial(_backward_kernel, plan=plan, slabs=slabs),
        grid=slabs.config.programs,
        out=out,
        scratch=(mosaic_shared(block, x.dtype), mosaic_shared(block, dy.dtype), mosaic_barrier(2)),
        name="group_norm_backward",
        cost=cost((*saved, dy), out),
    )(x.reshape(whole), dy.reshape(whole), gamma, beta, *statistics)
    return dx.reshape(x.shape), *sum_partials(partials, (gamma, beta))


def _means(x: Any, slabs: _Slabs, count: int, terms: Callable[[jax.Array], tuple[jax.Array, ...]]) -> list[jax.Array]:
    """Means over a group of each of `count` terms: each thread adds up its own elements, and then the threads do."""
    config = slabs.config
    zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)

    def of_channel(channel, totals):
        def step(index, totals):
            found = terms(x.at[channel][chunk(index, config)].astype(jnp.float32))
            return tuple(total + term for total, term in zip(totals, found, strict=True))

        return jax.lax.fori_loop(0, config.chunks, step, totals)

    totals = jax.lax.fori_loop(0, slabs.each, of_channel, (zero,) * count)
    return [jnp.sum(total) / slabs.elements for total in totals]


def _forward_kernel(x_ref, gamma_ref, beta_ref, *refs: Any, plan: ChannelsPlan, slabs: _Slabs) -> None:
    y_ref, mean_ref, r_ref, x, *others, arrived = refs
    y, config = others[0] if others else x, slabs.config
    row = mosaic_program()
    first = row % slabs.groups * slabs.each
    mosaic_fetch(x_ref.at[row], x, arrived)
    mosaic_await(arrived)
    (near,) = _means(x, slabs, 1, lambda values: (values,))
    offset, squares = _means(x, slabs, 2, lambda values: (values - near, (values - near) * (values - near)))
    r = jax.lax.rsqrt(jnp.maximum(squares - offset * offset, 0.0) + plan.epsilon)

    def of_channel(channel, carry):
        scale = r * gamma_ref[first + channel].astype(jnp.float32)
        beta = beta_ref[first + channel].astype(jnp.float32)

        def write(index, carry):
            at = chunk(index, config)
            z = (x.at[channel][at].astype(jnp.float32) - near - offset) * scale + beta
            y.at[channel][at] = activate(z, plan.activation).astype(y.dtype)
            return carry

        return jax.lax.fori_loop(0, config.chunks, write, carry)

    jax.lax.fori_loop(0, slabs.each, of_channel, 0)
    mean_ref[row] = near + offset
    r_ref[row] = r
    mosaic_send((y, y_ref.at[row]))
    mosaic_await_sent()


def _backward_kernel(x_ref, dy_ref, *refs: Any, plan: ChannelsPlan, slabs: _Slabs) -> None:
    """dx takes the place of x."""
    gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *found, x, dy, arrived = refs
    config, row = slabs.config, mosaic_program()
    image, first = row // slabs.groups, row % slabs.groups * slabs.each
    mosaic_fetch(x_ref.at[row], x, arrived)
    mosaic_fetch(dy_ref.at[row], dy, arrived)
    mean, r = mean_ref[row], r_ref[row]
    mosaic_await(arrived)

    def scalars(channel):
        return tuple(ref[first + channel].astype(jnp.float32) for ref in (gamma_ref, beta_ref))

    def pull(channel, at, gamma, beta):
        h = (x.at[channel][at].astype(jnp.float32) - mean) * r
        return h, pulled(h, dy.at[channel][at].astype(jnp.float32), gamma, beta, plan.activation)

    def add(channel, carry):
        gamma, beta = scalars(channel)

        def step(index, sums):
            h, dz = pull(channel, chunk(index, config), gamma, beta)
            return sums[0] + dz * h, sums[1] + dz

        zero = jnp.zeros((config.chunk_lines, config.line), jnp.float32)
        with_h, alone = (jnp.sum(s) for s in jax.lax.fori_loop(0, config.chunks, step, (zero, zero)))
        found[0][image, first + channel] = with_h
        found[1][image, first + channel] = alone
        return carry[0] + gamma * with_h, carry[1] + gamma * alone

    zero = jnp.float32(0)
    with_h, alone = (s / slabs.elements for s in jax.lax.fori_loop(0, slabs.each, add, (zero, zero)))

    def write(channel, carry):
        gamma, beta = scalars(channel)

        def step(index, carry):
            at = chunk(index, config)
            h, dz = pull(channel, at, gamma, beta)
            x.at[channel][at] = (r * (gamma * dz - alone - h * with_h)).astype(x.dtype)
            return carry

        return jax.lax.fori_loop(0, config.chunks, step, carry)

    jax.lax.fori_loop(0, slabs.each, write, 0)
    mosaic_send((x, dx_ref.at[row]))
    mosaic_await_sent()
