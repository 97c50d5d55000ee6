"""The same without pytest: limits and snapshots by a plain function."""

import jax
import jax.numpy as jnp
import pytest

from normbench.errors import UserError
from normbench.testing import assert_fusion

X = jax.ShapeDtypeStruct((256, 512), jnp.bfloat16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def scaled(x):
    return (x * 2).astype(x.dtype)


def promoted(x):
    return x.astype(jnp.float32) * 2


promoted.__name__ = "scaled"


def test_what_holds_returns_the_report_and_what_does_not_says_by_how_much():
    report = assert_fusion(scaled, X, target="cpu", launches=1, max_ratio=1.0)
    assert len(report.launches) == 1
    with pytest.raises(AssertionError, match=r"where at most 524\.3 kB"):
        assert_fusion(promoted, X, target="cpu", max_bytes=report.bytes)


def test_a_snapshot_is_written_on_request_and_compared_after(tmp_path):
    snapshot = tmp_path / "norms.fusion.json"
    assert_fusion(scaled, X, target="cpu", snapshot=snapshot, update=True)
    assert_fusion(scaled, X, target="cpu", snapshot=snapshot)
    with pytest.raises(AssertionError, match="more"):
        assert_fusion(promoted, X, target="cpu", snapshot=snapshot)


def test_nothing_to_hold_it_by_is_one_clear_line():
    with pytest.raises(UserError, match="needs a limit"):
        assert_fusion(scaled, X, target="cpu")
