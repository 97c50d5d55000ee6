"""Layer norm: y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta) over the last axes.

Option of a problem: ndim (1), the number of normalized axes.
"""

import math
from typing import Any

from normbench.kernels.common.checks import check_problem
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL, activation_of
from normbench.kernels.layer_norm import pallas_mosaic as _pallas_mosaic
from normbench.kernels.layer_norm import pallas_tpu as _pallas_tpu
from normbench.kernels.layer_norm import sharded
from normbench.kernels.layer_norm.arguments import normalized_shape
from normbench.kernels.layer_norm.custom_vjp import custom_vjp
from normbench.kernels.layer_norm.flax import flax
from normbench.kernels.layer_norm.jax_nn import jax_nn
from normbench.kernels.layer_norm.naive import naive
from normbench.kernels.layer_norm.native import native
from normbench.kernels.layer_norm.one_pass import one_pass
from normbench.kernels.layer_norm.pallas_triton import pallas_triton
from normbench.kernels.layer_norm.pivoted import pivoted
from normbench.kernels.layer_norm.reference import reference
from normbench.kernels.layer_norm.welford import welford
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.pallas.left_to_xla import unless_slower
from normbench.kernels.pallas.mosaic.plan import few_columns
from normbench.kernels.pallas.triton.row_norm import unsupported
from normbench.kernels.peers.missing import flax_missing
from normbench.kernels.problem import LAYOUTS, Problem
from normbench.kernels.registry import (
    MESH,
    Argument,
    Operator,
    Variant,
    cancels,
    cancels_and_rounds_between,
    register_operator,
    register_variant,
)
from normbench.kernels.sharding import SPREAD

_NAME = "layer_norm"
ROW_LAYOUTS = tuple(name for name, axis in LAYOUTS.items() if axis % len(name) == len(name) - 1)
"""The layouts whose last axis is that of the channels."""


def normalized(problem: Problem) -> tuple[int, ...]:
    return normalized_shape(problem.shape, problem.option("ndim", 1))


def keywords(problem: Problem) -> dict[str, Any]:
    return {
        "epsilon": problem.epsilon,
        "ndim": problem.option("ndim", 1),
        "activation": activation_of(problem.context),
    }


def validate(problem: Problem) -> None:
    check_problem(problem, layouts=ROW_LAYOUTS, options=("ndim",), contexts=CONTEXTS_AND_RESIDUAL)
    normalized(problem)


def _arguments(problem: Problem) -> tuple[Argument, ...]:
    shape, dtype = normalized(problem), problem.param_dtype
    x = Argument("x", problem.shape, problem.dtype, "activation")
    return x, Argument("gamma", shape, dtype, "scale"), Argument("beta", shape, dtype, "shift")


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
    Variant(_NAME, "naive", naive, "the textbook formula in float32: the mean, then the variance around it"),
    Variant(
        _NAME,
        "one_pass",
        one_pass,
        "variance = E[x²] - mean²: one read of x, but it cancels",
        excess=cancels,
        formula="one_pass",
    ),
    Variant(_NAME, "pivoted", pivoted, "one read of x - p, p the first element of the row"),
    Variant(_NAME, "welford", welford, "one reduction of count, mean and squares; gradient by hand"),
    Variant(_NAME, "custom_vjp", custom_vjp, "gradient by hand that saves mean and 1 / deviation in float32"),
    Variant(_NAME, "jax_nn", jax_nn, "jax.nn.standardize and the affine", excess=cancels, formula="one_pass"),
    Variant(
        _NAME,
        "flax",
        flax,
        "flax.linen.LayerNorm",
        supports_problem=flax_missing,
        excess=cancels_and_rounds_between,
        formula="one_pass",
    ),
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
        supports_problem=unless_slower("pallas_triton", unsupported),
        interpreted_on_cpu=True,
        fused_contexts={"residual": pallas_triton, "cast": pallas_triton},
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
    Variant(
        _NAME,
        "sums",
        naive,
        "sum(x) and sum(x²) added in one all-reduce, but they cancel; gradient by hand",
        compiler=MESH,
        divided=sharded.sums,
        excess=cancels,
        divides=SPREAD,
    ),
    Variant(
        _NAME,
        "merged",
        naive,
        "moments of each device merged, one all-gather; gradient by hand",
        compiler=MESH,
        divided=sharded.merged,
        divides=SPREAD,
    ),
):
    register_variant(_variant)
