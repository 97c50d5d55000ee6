"""The elementwise work around a norm that is done inside its kernel, so that the norm is no barrier to it.

XLA fuses nothing into a Pallas kernel: an addition before it or a gate after it would be a launch of its own that reads
and writes a tensor once more. A `Pointwise` hands such work to the kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from normbench.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Pointwise:
    """value -> function(value, *vectors, *tensors), element by element.

    Attributes:
      function: a jittable elementwise function; it gets blocks that broadcast against each other, in the dtype that the
        kernel computes in, and returns one of the shape of `value`. JAX differentiates it inside the backward kernel.
      vectors: arrays of one value for each parameter of the norm (of gamma's shape), e.g. the scale of an adapter.
      tensors: arrays of x's shape, e.g. a gate.

    Example: `Pointwise(lambda y, gate: y * jax.nn.sigmoid(gate), tensors=(gate,))`.
    """

    function: Callable[..., jax.Array]
    vectors: tuple[jax.Array, ...] = ()
    tensors: tuple[jax.Array, ...] = ()

    def check(self, vector_shape: tuple[int, ...], tensor_shape: tuple[int, ...]) -> None:
        """Raises UserError where an array has another shape than it must have."""
        for name, arrays, shape in (("vectors", self.vectors, vector_shape), ("tensors", self.tensors, tensor_shape)):
            for index, array in enumerate(arrays):
                if array.shape != shape:
                    raise UserError(f"{name}[{index}] of a Pointwise has shape {array.shape}; allowed: {shape}")


def gradients(function: Callable[..., jax.Array], inputs: Sequence[jax.Array], cotangent: jax.Array) -> tuple[Any, ...]:
    """Inside a kernel: the cotangents of the inputs of an elementwise function, each in its input's shape."""
    return jax.vjp(function, *inputs)[1](cotangent)
