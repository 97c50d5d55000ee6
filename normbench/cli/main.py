"""The command `normbench`: its options, and how it ends.

Exit status: 0 done, 1 a case failed or normbench itself did, 2 bad usage, 130 interrupted.
Nothing heavy is imported here: `normbench --help` answers without JAX and pandas.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

import normbench
from normbench.errors import UserError
from normbench.schema import DEFAULT_PRESET, PASSES, TARGETS

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        parsed = _parser().parse_args(arguments)
        _refuse_empty(parsed)
        parsed.command_line = ("normbench", *arguments)
        _make_printable()
        _keep_jax_from_looking_for_a_gpu()
        module, function = parsed.run
        status = getattr(import_module(module), function)(parsed)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _fail(str(error), BAD_USAGE, debug)
    except KeyboardInterrupt:
        print("normbench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _current_folder_is_there():
            return _fail("the current folder is no longer there; change to another", BAD_USAGE, debug)
        hint = "" if debug else " (the traceback: repeat the command with --debug)"
        return _fail(f"{type(error).__name__}: {error}", FAILED, debug, hint)


def _refuse_empty(parsed: argparse.Namespace) -> None:
    """An empty text is a variable of a script that was not set: it stands for no name, path or number.

    Raises:
      UserError: names the argument.
    """
    for name, value in vars(parsed).items():
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            raise UserError(f"{name.strip('_').replace('_', '-')} '': it is empty; give a value, or leave it out")


def _make_printable() -> None:
    """Nothing that is found out is lost for the sake of printing it: standard output may be closed (`>&-`), or of an
    encoding that lacks ± and →, which then become ?."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it stays open as long as the process)
    elif isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _keep_jax_from_looking_for_a_gpu() -> None:
    """Where there is none, the compiler plugin alone would make JAX complain at length of missing libraries."""
    from normbench.study.machine.environment import gpu_present

    if not gpu_present():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _current_folder_is_there() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _fail(message: str, status: int, debug: bool, hint: str = "") -> int:
    if debug:
        traceback.print_exc()
    print(f"normbench: error: {' '.join(message.split())}{hint}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as for any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="normbench",
        description="Performance benchmarks and a fusion study of normalization in JAX.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"normbench {normbench.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (summary, run, add_options) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help="print the traceback of an error")
        command.set_defaults(run=run)
        add_options(command)
    return parser


_EPILOG = "Exit status: 0 done, 1 a case failed, 2 bad usage."


def _list_options(parser: argparse.ArgumentParser) -> None:
    _selection(parser)
    _own_problems(parser)
    _imports(parser)


def _study_options(parser: argparse.ArgumentParser) -> None:
    _selection(parser)
    _own_problems(parser)
    _imports(parser)
    parser.add_argument("--out", metavar="DIR", help="where the run's folder is made (default: results/runs)")
    parser.add_argument("--resume", metavar="RUN", help="finish the run in this folder, with its own configuration")
    parser.add_argument("--processes", type=int, metavar="N", help="processes that repeat each measurement")
    parser.add_argument("--executor", choices=("local", "ray"), help="where the study runs (default: local)")
    parser.add_argument("--full", action="store_true", help="end with all tables, in place of the answer")
    parser.add_argument("--quiet", action="store_true", help="say nothing of how far it has come; the run's log does")
    again = parser.add_argument_group("with --resume, which takes up what was killed from outside or is damaged")
    again.add_argument("--retry-failed", action="store_true", help="also carry out again what failed by itself")
    again.add_argument(
        "--mixed", action="store_true", help="go on though JAX, the device or the revision is another, and record it"
    )
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the cases, one a machine")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that compile at once, a core each (default: all)"
    )
    parser.add_argument("--cache", metavar="DIR", help="where compilations are kept, e.g. a folder that several share")
    parser.add_argument("--no-cache", action="store_true", help="compile everything anew, and keep nothing")


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operator", nargs="?", metavar="OPERATOR", help="e.g. batch_norm")
    parser.add_argument("variant", nargs="?", metavar="VARIANT", help="e.g. folded")
    parser.add_argument("--function", metavar="MODULE:NAME", help="any jittable function, instead of an operator")
    parser.add_argument(
        "--args",
        metavar="MODULE:NAME",
        help="with --function, a function that returns its args, or (args, kwargs)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        metavar="NxCxHxW",
        help="shape of x; with --function once per array argument, () for a scalar",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        help="e.g. bfloat16 or bf16 (default: float32); with --function one for all or each, also int8, bool, fp8",
    )
    parser.add_argument("--param-dtype", metavar="DTYPE", help="dtype of the parameters (default: float32)")
    parser.add_argument("--layout", help="e.g. nhwc (default: channels first)")
    parser.add_argument("--pass", dest="pass_", choices=PASSES, help="(default: forward)")
    parser.add_argument(
        "--context", help="alone, relu, silu, gelu, cast, residual, or a sharding: batch8, hidden8 ... (default: alone)"
    )
    parser.add_argument("--epsilon", type=float, help="added to the variance (default: 1e-5)")
    parser.add_argument(
        "--option", action="append", metavar="NAME=VALUE", help="operator-specific, e.g. kernel=3x3 or features=128"
    )
    parser.add_argument("--target", default="h200", help=f"{', '.join(TARGETS)}, or FILE.txtpb (default: h200)")
    parser.add_argument("--full", action="store_true", help="every launch, hint and refusal, however many there are")
    parser.add_argument("--html", metavar="FILE", help="also write the explanation as HTML")
    _imports(parser)


