"""Compiling on Ray gives the rows of compiling here; without Ray one line says what to install."""

import importlib.util

import pandas as pd
import pytest

from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.study.schedule import ray as sweep_ray
from normbench.study.schedule.study import StudyConfig, study

CASES = tuple(Case(Problem("batch_norm", (2, 4, 3, 5)), name) for name in ("naive", "folded"))


def test_a_missing_ray_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_ray.importlib.util, "find_spec", lambda name: None)
    config = StudyConfig.for_preset("smoke", cases=CASES, targets=("cpu",), out=tmp_path / "runs", executor="ray")
    with pytest.raises(UserError, match=r"pip install 'normbench\[ray\]'"):
        study(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_compiling_on_ray_gives_the_same_rows(tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    found = {}
    for executor in ("local", "ray"):
        run = study(
            StudyConfig.for_preset("smoke", cases=CASES, targets=("h200",), out=tmp_path / executor, executor=executor)
        )
        compiled = pd.read_parquet(run / "compiled.parquet")
        found[executor] = sorted(zip(compiled["case"], compiled["status"], compiled["hlo_sha256"], strict=True))
        stored = {path.name.removesuffix(".pb.zst") for path in (run / "hlo").iterdir()}
        assert stored == set(compiled["hlo_sha256"])
    assert found["ray"] == found["local"]
