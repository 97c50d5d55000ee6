"""Gradients of norms in Mosaic GPU of any size, channels first: the slabs of `mosaic_slabs`, of x and dy.

With h = (x - mean) r, dz = dy act'(h gamma + beta) and E the mean over the slabs of a program:

    dx = r (gamma dz - E[gamma dz] - h E[gamma dz h]),   dgamma = sum(dz h),   dbeta = sum(dz)

and where mean and variance are given, with scale = gamma r:

    dx = scale dz,   dmean = -scale sum(dz),   dvariance = -r scale sum(dz h) / 2
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import mosaic_barrier, mosaic_call, mosaic_program, mosaic_shared
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import pulled
from normbench.kernels.pallas.mosaic.slabs import SlabPlan, Slabs, given_statistics, over_slabs
from normbench.kernels.pallas.mosaic.windows import (
    Load,
    bring_slabs,
    over_pieces,
    over_windows,
    store,
    take_piece,
    take_slabs,
    zeros,
)


def backward(saved: tuple, dy: jax.Array, plan: SlabPlan, slabs: Slabs) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients: of gamma and beta, and of mean and variance where they are given.

    In float32 by image and channel, (images, channels); (channels,) in the dtypes of gamma and beta where a program has
    a channel of all images. `saved` is (x, gamma, beta, mean, variance) where these are given, else with r of each
    program in the place of the variance.
    """
    x, gamma, beta, *_ = saved
    runs, alone = slabs.runs, slabs.each == 0
    by_slab = jax.ShapeDtypeStruct((x.shape[0] * x.shape[1],), jnp.float32)
    by_channel = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (gamma, beta))
    sums = by_channel if alone else (by_slab,) * (4 if plan.given else 2)
    out = (jax.ShapeDtypeStruct((x.size,), x.dtype), *sums)
    dx, *found = mosaic_call(
        partial(_given_kernel if plan.given else _kernel, plan=plan, slabs=slabs),
        grid=slabs.programs,
        out=out,
        scratch=(
            mosaic_shared((runs.size,), x.dtype),
            mosaic_shared((runs.size,), dy.dtype),
            mosaic_barrier(max(1, runs.copies(x.dtype, dy.dtype))),
        ),
        name=f"{plan.name}_backward",
        cost=cost((*saved, dy), out, () if runs.resident or plan.given else (x, dy)),
    )(x.reshape(-1), dy.reshape(-1), *saved[1:])
    return dx.reshape(x.shape), *(found if alone else (array.reshape(x.shape[:2]) for array in found))


def _kernel(x_ref, dy_ref, gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *refs: Any, plan, slabs: Slabs) -> None:
    """dx takes the place of x."""
    *found, x, dy, arrived = refs
    runs, load = slabs.runs, Load(((x_ref, x), (dy_ref, dy)), slabs.start, arrived)
    if runs.resident:
        bring_slabs(runs, load)
        load.wait(runs)
    mean, r = mean_ref[mosaic_program()], r_ref[mosaic_program()]

    def scalars(slab):
        return tuple(ref[slabs.channel(slab)].astype(jnp.float32) for ref in (gamma_ref, beta_ref))

    def pull(window, gamma, beta):
        h = (x[window.at].astype(jnp.float32) - mean) * r
        return h, pulled(h, dy[window.at].astype(jnp.float32), gamma, beta, plan.activation)

    def of_slab(slab, carry):
        gamma, beta = scalars(slab)

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

    with_h, alone = jax.lax.fori_loop(0, runs.count, of_slab, (jnp.float32(0), jnp.float32(0)))
    if not slabs.each:
        for ref, value in zip(found, (with_h, alone), strict=True):
            ref[mosaic_program()] = value.astype(ref.dtype)
        with_h, alone = with_h * scalars(0)[0], alone * scalars(0)[0]
    with_h, alone = with_h / slabs.elements, alone / slabs.elements

    def write(slab, piece, carry):
        gamma, beta = scalars(slab)

        def step(window, carry):
            h, dz = pull(window, gamma, beta)
            store(x, window, r * (gamma * dz - alone - h * with_h))
            return carry

        over_windows(runs, slab, piece, step, 0)
        if not runs.resident:
            take_piece(runs, slabs.start(slab), piece, ((x, dx_ref),))
        return carry

    over_slabs(runs, load, write, 0)
    if runs.resident:
        take_slabs(runs, slabs.start, ((x, dx_ref),))


def _given_kernel(x_ref, dy_ref, *refs: Any, plan: SlabPlan, slabs: Slabs) -> None:
    """dx takes the place of x."""
    (gamma_ref, beta_ref, *statistics), (dx_ref, *found), (x, dy, arrived) = refs[:4], refs[4:9], refs[9:]
    runs, load = slabs.runs, Load(((x_ref, x), (dy_ref, dy)), slabs.start, arrived)
    if runs.resident:
        bring_slabs(runs, load)
        load.wait(runs)

    def of_slab(slab, carry):
        gamma, beta = (ref[slabs.channel(slab)].astype(jnp.float32) for ref in (gamma_ref, beta_ref))
        mean, r = given_statistics(statistics, slab, slabs, plan)
        scale = gamma * r

        def visit(slab, piece, sums):
            def step(window, lanes):
                h = (x[window.at].astype(jnp.float32) - mean) * r
                dz = pulled(h, dy[window.at].astype(jnp.float32), gamma, beta, plan.activation)
                store(x, window, scale * dz)
                return lanes[0] + window.keep(dz * h, 0.0), lanes[1] + window.keep(dz, 0.0)

            lanes = over_windows(runs, slab, piece, step, (zeros(runs), zeros(runs)))
            if not runs.resident:
                take_piece(runs, slabs.start(slab), piece, ((x, dx_ref),))
            return sums[0] + jnp.sum(lanes[0]), sums[1] + jnp.sum(lanes[1])

        zero = (jnp.float32(0), jnp.float32(0))
        with_h, alone = over_pieces(runs, (load,), slab, visit, zero)
        for ref, term in zip(found, (with_h, alone, -scale * alone, -0.5 * r * scale * with_h), strict=True):
            ref[mosaic_program() * slabs.each + slab] = term
        return carry

    jax.lax.fori_loop(0, runs.count, of_slab, 0)
    if runs.resident:
        take_slabs(runs, slabs.start, ((x, dx_ref),))