def _norms_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--function", metavar="MODULE:NAME", help="any jittable function")
    parser.add_argument("--args", metavar="MODULE:NAME", help="a function that returns its args, or (args, kwargs)")
    parser.add_argument("--shape", action="append", metavar="NxCxHxW", help="once per array argument, () for a scalar")
    parser.add_argument(
        "--dtype", action="append", help="e.g. bfloat16 or bf16 (default: float32); one for all or each"
    )
    parser.add_argument("--target", default="h200", help=f"one of {', '.join(TARGETS)}; default: h200")
    parser.add_argument("--full", action="store_true", help="every site, however many there are")
    parser.add_argument("--html", metavar="FILE", help="also write the page as HTML")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    _imports(parser)


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run")
    parser.add_argument("run_b", nargs="?", metavar="RUN_B", help="a later run, to be shown beside RUN")
    parser.add_argument(
        "--html", metavar="FILE", help="where to write it (default: report.html, or comparison.html, in the run)"
    )
    parser.add_argument(
        "--plots", metavar="DIR", help="also write each plot as an SVG file, for a README: legible on white and on dark"
    )


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folders of the earlier and of the later run")
    parser.add_argument("--variants", nargs=2, metavar=("A", "B"), help="compare two variants of one run instead")
    parser.add_argument(
        "--golden", nargs=2, metavar=("A", "B"), help="compare the goldens of two commits, or of two JAX releases"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--fail-on-slower", action="store_true", help="exit with 1 where a verdict is SLOWER")
    parser.add_argument("--fail-on-change", action="store_true", help="exit with 1 where a program or error changed")
    parser.add_argument(
        "--threshold", type=float, metavar="SHARE", help="smallest relative change that counts (default: 0.03)"
    )


def _gpu_options(parser: argparse.ArgumentParser) -> None:
    _selection(parser, target=False, preset="standard")
    _imports(parser)
    parser.add_argument("--budget", default="8m", metavar="TIME", help="e.g. 8m or 480s (default: 8m)")
    parser.add_argument("--out", metavar="DIR", help="where the run's folder is made (default: results/runs)")
    parser.add_argument("--skip-checks", action="store_true", help="of the kernels on this GPU, which come first")
    parser.add_argument("--dry-run", action="store_true", help="print the plan: which checks and cases, in which order")


def _history_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="tests that use the fixture fusion")
    parser.add_argument(
        "--python",
        action="extend",
        nargs="+",
        metavar="PYTHON",
        help="interpreters, each with another JAX, pytest and normbench (default: this one)",
    )


