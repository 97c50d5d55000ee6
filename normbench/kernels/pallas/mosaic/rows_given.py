"""Batch norm by given statistics in Mosaic GPU, channels last, of any number of channels: forward and backward.

With r = 1 / sqrt(variance + epsilon), scale = gamma r and dz = dy act'((x - mean) scale + beta):

    y = act((x - mean) scale + beta),   dx = scale dz,   dgamma = r sum(dz (x - mean)),   dbeta = sum(dz),
    dmean = -scale sum(dz),   dvariance = -r² scale sum(dz (x - mean)) / 2

Nothing is summed along a row of channels, so that a row of the kernels is as many positions as make up whole
warpgroups, and the parameters lie as many times in shared memory. A row that comes in pieces does so once for all rows.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_fetch_run,
    mosaic_program,
    mosaic_settle,
    mosaic_slice,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, workspace_programs
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.mosaic.plan import WARPGROUP, Plan
from normbench.kernels.pallas.mosaic.rows import BLOCK, Rows, Staying, item_bytes, rows_of, walk
from normbench.kernels.pallas.mosaic.sums import RowSums, sum_partials
from normbench.kernels.pallas.mosaic.windows import (
    Load,
    Runs,
    Window,
    bring_slabs,
    over_pieces,
    over_windows,
    store,
    take,
    take_piece,
)

PARAMETERS = 4
"""gamma, beta, mean and variance."""
LINE_BYTES = 128
"""Of the parameters of a position, which are copied once for each position of a row: less is not worth the copies."""
SLOTS, RESIDENT, BLOCK_BYTES, BLOCKS = 3, 4, 16384, (6 * MULTIPROCESSORS, 2 * MULTIPROCESSORS)
"""Blocks in shared memory of a program, one on its way in, one computed and one on its way out; programs of a
multiprocessor; what the tensors take in a block of several rows, and blocks at least before one has several, forward
and backward."""


def _positions_of(shape: tuple[int, ...], param_dtypes: tuple[str, ...]) -> int:
    """Positions of a row of the kernels: the fewest that make up whole warpgroups, times what still fits `BLOCK`; one,
    where these do not divide all positions or the parameters are no whole `LINE_BYTES`."""
    positions, channels = shape
    fewest = _fewest(channels)
    if positions % fewest or any(channels * item_bytes(dtype) % LINE_BYTES for dtype in param_dtypes):
        return 1
    most = max(1, BLOCK // (fewest * channels))
    return fewest * max(n for n in range(1, most + 1) if positions // fewest % n == 0)


def _fewest(channels: int) -> int:
    return WARPGROUP // math.gcd(channels, WARPGROUP)


def given_rows(shape: tuple[int, ...], dtypes: tuple[str, ...], plan: Plan, backward: bool) -> Rows | str:
    """How positions are shared out among programs, or why they are not.

    Args:
      shape: positions and channels.
      dtypes: of x and of the parameters.
    """
    found = _given_rows(shape, dtypes, plan, backward, _positions_of(shape, dtypes[1:]))
    if isinstance(found, Rows) and found.runs.resident:
        return found
    return _given_rows(shape, dtypes, plan, backward, 1)


def _given_rows(
    shape: tuple[int, ...], dtypes: tuple[str, ...], plan: Plan, backward: bool, repeats: int
) -> Rows | str:
    """With `repeats` positions to a row."""
    dtype, *param_dtypes = dtypes
    view = shape[0] // repeats, repeats * shape[1]
    tensors = (dtype, plan.output_dtype) if backward or plan.output_dtype != dtype else (dtype,)
    vectors = (*param_dtypes, *("float32",) * (1 + 3 * backward))
    partial_bytes = PARAMETERS * 4 * min(repeats, _fewest(shape[1])) * shape[1]
    most = workspace_programs(shape[0] * shape[1] * item_bytes(dtype), partial_bytes) if backward else None
    return rows_of(view, tensors, vectors, Staying(SLOTS, RESIDENT, BLOCK_BYTES, most, BLOCKS[backward]))


def _rows(x: jax.Array, parameters: tuple, plan: Plan, backward: bool) -> Rows:
    rows = given_rows(x.shape, (x.dtype.name, *(p.dtype.name for p in parameters)), plan, backward)
    assert isinstance(rows, Rows), rows
    return rows


class _Parameters:
    """The parameters and the scale made of them, in shared memory, once for each position of a row."""

    def __init__(self, rows: Rows, channels: int, refs: Any, places: Any, arrived: Any, epsilon: float) -> None:
        self.rows, self.channels, self.arrived, self.epsilon = rows, channels, arrived, epsilon
        self.places, self.scale = places[:PARAMETERS], places[PARAMETERS]
        self.load = Load(tuple(zip(refs, self.places, strict=True)), lambda slab: 0, arrived)

    def bring(self) -> None:
        """Of rows that are resident."""
        repeats, of_one = self.rows.columns // self.channels, self.rows.of_vectors
        if repeats == 1:
            bring_slabs(of_one, self.load)
        else:
            jax.lax.fori_loop(0, repeats, self._bring_at, 0)
        self.load.wait(of_one)
        self.fold(0)

    def _bring_at(self, position: Any, carry: Any) -> Any:
        here = mosaic_slice(position * self.channels, self.channels)
        for ref, place in self.load.pairs:
            mosaic_fetch_run(ref, place.at[here], self.arrived)
        return carry

    def fold(self, piece: Any) -> None:
        """Makes the scale."""
        gamma, _, _, variance = self.places

        def step(window, carry):
            at = window.of_vector
            r = jax.lax.rsqrt(variance[at].astype(jnp.float32) + self.epsilon)
            self.scale[at] = gamma[at].astype(jnp.float32) * r
            return carry

        over_windows(self.rows.runs, 0, piece, step, 0)

    def centred(self, x: Any, window: Window) -> jax.Array:
        return window.read(x) - window.along(self.places[2])

    def shifted(self, centred: jax.Array, window: Window) -> jax.Array:
        """What the activation sees."""
        return centred * window.along(self.scale) + window.along(self.places[1])


def _barriers(rows: Rows, channels: int, dtypes: tuple, parameters: tuple) -> tuple:
    """Of the tensors and of the parameters."""
    copies = rows.of_vectors.copies(*(parameter.dtype for parameter in parameters))
    return rows.barrier(*dtypes), mosaic_barrier(max(1, copies * (rows.columns // channels)))


def forward(x: jax.Array, parameters: tuple, plan: Plan) -> jax.Array:
    """Returns y; x is (positions, channels), the parameters gamma, beta, mean and variance, (channels,)."""
    rows, dtype = _rows(x, parameters, plan, backward=False), jnp.dtype(plan.output_dtype)
    out = (jax.ShapeDtypeStruct((x.size,), dtype),)
    scratch = (
        *rows.places(x.dtype, *(() if dtype == x.dtype else (dtype,))),
        *rows.vectors(*(parameter.dtype for parameter in parameters), jnp.float32),
        *_barriers(rows, x.shape[1], (x.dtype,), parameters),
    )
    (y,) = mosaic_call(
        partial(_forward_kernel, plan=plan, rows=rows, channels=x.shape[1]),
        grid=rows.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_forward",
        cost=cost((x, *parameters), out),
    )(x.reshape(-1), *parameters)
    return y.reshape(x.shape)


def _forward_kernel(x_ref, *refs: Any, plan: Plan, rows: Rows, channels: int) -> None:
    refs, (y_ref, *places), (arrived, vectors_arrived) = refs[:PARAMETERS], refs[PARAMETERS:-2], refs[-2:]
    places, vectors = places[: -PARAMETERS - 1], places[-PARAMETERS - 1 :]
    parameters = _Parameters(rows, channels, refs, vectors, vectors_arrived, plan.epsilon)

    def written(index, load):
        return Load(((y_ref, places[-1].at[index % rows.slots if rows.slots > 1 else 0]),), load.starts, load.arrived)

    def step(load, taken, window, carry):
        z = parameters.shifted(parameters.centred(load.pairs[0][1], window), window)
        store(taken.pairs[0][1], window, activate(z, plan.activation))
        return carry

    load_of = partial(rows.load, (x_ref,), places, arrived)
    _over_rows(rows, parameters, load_of, written, step, RowSums(rows.runs, (), 1))


def _over_rows(
    rows: Rows,
    parameters: _Parameters,
    load_of: Any,
    written: Any,
    step: Any,
    grow: RowSums,
    end: Any = lambda piece: None,
) -> None:
    """Computes all rows of the running program, or a piece of all of them at a time.

    Args:
      load_of, written: of a block: what is brought, and what is taken away.
      step: (load, taken, window, carry) of a block's window; the carry is that of the sums.
      grow: the sums along the rows.
      end: what is done with them, the parameters at hand.
    """
    runs = rows.runs

    def compute(index, load, between, carry):
        taken = written(index, load)

        def of_slab(slab, carry):
            return over_windows(runs, slab, 0, partial(step, load, taken), carry, grow.in_registers)

        carry = rows.over_slabs(of_slab, carry, index)
        rows.take(taken, index)
        return carry

    def prepare():
        grow.clear()
        parameters.bring()

    def of_piece(slab, piece, carry):
        parameters.fold(piece)
        grow.clear(piece)

        def of_row(index, carry):
            load = load_of(index)
            mosaic_settle()
            load.bring_piece(runs, 0, piece)
            load.wait(runs)
            taken = written(index, load)
            over_windows(runs, 0, piece, partial(step, load, taken), ())
            take_piece(runs, load.starts(0), piece, tuple((place, ref) for ref, place in taken.pairs))
            return carry

        jax.lax.fori_loop(0, rows.mine, of_row, 0)
        end(piece)
        return carry

    if runs.resident:
        grow.put(walk(rows, load_of, prepare, compute, grow.none(), early=True))
        end(0)
        mosaic_await_sent()
    else:
        over_pieces(runs, (parameters.load,), 0, of_piece, 0)


def backward(saved: tuple, dy: jax.Array, plan: Plan) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma, beta, mean and variance; `saved` is (x, gamma, beta, mean, variance)."""
    x, *parameters = saved
    channels = x.shape[1]
    rows = _rows(x, tuple(parameters), plan, backward=True)
    left = _left(rows, channels)
    sums = jax.ShapeDtypeStruct((rows.programs * left.length,), jnp.float32)
    out = (jax.ShapeDtypeStruct((x.size,), x.dtype), *(sums,) * PARAMETERS)
    scratch = (
        *rows.places(x.dtype, dy.dtype),
        *rows.vectors(*(parameter.dtype for parameter in parameters), *(jnp.float32,) * 4),
        *_barriers(rows, channels, (x.dtype, dy.dtype), tuple(parameters)),
    )
    dx, *partials = mosaic_call(
        partial(_backward_kernel, plan=plan, rows=rows, channels=channels),
        grid=rows.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_backward",
        cost=cost((x, dy, *parameters), out),
    )(x.reshape(-1), dy.reshape(-1), *parameters)
    return dx.reshape(x.shape), *sum_partials([array.reshape(-1, channels) for array in partials], parameters)


