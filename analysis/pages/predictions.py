"""Predicted against published times: `make validate`.

`python -m analysis.pages.predictions` compiles the program of every row of results/published for its device, which need
not be there, predicts its time and writes docs/predictions.md and its picture.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from analysis.published.judge import (
    TOLD_APART,
    Judged,
    Order,
    distance_of,
    error_of,
    in_order,
    judge,
    order_of,
    order_of_pairs,
    pairs_of,
)
from analysis.published.programs import device_facts
from analysis.published.rows import published, sources
from normbench.fusion.targets import compile_environment

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "predictions.md"
PICTURE = DOCS / "images" / "predictions.svg"
MEDIAN, HIGH, ORDERED = 0.10, 0.35, 0.90
"""What is asked of the rows kept apart: single launches beyond the L2, and pairs in the right order."""
WORST = 12
FAR = 0.10
"""A group of rows whose predictions are off by more than this in the median is told with a reason."""

HEAD = """# Predicted against published times

What the time model says of programs whose device times others have measured and published: {rows} times from {places}
places, on {devices}, of {families} families of kernels ([what they are, how they were found, what was left
out](../results/published/README.md)). Each configuration is written anew, as plain JAX or as a Pallas Triton kernel of
the same grid, blocks and warps, and compiled for the device without one. A prediction is no measurement, and none of
these times was measured here.

* error: |predicted / published - 1|. Where the published clock counts what the host takes to launch, that time is taken
  off the published one first, as other published figures give it.
* kept apart: drawn by a fixed seed before the model was shaped on any of these rows, half of each source; of what was
  found later, before any of it was predicted. Figures of the first version's shaping (Liger-Kernel's) are never among
  them.
* beyond the L2: what has to be moved at least exceeds the device's last-level cache.
* bytes: the same by bytes over the data sheet's bandwidth and 2 us a launch, to compare.

TPUs, of which six times were found: [tpu.md](tpu.md).

