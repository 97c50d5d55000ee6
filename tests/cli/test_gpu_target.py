"""A GPU's own description: read, compiled for, and held against what the GPU compiled. Nothing here needs a GPU.

What stands for a GPU is a packaged description in which facts were changed, and tables that were made out of it.
"""

import json
import subprocess

import pytest

from normbench import start
from normbench.cases.case import Case
from normbench.cli import gpu as cli_gpu
from normbench.cli import gpu_described
from normbench.cli import main as cli
from normbench.errors import UserError
from normbench.fusion.targets import deviceless_target, packaged, read_target, target_from_config
from normbench.goldens.make import toolchain
from normbench.goldens.renew import repeat
from normbench.report import load_run
from normbench.report.model.device_target import DEVICE, OWN, device_structures
from normbench.report.model.error import launch_errors
from normbench.study.machine import gpu_target
from normbench.study.machine.gpu_target import NAME
from tests.report.synthetic_runs import write_run

H200 = deviceless_target("h200").config
FEW_CORES = H200.replace("core_count: 132", "core_count: 24").replace(
    "l2_cache_size: 52428800", "l2_cache_size: 26214400"
)
CHANGED = "layer_norm.alone.1x197x768.nlc.f32.f32.forward.eps1em06.one_pass"
SAME = "rms_norm.alone.8x256.nc.f32.f32.forward.naive"
FAILED = "rms_norm.alone.8x256.nc.f32.f32.forward.custom_vjp"


def described_by(tmp_path, text):
    path = tmp_path / NAME
    path.write_text(text)
    return path


def test_a_description_is_read_and_named_after_the_packaged_target_of_the_same_device(tmp_path):
    found = read_target(described_by(tmp_path, FEW_CORES))
    assert (found.name, found.cores, found.config) == ("h200", 24, FEW_CORES)
    assert packaged(found).cores == 132
    other = read_target(described_by(tmp_path, H200.replace("NVIDIA H200", "NVIDIA H300")))
    assert (other.name, packaged(other)) == ("gpu", None)


def test_what_is_no_description_is_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_target(tmp_path / "none.pbtxt")
    with pytest.raises(UserError, match="no field"):
        read_target(described_by(tmp_path, "gpu_device_info {}"))


def test_the_text_of_the_description_is_part_of_the_tools():
    same, changed = (target_from_config("h200", text) for text in (H200, FEW_CORES))
    assert toolchain(same) == toolchain("h200")
    assert toolchain(changed) != toolchain("h200")


def test_the_goldens_are_repeated_only_for_a_device_that_has_some(tmp_path):
    with pytest.raises(UserError, match="no packaged target names"):
        repeat([SAME], described_by(tmp_path, H200.replace("NVIDIA H200", "NVIDIA H300")), 1)
    with pytest.raises(UserError, match="no goldens"):
        repeat([SAME], described_by(tmp_path, H200), 1, tmp_path)


def launch(case, name, kind, size=1000):
    return {
        "case": case, "target": "gpu", "index": 0, "name": name, "kind": kind, "ops": "add", "read_bytes": size,
        "write_bytes": size,
    }  # fmt: skip


def compiled(case, launches=1):
    row = {"case": case, "target": "gpu", "launches": launches, "bytes": 2000 * launches, "traffic_ratio": 1.0}
    return {**row, "status": "ok"}


@pytest.fixture
def gpu_run(tmp_path):
    """A made-up run of a GPU: what it compiled to is written by hand, and is known to differ from what is compiled
    here: a library call for CHANGED."""
    run = write_run(
        tmp_path / "run",
        {
            "cases": [Case.from_slug(slug).row() for slug in (CHANGED, SAME, FAILED)],
            "compiled": [
                compiled(CHANGED, 2),
                compiled(SAME),
                {"case": FAILED, "target": "gpu", "status": "failed", "reason": "no memory"},
            ],
            "launches": [
                launch(CHANGED, "norm.1", "library"),
                launch(CHANGED, "norm.2", "library"),
                launch(SAME, "loop_fusion", "loop"),
            ],
        },
    )
    described_by(run, FEW_CORES)
    return run


