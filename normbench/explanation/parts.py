"""Which parts of the program compute in each launch: scopes, lines of Python, and passes of the differentiation."""

from dataclasses import dataclass

from normbench.fusion.compilation import Compilation
from normbench.fusion.hlo import Instruction, read_module
from normbench.fusion.program.graph import read_graph
from normbench.fusion.program.origins import scope, source_line
from normbench.norms.members import BACKWARD, FORWARD, REPEATED, pass_of

PASSES = (FORWARD, BACKWARD, REPEATED)
_MOVES = frozenset((
    "parameter", "constant", "broadcast", "bitcast", "reshape", "convert", "copy", "iota", "tuple", "get-tuple-element",
))  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What computes in one launch.

    Attributes:
      scopes, sources: of every operation in it that computes; of what only moves data where nothing computes.
      pass_: backward where one of them is of the backward pass, else rematerialised where one is repeated for it.
    """

    scopes: frozenset[str]
    sources: frozenset[str]
    pass_: str


def parts_of(compilation: Compilation) -> tuple[Parts, ...]:
    """The parts of each launch, in order."""
    module = read_module(compilation.hlo)
    program = read_graph(module)
    inside: list[list[Instruction]] = [[] for _ in program.launches]
    for node in program.nodes:
        if node.launch is not None and (node.instruction.op_name or node.instruction.frame):
            inside[node.launch].append(node.instruction)
    found = []
    for instructions in inside:
        telling = [one for one in instructions if one.opcode not in _MOVES] or instructions
        passes = {pass_of(one.op_name) for one in telling}
        found.append(
            Parts(
                frozenset(scope(one.op_name) for one in telling) or frozenset([""]),
                frozenset(source_line(module, one.frame) for one in telling) or frozenset([""]),
                next((name for name in (BACKWARD, REPEATED) if name in passes), FORWARD),
            )
        )
    return tuple(found)
