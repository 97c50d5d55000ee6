"""In a worker: compiles the variants of one problem for a GPU that need not be here, each program once and for all."""

import time
from collections import OrderedDict
from pathlib import Path

import jax

from normbench import jax_compat, kernels
from normbench.cache.compilations import Compilations, Kept
from normbench.cases.case import Case
from normbench.fusion.compilation import compile_bytecode_for, lower_to_bytecode
from normbench.fusion.targets import TPU, deviceless_target, platform_of
from normbench.goldens.program import program_digest
from normbench.kernels import Program
from normbench.predict.program import predicted_rows
from normbench.study.schedule.store import Tables, write_hlo
from normbench.study.schedule.units import Unit
from normbench.study.worker.compiled_case import Refusal, compile_case, outcome_of, require_all_inputs, unsupported

KERNELS = (b"mosaic", b"triton", b"tpu_custom_call")
"""What the bytecode of a program with a kernel of Pallas has in it: its instructions are of an architecture."""
REMEMBERED = 64


class Lowerings:
    """The programs of the last cases, so that one is not traced and lowered again for the next device of a platform;
    with a kernel of Pallas, of a compute capability, or for the same TPU.

    Args:
      shared: whether the variants are all this package's: another's may do as it likes with the device's name.
    """

    def __init__(self, shared: bool):
        self._shared = shared
        self._known: OrderedDict[tuple, tuple[bytes, str]] = OrderedDict()

    def of(self, case: Case, program: Program, target: str) -> tuple[bytes, str]:
        """The bytecode of a program for a target, and its digest."""
        of_platform = case.slug, platform_of(target)
        facts = deviceless_target(target)
        of_architecture = *of_platform, facts.name if facts.platform == TPU else facts.capability
        for key in (of_platform, of_architecture):
            if key in self._known:
                return self._known[key]
        bytecode, _ = lower_to_bytecode(program.function, program.inputs, target)
        found = bytecode, program_digest(bytecode, jax_compat.module_text(bytecode))
        if self._shared:
            with_kernel = any(mark in bytecode for mark in KERNELS)
            self._known[of_architecture if with_kernel else of_platform] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found


def compile_unit(unit: Unit, run: Path, emit, mark, compilations: Compilations, lowerings: Lowerings) -> None:
    """Emits the rows of "compiled" and "launches" of each case as soon as it is compiled, in the mode that it needs."""
    for slug in unit.cases:
        mark(slug, "compiling")
        case = Case.from_slug(slug)
        try:
            with jax.enable_x64(unit.wide):
                tables = _compiled(case, unit.target, run, compilations, lowerings)
        except Exception as error:
            status, reason = outcome_of(case, error)
            tables = {"compiled": [{"case": slug, "target": unit.target, "status": status, "reason": reason}]}
        emit(slug, tables, done=True)


def _compiled(case: Case, target: str, run: Path, compilations: Compilations, lowerings: Lowerings) -> Tables:
    """The rows of a case: of its program, as it is known, or as it is compiled now.

    Raises:
      as `compile_case`.
    """
    if reason := unsupported(case, target):
        raise Refusal("unsupported", reason)
    kept = compilations.find_case(case, target)
    if kept is None:
        program = kernels.program(case.problem, case.variant)
        if not program.variant.is_jax:
            return compile_case(case, target, run)[1]
        start = time.perf_counter()
        bytecode, digest = lowerings.of(case, program, target)
        lower_s = time.perf_counter() - start
        key = compilations.key(target, digest)
        found = compilations.find(key, case)
        kept = found.lowered_again(lower_s) if found else _compile(bytecode, target, lower_s)
        if not found:
            compilations.keep(key, case, kept)
        require_all_inputs(kept.parameters, program)
        compilations.remember(case, target, key)
    names = {"case": case.slug, "target": target}
    module_sha256 = write_hlo(run, kept.hlo)
    return {
        "compiled": [{**kept.row, **names, "module_sha256": module_sha256, "status": "ok"}],
        "launches": [{**launch, **names} for launch in kept.launches],
    }


def _compile(bytecode: bytes, target: str, lower_s: float) -> Kept:
    compilation = compile_bytecode_for(bytecode, target, lower_s)
    row, launches = predicted_rows(compilation)
    return Kept({**row, "cached": False}, launches, compilation.reading.parameters, compilation.hlo)
