"""Prints, as JSON, how far each variant on two devices, its batch cut between them, is from itself on one, in the
largest element of each output."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from normbench import kernels
from normbench.kernels.problem import Problem
from normbench.study.check.accuracy import Oracle
from tests.kernels.norm_cases import variants

PROBLEMS = (
    Problem("batch_norm", (4, 3, 5, 2)),
    Problem("batch_norm", (4, 5, 2, 3), "nhwc"),
    Problem("conv_bn", (4, 4, 6, 6), context="silu", options=(("features", 6), ("groups", 2))),
    Problem("conv_bn", (4, 6, 6, 4), "nhwc", options=(("bias", True), ("stride", 2))),
    Problem("layer_norm", (4, 5, 16), "nlc", context="residual"),
    Problem("batch_norm_training", (4, 3, 5, 2), context="residual"),
    Problem("batch_norm_training", (4, 3, 5, 2)),
    Problem("batch_norm_training", (4, 5, 2, 3), "nhwc"),
    Problem("layer_norm", (4, 16), "nc"),
    Problem("rms_norm", (4, 16), "nc"),
    Problem("group_norm", (4, 6, 5, 2), options=(("groups", 3),)),
    Problem("group_norm", (4, 5, 2, 6), "nhwc", options=(("groups", 3),)),
    Problem("instance_norm", (4, 3, 5, 2)),
    Problem("local_response_norm", (4, 6, 5, 2)),
)


def distance(problem: Problem, variant: str) -> float:
    problem = dataclasses.replace(problem, pass_="forward_backward")
    program = kernels.program(problem, variant)
    inputs = program.setup(*jax.tree.map(jnp.asarray, Oracle(problem, 0).arrays_for(program)))
    mesh = Mesh(np.array(jax.devices()), ("batch",))

    def place(array):
        parts = PartitionSpec("batch") if array.shape == problem.shape else PartitionSpec()
        return jax.device_put(array, NamedSharding(mesh, parts))

    one, two = jax.jit(program.function)(*inputs), jax.jit(program.function)(*jax.tree.map(place, inputs))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return max(_relative(np.asarray(a), np.asarray(b)) for a, b in pairs)


def _relative(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one - two).max() / max(np.abs(one).max(), np.finfo(np.float32).tiny))


if __name__ == "__main__":
    assert len(jax.devices()) == 2
    cases = [(problem, variant) for problem in PROBLEMS for variant in variants(problem.operator)]
    print(json.dumps({f"{p.operator} {p.context} {p.layout} {v}": distance(p, v) for p, v in cases}))
