"""Normalization kernels for JAX: operators, and the variants that compute them.

    import kernels
    kernels.operators()                    # names
    kernels.variants("batch_norm")         # names, the baseline first
    kernels.get("batch_norm", "folded")    # callable with the operator's own signature
"""

from kernels import batch_norm as batch_norm
from kernels import conv_bn as conv_bn
from kernels.problem import Problem as Problem
from kernels.program import Program as Program
from kernels.program import program as program
from kernels.registry import Variant as Variant
from kernels.registry import get as get
from kernels.registry import operator as operator
from kernels.registry import operators as operators
from kernels.registry import variants as variants