def _merge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help="folder of a run, copied from where it was made")
    parser.add_argument(
        "--into",
        metavar="DIR",
        help="where the runs lie (default: results/runs); of several, the run to be made of them",
    )


def _cache_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("stats", "prune"), help="what there is, or remove some of it")
    parser.add_argument("--cache", metavar="DIR", help="the folder (default: normbench/programs in the user's cache)")
    parser.add_argument("--days", type=float, metavar="N", help="prune: what was not used in so many days")
    parser.add_argument(
        "--megabytes", type=float, metavar="N", help="prune: what was used longest ago, until so much is left"
    )


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help="folder of a run")


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _selection(parser: argparse.ArgumentParser, target: bool = True, preset: str | None = None) -> None:
    parser.add_argument(
        "--preset",
        default=preset,
        help=f"smoke, quick, standard, full or exhaustive (default: {preset or DEFAULT_PRESET}); or peers, pytensor",
    )
    for name, what in (
        ("operator", "only these operators"),
        ("variant", "only these variants"),
        ("target", f"among {', '.join(TARGETS)}, or FILE.txtpb (default: cpu h200 a100)"),
    )[: 3 if target else 2]:
        parser.add_argument(f"--{name}", action="extend", nargs="+", metavar="NAME", help=what)


def _own_problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="e.g. layer_norm; the same as --operator")
    own = parser.add_argument_group("one's own problems, in place of a preset's")
    own.add_argument("--shape", action="extend", nargs="+", metavar="NxCxHxW", help="shape of x, e.g. 8x197x768")
    own.add_argument(
        "--shapes", metavar="FILE", help="a shape a line, then layout and dtype where they differ, then # its origin"
    )
    own.add_argument("--dtype", action="extend", nargs="+", help="e.g. bfloat16 or bf16 (default: float32)")
    own.add_argument("--param-dtype", metavar="DTYPE", help="dtype of the parameters (default: float32)")
    own.add_argument("--layout", help="e.g. nhwc (default: channels first; last for layer_norm and rms_norm)")
    own.add_argument(
        "--pass", dest="pass_", action="extend", nargs="+", choices=PASSES, help="(default: forward)", metavar="PASS"
    )
    own.add_argument(
        "--context",
        action="extend",
        nargs="+",
        help="alone, relu, silu, gelu, cast, residual, or a sharding: batch8, batch64, hidden8, sequence8, channels4",
    )
    own.add_argument("--epsilon", type=float, help="added to the variance (default: 1e-5)")
    own.add_argument("--option", action="append", metavar="NAME=VALUE", help="e.g. kernel=3x3 or groups=32")


def _imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module first: it may register variants of its own",
    )


_COMMANDS = {
    "list": ("list cases, and for each unsupported one the reason", ("normbench.cli.list", "run"), _list_options),
    "study": ("compile and measure cases; makes a run", ("normbench.cli.study", "run"), _study_options),
    "explain": ("what the compiler does with one program", ("normbench.cli.program.explain", "run"), _explain_options),
    "norms": (
        "where in a program the normalizations are, and what they cost",
        ("normbench.cli.program.norms", "run"),
        _norms_options,
    ),
    "report": ("write a run as one HTML file", ("normbench.cli.report", "run"), _report_options),
    "compare": (
        "what differs between two runs, variants or commits",
        ("normbench.cli.compare", "run"),
        _compare_options,
    ),
    "gpu": ("measure on the GPU of this machine within a budget", ("normbench.cli.gpu", "run"), _gpu_options),
    "history": (
        "where each program that tests check changes between JAX releases",
        ("normbench.cli.history", "run"),
        _history_options,
    ),
    "merge": (
        "take in a run made elsewhere, or unite several",
        ("normbench.cli.merge", "run"),
        _merge_options,
    ),
    "verify": ("check every file of a run", ("normbench.cli.verify", "run"), _verify_options),
    "cache": ("the compilations that are kept on disk", ("normbench.cli.cache", "run"), _cache_options),
    "doctor": ("what this machine can measure", ("normbench.cli.doctor", "run"), _doctor_options),
}


if __name__ == "__main__":
    sys.exit(main())
