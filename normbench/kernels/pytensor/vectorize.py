"""Batches of the Ops under `vectorize_graph`: signatures from the ranks at hand, so that static shapes are kept."""

from typing import Any

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import _vectorize_node
from pytensor.tensor.blockwise import Blockwise

from normbench.kernels.pytensor.batch_norm import BatchNormalization
from normbench.kernels.pytensor.conv.ops import (
    Convolution,
    ConvolutionFiltersGradient,
    ConvolutionInputGradient,
    TransposedConvolution,
)
from normbench.kernels.pytensor.conv.pool import MaxPool, MaxPoolGradient, MaxPoolSelect

_AXES, _KERNEL, _OUTPUT = ("d", "h", "w"), ("kd", "kh", "kw"), ("od", "oh", "ow")


def signature(node: Apply) -> str:
    """The signature of one node as a generalised ufunc, e.g. (n,c,h,w),(c),(c),(c),(c)->(n,c,h,w)."""
    ranks = [variable.type.ndim for variable in node.inputs]
    if isinstance(node.op, BatchNormalization):
        x = [f"n{axis}" for axis in range(ranks[0])]
        x[node.op.channel_axis(ranks[0])] = "c"
        return _signature([x, *[["c"]] * 4], x)
    rank = ranks[0] - 2
    x, y = ["n", "c", *_AXES[-rank:]], ["n", "o", *_OUTPUT[-rank:]]
    filters = ["o", "i", *_KERNEL[-rank:]]
    if isinstance(node.op, Convolution):
        return _signature([x, filters, *[["o"]] * (len(ranks) - 2)], y)
    if isinstance(node.op, ConvolutionInputGradient):
        return _signature([x, filters, y], x)
    if isinstance(node.op, ConvolutionFiltersGradient):
        return _signature([filters, x, y], filters)
    if isinstance(node.op, TransposedConvolution):
        return _signature([y, filters], x)
    pooled = ["n", "c", *_OUTPUT[-rank:]]
    if isinstance(node.op, MaxPoolGradient):
        return _signature([x, pooled], x)
    return _signature([x] * len(ranks), pooled)


def _signature(inputs: list[list[str]], output: list[str]) -> str:
    return ",".join(f"({','.join(names)})" for names in inputs) + f"->({','.join(output)})"


def _vectorize(op: Op, node: Apply, *batched: Any) -> Any:
    return Blockwise(op, signature=signature(node))(*batched, return_list=True)


for _kind in (
    BatchNormalization,
    Convolution,
    ConvolutionInputGradient,
    ConvolutionFiltersGradient,
    TransposedConvolution,
    MaxPool,
    MaxPoolGradient,
    MaxPoolSelect,
):
    _vectorize_node.register(_kind, _vectorize)
