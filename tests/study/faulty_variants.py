"""Variants of batch_norm that go wrong, each in its own way; importing this module registers them."""

import os
import time

import jax
import jax.numpy as jnp

from normbench.kernels import get
from normbench.kernels.registry import Variant, register_variant

naive = get("batch_norm", "naive").function


def aborts(x, *parameters, **keywords):
    os.abort()


def aborts_when_run(x, *parameters, **keywords):
    jax.debug.callback(os.abort)
    return naive(x, *parameters, **keywords)


def exits(x, *parameters, **keywords):
    os._exit(7)


def raises(x, *parameters, **keywords):
    raise TypeError("cannot do that\nreally not")


def hangs(x, *parameters, **keywords):
    time.sleep(3600)


def allocates(x, *parameters, **keywords):
    bytearray(2**50)


def allocates_when_run(x, *parameters, **keywords):
    """Sorting needs the whole array in memory: 4 TiB."""
    large = jnp.broadcast_to(x.reshape(-1, 1), (x.size, 2**40 // x.size))
    return naive(x, *parameters, **keywords) + jnp.sort(large, axis=1)[0, 0]


def wrong(x, *parameters, **keywords):
    return naive(x, *parameters, **keywords) * 1.01


def wrong_now_and_then(x, *parameters, **keywords):
    """Right for one element, not a number for the others."""
    return jnp.where(jnp.arange(x.size).reshape(x.shape) < 1, naive(x, *parameters, **keywords), jnp.nan)


def closes_over(x, gamma, *parameters, **keywords):
    return naive(x, jnp.ones_like(gamma), *parameters, **keywords)


def prints(x, *parameters, **keywords):
    print('{"event": "end", "unit": "not mine"}')
    return naive(x, *parameters, **keywords)


FAULTY = (
    aborts, aborts_when_run, exits, raises, hangs, allocates, allocates_when_run, wrong, wrong_now_and_then,
    closes_over, prints,
)  # fmt: skip

for function in FAULTY:
    register_variant(Variant("batch_norm", function.__name__, function, "goes wrong"))
register_variant(
    Variant("batch_norm", "refuses", naive, "is never supported", supports_problem=lambda problem, target: "not today")
)
