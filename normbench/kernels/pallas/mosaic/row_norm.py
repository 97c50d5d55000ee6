"""Layer norm and RMS norm of rows of any length in Mosaic GPU, with the residual and the activation in.

With h = (w - mean) r, w = x or x + residual, mean and r of the row, dz = dy act'(h gamma + beta), dh = gamma dz and E
the mean over the row:

    y = act(h gamma + beta),   dw = r (dh - E[dh] - h E[dh h])      (RMS norm: mean = 0, without E[dh])

The sums over rows, for the parameters, lie in shared memory; in device memory where a row comes in pieces.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.jax_compat.mosaic import (
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_program,
    mosaic_settle,
    mosaic_when,
)
from normbench.kernels.common.activations import activate as activate_plain
from normbench.kernels.common.checks import residual_like
from normbench.kernels.common.form import FP8
from normbench.kernels.common.second_order import of_both_terms, standardized, twice_differentiable, what_was_normalized
from normbench.kernels.common.targets import not_for_mosaic
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, walking_programs
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.mosaic.plan import WARPGROUP, Plan, dtype_refusal
from normbench.kernels.pallas.mosaic.rows import Rows, Staying, item_bytes, rows_of, walk
from normbench.kernels.pallas.mosaic.sums import RowSums, moments, sum_partials
from normbench.kernels.pallas.mosaic.windows import (
    Load,
    Window,
    bring_slabs,
    over_pieces,
    over_windows,
    store,
    take,
    take_piece,
    zeros,
)
from normbench.kernels.problem import Problem

LEAST_COLUMNS = 64
"""A program computes 128 elements of a row at a time: of shorter rows more than half of its threads do nothing."""
FORWARD = Staying(slots=3, resident=8, block_bytes=8192)
BACKWARD = Staying(slots=3, resident=4, block_bytes=16384, blocks=2 * MULTIPROCESSORS)
"""Of three blocks in shared memory one is on its way in, one computed, one on its way out. Short rows arrive several at
a time, and the sums of the backward pass grow in registers: layer norm of 65536 x 256 in bfloat16 is predicted for the
H200 at 44 us (37 to 50) forward and 59 (49 to 68) backward, one by one at 69 (58 to 79) and 154 (79 to 199)."""


def forward_rows(
    shape: tuple[int, ...], dtype: str, param_dtypes: tuple[str, ...], plan: Plan, residual: bool
) -> Rows | str:
    """How rows are shared out among programs in the forward pass, or why they are not."""
    tensors = (dtype,) * (1 + residual) + (() if plan.output_dtype == dtype else (plan.output_dtype,))
    return rows_of(shape, tensors, param_dtypes, FORWARD)


def backward_rows(
    shape: tuple[int, ...], dtype: str, param_dtypes: tuple[str, ...], plan: Plan, residual: bool
) -> Rows | str:
    """As `forward_rows`, of x and its cotangents, and of parameters and their sums."""
    tensors = (dtype, plan.output_dtype, *(dtype,) * residual)
    vectors = (*param_dtypes, *("float32",) * len(param_dtypes))
    most = walking_programs(shape[0] * shape[1] * item_bytes(dtype), 4 * len(param_dtypes) * shape[1])
    return rows_of(shape, tensors, vectors, replace(BACKWARD, most=most))


def _dtypes(arrays: Any) -> tuple[str, ...]:
    return tuple(array.dtype.name for array in arrays)


def forward(x: jax.Array, residual: jax.Array | None, parameters: tuple, plan: Plan, saves: bool) -> tuple:
    """Returns (y, z, mean, r): z = x + residual or None, mean None where not centered; x is (rows, columns).

    Without `saves` there are no mean and no r: of short rows they are a part of the traffic that can be measured.
    """
    tensors = (x,) if residual is None else (x, residual)
    dtype = jnp.dtype(plan.output_dtype)
    rows = forward_rows(x.shape, x.dtype.name, _dtypes(parameters), plan, residual is not None)
    assert isinstance(rows, Rows), rows
    saved = saves * (1 + plan.centered)
    out = (
        jax.ShapeDtypeStruct((x.size,), dtype),
        *(() if residual is None else (jax.ShapeDtypeStruct((x.size,), x.dtype),)),
        *(jax.ShapeDtypeStruct(x.shape[:1], jnp.float32),) * saved,
    )
    scratch = (
        *rows.places(*(tensor.dtype for tensor in tensors), *(() if dtype == x.dtype else (dtype,))),
        *rows.vectors(*_dtypes(parameters)),
        rows.barrier(*_dtypes(tensors)),
        mosaic_barrier(max(1, rows.of_vectors.copies(*_dtypes(parameters)))),
    )
    y, *others = mosaic_call(
        partial(_forward_kernel, plan=plan, rows=rows, tensors=len(tensors), parameters=len(parameters), saves=saves),
        grid=rows.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_forward",
        cost=cost((*tensors, *parameters), out, () if rows.runs.resident else tensors),
    )(*(tensor.reshape(-1) for tensor in tensors), *parameters)
    z = None if residual is None else others.pop(0).reshape(x.shape)
    mean = others.pop(0) if saved == 2 else None
    return y.reshape(x.shape), z, mean, others.pop(0) if saves else None


def _forward_kernel(*refs: Any, plan: Plan, rows: Rows, tensors: int, parameters: int, saves: bool) -> None:
    inputs, refs = refs[: tensors + parameters], refs[tensors + parameters :]
    written = tensors + saves * (1 + plan.centered)
    outputs, (*shared, arrived, vectors_arrived) = refs[:written], refs[written:]
    places, vectors = shared[: len(shared) - parameters], shared[len(shared) - parameters :]
    runs, along = rows.runs, _along(inputs[tensors:], vectors, vectors_arrived)

    def compute(index, load, between, carry):
        of_slot = rows.load((None,) * len(places), places, arrived, index)
        # y takes the place of what is not needed any more, where the dtypes are the same.
        w, y = of_slot.pairs[0][1], of_slot.pairs[-1][1]
        taken = Load(((outputs[0], y), *([(outputs[1], w)] if tensors == 2 else [])), load.starts, load.arrived)

        def of_slab(slab, carry):
            row = _Row(rows, load, along, slab, plan)
            once = between if runs.count == 1 else partial(mosaic_when(slab == 0), between)
            near, offset, r = row.statistics(once)
            row.write(y, taken, (near, offset, r))
            if saves:
                outputs[-1][rows.row(index, slab)] = r
            if saves and plan.centered:
                outputs[-2][rows.row(index, slab)] = near + offset
            return carry

        carry = rows.over_slabs(of_slab, carry, index)
        if runs.resident:
            rows.take(taken, index)
        return carry

    walk(rows, partial(rows.load, inputs[:tensors], places, arrived), partial(_prepare, rows, along), compute)
    mosaic_await_sent()


def _along(refs: Any, vectors: Any, arrived: Any) -> Load:
    """What lies along the row, to be brought once, or with each piece."""
    return Load(tuple(zip(refs, vectors, strict=True)), lambda slab: 0, arrived)


def _prepare(rows: Rows, along: Load) -> None:
    if rows.runs.resident:
        bring_slabs(rows.of_vectors, along)
        along.wait(rows.of_vectors)


class _Row:
    """A row of a block that is at hand, or whose pieces are brought; `load` has x, and the residual if there is one."""

    def __init__(self, rows: Rows, load: Load, along: Load, slab: Any, plan: Plan) -> None:
        self.rows, self.runs, self.load, self.along, self.slab, self.plan = rows, rows.runs, load, along, slab, plan
        self.w, *self.residual = (place for _, place in load.pairs)
        self.unrolled = rows.in_registers
        if self.runs.resident:
            self._add(0)
        self.kept = None
        if self.unrolled:
            self.kept = over_windows(self.runs, slab, 0, lambda window, kept: [*kept, self._read(window)], [], True)

    def _read(self, window: Window) -> jax.Array:
        return window.read(self.w)

    def values(self, window: Window) -> jax.Array:
        return self._read(window) if self.kept is None else self.kept[window.index]

    def _add(self, piece: Any) -> None:
        """Adds the residual to what has been brought."""

        def step(window, carry):
            store(self.w, window, self._read(window) + window.read(self.residual[0]))
            return carry

        if self.residual:
            over_windows(self.runs, self.slab, piece, step, 0)

    def fold(self, visit: Callable, carry: Any, *others: Load) -> Any:
        """Folds `visit(slab, piece, carry)` over the pieces of the row, with what is brought along with them."""

        def prepared(slab, piece, carry):
            if not self.runs.resident:
                self._add(piece)
            return visit(slab, piece, carry)

        return over_pieces(self.runs, (self.load, *others), self.slab, prepared, carry)

    def statistics(self, between: Callable) -> tuple[Any, Any, jax.Array]:
        """The mean in two parts, 0 for RMS norm, and r; calls `between` once they are known."""
        runs, columns, plan = self.runs, self.rows.columns, self.plan
        near: Any
        offset: Any
        if plan.centered:
            near, offset, squares = moments(runs, self.fold, self.values, columns, self.unrolled)
        else:
            near, offset, squares = 0.0, 0.0, jnp.sum(self.fold(self._squares, zeros(runs)))
        r = jax.lax.rsqrt(squares / columns + plan.epsilon)
        between()
        return near, offset, r

    def _squares(self, slab: Any, piece: Any, lanes: jax.Array) -> jax.Array:
        def step(window, lanes):
            return lanes + window.keep(self.values(window) * self.values(window), 0.0)

        return over_windows(self.runs, slab, piece, step, lanes, self.unrolled)

    def write(self, y: Any, taken: Load, statistics: tuple) -> None:
        """y, and z in the place of x."""
        vectors = [place for _, place in self.along.pairs]

        def of_piece(slab, piece, carry):
            def step(window, carry):
                z = normalized(self.values(window), window, vectors, statistics, self.plan)[1]
                store(y, window, self.plan.form.in_units(activate(z, self.plan.activation)))
                return carry

            over_windows(self.runs, slab, piece, step, 0, self.unrolled)
            if not self.runs.resident:
                take_piece(self.runs, self.load.starts(slab), piece, tuple((place, ref) for ref, place in taken.pairs))
            return carry

        self.fold(of_piece, 0, self.along)


def normalized(w: jax.Array, window: Window, vectors: Any, statistics: tuple, plan: Plan) -> tuple:
    """h, and h gamma + beta, of a window; `statistics` are the mean, in two parts, and r."""
    gamma, *beta = (window.along(ref) for ref in vectors)
    near, offset, r = statistics
    h = (w - near - offset) * r
    scaled = plan.form.rounded_in_mosaic(h) * plan.form.scale(gamma)
    return h, scaled + beta[0] if plan.shifted else scaled


def backward(saved: tuple, dy: jax.Array, dz: jax.Array | None, plan: Plan) -> tuple:
    """Returns dw and the gradients of the parameters; `saved` is (w, parameters, mean, r)."""
    w, parameters, mean, r = saved
    tensors = (w, dy) if dz is None else (w, dy, dz)
    statistics = (r,) if mean is None else (r, mean)
    rows = backward_rows(w.shape, w.dtype.name, _dtypes(parameters), plan, dz is not None)
    assert isinstance(rows, Rows), rows
    runs, of_sums = rows.runs, (jnp.float32,) * len(parameters)
    partials = jax.ShapeDtypeStruct((rows.programs * rows.columns,), jnp.float32)
    out = (jax.ShapeDtypeStruct((w.size,), w.dtype), *(partials,) * len(parameters))
    scratch = (
        *rows.places(*_dtypes(tensors)),
        *rows.vectors(*_dtypes(parameters), *of_sums),
        rows.barrier(*_dtypes(tensors)),
        mosaic_barrier(max(1, rows.of_vectors.copies(*_dtypes(parameters)))),
        mosaic_barrier(max(1, rows.of_vectors.copies(*of_sums))),
    )
    # Of a row that comes in pieces, tensors are read again, and the sums in device memory grow with each row.
    grown = () if runs.resident else (jax.ShapeDtypeStruct((w.size,), jnp.float32),) * len(parameters)
    dw, *found = mosaic_call(
        partial(_backward_kernel, plan=plan, rows=rows, tensors=len(tensors), parameters=len(parameters)),
        grid=rows.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_backward",
        cost=cost((*tensors, *statistics, *parameters), (*out, *grown), () if runs.resident else (*tensors, *grown)),
    )(*(tensor.reshape(-1) for tensor in tensors), *statistics, *parameters)
    by_program = [array.reshape(rows.programs, -1) for array in found]
    return dw.reshape(w.shape), sum_partials(by_program, parameters)


def _backward_kernel(*refs: Any, plan: Plan, rows: Rows, tensors: int, parameters: int) -> None:
    known = 1 + plan.centered
    count = tensors + known + parameters
    inputs, (dw_ref, *found), scratch = (
        refs[:count],
        refs[count : count + 1 + parameters],
        refs[count + 1 + parameters :],
    )
    places, vectors = scratch[:tensors], scratch[tensors : tensors + parameters]
    *sums, arrived, vectors_arrived, sums_arrived = scratch[tensors + parameters :]
    runs, program = rows.runs, mosaic_program()
    along = _along(inputs[tensors + known :], vectors, vectors_arrived)
    kept = Load(tuple(zip(found, sums, strict=True)), lambda slab: program * rows.columns, sums_arrived)

    masks = runs.length % runs.window != 0
    # h and dh of a row are kept; masks beside an activation take as many registers again.
    beside = 4 if masks and plan.activation != "none" else 2
    grow = RowSums(runs, tuple(sums), -(-rows.programs // MULTIPROCESSORS), beside)

    def clear(piece, carry):
        grow.clear(piece)
        if not runs.resident:
            _keep_sums(rows, kept, piece)
        return carry

    def prepare():
        jax.lax.fori_loop(0, runs.pieces, clear, 0)
        _prepare(rows, along)

    def statistics_of(row):
        return tuple(ref[row] for ref in inputs[tensors : tensors + known])

    def compute(index, load, between, carry):
        def of_slab(slab, carry):
            grown, known = carry
            r, *mean = known or statistics_of(rows.row(index, slab))
            # Those of the next row are on their way while this one is computed.
            following = statistics_of(rows.after(index, slab)) if known else ()
            statistics = mean[0] if mean else 0.0, 0.0, r
            return _pull_row(slab, (load, along, kept), dw_ref, statistics, plan, rows, grow, grown), following

        carry = rows.over_slabs(of_slab, carry, index)
        if runs.resident:
            rows.take(Load(((dw_ref, load.pairs[0][1]),), load.starts, load.arrived), index)
        return carry

    first = grow.none(), () if runs.staged else statistics_of(rows.row(0, 0))
    grown, _ = walk(rows, partial(rows.load, inputs[:tensors], places, arrived), prepare, compute, first, early=True)
    if runs.resident:
        grow.put(grown)
        mosaic_settle()
        for ref, source in kept.pairs:
            take(source, 0, ref, kept.starts(0), rows.columns, rows.of_vectors.copied_in_bulk(jnp.float32))
    mosaic_await_sent()


def _keep_sums(rows: Rows, kept: Load, piece: Any) -> None:
    take_piece(rows.runs, kept.starts(0), piece, tuple((target, ref) for ref, target in kept.pairs))


def _pull_row(
    slab: Any, loads: tuple, dw_ref: Any, statistics: tuple, plan: Plan, rows: Rows, grow: RowSums, grown: tuple
) -> tuple:
    """dw takes the place of w; returns `grown` with what the row adds to the sums for the parameters."""
    (w, dy, *others), vectors = ([place for _, place in load.pairs] for load in loads[:2])
    load, along, kept = loads
    runs, r, held = rows.runs, statistics[2], list[tuple]()

    def pull(window):
        """h, the cotangent of act's argument, and that of h."""
        h, z = normalized(window.read(w), window, vectors, statistics, plan)
        dz = window.read(dy)
        if plan.activation != "none":
            dz = differentiate(z, dz, plan.activation)
        return h, dz, dz * plan.form.scale(window.along(vectors[0]))

    def visit(slab, piece, carry):
        def step(window, carry):
            (with_h, alone), grown = carry
            h, dz, dh = pull(window)
            held.append((h, dh))
            more = (dz * plan.form.rounded_in_mosaic(h), dz)[: len(vectors)]
            if not runs.resident:  # a piece may have what the one before had
                more = tuple(window.keep(values, 0.0) for values in more)
            return (with_h + window.keep(dh * h, 0.0), alone + window.keep(dh, 0.0)), grow.add(grown, window, more)

        carry = over_windows(runs, slab, piece, step, carry, grow.in_registers)
        if not runs.resident:
            _keep_sums(rows, kept, piece)
        return carry

    lanes, grown = over_pieces(runs, (load, along, kept), slab, visit, ((zeros(runs), zeros(runs)), grown))
    mean_dh_h = jnp.sum(lanes[0]) / rows.columns
    mean_dh = jnp.sum(lanes[1]) / rows.columns if plan.centered else 0.0

    def write(slab, piece, carry):
        def step(window, carry):
            h, dh = held[window.index] if grow.in_registers else pull(window)[::2]
            dw = r * (dh - mean_dh - h * mean_dh_h)
            store(w, window, dw + window.read(others[0]) if others else dw)
            return carry

        over_windows(runs, slab, piece, step, 0, grow.in_registers)
        if not runs.resident:
            take_piece(runs, load.starts(slab), piece, ((w, dw_ref),))
        return carry

    over_pieces(runs, (load, along), slab, write, 0)
    return grown


