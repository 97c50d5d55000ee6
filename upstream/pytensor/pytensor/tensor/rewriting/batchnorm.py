"""Rewrites of batch normalization."""

import numpy as np

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Constant
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.tensor.batchnorm import BatchNormalization
from pytensor.tensor.shape import specify_shape


@node_rewriter([BatchNormalization])
def local_batchnorm_constant_parameters(fgraph, node):
    """Replace batch normalization with constant parameters by ``x * scale + shift``.

    Scale and shift are computed once, in double precision. The result is less exact
    than the original where ``x`` is close to a mean that is large against the
    standard deviation, so the rewrite has to be asked for: include the tag
    ``"batchnorm_fold"``.
    """
    x, *params = node.inputs
    if not all(isinstance(param, Constant) for param in params):
        return None
    op = node.op
    gamma, beta, mean, variance = (param.data.astype("float64") for param in params)
    scale = gamma / np.sqrt(variance + op.epsilon)
    dtype = op.compute_dtype(node)
    scale, shift = (
        vector.astype(dtype).reshape(op.expanded_shape)
        for vector in (scale, beta - mean * scale)
    )
    [output] = node.outputs
    result = (x.astype(dtype) * scale + shift).astype(output.type.dtype)
    if not output.type.is_super(result.type):
        result = specify_shape(result, output.type.shape)
    copy_stack_trace(output, result)
    return [result]


optdb["specialize"].register(
    "local_batchnorm_constant_parameters",
    local_batchnorm_constant_parameters,
    "batchnorm_fold",
)
