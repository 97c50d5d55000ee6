"""Programs over 8, 2 x 4 and 64 devices: what they send, read in two ways, under the oldest and newest JAX at hand."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = [sys.executable, *(str(path) for path in sorted(ROOT.glob(".venv-0.12*/bin/python")))]
GATHERED = 4096 * 16384 * 2
"""Bytes of one weight of the MLP."""


@pytest.fixture(scope="module", params=INTERPRETERS, ids=lambda path: Path(path).parents[1].name)
def facts(request):
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        pytest.skip("needs the extra gpu-targets")
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    command = [request.param, "-m", "tests.explanation.sharded_programs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def sent(fact):
    return [(one["collective"], one["axes"], one["group_size"], one["wire_bytes"]) for one in fact["collectives"]]


@pytest.mark.parametrize(
    ("name", "axes", "group", "wire"),
    [
        ("rms 8", "d", 8, 2 * 512 * 4 * 7 // 8),
        ("rms 2x4", "model", 4, 2 * 512 * 4 * 3 // 4),
        ("rms 64", "data,model", 64, 2 * 512 * 4 * 63 // 64),
    ],
)
def test_rms_norm_on_its_own_axis_is_three_launches_with_one_all_reduce_of_the_rows(facts, name, axes, group, wire):
    fact = facts[name]
    assert fact["devices"] == (64 if "64" in name else 8)
    kinds = [kind for kind, *_ in fact["launches"]]
    assert [kind for kind in kinds if kind != "collective"] in (["reduction", "loop"], ["reduction", "loop", "loop"])
    assert sent(fact) == [("all-reduce", axes, group, wire)]
    _, read, written, _ = fact["launches"][kinds.index("collective")]
    assert read == written == 512 * 4  # of memory, apart from the wire


@pytest.mark.parametrize(("mesh", "axes", "group"), [("8", "d", 8), ("2x4", "data", 2), ("64", "data,model", 64)])
def test_batch_norm_over_the_batch_is_two_all_reduces_of_the_channels(facts, mesh, axes, group):
    one = ("all-reduce", axes, group, 2 * 128 * 4 * (group - 1) // group)
    assert sent(facts[f"batch {mesh}"]) == [one, one]
    if mesh != "2x4":
        both = (*one[:3], 2 * 2 * 128 * 4 * (group - 1) // group)
        assert sent(facts[f"sums {mesh}"]) == [both]


@pytest.mark.parametrize(("mesh", "axes", "group"), [("8", "d", 8), ("2x4", "model", 4), ("64", "d", 64)])
def test_fsdp_gathers_weights_and_scatters_gradients_once(facts, mesh, axes, group):
    fact = facts[f"fsdp {mesh}"]
    part = GATHERED * (group - 1) // group
    by_kind = {}
    for kind, over, size, wire in sent(fact):
        assert (over, size) == (axes, group)
        by_kind.setdefault(kind, []).append(wire)
    assert by_kind["all-gather"] == [part, part]
    assert sum(by_kind["reduce-scatter"]) == 2 * part  # on 64 devices XLA makes one of the two
    assert by_kind["all-reduce"] == [2 * 4096 * 2 * (group - 1) // group]
    assert len(by_kind) == 3
    assert any(
        one["asynchronous"] and beside for one, beside in zip(fact["collectives"], fact["meanwhile"], strict=True)
    )


def test_the_text_of_the_module_gives_the_same_bytes(facts):
    for name, fact in facts.items():
        if "text" in fact:
            once = [[one["collective"], one["group_size"], one["wire_bytes"] // one["repetitions"]]
                    for one in fact["collectives"]]  # fmt: skip
            assert sorted(once) == sorted(fact["text"]), name


def test_the_same_program_by_any_mesh_and_any_way_to_shard_it(facts):
    same = ["rms 8", "rms 8 of cpus", "rms 8 by in_shardings", "rms 8 of cpus by in_shardings"]
    assert len({facts[name]["sha256"] for name in same}) == 1
    for name in ("shard_map 8", "scan 8"):
        assert facts[name]["sha256"] == facts[f"{name} of cpus"]["sha256"]
        assert facts[name]["collectives"] == facts[f"{name} of cpus"]["collectives"]
    assert sent(facts["shard_map 8"]) == sent(facts["rms 8"])
    (one,) = facts["scan 8"]["collectives"]
    assert (one["repetitions"], one["wire_bytes"]) == (3, 3 * sent(facts["rms 8"])[0][3])
    assert facts["on cpus"]["collectives"] == [["all-reduce", 8]]


def test_donation_and_the_shardings_of_results_are_kept(facts):
    assert facts["donated"]["aliases"]
    assert not facts["rms 8"]["aliases"]
    assert sent(facts["donated"]) == sent(facts["rms 8"])
    exchanged = ("all-to-all", "d", 8, 512 // 8 * 4096 * 2 * 7 // 8)  # from columns to rows
    for name in ("out_shardings", "constraint"):
        assert exchanged in sent(facts[name])


def test_the_report_is_that_of_one_device_and_says_so(facts):
    assert facts["rms 2x4"]["title"] == "rms_norm on h200, one of 8 devices (data 2, model 4)"
    assert facts["rms 8"]["picture"] == 1  # the collective is drawn with what it sends
    assert facts["fsdp 8"]["picture"] == 5


def test_predictions_have_their_range_and_grow_with_the_machines(facts):
    for name, fact in facts.items():
        if "seconds" in fact:
            low, predicted, high = fact["seconds"]
            assert 0 < low <= predicted <= high, name
    near, far = (facts[f"batch {mesh}"]["collectives"][0]["predicted_s"] for mesh in ("8", "64"))
    assert 2e-6 < near < far < 200e-6


def test_hand_written_kernels_are_one_per_device_or_refused(facts):
    assert facts["pallas 8"]["launches"][0][0] == "pallas"
    assert facts["pallas 8"]["collectives"] == []
    assert facts["pallas 8"]["launches"][0][1] == (512 // 8) * 4096 * 2 + 4096 * 2
    refused = facts["pallas alone"]["error"]
    assert refused.startswith(
        "UserError: rms_norm_forward: a Pallas kernel outside of jax.shard_map, in a program for 8"
    )
    over_cpus = facts["pallas 8 of cpus"]
    if "error" in over_cpus:  # from JAX 0.11 a kernel asks its mesh for the device
        assert over_cpus["error"].startswith(
            "UserError: the function calls a Pallas kernel over a mesh of devices that"
        )
    else:
        assert over_cpus["sha256"] == facts["pallas 8"]["sha256"]


def test_what_does_not_fit_is_one_line(facts):
    for name, words in (
        (
            "indivisible",
            "UserError: argument 0 has 511 elements along axis 0, which d of the mesh, 8 devices, cannot share",
        ),
        ("indivisible part", "UserError: the function cannot be divided between devices as it was asked: shard_map"),
        (
            "no such axis",
            "UserError: the function cannot be divided between devices as it was asked: a collective in jax",
        ),
        ("beyond this machine", "UserError: the mesh has 16 devices and target 'cpu' here 8: set XLA_FLAGS="),
    ):
        line = facts[name]["error"]
        assert line.startswith(words)
        assert "\n" not in line
