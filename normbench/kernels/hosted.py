"""A program of another framework than JAX: what a benchmark needs to know to call it, wait for it and read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


def _same(outputs: Any) -> Any:
    return outputs


@dataclass(frozen=True)
class Hosted:
    """One compiled program and the arrays of its framework; pytrees are as those of `kernels.Program`.

    Attributes:
      call: inputs -> outputs, arrays of the framework; it may return before they are ready.
      place: inputs in NumPy -> inputs of `call`, on the device.
      fetch: outputs of `call` -> outputs in NumPy, in the operator's layout.
      copy: an array of the framework -> another with the same values, in memory of its own.
      block: outputs -> the same outputs, once they are ready.
    """

    call: Callable[..., Any]
    place: Callable[[Any], Any]
    fetch: Callable[[Any], Any]
    copy: Callable[[Any], Any]
    block: Callable[[Any], Any]

    @classmethod
    def of_numpy(cls, call: Callable[..., Any]) -> "Hosted":
        """A function of NumPy arrays, which returns when they are ready."""
        return cls(call, lambda inputs: jax.tree.map(np.array, inputs), _same, np.copy, _same)
