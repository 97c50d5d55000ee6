"""One PyTorch worker for the session; float64 arrays in these tests only."""

import jax
import pytest
from torch_judge import TorchJudge


@pytest.fixture(scope="session")
def judge():
    judge = TorchJudge()
    if not judge.available():
        pytest.skip(f"PyTorch cannot be imported by {judge.python}: pip install torch==2.13.0")
    yield judge
    judge.close()


@pytest.fixture(autouse=True, scope="module")
def _float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True, scope="module")
def _quickly_compiled():
    """Most of these tests is compiling, and what is compiled runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
