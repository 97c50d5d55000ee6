"""RMS norm: y = act(x / sqrt(E[x²] + epsilon) * gamma) over the last axes.

One sum is all there is, so it has no one-pass, pivoted or Welford form. Options of a problem: ndim (1), the number of
normalized axes; hat_dtype, scale_offset and fp8_scale, the forms that language models use (see
`normbench.kernels.common.form`): Llama's is hat_dtype=bfloat16 for x in bfloat16, Gemma's scale_offset=1.
"""

import math
from dataclasses import replace
from typing import Any

from normbench.errors import UserError
from normbench.kernels.common.checks import check_problem
from normbench.kernels.common.form import OPTIONS, PLAIN, form_of
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL, activation_of
from normbench.kernels.layer_norm import ROW_LAYOUTS, normalized
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.pallas.left_to_xla import unless_slower
from normbench.kernels.pallas.mosaic.plan import few_columns
from normbench.kernels.peers.missing import flax_missing
from normbench.kernels.problem import Problem
from normbench.kernels.registry import (
    MESH,
    Argument,
    Operator,
    Variant,
    register_operator,
    register_variant,
    without_options,
)
from normbench.kernels.rms_norm import pallas_mosaic as _pallas_mosaic
from normbench.kernels.rms_norm import pallas_tpu as _pallas_tpu
from normbench.kernels.rms_norm import pallas_triton as _pallas_triton
from normbench.kernels.rms_norm import sharded
from normbench.kernels.rms_norm.custom_vjp import custom_vjp
from normbench.kernels.rms_norm.flax import flax
from normbench.kernels.rms_norm.naive import naive
from normbench.kernels.rms_norm.native import native
from normbench.kernels.rms_norm.reference import reference

_NAME = "rms_norm"


def keywords(problem: Problem) -> dict[str, Any]:
    """The form is among them only where it is not the textbook's, which is all that other projects' variants take."""
    form = form_of(problem)
    plain = {
        "epsilon": problem.epsilon,
        "ndim": problem.option("ndim", 1),
        "activation": activation_of(problem.context),
    }
    return plain if form == PLAIN else {**plain, "form": form}


def validate(problem: Problem) -> None:
    check_problem(problem, layouts=ROW_LAYOUTS, options=("ndim", *OPTIONS), contexts=CONTEXTS_AND_RESIDUAL)
    normalized(problem)
    if not form_of(problem).divides:
        return
    if problem.context == "cast":
        raise UserError("fp8_scale in the context cast; allowed: the others, as y has one dtype")


def output_dtype(problem: Problem) -> str:
    return form_of(problem).output_dtype(problem.dtype)


def flax_cannot(problem: Problem, target: str) -> str | None:
    """The reason why `flax.linen.RMSNorm` cannot compute a problem, or None."""
    return without_options(problem, OPTIONS) or flax_missing(problem, target)


def _native_cannot(problem: Problem, target: str) -> str | None:
    return without_options(problem, OPTIONS) or not_native(problem, target)


def _arguments(problem: Problem) -> tuple[Argument, ...]:
    x = Argument("x", problem.shape, problem.dtype, "activation")
    return x, Argument("gamma", normalized(problem), problem.param_dtype, "scale")


register_operator(
    Operator(
        name=_NAME,
        arguments=_arguments,
        keywords=keywords,
        reference=reference,
        validate=validate,
        contexts=CONTEXTS_AND_RESIDUAL,
        reduction=lambda problem: math.prod(normalized(problem)),
        own_options=OPTIONS,
    )
)
for _variant in (
    Variant(_NAME, "naive", naive, "the textbook formula in float32, cast back to x's dtype"),
    Variant(_NAME, "custom_vjp", custom_vjp, "gradient by hand that saves 1 / RMS in float32"),
    Variant(_NAME, "flax", flax, "flax.linen.RMSNorm", supports_problem=flax_cannot),
    Variant(
        _NAME,
        "native",
        native,
        "one kernel in C++ for the CPU, gradient by hand",
        supports_problem=_native_cannot,
        fused_contexts={"residual": native, "cast": native},
    ),
    Variant(
        _NAME,
        "pallas_triton",
        _pallas_triton.pallas_triton,
        "one fused kernel in Pallas Triton, gradient by hand",
        supports_problem=unless_slower("pallas_triton", _pallas_triton.unsupported),
        interpreted_on_cpu=True,
        fused_contexts={"residual": _pallas_triton.pallas_triton, "cast": _pallas_triton.pallas_triton},
    ),
    Variant(
        _NAME,
        "pallas_mosaic",
        _pallas_mosaic.pallas_mosaic,
        "one fused kernel in Pallas Mosaic GPU, gradient by hand",
        supports_problem=unless_slower("pallas_mosaic", _pallas_mosaic.unsupported, idle=few_columns),
        interpreted_on_cpu=True,
        interpreted_elements=4096,
        fused_contexts={"residual": _pallas_mosaic.pallas_mosaic, "cast": _pallas_mosaic.pallas_mosaic},
    ),
    Variant(
        _NAME,
        "pallas_tpu",
        _pallas_tpu.pallas_tpu,
        "one fused kernel in Pallas for TPUs, gradient by hand",
        supports_problem=_pallas_tpu.unsupported,
        interpreted_on_cpu=True,
        fused_contexts={"residual": _pallas_tpu.pallas_tpu, "cast": _pallas_tpu.pallas_tpu},
        both_passes=_pallas_tpu.pallas_tpu,
    ),
    Variant(
        _NAME,
        "sharded",
        naive,
        "the textbook formula in jax.shard_map",
        compiler=MESH,
        divided=sharded.textbook,
    ),
):
    register_variant(replace(_variant, output_dtype=output_dtype))
