"""What turns the Ops of this package into functions of a backend, loaded when a function is compiled for that backend.

PyTensor has no entry points: a dispatch has to be registered before the linker looks for it, and registering imports
the backend. So importing this package adds graph rewrites that change no graph. One runs where a function is compiled
with the tag "jax", one with "numba", one with "mlx", and registers the dispatches of that backend just before its
linker, which imports the backend anyway. PyTensor's JAX and Numba linkers ask for their tag whatever the mode; the mode
"MLX" asks for its own. PyTorch has no tag: call `register("pytorch")` before compiling for it.

`mode.excluding("kernels_jax_dispatch")` leaves the registration out.
"""

import importlib

from pytensor.compile.mode import optdb
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import GraphRewriter

from normbench.errors import unknown

BACKENDS = ("jax", "numba", "pytorch", "mlx")
_TAGGED = ("jax", "numba", "mlx")


def register(backend: str) -> None:
    """Registers the dispatches of one of `BACKENDS`, and so imports it. Calling it again does nothing.

    Raises:
      UserError: an unknown backend.
      ModuleNotFoundError: a backend that is not installed.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    importlib.import_module(f"normbench.kernels.pytensor.dispatch.{backend}_ops")


class _Register(GraphRewriter):
    """A rewrite that leaves the graph as it is and registers the dispatches of a backend."""

    def __init__(self, backend: str):
        super().__init__()
        self.backend = backend

    def add_requirements(self, fgraph: FunctionGraph) -> None:
        pass

    def apply(self, fgraph: FunctionGraph) -> None:
        register(self.backend)


for _backend in _TAGGED:
    optdb.register(f"kernels_{_backend}_dispatch", _Register(_backend), _backend, position=100)
