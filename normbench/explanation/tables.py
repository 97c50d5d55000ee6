"""Sums over the launches of a program, from rows of the table `launches`: the largest, by scope, by line of source."""

from collections.abc import Callable, Hashable, Iterable, Sequence

import pandas as pd

from normbench.errors import UserError
from normbench.explanation.groups import Group, Row, executed, groups, how_often, predicted_s, words


def top(rows: Sequence[Row], number: int) -> pd.DataFrame:
    """The groups of equal launches that move most, those first.

    Columns: name, kind, source_ops and scope of the first of each, `launches` and `executed` (how many there are, and
    how often they run), how_often (the same in words), read_bytes, write_bytes, bytes, share of all bytes,
    predicted_s.
    """
    if number < 1:
        raise UserError(f"number is {number}; allowed: 1 or more")
    total = Group(tuple(rows)).bytes
    found = sorted(groups(rows), key=lambda group: -group.bytes)[:number]
    return pd.DataFrame([{**_names(group), **_sums(group.rows, total)} for group in found], columns=[*_NAMES, *_SUMS])


def by_scope(rows: Sequence[Row], depth: int) -> pd.DataFrame:
    """Sums over the launches whose scopes share their first `depth` names; "" for those without a scope."""
    if depth < 1:
        raise UserError(f"depth is {depth}; allowed: 1 or more")
    return _by(rows, "scope", lambda row: "/".join(words(row.get("scope")).split("/")[:depth]))


def by_source(rows: Sequence[Row]) -> pd.DataFrame:
    """Sums over the launches of one line of Python, file:line; "" for those without one."""
    return _by(rows, "source", lambda row: words(row.get("source")))


_NAMES = ("name", "kind", "source_ops", "scope", "how_often")
_SUMS = ("launches", "executed", "read_bytes", "write_bytes", "bytes", "share", "predicted_s")


def _by(rows: Sequence[Row], name: str, key: Callable[[Row], Hashable]) -> pd.DataFrame:
    found: dict[Hashable, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    total = Group(tuple(rows)).bytes
    sums = pd.DataFrame([{name: value, **_sums(same, total)} for value, same in found.items()], columns=[name, *_SUMS])
    return sums.set_index(name).sort_values("bytes", ascending=False, kind="stable")


def _names(group: Group) -> dict[str, str]:
    first = group.first
    plain = {name: words(first.get(name)) for name in ("name", "kind", "source_ops")}
    return {**plain, "scope": group.scope, "how_often": how_often(group)}


def _sums(rows: Iterable[Row], total: int) -> dict[str, float | int | None]:
    group = Group(tuple(rows))
    return {
        "launches": len(group.rows),
        "executed": executed(group.rows),
        "read_bytes": group.read_bytes,
        "write_bytes": group.write_bytes,
        "bytes": group.bytes,
        "share": group.bytes / total if total else 0.0,
        "predicted_s": predicted_s(group.rows),
    }
