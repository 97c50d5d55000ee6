"""Launches as people read them: equal ones together, those that move most first, the rest as one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""A row of the table `launches`; columns that a run of an earlier schema lacks are taken as unknown."""

SHOWN = 15
"""Launches, or groups of equal ones, that fit a screen."""

_SAME = ("kind", "ops", "source_ops", "read_bytes", "write_bytes", "repetitions", "repetitions_known", "branch",
         "grid", "block", "load_bytes", "store_bytes")  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Launches of one kind that do the same to as many bytes.

    Attributes:
      rows: of the table `launches`, in the order of execution.
    """

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def read_bytes(self) -> int:
        return sum(int(row["read_bytes"]) for row in self.rows)

    @property
    def write_bytes(self) -> int:
        return sum(int(row["write_bytes"]) for row in self.rows)

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.write_bytes

    @property
    def executed(self) -> int:
        return executed(self.rows)

    @property
    def predicted_s(self) -> float | None:
        return predicted_s(self.rows)

    @property
    def scope(self) -> str:
        """Where in the program it is: layers_*/attention for the launches of several layers."""
        return _common([words(row.get("scope")) for row in self.rows])


def groups(rows: Sequence[Row]) -> list[Group]:
    """Equal launches together, in the order of the first of each."""
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(_key(row.get(column)) for column in _SAME), []).append(row)
    return [Group(tuple(same)) for same in found.values()]


def shown_and_rest(rows: Sequence[Row], most: int = SHOWN) -> tuple[list[Group], list[Row]]:
    """What a screen shows of a program, and the launches that it does not.

    Every launch in the order of execution where there are at most `most`; else the groups that move most, those first.
    """
    if len(rows) <= most:
        return [Group((row,)) for row in rows], []
    ordered = sorted(groups(rows), key=lambda group: -group.bytes)
    return ordered[:most], [row for group in ordered[most:] for row in group.rows]


def how_often(group: Group) -> str:
    """12 launches x8, one of 3 branches; empty for one launch that runs once. "x?" is a loop of unknown length."""
    row, count = group.first, len(group.rows)
    runs = [f"{count} launches"] if count > 1 else []
    if not length_known(row):
        runs.append("x?")
    elif repetitions(row) != 1:
        runs.append(f"x{repetitions(row)}")
    branch = re.sub(r"^1 of", "one of", words(row.get("branch")))
    return ", ".join(part for part in (" ".join(runs), branch) if part)


def repetitions(row: Row) -> int:
    """How often a launch runs."""
    value = row.get("repetitions")
    return 1 if absent(value) else int(value)  # type: ignore[arg-type]


def length_known(row: Row) -> bool:
    """Whether the loop that a launch runs in, if it does, has a known length."""
    value = row.get("repetitions_known")
    return absent(value) or bool(value)


def executed(rows: Iterable[Row]) -> int:
    """How many launches run."""
    return sum(repetitions(row) for row in rows)


def predicted_s(rows: Iterable[Row]) -> float | None:
    """The sum of what is predicted; None where that of one of them is not known."""
    values = [row.get("predicted_s") for row in rows]
    return None if any(absent(value) for value in values) else sum(values)  # type: ignore[arg-type]


def absent(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN or NA."""
    return value is None or value != value or str(value) == "<NA>"


def words(value: Any) -> str:
    """A cell of text; "" for an empty one."""
    return value if isinstance(value, str) else ""


def _key(value: Any) -> Any:
    return None if absent(value) else value


def _common(names: Sequence[str]) -> str:
    """What the names share but for their numbers, which become *; "" where more differs."""
    if len(set(names)) == 1:
        return names[0]
    patterns = {re.sub(r"\d+", "*", name) for name in names}
    return patterns.pop() if len(patterns) == 1 else ""
