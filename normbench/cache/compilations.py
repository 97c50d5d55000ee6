"""What compilations for absent devices gave, by the program: rows and modules, as JSON, so that a folder may be shared.

Two kinds of entries. "program": what one program became, by the lowered StableHLO in which source lines and names of
scopes do not count, the target's facts, the flags, the versions of JAX, its plugin and the assembler, and the code that
reads and predicts. "case": which program a case is, by its slug, the target, all of this package and the versions of
whatever a variant may call: with it, a case is not even traced again.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normbench.cache.store import Cache
from normbench.cache.toolchain import PREDICTORS, code_digest, digest_of, toolchain
from normbench.cases.case import Case
from normbench.schema import TABLES

Row = dict[str, Any]
_TOOK = ("lower_s", "compile_s", "read_s", "predict_s")
"""Times of the compilation that was kept, which are not those of the one that asks."""
_NAMES = ("scope", "source")
"""Columns that come from names in the source, in which equal programs differ."""


@dataclass(frozen=True)
class Kept:
    """What a program became.

    Attributes:
      row, launches: of the tables `compiled` and `launches`, without case, status and reason.
      parameters: how many inputs the program takes.
      hlo: the serialized module.
    """

    row: Row
    launches: list[Row]
    parameters: int
    hlo: bytes

    def to_bytes(self, origin: str) -> bytes:
        head = {"origin": origin, "parameters": self.parameters, "row": self.row, "launches": self.launches}
        return json.dumps(head).encode() + b"\n" + self.hlo

    @classmethod
    def from_bytes(cls, written: bytes, origin: str) -> "Kept":
        """Reads what `to_bytes` wrote.

        Raises:
          ValueError, KeyError, TypeError: where it was written by something else.
        """
        line, _, hlo = written.partition(b"\n")
        head = json.loads(line)
        row, launches = _of_table("compiled", head["row"]), [_of_table("launches", one) for one in head["launches"]]
        if head["origin"] != origin:
            launches = [{**one, **dict.fromkeys(_NAMES)} for one in launches]
        row = {name: value for name, value in row.items() if name not in _TOOK}
        return cls({**row, "cached": True}, launches, int(head["parameters"]), hlo)

    def lowered_again(self, lower_s: float) -> "Kept":
        """The same, found by a program that took so long to be lowered."""
        return replace(self, row={**self.row, "lower_s": lower_s})


def _of_table(table: str, row: Row) -> Row:
    unknown = row.keys() - TABLES[table].keys()
    if unknown or not all(value is None or isinstance(value, str | int | float) for value in row.values()):
        raise ValueError(f"no row of {table}")
    return row


class Compilations:
    """The compilations of cases.

    Args:
      folder: of the cache; None: nothing is kept.
      context: what the lowering of a case depends on beside this package's code: versions and variables. None where
        that is not known, as with a user's own modules: each case is then lowered to find out which program it is.
    """

    def __init__(self, folder: Path | None, context: str | None):
        self._cache = Cache(folder)
        self._context = context

    def find_case(self, case: Case, target: str) -> Kept | None:
        """What a case became, where that is known without lowering it."""
        if self._context is None:
            return None
        program = self._cache.find(self._case_key(case, target), "case")
        return None if program is None else self.find(program.decode("ascii", "replace"), case)

    def key(self, target: str, program: str) -> str:
        """Of what a program becomes, by its digest."""
        return digest_of(program, toolchain(target, PREDICTORS))

    def find(self, key: str, case: Case) -> Kept | None:
        """What a program became; names of scopes and lines are left out where they are another variant's."""
        written = self._cache.find(key, "program")
        try:
            return None if written is None else Kept.from_bytes(written, _origin(case))
        except (ValueError, KeyError, TypeError, AttributeError):  # of another hand: its sum was right
            return None

    def keep(self, key: str, case: Case, kept: Kept) -> None:
        self._cache.add(key, "program", kept.to_bytes(_origin(case)))

    def remember(self, case: Case, target: str, key: str) -> None:
        """Notes which program a case is."""
        if self._context is not None:
            self._cache.add(self._case_key(case, target), "case", key.encode())

    def _case_key(self, case: Case, target: str) -> str:
        assert self._context is not None
        return digest_of(case.slug, toolchain(target, PREDICTORS), code_digest(), self._context)


def _origin(case: Case) -> str:
    """Where the names of a program's scopes and lines come from: equal for the same variant in the same code."""
    return digest_of(case.operator, case.variant, case.pass_, case.context, code_digest(("kernels",)))
