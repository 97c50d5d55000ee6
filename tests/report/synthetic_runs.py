"""Small runs made up for these tests: their numbers are invented, and say nothing about any machine."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from normbench.run_folder.parts import encode_part
from normbench.run_folder.seal import seal_run, write_info
from normbench.schema import SCHEMA_VERSION, TABLES

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]

_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
VARIANTS = {
    "batch_norm": ("naive", "folded", "prefolded", "pallas_triton", "naive_promoting"),
    "conv_bn": ("unfused", "folded", "prefolded"),
}
SPEED = {"naive": 1.0, "unfused": 1.0, "folded": 0.9, "prefolded": 0.8, "naive_promoting": 1.4, "pallas_triton": 0.7}
UGLY = "it said: </script><img src=x onerror=alert(1)> & \"'\u2028 \x07 \ufffe ≤ 日本 \udcff".replace("\udcff", "?")


def case_row(operator: str, variant: str, shape: str = "8x16x32x32", dtype: str = "float32", **columns: Any) -> dict:
    """A row of "cases"; its slugs have the real form."""
    options = "k3-o64-s1" if operator == "conv_bn" else ""
    row = {
        "operator": operator,
        "variant": variant,
        "baseline": variant == VARIANTS[operator][0],
        "pass": "forward",
        "context": "alone",
        "shape": shape,
        "layout": "nchw",
        "dtype": dtype,
        "param_dtype": "float32",
        "options": options,
        "model": "made up",
        "elements": int(np.prod([int(size) for size in shape.split("x")])),
        **columns,
    }
    short = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}
    fields = [row["operator"], row["context"], row["shape"], row["layout"], short[dtype], "f32", row["pass"]]
    row["problem"] = ".".join([*fields, *([row["options"]] if row["options"] else [])])
    row["case"] = f"{row['problem']}.{variant}"
    return row


def compiled_rows(case: dict, target: str) -> tuple[dict, Rows]:
    """A compiled program with one launch more for a baseline convolution, and its launches."""
    count = 2 if case["variant"] in ("unfused", "naive_promoting") else 1
    size = {"float32": 4, "float64": 8}.get(case["dtype"], 2) * case["elements"]
    launches = [
        {
            "case": case["case"],
            "target": target,
            "index": index,
            "name": f"loop_fusion.{index}",
            "kind": "loop",
            "ops": "multiply,add",
            "source_ops": "mul,add",
            "read_bytes": size,
            "write_bytes": size,
            "grid": "1024x1x1",
            "block": "128x1x1",
            "load_bytes": 16,
            "store_bytes": 16,
            "bytes_s": 5e-4,
            "predicted_s": 1e-3,
            "predicted_low_s": 9e-4,
            "predicted_high_s": 1.2e-3,
            "predicted_from": "ptx and sass",
            "bound": "40 blocks on 132 multiprocessors; waits on each store, 205 times of a block",
            "occupancy": 0.5,
            "waves": 0.3,
            "bytes_in_flight": 8192,
            "refusals": json.dumps(["not fused with transpose: the layouts differ"] if index else []),
        }
        for index in range(count)
    ]
    row = {
        "case": case["case"],
        "target": target,
        "launches": count,
        "bytes": 2 * count * size,
        "minimum_bytes": 2 * size,
        "streaming_minimum_bytes": 2 * size,
        "traffic_ratio": float(count),
        "xla_bytes": 2 * count * size,
        "flops": 2.0 * case["elements"],
        "peak_bytes": 2 * size,
        "lower_s": 0.05,
        "compile_s": 0.25,
        "read_s": 0.1,
        "bytes_s": 5e-4,
        "predicted_s": 1e-3,
        "predicted_low_s": 9e-4,
        "predicted_high_s": 1.2e-3,
        "hints": json.dumps(["the output is wider than x"] if case["variant"] == "naive_promoting" else []),
        "hlo_sha256": "0" * 64,
        "status": "ok",
    }
    return row, launches


def timing_rows(case: dict, device: str = "cpu", seconds: float | None = None, **columns: Any) -> Rows:
    """Samples of three processes with a cold and a warm cache, around a time that is proportional to the elements."""
    generator = np.random.default_rng(zlib.crc32(case["case"].encode()))
    base = seconds or 1e-9 * case["elements"] * SPEED[case["variant"]] + 5e-6
    rows = []
    for stage in ("call", "prepare") if case["variant"] == "prefolded" else ("call",):
        for cache, factor in (("cold", 1.3), ("warm", 1.0)):
            for process in range(3):
                for sample in range(12):
                    noise = float(generator.lognormal(0.0, 0.02))
                    rows.append(
                        {
                            "case": case["case"],
                            "device": device,
                            "stage": stage,
                            "clock": "wall",
                            "cache": cache,
                            "process": process,
                            "sample": sample,
                            "seconds": base * factor * noise * (4.0 if stage == "prepare" else 1.0),
                            "calls": 10,
                            "page_faults": 0,
                            "outlier": False,
                            "stop": "noise below 2 %",
                            "status": "ok",
                            **columns,
                        }
                    )
    return rows


def accuracy_row(case: dict, device: str = "cpu", **columns: Any) -> dict:
    ulp = {"folded": 3.0, "prefolded": 2.5}.get(case["variant"], 1.5)
    row = {"case": case["case"], "device": device, "max_abs": 1e-6, "max_rel": 1e-6, "max_ulp": ulp, "status": "ok"}
    return {**row, **columns}


def trouble(case: dict, status: str, reason: str | None, where: str = "cpu", table: str = "timings") -> dict:
    """A row that says why there is nothing else."""
    if table == "compiled":
        return {"case": case["case"], "target": where, "status": status, "reason": reason}
    return {
        "case": case["case"],
        "device": where,
        "stage": "call",
        "clock": "wall",
        "cache": "cold",
        "status": status,
        "reason": reason,
    }


def full_tables(
    shapes: tuple[str, ...] = ("8x16x32x32", "1x64x56x56"),
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    targets: tuple[str, ...] = ("cpu", "h200"),
) -> Tables:
    """Both operators in all their variants; Pallas is not supported on the CPU."""
    tables: Tables = {name: [] for name in TABLES}
    for operator, variants in VARIANTS.items():
        for shape in shapes:
            for dtype in dtypes:
                for variant in variants:
                    _add(tables, case_row(operator, variant, shape, dtype), targets)
    return tables


def _add(tables: Tables, case: dict, targets: tuple[str, ...]) -> None:
    tables["cases"].append(case)
    for target in targets:
        if target == "cpu" and case["variant"] == "pallas_triton":
            reason = "a Triton kernel does not run on a CPU"
            tables["compiled"].append(trouble(case, "unsupported", reason, "cpu", "compiled"))
            tables["timings"].append(trouble(case, "unsupported", reason))
            tables["accuracy"].append(accuracy_row(case))
            continue
        compiled, launches = compiled_rows(case, target)
        tables["compiled"].append(compiled)
        tables["launches"] += launches
        if target == "cpu":
            tables["timings"] += timing_rows(case)
            tables["accuracy"].append(accuracy_row(case))


def write_run(path: Path, tables: Tables, status: str = "complete", **info: Any) -> Path:
    """Writes a run folder in the form of the schema: Parquet tables, or parts where it is not complete."""
    path.mkdir(parents=True, exist_ok=True)
    targets = list(dict.fromkeys(row["target"] for row in tables.get("compiled", ())))
    document = {
        "schema_version": SCHEMA_VERSION,
        "run_id": path.name,
        "status": status,
        "preset": "made-up",
        "command": "normbench study --preset made-up",
        "targets": targets,
        "environment": {"normbench": "0.1.0", "jax": "0.10.2", "host": {"cores": 2, "model": "a made-up <processor>"}},
        "config": {"processes": 3},
        "created": "2024-01-01T00:00:00+00:00",
        "cost": {"study_s": 12.0},
        **info,
    }
    write_info(path, document)
    if status == "complete":
        for name, columns in TABLES.items():
            schema = pa.schema([(column, _ARROW[kind]) for column, kind in columns.items()])
            pq.write_table(pa.Table.from_pylist(tables.get(name, []), schema=schema), path / f"{name}.parquet")
        seal_run(path, document)
    else:
        write_part(path, "cases", {"cases": tables.get("cases", [])})
        write_part(path, "rest", {name: rows for name, rows in tables.items() if name != "cases"})
    return path


def seal_again(path: Path, **info: Any) -> Path:
    """Has a run that was changed on purpose, or is given other fields of run.json, be as it was written."""
    document = {**json.loads((path / "run.json").read_text()), **info}
    (seal_run if document["status"] == "complete" else write_info)(path, document)
    return path


def write_part(path: Path, unit: str, tables: Tables) -> Path:
    file = path / "parts" / f"{unit}.json.zst"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(encode_part({"unit": unit, "tables": tables}))
    return file
