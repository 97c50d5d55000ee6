"""The sum over the window as a sum of shifted copies of x², which the compiler can fuse with what is around it."""

import jax

from normbench.kernels.local_response_norm.arguments import checked, reach, shifted_sum
from normbench.kernels.local_response_norm.naive import divide


def shifted(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, channel_axis: int = 1
) -> jax.Array:
    """As `naive`."""
    a = checked(x, size, alpha, beta, k, channel_axis)
    wide = a.wide
    return divide(a, wide, shifted_sum(wide * wide, a.axis, *reach(a.size)))
