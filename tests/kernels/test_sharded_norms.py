"""A batch that is cut between two devices gives what one device gives, gradients and statistics included."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_variant_on_a_sharded_batch():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # most of it is compiling
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-m", "tests.kernels.sharded_norms"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    distances = json.loads(done.stdout)
    assert len(distances) >= 60
    assert {name: distance for name, distance in distances.items() if not distance <= 1e-4} == {}
