"""An RMS norm as PyTorch runs it without a compiler: each operation a launch of its own, and nothing fused.

Liger-Kernel's benchmarks hold these beside its kernels. The launches are the published ones, read and write the same
bytes, and are XLA's own kernels instead of ATen's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from analysis.published.row_kernels import EPSILON, Rows, row_forward

_alone = jax.lax.optimization_barrier
"""Keeps an operation from being fused with others."""


def eager_rms_norm(plan: Rows, kernel_warps: int | None = None) -> Callable[..., Any]:
    """(x, w) -> y = x * rsqrt(mean(x^2) + epsilon) * w, or with a residual (x, residual, w) -> y, x + residual.

    In float32, to which x and residual are converted first and from which the results are converted; of x's shape.

    Args:
      plan: what is computed; its rows and columns are x's shape.
      kernel_warps: of Liger-Kernel's kernel, which then computes the norm; None for operations alone.
    """

    def run(x, *rest):
        *residual, w = rest
        total = _float32(x)
        for other in residual:
            total = _alone(total + _float32(other))
        h = _kernel(plan, kernel_warps, total, w) if kernel_warps else _operations(total)
        y = _alone(w * _converted(h, plan.dtype))
        return (y, _converted(total, plan.dtype)) if residual else y

    return run


def _operations(x: jax.Array) -> jax.Array:
    squares = _alone(x * x)
    mean = _alone(jnp.mean(squares, axis=-1, keepdims=True))
    return _alone(x * _alone(jax.lax.rsqrt(_alone(mean + EPSILON))))


def _kernel(plan: Rows, warps: int, x: jax.Array, w: jax.Array) -> jax.Array:
    alone = replace(plan, dtype="float32", residual=False, statistics=1, llama=True)
    y, _ = row_forward(alone, warps)(x.reshape(-1), w)
    return y.reshape(x.shape)


def _float32(x: jax.Array) -> jax.Array:
    return _converted(x, "float32")


def _converted(x: jax.Array, dtype: str) -> jax.Array:
    return x if x.dtype == dtype else _alone(x.astype(dtype))
