"""Norms divided between devices, compiled without any of them: what is sent, by whom it is made, and how it could be.

`python -m analysis.pages.sharding` compiles the preset `sharding` for H200s that are not there, and writes
results/sharding/h200.csv and docs/sharding.md. `--from-results` writes the page alone, from what was compiled before.
"""

import csv
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "sharding.md"
RESULTS = ROOT / "results" / "sharding" / "h200.csv"
TARGET = "h200"
COLUMNS = (
    "jax", "case", "step", "launches", "bytes", "minimum_bytes", "collectives", "wire_bytes", "collectives_predicted_s",
    "predicted_s", "predicted_low_s", "predicted_high_s", "reason",
)  # fmt: skip
QUESTIONS = {
    "batch8": "## The training batch norm, its batch over 8 devices",
    "batch64": "## The training batch norm, its batch over 64 devices",
    "hidden8": "## Rows divided between 8 devices",
    "sequence8": "## Rows that lie whole on one of 8 devices, gathered afterwards",
    "channels4": "## Group norm with its channels over 4 devices",
}
STEPS = {
    "loss": "the gradient of a loss of y",
    "checkpoint": "the gradient of a loss of y, y computed again for it (`jax.checkpoint`)",
}
"""Programs as in training, where dy comes after y."""
IN_STEPS = ("naive", "sums", "merged")

HEAD = """# Norms over many GPUs, compiled without any

In training the arrays of a norm are divided between devices: the batch (data parallel), the hidden dimension (tensor
parallel), the sequence (sequence parallel), the channels. XLA compiles such a program for 8 or 64 absent H200s as for
one, and what comes out is the program of one device with its collectives:

```python
mesh = normbench.mesh(8, ("data", "model"), target="h200")  # 2 x 4, none of them there
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "model"))
x = jax.ShapeDtypeStruct((8192, 4096), "bfloat16", sharding=sharding)
report = normbench.explain(rms_norm, x, weight, target="h200")
report.collectives  # kind, axes, group size, bytes on the wire, what runs meanwhile, predicted seconds
```

A mesh of one's own devices (CPU devices that are forced with `--xla_force_host_platform_device_count=8`, say),
`in_shardings`, `out_shardings`, `with_sharding_constraint` and `jax.shard_map` are kept as they are. A hand-written
kernel has to stand inside of `jax.shard_map`, else it is refused; from JAX 0.11 on its mesh has to say what its devices
are, as that of `normbench.mesh` does.

## How to read the tables
Everything is of one device. **Wire** is what a device sends by a ring, 2 (n - 1)/n of the array for an all-reduce,
(n - 1)/n for an all-gather and a reduce-scatter; it is never added to bytes of memory. Where XLA makes an all-reduce of
its own in one shot, within a machine, each device sends (n - 1) times the array: `report.collectives` has both.
**Predicted** is a prediction, with the range that the model's known error leaves, never a measurement: for collectives
NCCL's own model of its algorithms, with NVLink inside of a machine of eight and a network card of 400 Gb/s for each
device beyond (`normbench/predict/links.py` has the figures with their sources; the network of the A100 and of the B200
is unchecked). No collective was compared with a measured one, so its range is wide: half to three times. Sums in the
switch (NVLink SHARP) are not modelled.

The variants: `naive` (the textbook formula), `one_pass` and `custom_vjp` are written for one device, and XLA divides
them; `sharded` is the textbook formula in `jax.shard_map`; `sums` adds sum(x) and sum(x²) in one all-reduce, which
cancels from a mean of 1e3 deviations on; `merged` sends a pivot, a mean and a sum of squares of each device in one
all-gather and merges them by the rule of Chan, Golub and LeVeque, and is right to a few roundings whatever the mean;
its gradient is by hand and sends both of its sums in one all-gather, those of `sums` in one all-reduce.
`pallas_triton` is a kernel by hand of the part of each device. A case that is not in a table is refused, with the
reason below it.
"""
FOUND = """## What was found

* **One collective in place of two.** {batch} of batch norm over 8 devices are merged into {merged}: {saved:.0f} MB
  fewer of memory, as each device reads x once for its statistics, and it is right at a mean of 1e5 deviations, where
  `sums` and `one_pass` are void and the textbook formula keeps two or three digits. Rows of layer norm: {rows} become
  {rows_merged}.
* **XLA joins what does not wait.** Forward and backward together, the textbook formula's four become {joined}, as the
  sum of dy waits for nothing. The backward sums of `merged`, each device's around a mean of its own, and of `sums` wait
  for nothing that is received: the one takes {joined_merged} for both passes, the other {joined_sums}. So
  do those of `custom_vjp`, around a pivot that is known before x is read: {pivoted}, as far as the running mean is
  near the mean.
* **In a training step dy waits for y**, and each pass has a collective of its own: {step} of `merged`
  between 8 devices where the textbook formula has {step_naive}, predicted {step_us}
  in the place of {step_naive_us}. Where y is computed again for the gradient (`jax.checkpoint`), what it
  takes again and what the gradient takes are joined: {again} where the textbook formula has
  {again_naive}, {again_us} in the place of {again_naive_us}. For this the
  gradient of `merged` sends all devices' sums, not their total, which shows between 64: {far} in the step,
  where `sums` takes {far_sums}.
* **Fewer is not always faster.** Between 64 devices a gather goes round a ring of 63 steps, predicted {gather:.0f} us,
  where a tree adds up two sums in {tree:.0f} us: there `sums` is ahead, and `merged` hardly saves time on the textbook
  formula. Between 8 it is {near:.0f} us. On the wire a gather brings three numbers of each device, {wire:.0f} times
  what the textbook formula sends between 8 devices; it is time that counts, and both are short.
* **A gradient by hand for one device can be a bad one for eight.** `custom_vjp` of divided rows adds up a third sum,
  which costs nothing where x is in registers: {third} and {more:.1f} MB, where the textbook formula has {rows} and
  {less:.1f} MB.
* **A sequence that is divided pays for its gather alone**: {gathered:.0f} of {whole:.0f} us predicted for layer norm,
  and the norm itself sends nothing. Neither do groups that lie whole on a device: XLA sees that by itself.
"""
TAIL = """
Made by `python -m analysis.pages.sharding`; the notebook `analysis/notebooks/n9_many_gpus.ipynb` tells the same with
pictures. `normbench study --preset sharding --target h200` compiles the same cases into a run.
"""


