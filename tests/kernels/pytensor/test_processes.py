"""Compiled functions in other hands: pickled, spawned, jaxified as PyMC does, exported with symbolic sizes."""

import pickle
import subprocess
import sys
from multiprocessing import get_context

import jax
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile import get_mode
from pytensor.graph.fg import FunctionGraph

from normbench.kernels.pytensor import batch_normalization, conv2d, global_avg_pool, max_pool2d, upsample2d
from tests.kernels.pytensor.pytensor_cases import assert_same, draw, draw_parameters, run

IN_NEW_PROCESS = """
import pickle, sys, warnings
warnings.filterwarnings("error", message=".*object mode.*")
f, values, expected = pickle.load(open(sys.argv[1], "rb"))
import numpy as np
np.testing.assert_allclose(np.asarray(f(*values)), expected, rtol=1e-4, atol=1e-4)
print("agrees")
"""


def block(shape=(None, 3, None, None)):
    x = pt.tensor("x", dtype="float32", shape=shape)
    y = batch_normalization(conv2d(x, draw(4, 3, 3, 3), stride=2), *draw_parameters(4))
    return x, upsample2d(max_pool2d(y, 3, stride=2, padding=1))


@pytest.mark.parametrize("mode", ["JAX", "NUMBA", "CVM"])
def test_a_pickled_function_in_a_new_process(mode, tmp_path):
    """Which imports nothing of this package by itself. (Numba's compiler takes a minute for all of the block.)"""
    x, y = block()
    y = batch_normalization(x, *draw_parameters(3)) if mode == "NUMBA" else y
    value = draw(2, 3, 8, 6)
    f = pytensor.function([x], y, mode=mode)
    path = tmp_path / "function.pickle"
    path.write_bytes(pickle.dumps((f, [value], np.asarray(f(value)))))
    done = subprocess.run(
        [sys.executable, "-c", IN_NEW_PROCESS, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "agrees\n"), done.stderr


@pytest.mark.parametrize("mode", ["JAX", "CVM"])
def test_spawned_workers(mode):
    x, y = block()
    f = pytensor.function([x], y, mode=mode)
    values = [draw(1, 3, 8, 6, seed=seed) for seed in range(2)]
    with get_context("spawn").Pool(2) as pool:
        results = pool.map_async(f, values).get(timeout=300)
    assert_same([np.asarray(r) for r in results], [np.asarray(f(v)) for v in values])


def test_jaxified_as_pymc_does():
    """PyMC rewrites a function graph for JAX and asks for its JAX function, without a linker or `pytensor.function`."""
    from pytensor.link.jax.dispatch import jax_funcify

    x, y = block()
    graph = FunctionGraph([x], [y, pytensor.grad(y.mean(), x)], clone=True)
    get_mode("JAX").optimizer.rewrite(graph)
    f = jax.jit(jax_funcify(graph))
    value = draw(2, 3, 8, 6)
    assert_same(f(value), run([x], [y, pytensor.grad(y.mean(), x)], [value], "FAST_COMPILE"), rtol=1e-4)


@pytest.mark.parametrize("padding", ["same", 1, "half"])
@pytest.mark.parametrize("stride", [1, 2])
def test_exported_with_symbolic_sizes(padding, stride):
    x = pt.tensor("x", dtype="float32", shape=(None, 3, None, None))
    y = batch_normalization(conv2d(x, draw(4, 3, 3, 3), padding=padding, stride=stride), *draw_parameters(4))
    cost = global_avg_pool(max_pool2d(y, 3, stride=1, padding=1)).sum()
    f = pytensor.function([x], [y, pytensor.grad(cost, x)], mode="JAX")
    shape = jax.export.symbolic_shape("b, 3, 4*h, 4*w")
    exported = jax.export.export(f.vm.jit_fn)(jax.ShapeDtypeStruct(shape, "float32"))
    for size in ((2, 3, 8, 12), (1, 3, 16, 4)):
        value = draw(*size)
        assert_same(exported.call(value), [np.asarray(r) for r in f(value)], rtol=1e-4)
