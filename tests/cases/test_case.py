"""A case is named by its slug, in both directions."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.cases.case import PRESETS, Case, cases
from normbench.cases.slugs import LAYOUT_BY_RANK, OPTION_CODES, decode_value, encode_value, parse_dtype, parse_shape
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.problem import DTYPES, LAYOUTS
from normbench.schema import PASSES, TABLES

names = st.from_regex(r"[a-z][a-z0-9]{0,8}(_[a-z0-9]{1,8}){0,2}", fullmatch=True)
integers = st.integers(-(2**40), 2**40)
tuples = st.lists(integers, max_size=4).map(tuple)
values = st.one_of(
    st.booleans(),
    integers,
    st.floats(),
    st.sampled_from(("same", "valid", "same_lower")),
    tuples,
    st.lists(tuples, max_size=3).map(tuple),
    # What convolutions are given: one number for every axis, as one number, and in pairs.
    st.builds(lambda size, axes: (size,) * axes, st.integers(0, 9), st.integers(1, 3)),
    st.builds(lambda size, axes: ((size, size),) * axes, st.integers(0, 9), st.integers(1, 3)),
)


@st.composite
def problems(draw):
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    shape = tuple(draw(st.lists(st.integers(0, 300), min_size=len(layout), max_size=len(layout))))
    options = draw(st.dictionaries(st.one_of(st.sampled_from(sorted(OPTION_CODES)), names), values, max_size=8))
    return Problem(
        operator=draw(names),
        shape=shape,
        layout=layout,
        dtype=draw(st.sampled_from(DTYPES)),
        param_dtype=draw(st.sampled_from(DTYPES)),
        pass_=draw(st.sampled_from(PASSES)),
        context=draw(names),
        epsilon=draw(st.floats(min_value=0.0, allow_nan=False)),
        options=tuple(sorted(options.items())),
    )


@given(problems(), names)
@settings(deadline=None)
def test_from_slug_is_the_inverse_of_slug(problem, variant):
    case = Case(problem, variant)
    try:
        slug = case.slug
    except UserError:
        # An option value that cannot be written is refused; it is never written wrongly.
        assert any(_cannot_be_written(value) for value in dict(problem.options).values())
        return
    assert re.fullmatch(r"[a-z0-9._-]+", slug)
    assert repr(Case.from_slug(slug)) == repr(case)


def _cannot_be_written(value):
    try:
        encode_value(value)
    except UserError:
        return True
    return False


@given(values)
@settings(deadline=None)
def test_option_values_are_read_back_exactly_or_refused(value):
    if not _cannot_be_written(value):
        assert repr(decode_value(encode_value(value))) == repr(value)


@given(st.one_of(integers, st.floats(), st.booleans(), tuples))
@settings(deadline=None)
def test_numbers_and_tuples_of_numbers_can_all_be_written(value):
    assert not _cannot_be_written(value)


@pytest.mark.parametrize("value", [None, "Same", "yes", "3", "3x3", [3, 3], {"a": 1}, "", ("same",)])
def test_what_a_slug_cannot_hold_is_refused(value):
    with pytest.raises(UserError, match="cannot be written"):
        encode_value(value)


def test_a_slug_is_short_and_says_what_matters():
    problem = Problem(
        "conv_bn",
        (8, 64, 80, 80),
        dtype="bfloat16",
        context="silu",
        epsilon=1e-3,
        options=(
            ("bias", True),
            ("features", 128),
            ("kernel", (3, 3)),
            ("padding", ((1, 1), (0, 2))),
            ("stride", (2, 2)),
        ),
    )
    slug = "conv_bn.silu.8x64x80x80.nchw.bf16.f32.forward.eps0p001.byes-o128-k3-p1_1x0_2-s2.folded"
    assert Case(problem, "folded").slug == slug
    assert Case(problem, "folded").problem_slug == slug.removesuffix(".folded")


def test_the_default_epsilon_is_not_written():
    assert Case(Problem("batch_norm", (2, 3), "nc"), "naive").slug == "batch_norm.alone.2x3.nc.f32.f32.forward.naive"


@pytest.mark.parametrize(
    "slug",
    [
        "",
        "naive",
        "batch_norm.alone.2x3.nc.f32.f32.forward",
        "batch_norm.alone.2x3.nchw.f32.f32.forward.naive",
        "batch_norm.alone.2xx3.nc.f32.f32.forward.naive",
        "batch_norm.alone.2x3.nc.int8.f32.forward.naive",
        "batch_norm.alone.2x3.nc.f32.f32.sideways.naive",
        "batch_norm.alone.2x3.nc.f32.f32.forward.z3.naive",
        "batch_norm.alone.2x3.nc.f32.f32.forward.epsx.naive",
        "batch_norm.alone.2x3.nc.f32.f32.forward.eps1.k3.k3.naive",
        "Batch.alone.2x3.nc.f32.f32.forward.naive",
        "../../etc/passwd",
    ],
)
def test_what_is_not_a_slug_is_refused(slug):
    with pytest.raises(UserError):
        Case.from_slug(slug)


def test_the_model_is_not_part_of_identity():
    problem = Problem("batch_norm", (2, 3), "nc")
    assert Case(problem, "naive", "here") == Case(problem, "naive", "there")
    assert len({Case(problem, "naive", "here"), Case(problem, "naive", "there")}) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_slugs_of_a_preset_are_unique_and_read_back(preset):
    found = cases(preset)
    assert len({case.slug for case in found}) == len(found)
    for case in found:
        assert Case.from_slug(case.slug) == case


def test_a_row_has_the_columns_of_the_table_of_cases():
    python_types = {"string": str, "int64": int, "bool": bool}
    for case in cases("quick"):
        row = case.row()
        assert list(row) == list(TABLES["cases"])
        for column, value in row.items():
            assert type(value) is python_types[TABLES["cases"][column]]
        assert row["elements"] == math.prod(case.shape)
        assert row["problem"] == case.slug.removesuffix(f".{case.variant}")
        assert row["baseline"] == (case.variant == kernels.variants(case.operator)[0])


def test_cases_are_chosen_by_operator_and_variant():
    found = cases("quick", ["batch_norm"], ["folded", "naive"])
    assert {case.operator for case in found} == {"batch_norm"}
    assert {case.variant for case in found} == {"folded", "naive"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("huge",), "unknown preset 'huge'; allowed: smoke, quick, standard, full, exhaustive"),
        (("smoke", ["batchnorm"]), "unknown operator 'batchnorm'; allowed: batch_norm"),
        (("smoke", ["batch_norm"], ["fast"]), "unknown variant of batch_norm 'fast'; allowed: naive"),
    ],
)
def test_unknown_names_are_refused_with_what_is_allowed(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        cases(*arguments)


@pytest.mark.parametrize("text", ["", "x", "32x", "x32", "32X64", "3,4", "-1x3", "1.5x2", "1x2x3x4x5x6", "9" * 30, "²"])
def test_bad_shape_syntax_is_refused(text):
    with pytest.raises(UserError, match="shape"):
        parse_shape(text)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=4))
@settings(deadline=None)
def test_shapes_are_read(sizes):
    assert parse_shape("x".join(map(str, sizes))) == tuple(sizes)


def test_dtypes_have_short_forms():
    assert [parse_dtype(text) for text in ("bf16", "f32", "float64", "f16")] == [
        "bfloat16",
        "float32",
        "float64",
        "float16",
    ]
    with pytest.raises(UserError, match="unknown dtype 'int8'; allowed: float32"):
        parse_dtype("int8")


def test_every_rank_has_a_layout():
    assert all(len(layout) == rank for rank, layout in LAYOUT_BY_RANK.items())
