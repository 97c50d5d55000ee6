"""The kernels are checked on the CPU, with float64 available to the oracles."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def wide_types():
    """Lets each of these modules use float64 without changing it for the rest of the session."""
    with jax.enable_x64(True):
        yield
