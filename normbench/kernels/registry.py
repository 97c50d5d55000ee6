"""The one registry: operators, and the variants that compute them."""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from normbench.errors import UserError, unknown
from normbench.kernels.contexts import residuals_of
from normbench.kernels.hosted import Hosted
from normbench.kernels.problem import Problem
from normbench.kernels.sharding import BY_OPERATOR, SPREAD, Division, division_of, part_of
from normbench.schema import TPU_TARGETS

COMPILERS = ("xla", "pytensor", "peer", "torch", "mesh")
"""xla: of this project, and of JAX and Flax; mesh: of this project, written for many devices;
peer: other libraries for JAX; torch: PyTorch, and libraries for it."""
MESH = "mesh"
PEERS = ("peer", "torch")
"""The compilers whose variants are other libraries, each of which is measured in a process of its own."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One array argument of an operator.

    `role` says which values are plausible: "activation", "residual", "weight", "bias", "scale", "shift", "mean",
    "variance".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str


def _bind_all(problem: Problem, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    return arrays


def _above_epsilon(problem: Problem) -> float:
    """The variance of such an x is that of epsilon, and several times as much."""
    return 2 * float(problem.epsilon) ** 0.5 or 1.0


@dataclass(frozen=True, slots=True)
class Operator:
    """A mathematical operation.

    Attributes:
      name: "batch_norm", ...
      arguments: problem -> its array arguments, x first, in the order of the signature. Registration adds what the
        context brings: a residual after x.
      keywords: problem -> the static keyword arguments that every variant and the reference take.
      reference: float64 NumPy, with the operator's signature; the oracle of every variant.
      validate: raises `UserError` for a problem that makes no sense (rank, channels, options).
      contexts: what may surround it; see `normbench.kernels.contexts`.
      reduction: problem -> number of terms in one sum; tolerances scale with its square root.
      bind: (problem, arrays of `arguments` without a residual) -> positional arguments of the signature, with None in
        the place of an optional argument that the problem leaves out.
      unit: problem -> the size of x at which no term of the equation is lost beside another; inputs are drawn for it.
      own_options: those of its options that variants of other projects do not know.
      statistics: number of running statistics: the last arguments, which no gradient is taken of; the output is then
        the tuple (y, *new statistics).
    """

    name: str
    arguments: Callable[[Problem], tuple[Argument, ...]]
    keywords: Callable[[Problem], dict[str, Any]]
    reference: Callable[..., Any]
    validate: Callable[[Problem], None]
    contexts: tuple[str, ...]
    reduction: Callable[[Problem], int]
    bind: Callable[[Problem, tuple[Any, ...]], tuple[Any, ...]] = _bind_all
    own_options: tuple[str, ...] = ()
    statistics: int = 0
    unit: Callable[[Problem], float] = _above_epsilon


def _supports_all(problem: Problem, target: str) -> str | None:
    return None


def without_options(problem: Any, options: Sequence[str]) -> str | None:
    """The reason why a variant that knows none of these options cannot compute a problem, or None."""
    asked = [name for name, _ in problem.options if name in options]
    return f"it has no option {' and no '.join(asked)}" if asked else None


VOID = 2.0**-5
"""The relative error of a variance from which on it is no longer one."""


def sound(problem: Problem, conditioning: float) -> float:
    """Its error is that of roundings in float32, in the order of the textbook formula or another."""
    return 1.0


def cancels(problem: Problem, conditioning: float) -> float:
    """The variance is E[x²] - mean²: from a mean of 1e3 times the deviation on, in float32, nothing is left of it."""
    roundoff = 2.0**-53 if problem.dtype == problem.param_dtype == "float64" else 2.0**-24
    return max(conditioning, 1.0) if roundoff * conditioning**2 < VOID else math.inf


def cancels_and_rounds_between(problem: Problem, conditioning: float) -> float:
    """As `cancels`; and what is activated is rounded to x's dtype first, which a narrow one shows in the whole."""
    narrow = problem.dtype in ("bfloat16", "float16")
    return max(cancels(problem, conditioning), 4.0 if narrow else 1.0)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Variant:
    """One way to compute an operator; callable with the operator's own signature, and by `jax.jit` and `jax.grad` as
    any function is: each is equal to itself alone.

    Attributes:
      operator, name: its place in the registry.
      function: the operator's signature.
      summary: one line.
      supports_problem: (problem, target) -> a reason why not, or None.
      prepare: for a variant with work done ahead: (*parameters, **keywords, dtype=x's) -> the tuple that `apply` takes
        after x.
      apply: (x, *prepared, **keywords) -> output.
      output_dtype: problem -> dtype of y where it is not x's (the promoting variant).
      excess: what the variant does not hold: (problem, the root mean square of x over its deviation) -> how many times
        the error of a sound program its own may be: `sound` or `cancels`, or a function that says why; infinite where
        it holds nothing.
      formula: the variant of the operator whose float64 program tells how far roundings may move this one, where the
        baseline's does not: of what cancels, the variance is off by the square of the conditioning. Empty: the
        baseline.
      interpreted_on_cpu: True where a CPU can only check it, never time it.
      interpreted_elements: up to which size of x a CPU checks it then: beyond it takes minutes.
      compiler: of `COMPILERS`; `variants` names those of the first unless asked.
      compile_host: for a variant that is no JAX program: (the arguments of `function`, abstract, or of `apply` where
        there is one, **keywords) -> a function of NumPy arrays, those arguments that are not None.
      fused_contexts: context -> a function that computes the context too, for a variant that the compiler cannot fuse
        with it. It has the operator's signature and one more keyword: `residual`, an array shaped as x, for "residual",
        where it returns (y, z) in the place of y; `output_dtype`, a name, for "cast".
      both_passes: for a hand-written kernel that makes y and the gradients together where dy is at hand with x, as in a
        program of both passes, and in a layer that is computed again for its gradient: has the operator's signature,
        the keywords of its fused contexts and one more, `cotangent`, that of what stands in the place of y; returns
        (outputs, gradients of x and of the parameters). None: its two passes, one after the other.
      host: for a variant of another framework: (problem, target) -> the whole program, its context and pass included.
        Shapes and dtypes are those of the baseline, and `function` is never called.
      divided: in a context of sharding, in the place of `function`: (division, *arguments, **keywords) -> output, the
        arrays whole, what is sent between devices written down. None: the compiler divides `function`, or, of a
        hand-written kernel, each device calls it on its part.
      divides: what it can be divided along, as in `normbench.kernels.sharding`; empty: anything that its operator can.
    """

    operator: str
    name: str
    function: Callable[..., Any]
    summary: str
    supports_problem: Callable[[Problem, str], str | None] = _supports_all
    prepare: Callable[..., tuple] | None = None
    apply: Callable[..., Any] | None = None
    output_dtype: Callable[[Problem], str] = lambda problem: problem.dtype
    excess: Callable[[Problem, float], float] = sound
    formula: str = ""
    interpreted_on_cpu: bool = False
    interpreted_elements: int = 100_000
    compiler: str = COMPILERS[0]
    compile_host: Callable[..., Callable[..., Any]] | None = None
    fused_contexts: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    both_passes: Callable[..., Any] | None = None
    host: Callable[[Problem, str], Hosted] | None = None
    divided: Callable[..., Any] | None = None
    divides: tuple[str, ...] = ()

    @property
    def is_jax(self) -> bool:
        """Whether it is a JAX program, which XLA compiles."""
        return self.compile_host is None and self.host is None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def supports(self, case: Any, target: str = "gpu") -> str | None:
        """Returns None where the variant can compute `case` (a problem, or anything with its attributes) on `target`,
        else the reason why it cannot."""
        if target in TPU_TARGETS and "float64" in (case.dtype, case.param_dtype):
            return "a TPU has no float64: the compiler emulates it, which takes it minutes for a program"
        division = division_of(case)
        if division is not None:
            return self._supports_division(case, division, target)
        if self.compiler == MESH:
            return f"it is written for many devices: take it in a context of {', '.join(BY_OPERATOR[self.operator])}"
        if self.compiler != COMPILERS[0] and (refused := without_options(case, operator(self.operator).own_options)):
            return refused
        return self.supports_problem(case, target)

    def _supports_division(self, case: Any, division: Division, target: str) -> str | None:
        if target in ("cpu", "gpu"):
            return f"its {division.devices} devices are compiled for where they need not be: take a target such as h200"
        if not self.is_jax:
            return "it is no JAX program, which the compiler could divide between devices"
        if self.divides and division.what not in self.divides:
            return f"nothing of its statistics is spread over devices that divide the {division.what}"
        if not self.interpreted_on_cpu:
            return self.supports_problem(case, target)
        if division.what in SPREAD:
            return f"a kernel of one device: the statistics of {case.context} are spread over {division.devices}"
        return self.supports_problem(part_of(case), target)


