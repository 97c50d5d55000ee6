"""pytest-benchmark over the cases: what it saves, what it prints, and that saved runs can be compared."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from normbench.errors import UserError
from normbench.report.compare.pytest_json import load_any, load_pytest
from normbench.report.compare.runs import compare

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not find_spec("pytest_benchmark"), reason="pytest-benchmark is not installed")
SLUG = "batch_norm.relu.1x56x56x64.nhwc.bf16.f32.forward."


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two variants, timed once: the folder of what was saved, and what was printed."""
    folder = tmp_path_factory.mktemp("saved")
    command = [sys.executable, "-m", "pytest", "benchmarks/pytest", "--benchmark-only", "--benchmark-autosave"]
    command += [f"--benchmark-storage=file://{folder}", "-p", "no:cacheprovider"]
    command += ["-k", f"({SLUG}naive or {SLUG}prefolded) and not promoting"]
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def documents(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def test_each_case_carries_its_columns(saved):
    (document,) = documents(saved[0])
    found = {bench["extra_info"]["slug"].removeprefix(SLUG): bench for bench in document["benchmarks"]}
    assert set(found) == {"naive", "prefolded"}
    for bench in found.values():
        columns = bench["extra_info"]
        names = ("gb_per_s", "ceiling_fraction", "ratio_to_baseline", "launches", "traffic_ratio", "max_ulp")
        assert all(columns[name] > 0 for name in names)
        assert len(columns["hlo_sha256"]) == 64
        assert bench["group"] == SLUG.rstrip(".")
        assert len(bench["stats"]["data"]) == 30
    assert found["naive"]["extra_info"]["ratio_to_baseline"] == 1
    assert found["prefolded"]["extra_info"]["launches"] == 1


def test_the_machine_is_told_with_its_packages_and_devices(saved):
    (document,) = documents(saved[0])
    machine = document["machine_info"]
    assert machine["packages"]["jax"]
    assert machine["devices"] == ["cpu"]
    assert "nvidia_driver" in machine  # null without a GPU
    assert document["ceilings"]


def test_the_terminal_has_a_table_of_them(saved):
    lines = saved[1].splitlines()
    header = next(line for line in lines if line.startswith("case "))
    assert header.split("median µs")[1].split() == [
        "GB/s",
        "of",
        "ceiling",
        "vs",
        "baseline",
        "launches",
        "traffic",
        "ulp",
    ]
    rows = [line for line in lines if line.startswith(SLUG)]
    assert len(rows) == 2
    assert all(len(row.split()) == 8 for row in rows)


def test_pytest_benchmark_compares_two_saved_runs(saved, tmp_path):
    (file,) = saved[0].rglob("*.json")
    machine = tmp_path / file.parent.name
    machine.mkdir()
    for number in ("0001", "0002"):
        (machine / f"{number}_{file.name[5:]}").write_text(file.read_text())
    command = [sys.executable, "-m", "pytest_benchmark", "--storage", f"file://{tmp_path}", "compare", "0001", "0002"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(0001_" in done.stdout
    assert "(0002_" in done.stdout


def test_saved_runs_are_compared_like_studies(saved, tmp_path):
    """A file is a process: what differs between processes, and between programs, is judged as for a study."""
    (file,) = saved[0].rglob("*.json")
    for side, factor in {"a": 1.0, "b": 1.0, "slow": 1.5}.items():
        (tmp_path / side).mkdir()
        for process, scatter in enumerate((1.0, 1.001, 0.999)):
            document = json.loads(file.read_text())
            for bench in document["benchmarks"]:
                seconds = bench["stats"]["median"] * factor * scatter
                bench["stats"]["data"] = [seconds * (1 + 0.001 * (index % 3)) for index in range(30)]
                bench["extra_info"]["hlo_sha256"] = f"{side:0<64}"
            (tmp_path / side / f"{process}.json").write_text(json.dumps(document))
    a, b, slow = (load_any(tmp_path / side) for side in ("a", "b", "slow"))
    assert len(a.cases) == 2
    assert len(a.timings) == 2 * 3 * 30
    assert set(a.ceilings["process"]) == {0, 1, 2}
    assert {row["verdict"] for row in compare(a, b).times} <= {"SAME", "AMBIGUOUS"}
    assert {row["verdict"] for row in compare(a, slow).times} == {"SLOWER"}
    assert "another program" in compare(a, slow).fusion[0]["changes"][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "not saved by pytest-benchmark"),
        ('{"benchmarks": [{"name": "x"}]}', "no case|a case"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_pytest(tmp_path / "x.json")
