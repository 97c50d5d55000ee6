"""The races that the tests of the Mosaic kernels look for are found."""

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await,
    mosaic_barrier,
    mosaic_call,
    mosaic_fetch_run,
    mosaic_shared,
    mosaic_slice,
)
from normbench.kernels.pallas.cost import Cost


def too_early(x_ref, y_ref, x, arrived):
    mosaic_fetch_run(x_ref.at[mosaic_slice(0, 128)], x, arrived)
    y_ref[0] = x[0]
    mosaic_await(arrived)


def test_what_is_read_before_it_has_arrived_is_a_race(capfd):
    out = (jax.ShapeDtypeStruct((1,), jnp.float32),)
    scratch = mosaic_shared((128,), jnp.float32), mosaic_barrier(1)
    call = mosaic_call(too_early, grid=1, out=out, scratch=scratch, name="too_early", cost=Cost(0, 0))
    try:
        jax.block_until_ready(jax.jit(call)(jnp.arange(128, dtype=jnp.float32)))
        found = capfd.readouterr().out
    except jax.errors.JaxRuntimeError as error:
        found = str(error) + capfd.readouterr().err
    assert "RACE DETECTED" in found
