"""Group norm and instance norm forward: one launch, in both layouts; groups that do not fit on the chip take two, of
programs that share the positions of an image: mean and squared deviations of each share, then y.

Backward: dx and partial sums in one launch, the gradients of the parameters in another. With dz = dy act', r = 1 /
deviation and E the mean over the group:

    dx = r (gamma dz - E[gamma dz] - h E[gamma dz h]),   dgamma = sum(dz h),   dbeta = sum(dz)

The sums over the positions of each channel serve both. A program has the same groups of one image after another, and
adds up what it finds for its channels in float32; the programs' sums are added up in a second launch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_program_id, triton_store, triton_when
from normbench.kernels.common.activations import activate
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.triton.channel_tiles import (
    Part,
    View,
    channel_sum,
    load_tile,
    load_vector,
    over_groups,
    over_tiles,
    spread,
    store_tile,
    sum_of,
    tile_mask,
)
from normbench.kernels.pallas.triton.groups_config import (
    GroupConfig,
    backward_config,
    channel_parts,
    forward_config,
    position_part,
    position_parts,
    share_of,
    terms_of,
)
from normbench.kernels.pallas.triton.partial_sums import Partials, sum_partials
from normbench.kernels.pallas.triton.tiles import where
from normbench.kernels.pallas.tuning import tuned


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


def forward(terms: tuple, gamma: jax.Array, beta: jax.Array, plan: GroupPlan, save: bool) -> tuple:
    """Returns (y, z, mean, r), flat: z = x + residual, in x's dtype, or None; mean and r, one of each for every image
    and group, are None without `save`.

    `terms` are x, or x and a residual, flat.
    """
    x, *residuals = terms
    key = plan.view.key("group_norm.forward", f"{plan.groups} groups", x.dtype.name)
    config = tuned(forward_config(plan.view, plan.groups, x.dtype.name), key)
    y = jax.ShapeDtypeStruct((x.size,), jnp.dtype(plan.output_dtype))
    sums = (jax.ShapeDtypeStruct(x.shape, x.dtype),) * len(residuals)
    statistics = (jax.ShapeDtypeStruct((plan.view.images * plan.groups,), jnp.dtype(plan.dtype)),) * (2 * save)
    launch = _resident_forward if config.resident else _streamed_forward
    y, *found = launch(terms, (gamma, beta), (y, *sums, *statistics), plan, config)
    z = found.pop(0) if residuals else None
    return (y, z, *found) if save else (y, z, None, None)


def _resident_forward(terms: tuple, parameters: tuple, out: tuple, plan: GroupPlan, config: GroupConfig) -> Any:
    inputs = (*parameters, *terms)
    grid = plan.view.images * config.blocks
    elements = config.again(terms[0].dtype.name, plan.activation)[1]
    again = [jax.ShapeDtypeStruct((grid, elements), term.dtype) for term in terms]
    return triton_call(
        partial(_kernel, plan=plan, config=config, terms=len(terms)),
        grid=grid,
        out=out,
        warps=config.warps,
        name="group_norm_forward",
        cost=cost(inputs, out, again, flops=8 * plan.view.size),
    )(*inputs)


def _kernel(gamma_ref, beta_ref, *refs, plan: GroupPlan, config: GroupConfig, terms: int) -> None:
    """`refs` are x and perhaps a residual, y and perhaps their sum, and mean and r where they are saved."""
    tensors, saved = (refs[:terms], refs[terms : 2 * terms]), refs[2 * terms :]
    program = triton_program_id()
    image, channels = program // config.blocks, channel_parts(program % config.blocks, config)
    gamma, beta = (
        [spread(plan.view, load_vector(ref, c, plan.dtype)) for c in channels] for ref in (gamma_ref, beta_ref)
    )
    mean, r = _resident(*tensors, image, channels, gamma, beta, plan, config)
    for ref, values in zip(saved, (mean, r), strict=False):
        store_statistic(ref, image, channels[0], values[0], config)


def _statistic_index(image: Any, channels: Part, config: GroupConfig) -> jax.Array:
    return image * config.groups + channels.index // config.each


def store_statistic(ref: Any, image: Any, channels: Part, value: jax.Array, config: GroupConfig) -> None:
    """Stores what belongs to the groups of a tile's channels; those of a group store the same value in one place."""
    value = jnp.broadcast_to(value, channels.index.shape).astype(ref.dtype)
    triton_store(ref, _statistic_index(image, channels, config), value, channels.mask)


