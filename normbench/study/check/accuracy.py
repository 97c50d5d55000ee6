"""How far is a result from the float64 reference, and is that near enough to be worth timing?

The reference takes exactly the values that the variant took, cast to float64. For the forward pass it is the
operator's NumPy reference; for gradients it is float64 autodiff of the operator's baseline. A variant that folds
parameters ahead has the gradients of the folded parameters: its own float64 program tells them, after they have been
taken back through the fold and found to be the baseline's.

What a result may differ by follows from the case: see `normbench.study.check.rounding`. Hard data, whose mean is far
above their deviation, are held against what the variant declares: see `Variant.excess`.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from normbench import kernels
from normbench.kernels import Program
from normbench.kernels.contexts import residuals_of
from normbench.kernels.registry import Argument
from normbench.study.check.distance import Allowance, Error, Exact, compare, judge, refused
from normbench.study.check.inputs import draw, draw_hard
from normbench.study.check.outputs import trouble
from normbench.study.check.rounding import Noisy, in_float64, roundoff

__all__ = ("Error", "Oracle", "compare")

COTANGENT_OF_X = 0.75
"""How much of x, in units, is in the cotangent of y: a gradient sums the products of both, which else is near 0."""
NARROW = 64
"""So many times the roundoff of the arithmetic is that of a dtype in which few values lie too near the middle to tell
which way they are to be rounded."""
ROUNDED_ELSEWHERE = ("residual", "cast")
"""The contexts in which a sound program may round once more: the sum before the norm, or y before it is cast."""
EXACT = 1e-9
"""The relative distance of two right ways to compute a gradient in float64."""
_NONE = Error(0.0, 0.0, 0.0, "", 0.0, 0.0)


class Oracle:
    """The float64 answers to one problem, for arrays drawn once and shared by all its variants."""

    def __init__(self, problem: kernels.Problem, seed: int, is_hard: bool = False):
        self.problem = problem
        self.definition = kernels.operator(problem.operator)
        self._arguments = self.definition.arguments(problem)
        self._unit = self.definition.unit(problem)
        self._is_hard = is_hard
        self.arrays = draw_hard(self._arguments, seed) if is_hard else draw(self._arguments, seed, self._unit)
        self._seed = seed
        self._noisy: dict[str, Noisy] = {}
        self._exacts: dict[str, list[Exact]] = {}
        self._folds: dict[str, Error] = {}

    @cached_property
    def hard(self) -> "Oracle | None":
        """The same problem with hard data; None for a gradient, and for a convolution, which hides the mean of x."""
        if self.problem.pass_ != "forward" or "weight" in {one.role for one in self._arguments}:
            return None
        return Oracle(self.problem, self._seed, is_hard=True)

    def arrays_for(self, program: Program) -> tuple[Any, ...]:
        """What the program's `setup` takes: the operator's arrays and, for a gradient, the cotangent of its output.

        The cotangent has the same values for every variant, in the dtype of its own output.
        """
        if self.problem.pass_ == "forward":
            return self.arrays
        leaves, structure = jax.tree.flatten(program.inputs[-1])
        return (*self.arrays, jax.tree.unflatten(structure, [self._cotangent(*item) for item in enumerate(leaves)]))

    def _cotangent(self, index: int, output: jax.ShapeDtypeStruct) -> np.ndarray:
        argument = Argument("cotangent", output.shape, "float32", "cotangent")
        values = draw((argument,), self._seed + 1 + index)[0]
        x = self.arrays[0]
        if x.shape == output.shape:
            values += (COTANGENT_OF_X / self._unit) * x.astype(np.float32)
        return values.astype(self.problem.dtype).astype(output.dtype)

    def check(self, program: Program, result: Any) -> Error:
        """Judges what `program.function` returned: its shapes, its dtypes and its values."""
        exact = self._exact(program)
        leaves = jax.tree.leaves(result)
        if text := trouble(program, result, [one.values.shape for one in exact]):
            return refused(text)
        fold = self._fold(program)
        if not fold.ok:
            return fold
        return judge(leaves, exact, self._allowances(program, leaves))

    def _exact(self, program: Program) -> list[Exact]:
        name = program.variant.formula or self._answers(program)
        if name not in self._exacts:
            answer = self._reference if self.problem.pass_ == "forward" else self._noise(program).answer
            draws = zip(*self._noise_of(name, program).draws, strict=True)
            self._exacts[name] = [Exact(*one) for one in zip(jax.tree.leaves(answer), draws, strict=True)]
        return self._exacts[name]

    def _allowances(self, program: Program, leaves: Sequence[Any]) -> list[Allowance]:
        # What all elements share tells of a step left out, for which ordinary data are drawn; hard data in a narrow
        # dtype have so few values that their roundings are no longer as often up as down.
        common = math.inf if self._is_hard else self._arithmetic * math.sqrt(self._terms())
        factor = program.variant.excess(self.problem, self.conditioning)
        if program.variant.formula and not math.isinf(factor):  # what the conditioning costs it is in its noise
            factor = program.variant.excess(self.problem, 1.0)
        x_like = {self.problem.shape, np.shape(leaves[0])}
        settled = self._is_settled(program)
        return [
            Allowance(
                max(roundoff(leaf.dtype), roundoff(self.problem.dtype) if leaf.shape in x_like else 0.0),
                common,
                factor,
                settled and index == 0,
            )
            for index, leaf in enumerate(leaves)
        ]

    def _is_settled(self, program: Program) -> bool:
        """Whether the equation of y rounds on its way, or its last step alone does: to eight bits, of float32."""
        if self.problem.pass_ == "backward" or self.problem.context in ROUNDED_ELSEWHERE:
            return False
        y = roundoff(program.variant.output_dtype(self.problem))
        coarse = max([*self._noise(program).roundings, y if y > roundoff("bfloat16") else 0.0])
        return coarse > NARROW * self._arithmetic

    @cached_property
    def conditioning(self) -> float:
        """The root mean square of x over its deviation."""
        x = self.arrays[0].astype(np.float64)
        deviation = float(x.std()) if x.size else 0.0
        return math.sqrt(float(np.square(x).mean())) / deviation if deviation else 1.0

    @property
    def _arithmetic(self) -> float:
        """The roundoff of the sums: float32, unless x is of float64, whatever its parameters are of."""
        return roundoff("float64" if self.problem.dtype == "float64" else "float32")

    def _terms(self) -> int:
        terms = self.definition.reduction(self.problem)
        if self.problem.pass_ == "forward":
            return terms
        # The gradient of a parameter sums over everything but its channel.
        return max(terms, math.prod(self.problem.shape) // self.problem.channels)

    @cached_property
    def _reference(self) -> Any:
        return kernels.reference(self.problem, [array.astype(np.float64) for array in self.arrays])

    def _has_its_own(self, program: Program) -> bool:
        return self.problem.pass_ != "forward" and program.prepare is not None

    def _answers(self, program: Program) -> str:
        """The name of the variant whose float64 program answers for `program`."""
        return program.variant.name if self._has_its_own(program) else kernels.variants(self.problem.operator)[0]

    def _noise(self, program: Program) -> Noisy:
        """The float64 program that answers for `program`, with noise."""
        return self._noise_of(self._answers(program), program)

    def _noise_of(self, name: str, program: Program) -> Noisy:
        """The float64 program of the variant `name`, for what `program` takes."""
        if name not in self._noisy:
            self._noisy[name] = self._make_noisy(name, program)
        return self._noisy[name]

    def _make_noisy(self, name: str, program: Program) -> Noisy:
        leaves, structure = jax.tree.flatten(self.arrays_for(program))
        doubles = [leaf.astype(np.float64) for leaf in leaves]
        roles = [*(argument.role for argument in self._arguments), *["cotangent"] * len(leaves)]
        # A folded parameter may be stored as the parameters are; beside a float64 x it is kept in float64.
        exact = ("activation", "residual") if self.problem.dtype != "float64" else set(roles)
        # A cotangent in fewer bits than x, as that of y in eight, is taken as it comes.
        most = roundoff(self.problem.dtype)
        rounded = [min(roundoff(leaf.dtype), most if role == "cotangent" else math.inf)
                   for leaf, role in zip(leaves, roles, strict=False)]  # fmt: skip
        inputs = [
            self._arithmetic if role in exact else max(self._arithmetic, one)
            for one, role in zip(rounded, roles, strict=False)
        ]
        with in_float64():
            wide = self._wide(name)
            return Noisy(
                lambda *flat: wide.function(*wide.setup(*jax.tree.unflatten(structure, flat))),
                doubles,
                self._arithmetic,
                roundoff(self.problem.dtype),
                inputs,
                bool(residuals_of(self.problem.context)),
            )

    def _wide(self, name: str) -> Program:
        # A cast would round what is to be exact; the output is then that of the operator alone.
        context = "alone" if self.problem.context == "cast" else self.problem.context
        wide = dataclasses.replace(self.problem, dtype="float64", param_dtype="float64", context=context)
        return kernels.program(wide, name)

    def _fold(self, program: Program) -> Error:
        """How far the gradients of folded parameters, taken back through the fold, are from the baseline's."""
        name = program.variant.name
        if not self._has_its_own(program):
            return _NONE
        if name not in self._folds:
            baseline = kernels.program(self.problem, kernels.variants(self.problem.operator)[0])
            self._folds[name] = _near(self._unfolded(program), self._noise(baseline).answer)
        return self._folds[name]

    def _unfolded(self, program: Program) -> Any:
        answer = self._noise(program).answer
        (output, gradients) = answer if self.problem.pass_ == "forward_backward" else (None, answer)
        leading = 1 + residuals_of(self.problem.context)
        with in_float64():
            parameters = [array.astype(np.float64) for array in self.arrays[leading:]]
            prepare = self._wide(program.variant.name).prepare
            assert prepare is not None
            unfolded = jax.vjp(prepare, *parameters)[1](tuple(gradients[1:]))
            gradients = jax.tree.map(np.asarray, (gradients[0], *unfolded))
        return gradients if output is None else (output, gradients)


def _near(result: Any, exact: Any) -> Error:
    found = compare(result, exact)
    if found.max_rel <= EXACT:
        return _NONE
    return refused(
        f"the program in float64 is off by {found.max_rel:.3g}: what is prepared ahead is not the operator's"
    )
