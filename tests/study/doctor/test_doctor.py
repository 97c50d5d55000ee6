"""Each thing that would make numbers untrustworthy is named, with what to do about it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from normbench.study.doctor import doctor
from normbench.study.doctor.check import JAX_RANGE, STATUSES
from normbench.study.machine import environment

MIB = 2**20


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (doctor.cores_check(1, 8), "warn"),
        (doctor.cores_check(4, 8), "ok"),
        (doctor.caches_check({}), "warn"),
        (doctor.caches_check({"L1d": 32768, "L3": 32 * MIB}), "ok"),
        (doctor.memory_check(None), "warn"),
        (doctor.memory_check(MIB), "warn"),
        (doctor.memory_check(32 * 1024 * MIB), "ok"),
        (doctor.governor_check("powersave"), "warn"),
        (doctor.governor_check("performance"), "ok"),
        (doctor.governor_check(None), "ok"),
        (doctor.load_check([3.0, 0.0, 0.0], 4), "warn"),
        (doctor.load_check([0.1, 9.0, 9.0], 4), "ok"),
        (doctor.load_check(None, 4), "warn"),
        (doctor.timer_check(1e-3), "warn"),
        (doctor.timer_check(1e-7), "ok"),
        (doctor.allocator_check("glibc", {}), "ok"),
        (doctor.allocator_check("glibc", {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}), "warn"),
        (doctor.allocator_check("", {}), "warn"),
        (doctor.gpu_check(False, None), "missing"),
        (doctor.gpu_check(True, "580.1"), "ok"),
        (doctor.plugin_check(None, "0.10.2"), "missing"),
        (doctor.plugin_check("0.10.2", "0.11.0"), "warn"),
        (doctor.plugin_check("0.12.0.1", "0.12.0"), "ok"),
        (doctor.libtpu_check(None, "0.0.42", "0.10.2"), "missing"),
        (doctor.libtpu_check("0.0.42.1", "0.0.48", "0.11.2"), "warn"),
        (doctor.libtpu_check("0.0.42.1", "0.0.42", "0.10.2"), "ok"),
        (doctor.libtpu_check("0.0.42.1", None, "0.10.3"), "ok"),
        (doctor.ptxas_check(None), "missing"),
        (doctor.ptxas_check("/usr/bin/ptxas"), "ok"),
        (doctor.version_check("jax", "0.9.0"), "warn"),
        (doctor.version_check("jax", "0.13.0"), "warn"),
        (doctor.version_check("jax", "0.12.0.1"), "ok"),
        (doctor.version_check("pandas", None), "missing"),
    ],
)
def test_a_finding_has_its_status_and_advice_where_something_is_to_be_done(check, status):
    assert check.status == status
    assert check.found
    assert bool(check.advice) == (status != "ok")


def test_a_missing_plugin_says_what_to_install():
    assert "pip install 'normbench[gpu-targets]'" in doctor.plugin_check(None, "0.10.2").advice


def test_this_machine_can_be_examined():
    checks = doctor.examine()
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"processor", "caches", "governor", "load", "timer", "gpu", "gpu-targets", "ptxas", "allocator"} <= set(
        names
    )
    assert {check.status for check in checks} <= set(STATUSES)


def test_the_doctor_needs_neither_jax_nor_pandas():
    code = "import sys; from normbench.study.doctor import doctor; doctor.examine(); "
    code += "print({'jax', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("0.10.2", (0, 10, 2)), ("0.12.0.1", (0, 12, 0, 1)), ("0.11.0rc1", (0, 11, 0)), ("2.0.dev5", (2, 0)), ("", ())],
)
def test_versions_are_read_as_numbers(version, numbers):
    assert doctor.version_tuple(version) == numbers


def test_timer_resolution_is_positive():
    assert doctor.timer_resolution_s(10) > 0


def test_the_environment_record_is_json_and_says_what_numbers_depend_on(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    record = json.loads(json.dumps(environment.environment()))
    assert record["variables"]["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true"
    assert record["variables"]["MALLOC_TOP_PAD_"] == "1"
    assert record["packages"]["jax"]
    assert record["cpu"]["usable_cores"] >= 1
    assert "devices" not in record
    assert set(record["git"]) == {"revision", "dirty"}


def test_the_environment_record_holds_no_other_variables(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert "hunter2" not in json.dumps(environment.environment()["variables"])


def test_devices_are_named_on_request():
    assert environment.jax_devices()[0]["platform"]


def test_caches_are_read_from_the_system(tmp_path, monkeypatch):
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    ):
        folder = tmp_path / "cpu0/cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(environment, "_SYSTEM", tmp_path)
    assert environment.cache_bytes() == {"L1d": 32768, "L1i": 32768, "L2": MIB, "L3": 32 * MIB}
    assert environment.last_level_cache_bytes() == 32 * MIB


def test_a_system_that_tells_nothing_gives_none(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_SYSTEM", tmp_path)
    assert environment.last_level_cache_bytes() is None
    assert environment.governor() is None


def test_cache_sizes_that_are_not_numbers_are_left_out():
    assert environment._bytes("") is None
    assert environment._bytes("many") is None


def test_preallocation_is_off_unless_asked_for():
    code = "import os, normbench.study; print(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])"
    for given, expected in (({}, "false"), ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, "true")):
        variables = {name: value for name, value in os.environ.items() if name != "XLA_PYTHON_CLIENT_PREALLOCATE"}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**variables, **given}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_the_supported_jax_is_the_one_that_is_asked_for_at_installation():
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
    (asked,) = (one for one in project["dependencies"] if one.startswith("jax>"))
    lowest, limit = (".".join(map(str, version)) for version in JAX_RANGE)
    assert asked == f"jax>={lowest},<{limit}"
