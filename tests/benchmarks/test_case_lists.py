"""asv, pytest-benchmark and the command line enumerate the same cases."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.bench_accuracy import Accuracy
from benchmarks.bench_compile import Compile
from benchmarks.bench_fusion import BETWEEN_RELEASES, Fusion
from benchmarks.bench_latency import Latency
from benchmarks.bench_memory import Memory
from benchmarks.bench_support import slug_of
from normbench.cases.case import cases
from normbench.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slugs():
    return [case.slug for case in cases("smoke")]


def test_asv_has_the_cases_of_the_smoke_preset(slugs):
    assert [slug_of(case) for case in Accuracy.params[0]] == slugs, (
        "renew benchmarks/bench_slugs.txt with: make goldens"
    )
    assert [slug_of(case) for case in Fusion.params[0]] == [*slugs, *BETWEEN_RELEASES]
    assert set(BETWEEN_RELEASES) <= {case.slug for case in cases("standard")}


@pytest.mark.parametrize("benchmark_class", [Compile, Latency, Memory])
def test_asv_times_a_few_of_them(benchmark_class, slugs):
    timed = [slug_of(case) for case in benchmark_class.params[0]]
    assert set(timed) <= set(slugs)
    assert {slug.split(".")[0] for slug in timed} == {slug.split(".")[0] for slug in slugs}
    assert len(timed) <= 40, "each is timed in processes of its own, for every commit"


@pytest.mark.parametrize("benchmark_class", [Accuracy, Compile, Fusion, Latency, Memory])
def test_what_asv_measures_has_a_version_of_its_own(benchmark_class):
    """Left to asv, it would be a digest of the source: every edit would begin a new series."""
    assert benchmark_class.version.isdigit()


def test_the_command_line_has_them(slugs, capsys):
    assert main(["list", "--preset", "smoke"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]] == slugs


@pytest.mark.skipif(not find_spec("pytest_benchmark"), reason="pytest-benchmark is not installed")
def test_pytest_benchmark_has_them(slugs):
    command = [sys.executable, "-m", "pytest", "--collect-only", "--benchmark-only", "-q", "benchmarks/pytest"]
    command += ["-p", "no:cacheprovider"]
    # A worker of xdist says so in the environment, and pytest-benchmark then refuses to time.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    assert [line.split("[")[1].rstrip("]") for line in out.splitlines() if "::test_latency[" in line] == slugs