def compiled() -> Iterator[dict[str, Any]]:
    """A row of `COLUMNS` for each case of the preset, and for the steps of training."""
    import jax

    from normbench import kernels
    from normbench.cases.case import cases

    for case in cases("sharding"):
        row = {"jax": jax.__version__, "case": case.slug}
        reason = kernels.get(case.operator, case.variant).supports(case.problem, TARGET)
        if reason:
            yield {**row, "reason": reason}
            continue
        program = kernels.program(case.problem, case.variant)
        yield {**row, **_figures(program.function, program.inputs)}
        if case.variant in IN_STEPS and case.pass_ == "forward" and "merged" in _alike(case):
            for step in STEPS:
                yield {**row, "step": step, **_figures(_step(program.function, step), program.inputs)}


def _alike(case: Any) -> list[str]:
    """The variants that take the problem of a case."""
    from normbench import kernels

    known = kernels.variants(case.operator, ("xla", "mesh"))
    return [name for name in known if kernels.get(case.operator, name).supports(case.problem, TARGET) is None]


def _step(function: Callable, step: str) -> Callable:
    """The gradient of a loss of y, the first result, by x, gamma and beta."""
    import jax
    import jax.numpy as jnp

    def y_of(*arrays: Any) -> Any:
        return jax.tree.leaves(function(*arrays))[0]

    def loss(*arrays: Any) -> Any:
        y = (jax.checkpoint(y_of) if step == "checkpoint" else y_of)(*arrays)
        return jnp.square(y.astype(jnp.float32)).mean()

    return jax.grad(loss, argnums=(0, 1, 2))


def _figures(function: Callable, inputs: tuple[Any, ...]) -> dict[str, Any]:
    from normbench import explain

    report = explain(function, *inputs, target=TARGET)
    found = report.collectives
    low, high = report.predicted_range_s or (0.0, 0.0)
    return {
        "launches": len(report.launches),
        "bytes": report.bytes,
        "minimum_bytes": report.minimum_bytes,
        "collectives": "; ".join(f"{kind}={n}" for kind, n in Counter(found["collective"]).items()),
        "wire_bytes": int(found["wire_bytes"].sum()),
        "collectives_predicted_s": f"{found['predicted_s'].sum():.4g}",
        "predicted_s": f"{report.predicted_s:.4g}",
        "predicted_low_s": f"{low:.4g}",
        "predicted_high_s": f"{high:.4g}",
    }


