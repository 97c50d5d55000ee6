"""Normalization kernels for JAX: operators, and the variants that compute them.

>>> import kernels
>>> len(kernels.operators())
8
>>> kernels.variants("conv_bn")  # the baseline first
('unfused', 'folded', 'prefolded')
>>> folded = kernels.get("batch_norm", "folded")  # callable with the operator's own signature
"""

from kernels import batch_norm as batch_norm
from kernels import batch_norm_training as batch_norm_training
from kernels import conv_bn as conv_bn
from kernels import group_norm as group_norm
from kernels import instance_norm as instance_norm
from kernels import layer_norm as layer_norm
from kernels import local_response_norm as local_response_norm
from kernels import rms_norm as rms_norm
from kernels.problem import Problem as Problem
from kernels.program import Program as Program
from kernels.program import program as program
from kernels.program import reference as reference
from kernels.registry import Variant as Variant
from kernels.registry import get as get
from kernels.registry import operator as operator
from kernels.registry import operators as operators
from kernels.registry import variants as variants
