"""Precision and recall on the list: every normalization is found, none is invented; kind, axes and dtype are right.

`python -m tests.norms.test_list` prints the table of docs/norms.md.
"""

import pytest

from tests.norms.facts import agreement, counted
from tests.norms.programs import MODELS, PROGRAMS, TRAPS

_LARGE = [name for name in PROGRAMS if name.startswith("ResNet-50")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.torture] * (n in _LARGE)) for n in MODELS])
def test_every_normalization_of_a_model_is_found_and_none_is_invented(name):
    listed = MODELS[name]()
    assert counted(listed.function, *listed.arguments) == listed.norms


@pytest.mark.parametrize("name", TRAPS)
def test_what_only_looks_like_a_normalization_is_none(name):
    listed = TRAPS[name]()
    assert not listed.norms
    assert counted(listed.function, *listed.arguments) == listed.norms


def main():
    right = wrong = missed = 0
    print("| program | there | found |\n|---|---|---|")
    for name, build in PROGRAMS.items():
        listed = build()
        said = counted(listed.function, *listed.arguments)
        good, invented, left_out = agreement(listed.norms, said)
        right, wrong, missed = right + good, wrong + invented, missed + left_out
        print(f"| {name} | {listed.norms.total()} | {good}" + (f", {invented} invented |" if invented else " |"))
    print(f"\nprecision {right / (right + wrong):.3f}, recall {right / (right + missed):.3f} over {right + missed}")


if __name__ == "__main__":
    main()
