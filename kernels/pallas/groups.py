"""Group norm and instance norm forward: one launch, in both layouts."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kernels.activations import activate
from kernels.pallas.channels import (
    Part,
    View,
    channel_sum,
    load_tile,
    load_vector,
    over_groups,
    part,
    spread,
    store_tile,
    tile_mask,
)
from kernels.pallas.cost import cost
from kernels.pallas.groups_config import GroupConfig, forward_config
from kernels.pallas.tiles import where
from kernels.pallas.tuning import tuned
from normbench.jax_compat_triton import triton_call, triton_program_id, triton_store


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What is computed: h = (x - mean) r and y = act(h gamma + beta).

    Attributes:
      view: of x.
      groups: number of groups of channels.
      epsilon: r = 1 / sqrt(E[(x - mean)²] + epsilon).
      activation: as for the operator.
      output_dtype: of y.
      dtype: of the arithmetic.
    """

    view: View
    groups: int
    epsilon: float
    activation: str
    output_dtype: str
    dtype: str


def forward(x: jax.Array, gamma: jax.Array, beta: jax.Array, plan: GroupPlan, save: bool) -> tuple:
    """Returns (y, mean, r), flat; mean and r, one of each for every image and group, are None without `save`."""
    key = plan.view.key("group_norm.forward", f"{plan.groups} groups", x.dtype.name)
    config = tuned(forward_config(plan.view, plan.groups, x.dtype.name), key)
    out = [jax.ShapeDtypeStruct((x.size,), jnp.dtype(plan.output_dtype))]
    if save:
        out += [jax.ShapeDtypeStruct((plan.view.images * plan.groups,), jnp.dtype(plan.dtype))] * 2
    inputs = (x, gamma, beta)
    launch = triton_call(
        partial(_kernel, plan=plan, config=config, save=save),
        grid=plan.view.images * config.blocks,
        out=tuple(out),
        warps=config.warps,
        name="group_norm_forward",
        cost=cost(inputs, out, () if config.resident else (x,), flops=8 * x.size),
    )
    found = launch(*inputs)
    return tuple(found) if save else (found[0], None, None)


def _kernel(x_ref, gamma_ref, beta_ref, y_ref, *saved, plan: GroupPlan, config: GroupConfig, save: bool) -> None:
    program = triton_program_id()
    image, channels = program // config.blocks, channel_parts(program % config.blocks, config)
    gamma, beta = (
        [spread(plan.view, load_vector(ref, c, plan.dtype)) for c in channels] for ref in (gamma_ref, beta_ref)
    )
    body = _resident if config.resident else _streamed
    mean, r = body(x_ref, y_ref, image, channels, gamma, beta, plan, config)
    if save:
        for ref, values in zip(saved, (mean, r), strict=True):
            store_statistic(ref, image, channels[0], values[0], config)


def channel_parts(block: Any, config: GroupConfig) -> list[Part]:
    """The channels of the tiles of a block."""
    first = block * config.block
    parts = []
    for j in range(config.parts):
        channels = part(first + j * config.width, config.width, config.view.channels, config.masks_channels)
        if config.block % config.width:
            channels = Part(channels.index, channels.mask & (channels.index < first + config.block))
        parts.append(channels)
    return parts


def position_part(chunk: Any, config: GroupConfig, masked: bool) -> Part:
    return part(chunk * config.chunk, config.chunk, config.view.spatial, masked)


def position_parts(config: GroupConfig) -> list[Part]:
    """All positions, for tiles that are unrolled."""
    spatial = config.view.spatial
    return [position_part(m, config, (m + 1) * config.chunk > spatial) for m in range(config.chunks)]


def over_chunks(config: GroupConfig, step, carry):
    """`carry = step(positions, carry)` for all positions of a streamed block; only the last of them are masked."""
    whole = config.view.spatial // config.chunk

    def unmasked(m, carry):
        return step(position_part(m, config, False), carry)

    if whole:
        carry = jax.lax.fori_loop(0, whole, unmasked, carry)
    return step(position_part(whole, config, True), carry) if whole < config.chunks else carry


