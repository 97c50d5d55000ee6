"""Snapshots, verdicts, limits and the cache by themselves: nothing here compiles."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.cache.store import Cache
from normbench.errors import UserError
from normbench.testing import changes
from normbench.testing.cache import DiskCache
from normbench.testing.changes import BETTER, MOST_LINES, OTHER, SAME, WORSE, Reasons, verdict
from normbench.testing.judgement import Judgement
from normbench.testing.limits import HINTS, limits
from normbench.testing.releases import Release, history_text
from normbench.testing.session import Session, unused, write
from normbench.testing.snapshots import flags_that_matter, key, read_entries, snapshot_path, write_entries
from normbench.testing.structure import Kind, Structure

ROOT = Path(__file__).resolve().parents[2]

kinds = st.builds(
    Kind,
    st.sampled_from(["loop", "triton", "reduction", "transpose"]),
    st.integers(0, 9),
    st.lists(st.sampled_from(["add", "mul", "reduce_sum"]), unique=True).map(lambda ops: tuple(sorted(ops))),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
)


def structure(counts, hints=()):
    ordered = sorted(counts.items(), key=lambda item: (-item[0].bytes * item[1], item[0]))
    return Structure(tuple(ordered), tuple(hints), "abc", "0.1")


structures = st.dictionaries(kinds, st.integers(1, 30), max_size=40).map(structure)


@given(st.dictionaries(st.text(min_size=1), st.dictionaries(st.text(min_size=1), structures, min_size=1), max_size=3))
def test_what_is_written_is_read_again(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("snapshots") / "x" / "test_a.fusion.json"
    write_entries(path, entries)
    assert read_entries(path) == entries


class Told(Reasons):
    """A reason for every launch, as long as they get."""

    def place(self, kind):
        return ", a_fusion.1, model.py:1"

    def why(self, kind):
        return ["      now apart from others because " + 300 * "x"]


@given(structures, structures)
def test_a_difference_is_told_in_few_lines_and_misses_nothing(before, after):
    found = changes.difference(before, after, 0.0)
    lines = [
        "head",
        *changes.loop_lines(before, after),
        *changes.row_lines(found, Told()),
        *changes.hint_lines(before, ["a: b", "c: d", "e: f", "g: h"]),
        "accept",
    ]
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 240
    grown = sum(kind.bytes * number for kind, number in found.new) + sum(now.bytes for _, now in found.resized)
    lost = sum(kind.bytes * number for kind, number in found.gone) + sum(then.bytes for then, _ in found.resized)
    assert grown - lost == after.bytes - before.bytes


LOOP, ROW = Kind("loop", 1, ("mul",), 1000, 1000), Kind("triton", 1, ("add",), 1000, 1000)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({LOOP: 2}, SAME),
        ({LOOP: 1}, BETTER),
        ({LOOP: 3}, WORSE),
        ({LOOP: 1, ROW: 1}, OTHER),
        ({Kind("loop", 1, ("mul",), 1015, 1000): 2}, SAME),
        ({Kind("loop", 1, ("mul",), 1025, 1000): 2}, WORSE),
        ({Kind("loop", 1, ("mul",), 500, 1000): 2}, BETTER),
        ({Kind("loop", 2, ("mul",), 1000, 1000): 2}, WORSE),
        ({Kind("loop", 1, ("other",), 1000, 1000): 2}, SAME),
        ({Kind("loop", 1, ("mul",), 4000, 4000): 1}, WORSE),
    ],
)
def test_more_of_anything_is_worse(after, expected):
    assert verdict(structure({LOOP: 2}), structure(after), 0.01) == expected


@given(structures, structures)
def test_what_is_worse_one_way_is_not_worse_the_other_unless_it_is_mixed(before, after):
    there, back = verdict(before, after, 0.0), verdict(after, before, 0.0)
    assert {there, back} in ({SAME}, {OTHER}, {WORSE, BETTER}, {WORSE})


def test_keys_name_the_flags_that_matter():
    flags = "--xla_gpu_enable_triton_gemm=false --xla_dump_to=/x --xla_cpu_y=1 --xla_gpu_autotune_level=0"
    assert key("h200", "0.12", flags) == "h200, jax 0.12, xla_gpu_enable_triton_gemm=false"
    assert flags_that_matter("cpu", flags) == ["xla_cpu_y=1"]
    assert flags_that_matter("h200", "--xla_gpu_autotune_level=4") == ["xla_gpu_autotune_level=4"]


def test_limits_know_the_hints_there_are():
    """A word that no hint begins with would hold nothing."""
    sources = [ROOT / "normbench" / "fusion" / name for name in ("hints.py", "program/copies.py")]
    text = "\n".join(path.read_text() for path in sources)
    found = set(re.findall(r'^\s*f?"([A-Za-z][A-Za-z ]+): ', text, re.MULTILINE))
    assert found
    assert found <= set(HINTS)
    with pytest.raises(UserError, match="unknown no_hint 'promotoin'"):
        limits(None, None, None, None, "promotoin", None)


A, B = "h200, jax 0.10.2", "h200, jax 0.12"


def held(tmp_path, **checks):
    file = tmp_path / "test_a.py"
    file.write_text("")
    one = structure({LOOP: 1})
    write_entries(snapshot_path(file), {name: dict.fromkeys(keys, one) for name, keys in checks.items()})
    return file


def left_over(session):
    return {(one.check, one.key) for one in unused(session)}


def test_only_what_a_session_could_have_used_is_unused(tmp_path):
    entries = {"test_x": [A, B, "a100, jax 0.10.2"], "test_x.1": [A, B], "test_y": [A], "test_z": [A]}
    file = held(tmp_path, **entries)
    session = Session(used=[[str(file), "test_x", A]], passed=[[str(file), "test_x"]])
    assert left_over(session) == {("test_x", "a100, jax 0.10.2"), ("test_x.1", A), ("test_x.1", B)}
    session.collected[str(file)] = ["test_x", "test_y"]
    assert left_over(session) >= {("test_z", A)}
    assert ("test_y", A) not in left_over(session)
    file.unlink()
    assert ("test_y", A) in left_over(session)


def test_what_is_made_and_what_is_left_over_are_written_together(tmp_path):
    file = held(tmp_path, test_x=[A, B], test_z=[A])
    session = Session(collected={str(file): ["test_x"]})
    session.made.append([str(file), "test_x", A, structure({ROW: 2}).row()])
    other = Session()
    other.add(session.to_json())
    assert write(other) == (1, 1)
    assert read_entries(snapshot_path(file)) == {"test_x": {A: structure({ROW: 2}), B: structure({LOOP: 1})}}


def test_a_snapshot_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "x.fusion.json"
    path.write_text('{"normbench_fusion": 2, "checks": {}}')
    with pytest.raises(UserError, match="has version 2; this normbench reads up to 1"):
        read_entries(path)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"normbench_fusion": 1}', '{"normbench_fusion": 1, "checks": {"test": {"k": {}}}}']
)
def test_a_damaged_snapshot_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "x.fusion.json"
    path.write_text(damage)
    with pytest.raises(UserError, match=r"x\.fusion\.json' is damaged \(.*--fusion-update") as caught:
        read_entries(path)
    assert "\n" not in str(caught.value)


def test_a_program_that_cannot_be_read_back_is_compiled_again(tmp_path):
    cache = DiskCache(tmp_path / "programs")
    assert cache.find("ab" * 8) is None
    cache.add("ab" * 8, {"x": 1})
    assert cache.find("ab" * 8) == {"x": 1}
    Cache(tmp_path / "programs").add("cd" * 8, "pickle", b"no pickle")
    assert cache.find("cd" * 8) is None
    assert DiskCache(None).find("ab" * 8) is None


def test_releases_are_told_change_by_change():
    name, other = ("tests/test_a.py::test_x", "h200"), ("tests/test_a.py::test_y", "h200")
    before = Release("0.10.2", {name: structure({LOOP: 2}), other: structure({ROW: 1})}, False)
    after = Release("0.12", {name: structure({LOOP: 1})}, True)
    text = history_text([before, after])
    assert "0.10.2 → 0.12: 1 of 1 program changed" in text
    assert "tests/test_a.py::test_x: 2 → 1 launches, 4.0 kB → 2.0 kB (-50.0 %), kinds: loop 2 → 1 (better)" in text
    assert "tests/test_a.py::test_y: not under 0.12" in text
    assert "0.12: 1 program, and tests that failed" in text


@pytest.mark.parametrize("statement", ["import normbench.testing", "import normbench.testing.plugin"])
def test_the_plugin_comes_without_jax(statement):
    code = f"{statement}; import sys; assert not {{'jax', 'pandas', 'numpy'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "history needs --tests PATH"),
        (["--tests", "nowhere.py"], "tests 'nowhere.py' do not exist"),
        (["--tests", "tests", "--python", "nowhere/python"], "python 'nowhere/python' cannot be run"),
    ],
)
def test_history_says_what_is_missing(capsys, options, words):
    from normbench.cli.main import main

    assert main(["history", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_judgement_fails_as_asked():
    assert not Judgement(BETTER, "less", False).fails(exact=False)
    assert Judgement(BETTER, "less", False).fails(exact=True)
    assert Judgement(WORSE, "more", False).fails(exact=False)
    assert not Judgement(SAME, "", True).fails(exact=True)
