"""Hints and refusals as people read them: equal ones as one sentence with their number."""

import re
from collections.abc import Sequence

from normbench.fusion.launches import Launch
from normbench.fusion.refusals import Refusal

APART = 4
"""Sentences that are shown one by one; of more, equal ones are told together."""
GROUPS = 5
"""Groups of equal ones that fit a screen."""

_NUMBER = re.compile(r"\d+(\.\d+)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) (B|kB|MB|GB|TB)\b")
_SCALE = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def hints_together(hints: Sequence[str]) -> list[str]:
    """One hint of each kind, the one with the largest size in it, with the number of the others."""
    if len(hints) <= APART:
        return list(hints)
    found: dict[str, list[str]] = {}
    for hint in hints:
        found.setdefault(hint.partition(":")[0], []).append(hint)
    told = []
    for same in found.values():
        largest = max(same, key=_size)
        told.append(largest if len(same) == 1 else f"{largest} ({len(same) - 1} more of this kind)")
    return told


def refusals_together(refusals: Sequence[Refusal], launches: Sequence[Launch]) -> list[str]:
    """One sentence per reason, those first whose launches write most; the launch that writes most is its example."""
    if len(refusals) <= APART:
        return [refusal.sentence(tuple(launches)) for refusal in refusals]
    found: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        found.setdefault(_NUMBER.sub("", refusal.reason), []).append(refusal)
    ordered = sorted(found.values(), key=lambda same: -sum(_written(refusal, launches) for refusal in same))
    return [_together(same, launches) for same in ordered]


def _together(same: Sequence[Refusal], launches: Sequence[Launch]) -> str:
    example = max(same, key=lambda refusal: _written(refusal, launches)).sentence(tuple(launches))
    producers = len({refusal.producer for refusal in same})
    return example if len(same) == 1 else f"{producers} launches, for one reason; the largest: {example}"


def _written(refusal: Refusal, launches: Sequence[Launch]) -> int:
    return launches[refusal.producer].write_bytes


def _size(sentence: str) -> float:
    match = _SIZE.search(sentence)
    return float(match[1]) * _SCALE[match[2]] if match else 0.0
