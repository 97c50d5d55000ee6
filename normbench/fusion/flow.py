"""Where the bytes of each launch come from and go to: arguments, other launches, results of the program."""

from collections.abc import Iterator
from dataclasses import dataclass

from normbench.fusion.hlo import Computation
from normbench.fusion.launches import Launch
from normbench.fusion.program.graph import Program


@dataclass(frozen=True)
class Flow:
    """The data of one launch.

    Attributes:
      inputs: (source, bytes) of each operand: the index of the launch that wrote it, or the name of an argument.
      results: bytes of each result of the program that the launch writes.
    """

    inputs: tuple[tuple[int | str, int], ...] = ()
    results: tuple[int, ...] = ()

    def input_lists(self) -> list[list[int | str]]:
        return [[source, size] for source, size in self.inputs]


def flows(program: Program) -> tuple[Flow, ...]:
    """The flow of each launch, for all its repetitions; what a loop carries on comes from where the loop started."""
    names = _argument_names(program.module.entry)
    arguments = {value: name for value, name in zip(program.parameters, names, strict=True) if value >= 0}
    results: dict[int, list[int]] = {}
    for value in program.outputs:
        launch = None if value is None else program.nodes[value].launch
        if value is not None and launch is not None:
            results.setdefault(launch, []).append(program.nodes[value].shape.size_bytes)
    return tuple(
        Flow(tuple(_inputs(program, launch, arguments)), tuple(results.get(launch.index, ())))
        for launch in program.launches
    )


def _inputs(program: Program, launch: Launch, arguments: dict[int, str]) -> Iterator[tuple[int | str, int]]:
    for value, size in launch.reads:
        first = program.started_from(value)
        source = arguments.get(first, program.nodes[first].launch)
        if source is not None and size:
            yield source, size * launch.repetitions


def _argument_names(entry: Computation) -> list[str]:
    """The name of each argument where the compiler kept one, made unique; else arg0, arg1, ..."""
    names: list[str] = []
    for parameter in entry.parameters:
        name = parameter.op_name if parameter.op_name and len(parameter.op_name) <= 24 else ""
        name = name or f"arg{parameter.parameter_number}"
        names.append(name if name not in names else f"{name} #{parameter.parameter_number}")
    return names
