"""Runs the programs of a check on the device of this process, and compares them with float64.

What has been right once is launched again: a barrier or a fence that is missing shows as other bits, now and then.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench import kernels
from normbench.kernels.common.targets import ADA, AMPERE, HOPPER
from normbench.study.check.accuracy import Oracle, compare
from normbench.study.check.distance import Error
from normbench.study.hardware.checks import DIRTY, FAR, HARD, MOSAIC, SLICED, TOGETHER, Case

LAUNCHES = 10
"""Of each program, whose results have the same bits."""
IN_A_GRAPH = 6
"""XLA makes a graph of five launches or more (`xla_gpu_graph_min_graph_size`)."""
SAMPLED = 64
"""Rows that are compared where the host could not hold them all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case.

    Attributes:
      worst: the largest error over what is allowed; None where there was nothing to compare.
      trouble: what was wrong, in words; empty where it was right.
      not_here: why this device cannot run it; empty where it did.
    """

    worst: float | None
    trouble: str = ""
    not_here: str = ""


def judged(case: Case, launches: int = LAUNCHES) -> Outcome:
    """Compiles a case, launches it `launches` times at least, and says whether it was right each time."""
    if reason := _not_here(case):
        return Outcome(None, not_here=reason)
    if case.how == FAR:
        return _far(case)
    oracle = Oracle(case.problem, 0, is_hard=case.how == HARD)
    program = kernels.program(case.problem, case.variant)
    arrays = jax.tree.map(jnp.asarray, oracle.arrays_for(program))
    inputs = jax.block_until_ready(jax.jit(program.setup)(*arrays))
    error, same = _launch(case, program, inputs, launches, lambda result: oracle.check(program, result))
    if not error.ok:
        return Outcome(error.worst, error.reason)
    return Outcome(error.worst, same)


def _not_here(case: Case) -> str:
    """Why the device of this process cannot run a case; a CPU, which interprets them, can but for those in eight bits,
    whose rounding is the device's."""
    device = jax.devices()[0]
    told = getattr(device, "compute_capability", None)
    if told is None:
        return "" if case.how != FAR else f"a {device.platform} interprets it, and is too slow"
    capability = tuple(map(int, str(told).split(".")[:2]))
    least = HOPPER if case.variant == MOSAIC else ADA if case.problem.option("fp8_scale", None) else AMPERE
    if capability < least:
        return f"compute capability {told}; {case.variant} needs {'.'.join(map(str, least))} for it"
    return ""


def _launch(
    case: Case, program: kernels.Program, inputs: tuple, launches: int, judge: Callable[[Any], Error]
) -> tuple[Error, str]:
    """The error of the first result, and what differs in the later ones."""
    function, _ = as_asked(case.how, program.function, inputs)
    given = _given(case.how, inputs)
    compiled = jax.jit(function).lower(*given).compile()
    if case.how == DIRTY:
        jax.block_until_ready(compiled(*jax.tree.map(lambda array: jnp.full_like(array, jnp.nan), given)))
    first = compiled(*given)
    results = first if case.how == TOGETHER else [first]
    error = max((judge(result) for result in results), key=lambda error: error.worst)
    expected = jax.tree.map(np.asarray, first)
    # Each launch has inputs of its own, so that what it reads lies elsewhere, and all are under way together.
    others = [compiled(*jax.tree.map(jnp.copy, given)) for _ in range(launches - 1)]
    for number, other in enumerate(others, 2):
        if not _same_bits(expected, other):
            return error, f"launch {number} of {launches} has other bits than the first"
    return error, ""


def as_asked(how: str, function: Callable, inputs: tuple) -> tuple[Callable, tuple]:
    """The function that is compiled, and the abstract arrays that it takes."""
    if how == SLICED:
        x, *others = inputs
        longer = jax.ShapeDtypeStruct((x.shape[0] + 1, *x.shape[1:]), x.dtype)
        return lambda longer, *others: function(longer[1:], *others), (longer, *others)
    if how == TOGETHER:
        return lambda *sets: [function(*one) for one in sets], (inputs,) * IN_A_GRAPH
    return function, inputs


def _given(how: str, inputs: tuple) -> tuple:
    """The arrays that go with `as_asked`."""
    if how == SLICED:
        return jnp.concatenate([inputs[0][:1], inputs[0]]), *inputs[1:]
    return tuple(jax.tree.map(jnp.copy, inputs) for _ in range(IN_A_GRAPH)) if how == TOGETHER else inputs


def _same_bits(expected: Any, found: Any) -> bool:
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    return all(one.tobytes() == np.asarray(other).tobytes() for one, other in pairs)


def _far(case: Case) -> Outcome:
    """Of a tensor that is made on the device, the first rows, the last ones, and some between them."""
    problem, random = case.problem, np.random.default_rng(0)
    rows, columns = problem.shape
    program = kernels.program(problem, case.variant)
    small = dataclasses.replace(problem, shape=(SAMPLED, columns))
    parameters = Oracle(small, 0).arrays[1:]
    try:
        x = jax.random.normal(jax.random.key(0), problem.shape, jnp.dtype(problem.dtype))
        y = jax.block_until_ready(jax.jit(program.function)(x, *map(jnp.asarray, parameters)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return Outcome(None, not_here="too little memory on the device")
        raise
    some = np.sort(random.choice(rows, SAMPLED, replace=False))
    some[:2], some[-2:] = (0, 1), (rows - 2, rows - 1)
    exact = kernels.reference(small, [np.asarray(array).astype(np.float64) for array in (x[some], *parameters)])
    found = compare(y[some], exact)
    return Outcome(found.worst, "" if found.ok else found.reason)


def line_of(name: str, outcomes: Sequence[Outcome]) -> str:
    """A line about a check."""
    ran = [one for one in outcomes if not one.not_here]
    if bad := [one.trouble for one in ran if one.trouble]:
        return f"FAILED   {name}: {len(bad)} of {len(outcomes)} programs; {bad[0]}"
    if not ran:
        return f"not here {name}: {outcomes[0].not_here}"
    left = f", {len(outcomes) - len(ran)} not for this device" if len(ran) < len(outcomes) else ""
    worst = max(one.worst or 0.0 for one in ran)
    return f"right    {name}: {len(ran)} programs{left}; largest error {worst:.2f} of what is allowed"
