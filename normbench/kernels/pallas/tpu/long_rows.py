"""Layer norm and RMS norm of rows that are too long for a block: a few rows at a time, and these piece by piece.

The first walk over the pieces merges mean and squares by the rule of Chan, Golub and LeVeque (1979), around the mean of
the first piece; the second writes y, and sums for the gradient; the third writes dx. What a walk has read stays in VMEM
for the next one where it fits, so that each tensor crosses HBM once. Where it does not, a forward launch reads x twice,
one that makes gradients reads x three times and dy twice.

x is (blocks, rows, columns), the parameters are (columns,), padded to whole pieces; all of them stay in VMEM.
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
from normbench.kernels.pallas.tpu.limits import LANES, MOST_COLUMNS, SUBLANES, VMEM_BYTES, sublanes, up_to
from normbench.kernels.pallas.tpu.rows import RowPlan

PIECE_ELEMENTS = 2**17
"""Of a block."""
HELD_BYTES = 20 * 2**20
"""Of VMEM, what is kept from one walk to the next."""
STATISTICS, SUMS, GRADIENT = range(3)
"""The walks."""
PIVOT, MEAN, SQUARES, PLAIN, WEIGHTED = range(5)
OFFSET, ROOT = MEAN, SQUARES
"""What is kept of each row, as in `columns`."""


@dataclass(frozen=True, slots=True)
class LongRows:
    """x cut into blocks of some rows and a piece of their columns.

    Attributes:
      shape: (blocks, rows, columns).
      rows, columns: of a block.
      dtypes: of x, and of y and its cotangent.
    """

    shape: tuple[int, int, int]
    rows: int
    columns: int
    dtypes: tuple[str, str]

    @property
    def pieces(self) -> int:
        return -(-self.shape[2] // self.columns)

    @property
    def width(self) -> int:
        """Of a row, filled up to whole pieces."""
        return self.pieces * self.columns

    def holds(self, gradients: bool) -> bool:
        """Whether what is read stays in VMEM: x, and dy where gradients are made."""
        dtypes = self.dtypes if gradients else self.dtypes[:1]
        row_bytes = self.width * sum(jnp.dtype(dtype).itemsize for dtype in dtypes)
        return up_to(self.rows, SUBLANES) * row_bytes <= HELD_BYTES


def long_rows_of(shape: tuple[int, ...], dtypes: tuple[str, str]) -> LongRows | None:
    """How (blocks, rows, columns) is cut; None: its rows are too long."""
    blocks, rows, columns = shape
    if columns > MOST_COLUMNS:
        return None
    taken = min(sublanes(*dtypes), rows)
    most = max(PIECE_ELEMENTS // up_to(taken, SUBLANES) // LANES * LANES, LANES)
    return LongRows((blocks, rows, columns), taken, min(most, up_to(columns, LANES)), dtypes)


def forward(
    x: jax.Array, residual: jax.Array | None, parameters: Sequence[jax.Array], plan: RowPlan, rows: LongRows
) -> tuple[jax.Array, jax.Array | None]:
    """As `rows.forward`."""
    y, *others = _call(x, residual, (), parameters, plan, rows, "")
    return y, others[0] if others else None


def backward(
    w: jax.Array,
    parameters: Sequence[jax.Array],
    dy: jax.Array,
    dz: jax.Array | None,
    plan: RowPlan,
    rows: LongRows,
) -> tuple[jax.Array, list[jax.Array]]:
    """As `rows.backward`."""
    cotangents = (dy,) if dz is None else (dy, dz)
    dw, *gradients = _call(w, None, cotangents, parameters, plan, rows, "_backward")
    return dw, _cut_off(gradients, parameters)


def both(
    x: jax.Array,
    residual: jax.Array | None,
    parameters: Sequence[jax.Array],
    cotangents: Sequence[jax.Array],
    plan: RowPlan,
    rows: LongRows,
) -> tuple[jax.Array, jax.Array | None, jax.Array, list[jax.Array]]:
    """As `rows.both`."""
    y, *others = _call(x, residual, cotangents, parameters, plan, rows, "_both")
    z = others.pop(0) if residual is not None else None
    return y, z, others[0], _cut_off(others[1:], parameters)


def _cut_off(gradients: Sequence[jax.Array], parameters: Sequence[jax.Array]) -> list[jax.Array]:
    return [array[0, : p.size].reshape(p.shape) for array, p in zip(gradients, parameters, strict=True)]


@dataclass(frozen=True, slots=True)
class _Made:
    """What a launch reads and makes: y, z = x + residual, gradients, and the cotangent of z in them."""

    y: bool
    z: bool
    gradients: bool
    dz: bool
    held: bool


def _call(x, residual, cotangents, parameters, plan, rows, name):
    gradients = bool(cotangents)
    made = _Made(name != "_backward", residual is not None, gradients, len(cotangents) > 1, rows.holds(gradients))
    vectors = [jnp.pad(array.reshape(1, -1), ((0, 0), (0, rows.width - array.size))) for array in parameters]
    of_x, of_y = (jax.ShapeDtypeStruct(x.shape, dtype) for dtype in (x.dtype, plan.output_dtype))
    read = [x, *([residual] if made.z else []), *cotangents]
    reads = [*[_tensor(rows, STATISTICS, made.held)] * (1 + made.z), _tensor(rows, SUMS, made.held)][: len(read)]
    reads += [_tensor(rows, GRADIENT, True)] * made.dz
    lines = [jax.ShapeDtypeStruct((1, rows.width), jnp.float32)] * (len(vectors) * gradients)
    out = [*[of_y] * made.y, *[of_x] * made.z, *[of_x] * gradients, *lines]
    writes = [*[SUMS] * made.y, *[STATISTICS] * made.z, *[GRADIENT] * gradients]
    vector = block((1, rows.width), lambda b, r, w, k: (0, 0))
    kept = (x, cotangents[0]) if gradients else (x,)
    again = [x, *([residual] if made.z else []), *([x, cotangents[0]] if gradients else [])]
    return tpu_call(
        partial(_kernel, plan=plan, rows=rows, made=made),
        grid=(rows.shape[0], -(-rows.shape[1] // rows.rows), 2 + gradients, rows.pieces),
        in_specs=[*reads, *[vector] * len(vectors)],
        out_specs=[*(_tensor(rows, walk, True) for walk in writes), *[vector] * len(lines)],
        out=out,
        scratch=[
            *(jax.ShapeDtypeStruct((rows.rows, rows.width), array.dtype) for array in kept if made.held),
            jax.ShapeDtypeStruct((5, rows.rows, 1), jnp.float32),
        ],
        parallel=0 if gradients else 2,
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}{name}_long_pallas_tpu",
        cost=cost((*read, *vectors), out, again=() if made.held else again, flops=(10 + 16 * gradients) * x.size),
    )(*read, *vectors)


def _tensor(rows: LongRows, during: int, once: bool) -> Any:
    """A block of a tensor that comes or goes during this walk: the first piece before, and after it the last one, or,
    of what does not come `once`, each piece again."""

    def piece(w, k):
        after = rows.pieces - 1 if once else k
        return jnp.where(w < during, 0, jnp.where(w == during, k, after))

    return block((None, rows.rows, rows.columns), lambda b, r, w, k: (b, r, piece(w, k)))


@dataclass(frozen=True, slots=True)
class _Sum:
    """References to x and a residual, read as their sum, which is rounded as it is written."""

    x: Any
    residual: Any

    def __getitem__(self, at: Any) -> jax.Array:
        return (self.x[at].astype(jnp.float32) + self.residual[at].astype(jnp.float32)).astype(self.x.dtype)


def _kernel(*refs, plan, rows, made):
    remaining = iter(refs)

    def take(wanted: bool, count: int = 1) -> list[Any]:
        return [next(remaining) for _ in range(count * wanted)]

    count = 1 + plan.shifted
    x_ref, residual, dy_ref, dz_ref = next(remaining), take(made.z), take(made.gradients), take(made.dz)
    parameters = take(True, count)
    y_ref, z_ref, dw_ref = take(made.y), take(made.z), take(made.gradients)
    gradients = take(made.gradients, count)
    kept = take(made.held, 1 + made.gradients)
    state = next(remaining)
    w_ref = _Sum(x_ref, residual[0]) if made.z else x_ref
    block_of, row, walk, piece = (tpu_program_id(axis) for axis in range(4))
    part = (slice(None), tpu_slice(piece * rows.columns, rows.columns, LANES))
    inside = _inside(rows, 1, rows.shape[2] - piece * rows.columns, rows.shape[2] % rows.columns)
    alive = _inside(rows, 0, rows.shape[1] - row * rows.rows, rows.shape[1] % rows.rows)

    def at_hand(ref: Any, place: Any, arrives: int) -> jax.Array:
        """In float32, 0 beyond the end of a row."""
        if made.held:

            @tpu_when(walk == arrives)
            def _():
                place[part] = ref[...]

            values = place[part]
        else:
            values = ref[...]
        return _clean(values.astype(jnp.float32), inside)

    def terms():
        """h, z and dz, gamma times which is dh."""
        w = at_hand(w_ref, kept[0] if kept else None, STATISTICS)
        u = _clean((w - state[PIVOT]) - state[OFFSET], inside) if plan.centered else w
        h = u * state[ROOT]
        gamma, *beta = (ref[part].astype(jnp.float32) for ref in parameters)
        z = h * gamma + beta[0] if beta else h * gamma
        if not made.gradients:
            return h, z, None, None
        dz = at_hand(dy_ref[0], kept[1] if kept else None, SUMS)
        if plan.activation != "none":
            dz = _clean(differentiate(z, dz, plan.activation), inside)
        return h, z, dz, dz * gamma

    @tpu_when(walk == STATISTICS)
    def _():
        w = at_hand(w_ref, kept[0] if kept else None, STATISTICS)
        for ref in z_ref:
            ref[...] = w.astype(ref.dtype)
        _merge(w, state, piece, inside, plan, rows)

    @tpu_when((block_of == 0) & (row == 0) & (walk == STATISTICS) & (piece == 0))
    def _():
        for ref in gradients:
            ref[...] = jnp.zeros_like(ref)

    @tpu_when(walk == SUMS)
    def _():
        h, z, dz, dh = terms()
        for ref in y_ref:
            ref[...] = activate(z, plan.activation).astype(ref.dtype)
        if made.gradients:
            state[PLAIN] = state[PLAIN] + _mean(dh, rows)
            state[WEIGHTED] = state[WEIGHTED] + _mean(dh * h, rows)
            for ref, values in zip(gradients, (dz * h, dz), strict=False):
                ref[part] = ref[part] + _clean(values, alive).sum(0, keepdims=True)

    if made.gradients:

        @tpu_when(walk == GRADIENT)
        def _():
            h, _, _, dh = terms()
            dw = dh - h * state[WEIGHTED]
            if plan.centered:
                dw = dw - state[PLAIN]
            dw = dw * state[ROOT]
            for ref in dz_ref:
                dw = dw + ref[...].astype(jnp.float32)
            dw_ref[0][...] = dw.astype(dw_ref[0].dtype)


def _inside(rows: LongRows, axis: int, left: jax.Array, ragged: int) -> jax.Array | None:
    """Which elements of a block lie before the end along an axis; None: all."""
    if not ragged:
        return None
    return jax.lax.broadcasted_iota(jnp.int32, (rows.rows, rows.columns), axis) < left


def _clean(values: jax.Array, inside: jax.Array | None) -> jax.Array:
    return values if inside is None else jnp.where(inside, values, 0.0)


def _mean(values: jax.Array, rows: LongRows) -> jax.Array:
    """The share of a piece in the mean of each row."""
    return values.sum(1, keepdims=True) / rows.shape[2]


def _merge(w, state, piece, inside, plan, rows):
    columns = rows.shape[2]
    count = jnp.minimum(columns - piece * rows.columns, rows.columns).astype(jnp.float32)
    seen = (piece * rows.columns).astype(jnp.float32)

    @tpu_when(piece == 0)
    def _():
        state[...] = jnp.zeros_like(state)
        if plan.centered:
            state[PIVOT] = w.sum(1, keepdims=True) / count

    if plan.centered:
        u = _clean(w - state[PIVOT], inside)
        mean = u.sum(1, keepdims=True) / count
        squares = _clean(jnp.square(u - mean), inside).sum(1, keepdims=True)
        difference, share = mean - state[MEAN], count / (seen + count)
        state[MEAN] = state[MEAN] + difference * share
        state[SQUARES] = state[SQUARES] + squares + difference * (difference * share) * seen
    else:
        state[SQUARES] = state[SQUARES] + jnp.square(w).sum(1, keepdims=True)

    @tpu_when(piece == rows.pieces - 1)
    def _():
        state[ROOT] = jax.lax.rsqrt(state[SQUARES] / columns + plan.epsilon)
