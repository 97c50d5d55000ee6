"""Inference batch norm: how the forward kernel, which its variant has, cuts its work into blocks; and the gradient.

The gradient is one launch over x and dy, and a small one for the parameters. With h = (x - mean) r,
r = 1 / sqrt(variance + epsilon) and dz = dy act'(h gamma + beta), nothing waits for a sum:

    dx = r gamma dz,   dgamma = sum(dz h),   dbeta = sum(dz),
    dmean = -r gamma sum(dz),   dvariance = -r² gamma sum(dz h) / 2

The thresholds are reasoned from the hardware and from the PTX that they yield; none is tuned on a device yet.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_program_id, triton_store
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, VECTOR_BYTES, power_of_two_from
from normbench.kernels.pallas.triton.channel_tiles import channel_sum, load_vector, part, spread, store_tile
from normbench.kernels.pallas.triton.training_shares import (
    WARPS as SHARE_WARPS,
)
from normbench.kernels.pallas.triton.training_shares import (
    BatchConfig,
    BatchPlan,
    batch_config,
    found_by_shares,
    h_and_dz,
    loader,
    over_share,
    share,
    zero_tile,
)
from normbench.kernels.pallas.tuning import tuned

WARPS = 4
"""128 threads: 16 programs fill the 2048 thread slots of a multiprocessor, so that a short tail costs little."""

VECTORS_PER_THREAD = {"row": 2, "column": 4, "repeated": 4, "flat": 1}
"""row: two loads in flight per thread cover the latency of memory at full occupancy (64 KiB per multiprocessor; 36 KB
are asked for by 4.8 TB/s × 1 µs ÷ 132). column: four, as each thread also loads the parameters of its channels, which
the rows of its block share. flat: one, as the look-up of the parameters keeps 4 loads per element in flight."""

LEAST_REPEATED = 2 * MULTIPROCESSORS
"""Programs of the view "repeated" before it is taken, as each has four times as much to do as one of the flat view."""
MOST_PADDED = 1.5
"""What a block of the view "row" may cover beside its rows, as a share of them, before others are looked at."""
MOST_REPEATS = 16
"""Times the fewest repeats that are looked at."""


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """The array seen as rows × columns, and the block of it that one program computes.

    Attributes:
      rows, columns: the view; rows * columns is the size of x.
      channels, inner: C, and the number of elements behind the channel axis.
      channel_of: where the channel comes from: "row" (row % C), "column" (the column), "flat" (column // inner % C, of
        one row), "repeated" (the same, of rows that have all channels one or several times).
      block_rows, block_columns: powers of two.
      vector: elements in one load of `VECTOR_BYTES`.
      warps: per program.
    """

    rows: int
    columns: int
    channels: int
    inner: int
    channel_of: str
    block_rows: int
    block_columns: int
    vector: int
    warps: int

    @property
    def column_blocks(self) -> int:
        return -(-self.columns // self.block_columns)

    @property
    def ragged(self) -> bool:
        """True where the last vector of the view is not whole, so that a mask over it would split every load."""
        return self.columns % self.vector != 0

    @property
    def grid(self) -> int:
        return -(-self.rows // self.block_rows) * self.column_blocks


def choose(shape: tuple[int, ...], channel_axis: int, itemsize_bytes: int) -> BlockConfig:
    """Picks the view in which every thread moves whole vectors, and a block of a fixed number of bytes.

    A view by row or column needs a row length of whole vectors, else the rows start unaligned and loads fall back to
    single elements. Where all channels, some times over, are whole vectors, they are such a row; several rows then
    share parameters that are looked up for each element of one (in L1). The flat view is always aligned, but looks them
    up for each element of all, so it is kept for the sizes that need it.
    """
    channels = shape[channel_axis]
    inner = math.prod(shape[channel_axis + 1 :])
    outer = math.prod(shape[:channel_axis])
    vector = VECTOR_BYTES // itemsize_bytes

    def config(rows: int, columns: int, channel_of: str) -> BlockConfig:
        elements = WARPS * 32 * vector * VECTORS_PER_THREAD[channel_of]
        most = elements if channel_of != "repeated" else WARPS * 32 * vector
        block_columns = min(power_of_two_from(columns), most)
        block_rows = min(power_of_two_from(rows), elements // block_columns)
        return BlockConfig(rows, columns, channels, inner, channel_of, block_rows, block_columns, vector, WARPS)

    row = None
    if inner == 1 and channels % vector == 0:
        return config(outer, channels, "column")
    if inner > 1 and inner % vector == 0:
        row = config(outer * channels, inner, "row")
        if row.column_blocks * row.block_columns <= MOST_PADDED * inner:
            return row
    if repeats := _repeats(outer, channels * inner, vector):
        repeated = config(outer // repeats, repeats * channels * inner, "repeated")
        if repeated.grid >= LEAST_REPEATED:
            return repeated
    return row or config(1, outer * channels * inner, "flat")


def _repeats(outer: int, period: int, vector: int) -> int | None:
    """How many times all channels make up a row of whole vectors, of which blocks leave least over; None where no such
    number divides what is outside of the channels."""
    fewest = vector // math.gcd(period, vector)
    counts = [n for n in range(fewest, MOST_REPEATS * fewest + 1, fewest) if outer % n == 0 and n < outer]

    def padded(count: int) -> float:
        block = min(power_of_two_from(count * period), WARPS * 32 * vector)
        return -(-count * period // block) * block / (count * period)

    return min(counts, key=padded, default=None)


def backward(saved: tuple, cotangents: tuple, plan: BatchPlan) -> tuple[jax.Array, ...]:
    """Returns dx, flat, and the gradients of gamma, beta, mean and variance, each in its parameter's dtype.

    Args:
      saved: x, flat, and gamma, beta, mean, variance, (C,).
      cotangents: dy, flat, and what else reaches x, in its dtype, or None.
      plan: what is computed; the momentum has no part in it.
    """
    x, gamma, _, _, variance = saved
    key = plan.view.key("batch_norm.backward", x.dtype.name)
    config = tuned(batch_config(plan.view, x.dtype.name, plan.activation), key)
    sums = (jax.ShapeDtypeStruct((config.splits * plan.view.channels,), jnp.dtype(plan.dtype)),) * 2
    streams = (x, *(cotangent for cotangent in cotangents if cotangent is not None))
    inputs = (*saved[1:], *streams)
    out = (jax.ShapeDtypeStruct(x.shape, x.dtype), *sums)
    dx, *found = triton_call(
        partial(_kernel, plan=plan, config=config, streams=len(streams)),
        grid=config.blocks * config.splits,
        out=out,
        warps=config.warps,
        name="batch_norm_backward",
        cost=cost(inputs, out, flops=8 * x.size),
    )(*inputs)
    inputs = (gamma, variance, *found)
    parameters = tuple(jax.ShapeDtypeStruct(p.shape, p.dtype) for p in saved[1:])
    gradients = triton_call(
        partial(_parameters_kernel, plan=plan, config=config),
        grid=config.blocks,
        out=parameters,
        warps=SHARE_WARPS,
        name="batch_norm_backward_parameters",
        cost=cost(inputs, parameters, flops=2 * sum(array.size for array in found)),
    )(*inputs)
    return dx, *gradients


def _kernel(gamma_ref, beta_ref, mean_ref, variance_ref, *refs, plan, config, streams: int) -> None:
    """`refs` are the streams, x, dy and what else reaches x, then dx and the sums."""
    inputs, (dx_ref, *sums) = refs[:streams], refs[streams:]
    view = plan.view
    split, channels = share(config, backwards=False)
    parameters = (load_vector(ref, channels, plan.dtype) for ref in (gamma_ref, beta_ref, mean_ref, variance_ref))
    gamma, beta, mean, variance = (spread(view, vector) for vector in parameters)
    r = jax.lax.rsqrt(variance + plan.epsilon)
    known = mean, r, gamma, beta
    scale = r * gamma

    def step(place, loaded, carry):
        x, dy, *others = loaded
        h, dz = h_and_dz(x, dy, known, plan)
        dx = sum((other.astype(plan.dtype) for other in others), scale * dz)
        store_tile(dx_ref, view, place[0], channels, place[1], dx)
        return carry[0] + dz * h, carry[1] + dz

    zero = zero_tile(plan, config)
    load = loader(inputs, view, channels, "evict_first")
    for ref, tile in zip(sums, over_share(config, split, load, step, (zero, zero)), strict=True):
        triton_store(ref, split * view.channels + channels.index, channel_sum(view, tile), channels.mask)


def _parameters_kernel(gamma_ref, variance_ref, *refs, plan: BatchPlan, config: BatchConfig) -> None:
    """The shares' sums put together, always in the same order."""
    first = triton_program_id() * config.block
    channels = part(first, config.block, config.view.channels, config.masks_channels)
    (with_h, alone), _ = found_by_shares(refs[:2], channels, config)
    with_h, alone = jnp.sum(with_h, axis=0), jnp.sum(alone, axis=0)
    gamma, variance = (load_vector(ref, channels, plan.dtype) for ref in (gamma_ref, variance_ref))
    r = jax.lax.rsqrt(variance + plan.epsilon)
    gradients = with_h, alone, -r * gamma * alone, -0.5 * r * (r * gamma * with_h)
    for ref, value in zip(refs[2:], gradients, strict=True):
        triton_store(ref, channels.index, value.astype(ref.dtype), channels.mask)
