"""How long does a call take? Checked first, compiled ahead; wall time of one call, cold cache, on the CPU."""

from functools import cache

import jax
import pytest

import kernels
from analysis.fusion import compile_for
from benchmarks.cases import Case
from benchmarks.ceiling import Ceilings
from benchmarks.memory import Rotation, Sweep, copies, last_level_cache_bytes, tree_bytes
from benchmarks.worker_cases import Compiled, check, draw, inputs_of, unsupported

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="times the CPU; start with JAX_PLATFORMS=cpu")
ROUNDS, WARMUP_ROUNDS = 30, 3
ROTATION_BUDGET_BYTES = 512 * 2**20


@cache
def sweep() -> Sweep:
    return Sweep(last_level_cache_bytes())


@cache
def ceilings() -> Ceilings:
    return Ceilings("cpu", 0, last_level_cache_bytes(), sweep(), seed=0)


def cold(inputs: tuple) -> Rotation:
    """Input sets that are no longer in a cache when their turn comes."""
    cache_bytes = last_level_cache_bytes()
    count = Rotation.count(tree_bytes(inputs), cache_bytes, ROTATION_BUDGET_BYTES)
    return Rotation(copies(inputs, count), cache_bytes, sweep())


def test_latency(slug, benchmark):
    case = Case.from_slug(slug)
    reason = unsupported(case, "cpu")
    if reason:
        pytest.skip(reason)
    program = kernels.program(case.problem, case.variant)
    compilation = compile_for(program.function, program.inputs, "cpu")
    row = compilation.compiled_row()
    compiled = Compiled(case, program, compilation.executable, row["minimum_bytes"])
    oracle = draw(case)
    inputs = inputs_of(program, oracle)
    error = check(compiled, inputs, oracle, "cpu")
    assert error.ok, error.reason

    rotation, block = cold(inputs), jax.block_until_ready

    def call(*arrays):
        block(compiled.call(*arrays))

    benchmark.group = case.problem_slug
    benchmark.extra_info.update(
        slug=slug,
        baseline=case.variant == kernels.variants(case.operator)[0],
        launches=row["launches"],
        traffic_ratio=row["traffic_ratio"],
        minimum_bytes=row["minimum_bytes"],
        hlo_sha256=row["hlo_sha256"],
        max_ulp=error.max_ulp,
    )
    benchmark.pedantic(
        call, setup=lambda: (rotation.take(1)[0], {}), rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS, iterations=1
    )
    if benchmark.stats is not None:  # None under --benchmark-disable
        _add_bandwidth(benchmark, row["minimum_bytes"])


def _add_bandwidth(benchmark, minimum_bytes):
    """Minimum bytes over the median; as a fraction of what a streaming program of that size class reaches here."""
    ceilings().measure(minimum_bytes)
    bytes_per_s = minimum_bytes / benchmark.stats.stats.median
    benchmark.extra_info["gb_per_s"] = bytes_per_s * 1e-9
    benchmark.extra_info["ceiling_fraction"] = bytes_per_s / ceilings().bytes_per_second(minimum_bytes)
