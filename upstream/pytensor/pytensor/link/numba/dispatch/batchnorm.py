import numpy as np

from pytensor.link.numba.dispatch import basic as numba_basic
from pytensor.link.numba.dispatch.basic import (
    default_hash_key_from_props,
    register_funcify_and_cache_key,
)
from pytensor.tensor.batchnorm import BatchNormalization


@register_funcify_and_cache_key(BatchNormalization)
def numba_funcify_BatchNormalization(op, node, **kwargs):
    real = np.dtype(op.compute_dtype(node)).type
    output_real = np.dtype(node.outputs[0].type.dtype).type
    axis = op.axis
    one = real(1)
    epsilon = real(op.epsilon)

    @numba_basic.numba_njit
    def batch_normalization(x, gamma, beta, mean, variance):
        channels = x.shape[axis]
        if not len(gamma) == len(beta) == len(mean) == len(variance) == channels:
            raise ValueError("Length of a parameter does not match the channels")
        outer = 1 if axis == 0 else x.shape[0]
        inner = 1
        for i in range(axis + 1, x.ndim):
            inner *= x.shape[i]
        source = np.ascontiguousarray(x).reshape((outer, channels, inner))
        y = np.empty((outer, channels, inner), output_real)
        for c in range(channels):
            # np.divide and not `/`, which raises when it divides by zero
            inv_std = np.divide(one, np.sqrt(real(variance[c]) + epsilon))
            scale = real(gamma[c]) * inv_std
            for n in range(outer):
                for i in range(inner):
                    centered = real(source[n, c, i]) - real(mean[c])
                    y[n, c, i] = centered * scale + real(beta[c])
        return y.reshape(x.shape)

    cache_version = 1
    dtypes = tuple(inp.type.dtype for inp in node.inputs)
    key = default_hash_key_from_props(op, dtypes=dtypes, cache_version=cache_version)
    return batch_normalization, key
