"""Inference batch norm: y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta)."""

from typing import Any

import jax.numpy as jnp

from normbench.kernels.batch_norm import pallas_mosaic as _pallas_mosaic
from normbench.kernels.batch_norm import pallas_tpu as _pallas_tpu
from normbench.kernels.batch_norm import pallas_triton as _pallas_triton
from normbench.kernels.batch_norm import prefolded as _prefolded
from normbench.kernels.batch_norm.folded import folded
from normbench.kernels.batch_norm.naive import naive
from normbench.kernels.batch_norm.naive_promoting import naive_promoting
from normbench.kernels.batch_norm.native import native
from normbench.kernels.batch_norm.reference import reference
from normbench.kernels.common.checks import check_problem
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL, activation_of
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.pallas.left_to_xla import unless_slower
from normbench.kernels.problem import LAYOUTS, Problem
from normbench.kernels.registry import Argument, Operator, Variant, register_operator, register_variant

_NAME = "batch_norm"
_ROLES = {"gamma": "scale", "beta": "shift", "mean": "mean", "variance": "variance"}


def _arguments(problem: Problem) -> tuple[Argument, ...]:
    parameters = (Argument(n, (problem.channels,), problem.param_dtype, role) for n, role in _ROLES.items())
    return (Argument("x", problem.shape, problem.dtype, "activation"), *parameters)


def _keywords(problem: Problem) -> dict[str, Any]:
    return {
        "epsilon": problem.epsilon,
        "channel_axis": LAYOUTS[problem.layout],
        "activation": activation_of(problem.context),
    }


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=tuple(LAYOUTS), options=(), contexts=CONTEXTS_AND_RESIDUAL)


def _narrow_root(problem: Problem, target: str) -> str | None:
    if problem.dtype != "float64" or problem.param_dtype == "float64":
        return None
    return (
        f"its root is in the variance's dtype, {problem.param_dtype}, which costs x of float64 its digits: take naive"
    )


def _promoted(problem: Problem) -> str:
    return jnp.promote_types(problem.dtype, problem.param_dtype).name


register_operator(
    Operator(
        name=_NAME,
        arguments=_arguments,
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=CONTEXTS_AND_RESIDUAL,
        reduction=lambda problem: 1,
    )
)
register_variant(Variant(_NAME, "naive", naive, "the textbook formula in float32, cast back to x's dtype"))
register_variant(
    Variant(
        _NAME,
        "naive_promoting",
        naive_promoting,
        "the textbook formula with JAX's type promotion left alone",
        supports_problem=_narrow_root,
        output_dtype=_promoted,
    )
)
register_variant(Variant(_NAME, "folded", folded, "scale and shift computed inside the call"))
register_variant(
    Variant(
        _NAME,
        "prefolded",
        _prefolded.prefolded,
        "scale and shift computed once, ahead of the call",
        prepare=_prefolded.prepare,
        apply=_prefolded.apply,
    )
)
register_variant(
    Variant(
        _NAME,
        "native",
        native,
        "one kernel in C++ for the CPU, gradient by hand",
        supports_problem=not_native,
        fused_contexts={"cast": native},
    )
)
register_variant(
    Variant(
        _NAME,
        "pallas_triton",
        _pallas_triton.pallas_triton,
        "one fused kernel in Pallas Triton, gradient by hand",
        supports_problem=unless_slower("pallas_triton", _pallas_triton.unsupported, _pallas_triton.more),
        interpreted_on_cpu=True,
        fused_contexts={"residual": _pallas_triton.pallas_triton, "cast": _pallas_triton.pallas_triton},
    )
)
register_variant(
    Variant(
        _NAME,
        "pallas_mosaic",
        _pallas_mosaic.pallas_mosaic,
        "one fused kernel in Pallas Mosaic GPU where channels come last, gradient by hand",
        supports_problem=unless_slower(
            "pallas_mosaic", _pallas_mosaic.unsupported, _pallas_mosaic.more, _pallas_mosaic.idle
        ),
        interpreted_on_cpu=True,
        interpreted_elements=4096,
        fused_contexts={"cast": _pallas_mosaic.pallas_mosaic},
    )
)
register_variant(
    Variant(
        _NAME,
        "pallas_tpu",
        _pallas_tpu.pallas_tpu,
        "one fused kernel in Pallas for TPUs where channels lie last, gradient by hand",
        supports_problem=_pallas_tpu.unsupported,
        interpreted_on_cpu=True,
        fused_contexts={"cast": _pallas_tpu.pallas_tpu},
        both_passes=_pallas_tpu.pallas_tpu,
    )
)
