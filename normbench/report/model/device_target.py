"""A GPU's programs as compiled without it and on it: what differs, in words.

Three compilations of a case are held against each other: for a packaged target that names the same device, for the
GPU's own description as XLA dumps it, both without the device, and the one on the device, which can try algorithms out.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pandas as pd

from normbench.display.units import count
from normbench.fusion.changes import Structure, launch_facts, program_changes
from normbench.report.data.frames import Run
from normbench.report.model.predictions import device_kind

OWN, DEVICE = "own", "device"
"""Names of compilations: for the GPU's own description, and on the GPU. Others are packaged targets."""
COMMAND = "python -m normbench.cli.gpu_described"
GROUPS = ("status", "launches", "calls", "kinds", "rewrites", "bytes", "refused")
GROUP_WORDS = {
    "status": "compiles on one side alone",
    "launches": "launches",
    "calls": "library calls",
    "kinds": "kinds of launches",
    "rewrites": "patterns recognised",
    "bytes": "bytes",
    "refused": "refusals to fuse",
}


def calls(launches: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Launches of library routines by name, without the numbers that tell instances apart.

    Args:
      launches: rows of the table "launches".
    """
    found = Counter(re.sub(r"[.\d]+$", "", str(row["name"])) for row in launches if row["kind"] == "library")
    return dict(sorted(found.items()))


def device_structures(run: Run) -> dict[str, Structure]:
    """What the GPU's own compiler made of each case, by slug, as `normbench.goldens.store.Structure`, and `calls`."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in run.launches[run.launches["target"] == "gpu"].astype(object).to_dict("records"):
        by_case.setdefault(row["case"], []).append(row)
    found = {}
    for row in run.compiled[run.compiled["target"] == "gpu"].astype(object).to_dict("records"):
        if row["status"] not in ("ok", "unsupported"):
            found[row["case"]] = {"status": row["status"], "reason": _known(row["reason"]) or ""}
        elif row["status"] == "ok" and row["case"] in by_case:
            launches = by_case[row["case"]]
            ratio = _known(row["traffic_ratio"])
            found[row["case"]] = {
                "launches": int(row["launches"]),
                **launch_facts({**one, "refused": _known(one["refused"])} for one in launches),
                "calls": calls(launches),
                "bytes": int(row["bytes"]),
                "traffic_ratio": None if ratio is None else round(ratio, 4),
            }
    return found


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value


def difference(before: Structure, after: Structure) -> tuple[list[str], str] | None:
    """Which of `GROUPS` two compilations of a case differ in, and how in words; None where in none."""
    words = program_changes(before, after)
    if (before.get("status") or "ok") != (after.get("status") or "ok"):
        return ["status"], "; ".join(words)
    groups = [name for name in GROUPS[1:] if (before.get(name) or 0) != (after.get(name) or 0)]
    if not groups:
        return None
    old, new = before.get("calls") or {}, after.get("calls") or {}
    told = [f"{name} {old.get(name, 0)} → {new.get(name, 0)}" for name in sorted({*old, *new})]
    told = [text for text in told if text.split(" → ")[0].rpartition(" ")[2] != text.rpartition(" ")[2]]
    return groups, "; ".join([*words, *([f"library calls: {', '.join(told)}"] if told else [])])


def difference_rows(sides: dict[str, dict[str, Structure]]) -> list[dict[str, str]]:
    """Rows of the table "target_differences": of neighbours in `sides`, for the cases that both have."""
    rows = []
    names = list(sides)
    for before, after in pairwise(names):
        for case, structure in sides[before].items():
            found = difference(structure, sides[after][case]) if case in sides[after] else None
            if found:
                groups, change = found
                groups_text = ",".join(groups)
                rows.append({"case": case, "before": before, "after": after, "groups": groups_text, "change": change})
    return rows


def described(run: Run) -> dict[str, dict[str, Structure]]:
    """The compilations without the device, by configuration and case, out of the table "described"; GPU's own last."""
    found: dict[str, dict[str, Structure]] = {}
    rows = run.tables["described"].astype(object)
    for row in rows.where(rows.notna(), None).to_dict("records"):
        counts = {name: json.loads(row[name]) for name in ("kinds", "rewrites", "refused", "calls") if row[name]}
        found.setdefault(row["config"], {})[row["case"]] = {**row, **counts}
    return dict(sorted(found.items(), key=lambda item: item[0] == OWN))


def compared(run: Run) -> pd.DataFrame:
    """A row per pair of compilations: `before`, `after`, `cases` that both have, `changed`, and of these how many in
    each of `GROUPS`."""
    sides = {**described(run), DEVICE: device_structures(run)}
    names = list(sides)
    table = run.tables["target_differences"]
    rows = []
    for before, after in pairwise(names):
        mine = table[(table["before"] == before) & (table["after"] == after)]
        groups = Counter(name for cell in mine["groups"] for name in str(cell).split(","))
        both = len(sides[before].keys() & sides[after].keys())
        rows.append({"before": before, "after": after, "cases": both, "changed": len(mine), **groups})
    columns = ["before", "after", "cases", "changed", *GROUPS]
    return pd.DataFrame(rows, columns=columns).fillna(0).astype({name: int for name in columns[2:]})


def words(name: str) -> str:
    """A compilation in words."""
    return {OWN: "for the GPU's own description", DEVICE: "on the GPU itself"}.get(name, f"for {name}")


def device_target_lines(run: Run) -> list[str]:
    """In sentences: how many programs differ, and in what; or what is missing, and the command that makes it."""
    if run.tables["described"].empty:
        if "gpu" not in run.targets:
            return [
                "No GPU compiled anything in this run; on a machine with one, this does it: make gpu PRESET=standard"
            ]
        return [f"The programs were not compiled without the GPU; this does it: {COMMAND} {run.path}"]
    lines = []
    for row in compared(run).to_dict("records"):
        parts = [f"{GROUP_WORDS[name]} {row[name]:,}" for name in GROUPS if row[name]]
        changed = f"{row['changed']:,} differ" + (f": {', '.join(parts)}" if parts else "")
        place = f"Compiled {words(row['before'])} without the GPU, against {words(row['after'])}"
        lines.append(f"{place}: of {count(row['cases'], 'program')}, {changed}.")
    left = device_structures(run).keys() - described(run).get(OWN, {}).keys()
    if left:
        lines.append(
            f"{count(len(left), 'program')} of the GPU had no time left to be compiled without it; this does it: "
            f"{COMMAND} {run.path}"
        )
    return lines


def grouped_differences(run: Run) -> pd.DataFrame:
    """The rows of "target_differences" that say the same of cases of one operator and pass, together: `before`,
    `after`, `operator`, `pass`, `groups`, `change`, `cases`, `example`; the most frequent first."""
    table = run.tables["target_differences"].merge(run.cases[["case", "operator", "pass"]], on="case", how="left")
    table = table.assign(change=table["change"].map(_without_bytes, na_action="ignore"))
    keys = ["before", "after", "operator", "pass", "groups", "change"]
    groups = table.groupby(keys, sort=False, dropna=False)
    found = groups.agg(cases=("case", "size"), example=("case", "first")).reset_index()
    return found.sort_values("cases", ascending=False, kind="stable").reset_index(drop=True)


def _without_bytes(change: str) -> str:
    """Without the figures of each shape, which tell apart what is the same change."""
    change = re.sub(r"[\d.,]+ → [\d.,]+ × the minimum bytes", "another share of the minimum bytes", change)
    return re.sub(r"[\d,]+ → [\d,]+ bytes", "other bytes", change)


def gpu_name(run: Run) -> str:
    return device_kind(run) or "the GPU"
