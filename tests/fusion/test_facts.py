"""What XLA makes of known programs for the H200, without a device, under every JAX at hand."""

import importlib.util

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)


def ratio(fact):
    return pytest.approx(fact, abs=0.005)


def test_two_pass_layer_norm_is_one_launch_at_the_minimum(facts):
    fact = facts["layer_norm"]
    assert (fact["launches"], fact["kinds"], fact["traffic_ratio"]) == (1, ["triton"], ratio(1.00))


def test_one_pass_layer_norm_is_three_launches_and_the_reason_is_named(facts):
    fact = facts["layer_norm_one_pass"]
    assert (fact["launches"], fact["traffic_ratio"]) == (3, ratio(1.50))
    assert any(hint.startswith("not matched") for hint in fact["hints"])


def test_the_cliff_lies_between_16384_and_16385(facts):
    before, behind = facts["layer_norm_16384"], facts["layer_norm_16385"]
    assert (before["launches"], before["traffic_ratio"], before["hints"]) == (1, ratio(1.00), [])
    assert behind["launches"] >= 6
    assert behind["traffic_ratio"] == pytest.approx(2.0, abs=0.05)
    assert any("16384" in hint and "16385" in hint for hint in behind["hints"])


def test_promotion_costs_half_as_much_again_and_is_named(facts):
    assert facts["batch_norm"]["traffic_ratio"] == ratio(1.00)
    assert not any("promotion" in hint for hint in facts["batch_norm"]["hints"])
    promoting = facts["batch_norm_promoting"]
    assert promoting["traffic_ratio"] == ratio(1.50)
    assert any("dtype promotion" in hint and "astype" in hint for hint in promoting["hints"])


def test_scale_and_shift_are_a_launch_unless_they_are_folded_ahead(facts):
    unfused, prefolded = facts["conv_bn"], facts["conv_bn_prefolded"]
    assert any("mul" in sources and "add" in sources for sources in unfused["source_ops"])
    assert "library" in prefolded["kinds"]
    assert not any("mul" in sources.split(",") for sources in prefolded["source_ops"])
    assert prefolded["launches"] < unfused["launches"]
    assert prefolded["traffic_ratio"] < unfused["traffic_ratio"]


def test_autodiff_of_layer_norm_materialises_the_upcast(facts):
    fact = facts["layer_norm_and_gradient"]
    assert (fact["launches"], fact["traffic_ratio"]) == (8, pytest.approx(3.27, abs=0.01))
    assert any("materialised upcast" in hint for hint in fact["hints"])


def test_group_norm_nchw_materialises_the_upcast_and_the_compiler_says_why(facts):
    fact = facts["group_norm_nchw"]
    assert (fact["launches"], fact["traffic_ratio"]) == (3, pytest.approx(5.0, abs=0.01))
    assert any("no common tiling" in refusal for refusal in fact["refusals"])


def test_reductions_are_refused_with_their_reason(facts):
    assert any("both contain a reduction" in refusal for refusal in facts["batch_norm_training"]["refusals"])


def test_statistics_of_a_tensor_beyond_the_cache_need_a_second_read(facts):
    fact = facts["batch_norm_training"]
    assert fact["streaming_minimum_bytes"] == pytest.approx(1.5 * fact["minimum_bytes"], rel=1e-3)
    assert facts["layer_norm"]["streaming_minimum_bytes"] == facts["layer_norm"]["minimum_bytes"]


def test_bytes_equal_xlas_count_where_there_are_no_calls_and_no_slices(facts):
    for name, fact in facts.items():
        if fact["call_bytes"] == 0 and not any("slice" in ops for ops in fact["ops"]):
            assert fact["bytes"] == pytest.approx(fact["xla_bytes"], rel=1e-3), name


def test_bytes_exceed_xlas_count_by_the_operands_and_results_of_library_calls(facts):
    for name in ("conv_bn", "conv_bn_prefolded"):
        # XLA's analysis says -1 for a call that it does not know.
        assert facts[name]["bytes"] - facts[name]["xla_bytes"] == pytest.approx(facts[name]["call_bytes"], abs=1), name


def test_a_slice_counts_with_what_it_reads(facts):
    fact = facts["layer_norm_pivoted"]
    x_bytes, pivot_bytes = 2048 * 4096 * 2, 2048 * 2
    assert fact["xla_bytes"] - fact["bytes"] == x_bytes - pivot_bytes
    assert fact["bytes"] == pytest.approx(50.4e6, rel=2e-3)


def test_grids_and_widths_are_read_from_the_generated_code(facts):
    for name, fact in facts.items():
        own = [i for i, kind in enumerate(fact["kinds"]) if kind not in ("library", "copy")]
        assert all(fact["grid"][i] and fact["load_bytes"][i] in (2, 4, 8, 16) for i in own), name
    assert facts["layer_norm"]["load_bytes"] == [16]
