"""The operator families, each of which registers its operators and their variants when it is imported.

`normbench.kernels.registry` imports this module when something is first looked up, so that `import normbench.kernels`
alone imports no JAX. PyTensor's variants and the peers come last: they belong to operators of the others.
"""

from normbench.kernels import batch_norm as batch_norm
from normbench.kernels import batch_norm_training as batch_norm_training
from normbench.kernels import conv_bn as conv_bn
from normbench.kernels import group_norm as group_norm
from normbench.kernels import instance_norm as instance_norm
from normbench.kernels import layer_norm as layer_norm
from normbench.kernels import local_response_norm as local_response_norm
from normbench.kernels import rms_norm as rms_norm  # isort: split

from normbench.kernels.peers import jax_libraries as jax_libraries
from normbench.kernels.peers import pytensor_variants as pytensor_variants
from normbench.kernels.peers import torch_variants as torch_variants
