"""Gradients of batch norm by given statistics in Mosaic GPU, of any number of channels that come last.

With r = 1 / sqrt(variance + epsilon), h = (x - mean) r, dz = dy act'(h gamma + beta) and scale = gamma r:

    dx = scale dz,   dgamma = sum(dz h),   dbeta = sum(dz),
    dmean = -scale sum(dz),   dvariance = -r scale sum(dz h) / 2
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import mosaic_program, mosaic_settle
from normbench.kernels.pallas.mosaic.activations import differentiate
from normbench.kernels.pallas.mosaic.limits import Plan
from normbench.kernels.pallas.mosaic.rows import Rows, blocks_of, clear, normalized
from normbench.kernels.pallas.mosaic.windows import Load, Window, over_pieces, over_windows, store, take_piece


def given_window(tensors: tuple, vectors: Any, sums: Any, plan: Plan, window: Window, carry: Any) -> Any:
    """dx takes the place of x, and the sums grow: what they see beyond the columns is never looked at."""
    x, dy = tensors
    at = window.of_vector
    h, z = normalized(x[window.at].astype(jnp.float32), window, vectors, (), plan)
    dz = dy[window.at].astype(jnp.float32)
    if plan.activation != "none":
        dz = differentiate(z, dz, plan.activation)
    sums[0][at] = sums[0][at] + dz * h
    sums[1][at] = sums[1][at] + dz
    scale = jax.lax.rsqrt(vectors[3][at].astype(jnp.float32) + plan.epsilon) * vectors[0][at].astype(jnp.float32)
    store(x, window, scale * dz)
    return carry


def given_in_pieces(rows: Rows, tensors_of, along: Load, sums, work, outputs, plan: Plan) -> None:
    """A piece of all rows of the program at a time, as nothing is summed along a row."""
    (dx_ref, found), runs = outputs, rows.runs
    vectors = tuple(target for _, target in along.pairs)

    def of_piece(slab, piece, carry):
        clear(rows, sums, piece)

        def of_row(index, carry):
            load = tensors_of(index)
            mosaic_settle()
            load.bring_piece(runs, 0, piece)
            load.wait(runs)
            x, dy = (target for _, target in load.pairs)
            over_windows(runs, 0, piece, partial(given_window, (x, dy), vectors, sums, plan), 0)
            take_piece(runs, load.starts(0), piece, ((x, dx_ref),))
            return carry

        jax.lax.fori_loop(0, blocks_of(rows), of_row, 0)

        def leave(source, ref):
            take_piece(runs, mosaic_program() * rows.columns, piece, ((source, ref),))

        finish_given(rows, vectors, sums, work, leave, found, plan)
        return carry

    over_pieces(runs, (along,), 0, of_piece, 0)


def finish_given(rows: Rows, vectors: Any, sums: Any, work: Any, leave: Callable, found: Any, plan) -> None:
    """The program's share of the gradients of gamma, beta, mean and variance."""

    def fill(term):
        def step(window, carry):
            at = window.of_vector
            r = jax.lax.rsqrt(vectors[3][at].astype(jnp.float32) + plan.epsilon)
            work[at] = term(sums[0][at], sums[1][at], r, r * vectors[0][at].astype(jnp.float32))
            return carry

        over_windows(rows.runs, 0, 0, step, 0)

    for ref, source in zip(found[:2], sums, strict=True):
        leave(source, ref)
    fill(lambda with_h, alone, r, scale: -scale * alone)
    leave(work, found[2])
    fill(lambda with_h, alone, r, scale: -0.5 * r * scale * with_h)
    leave(work, found[3])
