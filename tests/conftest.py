"""The suite is one of the CPU, also where JAX's CUDA plugin is installed and finds no GPU.

What the suite's own processes run there, XLA compiles in haste: otherwise half of the suite's time is its compiler's.
XLA reads its flags once, so that the processes which a test starts, in which programs are looked at and timed, compile
as a user's do. With flags in `XLA_FLAGS`, e.g. `--xla_cpu_opt_preset=CPU_OPT_PRESET_DEFAULT`, there is no haste.
"""

import gc
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _compile_in_haste() -> None:
    import jax

    flags = ["--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"]
    if jax.__version_info__ < (0, 11):  # later ones have no such flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    jax.devices()  # reads them
    del os.environ["XLA_FLAGS"]


if "XLA_FLAGS" not in os.environ:
    _compile_in_haste()


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look at it again whenever JAX has traced a program."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_the_module() -> Iterator[None]:
    """What a module has traced and compiled goes with it: that of the whole suite takes gigabytes."""
    yield
    import jax

    jax.clear_caches()