_OPERATORS: dict[str, Operator] = {}
_VARIANTS: dict[str, dict[str, Variant]] = {}


def register_operator(operator: Operator) -> Operator:
    registered = replace(operator, arguments=partial(_with_residual, operator.arguments))
    _OPERATORS[operator.name] = registered
    _VARIANTS.setdefault(operator.name, {})
    return registered


def _with_residual(arguments: Callable[[Problem], tuple[Argument, ...]], problem: Problem) -> tuple[Argument, ...]:
    x, *others = arguments(problem)
    residuals = (Argument("residual", x.shape, x.dtype, "residual"),) * residuals_of(problem.context)
    return (x, *residuals, *others)


def register_variant(variant: Variant, replace: bool = False) -> Variant:
    """Adds a variant; the first one of an operator is its baseline.

    Args:
      replace: True where another of the same name is to be replaced, as by a cell of a notebook that is run again.

    Raises:
      UserError: for an unknown operator, or a name that is taken.
    """
    if variant.operator not in _OPERATORS:
        _load_families()
    if variant.operator not in _OPERATORS:
        raise unknown("operator", variant.operator, sorted(_OPERATORS))
    if not replace and _VARIANTS[variant.operator].get(variant.name, variant) is not variant:
        raise UserError(
            f"variant {variant.name!r} of {variant.operator} is registered already; give another name, or replace=True"
        )
    _VARIANTS[variant.operator][variant.name] = variant
    return variant


def operators() -> tuple[str, ...]:
    """Names of all operators, sorted."""
    _load_families()
    return tuple(sorted(_OPERATORS))


def operator(name: str) -> Operator:
    _load_families()
    if name not in _OPERATORS:
        raise unknown("operator", name, operators())
    return _OPERATORS[name]


def variants(operator_name: str, compilers: Sequence[str] = COMPILERS[:1]) -> tuple[str, ...]:
    """Names of the variants of an operator that these of `COMPILERS` compile; the baseline first."""
    operator(operator_name)
    return tuple(name for name, variant in _VARIANTS[operator_name].items() if variant.compiler in compilers)


def get(operator_name: str, variant_name: str) -> Variant:
    """The variant by name: callable with the operator's own signature."""
    operator(operator_name)
    if variant_name not in _VARIANTS[operator_name]:
        raise unknown(f"variant of {operator_name}", variant_name, _VARIANTS[operator_name])
    return _VARIANTS[operator_name][variant_name]


def _load_families() -> None:
    """The families register themselves when they are imported; while that goes on, this does nothing."""
    importlib.import_module("normbench.kernels.families")
