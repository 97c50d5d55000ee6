"""Norms over the positions of an image in Mosaic GPU, channels last: a program has some channels in shared memory.

With h = (x - mean) r, dh = gamma dz and E the mean over the positions and the channels of a group:

    y = act(h gamma + beta),   dx = r (dh - E[dh] - h E[dh h]),   dgamma = sum(dz h),   dbeta = sum(dz)

Instance norm has groups of one channel; batch norm in training has one image of all positions, too.
"""

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
    mosaic_fetch_stack,
    mosaic_program,
    mosaic_send_stack,
    mosaic_shared,
    mosaic_slice,
    mosaic_stack_copies,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, pulled
from normbench.kernels.pallas.mosaic.columns_config import ColumnsConfig
from normbench.kernels.pallas.mosaic.columns_sums import chunk, over_groups, over_positions, spread, write_out
from normbench.kernels.pallas.mosaic.partial_sums import sum_partials


@dataclass(frozen=True, slots=True)
class ColumnsPlan:
    """What is computed.

    Attributes:
      epsilon: r = 1 / sqrt(variance + epsilon).
      activation: of `ACTIVATIONS`.
      output_dtype: of y.
      momentum: None, or new running statistics = (1 - momentum) running + momentum of the batch, the variance unbiased.
    """

    epsilon: float
    activation: str
    output_dtype: str
    momentum: float | None = None


