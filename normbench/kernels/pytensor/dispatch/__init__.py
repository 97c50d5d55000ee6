"""What turns the Ops of this package into functions of a backend, loaded with PyTensor's own for that backend.

PyTensor has no entry points: a dispatch has to be registered before the linker looks for it, and registering imports
the backend. So importing this package imports no backend, and watches for PyTensor's dispatch modules: as soon as
anyone imports one of them (a linker, `pickle` in a new process, PyMC's `jaxify`), ours for that backend follows it.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

from normbench.errors import unknown

_MODULES = {
    "jax": ("jax_ops",),
    "numba": ("numba_ops", "numba_pool"),
    "pytorch": ("pytorch_ops",),
    "mlx": ("mlx_ops",),
}
BACKENDS = tuple(_MODULES)


def register(backend: str) -> None:
    """Registers the dispatches of one of `BACKENDS`, and so imports it. Calling it again does nothing.

    There is no need to: it happens when PyTensor's dispatch module of the backend is imported.

    Raises:
      UserError: an unknown backend.
      ModuleNotFoundError: a backend that is not installed.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    for module in _MODULES[backend]:
        importlib.import_module(f"normbench.kernels.pytensor.dispatch.{module}")


class _Follower(importlib.abc.MetaPathFinder):
    """Finds PyTensor's dispatch modules as the other finders do, and registers ours when one has been executed."""

    def __init__(self) -> None:
        self.backends = {_upstream(backend): backend for backend in BACKENDS}
        self.finding: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        backend = self.backends.get(fullname)
        if backend is None or fullname in self.finding:
            return None
        self.finding.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self.finding.discard(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            register(backend)

        loader.exec_module = exec_module  # type: ignore[method-assign]  # this spec's own loader
        return spec


def _upstream(backend: str) -> str:
    return f"pytensor.link.{backend}.dispatch"


def follow() -> None:
    """Registers for the backends that are loaded already, and watches for the others."""
    sys.meta_path.insert(0, _Follower())
    for backend in BACKENDS:
        if _upstream(backend) in sys.modules:
            register(backend)
