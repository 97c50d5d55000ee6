"""A study on Ray gives the rows of a local one; a lost node costs time, and two cases never share a device."""

import importlib.util
import json
import os
import socket
import threading
import time

import pandas as pd
import pytest

from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.schema import TABLES
from normbench.study.schedule import ray as ray_study
from normbench.study.schedule import ray_cluster
from normbench.study.schedule.study import StudyConfig, study

SHAPES = ((2, 4, 3, 5), (2, 4, 3, 6), (2, 4, 3, 7), (2, 4, 3, 8), (2, 4, 3, 9))
CASES = tuple(
    Case(Problem("batch_norm", shape), name) for shape in SHAPES for name in ("naive", "folded", "pallas_triton")
)
with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def config(out, **fields):
    return StudyConfig.for_preset("smoke", **{"cases": CASES[:2], "targets": ("cpu",), "out": out, **fields})


def test_a_missing_ray_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'normbench\[ray\]'"):
        study(config(tmp_path / "runs", executor="ray"))
    assert not (tmp_path / "runs").exists()


@with_ray
@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_a_missing_or_stale_cluster_is_one_line_in_time(tmp_path, monkeypatch, kind):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if kind == "nobody":
        listener.close()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    if kind == "silent":
        monkeypatch.setattr(ray_cluster, "ANSWER_S", 6.0)  # Ray itself would wait for a minute
    began_s = time.monotonic()
    with pytest.raises(UserError, match=rf"no Ray cluster answers at RAY_ADDRESS '127\.0\.0\.1:{port}'.*ray start"):
        ray_cluster.connect()
    assert time.monotonic() - began_s < 30
    listener.close()


def test_other_versions_on_a_node_are_named():
    here = {"normbench": "1", "packages": {"jax": "0.10.2", "numpy": "2"}}
    there = {"normbench": "1", "packages": {"jax": "0.11.2"}}
    with pytest.raises(UserError, match=r"10\.0\.0\.7 .*: jax 0\.11\.2 \(here 0\.10\.2\), numpy missing \(here"):
        ray_cluster._check_versions(here, there, "10.0.0.7")


@pytest.fixture(scope="module")
def cluster():
    """Three nodes on this machine; the second and the third lend two GPUs each that are not there."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    nodes = [made.add_node(num_cpus=1, num_gpus=2) for _ in range(2)]
    made.wait_for_nodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        patch.setitem(ray_study.HOLDS, "cpu", "GPU")  # what is timed on a CPU holds a GPU meanwhile
        yield made, nodes
    import ray

    ray.shutdown()
    made.shutdown()


def outcomes(run):
    """Of each table that has statuses: case, status and target or device, once each."""
    found = {}
    for name, columns in TABLES.items():
        if {"case", "status"} <= columns.keys() and name in ("compiled", "timings", "accuracy"):
            table = pd.read_parquet(run / f"{name}.parquet")
            where = "target" if name == "compiled" else "device"
            keep = ["case", where, "status", *(["process"] if name == "timings" else [])]
            found[name] = sorted(map(tuple, table[keep].fillna("").drop_duplicates().astype(str).to_numpy()))
    return found


def lose_a_node(made, node, run_folder, units):
    """Ends a node once some of the units are done."""

    def wait():
        while len(list(run_folder.glob("*/parts/*.json.zst"))) <= units:
            time.sleep(0.05)
        made.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@with_ray
def test_a_study_on_ray_is_the_local_study_though_a_node_is_lost(cluster, tmp_path, monkeypatch):
    """Both kinds of work, on three nodes; the last node is killed while it measures."""
    pytest.importorskip("jax_cuda13_plugin")
    made, (_, third) = cluster
    fields = {"cases": CASES, "targets": ("cpu", "h200"), "processes": 2, "attribution": True}
    local = study(config(tmp_path / "local", **fields, workers=2))
    killer = lose_a_node(made, third, tmp_path / "ray", units=1 + len(SHAPES) + 3)
    run = study(config(tmp_path / "ray", **fields, executor="ray"))
    killer.join(1)
    assert not killer.is_alive(), "the node was lost while the study ran"
    assert outcomes(run) == outcomes(local)

    info = json.loads((run / "run.json").read_text())
    timings = pd.read_parquet(run / "timings.parquet")
    measured = timings[timings["seconds"].notna()]
    assert measured.groupby(["host", "device_id"]).ngroups >= 2
    assert set(measured["host"]) <= set(info["environments"])
    assert len(info["environments"]) >= 3, "one record for each node"
    assert all(record["packages"]["jax"] for record in info["environments"].values())
    assert measured["device_id"].notna().all()
    assert_each_device_was_held_by_one(measured)
    compiled = pd.read_parquet(run / "compiled.parquet")
    stored = {path.name.removesuffix(".pb.zst") for path in (run / "hlo").rglob("*.pb.zst")}
    assert stored >= set(compiled["module_sha256"].dropna())


def assert_each_device_was_held_by_one(measured):
    """The bursts of one device never overlap, and between two of one problem there is none of another.

    The second tells a device that is held through from one that is merely handed on from burst to burst.
    """
    assert measured[["began_unix_s", "ended_unix_s"]].notna().all().all()
    problems = measured["case"].str.rpartition(".")[0]
    bursts = measured.assign(problem=problems)[["host", "device_id", "problem", "began_unix_s", "ended_unix_s"]]
    for _, one in bursts.drop_duplicates().groupby(["host", "device_id"]):
        ordered = one.sort_values("began_unix_s")
        assert (ordered["began_unix_s"].to_numpy()[1:] >= ordered["ended_unix_s"].to_numpy()[:-1]).all()
        changes = (ordered["problem"] != ordered["problem"].shift()).sum()
        assert changes == ordered["problem"].nunique()


@pytest.mark.parametrize(("groups", "places", "sizes"), [(3, 4, [1] * 3), (100, 5, [5] * 20), (1000, 2, [20] * 50)])
def test_batches_are_sized_to_the_cluster(groups, places, sizes):
    found = ray_study._batches([[f"unit {number}"] for number in range(groups)], lambda unit: unit, places)
    assert [len(batch.units) for batch in found] == sizes


def test_the_users_threads_are_kept_and_rays_are_not(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray_study._restore_threads("7")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    ray_study._restore_threads(None)
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("second", "sound"),
    [((2.0, 3.0, "q.naive", "0"), True), ((0.5, 3.0, "q.naive", "0"), False), ((0.5, 3.0, "q.naive", "1"), True),
     ((1.2, 1.4, "q.naive", "0"), False)],
    ids=["after", "overlapping", "on another device", "between two bursts"],
)  # fmt: skip
def test_the_proof_of_exclusive_devices_finds_two_that_share_one(second, sound):
    rows = [(0.0, 1.0, "p.naive", "0"), (1.5, 1.9, "p.folded", "0"), second]
    measured = pd.DataFrame(rows, columns=["began_unix_s", "ended_unix_s", "case", "device_id"]).assign(host="here")
    if sound:
        assert_each_device_was_held_by_one(measured)
    else:
        with pytest.raises(AssertionError):
            assert_each_device_was_held_by_one(measured)
