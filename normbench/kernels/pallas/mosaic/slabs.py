"""Norms in Mosaic GPU of any size, channels first: a program has the slabs of one group, of one channel of all images,
or of some channels.

With h = (x - mean) r, r = 1 / sqrt(variance + epsilon) and gamma, beta of a slab's channel: y = act(h gamma + beta).
The kernels of `mosaic_groups`, `mosaic_batch` and `mosaic_positions` take what is whole warpgroups; these the rest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import SHARED_BYTES, mosaic_barrier, mosaic_call, mosaic_program, mosaic_shared
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MOST_ELEMENTS
from normbench.kernels.pallas.mosaic.activations import activate
from normbench.kernels.pallas.mosaic.limits import RESERVED_BYTES
from normbench.kernels.pallas.mosaic.moments import moments
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
)


@dataclass(frozen=True, slots=True)
class SlabPlan:
    """What is computed.

    Attributes:
      name: of the kernels.
      epsilon: r = 1 / sqrt(variance + epsilon).
      activation: of `ACTIVATIONS`.
      output_dtype: of y.
      given: whether mean and variance are parameters, by channel; otherwise they are those of the program's slabs.
      momentum: None, or new running statistics = (1 - momentum) running + momentum of the batch, the variance unbiased.
    """

    name: str
    epsilon: float
    activation: str
    output_dtype: str
    given: bool = False
    momentum: float | None = None


@dataclass(frozen=True, slots=True)
class Slabs:
    """x as (images, channels, positions), a slab of positions for each image and channel, and a program's share of it.

    Attributes:
      each: channels of a program, neighbours, of one image; 0: one channel of all images.
      runs: of the program.
    """

    images: int
    channels: int
    each: int
    runs: Runs

    @property
    def programs(self) -> int:
        return self.images * self.channels // self.each if self.each else self.channels

    @property
    def resident(self) -> bool:
        return self.runs.resident

    @property
    def elements(self) -> int:
        """Of a program."""
        return self.runs.count * self.runs.length

    def channel(self, slab: Any) -> Any:
        return mosaic_program() * self.each % self.channels + slab if self.each else mosaic_program()

    def start(self, slab: Any) -> Any:
        """Where a slab of the running program begins in x."""
        first = mosaic_program() * self.each + slab if self.each else slab * self.channels + mosaic_program()
        return first * self.runs.length


def slabs_of(shape: tuple[int, int, int], each: int, element_bytes: int) -> Slabs | str:
    """How x is shared out among programs, or why it is not; an element takes `element_bytes` of shared memory."""
    images, channels, positions = shape
    if math.prod(shape) > MOST_ELEMENTS:
        return f"x has {math.prod(shape)} elements; allowed for pallas_mosaic: {MOST_ELEMENTS}"
    count = each or images
    runs = runs_of(count, positions, element_bytes, SHARED_BYTES - RESERVED_BYTES, together=each > 0)
    if runs is None:
        return f"{count} slabs of {positions} elements do not fit into {SHARED_BYTES} bytes of shared memory"
    return Slabs(images, channels, each, runs)


def element_bytes(dtype: str, output_dtype: str, backward: bool) -> int:
    """Shared memory of an element: of x, and of y in another dtype, or of dy."""
    of_y = jnp.dtype(output_dtype).itemsize if backward or output_dtype != dtype else 0
    return jnp.dtype(dtype).itemsize + of_y


def forward(x: jax.Array, parameters: tuple, running: tuple, plan: SlabPlan, slabs: Slabs) -> tuple[jax.Array, ...]:
    """Returns y; mean and r of each program in float32 where they are not given; the new running statistics.

    Args:
      x: (images, channels, positions).
      parameters: gamma and beta, and mean and variance where they are given: (channels,).
      running: () or the running mean and variance.
    """
    runs, dtype = slabs.runs, jnp.dtype(plan.output_dtype)
    statistics = jax.ShapeDtypeStruct((slabs.programs,), jnp.float32)
    out = (
        jax.ShapeDtypeStruct((x.size,), dtype),
        *(() if plan.given else (statistics, statistics)),
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running),
    )
    y, *found = mosaic_call(
        partial(_kernel, plan=plan, slabs=slabs),
        grid=slabs.programs,
        out=out,
        scratch=(
            mosaic_shared((runs.size,), x.dtype),
            *(() if dtype == x.dtype else (mosaic_shared((runs.size,), dtype),)),
            mosaic_barrier(max(1, runs.copies(x.dtype))),
        ),
        name=f"{plan.name}_forward",
        cost=cost((x, *parameters, *running), out, () if runs.resident or plan.given else (x,)),
    )(x.reshape(-1), *parameters, *running)
    return y.reshape(x.shape), *found


def over_slabs(runs: Runs, load: Load, visit: Callable, carry: Any) -> Any:
    """Folds `visit(slab, piece, carry)` over the pieces of all slabs of a program."""
    return jax.lax.fori_loop(0, runs.count, lambda slab, carry: over_pieces(runs, (load,), slab, visit, carry), carry)


def _kernel(x_ref, *refs: Any, plan: SlabPlan, slabs: Slabs) -> None:
    runs, moved = slabs.runs, 0 if plan.momentum is None else 2
    inputs, refs = refs[: 2 + 2 * plan.given + moved], refs[2 + 2 * plan.given + moved :]
    written = 1 + 2 * (not plan.given) + moved
    (y_ref, *found), (x, *others, arrived) = refs[:written], refs[written:]
    gamma_ref, beta_ref, *statistics = inputs
    y, load = others[0] if others else x, Load(((x_ref, x),), slabs.start, arrived)
    if runs.resident:
        bring_slabs(runs, load)
        load.wait(runs)

    def values(window):
        return x[window.at].astype(jnp.float32)

    if not plan.given:
        near, offset, squares = moments(runs, partial(over_slabs, runs, load), values, slabs.elements)
        found_mean, found_r = near + offset, jax.lax.rsqrt(squares / slabs.elements + plan.epsilon)

    def write(slab, piece, carry):
        gamma, beta = (ref[slabs.channel(slab)].astype(jnp.float32) for ref in (gamma_ref, beta_ref))
        mean, r = given_statistics(statistics, slab, slabs, plan) if plan.given else (near, found_r)
        scale = gamma * r

        def step(window, carry):
            centred = values(window) - mean
            if not plan.given:
                centred = centred - offset
            store(y, window, activate(centred * scale + beta, plan.activation))
            return carry

        over_windows(runs, slab, piece, step, 0)
        if not runs.resident:
            take_piece(runs, slabs.start(slab), piece, ((y, y_ref),))
        return carry

    over_slabs(runs, load, write, 0)
    if runs.resident:
        take_slabs(runs, slabs.start, ((y, y_ref),))
    if plan.given:
        return
    found[0][mosaic_program()], found[1][mosaic_program()] = found_mean, found_r
    if plan.momentum is not None:
        for ref, old, new in zip(found[2:], statistics, (found_mean, squares / (slabs.elements - 1)), strict=True):
            before = old[mosaic_program()].astype(jnp.float32)
            ref[mosaic_program()] = ((1 - plan.momentum) * before + plan.momentum * new).astype(ref.dtype)


def given_statistics(refs: Any, slab: Any, slabs: Slabs, plan: SlabPlan) -> tuple[jax.Array, jax.Array]:
    """mean and r of the channel of a slab, out of mean and variance."""
    mean, variance = (ref[slabs.channel(slab)].astype(jnp.float32) for ref in refs)
    return mean, jax.lax.rsqrt(variance + plan.epsilon)
