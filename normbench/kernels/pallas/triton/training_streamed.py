"""Batch norm in training, forward and backward, two launches each: sums over blocks of the batch, then what needs them.

A program of either launch has some channels and a share of the batch. The first launch leaves, for each share, the mean
and the squared deviations around it (forward), or sum(dz h) and sum(dz) (backward); each program of the second launch
puts those of its channels together, the same way everywhere, and walks over its share.

    y = act(h gamma + beta)
    dx = r gamma (dz - E[dz] - h E[dz h]),   dgamma = sum(dz h),   dbeta = sum(dz)

with h = (x - mean) r, r = 1 / sqrt(variance + epsilon) and dz = dy act'(h gamma + beta).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_store, triton_when
from normbench.kernels.common.activations import activate
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.triton.channel_tiles import (
    Part,
    channel_sum,
    load_tile,
    load_vector,
    part,
    spread,
    store_tile,
    sum_of,
    tile_mask,
)
from normbench.kernels.pallas.triton.tiles import where
from normbench.kernels.pallas.triton.training_shares import (
    LEAST_STEPS,
    LEAST_STEPS_OF_SUMS,
    BatchConfig,
    BatchPlan,
    batch_config,
    found_by_shares,
    h_and_dz,
    known_vectors,
    loader,
    over_share,
    share,
    terms_of,
    write_statistics,
    zero_tile,
)
from normbench.kernels.pallas.tuning import tuned


def forward(terms: tuple, gamma: jax.Array, beta: jax.Array, running: tuple, plan: BatchPlan) -> tuple:
    """Returns (y, new running mean, new running variance, mean, r): y flat, the others (C,). With a residual, their sum
    follows y, in x's dtype.

    Args:
      terms: x, or x and a residual, flat.
      gamma, beta: (C,).
      running: mean and variance, (C,).
      plan: what is computed.
    """
    x, *residuals = terms
    key = plan.view.key("batch_norm_training.forward", x.dtype.name)
    config = tuned(batch_config(plan.view, x.dtype.name, plan.activation), key)
    wide = jnp.dtype(plan.dtype)
    partials = (jax.ShapeDtypeStruct((config.splits * plan.view.channels,), wide),) * 2
    out = (*partials, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for _ in residuals))
    means, squares, *sums = _launch(_statistics_kernel, terms, out, plan, config, "batch_norm_training_statistics")
    (w,) = sums or (x,)
    out = (
        jax.ShapeDtypeStruct((x.size,), jnp.dtype(plan.output_dtype)),
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running),
        *(jax.ShapeDtypeStruct((plan.view.channels,), wide),) * 2,
    )
    inputs = (w, gamma, beta, *running, means, squares)
    y, *found = _launch(_forward_kernel, inputs, out, plan, config, "batch_norm_training_forward")
    return y, *sums, *found


def backward(saved: tuple, cotangents: tuple, plan: BatchPlan) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns dx, dgamma, dbeta; `saved` is (x, gamma, beta, mean, r), x flat.

    `cotangents` are dy, and what else reaches x, in its dtype, where there is such; flat.
    """
    x, gamma, beta, _, _ = saved
    dy, *others = cotangents
    key = plan.view.key("batch_norm_training.backward", x.dtype.name)
    least_steps = LEAST_STEPS_OF_SUMS if plan.view.last and x.dtype.itemsize < 4 else LEAST_STEPS
    config = tuned(batch_config(plan.view, x.dtype.name, plan.activation, least_steps), key)
    inputs = (*saved[1:], x, dy)
    partials = (jax.ShapeDtypeStruct((config.splits * plan.view.channels,), jnp.dtype(plan.dtype)),) * 2
    found = _launch(_sums_kernel, inputs, partials, plan, config, "batch_norm_training_sums")
    out = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, gamma, beta))
    inputs = (*saved[1:], *found, x, dy, *others)
    return _launch(_backward_kernel, inputs, out, plan, config, "batch_norm_training_backward")


def _launch(kernel: Callable[..., None], inputs: tuple, out: tuple, plan: BatchPlan, config: BatchConfig, name: str):
    return triton_call(
        partial(kernel, plan=plan, config=config),
        grid=config.blocks * config.splits,
        out=out,
        warps=config.warps,
        name=name,
        cost=cost(inputs, out, flops=8 * plan.view.size),
    )(*inputs)


