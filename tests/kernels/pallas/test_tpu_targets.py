"""The Pallas TPU kernels compiled for TPUs that are not there: bytes moved, and how arguments lie.

libtpu is loaded in a process of its own: it may be so in one process at a time only, unless told otherwise.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import jax
from jax.experimental import topologies
from normbench import kernels
from normbench.jax_compat.tpu import default_order
from normbench.kernels import Problem
from normbench.kernels.pallas.tpu.limits import lying
from analysis.pages.tpu_traffic import blocks_again, least_bytes, moved_bytes
device = topologies.get_topology_desc(sys.argv[1], platform="tpu").devices[0]
here = jax.sharding.SingleDeviceSharding(device)
factors, orders = [], []
for operator, shape, layout, pass_, options in eval(sys.argv[2]):
    problem = Problem(operator, shape, layout, "bfloat16", "float32", pass_, options=options)
    assert kernels.get(operator, "pallas_tpu").supports(problem, sys.argv[1].split(":")[0]) is None, problem
    program = kernels.program(problem, "pallas_tpu")
    inputs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), program.inputs)
    compiled = jax.jit(program.function).trace(*inputs).lower(lowering_platforms=("tpu",)).compile()
    moved = moved_bytes(compiled.as_text()) + blocks_again(program.function, *program.inputs)
    factors.append(moved / least_bytes(compiled.as_text()))
sizes = (1, 3, 7, 8, 56, 64, 100, 129, 257, 1000)
for first in sizes:
    for second in sizes:
        for shape in ((first, second), (8, first, second), (first, 14, 14, second), (2, second, first, 56)):
            for dtype in ("float32", "bfloat16"):
                if default_order(shape, dtype, device) != lying(shape, dtype):
                    orders.append((shape, dtype))
print(json.dumps([factors, orders]))
"""
CASES = [
    ("layer_norm", (8, 1024, 768), "nlc", "forward", ()),
    ("layer_norm", (8, 197, 768), "nlc", "backward", ()),
    ("rms_norm", (1, 2048, 4096), "nlc", "backward", ()),
    ("batch_norm", (8, 53, 47, 251), "nhwc", "forward", ()),
    ("batch_norm", (8, 14, 14, 480), "nhwc", "backward", ()),
    ("batch_norm_training", (8, 56, 56, 256), "nhwc", "forward", ()),
    ("batch_norm_training", (8, 256, 56, 56), "nchw", "backward", ()),
    ("group_norm", (16, 28, 28, 320), "nhwc", "backward", (("groups", 32),)),
    ("instance_norm", (8, 64, 64, 128), "nhwc", "forward", ()),
    ("layer_norm", (64, 100_000), "nc", "backward", ()),
    ("layer_norm", (1, 8192, 4096), "nlc", "forward_backward", ()),
    ("rms_norm", (64, 100_000), "nc", "forward_backward", ()),
    ("batch_norm", (8, 14, 14, 480), "nhwc", "forward_backward", ()),
    ("batch_norm_training", (8, 256, 56, 56), "nchw", "forward_backward", ()),
    ("group_norm", (16, 28, 28, 320), "nhwc", "forward_backward", (("groups", 32),)),
]
TOPOLOGIES = ("v6e:2x2", *(pytest.param(name, marks=pytest.mark.torture) for name in ("v5e:2x2", "tpu7x:2x2x1")))
"""`make torture` asks the compiler for the others, too."""


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_each_tensor_crosses_hbm_once_and_lies_as_expected(topology):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", SCRIPT, topology, repr(CASES)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    factors, orders = json.loads(done.stdout.splitlines()[-1])
    assert not orders
    assert max(factors) <= 1.05, dict(zip(CASES, factors, strict=True))
