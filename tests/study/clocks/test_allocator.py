"""The environment of a worker, and nothing else, is what keeps large outputs from being new pages at every call."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.study.clocks.memory import ALLOCATOR_ENVIRONMENT
from normbench.study.schedule.worker_process import Settings

OUTPUT_BYTES = 40 * 2**20  # glibc never serves more than 32 MiB from the heap of its own accord
CALLS = 20
SCRIPT = f"""
import json, jax, jax.numpy as jnp
from normbench.study.clocks.host import Instruments, wall
from normbench.study.clocks.memory import prefault
x = jnp.full({OUTPUT_BYTES} // 4, 1.5, jnp.float32)
call = jax.jit(lambda x: x * 2).lower(x).compile()
wall(call, (x,), Instruments())
prefault(12 * {OUTPUT_BYTES})
print(json.dumps([wall(call, (x,), Instruments()).page_faults for _ in range({CALLS})]))
"""


def page_faults(variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**clean, "JAX_PLATFORMS": "cpu", **variables},
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_environment_is_what_keeps_large_outputs_from_new_pages():
    pages = OUTPUT_BYTES // os.sysconf("SC_PAGE_SIZE")
    without, tuned = page_faults({}), page_faults(ALLOCATOR_ENVIRONMENT)
    # Transparent huge pages may make a fault worth 512 pages.
    assert sum(without) >= CALLS * pages // 512
    assert sum(tuned) < sum(without) / 10


def test_a_worker_compiles_on_one_core(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    fields = {"target": "h200", "process": 0, "wide": False, "run": "", "imports": (), "rule": (), "seed": 0}
    settings = Settings("compile", **fields, memory_share=0.9, processes=1)
    flag = "--xla_gpu_force_compilation_parallelism"
    assert f"{flag}=1" in settings.environment()["XLA_FLAGS"].split()
    monkeypatch.setenv("XLA_FLAGS", f"{flag}=7")
    assert settings.environment()["XLA_FLAGS"].count(flag) == 1, "the user's own stays"
    monkeypatch.delenv("XLA_FLAGS")
    assert flag not in dataclasses.replace(settings, kind="measure").environment()["XLA_FLAGS"]


def test_a_worker_starts_with_it():
    settings = Settings("measure", "cpu", 0, False, "", (), (), 0, 0.9, 1)
    found = settings.environment()
    assert ALLOCATOR_ENVIRONMENT.items() <= found.items()
    assert found["JAX_PLATFORMS"] == "cpu"
    assert found["JAX_ENABLE_X64"] == "0"
