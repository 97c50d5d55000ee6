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


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled(request):
    """What runs once need not be optimized by LLVM; what a module compiles for a GPU, to look at it, is left alone."""
    jax.config.update("jax_disable_most_optimizations", not getattr(request.module, "READS_PROGRAMS", False))
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def no_races(request):
    """JAX's interpreter of Mosaic kernels prints a race that it finds (newer releases raise)."""
    if "mosaic" not in request.module.__name__:
        yield
        return
    capfd = request.getfixturevalue("capfd")
    yield
    assert "RACE DETECTED" not in capfd.readouterr().out
