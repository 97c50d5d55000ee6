"""What reaches the compiler when PyTensor's JAX backend writes the program? Compiled for a GPU that need not be here.

`python -m analysis.pages.pytensor.fusion` writes fusion.csv and fusion.json (the environment) to results/pytensor: each
operator as a PyTensor graph, by what `f.vm.jit_fn` hands to XLA, beside the same in hand-written JAX. Arrays are
float32, and PyTensor is left at its default `floatX=float64`.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.pages.pytensor.overhead import FOLDER
from analysis.pages.pytensor.timing import in_processes, write_csv, write_environment

EPSILON = np.float32(1e-5)
Program = tuple[str, str, Callable[..., Any], tuple]
"""Operator, who wrote it, a function for JAX, its inputs."""

IMAGE, ROWS = (8, 64, 56, 56), (8, 512, 768)


def programs() -> Iterator[Program]:
    yield from _batch_norm()
    yield from _layer_norm()
    yield from _backbone()


def _batch_norm() -> Iterator[Program]:
    import jax
    import pytensor.tensor as pt

    from normbench.kernels.pytensor import batch_normalization

    inputs = tuple(np.empty(shape, "float32") for shape in (IMAGE, *((IMAGE[1],),) * 4))

    def hand(x, gamma, beta, mean, variance):
        gamma, beta, mean, variance = (v[:, None, None] for v in (gamma, beta, mean, variance))
        return (x - mean) * (gamma * jax.lax.rsqrt(variance + EPSILON)) + beta

    def formula(x, *vectors):
        gamma, beta, mean, variance = (v.dimshuffle("x", 0, "x", "x") for v in vectors)
        return (x - mean) * (gamma / pt.sqrt(variance + EPSILON)) + beta

    name = f"batch norm {'x'.join(map(str, IMAGE))}"
    yield name, "JAX by hand", hand, inputs
    yield name, "PyTensor, the Op", _jitted(batch_normalization, inputs), inputs
    yield name, "PyTensor, elementwise formula", _jitted(formula, inputs), inputs


def _layer_norm() -> Iterator[Program]:
    import jax
    import pytensor.tensor as pt

    from normbench.kernels.pytensor import layer_normalization

    inputs = tuple(np.empty(shape, "float32") for shape in (ROWS, ROWS[-1:], ROWS[-1:]))

    def hand(x, gamma, beta):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * gamma + beta

    def upstream(x, gamma, beta):
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        return (x - mean) / pt.sqrt(variance + EPSILON) * gamma + beta

    name = f"layer norm {'x'.join(map(str, ROWS))}"
    yield name, "JAX by hand", hand, inputs
    yield name, "PyTensor, normbench.kernels.pytensor", _jitted(layer_normalization, inputs), inputs
    yield name, "PyTensor, x.mean() and x.var()", _jitted(upstream, inputs), inputs


def _backbone() -> Iterator[Program]:
    from analysis.pages.pytensor import stack as pytensor_stack
    from analysis.pages.pytensor.backbone import image, parameters

    x, given, name = image(640), parameters(), "YOLO11n backbone 1x3x640x640"
    for form in pytensor_stack.FORMS:
        if form != "rewritten":
            stack = pytensor_stack.in_jax(form, x, given, run=False)
            yield f"{name}, {form}", "JAX by hand", stack.call, stack.inputs
        stack = pytensor_stack.in_pytensor("pytensor jax", form, x, given, run=False)
        yield f"{name}, {form}", "PyTensor", stack.call.vm.jit_fn, stack.inputs  # type: ignore[attr-defined]


def _jitted(build: Callable[..., Any], inputs: Sequence[np.ndarray]) -> Callable[..., Any]:
    import pytensor
    import pytensor.tensor as pt

    symbols = [pt.tensor(f"a{i}", dtype="float32", shape=(None,) * one.ndim) for i, one in enumerate(inputs)]
    return pytensor.function(symbols, build(*symbols), mode="JAX").vm.jit_fn


def read(program: Program, target: str) -> dict[str, Any]:
    """Compiles a program and returns its row."""
    import jax

    from normbench.fusion import compile_for

    operator, author, function, inputs = program
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), inputs)
    compilation = compile_for(function, abstract, target)
    row, launches = compilation.compiled_row(), compilation.launch_rows()
    return {
        "operator": operator,
        "written": author,
        "target": target,
        "launches": row["launches"],
        "library_calls": sum(launch["kind"] == "library" for launch in launches),
        "copies": sum(launch["kind"] in ("copy", "transpose") for launch in launches),
        "bytes": row["bytes"],
        "minimum_bytes": row["minimum_bytes"],
        "traffic_ratio": round(row["traffic_ratio"], 4),
        "float64_values": compilation.hlo_text.count("f64["),
        "lower_s": round(row["lower_s"], 3),
        "compile_s": round(row["compile_s"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pages.pytensor.fusion", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--target", action="append")
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    targets = parsed.target or ("h200", "cpu")
    if parsed.in_process is not None:
        print(json.dumps([read(program, target) for program in programs() for target in targets]))
        return
    options = [word for target in targets for word in ("--target", target)]
    write_csv(parsed.out / "fusion.csv", in_processes("analysis.pages.pytensor.fusion", options, 1))
    write_environment(parsed.out / "fusion.json")


if __name__ == "__main__":
    main()
