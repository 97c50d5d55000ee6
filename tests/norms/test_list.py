"""Precision and recall on the list: every normalization is found, none is invented; kind, axes and dtype are right.

`python -m tests.norms.test_list` prints the table of docs/norms.md.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from tests.norms.facts import agreement, counted
from tests.norms.held_out import HELD_OUT, NO_GRADIENT, NOT_RIGHT
from tests.norms.programs import MODELS, PROGRAMS, TRAPS, loss_of
from tests.norms.second_held_out import SECOND, SECOND_NO_GRADIENT, SECOND_NOT_RIGHT

_UNSEEN = {**HELD_OUT, **SECOND}
_FORWARD_ALONE = (*NO_GRADIENT, *SECOND_NO_GRADIENT)

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


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.xfail] * (n in (*NOT_RIGHT, *SECOND_NOT_RIGHT))) for n in _UNSEEN],
)
@pytest.mark.parametrize("pass_", ["forward", "gradient"])
def test_what_the_finder_was_not_made_with(name, pass_):
    function, arguments, right = _UNSEEN[name]
    if pass_ == "gradient":
        if name in _FORWARD_ALONE:
            pytest.skip("no gradient is taken of it")
        floats = tuple(i for i, one in enumerate(arguments) if jnp.issubdtype(one.dtype, jnp.floating))
        function = jax.grad(loss_of(function), argnums=floats)
    found = Counter((kind, axes) for kind, axes, _ in counted(function, *arguments).elements())
    assert found == right


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
