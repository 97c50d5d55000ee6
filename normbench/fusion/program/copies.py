"""Launches that only copy: what they are for, and what would save them.

XLA copies an argument that is updated in place but not given away (donated), a donated one whose memory a result takes
while it is still to be read, and what is returned as it came. JAX pairs donated arguments with results of the same
shape and dtype in their order; the module's `input_output_alias` says which result took which argument's memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from normbench.fusion.hlo import Shape
from normbench.fusion.launches import Launch
from normbench.fusion.program.graph import CARRIED, Program
from normbench.fusion.program.kinds import TRIVIAL
from normbench.fusion.program.made_of import sources
from normbench.fusion.program.words import megabytes, some
from normbench.fusion.traffic import source

_IN_PLACE = ("dynamic-update-slice", "scatter", "copy", CARRIED)


@dataclass(frozen=True)
class Copy:
    """One launch that only copies.

    Attributes:
      donate: the argument that, donated, would save it.
      handed_through: the argument that is returned as it came.
      taken: the donated argument whose memory a result took while it was to be read.
    """

    launch: Launch
    donate: int | None = None
    handed_through: int | None = None
    taken: int | None = None


def copies(program: Program) -> tuple[Copy, ...]:
    """The plain copies of a program, each with its cause where that is known."""
    return tuple(_with_cause(program, launch) for launch in program.launches if _is_plain(program, launch))


def _is_plain(program: Program, launch: Launch) -> bool:
    """A copy into the same layout, alone or as all that a fusion does, and not from the host."""
    copied = _copied(program, launch)
    return bool(copied) and launch.kind == "copy" and all(_same_order(one, other) for one, other in copied)


def changes_layout(program: Program, launch: Launch) -> bool:
    """Whether a launch that only copies brings an array into another layout."""
    return any(not _same_order(one, other) for one, other in _copied(program, launch))


def _same_order(one: Shape, other: Shape) -> bool:
    """Whether two arrays differ in the memory that they lie in alone."""
    return replace(one, memory_space=other.memory_space) == other


def _copied(program: Program, launch: Launch) -> list[tuple[Shape, Shape]]:
    """What a launch that only copies reads and writes of each array; empty for any other, and where it fills."""
    instruction = launch.instruction
    if instruction.opcode == "copy":
        return [(program.nodes[value].shape, instruction.shape) for value, _ in launch.reads]
    if instruction.opcode != "fusion" or launch.kind != "copy":
        return []
    fused = program.module.computations[instruction.called[0]]
    inside = [one for one in fused.instructions if one.opcode not in TRIVIAL]
    origins = [source(fused, fused.by_id[one.operands[0]]) for one in inside if one.opcode == "copy"]
    if len(origins) < len(inside) or any(one.opcode != "parameter" for one in origins):
        return []
    return [(fused.by_id[one.operands[0]].shape, one.shape) for one in inside]


def _with_cause(program: Program, launch: Launch) -> Copy:
    value, result = launch.reads[0][0], launch.results[0]
    number = {one: place for place, one in enumerate(program.parameters)}
    argument = number.get(program.started_from(value))
    taker = {parameter: place for place, parameter in program.module.aliases.items()}
    if argument is not None and argument in taker:
        return Copy(launch, taken=argument)
    if result in program.outputs and (place := program.outputs.index(result)) in program.module.aliases:
        return Copy(launch, taken=program.module.aliases[place])
    if argument is None:
        return Copy(launch)
    if result in program.outputs:
        return Copy(launch, handed_through=argument)
    chains = (_chain(program, output) for output in program.outputs if output is not None)
    return Copy(launch, donate=argument) if any(result in chain for chain in chains) else Copy(launch)


def _chain(program: Program, output: int) -> list[int]:
    """A result, and what it is an update of, back to an argument; empty where it is no update of one."""
    found = [output]
    while program.nodes[found[-1]].opcode in _IN_PLACE:
        found.append(program.nodes[found[-1]].operands[0])
    return found if found[-1] in program.parameters else []


def misplaced(program: Program) -> dict[int, int | None]:
    """Results that took the memory of an argument of which they are not made, each with the result that replaces that
    argument: of its shape, made of it element by element, and of fewer other arrays than any other; None where several
    could."""
    made_of = {place: sources(program, value) for place, value in enumerate(program.outputs) if value is not None}
    return {
        place: _replacement(program, number, made_of)
        for place, number in sorted(program.module.aliases.items())
        if place in made_of and program.parameters[number] not in made_of[place]
    }


def _replacement(program: Program, number: int, made_of: dict[int, frozenset[int]]) -> int | None:
    parameter = program.parameters[number]
    found = [
        (len(arrays), place)
        for place, arrays in made_of.items()
        if parameter in arrays and _same(program, parameter, program.outputs[place])
    ]
    fewest = min((count for count, _ in found), default=0)
    places = [place for count, place in found if count == fewest]
    return places[0] if len(places) == 1 else None


def _same(program: Program, parameter: int, value: int | None) -> bool:
    if value is None:
        return False
    one, other = program.nodes[parameter].shape, program.nodes[value].shape
    return (one.element, one.dimensions) == (other.element, other.dimensions)


def copy_hints(program: Program, share: float) -> list[str]:
    """Sentences for the copies that move more than `share` of the program's bytes, by their cause."""
    total = _bytes(program.launches)
    found = copies(program)
    by_cause = {
        _donate: [copy for copy in found if copy.donate is not None],
        _handed_through: [copy for copy in found if copy.handed_through is not None],
        _taken: [copy for copy in found if copy.taken is not None],
        _unexplained: [copy for copy in found if copy.donate is copy.handed_through is copy.taken is None],
    }
    large = ((words, group) for words, group in by_cause.items() if _bytes(c.launch for c in group) > share * total)
    return [words(program, group) for words, group in large]


