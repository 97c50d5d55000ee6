"""The command beside a case names exactly that case."""

import argparse
import shlex

import pytest

from normbench.cases.case import Case, cases
from normbench.cases.slugs import OPTION_CODES, decode_value, parse_dtype, parse_shape
from normbench.kernels.problem import Problem
from normbench.report.page.reproduce import OPTION_NAMES, explain_command


def _problem(command: str) -> tuple[Problem, str]:
    program, verb, operator, variant, *flags = shlex.split(command)
    assert (program, verb) == ("normbench", "explain")
    parser = argparse.ArgumentParser()
    for name in ("shape", "layout", "dtype", "param-dtype", "pass", "context"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--epsilon", type=float, default=1e-5)
    parser.add_argument("--option", action="append", default=[])
    parsed = vars(parser.parse_args(flags))
    options = [(name, decode_value(value)) for name, value in (text.split("=") for text in parsed["option"])]
    problem = Problem(
        operator=operator,
        shape=parse_shape(parsed["shape"]),
        layout=parsed["layout"],
        dtype=parse_dtype(parsed["dtype"]),
        param_dtype=parse_dtype(parsed["param_dtype"]),
        pass_=parsed["pass"],
        context=parsed["context"],
        epsilon=parsed["epsilon"],
        options=tuple(sorted(options)),
    )
    return problem, variant


def test_command_leads_back_to_every_case_of_the_quick_preset():
    for case in cases("quick"):
        problem, variant = _problem(explain_command(case.row()))
        assert (repr(problem), variant) == (repr(case.problem), case.variant)


@pytest.mark.parametrize(
    "options",
    [
        (("kernel", (3, 5)), ("padding", ((0, 1), (1, 2)))),
        (("kernel", 3), ("padding", "same")),
        (("groups", 4), ("transposed", True)),
        (("alpha", 0.5),),
        (("padding", ((-1, -1), (-1, -1))),),
    ],
)
def test_command_holds_every_kind_of_option(options):
    case = Case(Problem("conv_bn", (1, 8, 4, 4), options=options, epsilon=1e-3), "folded")
    assert repr(_problem(explain_command(case.row()))[0]) == repr(case.problem)


def test_options_of_one_axis():
    case = Case(
        Problem("conv_bn", (1, 8, 4), layout="ncl", options=(("kernel", (3,)), ("padding", ((1, 1),)))), "folded"
    )
    assert repr(_problem(explain_command(case.row()))[0]) == repr(case.problem)


def test_option_letters_are_those_of_the_slugs():
    assert {code: name for name, code in OPTION_CODES.items()} == OPTION_NAMES


def test_words_that_a_shell_would_read_are_quoted():
    row = {**Case(Problem("conv_bn", (1, 8, 4, 4)), "folded").row(), "variant": "$(rm -rf ~)"}
    assert "'$(rm -rf ~)'" in explain_command(row)
