"""Prints, as JSON, how far every variant of a divided problem is from float64 on eight forced CPU devices.

On data of mean 1e3 and deviation 1e-2, in float32: y, new statistics and each gradient, the distance over the largest
element.
"""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from normbench import kernels
from normbench.kernels.problem import Problem
from normbench.kernels.registry import MESH
from normbench.kernels.sharding import AXIS, division_of

jax.config.update("jax_enable_x64", True)
PROBLEMS = (
    Problem("batch_norm_training", (16, 5, 6, 8), "nhwc", pass_="forward_backward", context="batch8"),
    Problem("batch_norm_training", (16, 8, 5, 6), "nchw", pass_="forward_backward", context="batch8"),
    Problem("layer_norm", (3, 16, 64), "nlc", pass_="forward_backward", context="hidden8"),
    Problem("layer_norm", (3, 16, 64), "nlc", pass_="forward_backward", context="sequence8"),
    Problem("rms_norm", (3, 16, 64), "nlc", pass_="forward_backward", context="hidden8"),
    Problem("rms_norm", (3, 16, 64), "nlc", pass_="forward_backward", context="sequence8"),
    Problem("group_norm", (2, 8, 5, 6), "nchw", pass_="forward_backward", context="channels4",
            options=(("groups", 4),)),
)  # fmt: skip
MEAN = {"sums": 0.0}
"""Of the data, for a variant that cannot do with a mean far above the deviation."""


def drawn(problem, mean):
    generator = np.random.default_rng(0)
    found = []
    for argument in kernels.operator(problem.operator).arguments(problem):
        centre, spread = {"activation": (mean, 1e-2), "variance": (1.0, 0.1)}.get(argument.role, (0.5, 0.3))
        found.append((centre + spread * generator.standard_normal(argument.shape)).astype(np.float32))
    return found, generator.standard_normal(problem.shape).astype(np.float32)


@cache
def expected(problem, mean):
    """y and the gradients by the textbook formula in float64, whole, on one device."""
    function = kernels.program(replace(problem, context="alone"), "naive").function
    arrays, dy = drawn(problem, mean)
    return jax.jit(function)(tuple(a.astype(np.float64) for a in arrays), dy.astype(np.float64))


def distances(problem, variant, mean):
    arrays, dy = drawn(problem, mean)
    division = division_of(problem)
    program = kernels.program(problem, variant)
    mesh = Mesh(np.array(jax.devices()[: division.devices]), (AXIS,))
    lying = jax.tree.map(lambda spec: NamedSharding(mesh, spec.sharding.spec), program.inputs)
    outputs = jax.jit(program.function)(*jax.device_put((tuple(arrays), dy), lying))
    pairs = list(zip(jax.tree.leaves(outputs), jax.tree.leaves(expected(problem, mean)), strict=True))
    assert pairs[0][0].dtype == jnp.float32
    return [float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs]


if __name__ == "__main__":
    assert jax.device_count() == 8
    found = {}
    for problem in PROBLEMS:
        for variant in ("naive", *kernels.variants(problem.operator, (MESH,))):
            if kernels.get(problem.operator, variant).supports(problem, "h200") is None:
                key = f"{problem.operator} {problem.context} {problem.layout} {variant}"
                found[key] = distances(problem, variant, MEAN.get(variant, 1e3))
    print(json.dumps({"jax": jax.__version__, "distances": found}))
