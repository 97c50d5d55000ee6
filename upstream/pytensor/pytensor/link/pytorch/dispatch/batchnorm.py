import torch

from pytensor.link.pytorch.dispatch.basic import pytorch_funcify
from pytensor.tensor.batchnorm import BatchNormalization


@pytorch_funcify.register(BatchNormalization)
def pytorch_funcify_BatchNormalization(op, node, **kwargs):
    dtype = getattr(torch, op.compute_dtype(node))
    output_dtype = getattr(torch, node.outputs[0].type.dtype)
    shape = op.expanded_shape

    def batch_normalization(x, *params):
        op.check_lengths(x.shape, *(param.shape[0] for param in params))
        gamma, beta, mean, variance = (
            param.to(dtype).reshape(shape) for param in params
        )
        scale = gamma / torch.sqrt(variance + op.epsilon)
        return ((x - mean) * scale + beta).to(output_dtype)

    return batch_normalization
