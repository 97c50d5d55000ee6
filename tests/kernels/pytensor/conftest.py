"""Shared by the tests of normbench.kernels.pytensor. They are skipped where PyTensor cannot be imported."""

import pytest

try:
    import pytensor.tensor  # noqa: F401
except ImportError as error:
    missing: str | None = f"PyTensor cannot be imported: {error}"
else:
    missing = None


class Skipped(pytest.Module):
    """A test module that says why it is not imported."""

    def collect(self):
        pytest.skip(missing, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return Skipped.from_parent(parent, path=module_path) if missing else None


@pytest.fixture(autouse=True, scope="module")
def wide_types():
    """PyTensor sets JAX's precision itself, in place of the fixture of the other kernels."""


@pytest.fixture(autouse=True, scope="module")
def quickly_compiled():
    """Its programs are compiled as PyTensor does, in place of the fixture of the other kernels."""


@pytest.fixture(autouse=True)
def _precision():
    """PyTensor's JAX dispatch enables 64 bits for the process when it is imported; here it lasts for one test."""
    import jax

    from normbench.kernels.pytensor import register

    before = jax.config.read("jax_enable_x64")
    register("jax")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def eager_torch():
    """PyTorch without its compiler, which takes half a minute for each graph."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from normbench.kernels.pytensor import register

    register("pytorch")
    before = torch._dynamo.config.disable
    torch._dynamo.config.disable = True
    yield
    torch._dynamo.config.disable = before
