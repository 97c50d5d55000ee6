"""Freezing: shared variables become constants, so that what depends on them alone is computed at compile time."""

from collections.abc import Sequence

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.tensor.sharedvar import TensorSharedVariable

from normbench.errors import UserError


def freeze(
    outputs: Variable | Sequence[Variable], shared: Sequence[SharedVariable] | None = None
) -> Variable | list[Variable]:
    """Returns a copy of a graph with shared tensors replaced by constants of their present values.

    Args:
      outputs: one variable or several.
      shared: which ones; by default every shared tensor that `outputs` depend on. Leave out what is updated.

    Returns:
      The copy, which no longer follows `set_value`; the given graph is left as it is.

    Raises:
      UserError: a variable in `shared` that is not a shared tensor.
    """
    roots = [outputs] if isinstance(outputs, Variable) else list(outputs)
    chosen = _shared_tensors(roots) if shared is None else list(shared)
    for variable in chosen:
        if not isinstance(variable, TensorSharedVariable):
            raise UserError(f"{variable!r} is not a shared tensor; allowed: what pytensor.shared(array) returns")
    constants = {v: v.type.constant_type(v.type, v.get_value(), name=v.name) for v in chosen}
    frozen = clone_replace(roots, constants)
    return frozen[0] if isinstance(outputs, Variable) else frozen


def _shared_tensors(outputs: Sequence[Variable]) -> list[SharedVariable]:
    return list(dict.fromkeys(v for v in graph_inputs(outputs) if isinstance(v, TensorSharedVariable)))
