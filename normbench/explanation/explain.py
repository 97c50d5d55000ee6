"""`explain`: what the compiler does with any JAX function, launch by launch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax

from normbench.errors import UserError
from normbench.explanation.render import html_report, text_report
from normbench.fusion.compilation import Compilation, lower_bytecode
from normbench.fusion.isolation import compiler
from normbench.fusion.targets import check_target, require_gpu_targets
from normbench.jax_compat import no_gpu_is_no_error
from normbench.schema import DEVICELESS_TARGETS

if TYPE_CHECKING:
    import pandas as pd

    from normbench.explanation.picture import FusionPicture


@dataclass(frozen=True)
class Report:
    """What the compiler made of a function; readable as it is printed.

    Attributes:
      name: of the function.
      compilation: everything that was read; the properties below are the short way to it.
    """

    name: str
    compilation: Compilation

    @property
    def target(self) -> str:
        return self.compilation.target

    @cached_property
    def launches(self) -> "pd.DataFrame":
        """A row per launch, with the columns of the table `launches` of a run."""
        import pandas as pd

        from normbench.schema import TABLES

        rows = [{"case": self.name, **row} for row in self.compilation.launch_rows()]
        return pd.DataFrame(rows, columns=list(TABLES["launches"]))

    @property
    def bytes(self) -> int:
        """Bytes across the boundaries of all launches."""
        return self.compilation.reading.bytes

    @property
    def minimum_bytes(self) -> int:
        """Each used input read once and each output written once, without promotion."""
        return self.compilation.reading.minimum_bytes

    @property
    def streaming_minimum_bytes(self) -> int | None:
        """The minimum where a tensor that exceeds the cache has to be read again after its statistics."""
        return self.compilation.reading.streaming_minimum_bytes

    @property
    def declared_bytes(self) -> int | None:
        """Bytes with what hand-written kernels declare for theirs: they may walk over an array twice. None where no
        kernel declares anything."""
        return self.compilation.reading.declared_bytes

    @property
    def traffic_ratio(self) -> float | None:
        """Bytes over minimum bytes; None where nothing moves (an empty batch)."""
        return self.compilation.reading.traffic_ratio

    @property
    def xla_bytes(self) -> int | None:
        """Bytes by XLA's own generic cost analysis."""
        return self.compilation.reading.xla_bytes

    @property
    def predicted_s(self) -> float | None:
        """Bytes over the datasheet's bandwidth plus a cost per launch: a prediction, never a measurement."""
        return self.compilation.reading.predicted_s

    @property
    def hints(self) -> tuple[str, ...]:
        """What costs bytes, in sentences."""
        return self.compilation.reading.hints

    @property
    def refusals(self) -> tuple[str, ...]:
        """What the compiler did not fuse, and why, in sentences."""
        reading = self.compilation.reading
        return tuple(refusal.sentence(reading.launches) for refusal in reading.refusals)

    @property
    def hlo(self) -> str:
        """The optimised module as text."""
        return self.compilation.hlo_text

    @cached_property
    def picture(self) -> "FusionPicture":
        """The program as a picture: launches, what flows between them, what was not fused; `.write(path)` saves it."""
        from normbench.explanation.picture import fusion_picture

        compilation = self.compilation
        rows = compilation.launch_rows(assembled=False)
        return fusion_picture(f"{self.name} on {self.target}", rows, compilation.compiled_row())

    def __repr__(self) -> str:
        return text_report(self)

    def _repr_html_(self) -> str:
        return html_report(self)


def explain(function: Callable, *abstract_args: Any, target: str = "h200", timeout_s: float = 300.0) -> Report:
    """Compiles `function` for `target` and says what became of it.

    Tracing and lowering happen in this process, compiling in another: XLA can abort.

    Args:
      function: any jittable function of arrays, or pytrees of arrays, jitted or not.
      *abstract_args: one `jax.ShapeDtypeStruct` or array (or pytree of them) per positional argument.
      target: "h200", "h100", "a100", "b200" (no device needed), "cpu", or "gpu" for the one that is present.
      timeout_s: after which compiling is given up.

    Raises:
      UserError: for an unknown target, arguments that are no arrays, or a missing compiler plugin.
      CompileError: where the compiler failed, aborted or took too long.
    """
    check_target(target)
    if not callable(function):
        raise UserError(f"function is {function!r}; it must be callable")
    if target in DEVICELESS_TARGETS:
        require_gpu_targets()
    inputs = tuple(jax.tree.map(_abstract, argument) for argument in abstract_args)
    with no_gpu_is_no_error():
        bytecode, lower_s = lower_bytecode(function, inputs, target)
    compilation = compiler(target).compile(bytecode, target, lower_s, timeout_s)
    return Report(getattr(function, "__name__", type(function).__name__), compilation)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise UserError(f"argument {leaf!r} is no array; give jax.ShapeDtypeStruct(shape, dtype) or an array")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
