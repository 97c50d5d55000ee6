"""What the tests ask of a program without compiling it."""

from collections import Counter

from normbench.explanation.call import prepared_call
from normbench.explanation.lowering import lowered_call
from normbench.fusion.hlo import read_module
from normbench.jax_compat.provenance import numbered, unoptimised_hlo
from normbench.norms.kinds import kind_of
from normbench.norms.members import found_in
from normbench.norms.problem import DTYPE_NAMES
from normbench.norms.values import read_values


def found(function, *arguments, target="cpu"):
    """The program's values, and the normalizations in them."""
    bytecode, _ = lowered_call(prepared_call(function, arguments, {}), target)
    values = read_values(read_module(unoptimised_hlo(numbered(bytecode))))
    return values, found_in(values)


def counted(function, *arguments):
    """How often each (kind, axes, dtype of x) is found."""
    values, norms = found(function, *arguments)
    kinds = [(kind_of(values, one.match), values[one.match.x].shape.element) for one in norms]
    return Counter((kind.name, kind.axes, DTYPE_NAMES[element]) for kind, element in kinds)


def agreement(right, said):
    """(found and there, found and not there, there and not found)."""
    return (right & said).total(), (said - right).total(), (right - said).total()
