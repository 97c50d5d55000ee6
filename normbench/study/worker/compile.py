"""In a worker: compiles the variants of one problem for a GPU that need not be here."""

from pathlib import Path

from normbench.cases.case import Case
from normbench.study.schedule.units import Unit
from normbench.study.worker.compiled_case import compile_case, outcome_of


def compile_unit(unit: Unit, run: Path, emit, mark) -> None:
    """Emits the rows of "compiled" and "launches" of each case as soon as it is compiled."""
    for slug in unit.cases:
        mark(slug, "compiling")
        case = Case.from_slug(slug)
        try:
            _, tables = compile_case(case, unit.target, run)
        except Exception as error:
            status, reason = outcome_of(case, error)
            tables = {"compiled": [{"case": slug, "target": unit.target, "status": status, "reason": reason}]}
        emit(slug, tables, done=True)
