"""Bytes that a program compiled for a TPU moves to and from HBM, counted from its text.

Each instruction of the entry computation reads its operands and writes its results; those in another memory space than
HBM, such as S(1), which is VMEM, count nothing. A tile that is not full counts whole. What an instruction reads twice
of one operand counts once, so that this is the least that the program moves. How often a Pallas kernel brings and takes
its blocks the text does not tell: `blocks_again` counts it of the traced program, step by step of each grid.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

from normbench.jax_compat.tpu import tpu_blocks

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
FREE = ("parameter", "bitcast", "get-tuple-element", "tuple", "constant", "copy-done", "slice-done", "async-done")
_ARRAY = re.compile(r"\b(?P<kind>[a-z]+\d*)\[(?P<sizes>[\d,]*)\](?:\{(?P<order>[\d,]*)(?::(?P<tiles>[^}]*))?\})?")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<kind>[\w\-]+)\((?P<rest>.*)$")


def array_bytes(kind: str, sizes: str, order: str | None, tiles: str | None) -> int:
    """Of one array in HBM, its last tiles filled; 0 in another memory space."""
    if tiles and re.search(r"S\(\d+\)", tiles):
        return 0
    lengths = [int(size) for size in sizes.split(",") if size]
    tile = re.match(r"T\(([\d,]+)\)", tiles or "")
    if tile and order:
        minor = [int(axis) for axis in order.split(",")]
        for axis, size in zip(minor, reversed([int(size) for size in tile[1].split(",")]), strict=False):
            lengths[axis] = -(-lengths[axis] // size) * size
    return math.prod(lengths) * ITEM_BYTES[kind]


def shape_bytes(shape: str) -> int:
    return sum(array_bytes(*match.group("kind", "sizes", "order", "tiles")) for match in _ARRAY.finditer(shape))


def entry(text: str) -> list[tuple[str, str, str, str]]:
    """(name, shape, kind, the rest of the line) of each instruction of the entry computation."""
    body = text[text.index("\nENTRY ") :].splitlines()
    matches = (_INSTRUCTION.match(_plain(line)) for line in body)
    return [(match["name"], match["shape"], match["kind"], match["rest"]) for match in matches if match]


def _plain(line: str) -> str:
    """Without comments of indices in long tuples."""
    return re.sub(r"/\*.*?\*/", "", line)


def moved_bytes(text: str) -> int:
    """Read from and written to HBM by the whole program."""
    instructions = entry(text)
    shapes = {name: shape for name, shape, _, _ in instructions}
    total = 0
    for _, shape, kind, rest in instructions:
        operands = [shapes[name] for name in dict.fromkeys(re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))]
        if kind in ("copy-start", "slice-start"):
            total += _copied(kind, shape, operands[0])
        elif kind not in FREE:
            total += shape_bytes(shape) + sum(map(shape_bytes, operands))
    return total


def _copied(kind: str, shape: str, source: str) -> int:
    """Of an asynchronous copy, (to, from, ...), or of a slice, ((from), to, ...): as much is read as is written."""
    target = [match.group(0) for match in _ARRAY.finditer(shape)][kind == "slice-start"]
    size = shape_bytes(re.sub(r"S\(\d+\)", "", target))
    return size * bool(shape_bytes(source)) + size * bool(shape_bytes(target))


def least_bytes(text: str) -> int:
    """Of the arguments and the results as they lie: what every such program moves."""
    head = re.search(r"entry_computation_layout=\{\((.*)\)->(.*?)\}(?:, \w+=|\n)", text)
    assert head, "the module does not say how its arguments lie"
    return shape_bytes(head[1]) + shape_bytes(head[2])


def blocks_again(function: Callable[..., Any], *inputs: Any) -> int:
    """Bytes that Pallas kernels compiled for a TPU bring and take beyond each block of an array once: a block is moved
    whenever a step of the grid, the last dimension fastest, has another one than the step before."""
    total = 0
    for blocks, block_bytes in tpu_blocks(function, *inputs):
        moved = [block for block, _ in itertools.groupby(blocks)]
        total += (len(moved) - len(set(moved))) * block_bytes
    return total
