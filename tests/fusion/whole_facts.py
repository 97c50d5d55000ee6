"""Prints, as JSON, what the reader and the text counter say of the whole programs; run under every JAX at hand."""

import json

from normbench import explain
from tests.fusion.programs import programs
from tests.fusion.text_counter import Count

COLUMNS = (
    "kind", "ops", "source", "read_bytes", "write_bytes", "repetitions", "repetitions_known", "branch", "grid",
)  # fmt: skip


def fact(function, arguments, target):
    report = explain(function, *arguments, target=target)
    reading, count = report.compilation.reading, Count(report.hlo)
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
        "copies": count.copies(),
        "stacked": count.stacked(),
    }


def main():
    facts = {}
    for name, function, arguments in programs():
        for target in ("h200", "cpu"):
            try:
                facts[f"{name} on {target}"] = fact(function, arguments, target)
            except Exception as error:
                facts[f"{name} on {target}"] = {"error": f"{type(error).__name__}: {error}"[:500]}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