def mosaic_row_norm(
    x: jax.Array, rows: tuple[int, int], parameters: Sequence[jax.Array], plan: Plan, residual: jax.Array | None
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y, or (y, z) with a residual; gradients for every array.

    Args:
      x: any shape whose last axes are normalized.
      rows: x seen as (rows, columns).
      parameters: gamma, and beta where the plan has one, in the shape of the normalized axes.
      plan: what is computed.
      residual: in x's shape and dtype: added to x first.

    Raises:
      UserError: for a dtype that the kernels do not take, and a residual that is not as x.
    """
    residual = residual_like(x, residual)
    dtypes = x.dtype.name, *(parameter.dtype.name for parameter in parameters)
    refused = _refusal(rows, dtypes, plan, residual is not None, backward=False)
    if refused:
        raise UserError(refused)
    sides = None if residual is None else residual.reshape(rows)
    if x.size == 0:
        zero = jnp.asarray(sum(jnp.sum(array * 0) for array in parameters), plan.output_dtype)
        y, z = x.astype(plan.output_dtype) + zero, residual
    else:
        arrays = x.reshape(rows), sides, tuple(p.reshape(-1) for p in parameters)
        y, z = _differentiable(arrays, (plan, residual is not None))
        y = y.reshape(x.shape)
    return y if z is None else (y, z.reshape(x.shape))


def unsupported(plan: Plan, problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_mosaic(target):
        return refused
    columns = math.prod(problem.shape[-problem.option("ndim", 1) :])
    rows = math.prod(problem.shape) // max(columns, 1), columns
    residual, backward = problem.context == "residual", problem.pass_ != "forward"
    dtypes = problem.dtype, *(problem.param_dtype,) * (1 + plan.shifted)
    return _refusal(rows, dtypes, plan, residual, backward) or _too_slow(rows, dtypes, plan, residual, backward)


def _refusal(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> str | None:
    if refused := _dtype_refusal(dtypes, plan, rows[1], backward):
        return refused
    config = None if 0 in rows else _rows(rows, dtypes, plan, residual, backward)
    return config if isinstance(config, str) else None


def _dtype_refusal(dtypes: tuple[str, ...], plan: Plan, columns: int, backward: bool) -> str | None:
    """Of eight bits is y alone, forward, in rows that move in bulk: the kernels do not copy it by the registers."""
    if plan.output_dtype != FP8 or backward:
        refused = dtype_refusal(zip(("y", "x", "gamma", "beta"), (plan.output_dtype, *dtypes), strict=False))
        return f"{refused}, and forward y in {FP8}" if refused and plan.output_dtype == FP8 else refused
    if refused := dtype_refusal(zip(("x", "gamma", "beta"), dtypes, strict=False)):
        return refused
    if columns % WARPGROUP:
        return f"y is {FP8} in rows of {columns} elements; allowed for pallas_mosaic: whole multiples of {WARPGROUP}"
    return None


def _rows(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> Rows | str:
    """How the kernels share rows out, or why they do not."""
    return (backward_rows if backward else forward_rows)(rows, dtypes[0], dtypes[1:], plan, residual)


def _too_slow(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> str | None:
    """Why rows are left to XLA although the kernels take them."""
    told = f"rows of {rows[1]} elements"
    if 0 in rows:
        return None
    if rows[1] < LEAST_COLUMNS:
        return f"{told}; allowed for pallas_mosaic: {LEAST_COLUMNS} or more, of {WARPGROUP} at a time"
    config = _rows(rows, dtypes, plan, residual, backward)
    resident = isinstance(config, str) or config.runs.resident
    return None if resident else f"{told}, which shared memory does not hold: they are read twice, as by XLA"


def _forward(arrays, asked, saves):
    """`asked` is the plan, and whether there is a residual."""
    (x, residual, parameters), plan = arrays, asked[0]
    y, z, mean, r = forward(x, residual, parameters, plan, saves)
    return (y, z), (mean, r) if saves else None


def _backward(kept, saved, cotangents, asked):
    (w, parameters), (plan, added) = kept, asked
    dtypes = w.dtype.name, *(parameter.dtype.name for parameter in parameters)
    if refused := _refusal(w.shape, dtypes, plan, added, backward=True):
        raise UserError(refused)
    dw, gradients = backward((w, parameters, *saved), *cotangents, plan)
    return dw, tuple(gradients)


def _plain(kept, asked):
    (w, parameters), (plan, added) = kept, asked
    h = standardized(w.astype(jnp.float32), (1,), plan.epsilon, plan.centered)
    gamma, *beta = (parameter.astype(jnp.float32) for parameter in parameters)
    scaled = plan.form.rounded(h) * plan.form.scale(gamma)
    y = scaled + beta[0] if beta else scaled
    return activate_plain(y, plan.activation).astype(plan.output_dtype), w if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)
