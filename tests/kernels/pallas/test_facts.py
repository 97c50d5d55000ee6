"""The Pallas Triton kernels as compiled, and their traffic against XLA's, held by the data in `results/kernels/`."""

import dataclasses
import importlib.util
import math

import jax
import jax.numpy as jnp
import pytest

from analysis.pages import kernels_against_xla as kernel_traffic
from analysis.pages import kernels_triton as kernel_facts
from normbench import kernels
from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels.problem import Problem

READS_PROGRAMS = True

needs_compiler = pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"), reason="needs the extra gpu-targets"
)
OPERATORS = ("batch_norm", "batch_norm_training", "layer_norm", "rms_norm", "group_norm", "instance_norm")
FACTS = {(facts.case, facts.target): facts for facts in kernel_facts.read()}
AGAINST = {row.problem: row for row in kernel_traffic.read()}


def test_every_kernel_has_facts_for_every_target_and_none_is_broken():
    slugs = {Case(problem, "pallas_triton").slug for problem in kernel_facts.problems()}
    assert set(FACTS) == {(slug, target) for slug in slugs for target in kernel_facts.TARGETS}
    assert {slug.split(".")[0] for slug in slugs} == set(OPERATORS)
    assert not [sentence for facts in FACTS.values() for sentence in kernel_facts.broken(facts)]


SAMPLE = [
    ("h200", "batch_norm", "nchw", "bfloat16", "backward"),
    ("h200", "batch_norm_training", "nhwc", "bfloat16", "forward"),
    ("a100", "rms_norm", "nc", "float32", "backward"),
    ("h200", "batch_norm_training", "nchw", "float32", "backward"),
    ("h200", "group_norm", "nchw", "bfloat16", "forward"),
    ("h200", "instance_norm", "nhwc", "float32", "backward"),
    ("a100", "layer_norm", "nc", "bfloat16", "backward"),
    ("a100", "batch_norm", "nhwc", "float32", "backward"),
]


@needs_compiler
@pytest.mark.parametrize(("target", *("operator", "layout", "dtype", "pass_")), SAMPLE)
def test_what_is_compiled_now_is_what_the_data_say(target, operator, layout, dtype, pass_):
    wanted = (operator, layout, dtype, pass_)
    problem = next(p for p in kernel_facts.problems() if (p.operator, p.layout, p.dtype, p.pass_) == wanted)
    found = kernel_facts.measured(problem, target)
    assert not kernel_facts.broken(found)
    if jax.__version__ == "0.10.2":  # whose compiler the data are of
        assert not kernel_facts.differences(FACTS[found.case, target], found)


def test_what_changed_and_what_is_wrong_is_said_in_words():
    known = next(iter(FACTS.values()))
    worse = dataclasses.replace(known, launches=3, declared_bytes=2 * known.declared_bytes, load_bytes=4)
    assert kernel_facts.differences(known, known) == []
    assert kernel_facts.differences(known, worse)[0].endswith("launches was 1, is 3")
    broken = " ".join(kernel_facts.broken(worse))
    for words in ("3 launches, allowed: 1", "2.000 × the least of 2 walks", "loads of 4 bytes"):
        assert words in broken


def test_every_problem_of_standard_moves_no_more_than_by_xla_or_is_predicted_to_be_quicker_or_is_refused():
    """A problem that is not in the data yet has still to be measured: see `analysis.pages.kernels_against_xla`."""
    refused, quicker = 0, kernel_traffic.quicker("pallas_triton")
    for case in kernel_traffic.problems():
        row = AGAINST[case.slug.removesuffix(".pallas_triton")]
        assert row.reason == (kernels.get(case.operator, "pallas_triton").supports(case.problem, "h200") or "")
        assert row.reason or row.factor >= kernel_traffic.EQUAL or row.problem in quicker
        refused += bool(row.reason)
    assert refused < len(AGAINST) / 8


def factors(start, pass_, of="naive_bytes"):
    """By problem, how many times more a variant in plain JAX moves than the kernels."""
    rows = [row for row in AGAINST.values() if row.problem.startswith(start) and f".{pass_}" in row.problem + "."]
    return {row.problem: getattr(row, of) / row.kernel_bytes for row in rows if row.kernel_bytes}


def test_the_factors_that_the_page_states():
    assert min(factors("layer_norm.alone.", "forward_backward").values()) >= 2
    assert max(factors("group_norm.alone.16x320", "forward_backward").values()) >= 2.5
    assert kernel_traffic.table(tuple(AGAINST.values())) in kernel_traffic.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("slug", sorted(slug for slug, row in AGAINST.items() if row.kernel_bytes)[::12])
def test_what_the_kernels_declare_now_is_what_the_data_say(slug):
    assert kernel_traffic.kernel_bytes(Case.from_slug(f"{slug}.pallas_triton").problem) == AGAINST[slug].kernel_bytes


def problem_of(operator, shape=(2, 8, 4, 4)):
    options = (("groups", 1),) if operator == "group_norm" else ()
    return Problem(operator, shape, "nhwc" if operator in ("layer_norm", "rms_norm") else "nchw", options=options)


def arrays_of(operator):
    definition = kernels.operator(operator)
    return [jnp.ones(argument.shape, argument.dtype) for argument in definition.arguments(problem_of(operator))]


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_wrong_rank_and_dtype_are_refused_with_the_reason(operator):
    variant, (x, *others) = kernels.get(operator, "pallas_triton"), arrays_of(operator)
    keywords = kernels.operator(operator).keywords(problem_of(operator))
    with pytest.raises(UserError, match="dtype int32; allowed: float32"):
        variant(x.astype(jnp.int32), *others, **keywords)
    with pytest.raises(UserError, match="shape"):
        variant(x, others[0][None], *others[1:], **keywords)
    with pytest.raises(UserError, match="rank"):
        kernels.program(dataclasses.replace(problem_of(operator), shape=(2, 8, 4)), "pallas_triton")


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_cpu_an_old_gpu_and_too_many_elements_are_refused_with_the_reason(operator):
    variant, problem = kernels.get(operator, "pallas_triton"), problem_of(operator)
    assert "never times it" in variant.supports(problem, "cpu")
    assert "needs Ampere or newer" in variant.supports(problem, "v100")
    assert variant.supports(problem, "gpu") is None
    large = dataclasses.replace(problem, shape=(2**16, 8, 64, 64))
    assert math.prod(large.shape) > 2**31 - 2**20
    assert "32-bit" in variant.supports(large, "h200")


@pytest.mark.parametrize("operator", OPERATORS)
def test_sizes_that_no_vector_divides_are_computed_by_the_kernels_and_by_nothing_else(operator):
    problem = problem_of(operator, (2, 7, 5, 3))
    program = kernels.program(problem, "pallas_triton")
    assert kernels.get(operator, "pallas_triton").supports(problem, "gpu") is None
    assert "pallas_call" in str(jax.make_jaxpr(program.function)(*program.inputs))
