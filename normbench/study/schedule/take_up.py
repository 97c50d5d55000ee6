"""What of a run is carried out again: what was damaged, what was killed from outside, and failures where asked.

A complete run has tables in place of parts. To be taken up again it is given parts: each row goes to that of its unit.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from normbench.errors import UserError
from normbench.run_folder.check import check_run
from normbench.schema import DEVICELESS_TARGETS, TABLES
from normbench.study.schedule.store import Row, Store, Tables
from normbench.study.schedule.units import Unit, attribution_units, compile_units, measure_units

if TYPE_CHECKING:
    from normbench.study.schedule.study import StudyConfig

FINE = ("ok", "unsupported")
_WRITES = {
    "compile": ("compiled", "launches"),
    "measure": (
        "compiled", "launches", "timings", "accuracy", "ceilings", "aa", "notes", "device_states",
    ),
    "attribute": ("launch_times",),
}  # fmt: skip
"""The tables that a unit of each kind has rows in."""
REST = "rest"
"""The part of the rows of a complete run that belong to no unit: of a process as a whole, or described afterwards."""


def killed_cases(parts: Iterable[Row]) -> set[tuple[str, str]]:
    """(slug, target) of the cases of which nothing is known, for their processes were killed from outside."""
    return {place for part in parts for place in _with_status(part["tables"])}


def take_up(store: Store, config: "StudyConfig", damaged: Sequence[str], retry_failed: bool) -> set[str]:
    """Prepares a run, whose damaged files were set aside, to be carried out; returns the units that are done again.

    Args:
      damaged: paths of those files within the run's folder.
    """
    units = _units(config)
    lost_tables = {name.removesuffix(".parquet") for name in damaged} & TABLES.keys()
    lost_modules = {name.rpartition("/")[2].partition(".")[0] for name in damaged if name.startswith("hlo/")}
    if store.complete:
        _reopen(store, units, lost_tables)
    if "cases" not in store.done():
        store.write_part("cases", {"cases": [case.row() for case in config.cases]})
    again = {unit.name for unit in units if lost_tables & set(_WRITES[unit.kind])}
    places: set[tuple[str, str]] = set()
    for part in store.parts():
        if any(row.get("module_sha256") in lost_modules for row in part["tables"].get("compiled", ())):
            again.add(part["unit"])
        places |= _with_status(part["tables"], retry_failed)
    again |= {unit.name for unit in units if any((slug, unit.target) in places for slug in unit.cases)}
    again &= store.done()
    store.do_again(again)
    if store.complete:
        store.update(status="running", files={})
    return again


def _with_status(tables: Tables, failed: bool = False) -> set[tuple[str, str]]:
    """(slug, target) of the cases that were killed from outside, or `failed` in whatever way."""
    return {
        (row["case"], str(row.get("target") or row.get("device")))
        for rows in tables.values()
        for row in rows
        if row.get("case") and (row.get("status") == "killed" or (failed and (row.get("status") or "ok") not in FINE))
    }


def _units(config: "StudyConfig") -> list[Unit]:
    cases, targets = config.cases, config.targets
    attributed = attribution_units(cases, targets) if config.attribution else []
    return [*compile_units(cases, targets), *measure_units(cases, targets, config.processes), *attributed]


def _reopen(store: Store, units: Sequence[Unit], tables_lost: set[str]) -> None:
    """Writes the parts of a complete run out of its tables, but for those that are lost."""
    folder = check_run(store.path)
    parts: dict[str, Tables] = {unit.name: {} for unit in units}
    find = _Finder(units)
    for table in TABLES.keys() - tables_lost:
        for row in folder.table(table).to_pylist():
            known = {name: value for name, value in row.items() if value is not None and name in TABLES[table]}
            unit = "cases" if table == "cases" else find(table, known)
            parts.setdefault(unit, {}).setdefault(table, []).append(known)
    try:
        (store.path / "parts").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"run {str(store.path)!r} cannot be written: {error.strerror}") from error
    for name, tables in parts.items():
        store.write_part(name, tables)


class _Finder:
    """Tells which unit a row is of."""

    def __init__(self, units: Sequence[Unit]):
        self._by_case = {
            (unit.kind, unit.target, unit.process, slug): unit.name for unit in units for slug in unit.cases
        }
        self._by_problem = {(unit.process, unit.problem_name): unit.name for unit in units if not unit.peer}

    def __call__(self, table: str, row: Row) -> str:
        place = str(row.get("target") or row.get("device"))
        process = row.get("process", 0)
        if table == "device_states":
            return self._by_problem.get((process, row.get("problem", "")), REST)
        kind = next(self._kinds(table, place), "")
        return self._by_case.get((kind, place, process, row.get("case") or row.get("program") or ""), REST)

    @staticmethod
    def _kinds(table: str, place: str) -> Iterator[str]:
        for kind, tables in _WRITES.items():
            if table in tables and (kind != "compile" or place in DEVICELESS_TARGETS):
                yield kind
