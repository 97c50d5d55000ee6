"""Inference batch norm in Mosaic GPU, channels last: programs that stay and walk over tiles, two of them in flight.

With scale = gamma / sqrt(variance + epsilon), y = act((x - mean) scale + beta).
"""

from collections.abc import Callable
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
    mosaic_slice,
    mosaic_when,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate
from normbench.kernels.pallas.mosaic.exact.channels_config import (
    ChannelsConfig,
    channels_config,
    forward_shared_bytes,
    tile_positions,
)
from normbench.kernels.pallas.mosaic.limits import Plan

SLOTS = 2
"""Tiles that a program has in shared memory: the next one arrives while this one is computed."""
PARAMETERS = 4
"""gamma, beta, mean and variance."""


def forward(x: jax.Array, parameters: tuple, plan: Plan) -> jax.Array:
    """Returns y; x is (positions, channels), the parameters gamma, beta, mean and variance, (channels,)."""
    rows, channels = x.shape
    width = tile_positions(rows, channels) * channels
    dtypes = tuple(parameter.dtype.name for parameter in parameters)
    shared = forward_shared_bytes(width, x.dtype.name, dtypes, plan.output_dtype)
    config = channels_config(rows, channels, shared, None)
    block, dtype = (config.lines, config.line), jnp.dtype(plan.output_dtype)
    out = (jax.ShapeDtypeStruct((config.tiles, *block), dtype),)
    scratch = (
        mosaic_shared((SLOTS, *block), x.dtype),
        *parameter_scratch(parameters, config),
        *(() if dtype == x.dtype else (mosaic_shared((SLOTS, *block), dtype),)),
        mosaic_barrier(1, SLOTS),
        mosaic_barrier(PARAMETERS * config.positions),
    )
    (y,) = mosaic_call(
        partial(_kernel, plan=plan, config=config),
        grid=config.programs,
        out=out,
        scratch=scratch,
        name="batch_norm_forward",
        cost=cost((x, *parameters), out),
    )(x.reshape(config.tiles, *block), *by_lines(parameters, config))
    return y.reshape(x.shape)


def by_lines(parameters: tuple, config: ChannelsConfig) -> tuple:
    return tuple(parameter.reshape(config.channel_lines, config.line) for parameter in parameters)


def parameter_scratch(parameters: tuple, config: ChannelsConfig) -> tuple:
    """Shared memory of the parameters, and of the scale that is made of them."""
    block = (config.lines, config.line)
    return (*(mosaic_shared(block, p.dtype) for p in parameters), mosaic_shared(block, jnp.float32))


def _kernel(x_ref, *refs: Any, plan: Plan, config: ChannelsConfig) -> None:
    parameters, y_ref, x_slots, vectors = refs[:4], refs[4], refs[5], refs[6:11]
    y_slots = refs[11] if len(refs) == 14 else x_slots
    arrived, vectors_arrived = refs[-2:]
    _, beta, mean, _, scale = vectors

    def compute(slot):
        def step(index, carry):
            at = chunk(index, config)
            z = (x_slots.at[slot][at].astype(jnp.float32) - mean[at].astype(jnp.float32)) * scale[at]
            z = activate(z + beta[at].astype(jnp.float32), plan.activation)
            y_slots.at[slot][at] = z.astype(y_slots.dtype)
            return carry

        jax.lax.fori_loop(0, config.chunks, step, 0)

    def prepare():
        fetch_parameters(parameters, vectors, vectors_arrived, config, plan.epsilon)

    walk(((x_ref, x_slots),), arrived, (y_slots, y_ref), prepare, compute, config)
    mosaic_await_sent()


def fetch_parameters(refs: tuple, vectors: tuple, arrived: Any, config: ChannelsConfig, epsilon: float) -> None:
    """Brings the parameters, once for each position of a tile, and makes the scale, the last of `vectors`."""

    def fetch(position, carry):
        lines = mosaic_slice(position * config.channel_lines, config.channel_lines)
        for ref, target in zip(refs, vectors, strict=False):
            mosaic_fetch(ref, target.at[lines], arrived)
        return carry

    def fold(index, carry):
        at = chunk(index, config)
        deviation = jax.lax.rsqrt(vectors[3][at].astype(jnp.float32) + epsilon)
        vectors[4][at] = vectors[0][at].astype(jnp.float32) * deviation
        return carry

    jax.lax.fori_loop(0, config.positions, fetch, 0)
    mosaic_await(arrived)
    jax.lax.fori_loop(0, config.chunks, fold, 0)


def walk(
    tensors: tuple[tuple[Any, Any], ...],
    arrived: Any,
    sent: tuple[Any, Any],
    prepare: Callable[[], None],
    compute: Callable[[Any], None],
    config: ChannelsConfig,
) -> None:
    """Computes each tile of the running program.

    Args:
      tensors: what is read, and its slots.
      arrived: the barriers of the slots.
      sent: the slots that are written, and where they are sent.
      prepare: runs while the first tile is on its way.
      compute: of a slot.
    """
    program = mosaic_program()
    tiles = (config.tiles - program + config.programs - 1) // config.programs

    def fetch(index, slot):
        for ref, slots in tensors:
            mosaic_fetch(ref.at[program + index * config.programs], slots.at[slot], arrived.at[slot])

    def step(index, carry):
        slot = index % SLOTS

        @mosaic_when(index + 1 < tiles)
        def _():
            mosaic_await_sent(read_only=True)  # what was in the slot may still be on its way out
            fetch(index + 1, (index + 1) % SLOTS)

        mosaic_await(arrived.at[slot])
        compute(slot)
        mosaic_send((sent[0].at[slot], sent[1].at[program + index * config.programs]))
        return carry

    fetch(0, 0)
    prepare()
    jax.lax.fori_loop(0, tiles, step, 0)


def chunk(index: Any, config: ChannelsConfig) -> tuple:
    """Where the chunk of a tile lies."""
    return (mosaic_slice(index * config.chunk_lines, config.chunk_lines),)
