"""pytest-benchmark over the cases of a preset: `pytest --benchmark-only [--preset quick]`."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import pytest

from benchmarks.bench_support import settle_allocator

COLUMNS = ("GB/s", "of ceiling", "vs baseline", "launches", "traffic", "ulp")
NAMES = ("gb_per_s", "ceiling_fraction", "ratio_to_baseline", "launches", "traffic_ratio", "max_ulp")


def pytest_addoption(parser):
    parser.addoption("--preset", default="smoke", help="cases to time: smoke, quick, standard, full or exhaustive")


def pytest_ignore_collect(config):
    """Collected only where timing is asked for: a plain `pytest` runs the tests."""
    return None if config.getoption("benchmark_only") else True


def pytest_configure(config):
    if not config.getoption("benchmark_only"):
        return
    settle_allocator()  # before JAX starts its threads
    config.option.benchmark_save_data = True  # without its samples a run cannot be compared
    if not getattr(config.option, "benchmark_storage", None) or config.option.benchmark_storage.endswith(".benchmarks"):
        config.option.benchmark_storage = f"file://{config.rootpath / 'results' / 'pytest'}"


def pytest_generate_tests(metafunc):
    if "slug" in metafunc.fixturenames:
        from normbench.cases.case import cases

        slugs = [case.slug for case in cases(metafunc.config.getoption("--preset"))]
        metafunc.parametrize("slug", slugs, ids=slugs)  # left alone, pytest renames long ones


def pytest_benchmark_update_machine_info(config, machine_info):
    import jax

    from normbench.study.machine.environment import environment

    described = environment()
    for name in ("packages", "cpu_model", "nvidia_driver", "variables"):
        machine_info[name] = described.get(name)
    machine_info["devices"] = [device.device_kind for device in jax.devices()]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    timed = [bench for bench in getattr(session, "benchmarks", ()) if "slug" in bench.extra_info]
    if not timed:
        return
    _add_ratios(timed)
    terminalreporter.section("normalization")
    width = max(len(bench.extra_info["slug"]) for bench in timed)
    terminalreporter.write_line(" ".join(["case".ljust(width), "median µs".rjust(11), *(c.rjust(11) for c in COLUMNS)]))
    for bench in timed:
        row = [f"{bench.stats.median * 1e6:11.1f}", *(_cell(bench.extra_info.get(name)) for name in NAMES)]
        terminalreporter.write_line(" ".join([bench.extra_info["slug"].ljust(width), *row]))


def pytest_benchmark_update_json(config, benchmarks, output_json):
    _add_ratios(benchmarks)
    ratios = {bench.extra_info["slug"]: bench.extra_info.get("ratio_to_baseline") for bench in benchmarks}
    output_json["ceilings"] = []
    for row in output_json["benchmarks"]:
        output_json["ceilings"] += row["extra_info"].pop("ceilings", [])
        row["extra_info"]["ratio_to_baseline"] = ratios.get(row["extra_info"].get("slug"))


def _add_ratios(timed):
    """Time over that of the baseline of the same problem, where both were timed."""
    baselines = {bench.group: bench.stats.median for bench in timed if bench.extra_info.get("baseline")}
    for bench in timed:
        if bench.group in baselines:
            bench.extra_info["ratio_to_baseline"] = bench.stats.median / baselines[bench.group]


def _cell(value):
    return ("-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)).rjust(11)
