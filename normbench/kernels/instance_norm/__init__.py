"""Instance norm: y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), statistics per image and channel."""

import math
from typing import Any

from normbench.kernels import group_norm
from normbench.kernels.common.checks import check_problem, layouts_of_rank
from normbench.kernels.contexts import CONTEXTS, activation_of
from normbench.kernels.group_norm import pallas_mosaic as _groups_mosaic
from normbench.kernels.group_norm import pallas_tpu as _groups_tpu
from normbench.kernels.instance_norm.as_groups import as_groups
from normbench.kernels.instance_norm.flax import flax
from normbench.kernels.instance_norm.naive import naive
from normbench.kernels.instance_norm.native import native
from normbench.kernels.instance_norm.pallas_mosaic import pallas_mosaic
from normbench.kernels.instance_norm.pallas_tpu import pallas_tpu
from normbench.kernels.instance_norm.pallas_triton import pallas_triton
from normbench.kernels.instance_norm.reference import reference
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.pallas.left_to_xla import unless_slower
from normbench.kernels.peers.missing import flax_missing
from normbench.kernels.problem import LAYOUTS, Problem
from normbench.kernels.registry import (
    Operator,
    Variant,
    cancels,
    cancels_and_rounds_between,
    register_operator,
    register_variant,
)

_NAME = "instance_norm"


def _keywords(problem: Problem) -> dict[str, Any]:
    return {
        "epsilon": problem.epsilon,
        "channel_axis": LAYOUTS[problem.layout],
        "activation": activation_of(problem.context),
    }


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=layouts_of_rank(3, 4, 5), options=())


register_operator(
    Operator(
        name=_NAME,
        arguments=group_norm.arguments,
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=CONTEXTS,
        reduction=lambda problem: math.prod(problem.shape[1:]) // problem.channels,
    )
)
for _variant in (
    Variant(_NAME, "naive", naive, "the textbook formula in float32: the mean, then the variance around it"),
    Variant(
        _NAME,
        "one_pass",
        as_groups(group_norm.one_pass),
        "variance = E[x²] - mean²: one read, but it cancels",
        excess=cancels,
        formula="one_pass",
    ),
    Variant(_NAME, "pivoted", as_groups(group_norm.pivoted), "one read of x - p, p the first element of the channel"),
    Variant(_NAME, "welford", as_groups(group_norm.welford), "one reduction of count, mean, squares; gradient by hand"),
    Variant(_NAME, "custom_vjp", as_groups(group_norm.custom_vjp), "gradient by hand; saves mean and 1 / deviation"),
    Variant(
        _NAME,
        "jax_nn",
        as_groups(group_norm.jax_nn),
        "jax.nn.standardize and the affine",
        excess=cancels,
        formula="one_pass",
    ),
    Variant(
        _NAME,
        "flax",
        flax,
        "flax.linen.InstanceNorm",
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
        supports_problem=unless_slower("pallas_triton", group_norm.unsupported, group_norm.more, group_norm.idle),
        interpreted_on_cpu=True,
        fused_contexts={"cast": pallas_triton},
    ),
    Variant(
        _NAME,
        "pallas_mosaic",
        pallas_mosaic,
        "one fused kernel in Pallas Mosaic GPU for channels that fit on chip, gradient by hand",
        supports_problem=unless_slower(
            "pallas_mosaic", _groups_mosaic.unsupported, _groups_mosaic.more, _groups_mosaic.idle
        ),
        interpreted_on_cpu=True,
        interpreted_elements=4096,
        fused_contexts={"cast": pallas_mosaic},
    ),
    Variant(
        _NAME,
        "pallas_tpu",
        pallas_tpu,
        "one fused kernel in Pallas for TPUs for images that fit VMEM, gradient by hand",
        supports_problem=_groups_tpu.unsupported,
        interpreted_on_cpu=True,
        fused_contexts={"cast": pallas_tpu},
        both_passes=pallas_tpu,
    ),
):
    register_variant(_variant)
