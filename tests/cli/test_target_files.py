"""A device in a file of one's own: as XLA dumps it, or as XLA keeps it for its tests, with fields of newer releases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normbench import kernels, own_targets
from normbench.cases.case import cases
from normbench.cli.target_files import add_file, is_file, read_file
from normbench.errors import UserError
from normbench.fusion.targets import check_target, deviceless_target
from normbench.predict.devices import device_of
from normbench.study.schedule.study import StudyConfig
from normbench.study.schedule.units import compile_units, measure_units

ROOT = Path(__file__).resolve().parents[2]
CARD = """# proto-message: stream_executor.GpuTargetConfigProto

gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 131072
  threads_per_core_limit: 1536
  core_count: 188   # multiprocessors
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 1792000000000
  l2_cache_size: 134217728
  clock_rate_ghz: 2.6
  device_memory_size: 103079215104
  shared_memory_per_block_optin: 101376
  cuda_compute_capability { major: %d minor: 0 feature_extension: NONE }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  scalar_unit_description { rate_infos { key: 4 value { clock_rate_ghz: 1.98 units_per_core: 64 } } }
  a_field_of_next_year: [1, 2]
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 1 patch: 0 }
device_description_str: "NVIDIA RTX PRO 6000 Blackwell"
"""
"""Facts of XLA's own xla/backends/gpu/target_config/specs/rtx6000pro.txtpb; two fields more that no compiler knows."""


@pytest.fixture
def card(tmp_path, monkeypatch):
    monkeypatch.setenv("NORMBENCH_OWN_TARGETS", "{}")

    def write(major=12, name="my-card.v1.txtpb", text=CARD):
        path = tmp_path / name
        path.write_text(text % major if "%d" in text else text)
        return path

    return write


def test_its_facts_are_read_and_what_is_not_known_is_named(card):
    target, skipped = read_file(card())
    assert (target.name, target.major, target.minor) == ("my_card", 12, 0)
    assert skipped == ("scalar_unit_description", "a_field_of_next_year")
    assert "next_year" not in target.config
    assert "rate_infos" not in target.config
    assert target.config.count("{") == target.config.count("}") == 3


def test_it_is_a_target_like_the_packaged_ones(card):
    name, _ = add_file(card())
    facts = deviceless_target(check_target(name))
    assert (facts.device_name, facts.cores, facts.memory_bandwidth) == ("NVIDIA RTX PRO 6000 Blackwell", 188, 1.792e12)
    some = cases("smoke", ["batch_norm"])
    assert {unit.target for unit in compile_units(some, ("cpu", name))} == {name}
    assert {unit.target for unit in measure_units(some, ("cpu", name), 1)} == {"cpu"}


def test_every_packaged_description_reads_as_it_is(card, monkeypatch):
    for path in sorted((ROOT / "normbench" / "fusion" / "targets").glob("*.txtpb")):
        copy = card(name=f"copy_of_{path.name}", text=path.read_text())
        name, skipped = add_file(copy)
        assert skipped == ()
        mine, packaged = deviceless_target(name), deviceless_target(path.stem)
        assert (mine.device_name, mine.cores, mine.l2_bytes) == (
            packaged.device_name,
            packaged.cores,
            packaged.l2_bytes,
        )
        assert device_of(mine) == device_of(packaged)  # so its time is predicted


@pytest.mark.parametrize(
    ("major", "triton", "mosaic"), [(7, False, False), (8, True, False), (9, True, True), (12, True, True)]
)
def test_support_follows_the_compute_capability(card, major, triton, mosaic):
    name, _ = add_file(card(major, name=f"major_{major}.txtpb"))
    by_name = {case.variant: case for case in cases("quick", ["layer_norm"])}
    for variant, wanted in (("pallas_triton", triton), ("pallas_mosaic", mosaic)):
        refusal = kernels.get("layer_norm", variant).supports(by_name[variant], name)
        on_packaged = kernels.get("layer_norm", variant).supports(by_name[variant], "h200")
        assert (refusal is None) == (wanted and on_packaged is None), refusal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no text message"),
        ("<html></html>", "no"),
        ("gpu_device_info {", "does not end"),
        ("gpu_device_info { core_count: 1 }", "has no field"),
        ("}", "without its beginning"),
        (CARD.replace("cuda_compute_capability", "rocm_compute_capability") % 9, "no cuda_compute_capability"),
        (CARD.replace("major: %d", "major: x"), "invalid literal"),
    ],
)
def test_what_describes_no_cuda_device_is_one_line(card, text, message):
    with pytest.raises(
        UserError, match=rf"target '.*my-card.v1.txtpb' is no description of a CUDA device: .*{message}"
    ):
        add_file(card(text=text))


def test_a_name_that_is_taken_and_a_file_that_is_not_there_are_refused(card, tmp_path):
    with pytest.raises(UserError, match=r"would be named 'h200', which is taken"):
        add_file(card(name="h200.txtpb"))
    with pytest.raises(UserError, match=r"absent.txtpb' cannot be read: No such file"):
        add_file(tmp_path / "absent.txtpb")
    assert is_file("absent.txtpb")
    assert not is_file("h300")


def test_a_run_knows_its_devices_when_it_is_resumed(card, monkeypatch, tmp_path):
    name, _ = add_file(card())
    config = StudyConfig.for_preset("smoke", cases=cases("smoke", ["batch_norm"]), targets=(name,), out=tmp_path)
    kept = config.to_json()
    monkeypatch.setenv("NORMBENCH_OWN_TARGETS", "{}")
    assert own_targets.own_target(name) is None
    again = StudyConfig.from_json(kept, tmp_path)
    assert again.targets == (name,)
    assert own_targets.own_target(name).major == 12
    assert again.to_json() == kept


def test_the_command_compiles_for_it(card):
    arguments = ["explain", "layer_norm", "naive", "--shape", "8x197x768", "--dtype", "bfloat16", "--target"]
    done = subprocess.run(
        [sys.executable, "-m", "normbench.cli.main", *arguments, str(card())],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on my_card" in done.stdout
    assert done.stderr.splitlines() == [
        "normbench: target my_card: left out what is not known here: scalar_unit_description, a_field_of_next_year"
    ]
