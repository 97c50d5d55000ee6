"""JAX's own example kernels, `jax.experimental.pallas.ops.gpu` (present in JAX 0.10 to 0.12): the only way in."""

from collections.abc import Callable
from typing import Any


def pallas_ops_layer_norm() -> Callable[..., Any]:
    """(x of three axes, weight, bias, *, eps) -> y.

    Raises:
      ImportError: where this JAX has none.
    """
    from jax.experimental.pallas.ops.gpu.layer_norm import layer_norm

    return layer_norm


def pallas_ops_rms_norm() -> Callable[..., Any]:
    """(x of three axes, weight, bias, *, eps) -> y.

    Raises:
      ImportError: where this JAX has none.
    """
    from jax.experimental.pallas.ops.gpu.rms_norm import rms_norm

    return rms_norm
