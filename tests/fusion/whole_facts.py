"""Prints, as JSON, what the reader and the text counter say of the whole programs; run under every JAX at hand.

With an argument, for a CPU only of `NAMED`.
"""

import json
import sys

import jax

from normbench import explain
from tests.fusion.programs import programs, with_own_kernel
from tests.fusion.text_hints import Labelled, hints, plain_copies

COLUMNS = (
    "kind", "ops", "source", "read_bytes", "write_bytes", "repetitions", "repetitions_known", "branch", "grid",
)  # fmt: skip
NAMED = {
    "llama_scanned", "llama_unrolled", "adamw_state_first_donated", "adamw_weights_first_donated", "captured",
    "handed_through", "table_and_zeros",
}  # fmt: skip
"""Programs of whose text on a CPU the tests know something."""


def fact(function, arguments, target):
    report = explain(function, *arguments, target=target)
    reading, count = report.compilation.reading, Labelled(report.hlo)
    rows = report.compilation.launch_rows(assembled=False)
    return {
        "read": {
            "launches": len(reading.launches),
            "executed": reading.executed_launches,
            "bytes": reading.bytes,
            "minimum": reading.minimum_bytes,
            "flops": sum(row["flops"] or 0 for row in rows),
        },
        "counted": {
            "launches": len(count.launches),
            "executed": count.executed,
            "bytes": count.bytes,
            "minimum": count.minimum,
            "flops": count.flops,
        },
        "between": reading.least_between_barriers_bytes,
        "xla_bytes": reading.xla_bytes,
        "flops": reading.flops,
        "refusals": [[one.producer, list(one.consumers)] for one in reading.refusals],
        "edges": sorted(count.edges()),
        "rows": [{column: row[column] for column in COLUMNS} for row in rows],
        "hints": list(reading.hints),
        "copies": sum(launch.bytes for launch in plain_copies(count)),
        "due": [[one.head, one.says] for one in hints(report.hlo, unoptimised(function, arguments, target))],
    }


def unoptimised(function, arguments, target):
    """The text of what JAX hands to the compiler, where a hint rests on it; a kernel for Triton alone reduces no rows,
    and not every JAX lowers it without a GPU."""
    if target == "cpu" or function is with_own_kernel:
        return None
    jitted = function if hasattr(function, "trace") else jax.jit(function)
    return jitted.trace(*arguments).lower(lowering_platforms=("cuda",)).compiler_ir("hlo").as_hlo_text()


def main():
    facts = {}
    for name, function, arguments in programs():
        for target in ("h200", "cpu") if len(sys.argv) == 1 or name in NAMED else ("h200",):
            try:
                facts[f"{name} on {target}"] = fact(function, arguments, target)
            except Exception as error:
                facts[f"{name} on {target}"] = {"error": f"{type(error).__name__}: {error}"[:500]}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
