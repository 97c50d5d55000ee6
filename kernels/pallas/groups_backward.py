"""Group norm and instance norm backward: dx and partial sums in one launch, the gradients of the parameters in another.

With dz = dy act', r = 1 / deviation and E the mean over the group:

    dx = r (gamma dz - E[gamma dz] - h E[gamma dz h]),   dgamma = sum(dz h),   dbeta = sum(dz)

The sums over the positions of each channel serve both. A program has the same groups of one image after another, and
adds up what it finds for its channels in float32; the programs' sums are added up in a second launch.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kernels.activations import activate
from kernels.pallas.channels import Part, channel_sum, load_tile, load_vector, over_groups, spread, store_tile
from kernels.pallas.cost import cost
from kernels.pallas.groups import (
    GroupPlan,
    channel_parts,
    load_statistic,
    over_chunks,
    position_parts,
)
from kernels.pallas.groups_config import GroupConfig, backward_config
from kernels.pallas.partials import sum_partials
from kernels.pallas.tuning import tuned
from normbench.jax_compat_triton import triton_call, triton_program_id, triton_store


def backward(saved: tuple, dy: jax.Array, plan: GroupPlan) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns dx, dgamma, dbeta; `saved` is (x, gamma, beta, mean, r), flat."""
    x, gamma, beta, _, _ = saved
    view, wide = plan.view, jnp.dtype(plan.dtype)
    key = view.key("group_norm.backward", f"{plan.groups} groups", x.dtype.name)
    config = tuned(backward_config(view, plan.groups, x.dtype.name, wide.itemsize), key)
    single = config.splits == 1
    sums = [
        jax.ShapeDtypeStruct((config.splits * view.channels,), array.dtype if single else wide)
        for array in (gamma, beta)
    ]
    out = (jax.ShapeDtypeStruct(x.shape, x.dtype), *sums)
    inputs = (x, dy, *saved[1:])
    dx, *found = triton_call(
        partial(_kernel, plan=plan, config=config),
        grid=config.blocks * config.splits,
        out=out,
        warps=config.warps,
        name="group_norm_backward",
        cost=cost(inputs, out, () if config.resident else (x, dy), flops=16 * x.size),
    )(*inputs)
    if not single:
        shape = config.splits, view.channels
        found = sum_partials([a.reshape(shape) for a in found], [gamma.dtype.name, beta.dtype.name])
    return dx, *found


class _Channels(NamedTuple):
    """What is known of the channels of one tile, for one image: statistics and parameters lined up with the tile."""

    part: Part
    mean: jax.Array
    r: jax.Array
    gamma: jax.Array
    beta: jax.Array


def _kernel(x_ref, dy_ref, gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *sums, plan, config: GroupConfig) -> None:
    program = triton_program_id()
    split = program // config.blocks
    channels = channel_parts(program % config.blocks, config)
    parameters = [[load_vector(ref, c, plan.dtype) for ref in (gamma_ref, beta_ref)] for c in channels]
    images = config.view.images // config.splits
    body = _resident if config.resident else _streamed

    def step(index, carry):
        image = split * images + index
        known = []
        for c, (gamma, beta) in zip(channels, parameters, strict=True):
            statistics = (load_statistic(ref, image, c, config) for ref in (mean_ref, r_ref))
            known.append(_Channels(c, *(spread(plan.view, v) for v in (*statistics, gamma, beta))))
        found = body(x_ref, dy_ref, dx_ref, image, known, parameters, plan, config)
        return tuple(total + value for total, value in zip(carry, found, strict=True))

    zero = tuple(jnp.zeros((config.width,), jnp.dtype(plan.dtype)) for _ in range(2 * config.parts))
    totals = step(0, zero) if images == 1 else jax.lax.fori_loop(0, images, step, zero)
    for j, c in enumerate(channels):
        for ref, value in zip(sums, totals[2 * j : 2 * j + 2], strict=True):
            triton_store(ref, split * config.view.channels + c.index, value.astype(ref.dtype), c.mask)


def _h_and_dz(x, dy, c: _Channels, plan: GroupPlan):
    dtype = jnp.dtype(plan.dtype)
    h, dz = (x.astype(dtype) - c.mean) * c.r, dy.astype(dtype)
    if plan.activation != "none":
        (dz,) = jax.vjp(partial(activate, activation=plan.activation), h * c.gamma + c.beta)[1](dz)
    return h, dz


def _means(sums: list[tuple[Any, Any]], known: list[_Channels], parameters, config: GroupConfig) -> list:
    """E[gamma dz h] and E[gamma dz] of each tile's channels, from the sums over positions."""
    parts = [c.part for c in known]
    found = []
    for i in range(2):
        vectors = [gamma * s[i] for s, (gamma, _) in zip(sums, parameters, strict=True)]
        totals = over_groups(vectors, parts, config.each, config.block)
        found.append([spread(config.view, total / config.count) for total in totals])
    return list(zip(*found, strict=True))


def _dx(h, dz, c: _Channels, means):
    mean_dh_h, mean_dh = means
    return c.r * (c.gamma * dz - mean_dh - h * mean_dh_h)


def _resident(x_ref, dy_ref, dx_ref, image, known, parameters, plan, config):
    view, positions = plan.view, position_parts(config)
    tiles = [
        [tuple(load_tile(ref, view, image, c.part, p, "evict_first") for ref in (x_ref, dy_ref)) for p in positions]
        for c in known
    ]
    sums = []
    for c, row in zip(known, tiles, strict=True):
        pairs = [_h_and_dz(x, dy, c, plan) for x, dy in row]
        sums.append((channel_sum(view, sum(dz * h for h, dz in pairs)), channel_sum(view, sum(dz for _, dz in pairs))))
    for c, row, means in zip(known, tiles, _means(sums, known, parameters, config), strict=True):
        for p, (x, dy) in zip(positions, row, strict=True):
            store_tile(dx_ref, view, image, c.part, p, _dx(*_h_and_dz(x, dy, c, plan), c, means))
    return [value for pair in sums for value in pair]


def _streamed(x_ref, dy_ref, dx_ref, image, known, parameters, plan, config):
    view = plan.view

    def load(c, positions, eviction):
        x, dy = (load_tile(ref, view, image, c.part, positions, eviction) for ref in (x_ref, dy_ref))
        return _h_and_dz(x, dy, c, plan)

    def add(c, positions, carry):
        h, dz = load(c, positions, "evict_last")
        return carry[0] + dz * h, carry[1] + dz

    shape = (config.chunk, config.width) if view.last else (config.width, config.chunk)
    zero = jnp.zeros(shape, jnp.dtype(plan.dtype))
    sums = []
    for c in known:
        found = over_chunks(config, partial(add, c), (zero, zero))
        sums.append(tuple(channel_sum(view, tile) for tile in found))
    for c, means in zip(known, _means(sums, known, parameters, config), strict=True):

        def write(positions, carry, c=c, means=means):
            store_tile(dx_ref, view, image, c.part, positions, _dx(*load(c, positions, "evict_first"), c, means))
            return carry

        over_chunks(config, write, 0)
    return [value for pair in sums for value in pair]
