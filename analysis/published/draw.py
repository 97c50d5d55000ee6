"""Draws the published rows that are kept apart while the time model is shaped: half of each source, by a fixed seed.

`python -m analysis.published.draw` writes results/published/kept_apart.csv. It was run once, before the model was
shaped on any of these rows; a test holds that the committed list is what the seed gives. Rows that had shaped the
model's first version (`shaped_before`) are never drawn.
"""

import csv
import hashlib
import random
from collections.abc import Iterable

from analysis.published.rows import FOLDER, Published, published

SEED = 16


def draw(rows: Iterable[Published], seed: int = SEED) -> list[tuple[str, str]]:
    """(id, source) of the rows kept apart: of each source half of what shaped nothing before, rounded up.

    What is drawn from a source depends on its own rows and the seed alone, so that another source changes nothing.
    """
    by_source: dict[str, list[str]] = {}
    for row in rows:
        if not row.shaped_before:
            by_source.setdefault(row.source, []).append(row.id)
    drawn = []
    for source, names in sorted(by_source.items()):
        chance = random.Random(hashlib.sha256(f"{seed} {source}".encode()).digest())
        drawn += [(name, source) for name in sorted(chance.sample(sorted(names), (len(names) + 1) // 2))]
    return drawn


def main() -> None:
    with (FOLDER / "kept_apart.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "source", "seed"))
        writer.writerows((name, source, SEED) for name, source in draw(published()))


if __name__ == "__main__":
    main()
