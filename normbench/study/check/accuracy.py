"""How far is a result from the float64 reference, and is that near enough to be worth timing?

The reference takes exactly the values that the variant took, cast to float64. For the forward pass it is the
operator's NumPy reference; for gradients it is float64 autodiff of the operator's baseline, of the variant's own
float64 program where the variant folds parameters ahead (its gradients are those of the folded parameters).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench import kernels
from normbench.kernels import Problem, Program
from normbench.kernels.registry import Argument
from normbench.study.check.inputs import draw, draw_hard

TOLERANCE_FACTOR = 16
"""Roundings that may add up in the same direction: a handful of operations, and cancellation against the shift."""


@dataclasses.dataclass(frozen=True, slots=True)
class Error:
    """Largest error over all elements of all outputs.

    Attributes:
      max_abs: |y - ref|.
      max_rel: |y - ref| / s, where s is |ref|, or the root mean square of ref where that is larger: elements that
        happen to cancel are measured against their neighbours.
      max_ulp: |y - ref| in units of the spacing of the output's dtype at s.
      tolerance: what max_rel may be at most.
      worst: `max_rel / tolerance` of the worst output; above 1 the result is wrong; infinite where it is not finite.
    """

    max_abs: float
    max_rel: float
    max_ulp: float
    tolerance: float
    worst: float

    @property
    def ok(self) -> bool:
        return self.worst <= 1

    @property
    def reason(self) -> str:
        if math.isinf(self.worst):
            return f"not finite, or of another shape than the reference; tolerance {self.tolerance:.3g}"
        return f"relative error {self.max_rel:.3g} against the float64 reference; tolerance {self.tolerance:.3g}"


def epsilon(dtype: str) -> float:
    """Distance from 1 to the next number of `dtype`."""
    return float(jnp.finfo(jnp.dtype(dtype)).eps)


def tolerance(dtypes: Sequence[str], reduction: int) -> float:
    """Largest relative error allowed: 16 (eps + eps_sum sqrt(n)).

    `eps` is that of the coarsest of `dtypes`; sums of `n` terms are accumulated in float32, or in float64 where all
    are float64: that is `eps_sum`.
    """
    sums = "float64" if set(dtypes) == {"float64"} else "float32"
    return TOLERANCE_FACTOR * (max(map(epsilon, dtypes)) + epsilon(sums) * math.sqrt(reduction))


def compare(result: Any, reference: Any, dtypes: Sequence[str], reduction: int) -> Error:
    """Compares pytrees of arrays leaf by leaf; `dtypes` are those of the inputs, each leaf adds its own."""
    leaves, references = jax.tree.leaves(result), jax.tree.leaves(reference)
    if len(leaves) != len(references):
        raise ValueError(f"{len(leaves)} outputs against {len(references)} of the reference")
    errors = [
        _compare_leaf(a, np.asarray(b, np.float64), dtypes, reduction) for a, b in zip(leaves, references, strict=True)
    ]
    return max(errors, key=lambda error: error.worst)


def _compare_leaf(result: jax.Array, reference: np.ndarray, dtypes: Sequence[str], reduction: int) -> Error:
    dtype = str(result.dtype)
    limit = tolerance((*dtypes, dtype), reduction)
    if result.shape != reference.shape:
        return Error(math.nan, math.nan, math.nan, limit, math.inf)
    if not reference.size:
        return Error(0.0, 0.0, 0.0, limit, 0.0)
    difference = np.asarray(result).astype(np.float64)
    difference -= reference
    np.abs(difference, out=difference)
    scale = np.maximum(np.abs(reference), math.sqrt(np.square(reference).mean()))
    scale[scale == 0] = 1.0
    max_abs = float(difference.max())
    difference /= scale
    max_rel = float(difference.max())
    if not math.isfinite(max_rel):
        return Error(math.nan, math.nan, math.nan, limit, math.inf)
    # The spacing at s is eps 2^floor(log2 s); s over that power of two is twice the mantissa of frexp.
    mantissa, _ = np.frexp(scale)
    difference *= mantissa
    max_ulp = 2 * float(difference.max()) / epsilon(dtype)
    return Error(max_abs, max_rel, max_ulp, limit, max_rel / limit)


class Oracle:
    """The float64 answers to one problem, for arrays drawn once and shared by all its variants."""

    def __init__(self, problem: Problem, seed: int, draw: Callable[..., tuple] = draw):
        self.problem = problem
        self.definition = kernels.operator(problem.operator)
        arguments = self.definition.arguments(problem)
        self.arrays = draw(arguments, seed)
        self.dtypes = tuple({argument.dtype for argument in arguments})
        self._seed = seed
        self._answers: dict[str, Any] = {}

    @cached_property
    def hard(self) -> "Oracle | None":
        """The same problem with hard data; None for a gradient, and for a convolution, which hides the mean of x."""
        if self.problem.pass_ != "forward" or "weight" in {one.role for one in self.definition.arguments(self.problem)}:
            return None
        return Oracle(self.problem, self._seed, draw_hard)

    def arrays_for(self, program: Program) -> tuple[Any, ...]:
        """What the program's `setup` takes: the operator's arrays and, for a gradient, the cotangent of its output.

        The cotangent has the same values for every variant, in the dtype of its own output.
        """
        if self.problem.pass_ == "forward":
            return self.arrays
        leaves, structure = jax.tree.flatten(program.inputs[-1])
        return (*self.arrays, jax.tree.unflatten(structure, [self._cotangent(*item) for item in enumerate(leaves)]))

    def _cotangent(self, index: int, output: jax.ShapeDtypeStruct) -> np.ndarray:
        argument = Argument("cotangent", output.shape, self.problem.dtype, "activation")
        return draw((argument,), self._seed + 1 + index)[0].astype(output.dtype)

    def check(self, program: Program, result: Any) -> Error:
        """Compares what `program.function` returned."""
        return compare(result, self._answer(program), self.dtypes, self._reduction())

    def _reduction(self) -> int:
        terms = self.definition.reduction(self.problem)
        if self.problem.pass_ == "forward":
            return terms
        # The gradient of a parameter sums over everything but its channel.
        return max(terms, math.prod(self.problem.shape) // self.problem.channels)

    def _answer(self, program: Program) -> Any:
        own = self.problem.pass_ != "forward" and program.prepare is not None
        name = program.variant.name if own else kernels.variants(self.problem.operator)[0]
        if name not in self._answers:
            forward = self.problem.pass_ == "forward"
            self._answers[name] = self._reference() if forward else self._gradients(name, program)
        return self._answers[name]

    def _reference(self) -> Any:
        return kernels.reference(self.problem, [array.astype(np.float64) for array in self.arrays])

    def _gradients(self, name: str, program: Program) -> Any:
        doubles = jax.tree.map(lambda array: array.astype(np.float64), self.arrays_for(program))
        # A cast would round what is to be exact; the output is then that of the operator alone.
        context = "alone" if self.problem.context == "cast" else self.problem.context
        wide = dataclasses.replace(self.problem, dtype="float64", param_dtype="float64", context=context)
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            oracle = kernels.program(wide, name)
            inputs = jax.jit(oracle.setup)(*doubles)
            return jax.tree.map(np.asarray, jax.jit(oracle.function)(*inputs))
