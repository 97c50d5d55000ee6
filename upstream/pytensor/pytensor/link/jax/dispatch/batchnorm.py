import jax.numpy as jnp

from pytensor.link.jax.dispatch.basic import jax_funcify
from pytensor.tensor.batchnorm import BatchNormalization


@jax_funcify.register(BatchNormalization)
def jax_funcify_BatchNormalization(op, node, **kwargs):
    dtype = op.compute_dtype(node)
    output_dtype = node.outputs[0].type.dtype
    shape = op.expanded_shape

    def batch_normalization(x, *params):
        op.check_lengths(x.shape, *(param.shape[0] for param in params))
        gamma, beta, mean, variance = (
            param.astype(dtype).reshape(shape) for param in params
        )
        scale = gamma / jnp.sqrt(variance + op.epsilon)
        return ((x - mean) * scale + beta).astype(output_dtype)

    return batch_normalization
