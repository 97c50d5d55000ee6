"""Can asv and pytest-benchmark run here, and are they configured as they were meant to be?

Both ignore what they do not know: a misspelt key of `asv.conf.json` has no effect and raises no error.
"""

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from normbench.study.doctor.check import JAX_RANGE, Check, version_tuple
from normbench.study.machine import environment

ROOT = Path(__file__).resolve().parents[3]
INSTALL = "pip install 'normbench[asv]'"
NO_TESTS = 5
"""Exit status of pytest where there was nothing to collect."""


def tracking(root: Path = ROOT) -> Iterator[Check]:
    """The checks of a checkout; nothing where the package was installed without its configuration."""
    config = root / "asv.conf.json"
    if not config.is_file():
        return
    yield tools_check(environment.package_version)
    yield from asv_checks(config)
    yield pytest_check(root)
    yield benchmark_check(root)


def tools_check(version: Callable[[str], str | None]) -> Check:
    names = ("asv", "asv_runner", "virtualenv", "pytest-benchmark")
    missing = [name for name in names if version(name) is None]
    if missing:
        return Check("tracking", "missing", f"{', '.join(missing)} not installed", f"needed across commits: {INSTALL}")
    return Check("tracking", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def asv_checks(path: Path) -> Iterator[Check]:
    """asv's configuration: can it be read, does asv know its keys, are its interpreters and versions to be had?"""
    try:
        config = read_asv_config(path)
    except ValueError as error:
        yield Check("asv.conf.json", "warn", f"not readable: {error}", "asv stops at it: mend the file")
        return
    yield keys_check(config, known_asv_keys())
    yield python_check(config.get("pythons", ()), shutil.which)
    yield releases_check(config, environment.package_version("asv_runner"))


def read_asv_config(path: Path) -> dict[str, Any]:
    """The configuration, without its comment lines.

    Raises:
      ValueError: where it is not an object of JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    config = json.loads("\n".join("" if line.lstrip().startswith("//") else line for line in lines))
    if not isinstance(config, dict):
        raise ValueError("not an object")
    return config


def known_asv_keys() -> set[str] | None:
    """The keys that the installed asv reads; None without asv."""
    if importlib.util.find_spec("asv") is None:
        return None
    from asv.config import Config

    return {*vars(Config()), "version"}


def keys_check(config: dict[str, Any], known: set[str] | None) -> Check:
    if known is None:
        return Check("asv.conf.json", "missing", "not checked: asv is not installed", INSTALL)
    if unknown := sorted(set(config) - known):
        return Check(
            "asv.conf.json", "warn", f"unknown keys: {', '.join(unknown)}", "asv ignores them: correct or remove them"
        )
    if "environment_type" not in config:
        return Check("asv.conf.json", "warn", "no environment_type", "asv refuses to start without it")
    return Check("asv.conf.json", "ok", f"{len(config)} keys, all known to asv")


def python_check(pythons: Iterable[str], which: Callable[[str], str | None]) -> Check:
    wanted = list(pythons)
    running = platform.python_version().rpartition(".")[0]
    absent = [version for version in wanted if version != running and which(f"python{version}") is None]
    if absent:
        return Check(
            "asv python", "missing", f"no python{', python'.join(absent)} on PATH",
            "asv makes its environments with it: put one on PATH, or use asv run -E existing:python",
        )  # fmt: skip
    return Check("asv python", "ok", f"Python {', '.join(wanted)} for asv's environments")


def releases_check(config: dict[str, Any], runner: str | None) -> Check:
    """The JAX releases of the matrix must be supported; asv_runner decides how often `setup` is called."""
    required = config.get("matrix", {}).get("req", {})
    releases = required.get("jax", [])
    lowest, limit = JAX_RANGE
    outside = [release for release in releases if not lowest <= version_tuple(release) < limit]
    if outside:
        return Check("asv matrix", "warn", f"jax {', '.join(outside)} not supported", "keep to JAX 0.10.2 to 0.12")
    pins = required.get("pip+asv_runner", [])
    if runner and pins and runner not in pins:
        return Check(
            "asv matrix", "warn", f"asv_runner {runner} here, {', '.join(pins)} in the environments",
            f"samples differ in how they are set up: pip install asv_runner=={pins[0]}",
        )  # fmt: skip
    return Check("asv matrix", "ok", f"jax {', '.join(releases) or 'as installed'}")


def pytest_check(root: Path) -> Check:
    """Does pytest know every key of its configuration? Asked of pytest itself, which knows its plugins' keys."""
    if importlib.util.find_spec("pytest") is None:
        return Check("pytest", "missing", "not installed", "pip install 'normbench[test]'")
    with tempfile.TemporaryDirectory() as empty:
        config = str(root / "pyproject.toml")
        command = [sys.executable, "-m", "pytest", "--strict-config", "--collect-only", "-q", "-c", config, empty]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != NO_TESTS:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), "it does not start")
        return Check("pytest", "warn", reason, "correct [tool.pytest.ini_options] in pyproject.toml")
    return Check("pytest", "ok", f"{environment.package_version('pytest')}, every key of its configuration known")


def benchmark_check(root: Path) -> Check:
    """pytest-benchmark turns itself off under xdist, and is not to be turned off by an option that was left behind."""
    options = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    added = str(options.get("tool", {}).get("pytest", {}).get("ini_options", {}).get("addopts", "")).split()
    for option in added:
        if option in ("--benchmark-disable", "--benchmark-skip") or option.startswith(("-n", "--numprocesses")):
            return Check("pytest-benchmark", "warn", f"addopts has {option}", "nothing is timed with it: remove it")
    return Check("pytest-benchmark", "ok", "no option in the way")
