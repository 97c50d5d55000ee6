"""The gradient of inference batch norm in Mosaic GPU, channels last: x and dy are read once, dx is written once.

With r = 1 / sqrt(variance + epsilon), scale = gamma r and dz = dy act'((x - mean) scale + beta):

    dx = scale dz,   dgamma = r sum(dz (x - mean)),   dbeta = sum(dz),
    dmean = -scale sum(dz),   dvariance = -r² scale sum(dz (x - mean)) / 2
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_clear,
    mosaic_program,
    mosaic_send,
    mosaic_shared,
    mosaic_slice,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import differentiate
from normbench.kernels.pallas.mosaic.exact.channels import (
    PARAMETERS,
    SLOTS,
    by_lines,
    chunk,
    fetch_parameters,
    parameter_scratch,
    walk,
)
from normbench.kernels.pallas.mosaic.exact.channels_config import (
    ChannelsConfig,
    backward_shared_bytes,
    channels_config,
    chunk_lines,
    fewest_positions,
    tile_positions,
)
from normbench.kernels.pallas.mosaic.limits import Plan
from normbench.kernels.pallas.mosaic.partial_sums import sum_partials


def backward(saved: tuple, dy: jax.Array, plan: Plan) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma, beta, mean and variance; `saved` is (x, gamma, beta, mean, variance)."""
    x, *parameters = saved
    rows, channels = x.shape
    width = tile_positions(rows, channels) * channels
    dtypes = tuple(parameter.dtype.name for parameter in parameters)
    shared = backward_shared_bytes(width, x.dtype.name, dtypes, plan.output_dtype)
    config = channels_config(
        rows, channels, shared, (x.size * x.dtype.itemsize, PARAMETERS * 4 * fewest_positions(channels) * channels)
    )
    block = (config.lines, config.line)
    whole = (config.tiles, *block)
    sums = jax.ShapeDtypeStruct((config.programs, *config.left), jnp.float32)
    out = (jax.ShapeDtypeStruct(whole, x.dtype), *(sums,) * PARAMETERS)
    scratch = (
        *(mosaic_shared((SLOTS, *block), tensor.dtype) for tensor in (x, dy)),
        *parameter_scratch(tuple(parameters), config),
        *(mosaic_shared(block, jnp.float32),) * 2,
        *(mosaic_shared(config.left, jnp.float32),) * PARAMETERS,
        mosaic_barrier(2, SLOTS),
        mosaic_barrier(PARAMETERS * config.positions),
    )
    dx, *partials = mosaic_call(
        partial(_kernel, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=scratch,
        name="batch_norm_backward",
        cost=cost((x, dy, *parameters), out),
    )(x.reshape(whole), dy.reshape(whole), *by_lines(tuple(parameters), config))
    return dx.reshape(x.shape), *sum_partials([array.reshape(-1, channels) for array in partials], parameters)


def _kernel(x_ref, dy_ref, *refs: Any, plan: Plan, config: ChannelsConfig) -> None:
    parameters, dx_ref, sums_refs, scratch = refs[:4], refs[4], refs[5:9], refs[9:]
    x_slots, dy_slots, *vectors = scratch[:7]
    sums, found, (arrived, vectors_arrived) = scratch[7:9], scratch[9:13], scratch[13:]
    _, beta, mean, _, scale = vectors

    def prepare():
        _clear(sums, config)
        fetch_parameters(parameters, tuple(vectors), vectors_arrived, config, plan.epsilon)

    def compute(slot):
        """dx takes the place of x; the sums grow."""

        def step(index, carry):
            at = chunk(index, config)
            centred = x_slots.at[slot][at].astype(jnp.float32) - mean[at].astype(jnp.float32)
            dz = dy_slots.at[slot][at].astype(jnp.float32)
            if plan.activation != "none":
                dz = differentiate(centred * scale[at] + beta[at].astype(jnp.float32), dz, plan.activation)
            sums[0][at] = sums[0][at] + dz * centred
            sums[1][at] = sums[1][at] + dz
            x_slots.at[slot][at] = (scale[at] * dz).astype(x_slots.dtype)
            return carry

        jax.lax.fori_loop(0, config.chunks, step, 0)

    walk(((x_ref, x_slots), (dy_ref, dy_slots)), arrived, (x_slots, dx_ref), prepare, compute, config)
    _finish(sums, tuple(vectors), found, plan, config)
    mosaic_send(*((source, target.at[mosaic_program()]) for source, target in zip(found, sums_refs, strict=True)))
    mosaic_await_sent()


def _clear(sums: tuple, config: ChannelsConfig) -> None:
    def step(index, carry):
        for ref in sums:
            mosaic_clear(ref, chunk(index, config))
        return carry

    jax.lax.fori_loop(0, config.chunks, step, 0)


def _finish(sums: tuple, vectors: tuple, found: tuple, plan: Plan, config: ChannelsConfig) -> None:
    """The program's share of the gradients: the sums of all positions of a tile, put together and multiplied, as what
    is left for the second launch is to add them up."""
    lines, line = config.left
    width = chunk_lines(lines, line)

    def step(index, carry):
        def total(ref):
            def add(part, total):
                return total + ref[mosaic_slice(part * lines + index * width, width),]

            return jax.lax.fori_loop(0, config.lines // lines, add, jnp.zeros((width, line), jnp.float32))

        at = (mosaic_slice(index * width, width),)
        with_x, alone = total(sums[0]), total(sums[1])
        r = jax.lax.rsqrt(vectors[3][at].astype(jnp.float32) + plan.epsilon)
        scale = vectors[4][at]
        terms = r * with_x, alone, -scale * alone, -0.5 * r * r * scale * with_x
        for ref, term in zip(found, terms, strict=True):
            ref[at] = term
        return carry

    jax.lax.fori_loop(0, lines // width, step, 0)
