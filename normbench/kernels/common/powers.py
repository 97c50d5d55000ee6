"""A quotient by a power, with a derivative that neither overflows nor underflows before the quotient does."""

from functools import partial

import jax


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def over_power(x: jax.Array, base: jax.Array, exponent: float) -> jax.Array:
    """y = x / base^exponent, dy = dx / base^exponent - exponent (y / base) dbase.

    JAX's own derivative makes base^(-exponent - 1), or the square of the power, first: in float32 they are 0 or
    infinite from a base of 1e22 on, where y is a number like any other.
    """
    return x * base**-exponent


@over_power.defjvp
def _over_power_jvp(exponent, primals, tangents):
    x, base = primals
    # Half the power twice, and not the whole one, of which y is made: that the compiler would write for later, beside
    # the base.
    half = base ** (-exponent / 2)
    factor = base**-exponent
    return x * factor, tangents[0] * factor - tangents[1] * (exponent * (x * half / base) * half)
