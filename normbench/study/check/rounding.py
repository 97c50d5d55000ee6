"""How far may roundings alone move a result? Monte Carlo arithmetic: the program in float64, with noise at each step.

Each operation of the baseline, in float64, has its result moved at random by as much as a rounding in the dtype that
variants compute in would move it, a sum of n terms by what n roundings of its partial sums would. What comes out
differs from the exact answer as the conditioning of these very data has it: where terms cancel, much. So a tolerance
follows from the dtypes, the length of the sums and the data, for every operator, context and pass alike.

Source: Parker (1997), Monte Carlo Arithmetic; for the sums, Higham (2002), Accuracy and Stability, section 4.2.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.jax_compat.interpret import again, evaluate

DRAWS = 3
"""Of the noise: their root mean square is the noise of an element."""
SUMS = ("reduce_sum", "reduce_window_sum", "cumsum")
PRODUCTS_SUMMED = ("dot_general", "conv_general_dilated")
EXACT = (
    "neg", "abs", "sign", "max", "min", "select_n", "stop_gradient", "copy", "reshape", "transpose", "squeeze",
    "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice", "pad", "concatenate", "rev", "gather",
    "convert_element_type", "optimization_barrier", "iota", "reduce_max", "reduce_min", "eq", "ne", "lt", "le", "gt",
    "ge", "and", "or", "not", "clamp", "select_and_scatter_add", "split", "device_put", "reduce_precision",
)  # fmt: skip
"""Operations that round nothing; any other is taken to round its result once."""


def roundoff(dtype: Any) -> float:
    """The largest relative error of one rounding to `dtype`: half the distance from 1 to the next number."""
    return float(jnp.finfo(jnp.dtype(dtype)).eps) / 2


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """On the CPU of this machine, whatever device is measured."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield


class Noisy:
    """A program in float64, and what roundings may make of it.

    Args:
      function: takes float64 arrays.
      doubles: they are evaluated for.
      arithmetic: the roundoff of the dtype in which variants compute.
      stored: the roundoff of x's dtype, in which a convolution hands on its result.
      inputs: by argument, the relative roundoff with which variants may take it.
      residual: whether the second argument is added to the first, and the sum stored.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        doubles: Sequence[Any],
        arithmetic: float,
        stored: float,
        inputs: Sequence[float],
        residual: bool = False,
    ):
        self._doubles = tuple(doubles)
        self._arithmetic = arithmetic
        self._stored = stored
        self._inputs = tuple(inputs)
        self._residual = residual
        with in_float64():
            self._closed = jax.make_jaxpr(function)(*doubles)
            self._structure = jax.tree.structure(jax.eval_shape(function, *doubles))
        self._run = jax.jit(self._evaluate)

    @cached_property
    def answer(self) -> Any:
        """What the program returns, in float64."""
        return jax.tree.unflatten(self._structure, self._draw(0, 0.0))

    @cached_property
    def roundings(self) -> list[float]:
        """The roundoffs of the dtypes to which the equation itself rounds on its way."""
        found = []

        def note(equation: Any, operands: Sequence[Any], results: Sequence[Any]) -> Sequence[Any]:
            if equation.primitive.name == "reduce_precision":
                found.append(2.0 ** -(equation.params["mantissa_bits"] + 1))
            return results

        with in_float64():
            jax.eval_shape(lambda *doubles: evaluate(self._closed, doubles, note), *self._doubles)
        return found

    @cached_property
    def draws(self) -> list[list[np.ndarray]]:
        """What the noise changes, a list of leaves for each draw."""
        exact = jax.tree.leaves(self.answer)
        return [
            [noisy - clean for noisy, clean in zip(self._draw(seed, 1.0), exact, strict=True)]
            for seed in range(1, DRAWS + 1)
        ]

    def _draw(self, seed: int, amount: float) -> list[np.ndarray]:
        with in_float64():
            return [np.asarray(leaf) for leaf in self._run(np.uint32(seed), amount, *self._doubles)]

    def _evaluate(self, seed: Any, amount: Any, *doubles: Any) -> list[Any]:
        noise = _Noise(seed, amount)
        units = [*self._inputs, *[self._arithmetic] * (len(doubles) - len(self._inputs))]
        moved = [noise.moved(one, unit * jnp.abs(one)) for one, unit in zip(doubles, units, strict=True)]
        if self._residual:
            moved[0] = noise.moved(moved[0], self._stored * jnp.abs(moved[0] + moved[1]))

        def change(equation: Any, operands: Sequence[Any], results: Sequence[Any]) -> Sequence[Any]:
            if equation.primitive.name in EXACT:
                return results
            return [
                noise.moved(one, self._rounding(equation, operands, one))
                if jnp.issubdtype(jnp.result_type(one), jnp.floating)
                else one
                for one in results
            ]

        return evaluate(self._closed, moved, change)

    def _rounding(self, equation: Any, operands: Sequence[Any], result: Any) -> Any:
        """How much the roundings of one equation may move its result."""
        name, size = equation.primitive.name, jnp.abs(result)
        if name in SUMS:
            n = _terms(equation, operands, result)
            squares = again(equation, [jnp.square(operands[0])])
            return self._arithmetic * math.sqrt(n) * (size + jnp.sqrt(squares))
        if name in PRODUCTS_SUMMED:
            n = _products(equation, operands)
            typical = jnp.sqrt(jnp.mean(jnp.square(result))) if result.size else 0.0
            stored = self._stored if name == "conv_general_dilated" else 0.0
            return self._arithmetic * math.sqrt(n) * (size + typical) + stored * size
        return self._arithmetic * size


def _terms(equation: Any, operands: Sequence[Any], result: Any) -> int:
    """Number of terms of one sum."""
    if "window_dimensions" in equation.params:
        return math.prod(equation.params["window_dimensions"])
    if equation.primitive.name == "cumsum":
        return operands[0].shape[equation.params["axis"]]
    return max(operands[0].size // max(result.size, 1), 1)


def _products(equation: Any, operands: Sequence[Any]) -> int:
    """Number of products in one sum of a matrix product or a convolution."""
    other = operands[1]
    if equation.primitive.name == "dot_general":
        (axes, _), _ = equation.params["dimension_numbers"]
        return max(math.prod(operands[0].shape[axis] for axis in axes), 1)
    features = other.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return max(other.size // max(features, 1), 1)


class _Noise:
    """Numbers from -1 to 1 that look random, others for each array that asks; the same for the same seed."""

    def __init__(self, seed: Any, amount: Any):
        self._seed = seed
        self._amount = amount
        self._asked = 0

    def moved(self, values: Any, by: Any) -> Any:
        """`values`, each moved by up to `by`."""
        self._asked += 1
        values = jnp.asarray(values)
        start = self._seed * jnp.uint32(0x9E3779B1) + jnp.uint32(self._asked * 0x85EBCA6B % 2**32)
        return values + self._amount * by * _uniform(values.shape, start)


def _uniform(shape: tuple[int, ...], start: Any) -> Any:
    """From -1 to 1, by the position: an integer hash costs a few operations, and fuses with what it is used in."""
    bits = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    bits = bits * jnp.uint32(0x9E3779B1) + start
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
    bits = bits ^ (bits >> jnp.uint32(16))
    return bits.astype(jnp.float64) * 2.0**-31 - 1.0
