"""What XLA makes of normalizations, how long they take, and which variant to use.

>>> import normbench
>>> import jax
>>> report = normbench.explain(jax.nn.standardize, jax.ShapeDtypeStruct((8192, 4096), "bfloat16"), target="h200")

`import normbench` imports neither JAX nor pandas: what needs them is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench import kernels as kernels
    from normbench.explanation.explain import Report as Report
    from normbench.explanation.explain import explain as explain
    from normbench.explanation.explain import explain_call as explain_call
    from normbench.explanation.meshes import mesh as mesh

__version__ = "0.1.0"

_EXPLANATION = ("Report", "explain", "explain_call")


def __getattr__(name: str) -> Any:
    if name == "kernels":
        return importlib.import_module("normbench.kernels")
    if name == "mesh":
        return importlib.import_module("normbench.explanation.meshes").mesh
    if name in _EXPLANATION:
        return getattr(importlib.import_module("normbench.explanation.explain"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "kernels", "mesh", *_EXPLANATION})
