"""How long does a call take? Checked first, compiled ahead; wall time of one call, cold cache, on the CPU."""

from functools import cache

import jax
import pytest

from normbench import kernels
from normbench.cases.case import Case
from normbench.study.check.accuracy import Oracle
from normbench.study.clocks.ceiling import Ceilings
from normbench.study.clocks.memory import Sweep, last_level_cache_bytes, prefault
from normbench.study.worker.compiled_case import check, compile_case, draw, inputs_of, unsupported
from normbench.study.worker.series import Pools, working_bytes

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="times the CPU; start with JAX_PLATFORMS=cpu")
ROUNDS, WARMUP_ROUNDS = 30, 3


@cache
def sweep() -> Sweep:
    return Sweep(last_level_cache_bytes())


@cache
def ceilings() -> Ceilings:
    return Ceilings("cpu", 0, last_level_cache_bytes(), sweep(), seed=0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the compiled programs go."""
    path = tmp_path_factory.mktemp("run")
    (path / "hlo").mkdir()
    return path


class Shared:
    """What the variants of one problem share, as long as they come one after the other."""

    def __init__(self):
        self.problem, self.oracle, self.pools = None, None, None

    def of(self, case: Case) -> tuple[Oracle, Pools]:
        if self.problem != case.problem:
            self.oracle = self.pools = None  # frees its memory first
            self.problem, self.oracle = case.problem, draw(case)
            self.pools = Pools(1, last_level_cache_bytes(), sweep())
        return self.oracle, self.pools


SHARED = Shared()


def test_latency(slug, benchmark, folder):
    case = Case.from_slug(slug)
    reason = unsupported(case, "cpu")
    if reason:
        pytest.skip(reason)
    compiled, tables = compile_case(case, "cpu", folder)
    oracle, pools = SHARED.of(case)
    inputs = inputs_of(compiled.program, oracle)
    error = check(compiled, inputs, oracle, "cpu")
    assert error.ok, error.reason

    rotation, block = pools.rotation(compiled, inputs), jax.block_until_ready

    def call(*arrays):
        block(compiled.call(*arrays))

    row = tables["compiled"][0]
    benchmark.group = case.problem_slug
    benchmark.extra_info.update(
        slug=slug,
        baseline=case.variant == kernels.variants(case.operator)[0],
        launches=row.get("launches"),
        traffic_ratio=row.get("traffic_ratio"),
        minimum_bytes=row["minimum_bytes"],
        hlo_sha256=row.get("hlo_sha256"),
        max_ulp=error.max_ulp,
    )
    prefault(working_bytes(compiled))
    benchmark.pedantic(
        call, setup=lambda: (rotation.take(1)[0], {}), rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS, iterations=1
    )
    if benchmark.stats is not None:  # None under --benchmark-disable
        _add_bandwidth(benchmark, row["minimum_bytes"])


def _add_bandwidth(benchmark, minimum_bytes):
    """Minimum bytes over the median; as a fraction of what a streaming program of that size class reaches here."""
    benchmark.extra_info["ceilings"] = ceilings().measure(minimum_bytes)
    bytes_per_s = minimum_bytes / benchmark.stats.stats.median
    benchmark.extra_info["gb_per_s"] = bytes_per_s * 1e-9
    benchmark.extra_info["ceiling_fraction"] = bytes_per_s / ceilings().bytes_per_second(minimum_bytes)
