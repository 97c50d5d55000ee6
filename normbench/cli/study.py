"""`normbench study`: makes a run, or finishes one, and ends with its table and its report."""

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from normbench.cases.case import Case
from normbench.cli.arguments import OF_A_PROBLEM, check_compilers, chosen_cases, chosen_preset, chosen_targets
from normbench.cli.cache import cache_folder
from normbench.errors import UserError
from normbench.run_folder.resume import resume_command
from normbench.study.schedule.units import MAX_PROCESSES, is_peer, shard
from normbench.study.user_modules import import_modules

DEFAULT_OUT = Path("results/runs")
_OF_THE_RUN = ("preset", "operator", "variant", "target", "out", "processes", "shard", *OF_A_PROBLEM)


def run(parsed: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    import_modules(parsed.imports)
    if parsed.resume is not None:
        return _resume(parsed)
    return _study(parsed)


def _study(parsed: argparse.Namespace) -> int:
    if parsed.processes is not None and not 1 <= parsed.processes <= MAX_PROCESSES:
        raise UserError(f"processes {parsed.processes}: allowed: 1 to {MAX_PROCESSES}")
    for name in ("mixed", "retry_failed"):
        if getattr(parsed, name):
            raise UserError(f"--{name.replace('_', '-')} is said of a run that is taken up again: with --resume RUN")
    targets = chosen_targets(parsed.target)
    selected = chosen_cases(parsed)
    if parsed.shard is not None:
        selected = _shard(parsed.shard, selected)
    check_compilers(targets)
    out = writable_folder(Path(parsed.out) if parsed.out else DEFAULT_OUT)
    from normbench.study.schedule.study import StudyConfig, study

    settings = {"processes": parsed.processes, **_how(parsed)}
    config = StudyConfig.for_preset(
        chosen_preset(parsed),
        cases=selected,
        targets=targets,
        out=out,
        command=shlex.join(parsed.command_line),
        imports=tuple(parsed.imports),
        attribution=True,
        quiet=parsed.quiet,
        shard=parsed.shard or "",
        **{name: value for name, value in settings.items() if value is not None},
    )
    return _conclude_unless_interrupted(lambda: study(config), parsed)


def _shard(text: str, cases: Sequence[Case]) -> tuple[Case, ...]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"shard {text!r}; allowed: I/N with I from 1 to N, e.g. 2/5")
    found = shard(cases, int(number), int(count))
    if not found:
        raise UserError(f"shard {text!r}: there are fewer problems than that; nothing is left for it")
    return found


def _how(parsed: argparse.Namespace) -> dict[str, Any]:
    """What this call decides, whatever the run's configuration says."""
    if parsed.workers is not None and parsed.workers < 1:
        raise UserError(f"workers {parsed.workers}: allowed: 1 and more")
    if parsed.no_cache and parsed.cache is not None:
        raise UserError("--cache and --no-cache: give one of them")
    folder = None if parsed.no_cache else cache_folder(parsed.cache)
    told = {name: getattr(parsed, name) for name in ("workers", "executor") if getattr(parsed, name) is not None}
    return {"cache": None if folder is None else str(folder), **told}


def _resume(parsed: argparse.Namespace) -> int:
    given = [f"--{name.strip('_')}" for name in _OF_THE_RUN if getattr(parsed, name) is not None]
    given += parsed.operators
    if given:
        raise UserError(f"--resume takes its configuration from the run; leave out {', '.join(given)}")
    from normbench.study.schedule.study import Resumption, resume

    how = Resumption(tuple(parsed.imports), parsed.mixed, parsed.retry_failed, parsed.quiet, **_how(parsed))
    return _conclude_unless_interrupted(lambda: resume(Path(parsed.resume), how), parsed)


def _interrupt(signum: int, frame: object) -> NoReturn:
    """SIGTERM ends a study as Ctrl-C does."""
    raise KeyboardInterrupt


def _conclude_unless_interrupted(carry_out: Callable[[], Path], parsed: argparse.Namespace) -> int:
    from normbench.study.schedule.study import Interrupted, Stopped

    folder = None
    try:
        folder = carry_out()
        return _conclude(folder, parsed.full)
    except Interrupted as stopped:
        print(f"normbench: interrupted; resume with: {resume_command(stopped.run)}", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(f"normbench: stopped: {stopped}; resume with: {resume_command(stopped.run)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        told = "no run was begun" if folder is None else f"the report again with: {resume_command(folder)}"
        print(f"normbench: interrupted; {told}", file=sys.stderr)
        return 130


def _conclude(folder: Path, full: bool) -> int:
    from normbench.report import load_run, terminal_answer, terminal_table, write_report

    finished = load_run(folder)
    width = shutil.get_terminal_size((120, 24)).columns
    print((terminal_table if full else terminal_answer)(finished, width))
    print(f"Report: {write_report(finished)}")
    return 1 if any_failed(finished) else 0


def any_failed(finished) -> bool:
    """Whether a case failed. A timing that is refused as impossible is no failure of the case, and what another's
    library computes is none of ours: the table says so."""
    tables = (finished.compiled, finished.timings, finished.accuracy)
    bad = {
        slug
        for table in tables
        for slug in table["case"][table["status"].notna() & ~table["status"].isin(("ok", "unsupported", "impossible"))]
    }
    return any(not is_peer(Case.from_slug(slug)) for slug in bad)


def writable_folder(path: Path) -> Path:
    """Makes the folder where there is none.

    Raises:
      UserError: where nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise UserError(f"output folder {str(path)!r} cannot be written: {error.strerror or error}") from error