def _left(rows: Rows, channels: int) -> Runs:
    """Sums that a program leaves: of as few positions of a row as make up whole warpgroups."""
    runs = rows.runs
    length = min(runs.length, _fewest(channels) * channels)
    if length == runs.length:
        return rows.of_vectors
    windows = (WARPGROUP * n for n in range(1, runs.window // WARPGROUP + 1) if length % (WARPGROUP * n) == 0)
    return Runs(1, length, True, length, max(windows), 1)


def _backward_kernel(x_ref, dy_ref, *refs: Any, plan: Plan, rows: Rows, channels: int) -> None:
    """dx takes the place of x."""
    refs, (dx_ref, *found), scratch = (
        refs[:PARAMETERS],
        refs[PARAMETERS : 2 * PARAMETERS + 1],
        refs[2 * PARAMETERS + 1 :],
    )
    places, vectors, (with_x, alone, work) = scratch[:2], scratch[2 : PARAMETERS + 3], scratch[PARAMETERS + 3 : -2]
    arrived, vectors_arrived = scratch[-2:]
    parameters = _Parameters(rows, channels, refs, vectors, vectors_arrived, plan.epsilon)
    left, scale, variance = _left(rows, channels), parameters.scale, parameters.places[3]
    grow = RowSums(rows.runs, (with_x, alone), -(-rows.programs // MULTIPROCESSORS))

    def step(load, taken, window, grown):
        (_, x), (_, dy) = load.pairs
        centred, dz = parameters.centred(x, window), window.read(dy)
        if plan.activation != "none":
            dz = differentiate(parameters.shifted(centred, window), dz, plan.activation)
        store(x, window, window.along(scale) * dz)
        return grow.add(grown, window, (dz * centred, dz))

    def end(piece):
        """The program's share of the gradients, in the places of the sums and of the scale: what is left for the second
        launch is to add them up."""

        def finish(window, carry):
            at = window.of_vector
            of_x, of_one = (_total(sums, window, rows, left) for sums in (with_x, alone))
            r = jax.lax.rsqrt(variance[at].astype(jnp.float32) + plan.epsilon)
            of_scale = scale[at]
            with_x[at], alone[at], scale[at] = r * of_x, of_one, -of_scale * of_one
            work[at] = -0.5 * r * r * of_scale * of_x
            return carry

        over_windows(left, 0, piece, finish, 0)
        start = mosaic_program() * left.length
        sums = with_x, alone, scale, work
        if not left.resident:
            take_piece(left, start, piece, tuple(zip(sums, found, strict=True)))
            return
        mosaic_settle()
        for source, ref in zip(sums, found, strict=True):
            take(source, 0, ref, start, left.length, left.copied_in_bulk(jnp.float32))

    def written(index, load):
        return Load(((dx_ref, load.pairs[0][1]),), load.starts, load.arrived)

    _over_rows(rows, parameters, partial(rows.load, (x_ref, dy_ref), places, arrived), written, step, grow, end)


def _total(sums: Any, window: Window, rows: Rows, left: Runs) -> jax.Array:
    """A window of the sums, of all positions of a row that are put together."""
    total = sums[window.of_vector]
    for part in range(1, rows.columns // left.length):
        total = total + sums[mosaic_slice(part * left.length + window.index * left.window, left.window),]
    return total
