"""What a snapshot keeps of a compiled program: its launches by what they are and move, without names and paths."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.fusion.launches import Launch
    from normbench.fusion.reading import Reading

_COLUMNS = ("launches", "kind", "runs", "read_bytes", "write_bytes", "source_ops")


@dataclass(frozen=True, order=True)
class Kind:
    """What makes two launches equal here.

    Attributes:
      kind: loop, reduction, triton, ...
      runs: how often it runs; 0 in a loop of unknown length.
      source_ops: JAX operations that it comes from, sorted.
      read_bytes, write_bytes: of all its runs.
    """

    kind: str
    runs: int
    source_ops: tuple[str, ...]
    read_bytes: int
    write_bytes: int

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.write_bytes

    @property
    def work(self) -> tuple[str, int, tuple[str, ...]]:
        """All but the bytes."""
        return self.kind, self.runs, self.source_ops


def kind_of(launch: "Launch") -> Kind:
    """The kind of one launch of a program that was read."""
    runs = launch.repetitions if launch.repetitions_known else 0
    return Kind(launch.kind, runs, tuple(sorted(launch.source_ops)), launch.read_bytes, launch.write_bytes)


@dataclass(frozen=True)
class Structure:
    """The launches of one program, counted.

    Attributes:
      counts: (kind, number of launches of that kind), those first that move most.
      hints: what costs bytes, the first words of each hint, sorted.
      program: the start of the digest of what JAX handed to the compiler.
      normbench: the version that read it.
    """

    counts: tuple[tuple[Kind, int], ...]
    hints: tuple[str, ...] = ()
    program: str = ""
    normbench: str = ""

    @property
    def counter(self) -> Counter[Kind]:
        return Counter(dict(self.counts))

    @property
    def launches(self) -> int:
        return sum(number for _, number in self.counts)

    @property
    def executed(self) -> int:
        """Launches with the repetitions of loops; those of a loop of unknown length count once."""
        return sum(number * max(1, kind.runs) for kind, number in self.counts)

    @property
    def bytes(self) -> int:
        return sum(number * kind.bytes for kind, number in self.counts)

    @property
    def kinds(self) -> Counter[str]:
        """Launches by kind."""
        found: Counter[str] = Counter()
        for kind, number in self.counts:
            found[kind.kind] += number
        return found

    def row(self) -> dict[str, Any]:
        """For JSON; the inverse of `structure_from`."""
        return {
            "launches": self.launches,
            "executed": self.executed,
            "bytes": self.bytes,
            "hints": list(self.hints),
            "program": self.program,
            "normbench": self.normbench,
            "each": [_row(kind, number) for kind, number in self.counts],
        }


def _row(kind: Kind, number: int) -> dict[str, Any]:
    values = (number, kind.kind, kind.runs, kind.read_bytes, kind.write_bytes, ",".join(kind.source_ops))
    return dict(zip(_COLUMNS, values, strict=True))


def structure_of(reading: "Reading", program: str, normbench: str) -> Structure:
    """The structure of a program that was read."""
    counts = Counter(kind_of(launch) for launch in reading.launches)
    hints = sorted({head(hint) for hint in reading.hints})
    return Structure(_ordered(counts.items()), tuple(hints), program, normbench)


def head(hint: str) -> str:
    """The words of a hint that say what it is about: "dtype promotion"."""
    return hint.partition(":")[0]


def structure_from(row: Any) -> Structure:
    """Reads what `Structure.row` made.

    Raises:
      ValueError: where it is something else.
    """
    try:
        counts = [_count(*(each[name] for name in _COLUMNS)) for each in row["each"]]
        return Structure(_ordered(counts), tuple(row["hints"]), str(row["program"]), str(row["normbench"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _count(number: int, kind: str, runs: int, read: int, write: int, ops: str) -> tuple[Kind, int]:
    return Kind(kind, int(runs), tuple(ops.split(",")) if ops else (), int(read), int(write)), int(number)


def _ordered(counts: Iterable[tuple[Kind, int]]) -> tuple[tuple[Kind, int], ...]:
    return tuple(sorted(counts, key=lambda item: (-item[0].bytes * item[1], item[0])))
