"""Peers in a study: in processes of their own, taking turns with ours; refused with a reason where they are missing."""

from dataclasses import replace
from importlib.util import find_spec

import pandas as pd
import pytest

from normbench import kernels
from normbench.cases.case import Case, cases
from normbench.cli.study import any_failed
from normbench.kernels import Problem
from normbench.kernels.peers import torch_variants
from normbench.kernels.registry import PEERS
from normbench.study.schedule.gpu_plan import plan, runs, with_peers
from normbench.study.schedule.study import StudyConfig, study
from normbench.study.schedule.turns import _by_process
from normbench.study.schedule.units import measure_units

PROBLEM = Problem("layer_norm", (4, 64), "nc")
OTHER = Problem("rms_norm", (4, 64), "nc")


def of(problem, *names):
    return tuple(Case(problem, name) for name in names)


@pytest.fixture
def torch_is_here(monkeypatch):
    """As far as anyone asks; nothing is compiled."""
    monkeypatch.setattr(torch_variants, "find_spec", lambda name: name if name == "torch" else None)


def test_each_peer_has_units_of_its_own(torch_is_here):
    chosen = of(PROBLEM, "naive", "torch_eager", "liger", "one_pass") + of(OTHER, "naive", "torch_eager")
    units = measure_units(chosen, ("cpu",), 2)
    found = {
        (unit.problem_name, unit.process, unit.peer): [slug.rpartition(".")[2] for slug in unit.cases] for unit in units
    }
    names = list(dict.fromkeys(unit.problem_name for unit in units))
    assert len(names) == 2
    for process in range(2):
        assert found[names[0], process, ""] == ["naive", "liger", "one_pass"]  # Liger only says that it is missing
        assert found[names[0], process, "torch_eager"] == ["torch_eager"]
        assert found[names[1], process, ""] == ["naive"]
        assert found[names[1], process, "torch_eager"] == ["torch_eager"]
    assert len({unit.name for unit in units}) == len(units) == 8
    assert not any(unit.aa for unit in units if unit.peer)


def test_each_repetition_has_its_peers_beside_it_with_the_problems_in_the_same_order(torch_is_here):
    chosen = of(PROBLEM, "torch_eager", "naive") + of(OTHER, "naive", "torch_eager")
    lanes = _by_process(measure_units(chosen, ("cpu",), 2))
    assert [(lane.peer, lane.process) for lane in lanes] == [
        ("", 0), ("torch_eager", 0), ("", 1), ("torch_eager", 1),
    ]  # fmt: skip
    assert len({tuple(unit.problem_name for unit in lane.waiting) for lane in lanes}) == 1


def test_the_first_process_of_a_peer_is_its_own(torch_is_here):
    units = measure_units(of(PROBLEM, "naive", "torch_eager"), ("cpu",), 2)
    assert {replace(unit, process=0).name for unit in units} == {unit.name for unit in units if unit.process == 0}


def config(tmp_path, chosen, **fields):
    rule = {"minimum_samples": 2, "maximum_samples": 3, "time_limit_s": 0.01}
    return StudyConfig(chosen, ("cpu",), tmp_path / "runs", processes=1, **rule, **fields)


def test_a_study_has_a_row_for_every_peer_whether_it_is_installed_or_not(tmp_path):
    from normbench.report import load_run, terminal_table

    installed = find_spec("torch") is not None
    chosen = of(PROBLEM, "naive", "torch_eager", "quack")
    run = load_run(study(config(tmp_path, chosen)))
    accuracy = run.tables["accuracy"].set_index("case")
    statuses = {slug.rpartition(".")[2]: status for slug, status in accuracy["status"].items()}
    assert statuses == {"naive": "ok", "torch_eager": "ok" if installed else "unsupported", "quack": "unsupported"}
    assert "QuACK is not installed" in accuracy.loc[chosen[2].slug, "reason"]
    timings = run.tables["timings"]
    peer = timings[timings["case"] == chosen[1].slug]
    if installed:
        assert accuracy.loc[chosen[1].slug, "max_rel"] > 0
        assert set(zip(peer["clock"], peer["cache"], strict=True)) == {
            (clock, cache) for clock in ("wall", "pipelined") for cache in ("cold", "warm")
        }
        assert peer["seconds"].notna().all()
    else:
        assert peer["seconds"].isna().all()
        assert "PyTorch is not installed" in peer["reason"].iloc[0]
    assert not any_failed(run)
    assert "torch_eager" in terminal_table(run, 120)


@pytest.mark.parametrize(("variant", "failed"), [("torch_eager", False), ("naive", True)])
def test_what_a_peer_computes_wrongly_is_no_failure_of_ours(variant, failed):
    class Run:
        compiled = timings = accuracy = pd.DataFrame({"case": [Case(PROBLEM, variant).slug], "status": ["wrong"]})

    assert any_failed(Run) == failed


def test_the_preset_sets_the_best_of_ours_beside_every_peer():
    found = {}
    for case in cases("peers"):
        found.setdefault(case.operator, set()).add(case.variant)
    assert set(found) == set(kernels.operators()) - {"conv_bn"}
    for operator, names in found.items():
        assert kernels.variants(operator)[0] in names
        assert set(kernels.variants(operator, PEERS)) <= names
        assert {"pallas_triton", "pallas_mosaic"} & set(kernels.variants(operator)) <= names  # a TPU has no peers
    assert {case.pass_ for case in cases("peers")} == {"forward", "forward_backward"}


def test_other_presets_have_them_only_by_name():
    assert not [case for case in cases("smoke") if kernels.get(case.operator, case.variant).compiler in PEERS]
    assert {case.variant for case in cases("smoke", ["rms_norm"], ["naive", "torch_eager"])} == {"naive", "torch_eager"}


def test_a_plan_for_a_gpu_has_the_peers_that_run_there_and_the_reasons_of_the_others_once(monkeypatch):
    monkeypatch.setattr(torch_variants, "find_spec", lambda name: name if name == "torch" else None)
    monkeypatch.setattr(torch_variants, "_without_cuda", lambda: False)
    ours = cases("standard", ["rms_norm"])
    found = with_peers(ours)
    assert [case for case in found if kernels.get(case.operator, case.variant).compiler not in PEERS] == list(ours)
    eager = [case for case in found if case.variant == "torch_eager"]
    textbook = [case for case in ours if not set(dict(case.options)) & set(kernels.operator("rms_norm").own_options)]
    assert {case.problem_slug for case in textbook if case.pass_ != "backward"} == {
        case.problem_slug for case in eager if runs(case)
    }
    assert sum(not runs(case) for case in eager) == 1
    assert len([case for case in found if case.variant == "apex"]) == 1
    chosen = plan(found, 120).chosen
    assert "torch_eager" in {case.variant for case in chosen if runs(case)}