def forward(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, running: tuple, plan: ColumnsPlan, config: ColumnsConfig
) -> tuple[jax.Array, ...]:
    """Returns y, mean and r in float32 by image and group, and the new running mean and variance where there are any.

    Args:
      x: (images, positions, channels).
      running: () or the running mean and variance.
    """
    dtype, shape = jnp.dtype(plan.output_dtype), _shape(config)
    statistics = jax.ShapeDtypeStruct((config.images, config.channels // config.each), jnp.float32)
    moved = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running)
    out = (jax.ShapeDtypeStruct(shape, dtype), statistics, statistics, *moved)
    tensors = (x.dtype,) if dtype == x.dtype else (x.dtype, dtype)
    y, *found = mosaic_call(
        partial(_forward_kernel, plan=plan, config=config),
        grid=config.images * config.blocks,
        out=out,
        scratch=_scratch(tensors, 1, config),
        name="columns_forward",
        cost=cost((x, gamma, beta, *running), out),
    )(x.reshape(shape), gamma, beta, *running)
    return y.reshape(x.shape), *found


def backward(saved: tuple, dy: jax.Array, plan: ColumnsPlan, config: ColumnsConfig) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma and beta; `saved` is (x, gamma, beta, mean, r)."""
    x, gamma, beta, *_ = saved
    shape, alone = _shape(config), config.images == 1
    dtypes = (gamma.dtype, beta.dtype) if alone else (jnp.float32,) * 2
    sums = (jax.ShapeDtypeStruct((config.images, config.channels), dtype) for dtype in dtypes)
    out = (jax.ShapeDtypeStruct(shape, x.dtype), *sums)
    dx, *partials = mosaic_call(
        partial(_backward_kernel, plan=plan, config=config),
        grid=config.images * config.blocks,
        out=out,
        scratch=_scratch((x.dtype, dy.dtype), 2, config),
        name="columns_backward",
        cost=cost((*saved, dy), out),
    )(x.reshape(shape), dy.reshape(shape), *saved[1:])
    if alone:
        return dx.reshape(x.shape), *(array.reshape(-1) for array in partials)
    return dx.reshape(x.shape), *sum_partials(partials, (gamma, beta))


def _shape(config: ColumnsConfig) -> tuple[int, int, int, int]:
    return config.images, config.parts, config.lines, config.channels


def _scratch(dtypes: tuple, fetched: int, config: ColumnsConfig) -> tuple:
    """Tensors of a program, two chunks for its sums, and a barrier."""
    return (
        *(mosaic_shared((config.positions, config.width), dtype) for dtype in dtypes),
        mosaic_shared((2 * config.chunk, config.width), jnp.float32),
        mosaic_barrier(fetched * mosaic_stack_copies(config.parts)),
    )


def _here(config: ColumnsConfig) -> tuple[Any, Any, Any]:
    """Image, first channel, and what to index x with, of the running program."""
    image, first = mosaic_program() // config.blocks, mosaic_program() % config.blocks * config.width
    return image, first, (image, slice(None), slice(None), mosaic_slice(first, config.width))


def _of_channel(ref: Any, first: Any, channel: Any) -> jax.Array:
    return ref[first + channel]


def _of_group(ref: Any, channel: Any, image: Any, first: Any, each: int) -> jax.Array:
    return ref[image, (first + channel) // each]


def _forward_kernel(x_ref, *refs: Any, plan: ColumnsPlan, config: ColumnsConfig) -> None:
    count = 2 if plan.momentum is None else 4
    gamma_ref, beta_ref, *running = refs[:count]
    y_ref, *found = refs[count : 2 * count + 1]
    x, *others, work, arrived = refs[2 * count + 1 :]
    y = others[0] if others else x
    image, first, here = _here(config)
    mosaic_fetch_stack(x_ref.at[*here], x, arrived)
    gamma, beta = (spread(partial(_of_channel, ref, first), work, config) for ref in (gamma_ref, beta_ref))
    mosaic_await(arrived)

    def average(term):
        def step(index, carry):
            return carry + term(x[chunk(index, config)].astype(jnp.float32))

        zero = jnp.zeros((config.chunk, config.width), jnp.float32)
        summed = over_positions(jax.lax.fori_loop(0, config.chunks, step, zero), work, config)
        return over_groups(summed, work, config) / config.elements

    near = average(lambda values: values)
    # What the rounding of the mean has left of it: taken away, the error is that of one rounding whatever the mean.
    offset = average(lambda values: values - near)
    variance = average(lambda values: (values - near - offset) * (values - near - offset))
    r = jax.lax.rsqrt(variance + plan.epsilon)
    scale = r * gamma

    def write(index, carry):
        at = chunk(index, config)
        z = (x[at].astype(jnp.float32) - near - offset) * scale + beta
        y[at] = activate(z, plan.activation).astype(y.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
    mosaic_send_stack(y, y_ref.at[*here])
    mean = near + offset
    for values, ref in ((mean, found[0]), (r, found[1])):
        write_out(values, work, ref, (image, first // config.each), config.each, config)
    if plan.momentum is not None:
        unbiased = variance * (config.elements / (config.elements - 1))
        for values, old, ref in zip((mean, unbiased), running, found[2:], strict=True):
            _move(values, old, ref, first, work, plan.momentum, config)
    mosaic_await_sent()


def _move(values, old, ref, first, work, momentum, config: ColumnsConfig) -> None:
    """The new running statistics of the program's channels."""
    before = spread(partial(_of_channel, old, first), work, config)
    write_out((1 - momentum) * before + momentum * values, work, ref, (first,), 1, config)


def _backward_kernel(x_ref, dy_ref, *refs: Any, plan: ColumnsPlan, config: ColumnsConfig) -> None:
    """dx takes the place of x."""
    gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *found, x, dy, work, arrived = refs
    image, first, here = _here(config)
    mosaic_fetch_stack(x_ref.at[*here], x, arrived)
    mosaic_fetch_stack(dy_ref.at[*here], dy, arrived)
    gamma, beta = (spread(partial(_of_channel, ref, first), work, config) for ref in (gamma_ref, beta_ref))
    of_group = partial(_of_group, image=image, first=first, each=config.each)
    mean, r = (spread(partial(of_group, ref), work, config) for ref in (mean_ref, r_ref))
    mosaic_await(arrived)

    def pull(at):
        h = (x[at].astype(jnp.float32) - mean) * r
        return h, pulled(h, dy[at].astype(jnp.float32), gamma, beta, plan.activation)

    def add(index, carry):
        h, dz = pull(chunk(index, config))
        return carry[0] + dz * h, carry[1] + dz

    zero = jnp.zeros((config.chunk, config.width), jnp.float32)
    sums = jax.lax.fori_loop(0, config.chunks, add, (zero, zero))
    with_h, alone = (over_positions(values, work, config) for values in sums)
    for values, ref in ((with_h, found[0]), (alone, found[1])):
        write_out(values, work, ref, (image, first), 1, config)
    with_h, alone = (over_groups(gamma * values, work, config) / config.elements for values in (with_h, alone))

    def write(index, carry):
        at = chunk(index, config)
        h, dz = pull(at)
        x[at] = (r * (gamma * dz - alone - h * with_h)).astype(x.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
    mosaic_send_stack(x, dx_ref.at[*here])
    mosaic_await_sent()
