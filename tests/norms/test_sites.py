"""The launches of a site, as they were read from the HLO by hand, and sums that have to add up."""

import importlib.util
import json

import jax.numpy as jnp
import pytest

from normbench import explain
from normbench.errors import UserError
from normbench.norms.text import accounting_lines, norms_html, norms_json, norms_text
from tests.norms.programs import PROGRAMS, array

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)

# For each site, what stands in its own launches and in those that it shares, by what the HLO says of them: the names of
# launches differ between releases, their operations less. Read by hand in the modules of JAX 0.10.2 for an h200.
BY_HAND = {
    # Each group norm: a launch that reduces x, and one that normalises and applies silu where it follows.
    "U-Net": [(2, 0), (2, 0), (2, 0)],
    # The first as above; the second is computed with the bias of the projection before it, in both of its launches.
    "ViT block": [(2, 0), (0, 2)],
    # One launch each, with the residual additions before it.
    "Llama": [(1, 0), (1, 0), (1, 0), (1, 0)],
}


@pytest.fixture(scope="module")
def reports():
    made = {}

    def report(name):
        if name not in made:
            listed = PROGRAMS[name]()
            made[name] = explain(listed.function, *listed.arguments, target="h200")
        return made[name]

    return report


@pytest.mark.parametrize("name", BY_HAND)
def test_the_launches_of_each_site_are_those_that_were_found_by_hand(reports, name):
    report = reports(name)
    assert [(len(site.launches), len(site.shared)) for site in report.norms] == BY_HAND[name]
    for site in report.norms:
        operations = {op for i in (*site.launches, *site.shared) for op in report.compilation.reading.launches[i].ops}
        assert {"reduce", "rsqrt"} <= operations
        assert "dot" not in operations
        assert all("rsqrt" not in report.launches["ops"][i] for i in report.launches.index
                   if report.norms.groups[i] == {-1})  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_groups_and_what_is_shared_add_up_to_the_program_exactly(reports, name):
    report = reports(name)
    accounting = report.norms.accounting
    assert accounting["bytes"].sum() == report.bytes == report.norms.bytes
    assert accounting["launches"].sum() == len(report.launches)
    assert accounting["predicted_s"].sum() == pytest.approx(report.predicted_s)


@pytest.mark.parametrize("name", BY_HAND)
def test_no_site_moves_less_than_its_least(reports, name):
    for site in reports(name).norms:
        assert 0 < site.least_bytes <= site.own_bytes + site.shared_bytes


def test_a_site_says_what_it_is(reports):
    first, second, third = reports("U-Net").norms
    assert (first.kind, first.groups, first.layout, first.channel_axis) == ("group", 4, "channels last", 3)
    assert (first.dtype, first.param_dtype, first.statistics_dtype) == ("bfloat16", "float32", "float32")
    assert (first.activation, first.epsilon, first.statistics) == ("silu", 1e-6, "computed")
    assert third.residual
    assert "small_models.py:" in first.source
    assert first.source != third.source
    assert "GroupNorm_1" in second.scope


def test_the_page_is_printed_as_text_html_and_json(reports):
    norms = reports("U-Net").norms
    assert "3 normalizations" in norms_text(norms)
    assert "predicted (not measured)" in norms_text(norms)
    assert "<table>" in norms_html(norms)
    whole = json.loads(norms_json(norms))
    assert len(whole["sites"]) == 3
    assert sum(row["bytes"] for row in whole["accounting"]) == whole["bytes"]


def test_a_replacement_names_the_call_and_its_variants_are_compiled(reports):
    site = reports("U-Net").norms[0]
    table = site.variants()
    assert set(table["status"]) <= {"ok", "unsupported", "failed"}
    assert table["bytes"][0] == table["bytes"].min()
    replacement = site.replacement()
    assert replacement.call.startswith('normbench.kernels.get("group_norm", "')
    assert "bfloat16[2,8,8,16]" in replacement.call
    assert "groups=4" in replacement.call
    assert replacement.saved_bytes == site.own_bytes - replacement.bytes
    quickest = table[table["status"] == "ok"].sort_values(["predicted_s", "bytes"]).iloc[0]
    assert (replacement.variant, replacement.predicted_s) == (quickest["variant"], quickest["predicted_s"])
    assert replacement.is_worthwhile == (replacement.saved_s > 0)
    low_s, high_s = replacement.predicted_range_s
    assert low_s <= replacement.predicted_s <= high_s
    assert "between" in replacement.words, "a prediction is told with its range"


def test_statistics_that_no_operator_takes_are_told_and_have_no_variants(reports):
    for name, words, why in (
        ("Conformer convolution, padded", "masked layer", "those of a mask"),
        ("batch norms of four devices", "batch over 4 devices", "those of 4 devices"),
    ):
        norms = reports(name).norms
        assert words in norms_text(norms)
        for site in norms:
            assert site.problem is None
            assert why in site.why_no_problem
            with pytest.raises(UserError, match=why):
                site.variants()
    report = explain(
        lambda x, epsilon: x / (jnp.mean(x * x, -1, keepdims=True) + epsilon) ** 0.5, array(8, 64), array()
    )
    assert [site["epsilon"] for site in json.loads(norms_json(report.norms))["sites"]] == [None]
    with pytest.raises(UserError, match="epsilon is an argument"):
        report.norms[0].replacement()


def test_the_predicted_time_of_a_program_is_told_with_its_range(reports):
    norms = reports("U-Net").norms
    (line,) = accounting_lines(norms)
    assert "predicted (not measured)" in line
    assert " between " in line
    for site in norms:
        low_s, high_s = site.predicted_range_s
        assert low_s <= site.predicted_s <= high_s


def test_numbers_do_not_show(reports):
    report = reports("U-Net")
    assert "#t" not in report.hlo
    assert not any(
        "#t" in str(value) for column in ("scope", "source_ops", "name") for value in report.launches[column]
    )


def test_a_report_that_explain_did_not_make_has_no_module():
    from normbench.explanation.explain import Report

    with pytest.raises(UserError, match="report has no module"):
        _ = Report("f", None).norms  # type: ignore[arg-type]
