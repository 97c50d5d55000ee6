"""What is imported when, and what compiling for JAX does to the rest of the process. Each in its own process."""

import os
import subprocess
import sys
import textwrap

import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import register

SETUP = """
import sys, numpy as np, pytensor, pytensor.tensor as pt
from pytensor.compile import get_mode
from normbench.kernels.pytensor import batch_normalization, conv2d, jax_mode, register
x = pt.matrix("x", dtype="float64")
vectors = [pt.vector(name, dtype="float64") for name in "gbmv"]
y = batch_normalization(x, *vectors)
values = [np.linspace(-1, 2, 6).reshape(2, 3), *(np.array([0.3, 1.7, 2.2]) * k for k in (1, -2, 3, 4))]
expected = (values[0] - values[3]) / np.sqrt(values[4] + 1e-5) * values[1] + values[2]
"""


def in_new_process(code, floatx="float64"):
    environment = {**os.environ, "PYTENSOR_FLAGS": f"floatX={floatx}", "JAX_PLATFORMS": "cpu"}
    program = SETUP + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_registration_is_what_makes_jax_work():
    """Also, what PyTensor does, and `contained` documents: mode="JAX" changes the precision of JAX."""
    in_new_process("""
        import jax
        assert not jax.config.jax_enable_x64
        watching = sys.meta_path.pop(0)  # as if the package did not watch for PyTensor's dispatch modules
        assert type(watching).__module__ == "normbench.kernels.pytensor.dispatch"
        try:
            pytensor.function([x, *vectors], y, mode="JAX")
        except NotImplementedError as error:
            assert str(error).startswith("No JAX conversion for the given `Op`: BatchNormalization"), error
        else:
            raise AssertionError("compiled")
        register("jax")
        f = pytensor.function([x, *vectors], y, mode="JAX")
        np.testing.assert_allclose(f(*values), expected, rtol=1e-12)
        assert jax.config.jax_enable_x64
    """)


def test_no_backend_is_imported_before_it_is_compiled_for():
    in_new_process("""
        def loaded():
            backends = ("jax", "torch", "mlx", "pytensor.link.jax.dispatch")
            return [n for n in sys.modules if n in backends or n.startswith("normbench.kernels.pytensor.dispatch.")]
        assert not loaded(), loaded()
        np.testing.assert_allclose(pytensor.function([x, *vectors], y, mode="FAST_COMPILE")(*values), expected)
        assert not loaded(), loaded()
        image, filters = pt.tensor4("image"), pt.tensor4("filters")
        f = pytensor.function([image, filters], conv2d(image, filters), mode="JAX")
        assert f(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))).max() == 9
        ours = "normbench.kernels.pytensor.dispatch"
        assert f"{ours}.jax_ops" in loaded() and f"{ours}.numba_ops" not in loaded()
    """)


@pytest.mark.parametrize(("floatx", "enabled"), [("float64", False), ("float32", True), ("float32", False)])
def test_jax_mode_leaves_the_setting_alone(floatx, enabled):
    in_new_process(
        f"""
        import jax, jax.numpy as jnp
        jax.config.update("jax_enable_x64", {enabled})
        default = "float64" if {enabled} else "float32"
        outputs = [y, *pytensor.grad((y**2).sum(), [x, *vectors])]
        f = pytensor.function([x, *vectors], outputs, mode=jax_mode())
        results = f(*values)
        assert all(isinstance(r, jax.Array) and r.dtype == "float64" for r in results)
        np.testing.assert_allclose(results[0], expected, rtol=1e-12)
        assert jax.config.jax_enable_x64 is {enabled}
        assert jnp.ones(2).dtype == jax.jit(lambda a: a * 2)(np.ones(2)).dtype == default
        with jax.enable_x64(True):
            assert "f64" in f.vm.jit_fn.__wrapped__.lower(*values).as_text()
        """,
        floatx,
    )


def test_float64_without_64_bits_is_not_silent():
    in_new_process(
        """
        import warnings
        f = pytensor.function([x, *vectors], y, mode="JAX")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert f(*values).dtype == "float32"
        assert any("float64" in str(warning.message) for warning in caught)
        """,
        "float32",
    )


def test_unknown_backend():
    with pytest.raises(UserError, match="unknown backend 'tpu'"):
        register("tpu")
