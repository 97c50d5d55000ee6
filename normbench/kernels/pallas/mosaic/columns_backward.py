"""Gradients of norms over any number of positions in Mosaic GPU, channels last; the formulas of `mosaic_columns`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import mosaic_call
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import pulled
from normbench.kernels.pallas.mosaic.columns import Columns, scratch_of
from normbench.kernels.pallas.mosaic.columns_config import AnyColumns
from normbench.kernels.pallas.mosaic.columns_sums import over_groups, over_positions, write_out
from normbench.kernels.pallas.mosaic.exact.columns import ColumnsPlan
from normbench.kernels.pallas.mosaic.partial_sums import sum_partials


def backward(saved: tuple, dy: jax.Array, plan: ColumnsPlan, config: AnyColumns) -> tuple[jax.Array, ...]:
    """As `mosaic_columns.backward`."""
    x, gamma, beta, *_ = saved
    alone = config.images == 1
    dtypes = (gamma.dtype, beta.dtype) if alone else (jnp.float32,) * 2
    sums = (jax.ShapeDtypeStruct((config.images, config.channels), dtype) for dtype in dtypes)
    out = (jax.ShapeDtypeStruct(x.shape, x.dtype), *sums)
    dx, *partials = mosaic_call(
        partial(_kernel, plan=plan, config=config),
        grid=config.images * config.blocks,
        out=out,
        scratch=scratch_of((x.dtype, dy.dtype), 2, config),
        name="columns_backward",
        cost=cost((*saved, dy), out, () if config.resident else (x, dy)),
    )(x, dy, *saved[1:])
    if alone:
        return dx, *(array.reshape(-1) for array in partials)
    return dx, *sum_partials(partials, (gamma, beta))


def _kernel(x_ref, dy_ref, *refs: Any, plan: ColumnsPlan, config: AnyColumns) -> None:
    """dx takes the place of x."""
    gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *found, x, dy, work, arrived = refs
    columns = Columns(config, ((x_ref, x), (dy_ref, dy)), arrived)
    if config.resident:
        columns.bring(0)
    gamma, beta = (columns.spread(ref, work) for ref in (gamma_ref, beta_ref))
    mean, r = (columns.spread_groups(ref, work) for ref in (mean_ref, r_ref))

    def pull(at):
        h = (x[at].astype(jnp.float32) - mean) * r
        return h, pulled(h, dy[at].astype(jnp.float32), gamma, beta, plan.activation)

    def visit(piece, carry):
        def step(at, keep, lanes):
            h, dz = pull(at)
            return lanes[0] + keep(dz * h), lanes[1] + keep(dz)

        return columns.over_chunks(piece, step, carry)

    sums = columns.over_pieces(visit, (columns.zeros(), columns.zeros()))
    with_h, alone = (over_positions(values, work, config) for values in sums)
    for values, ref in ((with_h, found[0]), (alone, found[1])):
        write_out(values, work, ref, (columns.image, columns.first), 1, config)
    with_h, alone = (over_groups(gamma * values, work, config) / config.elements for values in (with_h, alone))

    def write(piece, carry):
        def step(at, keep, carry):
            h, dz = pull(at)
            x[at] = (r * (gamma * dz - alone - h * with_h)).astype(x.dtype)
            return carry

        columns.over_chunks(piece, step, 0)
        columns.take(piece, x, dx_ref)
        return carry

    columns.over_pieces(write, 0)