def test_a_run_is_compiled_for_its_gpu_without_it_and_every_difference_is_kept(gpu_run, capsys):
    pytest.importorskip("jax_cuda13_plugin")
    assert gpu_described.main([str(gpu_run), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "of 3 programs, 1 differ: launches 1, kinds of launches 1, bytes 1, refusals to fuse 1." in out
    run = load_run(gpu_run)
    assert set(zip(run.tables["described"]["config"], run.tables["described"]["case"], strict=True)) == {
        (config, case) for config in ("h200", OWN) for case in (CHANGED, SAME, FAILED)
    }
    rows = {
        (row["before"], row["after"], row["case"]): row for row in run.tables["target_differences"].to_dict("records")
    }
    assert "2 → 3 launches" in rows["h200", OWN, CHANGED]["change"]
    assert "library calls: norm 0 → 2" in rows[OWN, DEVICE, CHANGED]["change"]
    assert "failed" in rows[OWN, DEVICE, FAILED]["change"]
    assert ("h200", OWN, SAME) not in rows
    own = run.tables["described_launches"]
    assert own.groupby("case").size()[CHANGED] == 3
    assert own["predicted_s"].notna().all()


def test_what_there_was_no_time_for_is_told(gpu_run, capsys):
    assert gpu_described.main([str(gpu_run), "--limit", "0"]) == 0
    assert load_run(gpu_run).tables["described"].empty
    assert "python -m normbench.cli.gpu_described" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["description", "gpu"])
def test_a_run_of_no_gpu_is_refused_in_a_line(gpu_run, missing, tmp_path, capsys):
    if missing == "gpu":
        write_run(gpu_run, {})
    else:
        (gpu_run / NAME).unlink()
    assert gpu_described.main([str(gpu_run)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


SIDE = {"launches": 1, "bytes": 8, "traffic_ratio": 1.0, "kinds": {"loop": 1}, "rewrites": {}, "refused": {}}
SIDE |= {"calls": {}, "program": "abc", "bytes_s": 1e-6, "predicted_s": 1e-6}
SIDE |= {"launch_rows": [{**launch("", "f", "loop"), "bytes_s": 1e-6, "predicted_s": 1e-6}]}


@pytest.mark.parametrize("status", ["complete", "running"])
def test_the_tables_are_written_into_a_finished_and_an_unfinished_run_and_merged(tmp_path, status):
    rows = {
        "cases": [Case.from_slug(SAME).row()],
        "compiled": [compiled(SAME)],
        "launches": [launch(SAME, "f", "loop")],
    }
    folder = write_run(tmp_path / "made", rows, status=status)
    described_by(folder, H200)
    found = gpu_described.tables({OWN: {SAME: SIDE}}, device_structures(load_run(folder)))
    for _ in range(2):  # a second call replaces the first one's
        gpu_described.write(folder, found)
    assert cli.main(["merge", str(folder), "--into", str(tmp_path / "runs")]) == 0
    run = load_run(tmp_path / "runs" / "made")
    assert len(run.tables["described"]) == len(run.tables["described_launches"]) == 1
    assert run.tables["target_differences"]["change"].tolist() == ["8 → 2,000 bytes"]
    assert (run.path / NAME).read_text() == H200
    assert launch_errors(run).empty, "nothing was measured"


def test_a_session_on_a_gpu_compiles_for_what_it_dumped(monkeypatch, tmp_path):
    """The end of `normbench gpu`, with a dump in place of a GPU's and a process that fails in place of a compiler."""
    asked = []

    def started(command, **settings):
        asked.append((command, settings["env"]))
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(gpu_target.subprocess, "run", started)
    with pytest.raises(subprocess.CalledProcessError):
        gpu_target.describe(tmp_path, 5.0)
    ((command, variables),) = asked
    assert command == start.command("normbench.cli.gpu_described", str(tmp_path), "--limit", "5")
    assert variables["JAX_PLATFORMS"] == "cpu", "the process must not take the GPU"
    assert "xla_gpu_autotune_level=0" in variables["XLA_FLAGS"]


@pytest.mark.parametrize("dumped", [True, False])
def test_the_command_compiles_only_where_there_is_a_description(monkeypatch, tmp_path, dumped):
    described = []
    folder = write_run(tmp_path / "out" / "run", {"cases": [Case.from_slug(SAME).row()]})
    monkeypatch.setattr(cli_gpu, "dump_target_config", lambda run: described_by(run, H200) if dumped else None)
    monkeypatch.setattr(cli_gpu, "describe", described.append)
    monkeypatch.setattr("normbench.study.schedule.study.study", lambda config: folder)
    monkeypatch.setattr(cli_gpu, "TARGET", ("cpu",))
    for name in cli_gpu.PRECISION:
        monkeypatch.setenv(name, "highest")
    smoke = ["gpu", "--skip-checks", "--preset", "smoke", "--operator", "rms_norm"]
    assert cli.main([*smoke, "--out", str(tmp_path / "out")]) == 0
    assert described == ([folder] if dumped else [])
    assert json.loads((folder / "run.json").read_text())["status"] == "complete"
