"""Operations of the matrix products and convolutions in a launch: a multiplication and an addition each count one.

A multiplication of complex numbers, with the addition of its result, is four of real numbers.
"""

import json
import math
from dataclasses import dataclass

from normbench.fusion.hlo import ATTRIBUTES, Computation, Instruction, Module, Shape
from normbench.fusion.tpu.launches import NO_DATA
from normbench.fusion.wire import integers, message, number

_ROLES = {  # of (operand 0, operand 1, result): which are input, kernel and output of the forward convolution
    "__cudnn$convForward": (0, 1, 2),
    "__cudnn$convBiasActivationForward": (0, 1, 2),
    "__cudnn$convForwardGraph": (0, 1, 2),
    "__cudnn$convBackwardInput": (2, 1, 0),
    "__cudnn$convBackwardFilter": (0, 2, 1),
}


def product_flops(module: Module, computation: Computation, launch: Instruction) -> float | None:
    """Operations of one execution of `launch`: 0 where it holds no product, None for a call that is not known."""
    if launch.opcode == "fusion":
        fused = module.computations[launch.called[0]]
        found = [product_flops(module, fused, i) for i in fused.instructions]
        return None if None in found else float(sum(f for f in found if f is not None))
    if launch.opcode == "dot":
        return _dot(computation, launch)
    if launch.opcode == "convolution":
        shapes = [computation.by_id[i].shape for i in launch.operands]
        return _convolution(launch, shapes[0], shapes[1], launch.shape)
    if launch.opcode == "custom-call":
        return _call(computation, launch)
    return 0.0


def product_bits(module: Module, computation: Computation, launch: Instruction) -> int | None:
    """Bits of the widest real number that the products inside of `launch` multiply, or a call takes; None for others.

    The rate of a device's products is that of their operands: a result of 32 bits is added up from narrower ones.
    """
    if launch.opcode == "fusion":
        fused = module.computations[launch.called[0]]
        inside = (product_bits(module, fused, one) for one in fused.instructions)
        return max((bits for bits in inside if bits is not None), default=None)
    if launch.opcode not in ("dot", "convolution", "custom-call"):
        return None
    shapes = [computation.by_id[i].shape for i in launch.operands[:2]]
    return max((shape.bits // 2 if shape.is_complex else shape.bits for shape in shapes), default=None)


def _dot(computation: Computation, dot: Instruction) -> float | None:
    dimensions = dot.attributes.get(ATTRIBUTES["dot dimensions"])
    if not isinstance(dimensions, bytes):
        return None
    contracted = integers(message(dimensions).get(1, []))
    return _product(computation.by_id[dot.operands[0]].shape, contracted, dot.shape)


def _product(left: Shape, contracted: tuple[int, ...], result: Shape) -> float:
    return _operations_at_once(result) * result.elements * math.prod(left.dimensions[d] for d in contracted)


def _call(computation: Computation, call: Instruction) -> float | None:
    target = call.custom_call_target
    if target in NO_DATA:
        return 0.0
    result = call.shape.leaves[0] if call.shape.leaves else call.shape
    shapes = [computation.by_id[i].shape for i in call.operands]
    if target.startswith("__cublas$") and shapes:
        contracted = _gemm_contraction(call.backend_config)
        return None if contracted is None else _product(shapes[0], contracted, result)
    if target in _ROLES and len(shapes) >= 2:
        three = (shapes[0], shapes[1], result)
        return _convolution(call, *(three[role] for role in _ROLES[target]))
    return None


def _gemm_contraction(backend_config: str) -> tuple[int, ...] | None:
    try:
        config = json.loads(backend_config)
        gemm = config.get("gemm_backend_config") or config
        return tuple(int(d) for d in gemm["dot_dimension_numbers"]["lhs_contracting_dimensions"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


@dataclass(frozen=True)
class _Window:
    """One spatial dimension of a convolution."""

    size: int
    stride: int
    padding_low: int
    window_dilation: int
    base_dilation: int

    def positions(self, input_size: int, output_size: int) -> int:
        """Pairs of a place in the output and a place in the kernel that meet an element of the input."""
        reach = (input_size - 1) * self.base_dilation + 1
        return sum(
            0 <= place < reach and place % self.base_dilation == 0
            for out in range(output_size)
            for tap in range(self.size)
            for place in (out * self.stride + tap * self.window_dilation - self.padding_low,)
        )


def _convolution(instruction: Instruction, input_: Shape, kernel: Shape, output: Shape) -> float | None:
    """2 x batch x output features x input features of a group x the places where kernel and input meet."""
    dimensions, window = (instruction.attributes.get(ATTRIBUTES[k]) for k in ("convolution dimensions", "window"))
    if not isinstance(dimensions, bytes) or (window is not None and not isinstance(window, bytes)):
        return None
    at = message(dimensions)
    groups = instruction.attributes.get(ATTRIBUTES["batch groups"], 1)
    assert isinstance(groups, int)
    windows = [_window(w) for w in message(window).get(1, [])] if window else []
    inputs, outputs = integers(at.get(11, [])), integers(at.get(12, []))
    meetings = math.prod(
        one.positions(input_.dimensions[i], output.dimensions[o])
        for one, i, o in zip(windows, inputs, outputs, strict=True)
    )
    batch = input_.dimensions[number(at.get(7))] // max(1, groups)
    features = kernel.dimensions[number(at.get(3))] * output.dimensions[number(at.get(10))]
    return _operations_at_once(output) * batch * features * meetings


def _operations_at_once(result: Shape) -> float:
    """Of one multiplication and the addition of its result."""
    return 8.0 if result.is_complex else 2.0


def _window(data: int | bytes) -> _Window:
    assert isinstance(data, bytes)
    fields = message(data)
    padding = number(fields.get(3))
    return _Window(
        size=number(fields.get(1)),
        stride=number(fields.get(2), 1),
        padding_low=padding - (1 << 64) if padding >= 1 << 63 else padding,
        window_dilation=number(fields.get(5), 1),
        base_dilation=number(fields.get(6), 1),
    )
