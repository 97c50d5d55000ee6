"""`explain`: what the compiler does with any JAX function, launch by launch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from normbench.errors import UserError
from normbench.explanation.call import Call, prepared_call
from normbench.explanation.lowering import lowered_call, target_notes
from normbench.explanation.page import html_report
from normbench.explanation.render import text_report, title
from normbench.fusion.compilation import Compilation
from normbench.fusion.isolation import compiler
from normbench.fusion.targets import check_target, require_compilers
from normbench.jax_compat.provenance import numbered
from normbench.predict.program import added, meanwhile_of, predicted_rows

if TYPE_CHECKING:
    import pandas as pd

    from normbench.explanation.parts import Parts
    from normbench.explanation.picture import FusionPicture
    from normbench.norms.site import Norms

_WORTH_TELLING = 0.05


@dataclass(frozen=True)
class Report:
    """What the compiler made of a function; readable as it is printed.

    Attributes:
      name: of the function.
      compilation: everything that was read; the properties below are the short way to it.
      notes: sentences about what was compiled, where it is not what was given.
      module: the numbered StableHLO module that was compiled, as bytecode (`normbench.jax_compat.provenance`).
    """

    name: str
    compilation: Compilation
    notes: tuple[str, ...] = ()
    module: bytes = b""

    @property
    def target(self) -> str:
        return self.compilation.target

    @cached_property
    def launches(self) -> "pd.DataFrame":
        """A row per launch, with the columns of the table `launches` of a run."""
        import pandas as pd

        from normbench.schema import TABLES

        rows = [{"case": self.name, **row} for row in self.rows]
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
    def least_between_barriers_bytes(self) -> int:
        """The least that has to move where matrix products, convolutions, collectives and calls are kept apart."""
        return self.compilation.reading.least_between_barriers_bytes

    @property
    def executed_launches(self) -> int:
        """Launches with the repetitions of loops; those in a loop of unknown length count once."""
        return self.compilation.reading.executed_launches

    @property
    def flops(self) -> float | None:
        """Floating-point operations by XLA's own generic analysis; None where it does not know them."""
        return self.compilation.reading.flops

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

    @cached_property
    def _predicted(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return predicted_rows(self.compilation)

    @property
    def facts(self) -> dict[str, Any]:
        """The columns of the table `compiled` of a run."""
        return self._predicted[0]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The columns of the table `launches` of a run, launch by launch."""
        return self._predicted[1]

    @property
    def predicted_s(self) -> float | None:
        """Seconds by the model of `normbench.predict`: a prediction, never a measurement. None where nothing is known
        of the device."""
        return self.facts["predicted_s"]

    @property
    def predicted_range_s(self) -> tuple[float, float] | None:
        """The range around `predicted_s` that the model's known error leaves, low and high."""
        row = self.facts
        return None if row["predicted_s"] is None else (row["predicted_low_s"], row["predicted_high_s"])

    @property
    def bounds(self) -> tuple[str, ...]:
        """What bounds each launch that takes a twentieth of the predicted time or more, in sentences."""
        total = self.predicted_s or 0.0
        rows = [row for row in self.rows if row["bound"] and row["predicted_s"] >= _WORTH_TELLING * total]
        return tuple(f"{row['name']}, {row['predicted_s'] * 1e6:.1f} us: {row['bound']}" for row in rows)

    @property
    def bytes_s(self) -> float | None:
        """Bytes over the datasheet's bandwidth and 2 us a launch: the simplest prediction, to compare with."""
        return self.compilation.reading.bytes_s

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

    @property
    def _rows(self) -> list[dict[str, Any]]:
        """Rows of the table `launches` without what the assembler says, which takes a while."""
        return self.compilation.launch_rows(assembled=False)

    def top(self, number: int = 10) -> "pd.DataFrame":
        """The launches that move most, equal ones as one row with their number."""
        from normbench.explanation.tables import top

        return top(self._rows, number)

    def by_scope(self, depth: int = 2) -> "pd.DataFrame":
        """What the parts of the program move and take, a row per part: its first `depth` names, as the framework gave
        them; launches in which several parts compute are in the row "shared"."""
        from normbench.explanation.tables import by_scope

        return by_scope(self.rows, self._parts, depth)

    def by_source(self) -> "pd.DataFrame":
        """What the lines of the program move and take, a row per file:line; launches of several lines are in the row
        "shared"."""
        from normbench.explanation.tables import by_source

        return by_source(self.rows, self._parts)

    @cached_property
    def _parts(self) -> "tuple[Parts, ...]":
        from normbench.explanation.parts import parts_of

        return parts_of(self.compilation)

    @cached_property
    def norms(self) -> "Norms":
        """The normalizations in the program: for each of them its launches, bytes, the least, and what to do.

        Raises:
          UserError: of a report that was not made by `explain`, which knows the module that was compiled.
        """
        from normbench.norms.read import norms_of

        if not self.module:
            raise UserError("report has no module: normalizations are found in a report that `explain` made")
        seconds, low_s, high_s = (self._added(f"predicted{name}_s") for name in ("", "_low", "_high"))
        ranges = [None if s is None else (low, high) for s, low, high in zip(seconds, low_s, high_s, strict=True)]
        return norms_of(self.name, self.compilation, self.module, seconds, ranges)

    def _added(self, column: str) -> list[Any]:
        """What each launch adds to the predicted time of the program, by a column of `rows`."""
        seconds = [row[column] for row in self.rows]
        return seconds if None in seconds else list(added(seconds, meanwhile_of(self.compilation.reading)))

    def text(self, full: bool = False) -> str:
        """The report as it is printed; with `full` every launch, hint and refusal, however many there are."""
        return text_report(self, full)

    @cached_property
    def collectives(self) -> "pd.DataFrame":
        """A row per collective: kind, axes, size of its groups, bytes on the wire of each device, what runs meanwhile;
        see `normbench.explanation.collectives`. Its memory bytes are in `launches`."""
        from normbench.explanation.collectives import collective_table

        return collective_table(self.compilation.reading, self.rows)

    @property
    def devices(self) -> int:
        """Devices that the program is divided between; everything here is of one of them."""
        return self.compilation.reading.partition.devices

    @cached_property
    def picture(self) -> "FusionPicture":
        """The program as a picture: launches, what flows between them, what was not fused; `.write(path)` saves it."""
        from normbench.explanation.picture import fusion_picture, with_flows

        rows = with_flows(self.rows, self.compilation.reading)
        return fusion_picture(title(self), rows, self.facts)

    def __repr__(self) -> str:
        return text_report(self)

    def _repr_html_(self) -> str:
        return html_report(self)


def explain(function: Callable, /, *args: Any, target: str = "h200", timeout_s: float = 300.0, **kwargs: Any) -> Report:
    """Compiles `function` for `target` and says what became of it.

    Tracing and lowering happen in this process, compiling in another: XLA can abort.

    Args:
      function: any function that `jax.jit` takes, jitted or not. A jitted one keeps what it was jitted with: static and
        donated arguments, shardings. Of a module that is a pytree (equinox, nnx) the arrays are inputs.
      *args, **kwargs: its arguments as `jax.jit` takes them: arrays or `jax.ShapeDtypeStruct`s, numbers, pytrees of
        them. Functions and words, which `jax.jit` refuses, are held fixed.
      target: "h200", "h100", "a100", "b200", or of the TPUs "v4", "v5e", "v5p", "v6e", "tpu7x" (no device needed),
        "cpu", or "gpu" for the one that is present.
      timeout_s: after which compiling is given up.

    Shardings are kept, of arguments, of results and within the function, over a mesh of the devices of this process or
    over `normbench.mesh` of absent ones; the report is then that of one device.

    A function that has arguments called `target` or `timeout_s` itself is explained with `explain_call`.

    Raises:
      UserError: for an unknown target, arguments that JAX does not take as they are, shardings that do not divide them,
        a program that can only be compiled where the device is or does not fit it, or a missing compiler plugin.
      CompileError: where the compiler failed, aborted or took too long.
      Exception: whatever `function` raises while it is traced.
    """
    return explain_call(function, args, kwargs, target=target, timeout_s=timeout_s)


def explain_call(
    function: Callable,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str = "h200",
    timeout_s: float = 300.0,
) -> Report:
    """As `explain`, with the arguments in a sequence and a mapping, so that none of its own is in the way of a name."""
    require_target_name(target)
    _require_arguments(args, kwargs, timeout_s)
    call = prepared_call(function, args, kwargs or {})
    bytecode, lower_s = lowered_call(call, target)
    module = numbered(bytecode)
    return replace(report_of(call, compiler(target).compile(module, target, lower_s, timeout_s)), module=module)


def _require_arguments(args: Any, kwargs: Any, timeout_s: Any) -> None:
    if not isinstance(args, Sequence) or isinstance(args, str):
        raise UserError(f"args is a {type(args).__name__}; allowed: a sequence of the function's arguments")
    if not isinstance(kwargs, Mapping | None):
        raise UserError(f"kwargs is a {type(kwargs).__name__}; allowed: a mapping of names to arguments")
    if not isinstance(timeout_s, int | float) or not timeout_s > 0:
        raise UserError(f"timeout_s is {timeout_s!r}; allowed: a number of seconds above 0")


def report_of(call: Call, compilation: Compilation) -> Report:
    """The report on a call that was compiled."""
    notes = (*call.notes, *compilation.notes, *target_notes(compilation))
    return Report(call.name, compilation, notes)


def require_target_name(target: Any) -> None:
    """Raises UserError for what is no target, and where its compiler plugin is missing."""
    if not isinstance(target, str):
        raise UserError(
            f"target is a {type(target).__name__}; it is the name of a device. For a function with an argument "
            "'target' of its own: explain_call(function, args, kwargs, target=...)"
        )
    check_target(target)
    require_compilers(target)
