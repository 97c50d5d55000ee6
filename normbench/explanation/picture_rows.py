"""What a fusion picture shows, from the rows of the table `launches`: boxes, and what flows between them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench.explanation.groups import Group, absent, how_often, words

MAX_BOXES = 20
"""Boxes of a picture; of a longer program those launches are drawn apart that move most, and what lies between two of
them shares a box."""
_SMALL = 0.01  # of the widest flow: arguments below it are drawn as one
_APART = 6  # arguments of one box that are drawn one by one
_NAMED = 3  # small arguments that are named


@dataclass(frozen=True)
class Argument:
    """Arguments that one launch reads; `again` where an earlier launch has read them already."""

    name: str
    size: int
    again: bool


@dataclass(frozen=True)
class Box:
    """A launch, or several that follow each other in a long program.

    Attributes:
      index: place in the picture.
      label: the index of the launch; "" for several.
      count: launches that it stands for.
      often: how often it runs, in words; "" for once.
      wire_bytes: sent to other devices, or moved from or to the host.
      inner: (index of a box, bytes) read of each earlier launch.
      refused: (indices of the boxes into which it was not fused, reason).
    """

    index: int
    label: str
    count: int
    often: str
    name: str
    kind: str
    ops: str
    read_bytes: int
    write_bytes: int
    wire_bytes: int
    arguments: tuple[Argument, ...]
    inner: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    refused: tuple[tuple[tuple[int, ...], str], ...]


def boxes(rows: Sequence[Mapping[str, Any]], most: int = MAX_BOXES) -> list[Box]:
    """At most `most` boxes in the order of execution; nothing flows between them where a run did not record flows."""
    parsed = [_parsed(place, row) for place, row in enumerate(rows)]
    stretches = _stretches([row["read_bytes"] + row["write_bytes"] for row in parsed], most)
    box_of = {place: index for index, stretch in enumerate(stretches) for place in stretch}
    drawn = [_joined([parsed[place] for place in stretch]) for stretch in stretches]
    widest = max((size for row in drawn for _, size in row["inputs"]), default=0)
    widest = max([widest, *(size for row in drawn for size in row["results"])])
    seen: set[str] = set()
    return [_box(index, row, box_of, seen, _SMALL * widest) for index, row in enumerate(drawn)]


def _stretches(sizes: Sequence[int], most: int) -> list[range]:
    """The places of the launches in each box: one for those that move most, and all between two of them."""
    apart: set[int] = set()
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        if len(_cut(len(sizes), apart | {place})) > most:
            break
        apart.add(place)
    return _cut(len(sizes), apart)


def _cut(length: int, apart: set[int]) -> list[range]:
    found, start = [], 0
    for place in (*sorted(apart), length):
        if place > start:
            found.append(range(start, place))
        if place < length:
            found.append(range(place, place + 1))
        start = place + 1
    return found


def _box(index: int, row: dict[str, Any], box_of: Mapping[int, int], seen: set[str], small: float) -> Box:
    inner: dict[int, int] = {}
    for source, size in row["inputs"]:
        if isinstance(source, int) and (box := box_of.get(source, index)) != index:
            inner[box] = max(size, inner.get(box, 0))
    refused = tuple(
        (tuple(sorted({box_of[c] for c in into if c in box_of} - {index})), why) for into, why in row["refused"]
    )
    facts = {
        name: row[name]
        for name in ("label", "count", "often", "name", "kind", "ops", "read_bytes", "write_bytes", "wire_bytes")
    }
    return Box(index=index, **facts, arguments=_arguments(row["inputs"], seen, small), inner=tuple(inner.items()),
               results=tuple(row["results"]), refused=refused)  # fmt: skip


def _parsed(place: int, row: Mapping[str, Any]) -> dict[str, Any]:
    operations = words(row.get("source_ops")) or words(row.get("ops"))
    return {
        "label": str(place),
        "count": 1,
        "often": how_often(Group((row,))),
        "name": words(row.get("name")),
        "kind": words(row.get("kind")),
        "ops": ", ".join(dict.fromkeys(operations.split(","))),
        "read_bytes": int(row["read_bytes"]),
        "write_bytes": int(row["write_bytes"]),
        "wire_bytes": 0 if absent(row.get("wire_bytes")) else int(row["wire_bytes"]),
        "inputs": _list(row.get("inputs")),
        "results": _list(row.get("results")),
        "refused": [(tuple(into), why) for into, why in _list(row.get("refused"))],
    }


def _named(argument: str) -> str:
    """input 0 for arrays[0]: JAX names the arguments of a function of *arrays so."""
    return re.sub(r"^arrays\[(\d+)\]$", r"input \1", argument)


def _list(cell: Any) -> Sequence:
    """A list as it is, or as JSON in a table; an empty one for what a run did not record."""
    if isinstance(cell, list | tuple):
        return cell
    return json.loads(cell) if isinstance(cell, str) and cell else []


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One box for launches that follow each other; what flows from one of them to another stays inside."""
    if len(rows) == 1:
        return rows[0]
    within = {int(row["label"]) for row in rows}
    return {
        "label": "",
        "count": len(rows),
        "often": "",
        "name": f"{len(rows)} more launches",
        "kind": "",
        "ops": ", ".join(dict.fromkeys(word for row in rows for word in row["ops"].split(", "))),
        "read_bytes": sum(row["read_bytes"] for row in rows),
        "write_bytes": sum(row["write_bytes"] for row in rows),
        "wire_bytes": sum(row["wire_bytes"] for row in rows),
        "inputs": [pair for row in rows for pair in row["inputs"] if pair[0] not in within],
        "results": [size for row in rows for size in row["results"]],
        "refused": [],
    }


def _arguments(inputs: Sequence[tuple[int | str, int]], seen: set[str], small: float) -> tuple[Argument, ...]:
    """The largest arguments one by one, the largest first, and the small ones as one; marks those in `seen`."""
    sizes: dict[str, int] = {}
    for source, size in inputs:
        if isinstance(source, str):
            sizes[source] = max(size, sizes.get(source, 0))
    found = [Argument(_named(name), size, name in seen) for name, size in sizes.items()]
    seen.update(sizes)
    ordered = sorted(found, key=lambda each: -each.size)
    large = [each for each in ordered if each.size >= small][:_APART]
    little = [each for each in found if each not in large]
    if len(little) > 1:
        many = f"{len(little)} {'small' if max(each.size for each in little) < small else 'more'} arguments"
        names = ", ".join(each.name for each in little) if len(little) <= _NAMED else many
        little = [Argument(names, sum(each.size for each in little), all(each.again for each in little))]
    return (*large, *(replace(each, again=False) for each in little))
