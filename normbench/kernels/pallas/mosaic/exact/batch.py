"""Batch norm in training in Mosaic GPU, channels first: a program has one channel of all images in shared memory.

With h = (x - mean) r, r = 1 / sqrt(variance + epsilon) and E the mean over the images and positions of the channel:

    y = act(h gamma + beta),   dx = gamma r (dz - E[dz] - h E[dz h]),   dgamma = sum(dz h),   dbeta = sum(dz)
"""

import math
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
    mosaic_stack_copies,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, pulled
from normbench.kernels.pallas.mosaic.exact.channels_config import chunk_lines
from normbench.kernels.pallas.mosaic.exact.rows import chunk, moments
from normbench.kernels.pallas.mosaic.limits import (
    COPY_BYTES,
    LINE,
    RESERVED_BYTES,
    WARPGROUP,
    MosaicConfig,
    shared_refusal,
)

LEAST_ELEMENTS = 512
"""Mean and 1 / deviation in float32 are then 0.8 % of a channel in bfloat16."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is computed.

    Attributes:
      epsilon: r = 1 / sqrt(variance + epsilon).
      momentum: new running statistics = (1 - momentum) running + momentum of the batch, the variance unbiased.
      activation: of `ACTIVATIONS`.
      output_dtype: of y.
    """

    epsilon: float
    momentum: float
    activation: str
    output_dtype: str


def channel_refusal(images: int, positions: int, dtype: str, output_dtype: str, backward: bool) -> str | None:
    """Why channels of so many images and positions are not what the kernels take, or None."""
    elements = images * positions
    narrowest = min(jnp.dtype(dtype).itemsize, jnp.dtype(output_dtype).itemsize)
    if elements < LEAST_ELEMENTS or elements % WARPGROUP:
        return (
            f"{elements} elements of a channel; allowed for pallas_mosaic: "
            f"multiples of {WARPGROUP} from {LEAST_ELEMENTS}"
        )
    if positions * narrowest % COPY_BYTES:
        return f"{positions} positions of an image; allowed for pallas_mosaic: multiples of {COPY_BYTES // narrowest}"
    if images > LINE or positions // math.gcd(positions, LINE) > LINE:
        return (
            f"{images} images of {positions} positions; allowed for pallas_mosaic: what one bulk copy moves, "
            f"{LINE} images of {LINE} lines of {LINE} at most"
        )
    of_y = jnp.dtype(output_dtype).itemsize if backward or output_dtype != dtype else 0
    return shared_refusal(elements * (jnp.dtype(dtype).itemsize + of_y) + RESERVED_BYTES)


def _config(x: jax.Array) -> MosaicConfig:
    images, channels, positions = x.shape
    line = math.gcd(positions, LINE)
    lines = images * positions // line
    return MosaicConfig(channels, lines, line, chunk_lines(lines, line), channels, 1)


def _by_lines(x: jax.Array, config: MosaicConfig) -> jax.Array:
    return x.reshape(*x.shape[:2], -1, config.line)


def forward(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, running: tuple, plan: TrainingPlan
) -> tuple[jax.Array, ...]:
    """Returns y, the new running mean and variance, and mean and r in float32; x is (images, channels, positions)."""
    config, dtype = _config(x), jnp.dtype(plan.output_dtype)
    x_by_lines = _by_lines(x, config)
    block, statistics = (config.lines, config.line), jax.ShapeDtypeStruct(gamma.shape, jnp.float32)
    out = (
        jax.ShapeDtypeStruct(x_by_lines.shape, dtype),
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running),
        statistics,
        statistics,
    )
    y, *found = mosaic_call(
        partial(_forward_kernel, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=(
            mosaic_shared(block, x.dtype),
            *(() if dtype == x.dtype else (mosaic_shared(block, dtype),)),
            mosaic_barrier(mosaic_stack_copies(x.shape[0])),
        ),
        name="batch_norm_training_forward",
        cost=cost((x, gamma, beta, *running), out),
    )(x_by_lines, gamma, beta, *running)
    return y.reshape(x.shape), *found


def backward(saved: tuple, dy: jax.Array, plan: TrainingPlan) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma and beta; `saved` is (x, gamma, beta, mean, r)."""
    x, gamma, beta, *statistics = saved
    config = _config(x)
    x_by_lines, dy_by_lines = (_by_lines(array, config) for array in (x, dy))
    block = (config.lines, config.line)
    out = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x_by_lines, gamma, beta))
    dx, *found = mosaic_call(
        partial(_backward_kernel, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=(
            mosaic_shared(block, x.dtype),
            mosaic_shared(block, dy.dtype),
            mosaic_barrier(2 * mosaic_stack_copies(x.shape[0])),
        ),
        name="batch_norm_training_backward",
        cost=cost((*saved, dy), out),
    )(x_by_lines, dy_by_lines, gamma, beta, *statistics)
    return dx.reshape(x.shape), *found


def _forward_kernel(x_ref, *refs: Any, plan: TrainingPlan, config: MosaicConfig) -> None:
    *parameters, y_ref, moved_mean_ref, moved_variance_ref, mean_ref, r_ref, x = refs[:10]
    y = refs[10] if len(refs) == 12 else x
    arrived, channel = refs[-1], mosaic_program()
    mosaic_fetch_stack(x_ref.at[:, channel], x, arrived)
    gamma, beta, running_mean, running_variance = (ref[channel].astype(jnp.float32) for ref in parameters)
    mosaic_await(arrived)
    near, offset, variance = moments(config, lambda index: x[chunk(index, config)].astype(jnp.float32))
    mean = near + offset
    r = jax.lax.rsqrt(variance + plan.epsilon)
    scale = r * gamma

    def write(index, carry):
        at = chunk(index, config)
        z = (x[at].astype(jnp.float32) - near - offset) * scale + beta
        y[at] = activate(z, plan.activation).astype(y.dtype)
        return carry

    jax.lax.fori_loop(0, config.chunks, write, 0)
    for ref, running, batch in (
        (moved_mean_ref, running_mean, mean),
        (moved_variance_ref, running_variance, variance * (config.columns / (config.columns - 1))),
    ):
        ref[channel] = ((1 - plan.momentum) * running + plan.momentum * batch).astype(ref.dtype)
    mean_ref[channel] = mean
    r_ref[channel] = r
    mosaic_send_stack(y, y_ref.at[:, channel])
    mosaic_await_sent()


def _backward_kernel(x_ref, dy_ref, *refs: Any, plan: TrainingPlan, config: MosaicConfig) -> None:
    """dx takes the place of x."""
    *inputs, dx_ref, dgamma_ref, dbeta_ref, x, dy, arrived = refs
    channel = mosaic_program()
    mosaic_fetch_stack(x_ref.at[:, channel], x, arrived)
    mosaic_fetch_stack(dy_ref.at[:, channel], dy, arrived)
    gamma, beta, mean, r = (ref[channel].astype(jnp.float32) for ref in inputs)
    mosaic_await(arrived)

    def pull(at):
        h = (x[at].astype(jnp.float32) - mean) * r
        return h, pulled(h, dy[at].astype(jnp.float32), gamma, beta, plan.activation)

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
    dgamma_ref[channel] = with_h.astype(dgamma_ref.dtype)
    dbeta_ref[channel] = alone.astype(dbeta_ref.dtype)
    mosaic_send_stack(x, dx_ref.at[:, channel])
    mosaic_await_sent()
