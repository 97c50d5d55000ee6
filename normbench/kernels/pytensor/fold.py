"""Graph rewrites that do the arithmetic of constant statistics at compile time. Off unless asked for by tag:

>>> mode = pytensor.compile.get_mode("JAX").including("conv_bn_fold", "batchnorm_fold")

- `conv_bn_fold`: batch norm of a convolution becomes the convolution with other filters and a bias, where the filters,
  the bias and the parameters are constants and nothing else uses the convolution's result; so do several in a row.
- `batchnorm_fold`: batch norm with constant parameters becomes x * scale + shift.

Both calculate in float64 and round once. Shared variables are not constants (they may be set or updated between calls,
and folding them would repeat the arithmetic in every call): `freeze` them first. Take gradients before folding.
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.graph.rewriting.db import EquilibriumDB

from normbench.kernels.pytensor.batch_norm import BatchNormalization
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv.ops import Convolution


@node_rewriter([BatchNormalization])
def fold_into_convolution(fgraph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """batch norm of conv2d(x, filters, bias) to conv2d(x, filters * scale, (bias - mean) * scale + beta)."""
    convolved, *vectors = node.inputs
    convolution = convolved.owner
    if convolution is None or not isinstance(convolution.op, Convolution) or len(fgraph.clients[convolved]) > 1:
        return None
    if node.op.channel_axis(convolved.type.ndim) != 1:
        return None
    x, filters, *bias = convolution.inputs
    if not all(isinstance(variable, Constant) for variable in (filters, *bias, *vectors)):
        return None
    scale, mean, beta = _scale_mean_beta(node)
    given = np.asarray(bias[0].data, "float64") if bias else 0.0
    folded = np.asarray(filters.data, "float64") * scale.reshape(-1, *(1,) * (filters.type.ndim - 1))
    shift = (given - mean) * scale + beta
    new_bias = shift.astype(convolved.type.dtype)
    result = convolution.op(x, pt.constant(folded.astype(filters.type.dtype)), pt.constant(new_bias))
    return _replacement(node, result)


@node_rewriter([BatchNormalization])
def fold_into_scale_and_shift(fgraph: FunctionGraph, node: Apply) -> list[Variable] | None:
    """batch norm of x to x * scale + shift."""
    x, *vectors = node.inputs
    if not all(isinstance(variable, Constant) for variable in vectors):
        return None
    scale, mean, beta = _scale_mean_beta(node)
    dtype, pattern = compute_dtype(*(variable.type.dtype for variable in node.inputs)), node.op.pattern(x.type.ndim)
    factor, shift = (pt.constant(v.astype(dtype).reshape(pattern)) for v in (scale, beta - mean * scale))
    return _replacement(node, x.astype(dtype) * factor + shift)


def _scale_mean_beta(node: Apply) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (np.asarray(vector.data, "float64") for vector in node.inputs[1:])
    return gamma / np.sqrt(variance + node.op.epsilon), mean, beta


def _replacement(node: Apply, result: Variable) -> list[Variable]:
    output = node.outputs[0]
    result = result.astype(output.type.dtype)
    if not output.type.is_super(result.type):
        result = pt.specify_shape(result, output.type.shape)
    copy_stack_trace(output, result)
    return [result]


def _register(name: str, rewriter: object, position: float) -> None:
    """A database of its own for each, applied until nothing changes, so that one batch norm after another folds too.

    After canonicalize (1), which turns expressions of constants into constants.
    """
    database = EquilibriumDB()
    database.register(name, rewriter)
    optdb.register(name, database, use_db_name_as_tag=False, position=position)


_register("conv_bn_fold", fold_into_convolution, 1.1)
_register("batchnorm_fold", fold_into_scale_and_shift, 1.2)
