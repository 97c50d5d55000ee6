"""`normbench explain`: what the compiler does with one variant of an operator, or with any function."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normbench.errors import UserError, unknown
from normbench.schema import DEVICELESS_TARGETS

_OF_OPERATORS = ("operator", "variant", "param_dtype", "layout", "pass_", "context", "epsilon", "option")


def run(parsed: argparse.Namespace) -> int:
    target = parsed.target
    _prepare_process(target, parsed)
    from normbench.cli.arguments import check_compilers, chosen_targets
    from normbench.study.user_modules import import_modules

    check_compilers(chosen_targets([target]))
    import_modules(parsed.imports)
    name, function, arguments = _of_function(parsed) if parsed.function else _of_operator(parsed, target)
    from normbench import explain

    report = replace(explain(function, *arguments, target=target), name=name)
    print(report)
    if parsed.html:
        _write(Path(parsed.html), report._repr_html_())
    return 0


def _prepare_process(target: str, parsed: argparse.Namespace) -> None:
    """Sets what must be set before JAX is imported."""
    if target in DEVICELESS_TARGETS:
        from normbench.fusion.targets import compile_environment

        os.environ.update(compile_environment())
    if any(name in ("float64", "f64") for name in (*(parsed.dtype or ()), parsed.param_dtype)):
        os.environ["JAX_ENABLE_X64"] = "1"
        if "jax" in sys.modules:  # a program that calls this one
            sys.modules["jax"].config.update("jax_enable_x64", True)


def _of_operator(parsed: argparse.Namespace, target: str) -> tuple[str, Callable, Sequence[Any]]:
    from normbench import kernels
    from normbench.cases.case import Case
    from normbench.cases.slugs import decode_value, parse_dtype, parse_layout, parse_shape

    if parsed.operator is None or parsed.variant is None:
        raise UserError("explain needs OPERATOR and VARIANT, or --function MODULE:NAME")
    if len(parsed.shape or ()) != 1 or len(parsed.dtype or ("float32",)) != 1:
        raise UserError("explain of an operator takes one --shape and one --dtype: those of x")
    variant = kernels.get(parsed.operator, parsed.variant)
    shape = parse_shape(parsed.shape[0])
    given = {"pass_": parsed.pass_, "context": parsed.context, "epsilon": parsed.epsilon}
    problem = kernels.Problem(
        operator=parsed.operator,
        shape=shape,
        layout=parse_layout(parsed.layout, len(shape)),
        dtype=parse_dtype((parsed.dtype or ["float32"])[0]),
        param_dtype=parse_dtype(parsed.param_dtype or "float32"),
        options=_options(parsed.option or (), decode_value),
        **{name: value for name, value in given.items() if value is not None},
    )
    kernels.operator(parsed.operator).validate(problem)
    reason = variant.supports(problem, target)
    if reason:
        raise UserError(f"{parsed.operator} {parsed.variant} is not supported here on {target}: {reason}")
    program = kernels.program(problem, parsed.variant)
    return Case(problem, parsed.variant).slug, program.function, program.inputs


def _options(texts: Sequence[str], decode: Callable[[str], Any]) -> tuple[tuple[str, Any], ...]:
    words = {"true": True, "false": False}
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"option {text!r}: expected NAME=VALUE, e.g. kernel=3x3")
        found[name] = words[value] if value in words else decode(value)
    return tuple(sorted(found.items()))


def _of_function(parsed: argparse.Namespace) -> tuple[str, Callable, Sequence[Any]]:
    for name in _OF_OPERATORS:
        if getattr(parsed, name) is not None:
            raise UserError(f"--function takes no {name.strip('_')}: give --shape and --dtype for each array argument")
    function = _find(parsed.function)
    arguments = _abstract(parsed.shape or (), parsed.dtype or ["float32"])
    import jax

    try:
        jax.eval_shape(function, *arguments)
    except Exception as error:
        called = ", ".join(f"{argument.dtype}{list(argument.shape)}" for argument in arguments)
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"function {parsed.function!r} cannot be called with ({called}): {first_line}") from error
    return parsed.function, function, arguments


def _abstract(shapes: Sequence[str], dtypes: Sequence[str]) -> list[Any]:
    import jax
    import jax.numpy as jnp

    from normbench.cases.slugs import parse_dtype, parse_shape

    if len(dtypes) not in (1, len(shapes)):
        raise UserError(f"{len(dtypes)} --dtype for {len(shapes)} --shape; allowed: one for all, or one for each")
    names = [parse_dtype(name) for name in (dtypes if len(dtypes) == len(shapes) else list(dtypes) * len(shapes))]
    return [
        jax.ShapeDtypeStruct(parse_shape(shape), jnp.dtype(name)) for shape, name in zip(shapes, names, strict=True)
    ]


def _find(text: str) -> Callable:
    from normbench.study.user_modules import import_module

    module_name, separator, path = text.partition(":")
    if not separator or not module_name or not path:
        raise UserError(f"function {text!r}: expected MODULE:NAME, e.g. jax.nn:silu")
    found: Any = import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            public = [key for key in vars(found) if not key.startswith("_") and callable(getattr(found, key))]
            raise unknown(f"function of {module_name}", name, public[:20])
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"function {text!r} is a {type(found).__name__}, which cannot be called")
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"HTML file {str(path)!r} cannot be written: {error.strerror or error}") from error
    print(path)
