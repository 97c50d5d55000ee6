"""The backbone of YOLO11n through PyTensor and through JAX: unfused, folded in the call, folded ahead, and frozen.

`python -m analysis.pages.pytensor.stack` writes stack.csv and stack.json (the environment) to results/pytensor.

| form      | what happens to the batch norms                                                             |
|-----------|---------------------------------------------------------------------------------------------|
| unfused   | computed after each convolution                                                             |
| folded    | filters and bias computed from the parameters in every call                                 |
| prefolded | filters and bias computed once, ahead of the call, which takes them as arguments            |
| constants | unfused, with all parameters constants of the program                                       |
| rewritten | PyTensor's constants, folded at compile time by the rewrite `conv_bn_fold` after `freeze`   |
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.pages.pytensor.backbone import EPSILON, backbone, image, layer, parameters
from analysis.pages.pytensor.overhead import FOLDER
from analysis.pages.pytensor.timing import in_processes, timed, write_csv, write_environment
from normbench.study.clocks.sampling import StoppingRule

BACKENDS = {"pytensor jax": "JAX", "pytensor numba": "NUMBA", "pytensor c": "CVM"}
FORMS = ("unfused", "folded", "prefolded", "constants", "rewritten")


@dataclass(frozen=True)
class Stack:
    """One way to compute the backbone. `parameters`: how the call gets them, "arguments", "shared" or "constants"."""

    backend: str
    form: str
    parameters: str
    call: Callable[..., Any]
    inputs: tuple
    compile_s: float

    @property
    def name(self) -> str:
        return "|".join((self.backend, self.form, self.parameters))


def stacks(size: int, backends: tuple[str, ...]) -> Iterator[Stack]:
    """Every way that one of `backends` computes it, for an image of `size`, compiled and called once.

    Numba and C have two of the forms only: a graph of 31 convolutions takes Numba minutes to compile.
    """
    given, x = parameters(), image(size)
    if "jax" in backends:
        for form in FORMS[:-1]:
            yield in_jax(form, x, given)
    for backend in backends:
        if backend in BACKENDS:
            yield in_pytensor(backend, "unfused", x, given, shared=True)
            for form in FORMS if backend == "pytensor jax" else FORMS[-1:]:
                yield in_pytensor(backend, form, x, given)


def folded(filters: Any, gamma: Any, beta: Any, mean: Any, variance: Any, root: Callable = np.sqrt) -> tuple:
    """Filters and bias, for arrays of NumPy, JAX or PyTensor."""
    scale = gamma / root(variance + np.float32(EPSILON))
    return filters * scale[:, None, None, None], beta - mean * scale


def in_jax(form: str, x: np.ndarray, given: dict[str, tuple], run: bool = True) -> Stack:
    """The backbone in hand-written JAX, compiled by a first call where `run`."""
    import jax
    import jax.numpy as jnp

    from normbench import kernels

    def block(arrays: dict[str, tuple]) -> Callable:
        def apply(y, name):
            one = layer(name)
            window = {"stride": one.stride, "padding": one.padding, "activation": "silu", "epsilon": EPSILON}
            if form == "prefolded":
                return kernels.get("conv_bn", "prefolded").apply(y, *arrays[name], **window)
            filters, *vectors = arrays[name]
            variant = "folded" if form == "folded" else "unfused"
            return kernels.get("conv_bn", variant)(y, filters, None, *vectors, **window)

        return apply

    def function(x, arrays):
        return backbone(x, block(arrays), lambda parts: jnp.concatenate(parts, axis=1))

    start = time.perf_counter()
    arrays = {name: folded(*one) for name, one in given.items()} if form == "prefolded" else given
    on_device = jax.tree.map(jnp.asarray, arrays)
    call: Callable[..., Any] = jax.jit(function)
    inputs: tuple = (jnp.asarray(x), on_device)
    if form == "constants":
        call, inputs = jax.jit(lambda x: function(x, on_device)), inputs[:1]
    if run:
        jax.block_until_ready(call(*inputs))
    how = "constants" if form == "constants" else "arguments"
    return Stack("jax", form, how, call, inputs, time.perf_counter() - start)


def in_pytensor(
    backend: str, form: str, x: np.ndarray, given: dict[str, tuple], shared: bool = False, run: bool = True
) -> Stack:
    """The backbone as a function of PyTensor, compiled by a first call where `run`."""
    import jax
    import jax.numpy as jnp
    import pytensor

    start = time.perf_counter()
    if form == "prefolded":
        given = {name: folded(*one) for name, one in given.items()}
    inputs, outputs, how = graph(form, given, shared)
    tags = ("conv_bn_fold",) if form == "rewritten" else ()
    mode = pytensor.compile.get_mode(BACKENDS[backend]).including(*tags)
    call = pytensor.function(inputs, outputs, mode=mode, trust_input=True)
    values = [x, *(array for one in given.values() for array in one)][: len(inputs)]
    arrays = tuple(map(jnp.asarray, values)) if backend == "pytensor jax" else tuple(values)
    if run:
        jax.block_until_ready(call(*arrays))
    return Stack(backend, form, how, call, arrays, time.perf_counter() - start)


def graph(form: str, given: dict[str, tuple], shared: bool) -> tuple[list, Any, str]:
    """The inputs and the output of the backbone as a graph of PyTensor, and how it gets the parameters."""
    import pytensor
    import pytensor.tensor as pt

    from normbench.kernels.pytensor import batch_normalization, conv2d, freeze, silu

    x = pt.tensor4("x", dtype="float32")
    frozen = form in ("constants", "rewritten")
    variables = {
        name: [
            pytensor.shared(array) if shared or frozen else pt.tensor(dtype="float32", shape=array.shape)
            for array in arrays
        ]
        for name, arrays in given.items()
    }

    def block(y, name):
        one, values = layer(name), variables[name]
        window = {"stride": one.stride, "padding": one.padding}
        if form == "folded":
            values = folded(*values, root=pt.sqrt)
        if form in ("folded", "prefolded"):
            return silu(conv2d(y, *values, **window))
        return silu(batch_normalization(conv2d(y, values[0], **window), *values[1:], epsilon=EPSILON))

    y = backbone(x, block, lambda parts: pt.concatenate(parts, axis=1))
    if frozen:
        return [x], freeze(y), "constants"
    if shared:
        return [x], y, "shared"
    return [x, *(variable for values in variables.values() for variable in values)], y, "arguments"


def reference(size: int) -> np.ndarray:
    """Plain JAX, unfused, in float64 on float64 copies of the same values."""
    import jax

    with jax.enable_x64(True):
        doubles = {name: tuple(a.astype(np.float64) for a in one) for name, one in parameters().items()}
        stack = in_jax("unfused", image(size).astype(np.float64), doubles)
        return np.asarray(stack.call(*stack.inputs))


def relative_error(result: Any, expected: np.ndarray) -> float:
    """The largest difference over the root mean square of `expected`."""
    return float(np.abs(np.asarray(result) - expected).max() / np.sqrt(np.square(expected).mean()))


def measure(size: int, backends: tuple[str, ...], rule: StoppingRule, seed: int) -> list[dict[str, Any]]:
    """Checks every way against the reference (an error above 1e-4 raises), and times them all."""
    expected = reference(size)
    found = list(stacks(size, backends))
    facts: dict[str, dict[str, Any]] = {}
    for stack in found:
        error = relative_error(stack.call(*stack.inputs), expected)
        if not error < 1e-4:
            raise AssertionError(f"{stack.name}: relative error {error:.3g}")
        facts[stack.name] = {
            "image": size, "backend": stack.backend, "form": stack.form, "parameters": stack.parameters,
            "max_rel": float(f"{error:.3g}"), "compile_s": round(stack.compile_s, 2),
        }  # fmt: skip
    rows = timed({stack.name: (stack.call, stack.inputs) for stack in found}, rule, 2, seed)
    return [{**facts[row.pop("call")], **row} for row in rows if row["clock"] == "wall"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.pytensor.stack", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--image", type=int, default=640, help="height and width, a multiple of 32")
    parser.add_argument("--backend", action="append", choices=("jax", *BACKENDS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each way and process, at most")
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    backends = tuple(parsed.backend or ("jax", *BACKENDS))
    if parsed.in_process is not None:
        rule = StoppingRule(8, 60, 0.01, parsed.seconds)
        print(json.dumps(measure(parsed.image, backends, rule, parsed.in_process)))
        return
    options = ["--image", str(parsed.image), "--seconds", str(parsed.seconds)]
    options += [word for backend in backends for word in ("--backend", backend)]
    write_csv(parsed.out / "stack.csv", in_processes("analysis.pages.pytensor.stack", options, parsed.processes))
    write_environment(parsed.out / "stack.json")


if __name__ == "__main__":
    main()
