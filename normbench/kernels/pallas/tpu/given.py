"""Inference batch norm where channels come last: every element is read once and written once.

Where dy is at hand together with x, y and dx are made in one visit.

y = act((x - mean) (gamma / sqrt(variance + epsilon)) + beta). Blocks are (places, ..., channels),
vectors (1, channels).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.tpu import block, tpu_call, tpu_program_id, tpu_when
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate, differentiate
from normbench.kernels.pallas.tpu.columns import ColumnsPlan, by_channel, clean, valid
from normbench.kernels.pallas.tpu.limits import VMEM_BYTES
from normbench.kernels.pallas.tpu.pieces import Pieces


def forward(x: jax.Array, parameters: Sequence[jax.Array], plan: ColumnsPlan, cut: Pieces) -> jax.Array:
    """y in x's shape, (images, places, ..., channels); `parameters` are gamma, beta, mean and variance, (channels,)."""
    vectors = [array.reshape(1, -1) for array in parameters]
    out = jax.ShapeDtypeStruct(x.shape, plan.output_dtype)
    tensor, vector = _blocks(cut)
    (y,) = tpu_call(
        partial(_forward_kernel, plan=plan),
        grid=cut.grid,
        in_specs=[tensor, *[vector] * 4],
        out_specs=[tensor],
        out=[out],
        parallel=3,
        vmem_bytes=VMEM_BYTES,
        name="batch_norm_pallas_tpu",
        cost=cost((x, *vectors), (out,), flops=4 * x.size),
    )(x, *vectors)
    return y


def backward(
    x: jax.Array, parameters: Sequence[jax.Array], dy: jax.Array, plan: ColumnsPlan, cut: Pieces
) -> tuple[jax.Array, ...]:
    """dx, dgamma, dbeta, dmean and dvariance, the vectors in float32.

    With r = 1 / sqrt(variance + epsilon), dz = dy act'(z) and h = (x - mean) r: dx = dz r gamma, dgamma = sum(dz h),
    dbeta = sum(dz), dmean = -r gamma dbeta, dvariance = -(r r gamma dgamma) / 2.
    """
    return _visit(_backward_kernel, "batch_norm_backward_pallas_tpu", 9, [x.dtype], x, parameters, dy, plan, cut)


def both(
    x: jax.Array, parameters: Sequence[jax.Array], dy: jax.Array, plan: ColumnsPlan, cut: Pieces
) -> tuple[jax.Array, ...]:
    """y of `forward`, and what `backward` returns."""
    dtypes = [plan.output_dtype, x.dtype]
    return _visit(_both_kernel, "batch_norm_both_pallas_tpu", 11, dtypes, x, parameters, dy, plan, cut)


def _visit(kernel, name, flops, dtypes, x, parameters, dy, plan, cut):
    """Tensors of `dtypes`, then a gradient of each parameter; `flops` are those of an element."""
    vectors = [array.reshape(1, -1) for array in parameters]
    tensor, vector = _blocks(cut)
    out = [jax.ShapeDtypeStruct(x.shape, dtype) for dtype in dtypes]
    out += [jax.ShapeDtypeStruct(vectors[0].shape, jnp.float32)] * 4
    found = tpu_call(
        partial(kernel, plan=plan, cut=cut),
        grid=cut.grid,
        in_specs=[tensor, tensor, *[vector] * 4],
        out_specs=[*[tensor] * len(dtypes), *[vector] * 4],
        out=out,
        parallel=1,
        vmem_bytes=VMEM_BYTES,
        name=name,
        cost=cost((x, dy, *vectors), out, flops=flops * x.size),
    )(x, dy, *vectors)
    return *found[: len(dtypes)], *(array.reshape(-1) for array in found[len(dtypes) :])


def _blocks(cut: Pieces):
    whole = (0,) * len(cut.shape[2:-1])
    tensor = block((None, *cut.block), lambda c, n, k: (n, k, *whole, c))
    return tensor, block((1, cut.channels), lambda c, n, k: (0, c))


def _forward_kernel(x_ref, *refs, plan):
    *vectors, y_ref = refs
    gamma, beta, mean, variance = (ref[...].astype(jnp.float32) for ref in vectors)
    scale = gamma * jax.lax.rsqrt(variance + plan.epsilon)
    z = (x_ref[...].astype(jnp.float32) - mean) * scale + beta
    y_ref[...] = activate(z, plan.activation).astype(y_ref.dtype)


def _both_kernel(x_ref, dy_ref, *refs, plan, cut):
    vectors, (y_ref, *gradients) = refs[:4], refs[4:]
    _forward_kernel(x_ref, *vectors, y_ref, plan=plan)
    _backward_kernel(x_ref, dy_ref, *vectors, *gradients, plan=plan, cut=cut)


def _backward_kernel(x_ref, dy_ref, *refs, plan, cut):
    vectors, (dx_ref, *gradients) = refs[:4], refs[4:]
    image, piece = tpu_program_id(1), tpu_program_id(2)
    gamma, beta, mean, variance = (ref[...].astype(jnp.float32) for ref in vectors)
    root = jax.lax.rsqrt(variance + plan.epsilon)
    scale, centred = gamma * root, x_ref[...].astype(jnp.float32) - mean
    dz = dy_ref[...].astype(jnp.float32)
    if plan.activation != "none":
        dz = differentiate(centred * scale + beta, dz, plan.activation)
    dx_ref[...] = (dz * scale).astype(dx_ref.dtype)
    dgamma, dbeta, dmean, dvariance = gradients

    @tpu_when((image == 0) & (piece == 0))
    def _():
        dgamma[...] = jnp.zeros_like(dgamma)
        dbeta[...] = jnp.zeros_like(dbeta)

    inside = valid(cut, piece)
    dgamma[...] = dgamma[...] + by_channel(clean(dz * (centred * root), inside))
    dbeta[...] = dbeta[...] + by_channel(clean(dz, inside))

    @tpu_when((image == cut.grid[1] - 1) & (piece == cut.pieces - 1))
    def _():
        dmean[...] = -scale * dbeta[...]
        dvariance[...] = -0.5 * scale * root * dgamma[...]