def _bytes(launches: Iterable[Launch]) -> int:
    return sum(launch.read_bytes + launch.write_bytes for launch in launches)


def _moves(group: list[Copy]) -> str:
    size = megabytes(_bytes(copy.launch for copy in group))
    if len(group) == 1:
        return f"copy: {group[0].launch.name} moves {size} only to copy"
    return f"copy: {some([copy.launch.name for copy in group])} move {size} only to copy"


def _arguments(program: Program, numbers: list[int]) -> str:
    return some([argument_name(program, number) for number in dict.fromkeys(numbers)])


def argument_name(program: Program, number: int) -> str:
    """As the compiler kept it, or "argument 3"."""
    return program.module.entry.parameters[number].op_name or f"argument {number}"


def _donate(program: Program, group: list[Copy]) -> str:
    names = _arguments(program, [copy.donate for copy in group if copy.donate is not None])
    return (
        f"{_moves(group)}, because {names} is updated and not given away; where it is not needed afterwards, donate it "
        "(jax.jit(..., donate_argnums=...))"
    )


def _handed_through(program: Program, group: list[Copy]) -> str:
    names = _arguments(program, [copy.handed_through for copy in group if copy.handed_through is not None])
    return f"{_moves(group)}, because {names} is returned as it came; leave it out of the results, or donate it"


def _taken(program: Program, group: list[Copy]) -> str:
    """Which results took the memory of the wrong arguments, and which would have to stand in their places."""
    wrong = [
        f"result {place} takes that of {argument_name(program, program.module.aliases[place])}"
        + ("" if right is None else f", which result {right} replaces")
        for place, right in misplaced(program).items()
    ]
    cause = f"{_moves(group)}, because results take the memory of donated arguments that are still to be read"
    if not wrong:
        return cause
    return (
        f"{cause}: {some(wrong)}; JAX pairs donated arguments with results of their shape in order, so return what "
        "replaces each argument in the order of the arguments"
    )


def _unexplained(program: Program, group: list[Copy]) -> str:
    return _moves(group)
