"""Normalization for PyTensor: batch norm and convolution as Ops with kernels for JAX, Numba, PyTorch and MLX.

>>> import pytensor, pytensor.tensor as pt
>>> from normbench.kernels.pytensor import batch_normalization, conv2d, silu
>>> x, filters = pt.tensor4("x"), pt.tensor4("filters")
>>> gamma, beta, mean, variance = (pt.vector(name) for name in ("gamma", "beta", "mean", "variance"))
>>> y = silu(batch_normalization(conv2d(x, filters, padding=1), gamma, beta, mean, variance))
>>> f = pytensor.function([x, filters, gamma, beta, mean, variance], y, mode="JAX")

No backend is imported before a function is compiled for it: see `normbench.kernels.pytensor.dispatch`. Compiling with
mode="JAX" sets `jax_enable_x64` for the whole process, as PyTensor does: see `normbench.kernels.pytensor.contained`,
whose `jax_mode()` does not.
"""

try:
    import pytensor as _pytensor  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("normbench.kernels.pytensor needs PyTensor: pip install 'pytensor>=3.0.7,<4'") from error

from normbench.kernels.pytensor import fold as fold
from normbench.kernels.pytensor import vectorize as vectorize
from normbench.kernels.pytensor.batch_norm import BatchNormalization as BatchNormalization
from normbench.kernels.pytensor.batch_norm import batch_normalization as batch_normalization
from normbench.kernels.pytensor.batch_norm_train import batch_normalization_train as batch_normalization_train
from normbench.kernels.pytensor.contained import jax_mode as jax_mode
from normbench.kernels.pytensor.conv.functions import conv1d as conv1d
from normbench.kernels.pytensor.conv.functions import conv2d as conv2d
from normbench.kernels.pytensor.conv.functions import conv3d as conv3d
from normbench.kernels.pytensor.conv.functions import conv_transpose as conv_transpose
from normbench.kernels.pytensor.conv.functions import silu as silu
from normbench.kernels.pytensor.conv.ops import Convolution as Convolution
from normbench.kernels.pytensor.conv.pool import avg_pool2d as avg_pool2d
from normbench.kernels.pytensor.conv.pool import global_avg_pool as global_avg_pool
from normbench.kernels.pytensor.conv.pool import max_pool2d as max_pool2d
from normbench.kernels.pytensor.conv.pool import upsample2d as upsample2d
from normbench.kernels.pytensor.dispatch import follow as _follow
from normbench.kernels.pytensor.dispatch import register as register
from normbench.kernels.pytensor.freeze import freeze as freeze
from normbench.kernels.pytensor.normalizations import group_normalization as group_normalization
from normbench.kernels.pytensor.normalizations import instance_normalization as instance_normalization
from normbench.kernels.pytensor.normalizations import layer_normalization as layer_normalization
from normbench.kernels.pytensor.normalizations import rms_normalization as rms_normalization

_follow()