def found(rows: list[dict[str, str]]) -> str:
    """What the figures say, in sentences."""
    from normbench.cases.case import Case

    cases = [(Case.from_slug(row["case"]), row) for row in rows]
    by = {(case.operator, case.context, case.pass_, case.variant, row["step"]): row for case, row in cases}

    def row(variant: str, context: str = "batch8", pass_: str = "forward", step: str = "") -> dict[str, str]:
        operator = "batch_norm_training" if context.startswith("batch") else "layer_norm"
        return by[operator, context, pass_, variant, step]

    def us(one: dict[str, str], column: str = "collectives_predicted_s") -> float:
        return 1e6 * float(one[column])

    def megabytes(one: dict[str, str]) -> float:
        return int(one["bytes"]) / 1e6

    both = "forward_backward"
    return FOUND.format(
        batch=_collectives(row("naive")),
        merged=_collectives(row("merged")),
        saved=megabytes(row("naive")) - megabytes(row("merged")),
        rows=_collectives(row("naive", "hidden8")),
        rows_merged=_collectives(row("merged", "hidden8")),
        joined=_collectives(row("naive", pass_=both)),
        joined_merged=_collectives(row("merged", pass_=both)),
        joined_sums=_collectives(row("sums", pass_=both)),
        pivoted=_collectives(row("custom_vjp", pass_=both)),
        step=_collectives(row("merged", step="loss")),
        step_naive=_collectives(row("naive", step="loss")),
        step_us=_span(row("merged", step="loss")),
        step_naive_us=_span(row("naive", step="loss")),
        again=_collectives(row("merged", step="checkpoint")),
        far=_span(row("merged", "batch64", step="loss")),
        far_sums=_span(row("sums", "batch64", step="loss")),
        again_naive=_collectives(row("naive", step="checkpoint")),
        again_us=_span(row("merged", step="checkpoint")),
        again_naive_us=_span(row("naive", step="checkpoint")),
        gather=us(row("merged", "batch64")),
        tree=us(row("sums", "batch64")),
        near=us(row("merged")),
        wire=int(row("merged")["wire_bytes"]) / int(row("naive")["wire_bytes"]),
        third=_collectives(row("custom_vjp", "hidden8")),
        more=megabytes(row("custom_vjp", "hidden8")),
        less=megabytes(row("naive", "hidden8")),
        gathered=us(row("naive", "sequence8")),
        whole=us(row("naive", "sequence8"), "predicted_s"),
    )


def _collectives(row: dict[str, str]) -> str:
    """2 × all-reduce."""
    parts = (part.split("=") for part in row["collectives"].split("; "))
    return " and ".join(f"{number} × {kind}" for kind, number in parts)


def _span(row: dict[str, str]) -> str:
    """148 us (110 to 231): predicted, with its range."""
    low, predicted, high = (f"{1e6 * float(row[f'predicted_{name}s']):.0f}" for name in ("low_", "", "high_"))
    return f"{predicted} us ({low} to {high})"


def page(rows: list[dict[str, str]]) -> Iterator[str]:
    """The lines of docs/sharding.md."""
    from normbench.cases.case import Case
    from normbench.cases.slugs import shape_text

    yield HEAD
    yield found(rows)
    for context, heading in QUESTIONS.items():
        yield f"{heading}\n"
        of_context = [(Case.from_slug(row["case"]), row) for row in rows]
        of_context = [(case, row) for case, row in of_context if case.context == context]
        for problem in dict.fromkeys(case.problem for case, _ in of_context):
            for step in ("", *STEPS):
                mine = [(case, row) for case, row in of_context if case.problem == problem and row["step"] == step]
                if mine:
                    words = STEPS.get(step) or problem.pass_.replace("_", " and ")
                    x = f"x {shape_text(problem.shape)} in {problem.layout}"
                    yield f"**{problem.operator}**, {words}, {x}, bfloat16\n"
                    yield from _table([(case.variant, row) for case, row in mine])
                    yield ""
    yield f"JAX {rows[0]['jax']}, target {TARGET}.{TAIL}"


def _table(rows: list[tuple[str, dict[str, str]]]) -> Iterator[str]:
    yield "| variant | launches | memory MB | minimum MB | collectives | wire kB | predicted us | collectives us |"
    yield "|---|--:|--:|--:|---|--:|--:|--:|"
    for variant, row in rows:
        if not row["reason"]:
            yield f"| {variant} | {' | '.join(_cells(row))} |"
    for variant, row in rows:
        if row["reason"]:
            yield f"\n`{variant}`: {row['reason']}."


def _cells(row: dict[str, str]) -> tuple[str, ...]:
    low, predicted, high, collectives = (
        f"{1e6 * float(row[name]):.0f}"
        for name in ("predicted_low_s", "predicted_s", "predicted_high_s", "collectives_predicted_s")
    )
    return (
        row["launches"],
        f"{int(row['bytes']) / 1e6:.1f}",
        f"{int(row['minimum_bytes']) / 1e6:.1f}",
        _collectives(row) if row["collectives"] else "none",
        f"{int(row['wire_bytes']) / 1e3:.1f}",
        f"{predicted} ({low} to {high})",
        collectives,
    )


def read() -> list[dict[str, str]]:
    with RESULTS.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def main() -> int:
    if "--from-results" not in sys.argv:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(compiled())
    PAGE.write_text("\n".join(page(read())).rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
