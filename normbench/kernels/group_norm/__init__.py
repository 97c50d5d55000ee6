"""Group norm: y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), statistics over groups of channels.

Option of a problem: groups (32).
"""

import math
from typing import Any

from normbench.kernels.common.checks import check_problem, layouts_of_rank
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL, activation_of
from normbench.kernels.group_norm import pallas_mosaic as _pallas_mosaic
from normbench.kernels.group_norm import pallas_tpu as _pallas_tpu
from normbench.kernels.group_norm import sharded
from normbench.kernels.group_norm.arguments import check_groups
from normbench.kernels.group_norm.custom_vjp import custom_vjp
from normbench.kernels.group_norm.flax import flax
from normbench.kernels.group_norm.jax_nn import jax_nn
from normbench.kernels.group_norm.naive import naive
from normbench.kernels.group_norm.native import native
from normbench.kernels.group_norm.one_pass import one_pass
from normbench.kernels.group_norm.pallas_triton import idle, more, pallas_triton, unsupported
from normbench.kernels.group_norm.pivoted import pivoted
from normbench.kernels.group_norm.reference import reference
from normbench.kernels.group_norm.two_pass import two_pass
from normbench.kernels.group_norm.welford import welford
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.pallas.left_to_xla import unless_slower
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

_NAME = "group_norm"
_DEFAULT_GROUPS = 32


def _groups(problem: Problem) -> int:
    return problem.option("groups", _DEFAULT_GROUPS)


def arguments(problem: Problem) -> tuple[Argument, ...]:
    """x, and gamma and beta with one value per channel."""
    shape, dtype = (problem.channels,), problem.param_dtype
    x = Argument("x", problem.shape, problem.dtype, "activation")
    return x, Argument("gamma", shape, dtype, "scale"), Argument("beta", shape, dtype, "shift")


def _keywords(problem: Problem) -> dict[str, Any]:
    return {
        "epsilon": problem.epsilon,
        "groups": _groups(problem),
        "channel_axis": LAYOUTS[problem.layout],
        "activation": activation_of(problem.context),
    }


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=layouts_of_rank(2, 3, 4, 5), options=("groups",), contexts=CONTEXTS_AND_RESIDUAL)
    check_groups(problem.channels, _groups(problem))


def _terms(problem: Problem) -> int:
    return math.prod(problem.shape[1:]) // _groups(problem)


register_operator(
    Operator(
        name=_NAME,
        arguments=arguments,
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=CONTEXTS_AND_RESIDUAL,
        reduction=_terms,
    )
)
for _variant in (
    Variant(_NAME, "naive", naive, "the textbook formula in float32: normalize, reshape, scale and shift"),
    Variant(_NAME, "two_pass", two_pass, "the same statistics, one scale for each image and channel"),
    Variant(
        _NAME,
        "one_pass",
        one_pass,
        "variance = E[x²] - mean²: one read of x, but it cancels",
        excess=cancels,
        formula="one_pass",
    ),
    Variant(_NAME, "pivoted", pivoted, "one read of x - p, p the first element of the group"),
    Variant(_NAME, "welford", welford, "one reduction of count, mean and squares; gradient by hand"),
    Variant(_NAME, "custom_vjp", custom_vjp, "gradient by hand that saves mean and 1 / deviation in float32"),
    Variant(_NAME, "jax_nn", jax_nn, "jax.nn.standardize and the affine", excess=cancels, formula="one_pass"),
    Variant(
        _NAME,
        "flax",
        flax,
        "flax.linen.GroupNorm",
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
        fused_contexts={"cast": native},
    ),
    Variant(
        _NAME,
        "pallas_triton",
        pallas_triton,
        "one fused kernel in Pallas Triton, gradient by hand",
        supports_problem=unless_slower("pallas_triton", unsupported, more, idle),
        interpreted_on_cpu=True,
        fused_contexts={"residual": pallas_triton, "cast": pallas_triton},
    ),
    Variant(
        _NAME,
        "pallas_mosaic",
        _pallas_mosaic.pallas_mosaic,
        "one fused kernel in Pallas Mosaic GPU for groups that fit on chip, gradient by hand",
        supports_problem=unless_slower(
            "pallas_mosaic", _pallas_mosaic.unsupported, _pallas_mosaic.more, _pallas_mosaic.idle
        ),
        interpreted_on_cpu=True,
        interpreted_elements=4096,
        fused_contexts={"cast": _pallas_mosaic.pallas_mosaic},
    ),
    Variant(
        _NAME,
        "pallas_tpu",
        _pallas_tpu.pallas_tpu,
        "one fused kernel in Pallas for TPUs for images that fit VMEM, gradient by hand",
        supports_problem=_pallas_tpu.unsupported,
        interpreted_on_cpu=True,
        fused_contexts={"cast": _pallas_tpu.pallas_tpu},
        both_passes=_pallas_tpu.pallas_tpu,
    ),
    Variant(
        _NAME,
        "sharded",
        naive,
        "each device normalizes its groups, in jax.shard_map",
        compiler=MESH,
        divided=sharded.each_its_groups,
    ),
):
    register_variant(_variant)
