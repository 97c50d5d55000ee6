"""`normbench gpu`: everything that a GPU can be asked within a budget of time, in one command; or the plan of it."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from normbench.cli.arguments import check_compilers, chosen_cases
from normbench.cli.study import DEFAULT_OUT, writable_folder
from normbench.errors import UserError
from normbench.study.clocks.device_records import missing
from normbench.study.hardware.checks import CHECKS
from normbench.study.hardware.process import checked
from normbench.study.machine.gpu_target import describe, dump_target_config
from normbench.study.schedule.gpu_plan import Plan, plan, seconds, with_peers, without
from normbench.study.user_modules import import_modules

PRECISION = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""Without it float32 convolutions run in TF32, too coarse for the float64 reference. It is stored with the run."""
TARGET = ("gpu",)


def run(parsed: argparse.Namespace) -> int:
    import_modules(parsed.imports)
    try:
        budget_s = seconds(parsed.budget)
    except ValueError:
        raise UserError(f"budget {parsed.budget!r}; allowed: a time such as 8m or 480s") from None
    asked = chosen_cases(parsed)
    cases = asked if parsed.variant else with_peers(asked)
    if parsed.dry_run:
        if not parsed.skip_checks:
            print(*(f"checked first: {check.name}: {check.risk}" for check in CHECKS), sep="\n")
        print("\n".join(plan(cases, budget_s).lines()))
        print(*(f"not to be had here: {sentence}" for sentence in missing()), sep="\n")
        return 0
    check_compilers(TARGET)
    began_s = time.monotonic()
    wrong: set[tuple[str, str]] = set()
    for found in () if parsed.skip_checks else checked():
        print(found.line, flush=True)
        wrong |= found.failed
        if time.monotonic() - began_s > budget_s:
            raise UserError(f"budget {parsed.budget!r}: the checks took all of it; give more, or --skip-checks")
    for operator, variant in sorted(wrong):
        print(f"not timed: {variant} of {operator}, which is wrong on this device: docs/kernels.md, hardware checklist")
    left_s = budget_s - (time.monotonic() - began_s)
    status = _measure(parsed, without(plan(cases, left_s), wrong), left_s)
    return 1 if wrong else status


def _measure(parsed: argparse.Namespace, chosen: Plan, budget_s: float) -> int:
    from normbench.run_folder.resume import resume_command
    from normbench.study.schedule.store import Store
    from normbench.study.schedule.study import Interrupted, Stopped, StudyConfig, study

    out = writable_folder(Path(parsed.out) if parsed.out else DEFAULT_OUT)
    os.environ.update(PRECISION)
    config = StudyConfig.for_preset(
        parsed.preset, cases=chosen.chosen, targets=TARGET, out=out, command=shlex.join(parsed.command_line),
        imports=tuple(parsed.imports), attribution=True, processes=1,
    )  # fmt: skip
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, budget_s)
    try:
        folder = study(config)
    except Interrupted as stopped:
        folder = stopped.run
        print(f"normbench: out of time; finish with: {resume_command(folder)}", file=sys.stderr)
    except Stopped as stopped:
        print(f"normbench: stopped: {stopped}; resume with: {resume_command(stopped.run)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise UserError(f"budget {parsed.budget!r}: it was over before a case was measured; give more") from None
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        if dump_target_config(folder):
            describe(folder)
    except (subprocess.SubprocessError, OSError) as error:  # the measurements are there, and stay
        print(
            f"normbench: the configuration of the target was not stored or not compiled for: {error}", file=sys.stderr
        )
    (folder / "left_out.txt").write_text("".join(f"{case.slug}\n" for case in chosen.left_out))
    store = Store.open(folder)
    if store.complete:
        store.seal()
    return _conclude(folder, chosen)


def _conclude(folder: Path, chosen: Plan) -> int:
    from normbench.report import load_run, write_report
    from normbench.report.findings.noise_floor import trust
    from normbench.report.model.device_target import device_target_lines
    from normbench.report.model.error import model_error_lines

    finished = load_run(folder)
    told = [*device_target_lines(finished), *model_error_lines(finished)]
    print(*told, *(text for text, _, _ in trust(finished)), sep="\n")
    print(f"{len(chosen.left_out)} cases were left out; see {folder / 'left_out.txt'}")
    print(write_report(finished))
    print(f"copy {folder} to another machine, and there: normbench merge {folder.name}")
    return 0


def _out_of_time(signum, frame) -> NoReturn:
    raise KeyboardInterrupt
