"""Mean and variance of slabs in Mosaic GPU, of the kernels for any size: around the mean, also where pieces come by."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from normbench.kernels.pallas.mosaic.windows import Runs, over_windows, zeros


def moments(runs: Runs, fold: Callable, values: Callable, elements: int) -> tuple[jax.Array, jax.Array]:
    """The mean of `elements`, and the sum of their squared distances from it.

    Where all is at hand it is looked at twice. Pieces are looked at twice each while they are there, and put together:
    with n and N elements and the difference d of the means, M = M1 + M2 + d² n N / (n + N) (Chan, Golub, LeVeque 1979).

    Args:
      fold: of (visit, carry), over the pieces.
      values: of a window, in float32.
    """

    def total(slab, piece, term, lanes):
        return over_windows(runs, slab, piece, lambda w, lanes: lanes + w.keep(term(values(w)), 0.0), lanes)

    if runs.resident:
        mean = jnp.sum(fold(lambda slab, piece, c: total(slab, piece, lambda v: v, c), zeros(runs))) / elements

        def visit(slab, piece, carry):
            return total(slab, piece, lambda v: (v - mean) * (v - mean), carry)

        return mean, jnp.sum(fold(visit, zeros(runs)))

    def merge(slab, piece, carry):
        count, mean, squares = carry
        here = jnp.minimum(runs.piece, runs.length - piece * runs.piece).astype(jnp.float32)
        middle = jnp.sum(total(slab, piece, lambda v: v, zeros(runs))) / here
        around = jnp.sum(total(slab, piece, lambda v: (v - middle) * (v - middle), zeros(runs)))
        share = here / (count + here)
        distance = middle - mean
        return count + here, mean + distance * share, squares + around + distance * distance * count * share

    _, mean, squares = fold(merge, (jnp.float32(0), jnp.float32(0), jnp.float32(0)))
    return mean, squares
