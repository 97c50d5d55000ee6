"""What the collectives of a compiled module send, from its text alone: nothing of normbench is used."""

import math
import re

BYTES = {"bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "f64": 8}
COLLECTIVE = re.compile(
    r" = (?P<shape>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")


def sent_by_text(text: str) -> list[list]:
    """[kind, devices in a group, bytes sent by a ring] of each, in the order of the text; inside of a loop once."""
    found = []
    for line in text.splitlines():
        match = COLLECTIVE.search(line)
        if match:
            size = group_size(line)
            whole = whole_bytes(match["kind"], match["shape"], size)
            found.append([match["kind"], size, ring(match["kind"], whole, size)])
    return found


def arrays(shape: str) -> list[int]:
    sizes = []
    for dtype, dimensions in ARRAY.findall(re.sub(r"\{[^}]*\}", "", shape)):
        sizes.append(BYTES[dtype] * math.prod(int(n) for n in dimensions.split(",") if n))
    return sizes


def whole_bytes(kind: str, shape: str, group: int) -> int:
    """An operation in two halves gives its operands, in a tuple of their own or not, before its results."""
    sizes = arrays(shape)
    two_halves = shape.startswith("((") or (kind == "all-gather" and shape.startswith("("))
    results = sizes[len(sizes) // 2 :] if two_halves else sizes
    return sum(results) * (group if kind == "reduce-scatter" else 1)


def group_size(line: str) -> int:
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(iota[2])
    mesh = re.search(r"replica_groups=(?:@?mesh\S*)\[(.*?)\](?:, device_ids=\S+)? \{(.*?)\}", line)
    assert mesh, line
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))


def ring(kind: str, whole: int, group: int) -> int:
    """Each device sends its part n - 1 times; a sum is made so and handed round so again."""
    if kind == "collective-permute":
        return whole
    return (2 if kind == "all-reduce" else 1) * whole * (group - 1) // group
