"""Whatever is cut short or flipped in a file of a run is found, by every command that reads runs."""

import random
import shutil
from pathlib import Path

import pytest

from normbench.errors import UserError
from normbench.run_folder import check_run
from normbench.run_folder.check import missing_modules
from normbench.study.schedule.store import Store
from tests.run_folder.commands import CARRIED_ON, COMMANDS, call, no_workers
from tests.run_folder.small_runs import MODULE_FILE, write_small_run

__all__ = ["no_workers"]
CUTS, FLIPS = 50, 100
UNSEALED = (".lock",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Sound runs by state."""
    folder = tmp_path_factory.mktemp("sound")
    return {state: write_small_run(folder / state, state) for state in ("complete", "running")}


def files_of(run):
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    running = (run / "parts").exists()  # the log of a study that goes on has no checksum yet
    return [name for name in names if name not in UNSEALED and not (running and name == "study.log")]


def damages(data, cuts, flips, seed):
    """(what was done, the damaged bytes): ends cut off at different offsets, single bits flipped."""
    generator = random.Random(seed)
    for size in sorted(generator.sample(range(len(data)), min(cuts, len(data)))):
        yield f"cut to {size} of {len(data)} bytes", data[:size]
    for bit in sorted(generator.sample(range(8 * len(data)), min(flips, 8 * len(data)))):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(changed)


@pytest.mark.parametrize("state", ["complete", "running"])
def test_a_sound_run_passes(runs, state):
    found = check_run(runs[state])
    assert found.damaged == ()
    assert list(missing_modules(found)) == []
    assert len(files_of(runs[state])) == {"complete": 16, "running": 4}[state]


@pytest.mark.parametrize("state", ["complete", "running"])
def test_every_file_cut_at_50_offsets_and_flipped_at_100_bits_is_found(runs, state, tmp_path):
    run = shutil.copytree(runs[state], tmp_path / "run")
    missed = []
    for name in files_of(run):
        whole = (run / name).read_bytes()
        for what, data in damages(whole, CUTS, FLIPS, name):
            (run / name).write_bytes(data)
            try:
                found = check_run(run)
            except UserError as error:
                told = "run.json" in str(error)
            else:
                told = name in {damage.file for damage in found.damaged}
            missed += [] if told else [(name, what)]
        (run / name).write_bytes(whole)
    assert missed == []


def damaged_by_command(runs, state, tmp_path, cuts, flips):
    """Damages that a command did not notice."""
    missed = []
    for name in files_of(runs[state]):
        for number, (what, data) in enumerate(damages((runs[state] / name).read_bytes(), cuts, flips, name)):
            for command in COMMANDS:
                run = shutil.copytree(runs[state], tmp_path / "run")
                (run / name).write_bytes(data)
                outcome = call(command, run, runs["complete"], tmp_path / "outside")
                missed += [] if _noticed(outcome, command, name, run) else [(command, name, what, outcome)]
                shutil.rmtree(run)
            assert number < cuts + flips
    return missed


def _noticed(outcome, command, name, run):
    if name == "run.json" or command in ("report", "compare", "merge"):
        return outcome.status == 2 and name.rpartition("/")[2] in outcome.err and len(outcome.err.splitlines()) == 1
    if command == "verify":
        return outcome.status == 1 and name in outcome.out
    set_aside = run / "damaged" / name.replace("/", "__")
    return outcome.status == 2 and CARRIED_ON in outcome.err and set_aside.exists()


@pytest.mark.parametrize("state", ["complete", "running"])
def test_every_command_notices_damage(runs, state, tmp_path, no_workers):
    assert damaged_by_command(runs, state, tmp_path, 1, 1) == []


@pytest.mark.torture
@pytest.mark.parametrize("state", ["complete", "running"])
def test_every_command_notices_all_damage(runs, state, tmp_path, no_workers):
    assert damaged_by_command(runs, state, tmp_path, CUTS, FLIPS) == []


def test_a_missing_file_is_found(runs, tmp_path):
    for name in files_of(runs["complete"]):
        run = shutil.copytree(runs["complete"], tmp_path / name.replace("/", "_"))
        (run / name).unlink()
        if name == "run.json":
            with pytest.raises(UserError, match=r"has no run\.json"):
                check_run(run)
            continue
        found = check_run(run)
        assert name in [damage.file for damage in (*found.damaged, *missing_modules(found))]


def taken_up(run, monkeypatch):
    """Names of the units that `--resume` would carry out again, with a study that then ends at once."""
    monkeypatch.setattr("normbench.study.schedule.study._carry_out", lambda *_: run)
    from normbench.study.schedule.study import resume

    resume(run)
    return Store.open(run)


PROBLEM = "batch_norm.alone.2x4x3x5.nchw.f32.f32.forward"
MEASURED, COMPILED = f"measure-cpu-p0-{PROBLEM}", f"compile-h200-{PROBLEM}"


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("timings.parquet", {MEASURED}),
        ("accuracy.parquet", {MEASURED}),
        ("launches.parquet", {MEASURED, COMPILED}),
        ("launch_times.parquet", set()),
        ("cases.parquet", set()),
        (MODULE_FILE, {COMPILED}),
    ],
)
def test_only_the_units_of_what_was_damaged_are_carried_out_again(runs, tmp_path, monkeypatch, file, again):
    """A complete run is taken up again with all rows of the other units; the damaged file is kept, out of the way."""
    run = shutil.copytree(runs["complete"], tmp_path / "run")
    (run / file).write_bytes((run / file).read_bytes()[:-3])
    store = taken_up(run, monkeypatch)
    every = {MEASURED, COMPILED}
    assert not store.complete
    assert every - store.done() == again
    assert {unit for unit in every if (run / "parts" / f"{unit}.json.zst").exists()} == every
    assert (run / "damaged" / file.replace("/", "__")).is_file()
    assert [row["case"] for row in store.read_part("cases")["tables"]["cases"]]
    kept = store.read_part(COMPILED)["tables"]
    assert "launches" in kept or file == "launches.parquet"
    store.finish({})
    finished = check_run(run)
    assert finished.damaged == ()
    if file == "launch_times.parquet":
        assert finished.table("timings").num_rows == check_run(runs["complete"]).table("timings").num_rows


def test_a_damaged_list_of_cases_loses_none(runs, tmp_path, monkeypatch):
    run = shutil.copytree(runs["running"], tmp_path / "run")
    part = run / "parts" / "cases.json.zst"
    before = Store.open(run).read_part("cases")["tables"]["cases"]
    part.write_bytes(part.read_bytes()[:20])
    store = taken_up(run, monkeypatch)
    assert store.read_part("cases")["tables"]["cases"] == before


def test_the_first_schema_version_is_read_without_checksums(runs, tmp_path):
    import json

    run = shutil.copytree(runs["complete"], tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    plain = {name: value for name, value in info.items() if name not in ("sha256", "files")}
    (run / "run.json").write_text(json.dumps({**plain, "schema_version": 1}))
    shutil.rmtree(run / "hlo")
    for command, status in (("verify", 0), ("compare", 0)):
        outcome = call(command, run, runs["complete"], tmp_path)
        assert outcome.status == status
        assert "schema version 1" in outcome.out + outcome.err
    assert Path(run / "run.json").exists()
