"""Batch norm as an Op against PyTensor's `OpFromGraph` of the same formula: µs of a call, by backend.

`python -m analysis.pages.pytensor.symbolic` prints them.
"""

from time import perf_counter
from typing import Any

import numpy as np

MODES = ("JAX", "NUMBA", "CVM", "FAST_COMPILE")
SHAPES = {(4, 8, 1, 1): 300, (8, 64, 56, 56): 12}
"""Shapes of x, and calls in one round."""
ROUNDS = 9


def graphs() -> tuple[list[Any], dict[str, Any]]:
    """The symbolic inputs, and y by how it is written."""
    import pytensor.tensor as pt
    from pytensor.compile.builders import OpFromGraph

    from normbench.kernels.pytensor import batch_normalization

    def formula(x: Any, *vectors: Any) -> Any:
        gamma, beta, mean, variance = (vector.dimshuffle("x", 0, "x", "x") for vector in vectors)
        return (x - mean) * (gamma / pt.sqrt(variance + np.float32(1e-5))) + beta

    def inputs() -> list[Any]:
        return [pt.tensor4(dtype="float32"), *(pt.vector(dtype="float32") for _ in range(4))]

    given, inner = inputs(), inputs()
    written = {"Op": batch_normalization(*given)}
    for name, inline in (("OpFromGraph", False), ("OpFromGraph, inlined", True)):
        written[name] = OpFromGraph(inner, [formula(*inner)], inline=inline)(*given)
    return given, written


def drawn(shape: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32"), *rng.uniform(0.5, 2, (4, shape[1])).astype("float32")]


def main() -> None:
    import jax
    import pytensor

    given, written = graphs()
    calls = {
        (mode, name): pytensor.function(given, y, mode=mode, trust_input=True)
        for mode in MODES
        for name, y in written.items()
    }
    for shape, repeats in SHAPES.items():
        values, seconds = drawn(shape), {key: [] for key in calls}  # type: ignore[var-annotated]
        for number in range(ROUNDS + 1):
            for key, call in calls.items():
                start = perf_counter()
                for _ in range(repeats):
                    jax.block_until_ready(call(*values))
                if number:  # the first round compiles
                    seconds[key].append((perf_counter() - start) / repeats)
        for (mode, name), found in seconds.items():
            print(shape, mode, name, f"{1e6 * np.median(found):.3g}")


if __name__ == "__main__":
    main()
