"""Layer norm and RMS norm of rows that fit VMEM: each is read once and written once, forward, backward, and in both.

Forward, with p the mean of a row, u = x - p and c = u - E[u]: h = c / sqrt(E[c^2] + epsilon), so that the rounding of
the mean leaves nothing; not centred, h = x / sqrt(E[x^2] + epsilon). Backward the statistics are made again of the row,
which costs no bytes: 1 / deviation in an array of its own would lie padded to 128 lanes. Where dy is at hand together
with x, y and dx are made in one visit.

x is (blocks, rows, columns), or (rows, ..., columns) where more than the last axis is normalized; see `rows_view`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.tpu import block, tpu_call, tpu_program_id, tpu_when
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.tpu.limits import (
    BLOCK_ELEMENTS,
    MOST_COLUMNS,
    ROW_BYTES,
    SUBLANES,
    VMEM_BYTES,
    lying,
    padded_lanes,
    sublanes,
    up_to,
)
from normbench.kernels.pallas.tpu.pieces import View


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What is computed: y = act(h gamma + beta), h `centered` or not, beta where it is `shifted`."""

    name: str
    centered: bool
    shifted: bool
    epsilon: float
    activation: str
    output_dtype: str


@dataclass(frozen=True, slots=True)
class Rows:
    """x cut into blocks of whole rows.

    Attributes:
      shape: of x; its first `lead` dimensions are rows, 1 or 2, the others normalized.
      rows: of a block, along each of the first dimensions.
    """

    shape: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def lead(self) -> int:
        return len(self.rows)

    @property
    def normalized(self) -> tuple[int, ...]:
        return self.shape[self.lead :]

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(-(-size // rows) for size, rows in zip(self.shape, self.rows, strict=False))

    @property
    def block(self) -> tuple[int, ...]:
        return (*self.rows, *self.normalized)


def rows_view(shape: tuple[int, ...], ndim: int, dtype: str) -> tuple[View, int]:
    """x's shape seen as rows, as it lies where it can be, and how many of the view's dimensions are rows.

    The last two dimensions lie in tiles: the last but one is merged into others only where it fills its tiles.
    """
    order = lying(shape, dtype)
    if ndim > 1 or order[-1] != len(shape) - 1:
        order = tuple(range(len(shape)))
    lead, normalized = [shape[axis] for axis in order[:-ndim]], shape[-ndim:]
    if ndim == 1:
        *blocks, rows = lead or (1,)
        if math.prod(blocks) == 1 or rows % SUBLANES == 0:
            return View((1, math.prod(lead), normalized[-1]), order), 2
        return View((math.prod(blocks), rows, normalized[-1]), order), 2
    *between, last, columns = normalized
    if not between or last % SUBLANES == 0:
        return View((math.prod(lead), math.prod(between) * last, columns), order), 1
    return View((math.prod(lead), math.prod(between), last, columns), order), 1


def copied(shape: tuple[int, ...], ndim: int, dtype: str) -> str | None:
    """Why x would have to be brought into another order first, or None."""
    order = lying(shape, dtype)
    if rows_view(shape, ndim, dtype)[0].order == order:
        return None
    return (
        f"{dtype}{list(shape)} lies in the order {order}, as that pads least, and the kernel needs rows along the "
        "lanes: XLA would copy it; take custom_vjp"
    )


def rows_of(shape: tuple[int, ...], lead: int, dtypes: Sequence[str], tensors: int = 4) -> Rows | str:
    """How x in the shape that `rows_view` gives is cut, or why not; `dtypes` are those of the `tensors` that move."""
    *others, columns = shape[lead:]
    whole = padded_lanes(columns)
    if others:
        whole *= math.prod(others[:-1]) * up_to(others[-1], SUBLANES)
    tile = 1 if lead == 1 else min(sublanes(*dtypes), shape[1])
    most = ROW_BYTES * 4 // max(tensors, 4) // max(jnp.dtype(dtype).itemsize for dtype in dtypes)
    if whole * tile > most:
        return (
            f"{tile} rows of {math.prod(shape[lead:])} elements, which VMEM does not hold; allowed for pallas_tpu: "
            f"{most if lead == 1 else MOST_COLUMNS} elements, rows padded to lanes of 128: take custom_vjp"
        )
    rows = max(BLOCK_ELEMENTS // whole, 1)
    if lead == 1:
        return Rows(shape, (min(rows, shape[0]),))
    if shape[1] > rows:
        return Rows(shape, (1, max(rows // tile * tile, tile)))
    return Rows(shape, (min(max(rows // up_to(shape[1], SUBLANES), 1), shape[0]), shape[1]))


def forward(
    x: jax.Array, residual: jax.Array | None, parameters: Sequence[jax.Array], plan: RowPlan, rows: Rows
) -> tuple[jax.Array, jax.Array | None]:
    """Returns y, and z = x + residual where there is one; parameters in the normalized shape."""
    tensors = [x] if residual is None else [x, residual]
    out = [jax.ShapeDtypeStruct(x.shape, plan.output_dtype)]
    out += [jax.ShapeDtypeStruct(x.shape, x.dtype)] * (residual is not None)
    vectors = [_lined_up(array, rows) for array in parameters]
    tensor, vector = _blocks(rows)
    found = tpu_call(
        partial(_forward_kernel, plan=plan, rows=rows, added=residual is not None),
        grid=rows.grid,
        in_specs=[*[tensor] * len(tensors), *[vector] * len(vectors)],
        out_specs=[tensor] * len(out),
        out=out,
        parallel=len(rows.grid),
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}_pallas_tpu",
        cost=cost((*tensors, *vectors), out, flops=8 * x.size),
    )(*tensors, *vectors)
    return found[0], None if residual is None else found[1]


def backward(
    w: jax.Array,
    parameters: Sequence[jax.Array],
    dy: jax.Array,
    dz: jax.Array | None,
    plan: RowPlan,
    rows: Rows,
) -> tuple[jax.Array, list[jax.Array]]:
    """Returns dw and the gradients of the parameters, these in float32; `dz` is the cotangent of w as an output."""
    tensors = [w, dy] if dz is None else [w, dy, dz]
    vectors = [_lined_up(array, rows) for array in parameters]
    out = [jax.ShapeDtypeStruct(w.shape, w.dtype)]
    out += [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in vectors]
    tensor, vector = _blocks(rows)
    dw, *gradients = tpu_call(
        partial(_backward_kernel, plan=plan, rows=rows, added=dz is not None),
        grid=rows.grid,
        in_specs=[*[tensor] * len(tensors), *[vector] * len(vectors)],
        out_specs=[tensor, *[vector] * len(vectors)],
        out=out,
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}_backward_pallas_tpu",
        cost=cost((*tensors, *vectors), out, flops=18 * w.size),
    )(*tensors, *vectors)
    return dw, [array.reshape(p.shape) for array, p in zip(gradients, parameters, strict=True)]


def both(
    x: jax.Array,
    residual: jax.Array | None,
    parameters: Sequence[jax.Array],
    cotangents: Sequence[jax.Array],
    plan: RowPlan,
    rows: Rows,
) -> tuple[jax.Array, jax.Array | None, jax.Array, list[jax.Array]]:
    """Returns y and z of `forward`, dw and the gradients of the parameters of `backward`; `cotangents` are dy, and dz
    where there is a residual."""
    added = residual is not None
    tensors = [x, *([residual] if added else []), *cotangents]
    vectors = [_lined_up(array, rows) for array in parameters]
    sums = [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in vectors]
    of_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    out = [jax.ShapeDtypeStruct(x.shape, plan.output_dtype), *[of_x] * added, of_x, *sums]
    tensor, vector = _blocks(rows)
    y, *others = tpu_call(
        partial(_both_kernel, plan=plan, rows=rows, added=added),
        grid=rows.grid,
        in_specs=[*[tensor] * len(tensors), *[vector] * len(vectors)],
        out_specs=[*[tensor] * (2 + added), *[vector] * len(vectors)],
        out=out,
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}_both_pallas_tpu",
        cost=cost((*tensors, *vectors), out, flops=22 * x.size),
    )(*tensors, *vectors)
    z, (dw, *gradients) = (others[0], others[1:]) if added else (None, others)
    return y, z, dw, [array.reshape(p.shape) for array, p in zip(gradients, parameters, strict=True)]


def _lined_up(parameter: jax.Array, rows: Rows) -> jax.Array:
    """One value for each normalized element, of rank 2 or more: a row that is broadcast over those of a block."""
    return parameter.reshape((1,) * (rows.lead == 2) + rows.normalized)


def _blocks(rows: Rows) -> tuple[Any, Any]:
    whole = (0,) * len(rows.normalized)
    vector_shape = (1,) * (rows.lead == 2) + rows.normalized
    tensor = block(rows.block, lambda *steps: (*steps, *whole))
    return tensor, block(vector_shape, lambda *steps: (0,) * len(vector_shape))


def _mean(values: jax.Array, rows: Rows) -> jax.Array:
    total = values
    for axis in range(values.ndim - 1, rows.lead - 1, -1):
        total = total.sum(axis, keepdims=True)
    return total / math.prod(rows.normalized)


def _standardized(w: jax.Array, plan: RowPlan, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """h and 1 / deviation of a block in float32."""
    if plan.centered:
        w = w - _mean(w, rows)
        w = w - _mean(w, rows)
    root = jax.lax.rsqrt(_mean(jnp.square(w), rows) + plan.epsilon)
    return w * root, root


def _affine(h: jax.Array, parameters: Sequence[jax.Array]) -> jax.Array:
    gamma, *beta = parameters
    return h * gamma + beta[0] if beta else h * gamma


def _forward_kernel(x_ref, *refs, plan, rows, added):
    (residual, *refs), (z_ref,) = (refs[:-1], refs[-1:]) if added else ((None, *refs), (None,))
    *parameters, y_ref = refs
    h, _ = _standardized(_normalized(x_ref, residual, z_ref), plan, rows)
    y_ref[...] = _output(h, _values(parameters), plan).astype(y_ref.dtype)


def _backward_kernel(w_ref, dy_ref, *refs, plan, rows, added):
    (added_ref, *refs) = refs if added else (None, *refs)
    count = 1 + plan.shifted
    parameters, outputs = refs[:count], refs[count:]
    h, root = _standardized(w_ref[...].astype(jnp.float32), plan, rows)
    _differentiate(h, root, _values(parameters), (dy_ref, added_ref), outputs, plan, rows)


def _both_kernel(x_ref, *refs, plan, rows, added):
    residual, dy_ref, dz_ref, *refs = refs if added else (None, refs[0], None, *refs[1:])
    count = 1 + plan.shifted
    parameters, y_ref, refs = refs[:count], refs[count], refs[count + 1 :]
    z_ref, *outputs = refs if added else (None, *refs)
    h, root = _standardized(_normalized(x_ref, residual, z_ref), plan, rows)
    values = _values(parameters)
    y_ref[...] = _output(h, values, plan).astype(y_ref.dtype)
    _differentiate(h, root, values, (dy_ref, dz_ref), outputs, plan, rows)


def _values(parameters: Sequence[Any]) -> list[jax.Array]:
    return [ref[...].astype(jnp.float32) for ref in parameters]


def _normalized(x_ref: Any, residual: Any, z_ref: Any) -> jax.Array:
    """What is normalized, in float32: x, or z = x + residual, which is rounded as it is written."""
    w = x_ref[...]
    if residual is not None:
        w = (w.astype(jnp.float32) + residual[...].astype(jnp.float32)).astype(w.dtype)
        z_ref[...] = w
    return w.astype(jnp.float32)


def _output(h: jax.Array, values: Sequence[jax.Array], plan: RowPlan) -> jax.Array:
    return activate(_affine(h, values), plan.activation)


def _differentiate(h, root, values, cotangents, outputs, plan, rows):
    """Writes dw, and adds to the gradients of the parameters, which are 0 before the first block."""
    (dy_ref, dz_ref), (dw_ref, *gradients) = cotangents, outputs
    dz = dy_ref[...].astype(jnp.float32)
    if plan.activation != "none":
        dz = differentiate(_affine(h, values), dz, plan.activation)
    dh = dz * values[0]
    dw = dh - h * _mean(dh * h, rows)
    if plan.centered:
        dw = dw - _mean(dh, rows)
    dw = dw * root
    if dz_ref is not None:
        dw = dw + dz_ref[...].astype(jnp.float32)
    dw_ref[...] = dw.astype(dw_ref.dtype)
    steps = [tpu_program_id(axis) for axis in range(rows.lead)]
    first = steps[0] == 0 if rows.lead == 1 else (steps[0] == 0) & (steps[1] == 0)

    @tpu_when(first)
    def _():
        for ref in gradients:
            ref[...] = jnp.zeros_like(ref)

    inside = _inside(rows, steps)
    for ref, terms in zip(gradients, (dz * h, dz), strict=False):
        terms = terms if inside is None else jnp.where(inside, terms, 0.0)
        ref[...] = ref[...] + _over_rows(terms, rows)


def _inside(rows: Rows, steps: Sequence[jax.Array]) -> jax.Array | None:
    """Which elements of a block belong to rows of x; None: all."""
    found = None
    for axis, (size, each, step) in enumerate(zip(rows.shape, rows.rows, steps, strict=False)):
        if size % each:
            held = jax.lax.broadcasted_iota(jnp.int32, rows.block, axis) < size - step * each
            found = held if found is None else found & held
    return found


def _over_rows(values: jax.Array, rows: Rows) -> jax.Array:
    """The sum over the rows of a block, in the shape of the parameters."""
    total = values.sum(0)
    return total.sum(0, keepdims=True) if rows.lead == 2 else total
