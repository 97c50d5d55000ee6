"""The rules by which a launch on a TPU is predicted, and what an asynchronous copy adds to a program's time."""

from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import normbench
from normbench import kernels
from normbench.cases.case import Case
from normbench.fusion.compilation import compile_for
from normbench.fusion.launches import Launch
from normbench.fusion.targets import deviceless_target
from normbench.fusion.tpu.chips import CHIPS
from normbench.fusion.tpu.launches import estimated_cycles
from normbench.predict.program import added, predicted_rows
from normbench.predict.rules import BYTES, OPERATIONS
from normbench.predict.tpu import CYCLES, RATES, ruled_on_tpu
from normbench.schema import TPU_TARGETS

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs the extra tpu-targets")
V6E = deviceless_target("v6e")
NOTHING = Launch(
    index=0, name="fusion", kind="loop", computation="main", repetitions=1, repetitions_known=True, loop=None,
    branch=None, ops=("add",), source_ops=(), scope="", source="", flops=0.0, read_bytes=0, write_bytes=0,
    workspace_bytes=0, wire_bytes=None, reads=(), results=(), instruction=None,
)  # fmt: skip


def test_a_fusion_takes_the_longer_of_its_cycles_and_its_bytes():
    megabyte_s = 1e6 / 1.638e12
    rate = RATES["v6e"].cycles_per_s(CHIPS["v6e"])
    moving = replace(NOTHING, read_bytes=10**6, estimated_cycles=1)
    assert ruled_on_tpu(moving, V6E).seconds == pytest.approx(megabyte_s)
    working = replace(moving, estimated_cycles=int(rate * 5 * megabyte_s))
    found = ruled_on_tpu(working, V6E)
    assert (found.seconds, found.rule) == (pytest.approx(5 * megabyte_s, rel=1e-3), CYCLES)
    assert "HBM is busy for 20%" in found.bound
    assert ruled_on_tpu(replace(working, repetitions=5, read_bytes=5 * 10**6), V6E).seconds == pytest.approx(megabyte_s)


def test_a_product_takes_its_operations_and_a_copy_its_bytes():
    product = replace(NOTHING, flops=918e12 * 0.7, read_bytes=10**6, estimated_cycles=1)
    found = ruled_on_tpu(product, V6E)
    assert (found.seconds, found.rule) == (pytest.approx(1.0), OPERATIONS)
    copy = ruled_on_tpu(replace(NOTHING, kind="prefetch", read_bytes=1638), V6E)
    assert (copy.seconds, copy.rule) == (pytest.approx(1e-9), BYTES)


def test_what_runs_meanwhile_hides_one_transfer_at_a_time():
    assert added([3.0, 2.0, 4.0], {0: (2,), 1: (2,)}) == [0.0, 1.0, 4.0]
    assert added([3.0, 2.0, 4.0], {}) == [3.0, 2.0, 4.0]


@pytest.mark.parametrize("target", TPU_TARGETS)
def test_the_rate_is_no_clock(target):
    """Two to three times what a chip's clock is known or believed to be; the page says so."""
    assert 2e9 < RATES[target].cycles_per_s(CHIPS[target]) < 6e9


def test_the_largest_number_is_no_estimate():
    """As libtpu writes it for a copy that the SparseCores carry out: three hundred years are no prediction."""
    told = '{{"window_config":{{"estimated_cycles":"{}"}}}}'
    cycles = [estimated_cycles(SimpleNamespace(backend_config=told.format(number))) for number in (2**63 - 1, 0, 17)]
    assert cycles == [None, None, 17]
    assert estimated_cycles(SimpleNamespace(backend_config="")) is None


@needs_libtpu
def test_a_copy_by_the_sparse_cores_is_predicted_by_its_bytes():
    case = Case.from_slug("instance_norm.alone.8x256x64x64.nchw.bf16.f32.backward.welford")
    program = kernels.program(case.problem, case.variant)
    compilation = compile_for(program.function, program.inputs, "tpu7x")
    row, launches = predicted_rows(compilation)
    assert row["predicted_s"] < 1e-3
    assert "custom call" not in {launch["kind"] for launch in launches}


@needs_libtpu
def test_each_product_has_its_own_operations():
    """Also where one reads and writes VMEM alone, so that nothing of it is seen in its bytes."""

    def f(x, v, w):
        return jax.nn.gelu(x @ v) @ w

    shapes = ((4096, 1024), (1024, 4096), (4096, 1024))
    report = normbench.explain(f, *(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes), target="v6e")
    products = report.launches[report.launches.flops > 0]
    assert products.flops.tolist() == [2 * 4096 * 4096 * 1024] * 2
    assert products.read_bytes.min() == 0
    assert products.predicted_s.nunique() == 1