Made by `python -m analysis.pages.predictions` with JAX {jax}.
"""


def page(judged: Sequence[Judged]) -> str:
    """The page, but for what stands in front of the tables of errors."""
    import jax

    devices = sorted({one.row.device for one in judged})
    head = HEAD.format(
        rows=len(judged), places=len({one.row.source for one in judged}), jax=jax.__version__,
        devices=", ".join(devices), families=len({one.row.family for one in judged}),
    )  # fmt: skip
    parts = [head, *_asked(judged), "", "![predicted against published times](images/predictions.svg)", ""]
    parts += [*_by_use(judged), *_by_kind(judged), *_worst(judged), *_wrong_order(judged), *_why(judged),
              *_all_rows(judged)]  # fmt: skip
    return "\n".join(parts)


def counted(judged: Sequence[Judged]) -> list[Judged]:
    """The rows that the first criterion is about: single launches beyond the L2 that were kept apart."""
    return [one for one in judged if one.kept_apart and one.single and one.beyond_l2]


def _asked(judged: Sequence[Judged]) -> Iterator[str]:
    rows = counted(judged)
    error = error_of(rows)
    order = order_of([one for one in judged if one.beyond_l2])
    yield "## What was asked, and what was reached"
    yield ""
    yield f"Of {len(rows)} single launches beyond the L2 that were kept apart, and of their pairs:"
    yield ""
    yield "| | asked | reached | by bytes | |"
    yield "|---|--:|--:|--:|---|"
    if error:
        for name, wanted, got, plain in (
            ("median error", MEDIAN, error.median, error.bytes_median),
            ("90th percentile of the error", HIGH, error.high, error.bytes_high),
        ):
            met = "met" if got <= wanted else "not met"
            yield f"| {name} | at most {wanted:.0%} | {got:.1%} | {plain:.1%} | {met} |"
    yield _order_row("pairs in the right order, both kept apart", order)
    yield _order_row("pairs in the right order, at least one kept apart",
                     order_of([one for one in judged if one.beyond_l2], "one"))  # fmt: skip
    yield ""
    yield (
        "A pair are two variants of one problem from one source whose published times differ by over 10 %, beyond the "
        "L2, of any number of launches."
    )
    yield ""
    yield from _by_distance([pair for pair in pairs_of([one for one in judged if one.beyond_l2]) if _tests(pair)])


def _tests(pair: tuple[Judged, Judged]) -> bool:
    return any(one.kept_apart for one in pair)


_DISTANCES = ((TOLD_APART, 1.5), (1.5, 2.0), (2.0, float("inf")))
"""Bounds of the slower over the faster published time, by which pairs are told apart on the page."""


def _by_distance(pairs: Sequence[tuple[Judged, Judged]]) -> Iterator[str]:
    """Pairs of which at least one was kept apart: the nearer the two, the harder they are to order."""
    yield "| pairs, at least one kept apart | in the right order | by bytes |"
    yield "|---|--:|--:|"
    groups = [(_distance(low, high), [pair for pair in pairs if low < distance_of(*pair) <= high])
              for low, high in _DISTANCES]  # fmt: skip
    kernels = [pair for pair in pairs if all(one.row.family != "eager" for one in pair)]
    for name, chosen in (*groups, ("both of them kernels that fuse, at any distance", kernels)):
        order = order_of_pairs(chosen)
        yield f"| {name} | {order.right} of {order.pairs} | {order.by_bytes} of {order.pairs} |"


def _distance(low: float, high: float) -> str:
    return f"the slower takes {low:g} to {high:g} times as long" if high < float("inf") else f"over {low:g} times"


def _order_row(name: str, order: Order) -> str:
    if not order.pairs:
        return f"| {name} | at least {ORDERED:.0%} | no such pair | | |"
    met = "met" if order.right >= ORDERED * order.pairs else "not met"
    return (
        f"| {name} | at least {ORDERED:.0%} | {order.right} of {order.pairs} | {order.by_bytes} of {order.pairs} | "
        f"{met} |"
    )


_HEADINGS = "| | rows | median | 90th percentile | within the range | median by bytes | 90th percentile by bytes |"
_RULE = "|---|--:|--:|--:|--:|--:|--:|"


def _error_row(name: str, judged: Sequence[Judged]) -> str:
    error = error_of(judged)
    if error is None:
        return f"| {name} | 0 | | | | | |"
    return (
        f"| {name} | {error.rows} | {error.median:.0%} | {error.high:.0%} | {error.within:.0%} | "
        f"{error.bytes_median:.0%} | {error.bytes_high:.0%} |"
    )


def _table(title: str, rows: Sequence[tuple[str, Sequence[Judged]]]) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    yield from (_HEADINGS, _RULE)
    yield from (_error_row(name, judged) for name, judged in rows)
    yield ""


def _by_use(judged: Sequence[Judged]) -> Iterator[str]:
    """Kept apart, open to shaping and used before, each by size and launches."""
    yield "## By what the figures were used for"
    yield ""
    uses = ("kept apart", "open to shaping", "shaped the first version")
    for title, chosen in (
        ("Single launches beyond the L2", [one for one in judged if one.single and one.beyond_l2]),
        ("Single launches within the L2", [one for one in judged if one.single and not one.beyond_l2]),
        ("Several launches", [one for one in judged if not one.single]),
    ):
        yield from _table(title, [(use, [one for one in chosen if one.use == use]) for use in uses])


def _by_kind(judged: Sequence[Judged]) -> Iterator[str]:
    """Rows that did not shape the first version, of any size, by what they are."""
    yield "## By device, operator, pass and kind of kernel"
    yield ""
    yield "All rows but those of the first version's shaping."
    yield ""
    fresh = [one for one in judged if not one.row.shaped_before]
    for title, name_of in _KINDS:
        names = sorted({name_of(one) for one in fresh})
        yield from _table(title, [(name, [one for one in fresh if name_of(one) == name]) for name in names])


_KINDS: tuple[tuple[str, Callable[[Judged], str]], ...] = (
    ("Device", lambda one: one.row.device),
    ("Operator", lambda one: one.row.operator),
    ("Pass", lambda one: one.row.pass_name),
    ("Family of kernels", lambda one: one.row.family),
    ("Likeness of the program to what was measured", lambda one: one.likeness),
    (
        "Source",
        lambda one: f"[{sources()[one.row.source].what}]({sources()[one.row.source].address.split(' and ')[0]})",
    ),
    ("Kind of the longest launch, by the model", lambda one: one.predicted.kind),
)


def _linked(source: str) -> str:
    """The name of a source with its address, the first where there are several."""
    found = sources()[source]
    return f"[{found.what}]({found.address.split(' and ')[0]})"


def _worst(judged: Sequence[Judged]) -> Iterator[str]:
    rows = sorted((one for one in judged if one.kept_apart), key=lambda one: -abs(one.error))[:WORST]
    yield "## The worst of the rows kept apart"
    yield ""
    yield "| row | published us | predicted us (range) | error | by bytes | bound, by the model |"
    yield "|---|--:|--:|--:|--:|---|"
    for one in rows:
        yield (
            f"| {_named(one)} | {_us(one.row.device_s)} | {_range(one)} | {one.error:+.0%} | {one.bytes_error:+.0%} | "
            f"{one.predicted.bound} |"
        )
    yield ""


def _wrong_order(judged: Sequence[Judged]) -> Iterator[str]:
    """Every pair beyond the L2 that the model puts in the wrong order."""
    pairs = [pair for pair in pairs_of([one for one in judged if one.beyond_l2]) if not in_order(*pair)]
    yield "## Pairs in the wrong order"
    yield ""
    yield "Whatever they were used for, beyond the L2:"
    yield ""
    yield "| faster | slower | kept apart | published us | predicted us |"
    yield "|---|---|--:|--:|--:|"
    for pair in pairs:
        fast, slow = sorted(pair, key=lambda one: one.row.device_s)
        yield (
            f"| {_named(fast)} | {_named(slow)} | {fast.kept_apart + slow.kept_apart} of 2 | "
            f"{_us(fast.row.device_s)}, {_us(slow.row.device_s)} | "
            f"{_us(fast.predicted.seconds)}, {_us(slow.predicted.seconds)} |"
        )
    yield ""


def _why(judged: Sequence[Judged]) -> Iterator[str]:
    """Groups of rows that are far off in the median, with what is known or supposed of the reason."""
    yield "## Where it is far off, and why"
    yield ""
    yield "Without a device the reasons are suppositions that the figures agree with. All rows of each group:"
    yield ""
    yield "| rows | how many | predicted / published, median | why |"
    yield "|---|--:|--:|---|"
    for name, belongs, reason in _GROUPS:
        ratios = [1 + one.error for one in judged if belongs(one)]
        if ratios and abs(median(ratios) - 1) > FAR:
            yield f"| {name} | {len(ratios)} | {median(ratios):.2f} | {reason} |"
    yield ""


def _stays_in_l2(one: Judged) -> bool:
    return not one.beyond_l2 and "flushed before" not in sources()[one.row.source].cache


def _half_stays_in_l2(one: Judged) -> bool:
    half_bytes = one.minimum_bytes / 2
    return half_bytes <= device_facts(one.row.device).l2_bytes and "not flushed" in sources()[one.row.source].cache


_GROUPS: tuple[tuple[str, Callable[[Judged], bool], str], ...] = (
    (
        "written over their input, which fits the L2 and which the clock does not flush",
        lambda one: bool(one.row.settings.get("alias")) and one.beyond_l2 and _half_stays_in_l2(one),
        "The array stays in the L2 from run to run; the model counts it twice, as read and as written, which is more "
        "than fits.",
    ),
    (
        "FlashInfer over rows of 128",
        lambda one: one.row.implementation == "flashinfer" and one.row.shape[-1] == 128,
        "Bound by starts of blocks, which the model takes to be one a cycle, whatever the block. ATen's keep to that, "
        "and blocks of one warp in Triton nearly (vllm-project/vllm pull 26207, B200: 0.60 ns a block between 16384 "
        "and 65536 of them); FlashInfer's take twice as long. It alone lets the next grid start early; whether that is "
        "why, no published figure was found to tell.",
    ),
    (
        "arrays that fit the L2, which the clock does not flush",
        _stays_in_l2,
        "The run before leaves them in the L2, where the next finds them; the model fetches them from device memory.",
    ),
    (
        "XLA's programs of several launches",
        lambda one: one.row.family == "xla" and one.launches > 1,
        "What a launch writes is found in the L2 by the next where it fits; and the release of XLA that was published "
        "is another one, which may have made other launches.",
    ),
    (
        "Liger's group norm",
        lambda one: one.row.operator == "group_norm",
        "Two fills of the statistics are in the published time, and not in the program. What share of its bandwidth a "
        "B200 attains is assumed to be an H100's.",
    ),
    (
        "PyTorch's operations one by one, beyond the L2",
        lambda one: one.row.family == "eager" and one.beyond_l2,
        "The launches are the published ones, their kernels XLA's. ATen's work out where each element lies if an "
        "operand is broadcast or has another dtype.",
    ),
    (
        "FlashInfer on a B200, rows of up to 16384",
        lambda one: one.row.source == "flashinfer_fp4" and one.row.shape[-1] <= 16384,
        "A block of one step takes 2.6 to 2.9 us by the rows that are open, at any number of threads; the latencies of "
        "an H100, which a B200 is assumed to have, explain half of it.",
    ),
    (
        "FlashInfer on a B200, rows of 32768",
        lambda one: one.row.source == "flashinfer_fp4" and one.row.shape[-1] > 16384,
        "The second walk over a row is served from nearer than the model has it: the rows of a multiprocessor fit its "
        "first-level cache. To say so of every kernel makes the rows that are open worse, ATen's first.",
    ),
    (
        "layer norm in Liger's benchmarks on a B200",
        lambda one: one.row.source == "liger_cutile" and one.row.operator == "layer_norm",
        "Not known. A softmax and a fused RMS norm over the same rows, from the same file, attain 1.4 times as many "
        "bytes a second.",
    ),
    (
        "ATen's softmax",
        lambda one: one.row.operator == "softmax" and one.row.family == "aten",
        "It walks over its row three times, in shared memory, and takes each exponential twice; the program here keeps "
        "the row in registers and takes it once.",
    ),
)


def _all_rows(judged: Sequence[Judged]) -> Iterator[str]:
    yield "## Every row"
    yield ""
    yield (
        "Published: the time of the device, without the host's; `launches` as compiled. L2: what is moved at least "
        "fits it."
    )
    yield ""
    yield "| row | device | launches | L2 | used | published us | predicted us (range) | error | by bytes |"
    yield "|---|---|--:|---|---|--:|--:|--:|--:|"
    for one in judged:
        inside = "" if one.beyond_l2 else "fits"
        yield (
            f"| {_named(one)} | {one.row.device} | {one.launches} | {inside} | {one.use} | {_us(one.row.device_s)} | "
            f"{_range(one)} | {one.error:+.0%} | {one.bytes_error:+.0%} |"
        )
    yield ""


def _named(one: Judged) -> str:
    return f"`{one.row.id}`"


def _range(one: Judged) -> str:
    told = one.predicted
    return f"{_us(told.seconds)} ({_us(told.low_s)} to {_us(told.high_s)})"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


def main() -> None:
    os.environ.update(compile_environment())
    from analysis.pages.predictions_plot import predictions_svg

    judged = [judge(row) for row in published()]
    PAGE.write_text(page(judged), encoding="utf-8")
    PICTURE.write_text(predictions_svg(judged), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
