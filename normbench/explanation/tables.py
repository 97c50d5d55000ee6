"""Sums over the launches of a program, from rows of the table `launches`: the largest, by scope, by line of source."""

from collections.abc import Callable, Collection, Iterable, Sequence
from numbers import Integral
from typing import Any

import pandas as pd

from normbench.errors import UserError
from normbench.explanation.groups import Group, Row, absent, executed, groups, how_often, predicted_s, words
from normbench.explanation.parts import PASSES, Parts


def top(rows: Sequence[Row], number: int) -> pd.DataFrame:
    """The groups of equal launches that move most, those first.

    Columns: name, kind, source_ops and scope of the first of each, `launches` and `executed` (how many there are, and
    how often they run), how_often (the same in words), read_bytes, write_bytes, bytes, share of all bytes,
    predicted_s.
    """
    _require_count("number", number)
    total = Group(tuple(rows)).bytes
    found = sorted(groups(rows), key=lambda group: -group.bytes)[:number]
    return pd.DataFrame([{**_names(group), **_sums(group.rows, total)} for group in found], columns=[*_NAMES, *_SUMS])


def by_scope(rows: Sequence[Row], parts: Sequence[Parts], depth: int) -> pd.DataFrame:
    """Sums over the launches whose scopes share their first `depth` names; "" for those without a scope. See `_by`."""
    _require_count("depth", depth)
    return _by(rows, parts, "scope", lambda part: {"/".join(name.split("/")[:depth]) for name in part.scopes})


def _require_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} is {value!r}; allowed: 1 or more")


def by_source(rows: Sequence[Row], parts: Sequence[Parts]) -> pd.DataFrame:
    """Sums over the launches of one line of Python, file:line; "" for those without one. See `_by`."""
    return _by(rows, parts, "source", lambda part: part.sources)


SHARED = "shared"
"""The row of the launches in which several groups compute."""
_NAMES = ("name", "kind", "source_ops", "scope", "how_often")
_SUMS = ("launches", "executed", "flops", "read_bytes", "write_bytes", "bytes", "share", "predicted_s")


def _by(
    rows: Sequence[Row], parts: Sequence[Parts], name: str, groups_of: Callable[[Parts], Collection[str]]
) -> pd.DataFrame:
    """A row per group with the launches in which it alone computes, and the row SHARED: they add up to the program.

    `forward_bytes`, `backward_bytes` and `rematerialised_bytes` are the same bytes by pass; `shared_launches` and
    `shared_bytes` say what of the row SHARED a group has a part in, and so add up to more than it.
    """
    own: dict[str, list[int]] = {}
    shared: dict[str, list[int]] = {}
    for place, part in enumerate(parts):
        among = groups_of(part)
        own.setdefault(next(iter(among)) if len(among) == 1 else SHARED, []).append(place)
        for group in among if len(among) > 1 else ():
            own.setdefault(group, [])
            shared.setdefault(group, []).append(place)
    total = Group(tuple(rows)).bytes
    found = []
    for group, places in own.items():
        held = [rows[place] for place in shared.get(group, ())]
        by_pass = {each: [rows[i] for i in places if parts[i].pass_ == each] for each in PASSES}
        found.append({
            name: group,
            **_sums([rows[place] for place in places], total),
            **{f"{each}_bytes": Group(tuple(same)).bytes for each, same in by_pass.items()},
            "shared_launches": len(held),
            "shared_bytes": Group(tuple(held)).bytes,
        })  # fmt: skip
    columns = [name, *_SUMS, *(f"{each}_bytes" for each in PASSES), "shared_launches", "shared_bytes"]
    frame = pd.DataFrame(found, columns=columns).set_index(name)
    return frame.sort_values("bytes", ascending=False, kind="stable")


def _names(group: Group) -> dict[str, str]:
    first = group.first
    plain = {name: words(first.get(name)) for name in ("name", "kind", "source_ops")}
    return {**plain, "scope": group.scope, "how_often": how_often(group)}


def _sums(rows: Iterable[Row], total: int) -> dict[str, float | int | None]:
    group = Group(tuple(rows))
    return {
        "launches": len(group.rows),
        "executed": executed(group.rows),
        "flops": sum(float(row["flops"]) for row in group.rows if not absent(row.get("flops"))),
        "read_bytes": group.read_bytes,
        "write_bytes": group.write_bytes,
        "bytes": group.bytes,
        "share": group.bytes / total if total else 0.0,
        "predicted_s": predicted_s(group.rows),
    }
