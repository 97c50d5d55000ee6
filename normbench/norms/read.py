"""Reads the normalizations out of a compiled program and the module that it was compiled from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from normbench.fusion.compilation import Compilation
from normbench.fusion.hlo import read_module
from normbench.fusion.program.graph import Program, read_graph
from normbench.fusion.program.origins import scope
from normbench.jax_compat.provenance import unoptimised_hlo
from normbench.norms.advice import advice_for
from normbench.norms.attribution import Shares, bytes_of, least_bytes, shares
from normbench.norms.kinds import Kind, kind_of
from normbench.norms.members import BACKWARD, FORWARD, REPEATED, Found, found_in
from normbench.norms.problem import DTYPE_NAMES, problem_of
from normbench.norms.recognise import epsilon_of
from normbench.norms.site import Norms, Site, range_of, seconds_of
from normbench.norms.statistics import below_moves
from normbench.norms.values import Frames, Values, read_values
from normbench.norms.values import Path as Numbers


def norms_of(
    name: str,
    compilation: Compilation,
    bytecode: bytes,
    launch_s: Sequence[float | None],
    launch_range_s: Sequence[tuple[float, float] | None],
) -> Norms:
    """The normalizations of a program.

    Args:
      name: of the program.
      compilation: of the numbered module.
      bytecode: that module, StableHLO with a number on each operation (`normbench.jax_compat.provenance`).
      launch_s: predicted seconds of each launch; launch_range_s: low and high around them.
    """
    values = read_values(read_module(unoptimised_hlo(bytecode)))
    found = found_in(values)
    program = read_graph(read_module(compilation.hlo))
    known = frozenset(value.path for value in values.all if value.path)
    members = [_paths(values, one.members) for one in found]
    share = shares(program, known, members, [_paths(values, one.around) for one in found])
    refusals = _refusals(compilation)
    sites = [
        _site(index, values, one, program, share, launch_s, launch_range_s, refusals, compilation.target)
        for index, one in enumerate(found)
    ]
    return Norms(
        name=name,
        target=compilation.target,
        sites=tuple(sites),
        groups=share.of,
        launch_bytes=tuple(launch.read_bytes + launch.write_bytes for launch in program.launches),
        launch_s=tuple(launch_s),
        launch_range_s=tuple(launch_range_s),
        module=bytecode,
    )


def _paths(values: Values, ids: frozenset[int]) -> frozenset[Numbers]:
    return frozenset(values[one].path for one in ids if values[one].path)


def _refusals(compilation: Compilation) -> Mapping[int, list[str]]:
    reading = compilation.reading
    found: dict[int, list[str]] = {}
    for refusal in reading.refusals:
        found.setdefault(refusal.producer, []).append(refusal.sentence(reading.launches))
    return found


def _site(
    index: int,
    values: Values,
    found: Found,
    program: Program,
    share: Shares,
    launch_s: Sequence[float | None],
    launch_range_s: Sequence[tuple[float, float] | None],
    refusals: Mapping[int, list[str]],
    target: str,
) -> Site:
    match, kind = found.match, kind_of(values, found.match)
    own, shared = share.own(index), share.shared(index)
    root = values[match.root]
    facts: dict[str, Any] = {
        "kind": kind.name,
        "statistics": "given" if match.statistic.x is None else "computed",
        "shape": kind.shape,
        "axes": kind.axes,
        "channel_axis": kind.channel_axis,
        "groups": kind.groups,
        "layout": _layout(kind),
        "dtype": _dtype(values, match.x),
        "output_dtype": _dtype(values, match.y),
        "statistics_dtype": _dtype(values, match.root),
        "param_dtype": _dtype(values, match.root if match.scale is None else below_moves(values, match.scale)),
        "epsilon": epsilon_of(values, match),
        "masked": match.statistic.masked,
        "devices": match.statistic.devices,
        "activation": found.activation,
        "residual": found.residual,
        "passes": tuple(
            name
            for name, ids in ((FORWARD, found.forward), (BACKWARD, found.backward), (REPEATED, found.repeated))
            if ids
        ),
        "scope": scope(root.name),
        "source": source_of(root.frames),
        "launches": own,
        "shared": shared,
        "executed": sum(program.launches[i].repetitions for i in own),
        "own_bytes": bytes_of(program, own),
        "shared_bytes": bytes_of(program, shared),
        "least_bytes": least_bytes(program, (*own, *shared)),
        "predicted_s": seconds_of(launch_s, own),
        "predicted_range_s": range_of(launch_range_s, own),
        "shared_predicted_s": seconds_of(launch_s, shared),
        "refusals": tuple(sentence for i in (*own, *shared) for sentence in refusals.get(i, ())),
        "repetitions": max((program.launches[i].repetitions for i in (*own, *shared)), default=1),
    }
    problem = problem_of(facts)
    advice = advice_for(facts, problem, values, match, program, own, target)
    return Site(index=index, advice=advice, problem=problem, target=target, **facts)


def _dtype(values: Values, value: int) -> str:
    element = values[value].shape.element
    return DTYPE_NAMES.get(element, element)


def _layout(kind: Kind) -> str:
    if kind.channel_axis is None:
        return ""
    return "channels last" if kind.channel_axis == len(kind.shape) - 1 else "channels first"


_LIBRARIES = ("/site-packages/", "/dist-packages/")
_OWN = ("normbench/fusion/", "normbench/jax_compat/", "normbench/explanation/", "normbench/cli/")


def source_of(frames: Frames) -> str:
    """file:line of the innermost Python that is no installed library's, else of the innermost at all."""
    usable = [
        (file, line) for file, line in frames if not file.startswith("<") and not any(part in file for part in _OWN)
    ]
    # A console script is no .py file: who calls this program from a shell did not write it.
    own = [
        (file, line) for file, line in usable
        if not any(part in file for part in _LIBRARIES) and Path(file).name != "normbench"
    ]  # fmt: skip
    for file, line in (own or usable)[:1]:
        path = Path(file)
        if path.parent.name.startswith("ipykernel_"):  # a new name in each session
            return f"a cell:{line}"
        short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[-2:])
        return f"{short}:{line}"
    return ""