def _statistics_kernel(*refs, plan: BatchPlan, config: BatchConfig) -> None:
    """Sums of x - p and of its square, p the mean of the share's first tile: what cancels is bounded by how often the
    share holds that tile, whatever the data. `refs` are x and two quantities; or x, a residual, these and their sum,
    which then stands for x."""
    terms = refs[: len(refs) // 2]
    mean_ref, squares_ref, *sum_refs = refs[len(terms) :]
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    split, channels = share(config, backwards=False)
    tile = split * config.steps
    head = part(tile % config.chunks * config.chunk, config.chunk, view.spatial, True)
    exists = head.mask & (tile < config.tiles)
    head = Part(head.index, exists)
    head_terms = jnp.maximum(jnp.sum(exists.astype(dtype)), 1)
    image = tile // config.chunks
    first = sum_of([load_tile(ref, view, image, channels, head) for ref in terms])
    pivot = channel_sum(view, first.astype(dtype)) / head_terms

    def add(place, loaded, carry):
        x, (image, positions) = sum_of(loaded), place
        for ref in sum_refs:
            store_tile(ref, view, image, channels, positions, x)
        d = where(tile_mask(view, channels, positions), x.astype(dtype) - spread(view, pivot))
        return carry[0] + d, carry[1] + jnp.square(d)

    zero = zero_tile(plan, config)
    load = loader(terms, view, channels)
    sums, squares = (channel_sum(view, s) for s in over_share(config, split, load, add, (zero, zero)))
    divisor, _ = terms_of(split, config, dtype)
    offset = sums / divisor
    at = split * view.channels + channels.index
    triton_store(mean_ref, at, pivot + offset, channels.mask)
    triton_store(squares_ref, at, jnp.maximum(squares - sums * offset, 0), channels.mask)


def _forward_kernel(x_ref, gamma_ref, beta_ref, *refs, plan: BatchPlan, config: BatchConfig) -> None:
    *running, means_ref, squares_ref, y_ref = refs[:5]
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    split, channels = share(config, backwards=True)
    (means, squares), shares = found_by_shares((means_ref, squares_ref), channels, config)
    _, terms = terms_of(shares, config, dtype)
    terms = terms[:, None]
    count = view.images * view.spatial
    # Around the first share's mean, as a sum of means that are large beside their differences would be rounded.
    pivot = load_vector(means_ref, channels, dtype)
    offset = jnp.sum(terms * (means - pivot[None, :]), axis=0) / count
    mean = pivot + offset
    variance = jnp.sum(squares + terms * jnp.square(means - mean[None, :]), axis=0) / count

    @triton_when(split == 0)
    def _write_statistics() -> None:
        write_statistics(running, refs[5:], mean, variance, channels, count, plan)

    r = jax.lax.rsqrt(variance + plan.epsilon)
    gamma, beta = (spread(view, load_vector(ref, channels, dtype)) for ref in (gamma_ref, beta_ref))
    pivot, offset, r = spread(view, pivot), spread(view, offset), spread(view, r)

    def write(place, loaded, carry):
        (x,) = loaded
        y = activate((x.astype(dtype) - pivot - offset) * (r * gamma) + beta, plan.activation)
        store_tile(y_ref, view, place[0], channels, place[1], y)
        return carry

    over_share(config, split, loader((x_ref,), view, channels, "evict_first"), write, 0)


def _sums_kernel(*refs, plan: BatchPlan, config: BatchConfig) -> None:
    """`refs` are gamma, beta, mean, r; x, dy; and two quantities."""
    split, channels = share(config, backwards=False)
    known = known_vectors(refs[:4], channels, plan)

    def add(_, loaded, carry):
        h, dz = h_and_dz(*loaded, known, plan)
        return carry[0] + dz * h, carry[1] + dz

    zero = zero_tile(plan, config)
    load = loader(refs[4:6], plan.view, channels, "evict_last")
    for ref, tile in zip(refs[6:], over_share(config, split, load, add, (zero, zero)), strict=True):
        at = split * plan.view.channels + channels.index
        triton_store(ref, at, channel_sum(plan.view, tile), channels.mask)


def _backward_kernel(*refs, plan: BatchPlan, config: BatchConfig) -> None:
    """`refs` are gamma, beta, mean, r; two quantities; x, dy, and perhaps what else reaches x; and three gradients."""
    view = plan.view
    split, channels = share(config, backwards=True)
    known = known_vectors(refs[:4], channels, plan)
    streams, (dx_ref, *out) = refs[6:-3], refs[-3:]
    found, _ = found_by_shares(refs[4:6], channels, config)
    sums = [jnp.sum(value, axis=0) for value in found]

    @triton_when(split == 0)
    def _write_gradients() -> None:
        for ref, value in zip(out, sums, strict=True):
            triton_store(ref, channels.index, value.astype(ref.dtype), channels.mask)

    _, r, gamma, _ = known
    scale = r * gamma
    mean_h, mean_dz = (spread(view, value / (view.images * view.spatial)) for value in sums)

    def write(place, loaded, carry):
        x, dy, *others = loaded
        h, dz = h_and_dz(x, dy, known, plan)
        added = (other.astype(plan.dtype) for other in others)
        dx = sum(added, scale * (dz - mean_dz - h * mean_h))
        store_tile(dx_ref, view, place[0], channels, place[1], dx)
        return carry

    over_share(config, split, loader(streams, view, channels, "evict_first"), write, 0)
