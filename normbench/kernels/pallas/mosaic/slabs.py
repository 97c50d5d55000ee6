"""Norms in Mosaic GPU, channels first: a program has the slabs of a group, of a channel of all images, or of some
channels.

With h = (x - mean) r, r = 1 / sqrt(variance + epsilon), gamma and beta of a slab's channel,
dz = dy act'(h gamma + beta) and E the mean over the slabs of a program:

    y = act(h gamma + beta),   dgamma = sum(dz h),   dbeta = sum(dz),
    dx = r (gamma dz - E[gamma dz] - h E[gamma dz h])

and where mean and variance are given, with scale = gamma r:

    dx = scale dz,   dmean = -scale sum(dz),   dvariance = -r scale sum(dz h) / 2
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_interpreted,
    mosaic_program,
    mosaic_shared,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MOST_ELEMENTS, MULTIPROCESSORS
from normbench.kernels.pallas.mosaic.activations import activate, pulled
from normbench.kernels.pallas.mosaic.plan import LINE, WARPGROUP, Plan, room_bytes
from normbench.kernels.pallas.mosaic.sums import moments, sum_partials
from normbench.kernels.pallas.mosaic.windows import (
    Load,
    Runs,
    bring_slabs,
    over_pieces,
    over_windows,
    runs_of,
    store,
    take_piece,
    take_slabs,
    zeros,
)

TILE = 8192
"""Elements of a program at most where statistics are given: small enough that many programs are in flight on a
multiprocessor."""
TENSORS = 2
"""In shared memory of a program at most."""
PLACES = 2
"""For pieces of what does not fit."""
SHORT_TILE = 4096
"""The same where several slabs make it up, as each of them waits for its scalars."""
SHORT_PROGRAMS = 12 * MULTIPROCESSORS
"""That there are at least before a program has several slabs: of one multiprocessor, as many as may wait at a time."""
LEAST_TILE_POSITIONS = 512
"""Four sums of float32 for each slab are then 1.6 % of it in bfloat16."""


@dataclass(frozen=True, slots=True)
class Slabs:
    """x as (images, channels, tiles, positions of a tile): a slab is a tile, all positions of a channel where that has
    one, and a program has some of them.

    Attributes:
      each: slabs of a program, neighbours, of one image; 0: one channel of all images.
      runs: of the program.
    """

    images: int
    channels: int
    tiles: int
    each: int
    runs: Runs

    @property
    def programs(self) -> int:
        return self.images * self.channels * self.tiles // self.each if self.each else self.channels

    @property
    def resident(self) -> bool:
        return self.runs.resident

    @property
    def piece_elements(self) -> int:
        return self.runs.piece

    @property
    def elements(self) -> int:
        """Of a program."""
        return self.runs.count * self.runs.length

    def shape(self, *dtypes: Any) -> tuple[int, ...]:
        """Of x for the kernels, beside tensors of these dtypes: flat, or as one copy moves the parts of a slab."""
        runs, line = self.runs, math.gcd(self.runs.part, LINE)
        whole = runs.resident and runs.size == self.elements and all(map(runs.copied_in_bulk, dtypes))
        fits = self.images <= LINE and runs.part // line <= LINE and not mosaic_interpreted()
        if runs.parts > 1 and whole and fits:
            return self.images, self.channels, runs.part // line, line
        return (self.programs * self.elements,)

    def load(self, pairs: tuple, arrived: Any) -> Load:
        """The slabs of the running program, of pairs of an array and its place in shared memory."""
        stacked = len(pairs[0][0].shape) == 4
        return Load(pairs, self.start, arrived, (slice(None), mosaic_program()) if stacked else None)

    def channel(self, slab: Any) -> Any:
        if not self.each:
            return mosaic_program()
        found = mosaic_program() * self.each % (self.channels * self.tiles) + slab
        return found // self.tiles if self.tiles > 1 else found

    def start(self, slab: Any) -> Any:
        """Where a slab of the running program begins in x, or a part of a slab of all images."""
        if self.each:
            return (mosaic_program() * self.each + slab) * self.runs.length
        positions = self.elements // self.images
        return (slab * self.channels + mosaic_program()) * positions


def slabs_of(shape: tuple[int, int, int], each: int, element_bytes: int, tiles: int = 1) -> Slabs | str:
    """How x is shared out among programs, or why it is not; an element takes `element_bytes` of shared memory."""
    images, channels, positions = shape
    if math.prod(shape) > MOST_ELEMENTS:
        return f"x has {math.prod(shape)} elements; allowed for pallas_mosaic: {MOST_ELEMENTS}"
    count, length = each or images, positions // tiles
    runs = runs_of(count, length, element_bytes, room_bytes(TENSORS), apart=not each, places=PLACES)
    if runs is None:
        return f"{count} slabs of {length} elements do not fit into {room_bytes(TENSORS)} bytes of shared memory"
    return Slabs(images, channels, tiles, each, runs)


def given_slabs_of(shape: tuple[int, int, int], element_bytes: int) -> Slabs | str:
    """As `slabs_of`, where statistics are given: about `TILE` elements for each program, of some channels or of one."""
    images, channels, positions = shape
    tiles = 1
    if positions > TILE and positions % WARPGROUP == 0:
        warpgroups = positions // WARPGROUP
        tiles = min(n for n in range(1, warpgroups + 1) if warpgroups % n == 0 and positions // n <= TILE)
        tiles = tiles if positions // tiles >= LEAST_TILE_POSITIONS else 1
    most = min(SHORT_TILE // max(positions, 1), images * channels // SHORT_PROGRAMS)
    most = max(most, 1) if positions < LEAST_TILE_POSITIONS else 1
    each = max(n for n in range(1, most + 1) if channels % n == 0)
    return slabs_of(shape, each, element_bytes, tiles)


def element_bytes(dtype: str, output_dtype: str, backward: bool) -> int:
    """Shared memory of an element: of x, and of y in another dtype, or of dy."""
    of_y = jnp.dtype(output_dtype).itemsize if backward or output_dtype != dtype else 0
    return jnp.dtype(dtype).itemsize + of_y


def forward(x: jax.Array, parameters: tuple, running: tuple, plan: Plan, slabs: Slabs) -> tuple[jax.Array, ...]:
    """Returns y; mean and r of each program in float32 where they are not given; the new running statistics.

    Args:
      x: (images, channels, positions).
      parameters: gamma and beta, and mean and variance where they are given: (channels,).
      running: () or the running mean and variance.
    """
    runs, dtype = slabs.runs, jnp.dtype(plan.output_dtype)
    shape = slabs.shape(x.dtype, dtype)
    statistics = jax.ShapeDtypeStruct((slabs.programs,), jnp.float32)
    out = (
        jax.ShapeDtypeStruct(shape, dtype),
        *(() if plan.given else (statistics, statistics)),
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running),
    )
    y, *found = mosaic_call(
        partial(_forward_kernel, plan=plan, slabs=slabs),
        grid=slabs.programs,
        out=out,
        scratch=(
            mosaic_shared((runs.size,), x.dtype),
            *(() if dtype == x.dtype else (mosaic_shared((runs.size,), dtype),)),
            mosaic_barrier(_copies(runs, shape, x.dtype), runs.places),
        ),
        name=f"{plan.name}_forward",
        cost=cost((x, *parameters, *running), out, () if runs.resident or plan.given else (x,)),
    )(x.reshape(shape), *parameters, *running)
    return y.reshape(x.shape), *found


def _copies(runs: Runs, shape: tuple[int, ...], *dtypes: Any) -> int:
    return len(dtypes) if len(shape) == 4 else max(1, runs.copies(*dtypes))


TOGETHER = (4, 5, 3, 2, 1)
"""Slabs whose scalars are read at once, the preferred number first: one that divides those of a program. Batch norm by
given statistics of 64 x 2048 x 7 x 7 in bfloat16, forward, is predicted for the H200 at 21 us (18 to 25) with four, and
at 42 (21 to 54) where each slab waits for its own."""


class _Scalars:
    """What belongs to the channel of a slab: read once where all slabs are of one channel, else those of the next few
    slabs are on their way while some are computed."""

    def __init__(self, slabs: Slabs, read: Callable) -> None:
        self.count, self.read, self.same = slabs.runs.count, read, not slabs.each
        self.together = next(n for n in TOGETHER if self.count % n == 0)
        self.first = self._some(0)

    def _some(self, index: Any) -> list[tuple]:
        last = self.count - 1
        slabs = (index * self.together + n for n in range(1 if self.same else self.together))
        return [self.read(jnp.minimum(slab, last)) for slab in slabs]

    def fold(self, visit: Callable, carry: Any) -> Any:
        """Folds `visit(slab, scalars, carry)` over the slabs of a program."""
        if self.same:
            return jax.lax.fori_loop(0, self.count, lambda slab, carry: visit(slab, self.first[0], carry), carry)

        def some(index, both):
            carry, known = both
            following = self._some(index + 1) if self.together < self.count else known
            for n, scalars in enumerate(known):
                carry = visit(index * self.together + n, scalars, carry)
            return carry, following

        return jax.lax.fori_loop(0, self.count // self.together, some, (carry, self.first))[0]


def _begin(slabs: Slabs, load: Load, read: Callable) -> _Scalars:
    """Brings slabs that are resident, and meanwhile reads what belongs to the first of them."""
    if slabs.runs.resident:
        bring_slabs(slabs.runs, load)
    scalars = _Scalars(slabs, read)
    if slabs.runs.resident:
        load.wait(slabs.runs)
    return scalars


def _over_slabs(runs: Runs, load: Load, visit: Callable, carry: Any) -> Any:
    """Folds `visit(slab, piece, carry)` over the pieces of all slabs of a program."""
    return jax.lax.fori_loop(0, runs.count, lambda slab, carry: over_pieces(runs, (load,), slab, visit, carry), carry)


def _write(slabs: Slabs, load: Load, slab: Any, step: Callable, place: Any, ref: Any) -> None:
    """`step` of each window of a slab; what comes in pieces is taken from its place to `ref`."""
    runs = slabs.runs

    def write(slab, piece, carry):
        over_windows(runs, slab, piece, step, 0)
        if not runs.resident:
            take_piece(runs, slabs.start(slab), piece, ((place, ref),), slab)
        return carry

    over_pieces(runs, (load,), slab, write, 0)


def _forward_kernel(x_ref, *refs: Any, plan: Plan, slabs: Slabs) -> None:
    runs, moved = slabs.runs, 0 if plan.momentum is None else 2
    inputs, refs = refs[: 2 + 2 * plan.given + moved], refs[2 + 2 * plan.given + moved :]
    written = 1 + 2 * (not plan.given) + moved
    (y_ref, *found), (x, *others, arrived) = refs[:written], refs[written:]
    y, load = others[0] if others else x, slabs.load(((x_ref, x),), arrived)

    def read(slab):
        channel = slabs.channel(slab)
        return tuple(ref[channel].astype(jnp.float32) for ref in inputs)

    scalars = _begin(slabs, load, read)

    def values(window):
        return window.read(x)

    if not plan.given:
        near, offset, squares = moments(runs, partial(_over_slabs, runs, load), values, slabs.elements)
        found_mean, found_r = near + offset, jax.lax.rsqrt(squares / slabs.elements + plan.epsilon)

    def of_slab(slab, scalars, carry):
        gamma, beta, *others = scalars
        mean, r = (others[0], jax.lax.rsqrt(others[1] + plan.epsilon)) if plan.given else (near, found_r)
        scale = gamma * r

        def step(window, carry):
            centred = values(window) - mean
            if not plan.given:
                centred = centred - offset
            store(y, window, activate(centred * scale + beta, plan.activation))
            return carry

        _write(slabs, load, slab, step, y, y_ref)
        return carry

    scalars.fold(of_slab, 0)
    if runs.resident:
        take_slabs(runs, slabs.load(((y_ref, y),), arrived))
    if not plan.given:
        _keep_statistics(found, scalars.first[0][2:], (found_mean, found_r, squares), plan, slabs.elements)
    mosaic_await_sent()


def _keep_statistics(found: Any, running: tuple, of_program: tuple, plan: Plan, elements: int) -> None:
    """Writes mean and r, and the new running statistics; `of_program` has the sum of squared deviations, too."""
    mean, r, squares = of_program
    found[0][mosaic_program()], found[1][mosaic_program()] = mean, r
    if plan.momentum is not None:
        for ref, old, new in zip(found[2:], running, (mean, squares / (elements - 1)), strict=True):
            ref[mosaic_program()] = ((1 - plan.momentum) * old + plan.momentum * new).astype(ref.dtype)


def backward(saved: tuple, dy: jax.Array, plan: Plan, slabs: Slabs) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients: of gamma and beta, and of mean and variance where they are given.

    In the dtypes of the parameters, (channels,). `saved` is (x, gamma, beta, mean, variance) where these are given,
    else with r of each program in the place of the variance.
    """
    x, *parameters = saved
    runs, alone, shape = slabs.runs, slabs.each == 0, slabs.shape(x.dtype, dy.dtype)
    parameters = parameters if plan.given else parameters[:2]
    by_slab = jax.ShapeDtypeStruct((slabs.images * slabs.channels * slabs.tiles,), jnp.float32)
    by_channel = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in parameters)
    sums = by_channel if alone else (by_slab,) * len(parameters)
    out = (jax.ShapeDtypeStruct(shape, x.dtype), *sums)
    dx, *found = mosaic_call(
        partial(_given_backward_kernel if plan.given else _backward_kernel, plan=plan, slabs=slabs),
        grid=slabs.programs,
        out=out,
        scratch=(
            mosaic_shared((runs.size,), x.dtype),
            mosaic_shared((runs.size,), dy.dtype),
            mosaic_barrier(_copies(runs, shape, x.dtype, dy.dtype), runs.places),
        ),
        name=f"{plan.name}_backward",
        cost=cost((*saved, dy), out, () if runs.resident or plan.given else (x, dy)),
    )(x.reshape(shape), dy.reshape(shape), *saved[1:])
    if alone:
        return dx.reshape(x.shape), *found
    by_tile = [array.reshape(slabs.images, slabs.channels, slabs.tiles) for array in found]
    return dx.reshape(x.shape), *sum_partials(by_tile, parameters, axes=(0, 2))


