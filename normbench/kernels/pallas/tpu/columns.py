"""Batch norm in training and group norm where channels come last: the statistics of each channel, of all positions.

With p the mean of the group in the first block, u = x - p, the mean and the squares of each block are merged by the
rule of Chan, Golub and LeVeque (1979), and then h = (u - E[u]) / sqrt(E[(u - E[u])^2] + epsilon): p is no rounding, as
u is what p leaves. The grid walks twice over the positions; what the first walk reads stays in VMEM for the second
where it fits, so that x is read once and y written once. Where it does not, x is read twice.

Blocks are (places, ..., channels); statistics are (1, channels), or (images, channels) where the images lie next to the
channels: "rows" below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.tpu import block, tpu_call, tpu_program_id, tpu_slice, tpu_when
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.tpu.limits import VMEM_BYTES, sublanes
from normbench.kernels.pallas.tpu.pieces import Pieces

CHANNELS, IMAGES, WALK, PIECE = range(4)
"""Dimensions of the grid."""


@dataclass(frozen=True, slots=True)
class ColumnsPlan:
    """What is computed: `each` channels are normalized together; momentum None: there are no running statistics."""

    name: str
    each: int
    epsilon: float
    activation: str
    output_dtype: str
    momentum: float | None = None


def forward(
    x: jax.Array,
    parameters: Sequence[jax.Array],
    running: Sequence[jax.Array],
    plan: ColumnsPlan,
    cut: Pieces,
    saves: bool,
) -> list[jax.Array]:
    """Returns y in x's shape; with `saves` (images, 2, rows, channels), the mean and 1 / deviation of the group of each
    channel in float32; and the new running statistics, in float32, where running ones are given.

    Args:
      x: (images, places, ..., channels), as `cut` says.
      parameters: gamma and beta, (channels,).
      running: mean and variance, (channels,), or nothing.
    """
    images, channels = x.shape[0], x.shape[-1]
    vector = block((1, cut.channels), lambda c, n, w, k: (0, c))
    out = [jax.ShapeDtypeStruct(x.shape, plan.output_dtype)]
    specs = [tensor(cut, lambda w, k: w * k)]
    if saves:
        out.append(jax.ShapeDtypeStruct((images, 2, cut.rows, channels), jnp.float32))
        specs.append(_statistics(cut))
    out += [jax.ShapeDtypeStruct((1, channels), jnp.float32) for _ in running]
    specs += [vector for _ in running]
    vectors = [array.reshape(1, -1) for array in (*parameters, *running)]
    y, *others = tpu_call(
        partial(_forward_kernel, plan=plan, cut=cut, saves=saves),
        grid=_grid(cut),
        in_specs=[tensor(cut, _brought(cut)), *(vector for _ in vectors)],
        out_specs=specs,
        out=out,
        scratch=[*kept_of(cut, (x,)), jax.ShapeDtypeStruct((3, cut.rows, cut.channels), jnp.float32)],
        parallel=1,
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}_pallas_tpu",
        cost=cost((x, *vectors), out, again=() if cut.held else (x,), flops=10 * x.size),
    )(x, *vectors)
    start = int(saves)
    return [y, *others[:start], *(array.reshape(-1) for array in others[start:])]


def backward(
    x: jax.Array,
    parameters: Sequence[jax.Array],
    statistics: jax.Array,
    dy: jax.Array,
    plan: ColumnsPlan,
    cut: Pieces,
) -> list[jax.Array]:
    """Returns dx, dgamma and dbeta, the latter (channels,) in float32; `statistics` is what `forward` saves."""
    channels = x.shape[-1]
    vector = block((1, cut.channels), lambda c, n, w, k: (0, c))
    vectors = [array.reshape(1, -1) for array in parameters]
    out = [jax.ShapeDtypeStruct(x.shape, x.dtype), *[jax.ShapeDtypeStruct((1, channels), jnp.float32)] * 2]
    dx, *gradients = tpu_call(
        partial(_backward_kernel, plan=plan, cut=cut),
        grid=_grid(cut),
        in_specs=[*[tensor(cut, _brought(cut))] * 2, vector, vector, _statistics(cut)],
        out_specs=[tensor(cut, lambda w, k: w * k), vector, vector],
        out=out,
        scratch=[*kept_of(cut, (x, dy)), jax.ShapeDtypeStruct((2, cut.rows, cut.channels), jnp.float32)],
        parallel=1,
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}_backward_pallas_tpu",
        cost=cost((x, dy, *vectors, statistics), out, again=() if cut.held else (x, dy), flops=16 * x.size),
    )(x, dy, *vectors, statistics)
    return [dx, *(array.reshape(-1) for array in gradients)]


def _grid(cut: Pieces) -> tuple[int, ...]:
    channels, images, pieces = cut.grid
    return channels, images, 2, pieces


def tensor(cut: Pieces, piece: Any) -> Any:
    """A block of a tensor; `piece` says which one along the places, by the walk and the step of it."""
    whole = (0,) * len(cut.shape[2:-1])
    return block((None, *cut.block), lambda c, n, w, k: (n, piece(w, k), *whole, c))


def _statistics(cut: Pieces) -> Any:
    return block((None, 2, cut.rows, cut.channels), lambda c, n, w, k: (n, 0, 0, c))


def _brought(cut: Pieces) -> Any:
    """Which piece of what is read a step has: of what is held the last one stays, and nothing is read again."""
    if cut.held:
        return lambda w, k: jnp.where(w == 0, k, cut.pieces - 1)
    return lambda w, k: k


def kept_of(cut: Pieces, tensors: Sequence[jax.Array]) -> list[jax.ShapeDtypeStruct]:
    """What is held of them; a single piece stays in its block by itself."""
    if not cut.held or cut.pieces == 1:
        return []
    whole = (cut.pieces * cut.places, *cut.block[1:])
    return [jax.ShapeDtypeStruct(whole, tensor.dtype) for tensor in tensors]


def at_hand(refs: Sequence[Any], kept: Sequence[Any], cut: Pieces, arrives: jax.Array, piece: jax.Array) -> list:
    """The blocks of this step in float32, read or held; where a piece `arrives`, it is put where it is held."""
    if not kept:
        return [ref[...].astype(jnp.float32) for ref in refs]
    tile = 1 if len(cut.block) > 2 else sublanes(*(str(ref.dtype) for ref in refs))
    aligned = tile if cut.places % tile == 0 else 1
    part = tpu_slice(piece * cut.places, cut.places, aligned)

    @tpu_when(arrives)
    def _():
        for ref, place in zip(refs, kept, strict=True):
            place[part] = ref[...]

    return [place[part].astype(jnp.float32) for place in kept]


def valid(cut: Pieces, piece: jax.Array) -> jax.Array | None:
    """Which elements of a block are inside; None: all."""
    if not cut.ragged:
        return None
    place = jax.lax.broadcasted_iota(jnp.int32, cut.block, 0)
    return place < cut.shape[1] - piece * cut.places


def clean(values: jax.Array, inside: jax.Array | None) -> jax.Array:
    """0 beyond the end."""
    return values if inside is None else jnp.where(inside, values, 0.0)


def by_channel(values: jax.Array, apart: bool = False) -> jax.Array:
    """The sum over all positions of a block, (rows, channels)."""
    if apart:
        return values.sum(0)
    while values.ndim > 2:
        values = values.sum(0)
    return values.sum(0, keepdims=True)


def over_groups(values: jax.Array, each: int) -> jax.Array:
    """The sum over the channels of its group, for each channel, of (rows, channels)."""
    rows, channels = values.shape
    if each == 1:
        return values
    if each == channels:
        return jnp.broadcast_to(values.sum(1, keepdims=True), values.shape)
    shape = (channels // each, channels) if rows == 1 else (channels // each, rows, channels)
    channel = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    first = each * jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    member = (channel >= first) & (channel < first + each)
    sums = jnp.where(member, values, 0.0).sum(-1, keepdims=True)
    return jnp.where(member, sums, 0.0).sum(0, keepdims=rows == 1)


PIVOT, MEAN, SQUARES = range(3)
OFFSET, ROOT = MEAN, SQUARES
"""Rows of the scratch: the pivot, then what is merged, and in its place what comes of it."""
PLAIN, WEIGHTED = range(2)
"""Of the gradient's: sums of dz and of dz h; and then the means over the group of them times gamma."""


