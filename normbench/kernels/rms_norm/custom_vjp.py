"""A gradient by hand that saves x and r = 1 / sqrt(E[x²] + epsilon) of each row in float32.

With dz = dy act'(z) and E the mean over the row:

    dx = r (gamma dz - x r E[gamma dz x] r),   dgamma = sum(dz x r)

A rounding of x r, where the form has one, is passed by the gradient as it is; dgamma is that of the rounded x r.
"""

from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.varying import alike
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.form import PLAIN, Form
from normbench.kernels.common.partial_sums import FEW_BLOCKS, sum_over
from normbench.kernels.common.statistics import inverse_root
from normbench.kernels.rms_norm.arguments import checked


def custom_vjp(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    form: Form = PLAIN,
) -> jax.Array:
    """As `naive`, with a gradient by hand."""
    a = checked(x, gamma, epsilon, ndim, activation, form)
    gamma = a.gamma.reshape(*(1,) * (a.x.ndim - ndim), *a.gamma.shape)
    return _normalize(*alike((a.x, gamma)), a.epsilon, activation, a.axes, a.form)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _normalize(x, gamma, epsilon, activation, axes, form):
    return _forward(x, gamma, epsilon, activation, axes, form)[0]


def _forward(x, gamma, epsilon, activation, axes, form):
    wide = x.astype(compute_dtype(x, gamma))
    rrms = inverse_root(jnp.square(wide).mean(axes, keepdims=True), epsilon)
    y = form.finished(form.rounded(wide * rrms) * form.scale(gamma.astype(wide.dtype)), activation)
    return y.astype(form.output_dtype(x.dtype.name)), (x, gamma, rrms)


def _backward(epsilon, activation, axes, form, saved, cotangent):
    x, gamma, rrms = saved
    wide, scale, dz = (array.astype(rrms.dtype) for array in (x, gamma, cotangent))
    scale = form.scale(scale)
    if activation != "none" or form.divides:
        z = form.rounded(wide * rrms) * scale
        (dz,) = jax.vjp(partial(form.finished, activation=activation), z)[1](dz)
    # The sum is of gamma dz x, not of gamma dz x r: so it need not wait for r. r is multiplied by h, and never cubed:
    # r³ underflows in float32 from values of 4e12 on, and overflows below 1e-13.
    mean_dh_h = (scale * dz * wide).mean(axes, keepdims=True) * rrms
    dx = rrms * (scale * dz - wide * rrms * mean_dh_h)
    leading = tuple(range(x.ndim - len(axes)))
    terms = dz * wide * rrms if form.hat_dtype is None else dz * form.rounded(wide * rrms)
    dgamma = sum_over(terms, leading, FEW_BLOCKS)
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype)


_normalize.defvjp(_forward, _backward)
