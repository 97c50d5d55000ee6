"""What a fusion picture shows, from the rows of the table `launches`: boxes, and what flows between them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_BOXES = 14
"""Launches that are drawn apart; of a longer program the last ones share a box."""
_SMALL = 0.01  # of the widest flow: arguments below it are drawn as one
_NAMED = 3  # small arguments that are named


@dataclass(frozen=True)
class Argument:
    """Arguments that one launch reads; `again` where an earlier launch has read them already."""

    name: str
    size: int
    again: bool


@dataclass(frozen=True)
class Box:
    """A launch, or the rest of a long program.

    Attributes:
      index: place in the picture; also that of the launch, but for the last box of a long program.
      count: launches that it stands for.
      inner: (index of a box, bytes) read of each earlier launch.
      refused: (indices of the boxes into which it was not fused, reason).
    """

    index: int
    count: int
    name: str
    kind: str
    ops: str
    read_bytes: int
    write_bytes: int
    arguments: tuple[Argument, ...]
    inner: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    refused: tuple[tuple[tuple[int, ...], str], ...]


def boxes(rows: Sequence[Mapping[str, Any]]) -> list[Box]:
    """A box per launch in the order of execution; empty for rows of a run that did not record flows."""
    parsed = [_parsed(place, row) for place, row in enumerate(rows)]
    if len(parsed) > MAX_BOXES:
        parsed = [*parsed[: MAX_BOXES - 1], _rest(parsed[MAX_BOXES - 1 :])]
    widest = max((size for row in parsed for _, size in row["inputs"]), default=0)
    widest = max([widest, *(size for row in parsed for size in row["results"])])
    seen: set[str] = set()
    found = []
    for row in parsed:
        last = len(parsed) - 1
        inner: dict[int, int] = {}
        for source, size in row["inputs"]:
            if isinstance(source, int) and min(source, last) != row["index"]:
                inner[min(source, last)] = max(size, inner.get(min(source, last), 0))
        arguments = _arguments(row["inputs"], seen, _SMALL * widest)
        refused = tuple((tuple(sorted({min(c, last) for c in into})), why) for into, why in row["refused"])
        facts = {name: row[name] for name in ("index", "count", "name", "kind", "ops", "read_bytes", "write_bytes")}
        found.append(Box(**facts, arguments=arguments, inner=tuple(inner.items()), results=tuple(row["results"]),
                         refused=refused))  # fmt: skip
    return found


def _parsed(place: int, row: Mapping[str, Any]) -> dict[str, Any]:
    words = _words(row.get("source_ops")) or _words(row.get("ops"))
    return {
        "index": place,
        "count": 1,
        "name": _words(row.get("name")),
        "kind": _words(row.get("kind")),
        "ops": ", ".join(dict.fromkeys(words.split(","))),
        "read_bytes": int(row["read_bytes"]),
        "write_bytes": int(row["write_bytes"]),
        "inputs": _json(row.get("inputs")),
        "results": _json(row.get("results")),
        "refused": [(tuple(into), why) for into, why in _json(row.get("refused"))],
    }


def _named(argument: str) -> str:
    """input 0 for arrays[0]: JAX names the arguments of a function of *arrays so."""
    return re.sub(r"^arrays\[(\d+)\]$", r"input \1", argument)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _json(cell: Any) -> list:
    return json.loads(cell) if isinstance(cell, str) and cell else []


def _rest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]["index"]
    inputs = [pair for row in rows for pair in row["inputs"] if not (isinstance(pair[0], int) and pair[0] >= first)]
    return {
        "index": first,
        "count": len(rows),
        "name": f"{len(rows)} more launches",
        "kind": "",
        "ops": ", ".join(dict.fromkeys(word for row in rows for word in row["ops"].split(", "))),
        "read_bytes": sum(row["read_bytes"] for row in rows),
        "write_bytes": sum(row["write_bytes"] for row in rows),
        "inputs": inputs,
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
    large = sorted((each for each in found if each.size >= small), key=lambda each: -each.size)
    little = [each for each in found if each.size < small]
    if len(little) > 1:
        names = ", ".join(each.name for each in little) if len(little) <= _NAMED else f"{len(little)} small arguments"
        little = [Argument(names, sum(each.size for each in little), all(each.again for each in little))]
    return (*large, *(replace(each, again=False) for each in little))
