"""In a worker: compiles one case, checks it, and turns whatever goes wrong into a status with its reason."""

import errno
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench import kernels
from normbench.cases.case import Case
from normbench.fusion import compile_for
from normbench.jax_compat import direct_call
from normbench.kernels import Program
from normbench.kernels.hosted import Hosted
from normbench.kernels.registry import PEERS
from normbench.predict.program import predicted_rows
from normbench.study.check.accuracy import Error, Oracle
from normbench.study.clocks.memory import available_bytes, tree_bytes
from normbench.study.schedule.store import StorageError, Tables, write_hlo

INTERPRETED = "interpreted on a CPU, and checked there only where x is small"
STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
STORAGE_WORDS = ("No space left on device", "Disk quota exceeded", "No usable temporary directory")
"""As XLA, which compiles through files in the folder of temporary files, and Python say it."""
HARD_ELEMENTS = 4_000_000
"""Hard data are tried up to this size: what they find does not depend on it, and beyond it takes seconds."""
MEMORY_SHARE = 0.9


class Refusal(Exception):
    """A case that ends with a status other than "failed" and a reason."""

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Compiled:
    """A case that is ready to run on the device of this process.

    Attributes:
      call: takes the inputs of the program, arrays of JAX, or of `hosted`'s framework.
      minimum_bytes: each input read once and each output written once.
      hosted: what calls a program that is not JAX's; None for JAX's.
      host_output_bytes: of one call, where `call` is no executable of JAX, which tells it.
    """

    case: Case
    program: Program
    call: Any
    minimum_bytes: int
    hosted: Hosted | None = None
    host_output_bytes: int | None = None

    @property
    def block(self) -> Callable[[Any], Any]:
        """Waits until what a call has returned is ready."""
        return self.hosted.block if self.hosted else jax.block_until_ready

    @property
    def wait(self) -> Callable[[Any], Any]:
        """As `block` of what a call returns; of one array by its own method, as a walk through a pytree takes as long
        as a tenth of a small call."""
        if self.hosted or self.call.out_tree != jax.tree.structure(0):
            return self.block
        return methodcaller("block_until_ready")

    @property
    def direct_call(self) -> Callable[..., Any]:
        """`call`, of JAX without its wrapper in Python, once it has been called."""
        return self.call if self.hosted else direct_call(self.call)

    def blocking(self, *inputs: Any) -> Any:
        """A call that returns when its outputs are ready."""
        return self.block(self.call(*inputs))

    def result(self, inputs: tuple) -> Any:
        """The outputs of a call, as arrays of NumPy or JAX in the operator's layout."""
        outputs = self.blocking(*inputs)
        return self.hosted.fetch(outputs) if self.hosted else outputs

    def memory_bytes(self) -> tuple[int, int]:
        """Output and temporary bytes of one call; the second is 0 where the compiler does not tell it."""
        if self.host_output_bytes is not None:
            return self.host_output_bytes, 0
        memory = self.call.memory_analysis()
        return memory.output_size_in_bytes, memory.temp_size_in_bytes


def outcome(error: Exception) -> tuple[str, str]:
    """Status and reason, in one line, of what a case raised.

    Raises:
      StorageError: where it is no fault of the case that it could not be carried out: a full or missing folder.
    """
    text = " ".join(str(error).split())
    if isinstance(error, StorageError):
        raise error
    if (isinstance(error, OSError) and error.errno in STORAGE_ERRNOS) or any(words in text for words in STORAGE_WORDS):
        raise StorageError(getattr(error, "errno", None) or errno.EIO, text) from error
    if isinstance(error, Refusal):
        return error.status, text
    line = f"{type(error).__name__}: {text}"[:500].removesuffix(": ")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "bad_alloc" in text:
        return "out_of_memory", line
    return "failed", line


def outcome_of(case: Case, error: Exception) -> tuple[str, str]:
    """As `outcome`; another's library that cannot do a case does not support it, and its words are the reason."""
    status, reason = outcome(error)
    peer = kernels.get(case.operator, case.variant).compiler in PEERS
    return ("unsupported", reason) if peer and status == "failed" else (status, reason)


def unsupported(case: Case, target: str) -> str | None:
    return kernels.get(case.operator, case.variant).supports(case.problem, target)


def compile_case(case: Case, target: str, run: Path) -> tuple[Compiled, Tables]:
    """Compiles a case for `target`; returns it with its rows for "compiled" and "launches".

    Raises:
      Refusal: where the variant does not support it, or an input of the program became a constant.
      Exception: whatever the variant or the compiler raises.
    """
    if reason := unsupported(case, target):
        raise Refusal("unsupported", reason)
    program = kernels.program(case.problem, case.variant)
    if not program.variant.is_jax:
        return _compile_hosted(case, program, target)
    compilation = compile_for(program.function, program.inputs, target)
    require_all_inputs(compilation.reading.parameters, program)
    module_sha256 = write_hlo(run, compilation.hlo)
    row, launches = predicted_rows(compilation)
    compiled = Compiled(case, program, compilation.executable, row["minimum_bytes"])
    key = {"case": case.slug, "target": target}
    return compiled, {
        "compiled": [{**row, **key, "module_sha256": module_sha256, "status": "ok"}],
        "launches": [{**launch, **key} for launch in launches],
    }


