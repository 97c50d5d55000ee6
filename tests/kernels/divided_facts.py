"""Prints, as JSON, what divided norms send, compiled for H200s that are not there."""

import json
from dataclasses import replace

from normbench import explain, kernels
from tests.kernels.test_divided import BATCH, GROUPS, ROWS, WHOLE

PROBLEMS = (BATCH, replace(BATCH, shape=(512, 14, 14, 64), context="batch64"), ROWS, WHOLE, GROUPS)
VARIANTS = ("naive", "sharded", "sums", "merged", "pallas_triton")


def fact(problem, variant):
    program = kernels.program(problem, variant)
    report = explain(program.function, *program.inputs, target="h200")
    sent = report.collectives[["collective", "group_size", "wire_bytes"]].values.tolist()
    return {"sent": sent, "bytes": report.bytes, "kinds": report.launches["kind"].tolist()}


def facts(problem):
    return {
        name: fact(problem, name)
        for name in kernels.variants(problem.operator, ("xla", "mesh"))
        if name in VARIANTS and kernels.get(problem.operator, name).supports(problem, "h200") is None
    }


if __name__ == "__main__":
    found = {}
    for problem in PROBLEMS:
        for pass_ in ("forward", "forward_backward") if problem.context in ("batch8", "hidden8") else ("forward",):
            found[f"{problem.context} {pass_}"] = facts(replace(problem, pass_=pass_))
    print(json.dumps(found))
