"""`normbench explain`: what the compiler does with one variant of an operator, or with any function."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.cli.arguments import chosen_target
from normbench.errors import UserError
from normbench.own_targets import deviceless

if TYPE_CHECKING:
    from normbench.explanation.explain import Report

_WIDE = ("float64", "f64", "int64", "i64", "uint64", "u64", "complex128", "c128")
_OF_OPERATORS = ("operator", "variant", "param_dtype", "layout", "pass_", "context", "epsilon", "option")


def run(parsed: argparse.Namespace) -> int:
    target = chosen_target(parsed.target)
    prepare_process(target, (*(parsed.dtype or ()), parsed.param_dtype))
    from normbench.cli.arguments import check_compilers, chosen_targets
    from normbench.study.user_modules import import_modules

    check_compilers(chosen_targets([target]))
    import_modules(parsed.imports)
    name, function, args, kwargs = _of_function(parsed) if parsed.function else _of_operator(parsed, target)
    report = replace(explained(name, function, args, kwargs, target), name=name)
    print(report.text(full=parsed.full))
    if parsed.html:
        write_page(Path(parsed.html), report._repr_html_())
    return 0


def explained(name: str, function: Callable, args: Sequence[Any], kwargs: dict[str, Any], target: str) -> "Report":
    """The report on a call.

    Raises:
      UserError: for arguments that the function does not take, or that JAX does not.
      CompileError: where the compiler failed.
    """
    from normbench import explain_call
    from normbench.cli.program.function_arguments import called_with
    from normbench.fusion.isolation import CompileError

    try:
        return explain_call(function, args, kwargs, target=target)
    except (UserError, CompileError):
        raise
    except (Exception, SystemExit) as error:  # whatever the function does: sys.exit must not pass for a success
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"function {name!r} cannot be called with {called_with(args, kwargs)}: {first_line}") from error


def prepare_process(target: str, dtypes: Sequence[str | None]) -> None:
    """Sets what must be set before JAX is imported."""
    if deviceless(target):
        from normbench.fusion.targets import compile_environment

        os.environ.update(compile_environment())
    if any(name in _WIDE for name in dtypes):
        os.environ["JAX_ENABLE_X64"] = "1"
        if "jax" in sys.modules:  # a program that calls this one
            sys.modules["jax"].config.update("jax_enable_x64", True)


def _of_operator(parsed: argparse.Namespace, target: str) -> tuple[str, Callable, tuple, dict[str, Any]]:
    from normbench import kernels
    from normbench.cases.case import Case
    from normbench.cases.own import layout_of, parse_options
    from normbench.cases.slugs import parse_dtype, parse_shape

    if parsed.operator is None or parsed.variant is None:
        raise UserError("explain needs OPERATOR and VARIANT, or --function MODULE:NAME")
    if parsed.args is not None:
        raise UserError("--args makes the arguments of a --function; an operator takes --shape and --dtype")
    if len(parsed.shape or ()) != 1 or len(parsed.dtype or ("float32",)) != 1:
        raise UserError("explain of an operator takes one --shape and one --dtype: those of x")
    variant = kernels.get(parsed.operator, parsed.variant)
    shape = parse_shape(parsed.shape[0])
    given = {"pass_": parsed.pass_, "context": parsed.context, "epsilon": parsed.epsilon}
    problem = kernels.Problem(
        operator=parsed.operator,
        shape=shape,
        layout=layout_of(parsed.operator, shape, parsed.layout),
        dtype=parse_dtype((parsed.dtype or ["float32"])[0]),
        param_dtype=parse_dtype(parsed.param_dtype or "float32"),
        options=parse_options(parsed.option or ()),
        **{name: value for name, value in given.items() if value is not None},
    )
    kernels.operator(parsed.operator).validate(problem)
    reason = variant.supports(problem, target)
    if reason:
        raise UserError(f"{parsed.operator} {parsed.variant} is not supported here on {target}: {reason}")
    program = kernels.program(problem, parsed.variant)
    return Case(problem, parsed.variant).slug, program.function, program.inputs, {}


def _of_function(parsed: argparse.Namespace) -> tuple[str, Callable, tuple, dict[str, Any]]:
    for name in _OF_OPERATORS:
        if getattr(parsed, name) is not None:
            raise UserError(f"--function takes no {name.strip('_')}: give --shape and --dtype for each array argument")
    return called_function(parsed)


def called_function(parsed: argparse.Namespace) -> tuple[str, Callable, tuple, dict[str, Any]]:
    """Name, function and arguments that --function, --args, --shape and --dtype say."""
    from normbench.cli.program.function_arguments import abstract, find, made

    function = find("function", parsed.function)
    if parsed.args is None:
        return parsed.function, function, abstract(parsed.shape or (), parsed.dtype or ["float32"]), {}
    if parsed.shape or parsed.dtype:
        raise UserError("--args makes all arguments: leave out --shape and --dtype")
    return parsed.function, function, *made(parsed.args)


def write_page(path: Path, text: str) -> None:
    """Writes a page and prints its path.

    Raises:
      UserError: where it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"HTML file {str(path)!r} cannot be written: {error.strerror or error}") from error
    print(path)
