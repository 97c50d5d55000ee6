"""Normalization kernels for JAX: operators, and the variants that compute them.

>>> from normbench import kernels
>>> len(kernels.operators())
8
>>> kernels.variants("conv_bn")  # the baseline first
('unfused', 'folded', 'prefolded')
>>> folded = kernels.get("batch_norm", "folded")  # callable with the operator's own signature
>>> fastest = kernels.best(kernels.Problem("rms_norm", (1, 512, 4096), "nlc"))  # where it was measured, on this CPU

JAX is imported when one of these names is first used, so that `normbench.kernels.pytensor` can be imported without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.kernels.choice import best as best
    from normbench.kernels.problem import Problem as Problem
    from normbench.kernels.program import Program as Program
    from normbench.kernels.program import program as program
    from normbench.kernels.program import reference as reference
    from normbench.kernels.registry import Variant as Variant
    from normbench.kernels.registry import get as get
    from normbench.kernels.registry import operator as operator
    from normbench.kernels.registry import operators as operators
    from normbench.kernels.registry import variants as variants

if __name__ != "normbench.kernels":  # a second copy would fill a registry of its own, which nobody reads
    raise ImportError(f"import it as normbench.kernels, not as {__name__}")

_PUBLIC = {
    "normbench.kernels.choice": ("best",),
    "normbench.kernels.problem": ("Problem",),
    "normbench.kernels.program": ("Program", "program", "reference"),
    "normbench.kernels.registry": ("Variant", "get", "operator", "operators", "variants"),
}


def __getattr__(name: str) -> Any:
    if not any(name in names for names in _PUBLIC.values()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All at once: importing the module `normbench.kernels.program` binds its name here, where the function is to be.
    for module, names in _PUBLIC.items():
        found = importlib.import_module(module)
        globals().update({public: getattr(found, public) for public in names})
    return globals()[name]
