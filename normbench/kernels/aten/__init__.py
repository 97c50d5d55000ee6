"""The normalization operators of ATen (PyTorch's C++ library), as functions of JAX arrays.

Names, argument order, defaults, return values, dtypes and kinds of errors are those of PyTorch 2.13 on CPU. All can be
jitted (the arguments that are not arrays are static), differentiated and vmapped.

>>> import jax
>>> from normbench.kernels import aten
>>> layer_norm = jax.jit(aten.layer_norm, static_argnames=("normalized_shape", "eps"))
>>> y = layer_norm(x, normalized_shape=(768,), weight=w, bias=b)

JAX arrays are immutable. Where ATen updates running statistics in place, the operator of that name does not; its twin
with the suffix `_functional` returns the declared outputs followed by the new running mean and variance.
"""

from normbench.kernels.aten.batch_norm import _batch_norm_no_update as _batch_norm_no_update
from normbench.kernels.aten.batch_norm import _batch_norm_with_update as _batch_norm_with_update
from normbench.kernels.aten.batch_norm import _native_batch_norm_legit as _native_batch_norm_legit
from normbench.kernels.aten.batch_norm import _native_batch_norm_legit_no_stats as _native_batch_norm_legit_no_stats
from normbench.kernels.aten.batch_norm import (
    _native_batch_norm_legit_no_training as _native_batch_norm_legit_no_training,
)
from normbench.kernels.aten.batch_norm import batch_norm as batch_norm
from normbench.kernels.aten.batch_norm import batch_norm_update_stats as batch_norm_update_stats
from normbench.kernels.aten.batch_norm import native_batch_norm as native_batch_norm
from normbench.kernels.aten.batch_norm_backward import native_batch_norm_backward as native_batch_norm_backward
from normbench.kernels.aten.batch_norm_functional import (
    _batch_norm_with_update_functional as _batch_norm_with_update_functional,
)
from normbench.kernels.aten.batch_norm_functional import (
    _native_batch_norm_legit_functional as _native_batch_norm_legit_functional,
)
from normbench.kernels.aten.batch_norm_functional import batch_norm_functional as batch_norm_functional
from normbench.kernels.aten.batch_norm_functional import (
    batch_norm_update_stats_functional as batch_norm_update_stats_functional,
)
from normbench.kernels.aten.batch_norm_functional import native_batch_norm_functional as native_batch_norm_functional
from normbench.kernels.aten.checks import AtenDtypeError as AtenDtypeError
from normbench.kernels.aten.checks import AtenError as AtenError
from normbench.kernels.aten.checks import AtenIndexError as AtenIndexError
from normbench.kernels.aten.group_norm import group_norm as group_norm
from normbench.kernels.aten.group_norm import native_group_norm as native_group_norm
from normbench.kernels.aten.group_norm import native_group_norm_backward as native_group_norm_backward
from normbench.kernels.aten.instance_norm import instance_norm as instance_norm
from normbench.kernels.aten.instance_norm import instance_norm_functional as instance_norm_functional
from normbench.kernels.aten.layer_norm import layer_norm as layer_norm
from normbench.kernels.aten.layer_norm import native_layer_norm as native_layer_norm
from normbench.kernels.aten.layer_norm import native_layer_norm_backward as native_layer_norm_backward
from normbench.kernels.aten.local_response_norm import local_response_norm as local_response_norm
from normbench.kernels.aten.rms_norm import _fused_rms_norm as _fused_rms_norm
from normbench.kernels.aten.rms_norm import _fused_rms_norm_backward as _fused_rms_norm_backward
from normbench.kernels.aten.rms_norm import rms_norm as rms_norm
from normbench.kernels.aten.sync import batch_norm_elemt as batch_norm_elemt
from normbench.kernels.aten.sync import batch_norm_gather_stats_with_counts as batch_norm_gather_stats_with_counts
from normbench.kernels.aten.sync import (
    batch_norm_gather_stats_with_counts_functional as batch_norm_gather_stats_with_counts_functional,
)
from normbench.kernels.aten.sync import batch_norm_stats as batch_norm_stats
from normbench.kernels.aten.sync import sync_batch_norm as sync_batch_norm
from normbench.kernels.aten.sync import sync_batch_norm_functional as sync_batch_norm_functional
