"""What does a call of a PyTensor function cost? Batch norm of a tiny and of a large array, called in every way.

`python -m analysis.pages.pytensor.overhead` writes overhead.csv and overhead.json (the environment) to
results/pytensor.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.pages.pytensor.timing import in_processes, timed, write_csv, write_environment
from normbench.study.clocks.sampling import StoppingRule

FOLDER = Path("results/pytensor")
SHAPES = ((4, 8), (8, 64, 56, 56))
BURST = 20


@dataclass(frozen=True)
class Way:
    """One way to call batch norm.

    Attributes:
      backend: "numpy", "jax", or PyTensor's "pytensor jax", "pytensor numba", "pytensor c".
      graph: "Op", or "formula", where the graph is made of elementwise operations.
      how: the call, in words.
      arrays: what is handed over: "numpy" or "jax".
      call, inputs: what is timed.
    """

    backend: str
    graph: str
    how: str
    arrays: str
    call: Callable[..., Any]
    inputs: tuple

    @property
    def name(self) -> str:
        return "|".join((self.backend, self.graph, self.how, self.arrays))


def ways(shape: tuple[int, ...]) -> Iterator[Way]:
    """Every way, for float32 arrays; the first is NumPy. mode="JAX" sets `jax_enable_x64` on the way."""
    import jax
    import jax.numpy as jnp

    values = _values(shape)
    yield Way("numpy", "formula", "formula", "numpy", _formula, values)
    on_device = tuple(jnp.asarray(value) for value in values)
    jitted = jax.jit(_formula)
    compiled = jitted.lower(*on_device).compile()
    yield Way("jax", "formula", "jax.jit", "jax", jitted, on_device)
    yield Way("jax", "formula", "jax.jit", "numpy", jitted, values)
    yield Way("jax", "formula", "compiled ahead of time", "jax", compiled, on_device)
    for backend, mode in (("pytensor jax", "JAX"), ("pytensor numba", "NUMBA"), ("pytensor c", "CVM")):
        yield from _pytensor_ways(backend, mode, values, on_device)


def _pytensor_ways(backend: str, mode: Any, values: tuple, on_device: tuple) -> Iterator[Way]:
    import pytensor
    import pytensor.tensor as pt
    from pytensor.compile.io import In, Out

    from normbench.kernels.pytensor import batch_normalization, jax_mode

    symbols = [pt.tensor(f"a{i}", dtype="float32", shape=(None,) * value.ndim) for i, value in enumerate(values)]
    y = batch_normalization(*symbols)
    plain = pytensor.function(symbols, y, mode=mode)
    trusting = pytensor.function(symbols, y, mode=mode, trust_input=True)
    borrowing = pytensor.function(
        [In(symbol, borrow=True) for symbol in symbols], Out(y, borrow=True), mode=mode, trust_input=True
    )
    shared = [pytensor.shared(value) for value in values[1:]]
    sharing = pytensor.function(symbols[:1], batch_normalization(symbols[0], *shared), mode=mode, trust_input=True)
    yield Way(backend, "Op", "f(...)", "numpy", plain, values)
    yield Way(backend, "Op", "f(...) trusted", "numpy", trusting, values)
    yield Way(backend, "Op", "f(...) trusted; borrowed", "numpy", borrowing, values)
    yield Way(backend, "Op", "f(x) trusted; shared parameters", "numpy", sharing, values[:1])
    if mode == "CVM":
        formula = pytensor.function(symbols, _symbolic_formula(*symbols), mode=mode, trust_input=True)
        yield Way(backend, "formula", "f(...) trusted", "numpy", formula, values)
        return
    if mode != "JAX":
        yield Way(backend, "Op", "f.vm.jit_fn(...)", "numpy", trusting.vm.jit_fn, values)
        return
    contained = pytensor.function(symbols, y, mode=jax_mode(), trust_input=True)
    yield Way(backend, "Op", "f(...)", "jax", plain, on_device)
    yield Way(backend, "Op", "f(...) trusted", "jax", trusting, on_device)
    yield Way(backend, "Op", "f(...) trusted; jax_mode()", "jax", contained, on_device)
    yield Way(backend, "Op", "f(x) trusted; shared parameters", "jax", sharing, on_device[:1])
    yield Way(backend, "Op", "f.vm.jit_fn(...)", "jax", trusting.vm.jit_fn, on_device)


def _values(shape: tuple[int, ...]) -> tuple:
    from normbench.kernels import Problem, operator
    from normbench.study.check.inputs import draw

    return draw(operator("batch_norm").arguments(Problem("batch_norm", shape, "nc" if len(shape) == 2 else "nchw")), 0)


def _formula(x, gamma, beta, mean, variance):
    """For arrays of NumPy or JAX."""
    gamma, beta, mean, variance = (v.reshape((-1,) + (1,) * (x.ndim - 2)) for v in (gamma, beta, mean, variance))
    return (x - mean) * (gamma / (variance + x.dtype.type(1e-5)) ** x.dtype.type(0.5)) + beta


def _symbolic_formula(x, gamma, beta, mean, variance):
    import numpy as np
    import pytensor.tensor as pt

    pattern = ("x", 0) + ("x",) * (x.type.ndim - 2)
    gamma, beta, mean, variance = (v.dimshuffle(*pattern) for v in (gamma, beta, mean, variance))
    return (x - mean) * (gamma / pt.sqrt(variance + np.float32(1e-5))) + beta


def measure(shape: tuple[int, ...], rule: StoppingRule, seed: int) -> list[dict[str, Any]]:
    """Checks every way against the float64 reference, and times them all."""
    import jax
    import numpy as np

    from normbench import kernels
    from normbench.study.check.accuracy import compare

    found = list(ways(shape))
    problem = kernels.Problem("batch_norm", shape, "nc" if len(shape) == 2 else "nchw")
    expected = kernels.reference(problem, [value.astype(np.float64) for value in found[0].inputs])
    errors = {}
    for way in found:
        result = jax.tree.leaves(way.call(*way.inputs))[0]
        error = compare(result, expected)
        if not error.ok or str(result.dtype) != "float32":
            raise AssertionError(f"{way.name}: {error.reason}, dtype {result.dtype}")
        errors[way.name] = error.max_rel
    rows = timed({way.name: (way.call, way.inputs) for way in found}, rule, BURST, seed)
    return [_row(shape, row, errors) for row in rows]


def _row(shape: tuple[int, ...], row: dict[str, Any], errors: dict[str, float]) -> dict[str, Any]:
    backend, graph, how, arrays = row.pop("call").split("|")
    key = {"shape": "x".join(map(str, shape)), "backend": backend, "graph": graph, "how": how, "arrays": arrays}
    return {**key, **row, "max_rel": float(f"{errors['|'.join(list(key.values())[1:])]:.3g}")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.pytensor.overhead", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--samples", type=int, default=600, help="of each call, clock and process, at most")
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.in_process is not None:
        rule = StoppingRule(min(60, parsed.samples), parsed.samples, 0.005, 0.5)
        print(json.dumps([row for shape in SHAPES for row in measure(shape, rule, parsed.in_process)]))
        return
    rows = in_processes("analysis.pages.pytensor.overhead", ["--samples", str(parsed.samples)], parsed.processes)
    write_csv(parsed.out / "overhead.csv", rows)
    write_environment(parsed.out / "overhead.json")


if __name__ == "__main__":
    main()
