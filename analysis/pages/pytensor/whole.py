"""ResNet-18 and YOLO11n's backbone and neck through PyTensor: compile and call times, against PyTorch's result.

`python -m analysis.pages.pytensor.whole` writes results/pytensor/models.csv; then
`python -m analysis.pages.pytensor.page` fills in the table of docs/pytensor.md. Needs PyTorch, for the result only.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from analysis.pages.pytensor.models import PyTensorLayers, TorchLayers, parameters, resnet18, yolo11n
from analysis.pages.pytensor.overhead import FOLDER
from analysis.pages.pytensor.timing import in_processes, timed, write_csv, write_environment
from normbench.study.clocks.sampling import StoppingRule

MODELS = {"resnet18": (resnet18, 224), "yolo11n": (yolo11n, 640)}
BACKENDS = ("jax", "numba")


def reference(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """PyTorch's result in float64."""
    import torch

    given = {name: torch.tensor(v.astype(np.float64)) for name, v in parameters(model).items()}
    with torch.no_grad():
        return [y.numpy() for y in model(torch.tensor(x.astype(np.float64)), TorchLayers(given))]


def compiled(model: Any, x: np.ndarray, backend: str) -> tuple[Any, float]:
    """The function of one image with shared parameters, and the seconds until its first result is there."""
    import jax
    import pytensor
    import pytensor.tensor as pt

    shared = {name: pytensor.shared(v, shape=v.shape) for name, v in parameters(model).items()}
    symbol = pt.tensor("x", dtype=x.dtype.name, shape=x.shape)
    start = perf_counter()
    outputs = model(symbol, PyTensorLayers(shared))
    call = pytensor.function([symbol], outputs, mode=backend.upper(), trust_input=True)
    jax.block_until_ready(call(x))
    return call, perf_counter() - start


def measure(names: tuple[str, ...], sizes: int | None, rule: StoppingRule, seed: int) -> list[dict[str, Any]]:
    """Checks every way (an error above 1e-5 of the standard deviation raises), and times them all."""
    calls, facts = {}, {}
    for name in names:
        model, full = MODELS[name]
        size = sizes or full
        x = np.random.default_rng([1, size]).normal(size=(1, 3, size, size)).astype(np.float32)
        expected = reference(model, x)
        for backend in BACKENDS:
            call, seconds = compiled(model, x, backend)
            pairs = zip(call(x), expected, strict=True)
            error = max(float(np.abs(np.asarray(y) - e).max() / e.std()) for y, e in pairs)
            if not error < 1e-5:
                raise AssertionError(f"{name} in {backend}: {error:.3g} of the standard deviation")
            calls[f"{name} {backend}"] = (call, (x,))
            facts[f"{name} {backend}"] = {
                "model": name, "image": size, "backend": backend,
                "compile_s": round(seconds, 2), "error": f"{error:.2g}",
            }  # fmt: skip
    rows = timed(calls, rule, 2, seed)
    return [{**facts[row.pop("call")], **row} for row in rows if row["clock"] == "wall"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.pytensor.whole", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--model", action="append", choices=tuple(MODELS))
    parser.add_argument("--image", type=int, help="height and width in place of the model's own")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each way and process, at most")
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    names = tuple(parsed.model or MODELS)
    if parsed.in_process is not None:
        rule = StoppingRule(8, 60, 0.01, parsed.seconds)
        print(json.dumps(measure(names, parsed.image, rule, parsed.in_process)))
        return
    options = ["--seconds", str(parsed.seconds), *(word for name in names for word in ("--model", name))]
    options += ["--image", str(parsed.image)] if parsed.image else []
    with tempfile.TemporaryDirectory() as folder:  # nothing is compiled before the first process compiles it
        os.environ.update(NUMBA_CACHE_DIR=folder, PYTENSOR_FLAGS=f"base_compiledir={folder}")
        rows = in_processes("analysis.pages.pytensor.whole", options, parsed.processes)
    write_csv(parsed.out / "models.csv", rows)
    write_environment(parsed.out / "models.json")


if __name__ == "__main__":
    main()
