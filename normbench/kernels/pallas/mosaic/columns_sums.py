"""Sums over positions, channels last, inside a Mosaic kernel: in registers every position has what a channel knows.

A chunk is (positions, channels), its elements spread over all threads of a program. `work`, twice as many positions in
float32, lies in shared memory, where threads see each other's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import mosaic_clear, mosaic_slice
from normbench.kernels.pallas.mosaic.columns_config import AnyColumns, ColumnsConfig

Config = ColumnsConfig | AnyColumns


def chunk(index: Any, config: ColumnsConfig) -> tuple:
    """Where the chunk of a program lies."""
    return (mosaic_slice(index * config.chunk, config.chunk),)


def over_positions(values: jax.Array, work: Any, config: Config) -> jax.Array:
    """The sum over the positions of a chunk, in each of them: what is turned by half of them is added, then what is
    turned by a quarter, and so on."""

    def step(index, values):
        work[: config.chunk] = values
        work[config.chunk :] = values
        return values + work[mosaic_slice(config.chunk >> (index + 1), config.chunk)]

    return jax.lax.fori_loop(0, config.chunk.bit_length() - 1, step, values)


def over_groups(values: jax.Array, work: Any, config: Config) -> jax.Array:
    """The sum over the channels of each group, in each of them; every position has the same values."""
    if config.each == 1:
        return values
    work[config.chunk :] = values
    mosaic_clear(work, slice(0, config.chunk))

    def step(group, carry):
        def add(index, total):
            return total + work[config.chunk, group * config.each + index]

        total = jax.lax.fori_loop(0, config.each, add, jnp.float32(0))

        def put(index, carry):
            work[0, group * config.each + index] = total
            return carry

        return jax.lax.fori_loop(0, config.each, put, carry)

    jax.lax.fori_loop(0, config.width // config.each, step, 0)
    return over_positions(work[: config.chunk], work, config)


def spread(value: Callable[[Any], jax.Array], work: Any, config: Config) -> jax.Array:
    """`value` of each channel, a scalar, in all positions of a chunk."""
    mosaic_clear(work, slice(0, config.chunk))

    def step(channel, carry):
        work[0, channel] = value(channel).astype(jnp.float32)
        return carry

    jax.lax.fori_loop(0, config.width, step, 0)
    return over_positions(work[: config.chunk], work, config)


def write_out(values: jax.Array, work: Any, ref: Any, start: tuple, each: int, config: Config) -> None:
    """Writes one value of every `each` channels to device memory, from `start`."""
    work[: config.chunk] = values

    def step(index, carry):
        ref[*start[:-1], start[-1] + index] = work[0, index * each].astype(ref.dtype)
        return carry

    jax.lax.fori_loop(0, config.width // each, step, 0)
