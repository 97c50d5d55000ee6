"""A JAX mode that leaves the precision of the rest of the process alone.

PyTensor's JAX dispatch sets JAX's global `jax_enable_x64` when it is first imported: on where `floatX` is float64, so
that every other JAX function of the process starts to compute in float64, and off where it is float32, so that a graph
of float64 silently computes in float32. mode="JAX" does that as soon as a function is compiled.

`jax_mode()` restores the setting after the import, and enables 64 bits only inside the functions that it compiles.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytensor.compile.mode import JAX, Mode
from pytensor.link.jax.linker import JAXLinker

from normbench.kernels.pytensor.dispatch import register


class ContainedJAXLinker(JAXLinker):
    """PyTensor's JAX linker, with `jax_enable_x64` on while a function is traced and called, and never outside."""

    def fgraph_convert(self, *args: Any, **kwargs: Any) -> Callable:
        import jax

        with _setting_kept():
            register("jax")
        with jax.enable_x64(True):
            return super().fgraph_convert(*args, **kwargs)

    def jit_compile(self, fn: Callable) -> Callable:
        """The compiled function, inside the context; JAX's own is its `__wrapped__`."""
        import jax

        compiled = super().jit_compile(fn)

        def call(*args: Any) -> Any:
            with jax.enable_x64(True):
                return compiled(*args)

        call.__wrapped__ = compiled  # type: ignore[attr-defined]
        return call


@contextmanager
def _setting_kept() -> Iterator[None]:
    import jax

    before = jax.config.read("jax_enable_x64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def jax_mode() -> Mode:
    """The mode "JAX", with the side effect on `jax_enable_x64` contained.

    What `f.vm.jit_fn` calls has the setting on; to lower it by hand, do so within `jax.enable_x64(True)` on
    `f.vm.jit_fn.__wrapped__`. A process that has compiled with mode="JAX" before has the setting changed already.
    """
    return Mode(ContainedJAXLinker(), JAX.provided_optimizer)
