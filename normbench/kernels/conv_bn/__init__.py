"""Convolution, batch norm, activation (YOLO's ConvBNSiLU): y = act(batch_norm(convolution(x, weight) + bias)).

Options of a problem: features (output channels; x's channels by default), kernel (3), stride (1), padding ("same"),
dilation (1), groups (1), bias (False), transposed (False). Context "alone" means no activation.
"""

import math
from typing import Any

from normbench.errors import UserError
from normbench.kernels.common.checks import check_problem
from normbench.kernels.contexts import CONTEXTS, activation_of
from normbench.kernels.conv_bn import prefolded as _prefolded
from normbench.kernels.conv_bn.fold import fold_conv_bn as fold_conv_bn
from normbench.kernels.conv_bn.fold import folding_refusal as folding_refusal
from normbench.kernels.conv_bn.folded import folded
from normbench.kernels.conv_bn.geometry import LAYOUTS, Geometry, geometry, kernel_of
from normbench.kernels.conv_bn.reference import reference
from normbench.kernels.conv_bn.unfused import unfused
from normbench.kernels.problem import Problem
from normbench.kernels.registry import Argument, Operator, Variant, register_operator, register_variant

_NAME = "conv_bn"
_OPTIONS = ("features", "kernel", "stride", "padding", "dilation", "groups", "bias", "transposed")
_FLOAT16_POSITIONS = 65504 // 16
_ROLES = {"gamma": "scale", "beta": "shift", "mean": "mean", "variance": "variance"}


def _convolution(problem: Problem) -> dict[str, Any]:
    return {
        "layout": problem.layout,
        "stride": problem.option("stride", 1),
        "padding": problem.option("padding", "same"),
        "dilation": problem.option("dilation", 1),
        "groups": problem.option("groups", 1),
        "transposed": problem.option("transposed", False),
    }


def _sizes(problem: Problem) -> tuple[Geometry, int, tuple[int, ...]]:
    """Geometry, output channels and kernel."""
    shape = geometry(**_convolution(problem))
    kernel = kernel_of(problem.option("kernel", 3), shape.spatial_rank)
    return shape, problem.option("features", problem.channels), kernel


def _arguments(problem: Problem) -> tuple[Argument, ...]:
    shape, features, kernel = _sizes(problem)
    weight = Argument("weight", shape.weight_shape(problem.channels, features, kernel), problem.dtype, "weight")
    bias = (Argument("bias", (features,), problem.dtype, "bias"),) if problem.option("bias", False) else ()
    parameters = (Argument(name, (features,), problem.param_dtype, role) for name, role in _ROLES.items())
    return (Argument("x", problem.shape, problem.dtype, "activation"), weight, *bias, *parameters)


def _bind(problem: Problem, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Puts None in the place of the bias where the problem has none."""
    return arrays if problem.option("bias", False) else (*arrays[:2], None, *arrays[2:])


def _keywords(problem: Problem) -> dict[str, Any]:
    return {**_convolution(problem), "epsilon": problem.epsilon, "activation": activation_of(problem.context)}


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=LAYOUTS, options=_OPTIONS)
    shape, features, kernel = _sizes(problem)
    if not isinstance(features, int):
        raise UserError(f"features {features!r} is not allowed; allowed: a whole number, 1 or more")
    for name in ("bias", "transposed"):
        if not isinstance(problem.option(name, False), bool):
            raise UserError(f"{name} {problem.option(name)!r} is not allowed; allowed: True or False")
    shape.check_channels(problem.channels, features)
    shape.check_output(problem.shape, kernel)


def _products_summed(problem: Problem) -> int:
    _, _, kernel = _sizes(problem)
    products = problem.channels // problem.option("groups", 1)
    for size in kernel:
        products *= size
    return products


def _takes_another_side(problem: Problem, conditioning: float) -> float:
    """In half precision what is activated has been rounded as folded weight, folded bias, convolution and sum, each to
    x's dtype, where `unfused` rounds the convolution alone. Within that of 0, relu's derivative jumps from 0 to 1."""
    if problem.dtype not in ("bfloat16", "float16"):
        return 1.0
    return 8.0 if problem.context == "relu" and problem.pass_ != "forward" else 2.0


def _holds_in_float16(problem: Problem, target: str) -> str | None:
    """The gradient of the folded weight sums over all positions of all images and is stored in the weight's dtype, not
    yet multiplied by gamma / deviation, as that of the weight is. It may leave float16 where all else stays in it."""
    if problem.dtype != "float16" or problem.pass_ == "forward":
        return None
    shape, _, kernel = _sizes(problem)
    spatial = shape.spatial(problem.shape)
    positions = problem.shape[0] * math.prod(spatial if shape.transposed else shape.output_spatial(spatial, kernel))
    if positions <= _FLOAT16_POSITIONS:
        return None
    return (
        f"the gradient of the folded weight sums {positions} products and is stored in float16, which ends at 65504: "
        f"allowed: {_FLOAT16_POSITIONS} products, of up to 16 each; use unfused, or bfloat16"
    )


register_operator(
    Operator(
        name=_NAME,
        arguments=_arguments,
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=CONTEXTS,
        reduction=_products_summed,
        bind=_bind,
    )
)
register_variant(Variant(_NAME, "unfused", unfused, "convolution, then the textbook batch norm, then the activation"))
register_variant(
    Variant(
        _NAME,
        "folded",
        folded,
        "weight and bias folded inside the call",
        supports_problem=_holds_in_float16,
        excess=_takes_another_side,
    )
)
register_variant(
    Variant(
        _NAME,
        "prefolded",
        _prefolded.prefolded,
        "weight and bias folded once, ahead of the call",
        prepare=_prefolded.prepare,
        apply=_prefolded.apply,
        supports_problem=_holds_in_float16,
        excess=_takes_another_side,
    )
)
