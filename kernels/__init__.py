"""Normalization kernels for JAX: operators, and the variants that compute them.

>>> import kernels
>>> len(kernels.operators())
8
>>> kernels.variants("conv_bn")  # the baseline first
('unfused', 'folded', 'prefolded')
>>> folded = kernels.get("batch_norm", "folded")  # callable with the operator's own signature

JAX is imported when one of these names is first used, so that `kernels.pytensor` can be imported without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.problem import Problem as Problem
    from kernels.program import Program as Program
    from kernels.program import program as program
    from kernels.program import reference as reference
    from kernels.registry import Variant as Variant
    from kernels.registry import get as get
    from kernels.registry import operator as operator
    from kernels.registry import operators as operators
    from kernels.registry import variants as variants

_PUBLIC = {
    "kernels.problem": ("Problem",),
    "kernels.program": ("Program", "program", "reference"),
    "kernels.registry": ("Variant", "get", "operator", "operators", "variants"),
}


def __getattr__(name: str) -> Any:
    if not any(name in names for names in _PUBLIC.values()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All at once: importing the module `kernels.program` binds its name here, where the function is to be.
    for module, names in _PUBLIC.items():
        found = importlib.import_module(module)
        globals().update({public: getattr(found, public) for public in names})
    return globals()[name]
