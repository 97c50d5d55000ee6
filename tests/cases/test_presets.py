"""The presets hold what they promise, and every shape says where it comes from."""

from collections import Counter, defaultdict
from itertools import combinations, pairwise

import pytest

from normbench import kernels
from normbench.cases import presets
from normbench.cases.case import PRESETS, cases
from normbench.cases.presets.layers import LAYERS, YOLO11N
from normbench.errors import UserError
from normbench.schema import TARGETS

QUICK_TARGETS = ("cpu", "h200", "a100")
ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def _bytes(problem):
    size = ITEM_BYTES[problem.dtype]
    for axis in problem.shape:
        size *= axis
    return size


def _batch(problem):
    return problem.shape[0] if problem.layout.startswith("n") else 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_problem_makes_sense_to_its_operator_and_has_a_provenance(preset):
    for problem, provenance in presets.problems(preset).items():
        kernels.operator(problem.operator).validate(problem)
        assert provenance.strip(), problem


def test_every_operator_has_cases_in_every_preset():
    for operator in kernels.operators():
        for preset in PRESETS:
            assert cases(preset, [operator])


def studied(found, target):
    """Those that a study of one target compiles or measures; kernels for another one are rows and nothing more."""
    return [case for case in found if kernels.get(case.operator, case.variant).supports(case, target) is None]


@pytest.mark.parametrize("target", ["cpu", "h200", "v6e"])
def test_smoke_is_a_handful(target):
    assert len(studied(cases("smoke"), target)) < 70
    assert len(studied(cases("smoke", ["batch_norm", "conv_bn"]), target)) < 20


def test_quick_covers_what_it_promises():
    found = cases("quick")
    assert 80 <= len(found) <= 420
    by_operator = defaultdict(list)
    for case in found:
        by_operator[case.operator].append(case)
    for operator, chosen in by_operator.items():
        assert {case.variant for case in chosen} == set(kernels.variants(operator))
        assert len({case.shape for case in chosen}) >= 3
        assert {"float32", "bfloat16", "float64"} <= {case.dtype for case in chosen}
    for operator in ("batch_norm", "conv_bn"):
        chosen = by_operator[operator]
        assert len({case.shape for case in chosen}) >= 8
        assert {1, 8, 32} <= {_batch(case.problem) for case in chosen}
        assert {"nchw", "nhwc"} <= {case.layout for case in chosen}


def test_quick_is_small_enough_for_a_slow_machine():
    sizes = [_bytes(problem) for problem in presets.problems("quick")]
    assert max(sizes) <= 32 * 2**20
    assert sorted(sizes)[len(sizes) // 2] <= 8 * 2**20


def test_standard_has_every_distinct_output_and_backward_passes():
    found = cases("standard")
    assert all(300 <= len(studied(found, target)) <= 2200 for target in ("cpu", "h200", "v6e"))
    assert {"forward", "backward", "forward_backward"} == {case.pass_ for case in found}
    outputs = {(layer.features, layer.out_size) for layer in LAYERS}
    images = [case for case in found if case.operator == "batch_norm" and len(case.shape) == 4]
    assert outputs <= {
        (case.channels, max(size for size in case.shape[1:-1])) for case in images if case.layout == "nhwc"
    } | {(case.channels, case.shape[-1]) for case in images if case.layout == "nchw"}


def test_full_has_1500_supported_cases_and_reasons_for_the_others():
    supported, reasons = 0, set()
    for case in cases("full"):
        found = [kernels.get(case.operator, case.variant).supports(case, target) for target in QUICK_TARGETS]
        supported += not any(found)
        reasons.update(reason for reason in found if reason)
    assert supported >= 1500
    assert reasons
    assert all(isinstance(reason, str) and reason.strip() for reason in reasons)


def sizes(problem):
    """Number of samples, channels and the rest of a shape, by position: a proof apart from the design's own axes."""
    kept = list(problem.shape)
    channels = kept.pop(problem.channel_axis)
    samples = kept.pop(0) if problem.layout[0] == "n" else None
    return samples, channels, tuple(kept)


def values(problem, options):
    fields = (*sizes(problem), problem.layout, problem.dtype, problem.param_dtype, problem.pass_, problem.context)
    return enumerate((*fields, problem.epsilon, *(problem.option(name) for name in options)))


@pytest.mark.parametrize("operator", kernels.operators())
def test_full_has_every_pair_of_values_that_any_problem_has_and_no_problem_that_adds_none(operator):
    product = [problem for problem in presets.problems("exhaustive") if problem.operator == operator]
    chosen = [problem for problem in presets.problems("full") if problem.operator == operator]
    options = sorted({name for problem in product for name, _ in problem.options})
    pairs = {problem: set(combinations(values(problem, options), 2)) for problem in product}
    assert set(chosen) <= set(product)
    assert set().union(*(pairs[problem] for problem in chosen)) == set().union(*pairs.values())
    times = Counter(pair for problem in chosen for pair in pairs[problem])
    assert all(min(times[pair] for pair in pairs[problem]) == 1 for problem in chosen)
    assert len(chosen) < 0.65 * len(product)


def test_full_is_the_same_each_time_and_a_fifth_of_the_product():
    found = presets.problems("full")
    assert list(presets.problems("full").items()) == list(found.items())
    assert len(found) < 0.2 * len(presets.problems("exhaustive"))
    for target in ("h200", "a100", "h100", "b200"):
        assert 4000 <= len(studied(cases("full"), target)) <= 5000


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="unknown preset"):
        presets.problems("tiny")


def test_names_of_layers_are_unique():
    assert len({layer.provenance for layer in LAYERS}) == len(LAYERS)


def test_layers_fit_together():
    """The output of each of the backbone's stages is what the next one reads."""
    backbone = {layer.name: layer for layer in YOLO11N}
    chain = ("model.0", "model.1", "model.2 cv1"), ("model.2 cv2", "model.3", "model.4 cv1")
    for names in chain:
        for first, second in pairwise(names):
            assert (backbone[first].features, backbone[first].out_size) == (
                backbone[second].channels,
                backbone[second].size,
            )


def test_targets_of_quick_exist():
    assert set(QUICK_TARGETS) <= set(TARGETS)


def test_the_layers_of_yolo11n_have_as_many_parameters_as_the_model():
    """Ultralytics states 2624080 for yolo11n: each layer once, repeated ones again, and the parts without a norm."""
    parameters = {
        layer.name: layer.kernel**2 * layer.channels * layer.features // layer.groups + 2 * layer.features
        for layer in YOLO11N
    }
    repeated = {
        "model.4 m.0.cv1": 1,  # model.16
        "model.4 m.0.cv2": 1,
        "model.6 m.0.cv1": 1,
        "model.6 m.0.m.0.cv1": 3,
        "model.6 cv2": 2,  # model.13, model.19
        "model.8 m.0.cv1": 3,  # model.8, model.22 twice
        "model.8 m.0.m.0.cv1": 8,  # model.8 three times, model.22 four times, model.23
        "model.8 m.0.cv3": 1,
        "model.8 cv1": 2,  # model.10
        "model.8 cv2": 1,
        "model.13 m.0.cv1": 1,  # model.19
        "model.13 m.0.cv2": 1,
        "model.23 cv2.0.0": 1,
    }
    without_norm = 3 * (64 * 64 + 64) + 3 * (80 * 80 + 80) + 16  # the detection heads' last convolutions, and the DFL
    total = sum(parameters.values()) + sum(count * parameters[name] for name, count in repeated.items()) + without_norm
    assert total == 2624080
