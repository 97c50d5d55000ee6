"""Sentences on what costs bytes on a TPU: tiles that are filled up, arguments that are read from HBM again."""

from collections import Counter

from normbench.fusion.hlo import Shape
from normbench.fusion.program.graph import Program
from normbench.fusion.program.words import megabytes, some

_PART = 0.05
"""An array is named that has this share of all that fills up tiles."""
NO_REFUSALS = (
    "the compiler for TPUs writes down no decisions on fusion: what was not fused shows as launches, but not why"
)


def tpu_hints(program: Program, share: float) -> list[str]:
    """The hints on what is more than `share` of the program's bytes."""
    total = sum(launch.read_bytes + launch.write_bytes for launch in program.launches)
    return [*_padding(program, share * total, total), *_read_again(program, share * total)]


def _padding(program: Program, least: float, total: int) -> list[str]:
    """One sentence on all that fills up tiles, with the arrays of which it is most."""
    padding = sum(launch.padding_bytes for launch in program.launches)
    if padding <= least:
        return []
    found: Counter[str] = Counter()
    for launch in program.launches:
        for value in dict.fromkeys((*(value for value, _ in launch.reads), *launch.results)):
            shape = program.nodes[value].shape
            found[_tiled(shape)] += (
                shape.memory_bytes - shape.size_bytes if shape.memory_bytes else 0
            ) * launch.repetitions
    names = some([name for name, size in found.most_common() if size > _PART * padding])
    return [
        f"padding: {megabytes(padding)} of {megabytes(total)}, {padding / total:.0%}, fill up tiles: {names}; the two "
        "minor-most dimensions of the layout are brought to a multiple of the tile's sides, so give them sizes that are"
    ]


def _tiled(shape: Shape) -> str:
    """bf16[32,64,56,56] as 56 x 64 in tiles of 8 x 128."""
    sides = shape.tiles[0] if shape.tiles else ()
    minor = [str(shape.dimensions[one]) for one in reversed(shape.minor_to_major[: len(sides)])]
    return f"{shape}, {' x '.join(minor)} in tiles of {' x '.join(str(side) for side in sides)}"


def _read_again(program: Program, least: float) -> list[str]:
    """Arguments, and arrays between launches, that several launches read from HBM."""
    found = []
    for value, readers in program.readers.items():
        launches = [program.launches[index] for index in readers]
        sizes = [sum(size for one, size in launch.reads if one == value) for launch in launches]
        read = sum(size * launch.repetitions for size, launch in zip(sizes, launches, strict=True))
        times = [
            launch
            for size, launch in zip(sizes, launches, strict=True)
            if size >= program.nodes[value].shape.size_bytes
        ]
        if len(times) > 1 and read - max(sizes) > least:
            names = some([launch.name for launch in times])
            found.append(
                (read, f"{program.nodes[value].shape} is read {len(times)} times, {megabytes(read)} in all: {names}")
            )
    if not found:
        return []
    told = some([words for _, words in sorted(found, reverse=True)])
    return [f"read again: from HBM {told}; what stays in VMEM until it was used for the last time is read once"]
