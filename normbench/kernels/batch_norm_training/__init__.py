"""Training batch norm: y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), with the batch's statistics.

Option of a problem: momentum (0.1). Returns (y, new running mean, new running variance).
"""

import math
from typing import Any

from normbench.kernels.batch_norm_training import pallas_mosaic as _pallas_mosaic
from normbench.kernels.batch_norm_training import pallas_tpu as _pallas_tpu
from normbench.kernels.batch_norm_training import sharded
from normbench.kernels.batch_norm_training.arguments import check_momentum, check_values
from normbench.kernels.batch_norm_training.custom_vjp import custom_vjp
from normbench.kernels.batch_norm_training.flax import flax
from normbench.kernels.batch_norm_training.jax_nn import jax_nn
from normbench.kernels.batch_norm_training.naive import naive
from normbench.kernels.batch_norm_training.native import native
from normbench.kernels.batch_norm_training.one_pass import one_pass
from normbench.kernels.batch_norm_training.pallas_triton import more, pallas_triton, unsupported
from normbench.kernels.batch_norm_training.pivoted import pivoted
from normbench.kernels.batch_norm_training.reference import reference
from normbench.kernels.batch_norm_training.welford import welford
from normbench.kernels.common.checks import check_problem, layouts_of_rank
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL, activation_of
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

_NAME = "batch_norm_training"
_DEFAULT_MOMENTUM = 0.1
_ROLES = {"gamma": "scale", "beta": "shift", "running_mean": "mean", "running_variance": "variance"}


def _arguments(problem: Problem) -> tuple[Argument, ...]:
    parameters = (Argument(n, (problem.channels,), problem.param_dtype, role) for n, role in _ROLES.items())
    return (Argument("x", problem.shape, problem.dtype, "activation"), *parameters)


def _keywords(problem: Problem) -> dict[str, Any]:
    return {
        "epsilon": problem.epsilon,
        "momentum": problem.option("momentum", _DEFAULT_MOMENTUM),
        "channel_axis": LAYOUTS[problem.layout],
        "activation": activation_of(problem.context),
    }


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=layouts_of_rank(2, 3, 4, 5), options=("momentum",), contexts=CONTEXTS_AND_RESIDUAL)
    check_values(problem.shape, problem.channel_axis)
    check_momentum(problem.option("momentum", _DEFAULT_MOMENTUM))


def _rounded_at_each_step(problem: Problem, conditioning: float) -> float:
    """The running mean takes a rounding at each step, and on a CPU the steps follow one another."""
    return max(conditioning, 1.0) ** 0.5


register_operator(
    Operator(
        name=_NAME,
        arguments=_arguments,
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=CONTEXTS_AND_RESIDUAL,
        reduction=lambda problem: math.prod(problem.shape) // problem.channels,
        statistics=2,
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
    Variant(_NAME, "pivoted", pivoted, "one read of x - p, p the running mean"),
    Variant(
        _NAME,
        "welford",
        welford,
        "one reduction of count, mean and squares; gradient by hand",
        excess=_rounded_at_each_step,
    ),
    Variant(_NAME, "custom_vjp", custom_vjp, "gradient by hand that saves mean and 1 / deviation in float32"),
    Variant(_NAME, "jax_nn", jax_nn, "jax.nn.standardize and the affine", excess=cancels, formula="one_pass"),
    Variant(
        _NAME,
        "flax",
        flax,
        "flax.linen.BatchNorm",
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
        "two fused kernels in Pallas Triton, forward and backward, gradient by hand",
        supports_problem=unless_slower("pallas_triton", unsupported, more),
        interpreted_on_cpu=True,
        fused_contexts={"residual": pallas_triton, "cast": pallas_triton},
    ),
    Variant(
        _NAME,
        "pallas_mosaic",
        _pallas_mosaic.pallas_mosaic,
        "one fused kernel in Pallas Mosaic GPU for channels that fit on chip, gradient by hand",
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
        "one fused kernel in Pallas for TPUs for channels that fit VMEM, gradient by hand",
        supports_problem=_pallas_tpu.unsupported,
        interpreted_on_cpu=True,
        fused_contexts={"cast": _pallas_tpu.pallas_tpu},
        both_passes=_pallas_tpu.pallas_tpu,
    ),
    Variant(
        _NAME,
        "sharded",
        naive,
        "the textbook formula in jax.shard_map: two all-reduces",
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
    ),
    Variant(
        _NAME,
        "merged",
        naive,
        "moments of each device merged, one all-gather; gradient by hand",
        compiler=MESH,
        divided=sharded.merged,
    ),
):
    register_variant(_variant)
