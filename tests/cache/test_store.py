"""A cache gives back what was put in, or nothing: whoever writes it, and whatever happens to its files."""

import multiprocessing
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench.cache.store import Cache, write_whole
from normbench.cli import main as cli

KEY, OTHER = "ab" * 32, "cd" * 32
DAY_S = 24 * 3600.0


def entry(folder, key=KEY, kind="program"):
    return folder / key[:2] / f"{key}.{kind}"


def test_what_was_added_is_found_by_its_key_and_kind_alone(tmp_path):
    cache = Cache(tmp_path / "cache")
    assert cache.find(KEY, "program") is None
    cache.add(KEY, "program", b"value")
    assert Cache(tmp_path / "cache").find(KEY, "program") == b"value"
    assert cache.find(OTHER, "program") is cache.find(KEY, "case") is None


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    Cache(folder).add(KEY, "program", b"value " * 50)
    return folder, entry(folder).read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_damaged_entry_is_ever_read(written, data):
    folder, whole = written
    if data.draw(st.booleans(), label="cut"):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1), label="length")]
    else:
        bit = data.draw(st.integers(0, 8 * len(whole) - 1), label="bit")
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
    entry(folder).write_bytes(bytes(damaged))
    assert Cache(folder).find(KEY, "program") is None
    assert not entry(folder).exists(), "it is made anew"


def test_an_entry_under_anothers_name_is_not_read(tmp_path):
    cache = Cache(tmp_path)
    cache.add(KEY, "program", b"value")
    entry(tmp_path, OTHER).parent.mkdir()
    os.rename(entry(tmp_path), entry(tmp_path, OTHER))
    assert cache.find(OTHER, "program") is None


def test_a_file_of_another_user_is_not_read_where_only_ones_own_are(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.add(KEY, "pickle", b"value")
    assert cache.find(KEY, "pickle", own=True) == b"value"
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache.find(KEY, "pickle", own=True) is None
    assert cache.find(KEY, "pickle") == b"value"


def test_where_nothing_can_be_kept_nothing_fails(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file", tmp_path / "file" / "below"):
        cache = Cache(folder)
        cache.add(KEY, "program", b"value")
        assert cache.find(KEY, "program") is None
        assert cache.prune(0.0) == (0, 0)
        assert not cache.stats().entries


def _write(folder, seed):
    cache = Cache(folder)
    for count in range(50):
        value = bytes([seed]) * 20_000
        cache.add(KEY, "program", value)
        found = cache.find(KEY, "program")
        assert found is not None
        assert len(set(found)) == 1
        assert len(found) == 20_000
        if count % 10 == 0:
            cache.prune(largest_bytes=10**9)


def test_many_may_write_one_entry_at_once(tmp_path):
    writers = [multiprocessing.get_context("spawn").Process(target=_write, args=(tmp_path, seed)) for seed in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert [path.name for path in (tmp_path / "ab").iterdir()] == [entry(tmp_path).name]


def aged(folder, ages_days):
    """A cache with an entry of 1000 random bytes for each age."""
    cache = Cache(folder)
    for number, age in enumerate(ages_days):
        key = f"{number:02x}" * 32
        cache.add(key, "program", os.urandom(1000))
        then = time.time() - age * DAY_S
        os.utime(entry(folder, key), (then, then))
    return cache


def left(folder):
    return sorted(int(path.name[:2], 16) for path in folder.rglob("*.program"))


def test_pruning_removes_what_was_used_longest_ago(tmp_path):
    cache = aged(tmp_path, [9, 1, 8, 2, 0])
    assert cache.prune(unused_s=8.5 * DAY_S)[0] == 1
    assert left(tmp_path) == [1, 2, 3, 4]
    assert cache.find("02" * 32, "program") is not None, "which is a use of it"
    cache.prune(largest_bytes=3 * 1200)
    assert left(tmp_path) == [1, 2, 4]


def test_pruning_leaves_alone_what_is_not_the_caches(tmp_path):
    cache = aged(tmp_path, [9])
    foreign = [tmp_path / "notes.txt", tmp_path / "00" / "mine.txt", tmp_path / "src" / f"{KEY}.program"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, b"mine")
        os.utime(path, (0, 0))
    (tmp_path / "ef").symlink_to(tmp_path / "src")
    assert cache.prune(0.0)[0] == 1
    assert all(path.exists() for path in foreign)


def test_a_killed_writers_leavings_are_pruned(tmp_path):
    cache = aged(tmp_path, [0])
    leavings = tmp_path / "00" / f".{'00' * 32}.program.x1y2"
    leavings.write_bytes(b"half")
    assert cache.prune(unused_s=DAY_S)[0] == 0, "it may still be being written"
    os.utime(leavings, (0, 0))
    assert cache.prune(unused_s=10**12)[0] == 1
    assert not leavings.exists()


def test_the_first_addition_forgets_what_nobody_asked_for_in_months(tmp_path):
    aged(tmp_path, [100])
    Cache(tmp_path).add(KEY, "program", b"new")
    assert [path.name for path in tmp_path.rglob("*.program")] == [entry(tmp_path).name]


def command(capsys, *arguments):
    status = cli.main(["cache", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_counts_and_prunes(tmp_path, capsys):
    aged(tmp_path, [9, 1])
    _, out, _ = command(capsys, "stats", "--cache", tmp_path)
    assert "2 entries" in out
    assert "9.0 days" in out
    assert command(capsys, "prune", "--cache", tmp_path, "--days", "5")[1].startswith("1 removed")
    assert command(capsys, "prune", "--cache", tmp_path, "--megabytes", "0")[1].startswith("1 removed")
    assert "empty" in command(capsys, "stats", "--cache", tmp_path)[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["prune"], "needs --days N"),
        (["prune", "--days", "-1"], "days -1; allowed: 0 and more"),
        (["prune", "--megabytes", "nan"], "megabytes nan"),
        (["stats", "--days", "1"], "are for: normbench cache prune"),
        (["stats", "--cache", __file__], "is not a folder"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, options, words):
    status, _, err = command(capsys, *options)
    assert (status, len(err.splitlines())) == (2, 1)
    assert words in err
