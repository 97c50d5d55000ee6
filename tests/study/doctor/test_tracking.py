"""`normbench doctor` on asv's and pytest's configuration: what is misspelt, missing or does not fit is said."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from normbench.study.doctor.tracking import (
    asv_checks,
    benchmark_check,
    keys_check,
    known_asv_keys,
    pytest_check,
    python_check,
    read_asv_config,
    releases_check,
    tools_check,
    tracking,
)

ROOT = Path(__file__).resolve().parents[3]
needs_asv = pytest.mark.skipif(not find_spec("asv"), reason="asv is not installed")


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "asv.conf.json").write_text((ROOT / "asv.conf.json").read_text())
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-ra'\n")
    return tmp_path


@needs_asv
def test_this_checkout_is_well_configured():
    found = {check.name: check for check in tracking()}
    assert {found[name].status for name in ("asv.conf.json", "asv matrix", "pytest", "pytest-benchmark")} == {"ok"}


@needs_asv
def test_a_misspelt_key_of_asv_is_named():
    """pandas once set `regression_thresholds`, which asv ignored for years."""
    config = {**read_asv_config(ROOT / "asv.conf.json"), "regression_thresholds": {}}
    found = keys_check(config, known_asv_keys())
    assert (found.status, found.found) == ("warn", "unknown keys: regression_thresholds")


def test_without_asv_nothing_is_claimed_of_its_keys():
    assert keys_check({}, None).status == "missing"
    found = tools_check(lambda name: None if name == "asv" else "1")
    assert (found.status, found.found) == ("missing", "asv not installed")


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1,}'])
def test_a_broken_file_is_a_finding_and_no_traceback(tmp_path, text):
    (tmp_path / "asv.conf.json").write_text(text)
    (found,) = asv_checks(tmp_path / "asv.conf.json")
    assert found.status == "warn"
    assert found.found.startswith("not readable")


def test_interpreters_and_releases_that_are_not_to_be_had_are_named():
    assert python_check(["3.99"], lambda name: None).found == "no python3.99 on PATH"
    assert python_check(["3.99"], lambda name: f"/usr/bin/{name}").status == "ok"
    matrix = {"matrix": {"req": {"jax": ["0.10.2", "0.4.30"], "pip+asv_runner": ["0.3.2"]}}}
    assert "0.4.30" in releases_check(matrix, "0.3.2").found
    matrix["matrix"]["req"]["jax"] = ["0.12.0.1"]
    assert releases_check(matrix, "0.3.2").status == "ok"
    assert "asv_runner 0.2.1 here" in releases_check(matrix, "0.2.1").found


def test_an_unknown_key_of_pytest_is_named(checkout):
    (checkout / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntestpath = ['tests']\n")
    found = pytest_check(checkout)
    assert found.status == "warn"
    assert "testpath" in found.found


@pytest.mark.parametrize("option", ["--benchmark-skip", "-n2"])
def test_an_option_that_turns_timing_off_is_named(checkout, option):
    (checkout / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\naddopts = '-ra {option}'\n")
    assert option in benchmark_check(checkout).found


def test_where_there_is_no_checkout_nothing_is_checked(tmp_path):
    assert list(tracking(tmp_path)) == []


@needs_asv
def test_comments_do_not_hide_keys(checkout):
    config = read_asv_config(checkout / "asv.conf.json")
    assert config["results_dir"] == "results/asv"
    assert next(iter(config)) == "version"
