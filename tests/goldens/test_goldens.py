"""What the installed JAX makes of the cases, against the goldens; and that a change is said in words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from normbench.fusion import compile_environment
from normbench.goldens import make as golden_make
from normbench.goldens.make import Journal, toolchain
from normbench.goldens.renew import OF_A_TPU, TARGETS, all_slugs, renew, sample, sentences, slugs_of
from normbench.goldens.store import FOLDER, from_csv, read_folder, to_csv

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / FOLDER / jax.__version__
BEFORE = {
    "launches": 8,
    "kinds": {"loop": 6, "triton": 2},
    "rewrites": {"triton-softmax-rewriter": 2},
    "refused": {"it ends in a reduction": 1},
    "bytes": 3270,
    "traffic_ratio": 3.27,
    "program": "abc",
}
AFTER = {
    **BEFORE, "launches": 11, "kinds": {"loop": 11}, "rewrites": {}, "refused": {"it ends in a reduction": 3},
    "bytes": 2270, "traffic_ratio": 2.27,
}  # fmt: skip
SLUG = "layer_norm.alone.8x16.nc.f32.f32.backward.two_pass"
WORDS = (
    f"layer_norm two_pass backward on h200 ({SLUG}): 8 → 11 launches; 3.27 → 2.27 × the minimum bytes; "
    "triton-softmax-rewriter no longer matches; kinds: loop 6 → 11, triton 2 → 0; 3,270 → 2,270 bytes; "
    "refusals: it ends in a reduction 1 → 3"
)
SAMPLE = 4
"""Cases of each operator, besides the smoke preset, that are compiled on every run of the tests."""
needs_goldens = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no goldens for jax {jax.__version__}")


def test_a_tpu_has_a_sample_of_what_it_supports():
    every = all_slugs()
    assert slugs_of("h200", every) == every
    chosen = slugs_of("v6e", every)
    operators = {slug.split(".")[0] for slug in every}
    assert len(chosen) == OF_A_TPU * len(operators)
    assert not any("f64" in slug or slug.endswith(("pallas_triton", "pallas_mosaic")) for slug in chosen)
    rms_norms = tuple(slug for slug in every if slug.startswith("rms_norm."))
    assert set(slugs_of("v6e", rms_norms)) < set(chosen), "the same whichever operators are asked for"


def check(*arguments, flags=""):
    command = [sys.executable, "-m", "normbench.goldens.renew", "--check", *arguments]
    environment = {**os.environ, "XLA_FLAGS": flags}
    environment.update(JAX_PLATFORMS="cpu")
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@needs_goldens
@pytest.mark.parametrize(
    "arguments",
    [
        ("--preset", "smoke", "--target", "h200"),
        ("--sample", str(SAMPLE), "--target", "h200"),
        ("--sample", "1", "--target", "a100"),
    ],
    ids=["smoke on h200", "a sample on h200", "a sample on a100"],
)
def test_programs_are_as_the_goldens_say(arguments):
    pytest.importorskip("jax_cuda13_plugin")
    found = check(*arguments)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("target", [pytest.param("v6e", marks=pytest.mark.torture), "tpu7x"])
def test_programs_for_a_tpu_are_as_the_goldens_say(target):
    pytest.importorskip("libtpu")
    if not (GOLDEN / target).is_dir():
        pytest.skip(f"no goldens of a {target} for jax {jax.__version__}")
    found = check("--sample", "1", "--target", target)
    assert found.returncode == 0, found.stdout + found.stderr


@needs_goldens
@pytest.mark.skipif(not os.environ.get("NORMBENCH_ALL_GOLDENS"), reason="minutes; NORMBENCH_ALL_GOLDENS=1 asks for it")
def test_all_programs_are_as_the_goldens_say():
    pytest.importorskip("jax_cuda13_plugin")
    found = check()
    assert found.returncode == 0, found.stdout + found.stderr


@needs_goldens
def test_a_pass_of_the_compiler_that_is_turned_off_is_found_and_named():
    pytest.importorskip("jax_cuda13_plugin")
    off = "--xla_disable_hlo_passes=triton-softmax-rewriter"
    found = check("--preset", "smoke", "--operator", "rms_norm", "--target", "h200", flags=off)
    assert found.returncode == 1, found.stderr
    assert "rms_norm naive forward on h200" in found.stdout
    assert "1 → 2 launches" in found.stdout
    assert "triton-softmax-rewriter no longer matches" in found.stdout


def test_a_change_is_said_in_words():
    assert sentences({SLUG: BEFORE}, {SLUG: AFTER}, "h200") == [WORDS]


def test_cases_that_appear_and_vanish_are_named():
    name = f"layer_norm two_pass backward on h200 ({SLUG})"
    assert sentences({}, {SLUG: BEFORE}, "h200") == [f"{name}: no golden yet (make goldens)"]
    assert sentences({SLUG: BEFORE}, {}, "h200") == [f"{name}: not compiled any more"]
    assert sentences({SLUG: BEFORE}, {SLUG: BEFORE}, "h200") == []


def test_a_case_that_no_longer_compiles_says_why():
    failed = {"status": "failed", "reason": "ValueError: no", "program": ""}
    assert sentences({SLUG: BEFORE}, {SLUG: failed}, "h200")[0].endswith("): ok → failed: ValueError: no")


def test_a_file_holds_what_was_written():
    failed = {"status": "crashed", "reason": 'SIGABRT: "a, b"; c=1', "program": "abc"}
    nothing = {**BEFORE, "traffic_ratio": None, "kinds": {}, "refused": {"a = b": 2, "c": 1}}
    goldens = {"a": BEFORE, "b": failed, "c": nothing}
    assert from_csv(to_csv(goldens)) == goldens
    assert to_csv(goldens).count("\n") == 4


def test_the_sample_is_the_same_each_time_and_holds_each_operator():
    slugs = [f"{operator}.alone.{n}x8.nc.f32.f32.forward.naive" for operator in ("a", "b") for n in range(1, 40)]
    assert set(sample(slugs, 3)) == set(sample(reversed(slugs), 3))
    assert sorted(slug[0] for slug in sample(slugs, 3)) == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize(
    "path", sorted((ROOT / FOLDER).glob("*/*/")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_goldens_hold_counts_and_bytes(path):
    for row in read_folder(path).values():
        assert row.get("status") == "failed" or sum(row["kinds"].values()) == row["launches"] > 0


def test_goldens_are_small():
    assert sum(path.stat().st_size for path in (ROOT / FOLDER).rglob("*.csv")) < 3_000_000


@pytest.fixture
def compiled(monkeypatch):
    """The cases that were compiled, by the pool."""
    cases = []
    compile_one = golden_make.Pool._compile

    def counted(self, case, *rest):
        cases.append(case)
        return compile_one(self, case, *rest)

    monkeypatch.setattr(golden_make.Pool, "_compile", counted)
    return cases


def test_a_renewal_compiles_what_changed_and_nothing_else(tmp_path, monkeypatch, compiled):
    pytest.importorskip("jax_cuda13_plugin")
    monkeypatch.setattr(golden_make, "JOURNALS", tmp_path / "journal")
    elsewhere = (".native", ".pallas_tpu")  # which nothing compiles for a GPU
    slugs = [slug for slug in all_slugs() if slug.startswith("rms_norm.") and not slug.endswith(elsewhere)][:3]
    assert renew(slugs[:2], "h200", 1, tmp_path) == []
    assert sorted(compiled) == sorted(slugs[:2])
    journal = next((tmp_path / "journal").iterdir())
    with journal.open("a") as stream:
        stream.write('\n{"case": "cut o')  # killed while it wrote
    changes = renew(slugs, "h200", 1, tmp_path)
    assert sorted(compiled) == sorted(slugs)
    assert len(changes) == 1
    assert "no golden yet" in changes[0]
    written = read_folder(tmp_path / jax.__version__ / "h200")
    assert sorted(written) == sorted(slugs)


def test_a_journal_knows_only_what_the_same_tools_made_of_the_same_program(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, "tools").add("case", BEFORE)
    assert Journal(path, "tools").find("case", "abc") == json.loads(json.dumps(BEFORE))
    assert Journal(path, "tools").find("case", "abd") is None
    assert Journal(path, "other tools").find("case", "abc") is None


def test_flags_and_target_are_part_of_the_tools(monkeypatch):
    plain = toolchain("h200")
    assert plain != toolchain("a100")
    monkeypatch.setenv("XLA_FLAGS", "--xla_disable_hlo_passes=algsimp")
    assert plain != toolchain("h200")
    assert compile_environment()["XLA_FLAGS"].startswith("--xla_disable_hlo_passes=algsimp")


def test_targets_have_goldens():
    of_tpus = {"v6e", "tpu7x"}
    found = {version.name: {path.name for path in version.iterdir()} for version in (ROOT / FOLDER).iterdir()}
    assert {name: targets - of_tpus for name, targets in found.items()} == {name: set(TARGETS) for name in found}
    assert [name for name in sorted(found) if found[name] & of_tpus] == ["0.10.2", "0.11.2"]
    assert of_tpus <= found["0.10.2"] & found["0.11.2"]
