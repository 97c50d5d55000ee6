"""The activation epilogues, y = act(z): for JAX, and in float64 NumPy for the references.

none: z; relu: max(z, 0); silu: z / (1 + exp(-z)); gelu: z (1 + tanh(sqrt(2/pi) (z + 0.044715 z³))) / 2, the form that
`jax.nn.gelu` has by default.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from normbench.errors import unknown
from normbench.kernels.problem import ACTIVATIONS


def _wide(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """In float32 at least: an exponential rounded to half precision costs more than rounding the result."""
    return lambda z: function(z.astype(jnp.promote_types(z.dtype, jnp.float32))).astype(z.dtype)


_JAX: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda z: z,
    "relu": jax.nn.relu,
    "silu": _wide(jax.nn.silu),
    "gelu": _wide(jax.nn.gelu),
}


def _silu_numpy(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(-z) is infinite for a very negative z, and the quotient is then 0
        return z / (1.0 + np.exp(-z))


def _gelu_numpy(z: np.ndarray) -> np.ndarray:
    return z * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))) / 2.0


_NUMPY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda z: z,
    "relu": lambda z: np.maximum(z, 0.0),
    "silu": _silu_numpy,
    "gelu": _gelu_numpy,
}


def activate(z: jax.Array, activation: str) -> jax.Array:
    """Returns act(z) in z's dtype; `activation` is one of `ACTIVATIONS`, else `UserError`."""
    return _JAX[check_activation(activation)](z)


def activate_numpy(z: np.ndarray, activation: str) -> np.ndarray:
    """Returns act(z) for a float64 array."""
    return _NUMPY[check_activation(activation)](z)


def check_activation(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    return activation
