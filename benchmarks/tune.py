"""Which blocks are fastest here? Times the candidates of the row kernels with a cold cache, and stores the best.

`python -m benchmarks.tune layer_norm --shape 8192x4096 --dtype bfloat16 --pass forward` writes results/tuning/ for the
GPU that is present; `--dry-run` says what it would time, and needs none.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from normbench.errors import UserError

HEURISTIC = "heuristic"
CALLS = 10
"""In one sample: their launches overlap with the enqueuing of the next."""


def candidates(operator: str, shape: tuple[int, int], dtype: str, pass_: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The key of the problem, and by name the fields of each configuration that differs from the heuristic's."""
    from kernels.pallas.config import MOST_WARPS
    from kernels.pallas.rows_config import backward_config, forward_config
    from kernels.pallas.tuning import problem_key

    forward = pass_ == "forward"
    vectors = 2 if operator == "layer_norm" else 1
    config = forward_config(*shape, dtype) if forward else backward_config(*shape, dtype, vectors, affine=True)
    found: dict[str, dict[str, Any]] = {HEURISTIC: {}}
    for warps in (config.warps // 2, config.warps, config.warps * 2):
        for block_rows in (config.block_rows // 2, config.block_rows, config.block_rows * 2):
            if not 1 <= warps <= MOST_WARPS or block_rows < 1 or not config.resident:
                continue
            fields: dict[str, Any] = {"warps": warps, "block_rows": block_rows}
            if forward:
                fields["programs"] = -(-config.rows // block_rows)
            if any(getattr(config, name) != value for name, value in fields.items()):
                found[f"{warps} warps, {block_rows} rows"] = fields
    return problem_key(f"{operator}.{pass_}", *shape, dtype), found


def tune(operator: str, shape: tuple[int, int], dtype: str, pass_: str, rounds: int) -> str:
    """Times the candidates and stores the best; returns a sentence.

    Raises:
      UserError: where there is no GPU.
    """
    import jax

    from benchmarks.environment import environment
    from kernels.pallas import tuning

    if jax.default_backend() != "gpu":
        raise UserError(f"tuning times kernels on a GPU; the device here is {jax.default_backend()}: try --dry-run")
    key, fields = candidates(operator, shape, dtype, pass_)
    runs = _runs(operator, shape, dtype, pass_, key, fields)
    choice = tuning.search(key, {name: (fields[name], run) for name, run in runs.items()}, HEURISTIC, rounds)
    device = jax.devices()[0].device_kind
    path = tuning.store(device, [choice], environment(devices=True))
    return f"{tuning.note(device, key)}; {len(fields) - len(runs)} candidates were wrong or failed; stored in {path}"


def _runs(
    operator: str, shape: tuple[int, int], dtype: str, pass_: str, key: str, fields: dict[str, dict[str, Any]]
) -> dict[str, Callable[[], float]]:
    """By name a function that returns seconds per call; candidates that do not compile, or are wrong, are left out."""
    import jax

    import kernels
    from benchmarks.accuracy import Oracle
    from benchmarks.clocks import Instruments, pipelined
    from benchmarks.memory import Rotation, Sweep, copies, last_level_cache_bytes, tree_bytes
    from kernels.pallas.tuning import trying

    problem = kernels.Problem(operator, shape, "nc", dtype, pass_=pass_)
    program = kernels.program(problem, "pallas_triton")
    oracle = Oracle(problem, 0)
    inputs = jax.jit(program.setup)(*jax.tree.map(jax.numpy.asarray, oracle.arrays_for(program)))
    cache_bytes = last_level_cache_bytes("gpu")
    count = max(CALLS, Rotation.count(tree_bytes(inputs), cache_bytes, 2**34))
    rotation = Rotation(copies(inputs, count), cache_bytes, Sweep(cache_bytes))

    def timed(call: Callable[..., Any]) -> float:
        return pipelined(call, rotation.take(CALLS), Instruments()).seconds

    runs: dict[str, Callable[[], float]] = {}
    for name, chosen in fields.items():
        try:
            with trying(key, chosen):
                compiled = jax.jit(lambda *arrays: program.function(*arrays)).lower(*inputs).compile()
            if oracle.check(program, compiled(*inputs)).ok:
                runs[name] = partial(timed, compiled)
        except jax.errors.JaxRuntimeError as error:
            if name == HEURISTIC:
                raise
            print(f"{name}: {error}".splitlines()[0], file=sys.stderr)
    return runs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("operator", choices=("layer_norm", "rms_norm"))
    parser.add_argument("--shape", default="8192x4096", help="rows x columns (default: %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--pass", dest="pass_", default="forward", choices=("forward", "backward"))
    parser.add_argument("--rounds", type=int, default=21, help="samples of each candidate (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="list the candidates, and time nothing")
    options = parser.parse_args(arguments)
    try:
        shape = _shape(options.shape)
        if options.dry_run:
            key, found = candidates(options.operator, shape, options.dtype, options.pass_)
            print("\n".join([key, *(f"  {name}" for name in found)]))
        else:
            print(tune(options.operator, shape, options.dtype, options.pass_, options.rounds))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _shape(text: str) -> tuple[int, int]:
    sizes = text.split("x")
    if len(sizes) != 2 or not all(size.isdigit() and int(size) for size in sizes):
        raise UserError(f"shape {text!r} is not allowed; allowed: rows x columns, e.g. 8192x4096")
    return int(sizes[0]), int(sizes[1])


if __name__ == "__main__":
    sys.exit(main())
