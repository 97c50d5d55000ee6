"""Which programs are measured: the case, its slug, and the presets' cases."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from normbench import kernels
from normbench.cases import presets
from normbench.cases.slugs import (
    DTYPE_CODES,
    check_name,
    decode_options,
    decode_value,
    encode_options,
    encode_value,
    parse_dtype,
    parse_layout,
    shape_text,
)
from normbench.cases.slugs import parse_shape as parse_shape
from normbench.errors import UserError, unknown
from normbench.kernels import Problem
from normbench.kernels.registry import COMPILERS
from normbench.schema import PASSES

PRESETS = presets.PRESETS
_DEFAULT_EPSILON: float = Problem("", ()).epsilon


@dataclass(frozen=True)
class Case:
    """A problem and the variant that answers it; `model` says where the shape comes from and is not part of identity.

    The slug is `operator.context.shape.layout.dtype.param_dtype.pass[.epsN][.options].variant`, for example
    `conv_bn.silu.1x64x80x80.nchw.bf16.f32.forward.eps0p001.k3-o64-p1-s1.prefolded`.
    """

    problem: Problem
    variant: str
    model: str = field(default="", compare=False)

    @property
    def operator(self) -> str:
        return self.problem.operator

    @property
    def shape(self) -> tuple[int, ...]:
        return self.problem.shape

    @property
    def layout(self) -> str:
        return self.problem.layout

    @property
    def dtype(self) -> str:
        return self.problem.dtype

    @property
    def param_dtype(self) -> str:
        return self.problem.param_dtype

    @property
    def pass_(self) -> str:
        return self.problem.pass_

    @property
    def context(self) -> str:
        return self.problem.context

    @property
    def epsilon(self) -> float:
        return self.problem.epsilon

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        return self.problem.options

    def option(self, name: str, default: Any = None) -> Any:
        return self.problem.option(name, default)

    @property
    def channel_axis(self) -> int:
        return self.problem.channel_axis

    @property
    def channels(self) -> int:
        return self.problem.channels

    @property
    def problem_slug(self) -> str:
        """The slug without the variant: cases that share it are compared."""
        return problem_slug(self.problem)

    @property
    def slug(self) -> str:
        """The case in one file-safe word; `from_slug` is the inverse.

        Raises:
          UserError: where a name or an option value has characters that a slug cannot hold.
        """
        return f"{self.problem_slug}.{check_name('variant', self.variant)}"

    @classmethod
    def from_slug(cls, slug: str) -> "Case":
        """Reads a slug back.

        Raises:
          UserError: where the text is not a slug.
        """
        head, _, variant = slug.rpartition(".")
        return cls(problem_from_slug(head, slug), check_name("variant", variant))

    def row(self) -> dict[str, Any]:
        """The columns of the table "cases"."""
        return {
            "case": self.slug,
            "operator": self.operator,
            "variant": self.variant,
            "baseline": self.variant == kernels.variants(self.operator)[0],
            "pass": self.pass_,
            "context": self.context,
            "shape": shape_text(self.shape),
            "layout": self.layout,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "options": encode_options(self.options, len(self.shape) - 2),
            "problem": self.problem_slug,
            "model": self.model,
            "elements": math.prod(self.shape),
        }


def problem_slug(problem: Problem) -> str:
    fields = [
        check_name("operator", problem.operator),
        check_name("context", problem.context),
        shape_text(problem.shape),
        problem.layout,
        DTYPE_CODES[problem.dtype],
        DTYPE_CODES[problem.param_dtype],
        problem.pass_,
    ]
    if problem.epsilon != _DEFAULT_EPSILON:
        fields.append(f"eps{encode_value(float(problem.epsilon))}")
    if problem.options:
        fields.append(encode_options(problem.options, len(problem.shape) - 2))
    return ".".join(fields)


def problem_from_slug(text: str, slug: str) -> Problem:
    fields = text.split(".")
    if not 7 <= len(fields) <= 9:
        raise UserError(f"{slug!r} is not the slug of a case")
    operator, context, shape_field, layout, dtype, param_dtype, pass_, *rest = fields
    shape = parse_shape(shape_field)
    if pass_ not in PASSES:
        raise unknown("pass", pass_, PASSES)
    epsilon = _DEFAULT_EPSILON
    if rest and rest[0].startswith("eps"):
        epsilon = decode_value(rest.pop(0).removeprefix("eps"))
        if not isinstance(epsilon, float):
            raise UserError(f"epsilon {epsilon!r} in {slug!r}; allowed: a number with a point or an exponent")
    return Problem(
        operator=check_name("operator", operator),
        shape=shape,
        layout=parse_layout(layout, len(shape)),
        dtype=parse_dtype(dtype),
        param_dtype=parse_dtype(param_dtype),
        pass_=pass_,
        context=check_name("context", context),
        epsilon=epsilon,
        options=decode_options(rest[0], len(shape) - 2) if rest else (),
    )


def cases(
    preset: str, operators: Sequence[str] | None = None, variants: Sequence[str] | None = None
) -> tuple[Case, ...]:
    """The cases of a preset: every problem with every variant of its operator, the baseline first.

    Args:
      preset: one of `PRESETS`.
      operators: only these; None for all.
      variants: only these, whatever their compiler; None for those of the preset.

    Raises:
      UserError: for an unknown preset, operator or variant, or where the preset has none of them.
    """
    chosen = tuple(operators) if operators else kernels.operators()
    known = tuple(dict.fromkeys(name for operator in chosen for name in kernels.variants(operator, COMPILERS)))
    for name in variants or ():
        if name not in known:
            raise unknown(f"variant of {', '.join(chosen)}", name, known)
    found = tuple(
        Case(problem, variant, model)
        for problem, model in presets.problems(preset).items()
        if problem.operator in chosen
        for variant in _variants(preset, problem.operator, variants)
    )
    if not found:
        raise UserError(f"preset {preset!r} has no cases of operator {', '.join(chosen)}")
    return found


def _variants(preset: str, operator: str, chosen: Sequence[str] | None) -> tuple[str, ...]:
    if not chosen:
        return presets.variants(preset, operator)
    return tuple(name for name in kernels.variants(operator, COMPILERS) if name in chosen)