def _backward_kernel(
    x_ref, dy_ref, gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *refs: Any, plan, slabs: Slabs
) -> None:
    """dx takes the place of x."""
    *found, x, dy, arrived = refs
    runs, load = slabs.runs, slabs.load(((x_ref, x), (dy_ref, dy)), arrived)
    mean, r = mean_ref[mosaic_program()], r_ref[mosaic_program()]

    def read(slab):
        channel = slabs.channel(slab)
        return tuple(ref[channel].astype(jnp.float32) for ref in (gamma_ref, beta_ref))

    scalars = _begin(slabs, load, read)

    def pull(window, gamma, beta):
        h = (window.read(x) - mean) * r
        return h, pulled(h, window.read(dy), gamma, beta, plan.activation)

    def of_slab(slab, scalars, carry):
        gamma, beta = scalars

        def visit(slab, piece, sums):
            def step(window, lanes):
                h, dz = pull(window, gamma, beta)
                return lanes[0] + window.keep(dz * h, 0.0), lanes[1] + window.keep(dz, 0.0)

            lanes = over_windows(runs, slab, piece, step, (zeros(runs), zeros(runs)))
            return sums[0] + jnp.sum(lanes[0]), sums[1] + jnp.sum(lanes[1])

        zero = (jnp.float32(0), jnp.float32(0))
        with_h, alone = over_pieces(runs, (load,), slab, visit, zero)
        if slabs.each:
            for ref, value in zip(found, (with_h, alone), strict=True):
                ref[mosaic_program() * slabs.each + slab] = value
            return carry[0] + gamma * with_h, carry[1] + gamma * alone
        return carry[0] + with_h, carry[1] + alone

    with_h, alone = scalars.fold(of_slab, (jnp.float32(0), jnp.float32(0)))
    if not slabs.each:
        for ref, value in zip(found, (with_h, alone), strict=True):
            ref[mosaic_program()] = value.astype(ref.dtype)
        with_h, alone = with_h * scalars.first[0][0], alone * scalars.first[0][0]
    with_h, alone = with_h / slabs.elements, alone / slabs.elements

    def dx_of_slab(slab, scalars, carry):
        gamma, beta = scalars

        def step(window, carry):
            h, dz = pull(window, gamma, beta)
            store(x, window, r * (gamma * dz - alone - h * with_h))
            return carry

        _write(slabs, load, slab, step, x, dx_ref)
        return carry

    scalars.fold(dx_of_slab, 0)
    if runs.resident:
        take_slabs(runs, slabs.load(((dx_ref, x),), arrived))
    mosaic_await_sent()