def _forward_kernel(x_ref, gamma_ref, beta_ref, *refs, plan, cut, saves):
    running, refs = first_of(refs, 2 * (plan.momentum is not None))
    (y_ref,), refs = first_of(refs, 1)
    stats, refs = first_of(refs, int(saves))
    moved, refs = first_of(refs, len(running))
    *kept, state = refs
    walk, piece = tpu_program_id(WALK), tpu_program_id(PIECE)

    @tpu_when(walk == 0)
    def _():
        (x,) = at_hand([x_ref], kept, cut, walk == 0, piece)
        merge(x, state, piece, plan, cut)

        @tpu_when(piece == cut.pieces - 1)
        def _():
            finish(state, stats, running, moved, plan, cut)

    @tpu_when(walk == 1)
    def _():
        (x,) = at_hand([x_ref], kept, cut, walk == 0, piece)
        z = standardized(x, state) * gamma_ref[...].astype(jnp.float32) + beta_ref[...].astype(jnp.float32)
        y_ref[...] = activate(z, plan.activation).astype(y_ref.dtype)


def first_of(refs: Sequence[Any], count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    return refs[:count], refs[count:]


def merge(x, state, piece, plan, cut):
    inside = valid(cut, piece)
    places = jnp.minimum(cut.shape[1] - piece * cut.places, cut.places)
    count, seen = ((n * cut.within).astype(jnp.float32) for n in (places, piece * cut.places))

    @tpu_when(piece == 0)
    def _():
        state[PIVOT] = over_groups(by_channel(clean(x, inside), cut.apart) / count, plan.each) / plan.each
        state[MEAN] = jnp.zeros_like(state[MEAN])
        state[SQUARES] = jnp.zeros_like(state[SQUARES])

    u = x - state[PIVOT]
    mean = by_channel(clean(u, inside), cut.apart) / count
    squares = by_channel(clean(jnp.square(u - mean), inside), cut.apart)
    difference, share = mean - state[MEAN], count / (seen + count)
    state[MEAN] = state[MEAN] + difference * share
    state[SQUARES] = state[SQUARES] + squares + difference * (difference * share) * seen


def finish(state, stats, running, moved, plan, cut):
    """From what is merged to the mean of the group less the pivot, and 1 / deviation."""
    mean, squares = state[MEAN], state[SQUARES] / cut.positions
    offset = over_groups(mean, plan.each) / plan.each
    variance = over_groups(squares + jnp.square(mean - offset), plan.each) / plan.each
    root = jax.lax.rsqrt(variance + plan.epsilon)
    state[OFFSET], state[ROOT] = offset, root
    for ref in stats:
        ref[0], ref[1] = state[PIVOT] + offset, root
    unbiased = variance * (cut.positions / max(cut.positions - 1, 1))
    for old, new, batch in zip(running, moved, (state[PIVOT] + offset, unbiased), strict=False):
        new[...] = (1 - plan.momentum) * old[...].astype(jnp.float32) + plan.momentum * batch


def standardized(x: jax.Array, state: Any) -> jax.Array:
    return ((x - state[PIVOT]) - state[OFFSET]) * state[ROOT]


def _backward_kernel(x_ref, dy_ref, gamma_ref, beta_ref, stats, dx_ref, dgamma_ref, dbeta_ref, *refs, plan, cut):
    *kept, sums = refs
    image, walk, piece = (tpu_program_id(axis) for axis in (IMAGES, WALK, PIECE))
    gamma = gamma_ref[...].astype(jnp.float32)
    mean, root = stats[0], stats[1]

    def terms():
        x, dy = at_hand([x_ref, dy_ref], kept, cut, walk == 0, piece)
        h = (x - mean) * root
        if plan.activation == "none":
            return h, dy
        return h, differentiate(h * gamma + beta_ref[...].astype(jnp.float32), dy, plan.activation)

    gradients = dgamma_ref, dbeta_ref

    @tpu_when((walk == 0) & (piece == 0))
    def _():
        begin(sums, gradients, image)

    @tpu_when(walk == 0)
    def _():
        add(*terms(), sums, gradients, gamma, piece, plan, cut)

    @tpu_when(walk == 1)
    def _():
        dx_ref[...] = gradient(*terms(), root, gamma, sums).astype(dx_ref.dtype)


def begin(sums: Any, gradients: Sequence[Any], image: jax.Array) -> None:
    """Before the first piece of an image is added."""
    sums[...] = jnp.zeros_like(sums)

    @tpu_when(image == 0)
    def _():
        for ref in gradients:
            ref[...] = jnp.zeros_like(ref)


def add(h, dz, sums, gradients, gamma, piece, plan, cut):
    """Adds a piece; after the last one the sums are those that `gradient` takes, and dgamma and dbeta are added to."""
    inside = valid(cut, piece)
    sums[PLAIN] = sums[PLAIN] + by_channel(clean(dz, inside), cut.apart)
    sums[WEIGHTED] = sums[WEIGHTED] + by_channel(clean(dz * h, inside), cut.apart)

    @tpu_when(piece == cut.pieces - 1)
    def _():
        for row, ref in zip((WEIGHTED, PLAIN), gradients, strict=True):
            ref[...] = ref[...] + sums[row].sum(0, keepdims=True)
        count = plan.each * cut.positions
        for row in (PLAIN, WEIGHTED):
            sums[row] = over_groups(gamma * sums[row], plan.each) / count


def gradient(h: jax.Array, dz: jax.Array, root: jax.Array, gamma: jax.Array, sums: Any) -> jax.Array:
    return root * (gamma * dz - sums[PLAIN] - h * sums[WEIGHTED])
