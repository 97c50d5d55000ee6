"""One call of a kernel, and what every kernel is told."""

from collections.abc import Sequence

import jax
import numpy as np

from normbench.jax_compat.varying import alike
from normbench.kernels.native.build import missing, target_name
from normbench.kernels.problem import ACTIVATIONS, Problem

NUMBER_OF_ACTIVATION = {name: number for number, name in enumerate(ACTIVATIONS)}
"""As in activations.h."""


def call(
    kernel: str,
    inputs: Sequence[jax.Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    numbers: Sequence[int],
    settings: Sequence[float],
) -> list[jax.Array]:
    """Returns the outputs of a kernel of `normbench.kernels.native.build.TARGETS`.

    Args:
      numbers, settings: as the handler of that name in native.cc reads them.
    """
    function = jax.ffi.ffi_call(target_name(kernel), list(outputs), vmap_method="sequential")
    found = function(*inputs, numbers=np.asarray(numbers, np.int64), settings=np.asarray(settings, np.float64))
    return list(alike(found, of=inputs))


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if target != "cpu":
        return "its kernels are built for the CPU of this machine"
    return missing()
