"""The reader on whole programs, against a count from their HLO text and against what is known of them."""

import importlib.util
import math

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)

NOT_ON_CPU = {"with_own_kernel"}
LAYERS = 3
HEADS = {  # of the hints that some program here has on some target
    "materialised upcast", "transposed layout", "copy", "stacked arrays", "library call", "Pallas kernel",
    "length unknown", "dtype promotion", "row length", "not matched",
}  # fmt: skip


@pytest.fixture
def programs(whole_facts):
    """What is known of each program that compiles, by "name on target"."""
    return {name: fact for name, fact in whole_facts.items() if "error" not in fact}


ELSEWHERE = ("few blocks", "sum by a library", "broadcast written out", "one thread")
"""What rests on grids that are dumped apart, or is a CPU's own: `test_cpu_hints.py` holds it."""


def heads(fact):
    return {hint.split(":")[0] for hint in fact["hints"]}


def hint(fact, head):
    (found,) = (one for one in fact["hints"] if one.startswith(head))
    return found


def test_every_program_compiles(whole_facts):
    failed = {name: fact["error"] for name, fact in whole_facts.items() if "error" in fact}
    assert not {name: error for name, error in failed.items() if name.removesuffix(" on cpu") not in NOT_ON_CPU}


def test_launches_bytes_minimum_and_operations_are_those_of_the_text(programs):
    assert {name: fact["read"] for name, fact in programs.items()} == {
        name: fact["counted"] for name, fact in programs.items()
    }


def test_the_bounds_are_in_order(programs):
    for name, fact in programs.items():
        assert fact["read"]["minimum"] <= fact["between"] <= fact["read"]["bytes"], name


def test_every_consumer_of_a_refusal_uses_the_producers_result(programs):
    for name, fact in programs.items():
        edges = {tuple(edge) for edge in fact["edges"]}
        pairs = {(producer, consumer) for producer, consumers in fact["refusals"] for consumer in consumers}
        assert pairs <= edges, (name, pairs - edges)


def test_nearly_everything_that_one_launch_hands_to_another_has_its_refusal(programs):
    fact = programs["llama_unrolled on h200"]
    producers = {producer for producer, _ in fact["refusals"]}
    assert len(producers) >= 0.95 * len({producer for producer, _ in fact["edges"]})


def test_a_scanned_layer_has_the_refusals_of_an_unrolled_one(programs):
    """The last layer hands its result to nobody, which is one refusal less; slices and the loop's counter have no
    counterpart."""
    scanned, unrolled = programs["llama_scanned on h200"], programs["llama_unrolled on h200"]
    of_the_layer = [
        producer
        for producer, _ in scanned["refusals"]
        if "dynamic-slice" not in scanned["rows"][producer]["ops"] and scanned["rows"][producer]["read_bytes"] > 1000
    ]
    assert LAYERS * len(of_the_layer) - 1 == len(unrolled["refusals"])


def test_loops_count_in_xlas_figures_as_often_as_they_run(programs):
    for target in ("h200", "cpu"):
        scanned, unrolled = programs[f"llama_scanned on {target}"], programs[f"llama_unrolled on {target}"]
        assert scanned["flops"] == pytest.approx(unrolled["flops"], rel=0.01)
        assert scanned["xla_bytes"] >= unrolled["xla_bytes"]


def test_what_xla_does_not_know_is_absent(programs):
    assert programs["with_own_kernel on h200"]["flops"] is None
    assert programs["bottleneck_step on h200"]["flops"] >= programs["bottleneck_step on h200"]["counted"]["flops"]


def test_hints_are_those_of_the_text_and_no_others(programs):
    """Each sentence says what the count from the text has for it: sizes, numbers of launches, names."""
    for name, fact in programs.items():
        said = [one for one in fact["hints"] if not one.startswith(ELSEWHERE)]
        assert sorted(head for head, _ in fact["due"]) == sorted(one.split(":")[0] for one in said), name
        for head, parts in fact["due"]:
            found = [one for one in said if one.startswith(head) and all(part in one for part in parts)]
            assert found, (name, head, parts, said)
            said.remove(found[0])


def test_some_program_has_each_hint(programs):
    assert {head for fact in programs.values() for head, _ in fact["due"]} == HEADS


def test_few_blocks_are_those_of_the_grids(programs):
    for name, fact in programs.items():
        few = [
            row
            for row in fact["rows"]
            if row["grid"]
            and math.prod(map(int, row["grid"].split("x"))) < 132
            and row["read_bytes"] + row["write_bytes"] > 2e6 * row["repetitions"]
        ]
        assert ("few blocks" in heads(fact)) == bool(few), name
        if few:
            assert f", {len(few)} ha" in hint(fact, "few blocks"), name


def test_a_copy_that_the_wrong_order_costs_names_the_results_that_should_stand_there(programs):
    for target in ("h200", "cpu"):
        donated = programs[f"adamw_weights_first_donated on {target}"]
        right = programs[f"adamw_state_first_donated on {target}"]
        assert right["read"]["minimum"] == donated["read"]["minimum"]
        assert donated["read"]["bytes"] - right["read"]["bytes"] == pytest.approx(donated["copies"], abs=64)
        words = hint(donated, "copy")
        assert "result 1 takes that of state[1]['a']['square'], which result 4 replaces" in words
        assert "donate it" not in words
    assert programs["adamw_state_first_donated on h200"]["read"]["bytes"] < 1.001 * right["read"]["minimum"]


def test_a_copy_that_donation_would_save_says_so_and_it_does(programs):
    fact, donated = programs["add_rows on h200"], programs["add_rows_donated on h200"]
    assert "because table is updated and not given away" in hint(fact, "copy")
    rows, table = 128 * 64 * 2, 4096 * 64 * 2
    assert donated["read"]["bytes"] == 3 * rows + 128 * 4  # the update, what was there, and the sum; the indices
    assert fact["read"]["bytes"] == donated["read"]["bytes"] + 2 * table
    assert fact["read"]["minimum"] >= 2 * table


def test_the_gradient_of_a_table_is_filled_and_updated_in_place(programs):
    fact = programs["embedding_gradient on h200"]
    assert [row["kind"] for row in fact["rows"]] == ["fill", "update"]
    assert fact["read"]["bytes"] == 4096 * 64 * 2 + 3 * 128 * 64 * 2 + 128 * 4


def test_captured_arrays_and_what_is_handed_through_are_inputs(programs):
    for target in ("h200", "cpu"):
        for name in ("captured", "handed_through", "table_and_zeros"):
            read = programs[f"{name} on {target}"]["read"]
            assert read["bytes"] == pytest.approx(read["minimum"], abs=8), name


def test_branches_and_loops_are_in_the_open(programs):
    three = [row["branch"] for row in programs["one_of_three on h200"]["rows"]]
    assert set(three) == {None, "1 of 3 branches"}
    scanned = programs["llama_scanned on h200"]
    assert {row["repetitions"] for row in scanned["rows"]} == {1, LAYERS}
    assert scanned["read"]["executed"] > scanned["read"]["launches"]


def test_kinds_and_sources(programs):
    (own,) = (row for row in programs["with_own_kernel on h200"]["rows"] if row["kind"] == "pallas")
    assert own["ops"] == "double_kernel"
    assert "slice" in {row["kind"] for row in programs["llama_scanned on h200"]["rows"]}
    sources = [row["source"] for row in programs["llama_unrolled on h200"]["rows"]]
    assert all(source.startswith("tests/fusion/programs.py:") for source in sources)
