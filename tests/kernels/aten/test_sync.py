"""SyncBatchNorm's pieces, and batch norm over a mesh axis, against the batch norm of the whole input."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench.kernels import aten
from tests.kernels.aten.drawn import Data

ROOT = Path(__file__).resolve().parents[3]
DATA = Data(7)
PARTS = [DATA.normal((n, 3, 5), "float64", spread=2.0, offset=n) for n in (2, 1, 4)]
WHOLE = np.concatenate(PARTS)
WEIGHT, BIAS, RUNNING_MEAN = (DATA.normal(3, "float64") for _ in range(3))
RUNNING_VAR = DATA.positive(3, "float64")


def test_pieces_put_together_give_the_whole():
    statistics = [aten.batch_norm_stats(part, 1e-5) for part in PARTS]
    means, invstds = (jnp.stack(v) for v in zip(*statistics, strict=True))
    counts = jnp.array([part.size // 3 for part in PARTS])
    gathered = (PARTS[0], means, invstds, RUNNING_MEAN, RUNNING_VAR, 0.3, 1e-5, counts)
    mean, invstd, *running = aten.batch_norm_gather_stats_with_counts_functional(*gathered)
    y = jnp.concatenate([aten.batch_norm_elemt(part, WEIGHT, BIAS, mean, invstd, 1e-5) for part in PARTS])
    whole = aten.native_batch_norm_functional(WHOLE, WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, True, 0.3, 1e-5)
    for ours, expected in zip((y, mean, invstd, *running), whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    short = aten.batch_norm_gather_stats_with_counts(*gathered)
    np.testing.assert_array_equal(short[0], mean)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_statistics_of_half_precision_are_float32(dtype):
    mean, invstd = aten.batch_norm_stats(PARTS[0].astype(jnp.dtype(dtype)), 1e-5)
    assert (mean.dtype, invstd.dtype) == (jnp.float32, jnp.float32)
    x = PARTS[0].astype(jnp.dtype(dtype))
    assert aten.batch_norm_elemt(x, None, None, mean, invstd, 1e-5).dtype == dtype


def test_a_named_axis_of_vmap_is_enough():
    parts = WHOLE.reshape(7, 1, 3, 5)
    synchronized = jax.vmap(
        lambda x: aten.sync_batch_norm(x, WEIGHT, BIAS, None, None, True, 0.1, 1e-5, axis_name="devices"),
        axis_name="devices",
    )(parts)
    expected = aten.batch_norm(WHOLE, WEIGHT, BIAS, None, None, True, 0.1, 1e-5, False)
    np.testing.assert_allclose(synchronized.reshape(WHOLE.shape), expected, rtol=1e-12, atol=1e-12)


def test_a_constant_channel_without_epsilon_is_the_bias():
    parts = jnp.ones((4, 1, 3, 5))
    synchronized = jax.vmap(
        lambda x: aten.sync_batch_norm(x, WEIGHT, BIAS, None, None, True, 0.1, 0.0, axis_name="devices"),
        axis_name="devices",
    )(parts)
    np.testing.assert_array_equal(synchronized, np.broadcast_to(BIAS[:, None], parts.shape))


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from normbench.kernels import aten

jax.config.update("jax_enable_x64", True)
assert jax.device_count() == 4
mesh = Mesh(np.array(jax.devices()), ("batch",))
generator = np.random.default_rng(0)
shape = (8, 3, 4, 2)
x, dy = (jnp.asarray(generator.normal(size=shape)) + 3 * jnp.arange(8).reshape(8, 1, 1, 1) for _ in range(2))
weight, bias, mean = (jnp.asarray(generator.normal(size=3)) for _ in range(3))
variance = jnp.asarray(generator.uniform(0.5, 2, 3))


def close(ours, expected, what):
    for i, (a, b) in enumerate(zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11, err_msg=f"{what} {i}")


for training in (True, False):
    for split in (P("batch"), P(None, None, "batch")):  # instances, and rows of the image
        def parts(x, weight, bias):
            return aten.sync_batch_norm_functional(
                x, weight, bias, mean, variance, training, 0.1, 1e-5, axis_name="batch"
            )

        whole = (P(),) * 4
        synchronized = jax.shard_map(parts, mesh=mesh, in_specs=(split, P(), P()), out_specs=(split, *whole))

        def single(x, weight, bias):
            return aten.native_batch_norm_functional(x, weight, bias, mean, variance, training, 0.1, 1e-5)

        outputs, pull = jax.vjp(jax.jit(synchronized), x, weight, bias)
        expected, expected_pull = jax.vjp(jax.jit(single), x, weight, bias)
        close(outputs, expected, f"output, training={training}")
        zeros = [jnp.zeros_like(v) for v in outputs[1:]]
        close(pull((dy, *zeros)), expected_pull((dy, *zeros)), f"gradient, training={training}")
text = jax.jit(synchronized).lower(x, weight, bias).as_text()
assert "all_reduce" not in text, "evaluation communicates"

sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("batch")))
for function in (
    lambda x: aten.batch_norm(x, weight, bias, None, None, True, 0.1, 1e-5, False),
    lambda x: aten.layer_norm(x, (4, 2)),
    lambda x: aten.rms_norm(x, (2,)),
    lambda x: aten.group_norm(x, 3, weight, bias),
    lambda x: aten.instance_norm(x, weight, bias, None, None, True, 0.1, 1e-5, False),
    lambda x: aten.local_response_norm(x, 2),
):
    close(jax.jit(function)(sharded), function(x), "sharded batch axis")
print("agreed")
"""


def test_a_mesh_of_four_devices_agrees_with_one_device():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "agreed" in done.stdout