def _statistic_index(image: Any, channels: Part, config: GroupConfig) -> jax.Array:
    return image * config.groups + channels.index // config.each


def store_statistic(ref: Any, image: Any, channels: Part, value: jax.Array, config: GroupConfig) -> None:
    """Stores what belongs to the groups of a tile's channels; those of a group store the same value in one place."""
    value = jnp.broadcast_to(value, channels.index.shape).astype(ref.dtype)
    triton_store(ref, _statistic_index(image, channels, config), value, channels.mask)


def load_statistic(ref: Any, image: Any, channels: Part, config: GroupConfig) -> jax.Array:
    """What belongs to the group of each channel."""
    return load_vector(ref, Part(channels.index // config.each, channels.mask), ref.dtype, image * config.groups)


def _over(vectors: list, channels: list[Part], config: GroupConfig) -> list:
    """Means over the groups."""
    return [total / config.count for total in over_groups(vectors, channels, config.each, config.block)]


def _resident(x_ref, y_ref, image, channels, gamma, beta, plan, config):
    """The groups stay in registers between the two passes over them."""
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    positions = position_parts(config)
    tiles = [[load_tile(x_ref, view, image, c, p, "evict_first") for p in positions] for c in channels]
    mean = _over([channel_sum(view, sum(t.astype(dtype) for t in row)) for row in tiles], channels, config)
    squares = []
    for row, c, m in zip(tiles, channels, mean, strict=True):
        centered = [
            where(tile_mask(view, c, p), tile.astype(dtype) - spread(view, m))
            for tile, p in zip(row, positions, strict=True)
        ]
        squares.append(channel_sum(view, sum(map(jnp.square, centered))))
    r = [jax.lax.rsqrt(v + plan.epsilon) for v in _over(squares, channels, config)]
    for j, (row, c) in enumerate(zip(tiles, channels, strict=True)):
        for tile, p in zip(row, positions, strict=True):
            h = (tile.astype(dtype) - spread(view, mean[j])) * spread(view, r[j])
            store_tile(y_ref, view, image, c, p, activate(h * gamma[j] + beta[j], plan.activation))
    return mean, r


def _streamed(x_ref, y_ref, image, channels, gamma, beta, plan, config):
    """Sums of x - p and of its square, p the mean of the group's part of the first tile.

    What cancels in E[(x - p)²] - (mean - p)² is bounded by how often the group holds that tile, whatever the data.
    """
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    first = position_part(0, config, config.chunk > view.spatial)
    tile = load_tile(x_ref, view, image, channels[0], first, "evict_last").astype(dtype)
    terms = min(config.chunk, view.spatial) * (config.each // config.parts)
    (total,) = over_groups([channel_sum(view, tile)], channels[:1], config.each, max(config.each, config.block))
    pivot = total / terms

    def add(c, positions, carry):
        x = load_tile(x_ref, view, image, c, positions, "evict_last").astype(dtype)
        d = where(tile_mask(view, c, positions), x - spread(view, pivot))
        return carry[0] + d, carry[1] + jnp.square(d)

    zero = jnp.zeros(tile.shape, dtype)
    sums = [over_chunks(config, partial(add, c), (zero, zero)) for c in channels]
    offset, squares = (_over([channel_sum(view, s[i]) for s in sums], channels, config) for i in range(2))
    mean = [pivot + o for o in offset]
    variance = [jnp.maximum(q - jnp.square(o), 0) for q, o in zip(squares, offset, strict=True)]
    r = [jax.lax.rsqrt(v + plan.epsilon) for v in variance]
    for j, c in enumerate(channels):

        def write(positions, carry, c=c, j=j):
            x = load_tile(x_ref, view, image, c, positions, "evict_first").astype(dtype)
            h = (x - spread(view, mean[j])) * spread(view, r[j])
            store_tile(y_ref, view, image, c, positions, activate(h * gamma[j] + beta[j], plan.activation))
            return carry

        over_chunks(config, write, 0)
    return mean, r
