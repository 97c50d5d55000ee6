"""Which blocks are fastest here? Times the candidates of a Pallas Triton kernel with a cold cache, and stores the best.

`python -m normbench.study.tune.search layer_norm --shape 8192x4096 --dtype bfloat16 --pass forward` writes
results/tuning/ for the GPU that is present; `--dry-run` says what it would time, and needs none.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from normbench.errors import UserError

if TYPE_CHECKING:
    from normbench.kernels.problem import Problem

VARIANT = "pallas_triton"
OPERATORS = ("batch_norm", "batch_norm_training", "layer_norm", "rms_norm", "group_norm", "instance_norm")
LAYOUTS = {2: "nc", 3: "nlc", 4: "nchw"}
"""Taken where none is named, by rank."""
HEURISTIC = "heuristic"
CALLS = 10
"""In one sample: their launches overlap with the enqueuing of the next."""


def candidates(problem: "Problem") -> dict[str, dict[str, dict[str, Any]]]:
    """By the key of each kernel that the problem takes, and by name, the fields in which a candidate differs from the
    heuristic's configuration.

    Raises:
      UserError: for a problem that makes no sense, or that the kernels do not take.
    """
    import jax

    from normbench import kernels
    from normbench.kernels.pallas import tuning
    from normbench.study.tune.neighbours import neighbours

    program = kernels.program(problem, VARIANT)
    if reason := program.variant.supports(problem, "gpu"):
        raise UserError(f"{VARIANT} does not take this {problem.operator}: {reason}")
    with tuning.asked() as asked:
        jax.eval_shape(program.function, *program.inputs)
    own = {key: config for key, config in asked.items() if f".{problem.pass_} " in key}  # a gradient traces both passes
    return {key: {HEURISTIC: {}, **neighbours(config)} for key, config in own.items()}


def tune(problem: "Problem", rounds: int) -> list[str]:
    """Times the candidates of each kernel and stores the best; returns sentences.

    Raises:
      UserError: where there is no GPU, and as `candidates`.
    """
    import jax

    from normbench.study.machine.environment import environment
    from normbench.study.tune import choices

    found = candidates(problem)
    if jax.default_backend() != "gpu":
        raise UserError(f"tuning times kernels on a GPU; the device here is {jax.default_backend()}: try --dry-run")
    device, told = jax.devices()[0].device_kind, []
    for key, fields in found.items():
        runs = _runs(problem, key, fields)
        choice = choices.search(key, {name: (fields[name], run) for name, run in runs.items()}, HEURISTIC, rounds)
        path = choices.store(device, [choice], environment(devices=True))
        wrong = len(fields) - len(runs)
        told.append(f"{choices.note(device, key)}; {wrong} candidates were wrong or failed; stored in {path}")
    return told


def _runs(problem: "Problem", key: str, fields: dict[str, dict[str, Any]]) -> dict[str, Callable[[], float]]:
    """By name a function that returns seconds per call; candidates that do not compile, or are wrong, are left out."""
    import jax

    from normbench import kernels
    from normbench.kernels.pallas.tuning import trying
    from normbench.study.check.accuracy import Oracle
    from normbench.study.clocks.host import Instruments, pipelined
    from normbench.study.clocks.memory import Rotation, Sweep, copies, last_level_cache_bytes, tree_bytes

    program = kernels.program(problem, VARIANT)
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
    options = _parser().parse_args(arguments)
    try:
        problem = _problem(options)
        if options.dry_run:
            for key, found in candidates(problem).items():
                print("\n".join([key, *(f"  {name}" for name in found)]))
        else:
            print("\n".join(tune(problem, options.rounds)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m normbench.study.tune.search", description=__doc__)
    parser.add_argument("operator", choices=OPERATORS)
    parser.add_argument("--shape", default="8192x4096", help="of x, in the order of the layout (default: %(default)s)")
    parser.add_argument("--layout", help="of x (default, by the rank of the shape: nc, nlc, nchw)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32", "float64"))
    parser.add_argument("--groups", type=int, default=32, help="of group_norm (default: %(default)s)")
    parser.add_argument(
        "--pass", dest="pass_", default="forward", choices=("forward", "backward"), help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=21, help="samples of each candidate (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="list the candidates, and time nothing")
    return parser


def _problem(options: argparse.Namespace) -> "Problem":
    from normbench.kernels.problem import LAYOUTS as KNOWN
    from normbench.kernels.problem import Problem

    shape = _shape(options.shape)
    layout = options.layout or LAYOUTS[len(shape)]
    if layout not in KNOWN or len(layout) != len(shape):
        allowed = ", ".join(name for name in KNOWN if len(name) == len(shape))
        raise UserError(f"layout {layout!r} is not allowed for the shape {options.shape}; allowed: {allowed}")
    settings = (("groups", options.groups),) if options.operator == "group_norm" else ()
    return Problem(options.operator, shape, layout, options.dtype, pass_=options.pass_, options=settings)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    if len(sizes) not in LAYOUTS or not all(size.isdigit() and int(size) for size in sizes):
        raise UserError(f"shape {text!r} is not allowed; allowed: two to four sizes, e.g. 8192x4096")
    return tuple(map(int, sizes))


if __name__ == "__main__":
    sys.exit(main())