def load_statistic(ref: Any, image: Any, channels: Part, config: GroupConfig) -> jax.Array:
    """What belongs to the group of each channel."""
    return load_vector(ref, Part(channels.index // config.each, channels.mask), ref.dtype, image * config.groups)


def _over(vectors: list, config: GroupConfig) -> list:
    """Means over the groups."""
    return [total / config.count for total in over_groups(vectors, config.each, config.block)]


def _resident(terms, written, image, channels, gamma, beta, plan, config):
    """The groups stay in registers between the two passes over them, but for tiles that are read again."""
    view, dtype, (y_ref, *sums) = plan.view, jnp.dtype(plan.dtype), written
    positions = position_parts(config)
    kept = len(channels) * len(positions) - config.again(terms[0].dtype.name, plan.activation)[0]

    def load(c, p):
        return [load_tile(ref, view, image, c, p, "evict_first") for ref in terms]

    loaded = [[load(c, p) for p in positions] for c in channels]
    tiles = [list(map(sum_of, row)) for row in loaded]
    for ref in sums:
        for c, row in zip(channels, tiles, strict=True):
            for tile, p in zip(row, positions, strict=True):
                store_tile(ref, view, image, c, p, tile)
    near = _over([channel_sum(view, sum(t.astype(dtype) for t in row)) for row in tiles], config)
    left, squares = [], []
    for row, c, m in zip(tiles, channels, near, strict=True):
        centered = [
            where(tile_mask(view, c, p), tile.astype(dtype) - spread(view, m))
            for tile, p in zip(row, positions, strict=True)
        ]
        left.append(channel_sum(view, sum(centered)))
        squares.append(channel_sum(view, sum(map(jnp.square, centered))))
    # What the rounding of the mean has left of it: taken away, the error is that of one rounding whatever the mean.
    offset, square = _over(left, config), _over(squares, config)
    r = _r(square, offset, plan)
    for j, (row, c) in enumerate(zip(tiles, channels, strict=True)):
        for k, (tile, p) in enumerate(zip(row, positions, strict=True), j * len(positions)):
            tile = tile if k < kept else sum_of(load(c, p))
            h = (tile.astype(dtype) - spread(view, near[j]) - spread(view, offset[j])) * spread(view, r[j])
            store_tile(y_ref, view, image, c, p, activate(h * gamma[j] + beta[j], plan.activation))
    return [m + o for m, o in zip(near, offset, strict=True)], r


def _r(squares: list, offsets: list, plan: GroupPlan) -> list:
    """1 / deviation, of the means of squares and of what is squared."""
    variances = [jnp.maximum(q - jnp.square(o), 0) for q, o in zip(squares, offsets, strict=True)]
    return [jax.lax.rsqrt(variance + plan.epsilon) for variance in variances]


def _streamed_forward(terms: tuple, parameters: tuple, out: tuple, plan: GroupPlan, config: GroupConfig) -> Any:
    view, x = plan.view, terms[0]
    grid = view.images * config.shares * config.blocks
    partials = (jax.ShapeDtypeStruct((view.images * config.shares * plan.groups,), jnp.dtype(plan.dtype)),) * 2
    left = (*partials, *out[1 : len(terms)])
    means, squares, *sums = triton_call(
        partial(_statistics_kernel, plan=plan, config=config),
        grid=grid,
        out=left,
        warps=config.warps,
        name="group_norm_statistics",
        cost=cost(terms, left, flops=4 * x.size),
    )(*terms)
    inputs, out = (*(sums or terms), *parameters, means, squares), (out[0], *out[len(terms) :])
    y, *found = triton_call(
        partial(_forward_kernel, plan=plan, config=config, grid=grid),
        grid=grid,
        out=out,
        warps=config.warps,
        name="group_norm_forward",
        cost=cost(inputs, out, flops=8 * x.size),
    )(*inputs)
    return y, *sums, *found


def _over_share(config: GroupConfig, share: Any, load: Callable[..., Any], use: Callable[..., Any], carry: Any) -> Any:
    """`carry = use(positions, load(positions), carry)` for a share's tiles; what lies beyond an image is masked."""
    masked = config.steps * config.shares * config.chunk != config.view.spatial

    def positions(step):
        return position_part(share * config.steps + step, config, masked)

    return over_tiles(config.steps, config.together, positions, load, use, carry)


def _statistics_kernel(*refs, plan: GroupPlan, config: GroupConfig) -> None:
    """Of each group, sums of x - p and of its square, p its mean over the share's first tile: what cancels is bounded
    by how often the share holds that tile, whatever the data. `refs` are x and two quantities; or x, a residual, these
    and their sum, which then stands for x."""
    terms = refs[: len(refs) // 2]
    mean_ref, squares_ref, *sum_refs = refs[len(terms) :]
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    image, share, channels = share_of(triton_program_id(), config)
    positions = terms_of(share, config, dtype)

    def load(positions):
        return [load_tile(ref, view, image, channels, positions, "evict_last") for ref in terms]

    def of_group(tile, positions):
        """The mean over a group and its `positions`, of a sum that lies in a tile."""
        (total,) = over_groups([channel_sum(view, tile)], config.each, config.block)
        return total * (1 / (positions * config.each))

    first = load(position_part(share * config.steps, config, config.chunk * config.chunks != view.spatial))
    first = sum_of(first).astype(dtype)
    pivot = of_group(first, jnp.minimum(positions, config.chunk))

    def add(positions, loaded, carry):
        x = sum_of(loaded)
        for ref in sum_refs:
            store_tile(ref, view, image, channels, positions, x)
        d = where(tile_mask(view, channels, positions), x.astype(dtype) - spread(view, pivot))
        return carry[0] + d, carry[1] + jnp.square(d)

    zero = jnp.zeros(first.shape, dtype)
    offset, square = (of_group(total, positions) for total in _over_share(config, share, load, add, (zero, zero)))
    squares = jnp.maximum(square - jnp.square(offset), 0) * (positions * config.each)
    for ref, value in ((mean_ref, pivot + offset), (squares_ref, squares)):
        store_statistic(ref, image * config.shares + share, channels, value, config)


def _forward_kernel(
    x_ref, gamma_ref, beta_ref, means_ref, squares_ref, y_ref, *saved, plan: GroupPlan, config: GroupConfig, grid: int
) -> None:
    """Puts the shares of its groups together, and writes y of one share; the first programs have what was read last,
    which the L2 cache may still hold."""
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    image, share, channels = share_of(grid - 1 - triton_program_id(), config)
    partials = Partials((means_ref, squares_ref), image, channels, config.each, config)

    def over_shares(value):
        """The mean over the positions of an image; shares that are none have no terms."""

        def of(shares, means, squares):
            return (value(partials.along(terms_of(shares, config, dtype)), means, squares),)

        return partials.sums(of)[0] / view.spatial

    # Around a mean of the data, as a sum of means that are large beside their differences would be rounded.
    near = over_shares(lambda terms, means, squares: terms * means)
    offset = over_shares(lambda terms, means, squares: terms * (means - near))
    variance = over_shares(
        lambda terms, means, squares: squares / config.each + terms * jnp.square(means - near - offset)
    )
    r = jax.lax.rsqrt(variance + plan.epsilon)
    near, offset, r = (jnp.broadcast_to(value, (config.width,)) for value in (near, offset, r))
    mean = near + offset
    if saved:

        @triton_when(share == 0)
        def _save() -> None:
            for ref, value in zip(saved, (mean, r), strict=True):
                store_statistic(ref, image, channels, value, config)

    gamma, beta = (load_vector(ref, channels, dtype) for ref in (gamma_ref, beta_ref))
    near, offset, scale, beta = (spread(view, value) for value in (near, offset, r * gamma, beta))

    def load(positions):
        return load_tile(x_ref, view, image, channels, positions, "evict_first")

    def write(positions, x, carry):
        y = activate((x.astype(dtype) - near - offset) * scale + beta, plan.activation)
        store_tile(y_ref, view, image, channels, positions, y)
        return carry

    _over_share(config, share, load, write, 0)


def backward(saved: tuple, cotangents: tuple, plan: GroupPlan) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns dx, dgamma, dbeta; `saved` is (x, gamma, beta, mean, r), flat, and `cotangents` are dy, and what else
    reaches x, in its dtype, where there is such."""
    x, gamma, beta, _, _ = saved
    view, wide = plan.view, jnp.dtype(plan.dtype)
    key = view.key("group_norm.backward", f"{plan.groups} groups", x.dtype.name)
    config = tuned(backward_config(view, plan.groups, x.dtype.name, wide.itemsize), key)
    if not config.resident:
        return _streamed_backward(saved, cotangents, plan, config)
    single = config.splits == 1
    sums = [
        jax.ShapeDtypeStruct((config.splits * view.channels,), array.dtype if single else wide)
        for array in (gamma, beta)
    ]
    out = (jax.ShapeDtypeStruct(x.shape, x.dtype), *sums)
    inputs = (*saved[1:], x, *cotangents)
    dx, *found = triton_call(
        partial(_backward_kernel, plan=plan, config=config, streams=1 + len(cotangents)),
        grid=config.blocks * config.splits,
        out=out,
        warps=config.warps,
        name="group_norm_backward",
        cost=cost(inputs, out, flops=16 * x.size),
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


def _backward_kernel(gamma_ref, beta_ref, mean_ref, r_ref, *refs, plan, config: GroupConfig, streams: int) -> None:
    """Reads an image once: dx, and sums of dz and dz h of its channels, for this program's groups, in all images.

    `refs` are x, dy and perhaps what else reaches x; dx and the sums.
    """
    inputs, (dx_ref, *sums) = refs[:streams], refs[streams:]
    program = triton_program_id()
    split = program // config.blocks
    channels = channel_parts(program % config.blocks, config)
    parameters = [[load_vector(ref, c, plan.dtype) for ref in (gamma_ref, beta_ref)] for c in channels]
    images, first = config.images_each, split * config.images_each

    def step(index, carry):
        image = first + index
        known = [
            _known((mean_ref, r_ref), image, c, of_c, plan, config)
            for c, of_c in zip(channels, parameters, strict=True)
        ]
        found = _resident_backward(inputs, dx_ref, image, known, parameters, plan, config)
        return tuple(total + value for total, value in zip(carry, found, strict=True))

    zero = tuple(jnp.zeros((config.width,), jnp.dtype(plan.dtype)) for _ in range(2 * config.parts))
    here = images if config.view.images % config.splits == 0 else jnp.clip(config.view.images - first, 0, images)
    totals = step(0, zero) if images == 1 else jax.lax.fori_loop(0, here, step, zero)
    for j, c in enumerate(channels):
        for ref, value in zip(sums, totals[2 * j : 2 * j + 2], strict=True):
            triton_store(ref, split * config.view.channels + c.index, value.astype(ref.dtype), c.mask)


def _known(refs, image, channels: Part, parameters: list, plan: GroupPlan, config: GroupConfig) -> _Channels:
    """`refs` are mean and r, `parameters` gamma and beta."""
    statistics = (load_statistic(ref, image, channels, config) for ref in refs)
    return _Channels(channels, *(spread(plan.view, v) for v in (*statistics, *parameters)))


def _h_and_dz(x, dy, c: _Channels, plan: GroupPlan):
    dtype = jnp.dtype(plan.dtype)
    h, dz = (x.astype(dtype) - c.mean) * c.r, dy.astype(dtype)
    if plan.activation != "none":
        (dz,) = jax.vjp(partial(activate, activation=plan.activation), h * c.gamma + c.beta)[1](dz)
    return h, dz


def _means(sums: list[tuple[Any, Any]], known: list[_Channels], parameters, config: GroupConfig) -> list:
    """E[gamma dz h] and E[gamma dz] of each tile's channels, from the sums over positions."""
    found = []
    for i in range(2):
        vectors = [gamma * s[i] for s, (gamma, _) in zip(sums, parameters, strict=True)]
        totals = over_groups(vectors, config.each, config.block)
        found.append([spread(config.view, total / config.count) for total in totals])
    return list(zip(*found, strict=True))


def _dx(h, dz, others: Iterable[jax.Array], c: _Channels, means):
    """`others` are what else reaches x."""
    mean_dh_h, mean_dh = means
    dx = c.r * (c.gamma * dz - mean_dh - h * mean_dh_h)
    return sum((other.astype(dx.dtype) for other in others), dx)


def _resident_backward(inputs, dx_ref, image, known, parameters, plan, config):
    view, positions = plan.view, position_parts(config)

    def load(ref, c, p):
        return load_tile(ref, view, image, c.part, p, "evict_first")

    tiles = [[tuple(load(ref, c, p) for ref in inputs[:2]) for p in positions] for c in known]
    sums = []
    for c, row in zip(known, tiles, strict=True):
        pairs = [_h_and_dz(x, dy, c, plan) for x, dy in row]
        sums.append((channel_sum(view, sum(dz * h for h, dz in pairs)), channel_sum(view, sum(dz for _, dz in pairs))))
    for c, row, means in zip(known, tiles, _means(sums, known, parameters, config), strict=True):
        for p, (x, dy) in zip(positions, row, strict=True):
            others = (load(ref, c, p) for ref in inputs[2:])
            store_tile(dx_ref, view, image, c.part, p, _dx(*_h_and_dz(x, dy, c, plan), others, c, means))
    return [value for pair in sums for value in pair]


def _streamed_backward(saved: tuple, cotangents: tuple, plan: GroupPlan, config: GroupConfig) -> tuple:
    """Two launches of programs that share the positions of an image: sums of dz h and dz, then dx, dgamma and dbeta."""
    view, (x, gamma, beta, _, _) = plan.view, saved
    inputs, grid = (*saved[1:], x, cotangents[0]), view.images * config.shares * config.blocks
    partials = (jax.ShapeDtypeStruct((view.images * config.shares * view.channels,), jnp.dtype(plan.dtype)),) * 2
    found = triton_call(
        partial(_sums_kernel, plan=plan, config=config),
        grid=grid,
        out=partials,
        warps=config.warps,
        name="group_norm_backward_sums",
        cost=cost(inputs, partials, flops=8 * x.size),
    )(*inputs)
    out = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x, gamma, beta))
    inputs = (*saved[1:], *found, x, *cotangents)
    return triton_call(
        partial(_dx_kernel, plan=plan, config=config, grid=grid),
        grid=grid,
        out=out,
        warps=config.warps,
        name="group_norm_backward",
        cost=cost(inputs, out, flops=16 * x.size),
    )(*inputs)


def _of_a_share(program: Any, refs: tuple, streams: tuple, plan, config: GroupConfig, eviction: str) -> tuple:
    """Image, share, what is known of the channels, their gamma and beta, and a function that loads the `streams` at
    positions; `refs` are gamma, beta, mean, r."""
    image, share, channels = share_of(program, config)
    parameters = [load_vector(ref, channels, plan.dtype) for ref in refs[:2]]
    known = _known(refs[2:], image, channels, parameters, plan, config)

    def load(positions):
        return tuple(load_tile(ref, plan.view, image, channels, positions, eviction) for ref in streams)

    return image, share, known, parameters, load


def _sums_kernel(*refs: Any, plan: GroupPlan, config: GroupConfig) -> None:
    """`refs` are gamma, beta, mean, r; x, dy; and two quantities."""
    view = plan.view
    image, share, known, _, load = _of_a_share(triton_program_id(), refs[:4], refs[4:6], plan, config, "evict_last")

    def add(positions, loaded, carry):
        h, dz = _h_and_dz(*loaded, known, plan)
        return carry[0] + dz * h, carry[1] + dz

    shape = (config.chunk, config.width) if view.last else (config.width, config.chunk)
    zero = jnp.zeros(shape, jnp.dtype(plan.dtype))
    at = (image * config.shares + share) * view.channels + known.part.index
    for ref, tile in zip(refs[6:], _over_share(config, share, load, add, (zero, zero)), strict=True):
        triton_store(ref, at, channel_sum(view, tile), known.part.mask)


def _dx_kernel(*refs: Any, plan: GroupPlan, config: GroupConfig, grid: int) -> None:
    """`refs` are gamma, beta, mean, r; two quantities; x, dy, and perhaps what else reaches x; and three gradients."""
    program = grid - 1 - triton_program_id()
    streams, (dx_ref, *out) = refs[6:-3], refs[-3:]
    image, share, known, parameters, load = _of_a_share(program, refs[:4], streams, plan, config, "evict_first")

    def sums_of(image):
        """Of dz h and dz, over the positions of an image."""
        return Partials(refs[4:6], image, known.part, 1, config).sums(lambda shares, *found: found)

    @triton_when(jnp.logical_and(image == 0, share == 0))
    def _write_gradients() -> None:
        def add(index, carry):
            return tuple(total + value for total, value in zip(carry, sums_of(index), strict=True))

        zero = jnp.zeros((config.width,), jnp.dtype(plan.dtype))
        for ref, value in zip(out, jax.lax.fori_loop(0, config.view.images, add, (zero, zero)), strict=True):
            triton_store(ref, known.part.index, value.astype(ref.dtype), known.part.mask)

    (means,) = _means([sums_of(image)], [known], [parameters], config)

    def write(positions, loaded, carry):
        x, dy, *others = loaded
        dx = _dx(*_h_and_dz(x, dy, known, plan), others, known, means)
        store_tile(dx_ref, plan.view, image, known.part, positions, dx)
        return carry

    _over_share(config, share, load, write, 0)
