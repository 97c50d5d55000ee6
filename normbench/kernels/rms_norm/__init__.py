"""RMS norm: y = act(x / sqrt(E[x²] + epsilon) * gamma) over the last axes.

One sum is all there is, so it has no one-pass, pivoted or Welford form. Option of a problem: ndim (1), the number of
normalized axes.
"""

import math

from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL
from normbench.kernels.layer_norm import keywords, normalized, validate
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.pallas.triton.row_norm import unsupported
from normbench.kernels.peers.missing import flax_missing
from normbench.kernels.problem import Problem
from normbench.kernels.registry import MESH, Argument, Operator, Variant, register_operator, register_variant
from normbench.kernels.rms_norm import pallas_mosaic as _pallas_mosaic
from normbench.kernels.rms_norm import sharded
from normbench.kernels.rms_norm.custom_vjp import custom_vjp
from normbench.kernels.rms_norm.flax import flax
from normbench.kernels.rms_norm.naive import naive
from normbench.kernels.rms_norm.native import native
from normbench.kernels.rms_norm.pallas_triton import pallas_triton
from normbench.kernels.rms_norm.reference import reference

_NAME = "rms_norm"


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
    )
)
for _variant in (
    Variant(_NAME, "naive", naive, "the textbook formula in float32, cast back to x's dtype"),
    Variant(_NAME, "custom_vjp", custom_vjp, "gradient by hand that saves 1 / RMS in float32"),
    Variant(_NAME, "flax", flax, "flax.linen.RMSNorm", supports_problem=flax_missing),
    Variant(
        _NAME,
        "native",
        native,
        "one kernel in C++ for the CPU, gradient by hand",
        supports_problem=not_native,
        fused_contexts={"residual": native, "cast": native},
    ),
    Variant(
        _NAME,
        "pallas_triton",
        pallas_triton,
        "one fused kernel in Pallas Triton, gradient by hand",
        supports_problem=unsupported,
        interpreted_on_cpu=True,
        fused_contexts={"residual": pallas_triton, "cast": pallas_triton},
    ),
    Variant(
        _NAME,
        "pallas_mosaic",
        _pallas_mosaic.pallas_mosaic,
        "one fused kernel in Pallas Mosaic GPU, gradient by hand",
        supports_problem=_pallas_mosaic.unsupported,
        interpreted_on_cpu=True,
        interpreted_elements=4096,
        fused_contexts={"residual": _pallas_mosaic.pallas_mosaic, "cast": _pallas_mosaic.pallas_mosaic},
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
    register_variant(_variant)