def _compile_hosted(case: Case, program: Program, target: str) -> tuple[Compiled, Tables]:
    """Compiles a variant that is no JAX program: "lower_s" is until there is a function, "compile_s" its first call,
    in which some compilers do their work."""
    start = time.perf_counter()
    hosted = _hosted(case, program, target)
    lower_s = time.perf_counter() - start
    inputs = hosted.place(jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), program.inputs))
    start = time.perf_counter()
    output_bytes = tree_bytes(hosted.block(hosted.call(*inputs)))
    compile_s = time.perf_counter() - start
    minimum_bytes = tree_bytes(program.inputs) + output_bytes
    row = {"case": case.slug, "target": target, "minimum_bytes": minimum_bytes, "lower_s": lower_s,
           "compile_s": compile_s, "status": "ok"}  # fmt: skip
    compiled = Compiled(case, program, hosted.call, minimum_bytes, hosted, output_bytes)
    return compiled, {"compiled": [row], "launches": []}


def _hosted(case: Case, program: Program, target: str) -> Hosted:
    variant = program.variant
    if variant.host is not None:
        return variant.host(case.problem, target)
    assert variant.compile_host is not None
    definition = kernels.operator(case.operator)
    arguments = definition.bind(case.problem, program.inputs) if program.prepare is None else program.inputs
    return Hosted.of_numpy(variant.compile_host(*arguments, **definition.keywords(case.problem)))


def require_all_inputs(found: int, program: Program) -> None:
    """Rule of measurement 2: parameters are runtime inputs, or the compiler would fold the kernel away.

    A backward pass may leave residuals of the forward pass unused: those are the variant's own choice.
    """
    if program.problem.pass_ == "backward":
        return
    wanted = len(jax.tree.leaves(program.inputs))
    if found != wanted:
        raise Refusal(
            "failed", f"the compiled program takes {found} of {wanted} inputs; the rest is unused or constant"
        )


def require_memory(needed_bytes: int, what: str) -> None:
    """Refuses what does not fit.

    Raises:
      Refusal: out_of_memory, with the figures.
    """
    available = available_bytes()
    if needed_bytes > MEMORY_SHARE * available:
        raise Refusal(
            "out_of_memory", f"{what} needs {needed_bytes / 1e6:.0f} MB; {available / 1e6:.0f} MB are available"
        )


def draw(case: Case) -> Oracle:
    """Draws the inputs of the problem.

    Raises:
      Refusal: where they do not fit into memory together with the float64 reference.
    """
    definition = kernels.operator(case.operator)
    definition.validate(case.problem)
    arguments = [jax.ShapeDtypeStruct(a.shape, jnp.dtype(a.dtype)) for a in definition.arguments(case.problem)]
    elements = sum(argument.size for argument in arguments)
    # The arrays, their copies in float64, and as much again for the reference and what it leaves in between.
    require_memory(tree_bytes(arguments) + 4 * 8 * elements, "checking against the float64 reference")
    return Oracle(case.problem, seed=0)


def inputs_of(program: Program, oracle: Oracle, hosted: Hosted | None = None) -> tuple:
    """The inputs of the compiled program, on the device: arrays of JAX, or of the framework that hosts it."""
    arrays = oracle.arrays_for(program)
    inputs = jax.jit(program.setup)(*arrays) if program.has_setup else program.setup(*arrays)
    if hosted:
        return hosted.place(inputs)
    return jax.block_until_ready(jax.tree.map(jnp.asarray, inputs))


def run_once(compiled: Compiled, inputs: tuple, device: str) -> Any:
    """What a case returns.

    Raises:
      Refusal: out_of_memory where it would not fit.
    """
    if device == "cpu":  # a GPU's allocator refuses by itself
        output_bytes, temporary_bytes = compiled.memory_bytes()
        require_memory(temporary_bytes + 2 * output_bytes, "running the program")
    return compiled.result(inputs)


def check(compiled: Compiled, inputs: tuple, oracle: Oracle, device: str) -> Error:
    """Runs a case once and compares it; raises as `run_once`. Benchmarks of commits to come call it by this name."""
    return oracle.check(compiled.program, run_once(compiled, inputs, device))


def digest_of(result: Any) -> str:
    """SHA-256 of the shapes, dtypes and values of a result: equal where two processes found the same, bit by bit."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(result)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def check_hard(compiled: Compiled, oracle: Oracle) -> Error | None:
    """The error on hard data; None for what is not tried on them: see `Oracle.hard` and `HARD_ELEMENTS`."""
    if oracle.arrays[0].size > HARD_ELEMENTS or oracle.hard is None:
        return None
    inputs = inputs_of(compiled.program, oracle.hard, compiled.hosted)
    return oracle.hard.check(compiled.program, compiled.result(inputs))


def check_interpreted(case: Case, oracle: Oracle) -> Error | None:
    """Checks a kernel that this CPU can only interpret; None where the problem is too large for that."""
    if oracle.arrays[0].size > kernels.get(case.operator, case.variant).interpreted_elements:
        return None
    program = kernels.program(case.problem, case.variant)
    return oracle.check(program, jax.jit(program.function)(*inputs_of(program, oracle)))