def _given_backward_kernel(x_ref, dy_ref, *refs: Any, plan: Plan, slabs: Slabs) -> None:
    """dx takes the place of x."""
    parameters, (dx_ref, *found), (x, dy, arrived) = refs[:4], refs[4:9], refs[9:]
    runs, load = slabs.runs, slabs.load(((x_ref, x), (dy_ref, dy)), arrived)

    def read(slab):
        channel = slabs.channel(slab)
        return tuple(ref[channel].astype(jnp.float32) for ref in parameters)

    scalars = _begin(slabs, load, read)

    def of_slab(slab, scalars, carry):
        gamma, beta, mean, variance = scalars
        r = jax.lax.rsqrt(variance + plan.epsilon)
        scale = gamma * r

        def visit(slab, piece, sums):
            def step(window, lanes):
                h = (window.read(x) - mean) * r
                dz = pulled(h, window.read(dy), gamma, beta, plan.activation)
                store(x, window, scale * dz)
                return lanes[0] + window.keep(dz * h, 0.0), lanes[1] + window.keep(dz, 0.0)

            lanes = over_windows(runs, slab, piece, step, (zeros(runs), zeros(runs)))
            if not runs.resident:
                take_piece(runs, slabs.start(slab), piece, ((x, dx_ref),), slab)
            return sums[0] + jnp.sum(lanes[0]), sums[1] + jnp.sum(lanes[1])

        zero = (jnp.float32(0), jnp.float32(0))
        with_h, alone = over_pieces(runs, (load,), slab, visit, zero)
        for ref, term in zip(found, (with_h, alone, -scale * alone, -0.5 * r * scale * with_h), strict=True):
            ref[mosaic_program() * slabs.each + slab] = term
        return carry

    scalars.fold(of_slab, 0)
    if runs.resident:
        take_slabs(runs, slabs.load(((dx_ref, x),), arrived))
    mosaic_await_sent()
