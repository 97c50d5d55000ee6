"""Training batch norm and group norm where dy is at hand together with x: y, dx and their sums in one launch.

Each image is walked over three times, and what is read stays in VMEM: the first walk brings x and merges its
statistics, the second brings dy, writes y and sums for the gradients, the third writes dx. Four tensors cross HBM,
where a forward and a backward launch move five. Blocks and words are those of `columns`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.tpu import block, tpu_call, tpu_program_id, tpu_when
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.tpu.columns import (
    IMAGES,
    PIECE,
    ROOT,
    WALK,
    ColumnsPlan,
    add,
    at_hand,
    begin,
    finish,
    first_of,
    gradient,
    kept_of,
    merge,
    standardized,
    tensor,
)
from normbench.kernels.pallas.tpu.limits import VMEM_BYTES
from normbench.kernels.pallas.tpu.pieces import Pieces

STATISTICS, SUMS, GRADIENT = range(3)
"""The walks."""


def both(
    x: jax.Array,
    parameters: Sequence[jax.Array],
    running: Sequence[jax.Array],
    dy: jax.Array,
    plan: ColumnsPlan,
    cut: Pieces,
) -> list[jax.Array]:
    """Returns y and dx in x's shape, dgamma, dbeta and the new running statistics, these (channels,) in float32.

    Args:
      x, dy: (images, places, ..., channels), as `cut` says, which holds both.
      parameters: gamma and beta, (channels,).
      running: mean and variance, (channels,), or nothing.
    """
    channels, images, pieces = cut.grid
    vector = block((1, cut.channels), lambda c, n, w, k: (0, c))
    vectors = [array.reshape(1, -1) for array in (*parameters, *running)]
    lines = [jax.ShapeDtypeStruct((1, x.shape[-1]), jnp.float32)] * (2 + len(running))
    out = [jax.ShapeDtypeStruct(x.shape, plan.output_dtype), jax.ShapeDtypeStruct(x.shape, x.dtype), *lines]
    y, dx, *others = tpu_call(
        partial(_kernel, plan=plan, cut=cut),
        grid=(channels, images, 3, pieces),
        in_specs=[*(tensor(cut, _during(cut, walk)) for walk in (STATISTICS, SUMS)), *(vector for _ in vectors)],
        out_specs=[*(tensor(cut, _during(cut, walk)) for walk in (SUMS, GRADIENT)), *(vector for _ in lines)],
        out=out,
        scratch=[
            *kept_of(cut, (x, dy)),
            jax.ShapeDtypeStruct((3, cut.rows, cut.channels), jnp.float32),
            jax.ShapeDtypeStruct((2, cut.rows, cut.channels), jnp.float32),
        ],
        parallel=1,
        vmem_bytes=VMEM_BYTES,
        name=f"{plan.name}_both_pallas_tpu",
        cost=cost((x, dy, *vectors), out, flops=26 * x.size),
    )(x, dy, *vectors)
    return [y, dx, *(array.reshape(-1) for array in others)]


def _during(cut: Pieces, during: int) -> Callable[..., jax.Array]:
    """Which piece a step has of a tensor that comes or goes during this walk: the first one before, then the last."""
    return lambda w, k: jnp.where(w < during, 0, jnp.where(w == during, k, cut.pieces - 1))


def _kernel(x_ref, dy_ref, gamma_ref, beta_ref, *refs, plan, cut):
    running, refs = first_of(refs, 2 * (plan.momentum is not None))
    (y_ref, dx_ref, *gradients), refs = first_of(refs, 4)
    moved, refs = first_of(refs, len(running))
    *kept, state, sums = refs
    kept_x, kept_dy = kept[:1], kept[1:]
    image, walk, piece = (tpu_program_id(axis) for axis in (IMAGES, WALK, PIECE))
    gamma, beta = (ref[...].astype(jnp.float32) for ref in (gamma_ref, beta_ref))

    def terms():
        """h, z and dz."""
        (x,) = at_hand([x_ref], kept_x, cut, walk == STATISTICS, piece)
        (dy,) = at_hand([dy_ref], kept_dy, cut, walk == SUMS, piece)
        h = standardized(x, state)
        z = h * gamma + beta
        return h, z, dy if plan.activation == "none" else differentiate(z, dy, plan.activation)

    @tpu_when(walk == STATISTICS)
    def _():
        (x,) = at_hand([x_ref], kept_x, cut, walk == STATISTICS, piece)
        merge(x, state, piece, plan, cut)

        @tpu_when(piece == cut.pieces - 1)
        def _():
            finish(state, (), running, moved, plan, cut)
            begin(sums, gradients, image)

    @tpu_when(walk == SUMS)
    def _():
        h, z, dz = terms()
        y_ref[...] = activate(z, plan.activation).astype(y_ref.dtype)
        add(h, dz, sums, gradients, gamma, piece, plan, cut)

    @tpu_when(walk == GRADIENT)
    def _():
        h, _, dz = terms()
        dx_ref[...] = gradient(h, dz, state[ROOT], gamma, sums).astype(dx_ref.dtype)
