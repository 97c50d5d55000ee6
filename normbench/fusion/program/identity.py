"""Which launch of the optimised program computes a value of the program at an earlier stage of compilation.

Passes rename instructions, but leave what is computed: a value is told by what it is computed from, down to the
arguments. Copies do not count, nor do shapes: late passes fold bitcasts into products.
"""

from collections.abc import Hashable

from normbench.fusion.hlo import ATTRIBUTES
from normbench.fusion.program.graph import CARRIED, Node, Program

_SAME = frozenset(["copy", "copy-start", "reshape"])


def fingerprints(program: Program) -> tuple[int, ...]:
    """A number for each node; equal where the same is computed of the same."""
    found: list[int] = []
    parameters = {value: place for place, value in enumerate(program.parameters)}
    for node in program.nodes:
        if node.opcode in _SAME and node.operands:
            found.append(found[node.operands[0]])
        else:
            found.append(hash(_identity(node, parameters, found)))
    return tuple(found)


def _identity(node: Node, parameters: dict[int, int], before: list[int]) -> Hashable:
    if node.id in parameters:
        return "parameter", parameters[node.id]
    operands = tuple(before[operand] for operand in node.operands)
    if node.opcode in (CARRIED, "constant", "iota"):
        return node.opcode, node.shape.dimensions, operands, node.instruction.attributes.get(ATTRIBUTES["literal"])
    return node.opcode, operands, node.instruction.slices, node.instruction.tuple_index


def same_values(earlier: Program, later: Program) -> dict[int, int]:
    """For each node of `earlier` that a launch of `later` writes, the node there.

    Where several have the same identity (two slices of one array, say), they are matched in their order if there are
    as many on both sides; otherwise they are left out.
    """
    written_before = _by_fingerprint(earlier)
    written_after = _by_fingerprint(later)
    found: dict[int, int] = {}
    for identity, values in written_before.items():
        others = written_after.get(identity, [])
        if len(values) == len(others):
            found.update(zip(values, others, strict=True))
    return found


def _by_fingerprint(program: Program) -> dict[int, list[int]]:
    """Values that launches write, by their fingerprint, in order; plain copies are left out."""
    marks = fingerprints(program)
    found: dict[int, list[int]] = {}
    for launch in program.launches:
        if launch.kind in ("copy", "host copy"):
            continue
        for value in dict.fromkeys(launch.results):
            if program.nodes[value].launch == launch.index:
                found.setdefault(marks[value], []).append(value)
    return found
