"""Every number of every sentence of the summary is computed again from the Parquet files, by other code.

A sentence of no known form fails: whoever adds one adds how it is checked.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from normbench.report import load_run
from normbench.report.data.statistics import ratio
from normbench.report.data.summary import digest
from normbench.report.findings.strongest import strongest
from tests.report.synthetic_runs import full_tables, trouble

_KEPT = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "results" / "runs").glob("*/run.json"))


class _Tables:
    """The files of a run, and what the sentences say of them, in plain loops."""

    def __init__(self, folder):
        self.folder = folder
        frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in
                  ("cases", "compiled", "timings", "accuracy")}  # fmt: skip
        self.cases = {row["case"]: row for row in frames["cases"].to_dict("records")}
        self.compiled = {(row["case"], row["target"]): row for row in frames["compiled"].to_dict("records")}
        self.timings, self.accuracy = frames["timings"], frames["accuracy"]
        self.troubled = self._troubled()

    def _troubled(self):
        """(case, target) -> the first status that is not ok, in the order compiled, checked, timed."""
        found = {}
        for (case, target), row in self.compiled.items():
            if row["status"] not in (None, "ok"):
                found.setdefault((case, target), row["status"])
        for frame in (self.accuracy, self.timings):
            for row in frame[["case", "device", "status"]].drop_duplicates().itertuples(index=False):
                if isinstance(row.status, str) and row.status != "ok":
                    found.setdefault((row.case, row.device), row.status)
        return found

    def status(self, case, target):
        return self.troubled.get((case, target), "ok")

    def base_of(self, case):
        problem = self.cases[case]["problem"]
        return next(name for name, row in self.cases.items() if row["problem"] == problem and row["baseline"])

    def pairs(self, target, operator, variant, column):
        """(own, baseline's) values of `column` of each problem of which both are known and well."""
        for case, row in self.cases.items():
            if (row["operator"], row["variant"]) != (operator, variant):
                continue
            base = self.base_of(case)
            values = [self.compiled.get((name, target), {}).get(column) for name in (case, base)]
            well = self.status(case, target) == self.status(base, target) == "ok"
            if well and not any(value is None or pd.isna(value) for value in values):
                yield tuple(float(value) for value in values)

    def samples(self, case, device, clock, cache, stage="call"):
        rows = self.timings
        mask = (rows["case"] == case) & (rows["device"] == device) & (rows["clock"] == clock) & (rows["cache"] == cache)
        rows = rows[mask & (rows["stage"] == stage) & rows["seconds"].notna() & (rows["status"].fillna("ok") == "ok")]
        return {process: np.sort(part.to_numpy()) for process, part in rows.groupby("process")["seconds"]}

    def ratios(self, device, clock, cache, operator, variant):
        """(case, time over the baseline's, its bounds) of each problem that timed both."""
        for case, row in self.cases.items():
            if (row["operator"], row["variant"]) == (operator, variant) and self.status(case, device) == "ok":
                base = self.base_of(case)
                own, other = (self.samples(name, device, clock, cache) for name in (case, base))
                if own and other and self.status(base, device) == "ok":
                    value, low, high = ratio(own, other)
                    processes = sorted(own.keys() & other.keys())
                    if processes:
                        medians = [np.median(own[p]) / np.median(other[p]) for p in processes]
                        assert value == pytest.approx(float(np.median(medians)))
                    yield case, value, low, high


def _status(tables, match):
    for target in re.split(r", | and ", match["targets"]):
        cases = {case for case in tables.cases
                 if (case, target) in tables.compiled or (case, target) in tables.troubled
                 or (tables.timings[["case", "device"]] == [case, target]).all(axis=1).any()}  # fmt: skip
        counts = Counter(tables.status(case, target) for case in cases)
        if match["all"]:
            assert counts == {"ok": int(match["all"].replace(",", ""))}
        else:
            assert sum(counts.values()) == int(match["total"].replace(",", ""))
            words = dict(reversed(pair.split(" ", 1)) for pair in re.split(r", | and ", match["words"]))
            assert {name.replace(" ", "_"): int(n.replace(",", "")) for name, n in words.items()} == counts


def _launches(tables, match):
    pairs = [*tables.pairs(match["target"], match["operator"], match["variant"], "launches")]
    sign = 1 if match["word"] == "fewer" else -1
    saved = [sign * (base - own) for own, base in pairs if sign * (base - own) > 0]
    assert (len(saved), len(pairs)) == (int(match["k"]), int(match["n"]))
    assert (min(saved), max(saved)) == (int(match["low"] or match["high"]), int(match["high"]))


def _bytes(tables, match):
    pairs = [*tables.pairs(match["target"], match["operator"], match["variant"], "bytes")]
    factors = [own / base for own, base in pairs]
    changed = [factor for factor in factors if (factor < 0.99 if match["word"] == "fewer" else factor > 1.01)]
    assert (len(changed), len(pairs)) == (int(match["k"]), int(match["n"]))
    assert float(match["median"]) == pytest.approx(np.median(changed), abs=0.0051)


def _ratios(tables, match):
    """The medians of an operator's traffic ratios, a number per variant."""
    for pair in re.split(r", | and ", match["words"]):
        variant, number = pair.rsplit(" ", 1)
        values = [row["traffic_ratio"] for (case, target), row in tables.compiled.items()
                  if target == match["target"] and tables.cases[case]["operator"] == match["operator"]
                  and tables.cases[case]["variant"] == variant and tables.status(case, target) == "ok"]  # fmt: skip
        assert float(number) == pytest.approx(np.nanmedian(values), abs=0.006)


def _speed(tables, match):
    where = match["target"], match["clock"], match["cache"], match["operator"], match["variant"]
    rows = [*tables.ratios(*where)]
    counted = {"faster than": sum(high < 1 for *_, high in rows), "slower than": sum(low > 1 for _, _, low, _ in rows)}
    counted["not told apart from"] = len(rows) - sum(counted.values())
    said = dict(re.findall(r"(faster than|slower than|not told apart from) \w+ in ([\d,]+)", match["words"]))
    assert {words: int(n.replace(",", "")) for words, n in said.items()} == {w: n for w, n in counted.items() if n}
    assert int(match["n"]) == len(rows)
    mean = np.exp(np.mean([np.log(value) for _, value, *_ in rows]))
    assert float(match["mean"]) == pytest.approx(mean, rel=0.006, abs=0.006)


def _fold(tables, match):
    where = match["target"], match["clock"], match["cache"], match["operator"], match["variant"]
    paid, lost, unclear, calls = 0, 0, 0, []
    for case, value, low, high in tables.ratios(*where):
        ahead = tables.samples(case, match["target"], "wall", match["cache"], "prepare") or tables.samples(
            case, match["target"], "wall", "warm", "prepare"
        )
        base = tables.samples(tables.base_of(case), match["target"], match["clock"], match["cache"])
        if not ahead:
            continue
        saved = np.median(np.concatenate([*base.values()])) * (1 - value)
        if low <= 1 <= high:
            unclear += 1
        elif saved > 0:
            paid += 1
            calls.append(int(np.ceil(np.median(np.concatenate([*ahead.values()])) / saved)))
        else:
            lost += 1
    said = [
        int(n.replace(",", ""))
        for n in re.findall(r"(?:slower than the baseline's in|within the noise in) ([\d,]+)", match[0])
    ]
    assert said == [n for n in (lost, unclear) if n]
    if match["k"]:
        assert (int(match["k"]), int(match["n"])) == (paid, paid + lost + unclear)
        assert (int((match["low"] or match["high"]).replace(",", "")), int(match["high"].replace(",", ""))) == (
            min(calls),
            max(calls),
        )
        assert float(match["median"]) == np.median(calls)
    else:
        assert paid == 0
        assert int(match["none"]) == lost + unclear


def _error(tables, match):
    for pair in re.split(r", | and ", match["words"]):
        variant, number = pair.rsplit(" ", 1)
        rows = tables.accuracy[tables.accuracy["device"] == match["target"]]
        units = rows.get("ulp_dtype", pd.Series(None, rows.index, dtype="object"))  # a run of before told none
        mine = rows[[tables.cases[case]["operator"] == match["operator"]
                     and tables.cases[case]["variant"] == variant
                     and (unit if isinstance(unit, str) else tables.cases[case]["dtype"]) == match["unit"]
                     for case, unit in zip(rows["case"], units, strict=True)]]  # fmt: skip
        assert float(number) == pytest.approx(mine["max_ulp"].max(), rel=0.006)


def _identical(tables, match):
    found = []
    for case in tables.cases:
        base = tables.base_of(case)
        own, other = (tables.compiled.get((name, match["target"]), {}).get("hlo_sha256") for name in (case, base))
        if case != base and isinstance(own, str) and own == other:
            mine = tables.samples(case, match["target"], match["clock"], match["cache"])
            theirs = tables.samples(base, match["target"], match["clock"], match["cache"])
            if mine and theirs:
                found.append(ratio(mine, theirs)[0])
    assert int(match["n"]) == len(found)
    assert float(match["low"]) == pytest.approx(min(found), abs=0.006)
    assert float(match["high"] or match["low"]) == pytest.approx(max(found), abs=0.006)


def _noise(tables, match):
    series = digest(load_run(tables.folder)).statistics
    timed = series[series["n"] > 0]
    if match["bimodal"]:
        assert (int(match["bimodal"].replace(",", "")), int(match["of"].replace(",", ""))) == (
            timed["bimodal"].sum(),
            len(timed),
        )
        return
    keys = ["case", "device", "stage", "clock", "cache"]
    rows = tables.timings[tables.timings["seconds"].notna()]
    spreads = []
    for _, part in rows.groupby(keys):
        medians = part.groupby("process")["seconds"].median()
        if len(medians) > 1:
            spreads.append(medians.max() / medians.min() - 1)
    apart = sum(spread > 0.1 for spread in spreads)
    assert (int(match["apart"].replace(",", "")), int(match["several"].replace(",", ""))) == (apart, len(spreads))


def _self_ratios(tables, target):
    """Of the A/A test: (clock, cache) to the ratio of the two sides and its bounds, by program."""
    rows = pd.read_parquet(tables.folder / "aa.parquet").dropna(subset=["seconds"])
    found = {}
    for (clock, cache, program), part in rows[rows["device"] == target].groupby(["clock", "cache", "program"]):
        sides = [{p: np.sort(own["seconds"].to_numpy()) for p, own in part[part["name"] == name].groupby("process")}
                 for name in ("b", "a")]  # fmt: skip
        if all(sides):
            found.setdefault((clock, cache), {})[program] = ratio(*sides)
    return found


def _differences(ratios):
    return {program: max(value, 1 / value) - 1 for program, (value, _, _) in ratios.items()}


def _floor(tables, match):
    places = _self_ratios(tables, match["target"])
    assert int(match["n"]) == len(set().union(*places.values()))
    told = re.findall(r"([\d.]+) % \((\w+) clock, (\w+) cache\)", match["words"])
    assert {(clock, cache) for _, clock, cache in told} == set(places)
    for value, clock, cache in told:
        differences = [*_differences(places[clock, cache]).values()]
        assert float(value) == pytest.approx(100 * np.quantile(differences, 0.9), abs=0.06)


def _unquiet(tables, match):
    places = _self_ratios(tables, match["target"])
    assert int(match["of"]) == sum(map(len, places.values()))
    beyond = {
        (*place, program): 100 * difference
        for place, ratios in places.items()
        for program, difference in _differences(ratios).items()
        if difference > 0.03 and (ratios[program][1] > 1 or ratios[program][2] < 1)
    }
    assert int(match["n"]) == len(beyond)
    assert float(match["worst"]) == pytest.approx(max(beyond.values()), abs=0.06)
    assert beyond[match["clock"], match["cache"], match["program"]] == max(beyond.values())


_ON = r"On (?P<target>\w+)"
_CLOCK = rf"{_ON} \((?P<clock>\w+) clock, (?P<cache>\w+) cache\)"
_FORMS = [
    (r"On (?P<targets>.+?), (?:all of (?P<all>[\d,]+) cases? ok|of (?P<total>[\d,]+) cases? (?P<words>.+))\.", _status),
    (rf"{_ON}, (?P<variant>\w+) (?P<operator>\w+) makes (?:(?P<low>\d+) to )?(?P<high>\d+) (?P<word>fewer|more) "
     r"launch(?:es)? than \w+ in (?P<k>\d+) of (?P<n>\d+) problems?\.", _launches),
    (rf"{_ON}, (?P<variant>\w+) (?P<operator>\w+) moves (?P<word>fewer|more) bytes than \w+ in (?P<k>\d+) of "
     r"(?P<n>\d+) problems? \((?P<median>[\d.]+) times as many in the median of these\)\.", _bytes),
    (rf"{_ON}, (?P<operator>\w+) moves, over the minimum bytes \(median over problems\): (?P<words>.+)\.", _ratios),
    (rf"{_CLOCK}, (?P<variant>\w+) (?P<operator>\w+) is (?P<words>.+) of (?P<n>\d+) problems? \(95 % intervals\); its "
     r"time over that of \w+ is (?P<mean>[\d.]+) in the geometric mean\.", _speed),
    (rf"{_CLOCK}, the work ahead of (?P<variant>\w+) (?P<operator>\w+) (?:has paid after (?:(?P<low>[\d,]+) to )?"
     r"(?P<high>[\d,]+) calls? \(median (?P<median>[\d.]+)\) in (?P<k>\d+) of (?P<n>\d+) problems?|is not seen to pay "
     r"in any of (?P<none>\d+) problems?)(?:; .+)?\.", _fold),
    (rf"{_ON}, the largest error of (?P<operator>\w+) against the float64 reference, in ulp of (?P<unit>\w+): "
     r"(?P<words>.+)\.", _error),
    (rf"{_CLOCK}, (?P<n>\d+) cases? compiled to the very program of the baseline, yet measured (?P<low>[\d.]+)"
     r"(?: to (?P<high>[\d.]+))? times its time: the distance from 1 is noise\.", _identical),
    (r"(?:(?P<bimodal>[\d,]+) of (?P<of>[\d,]+) series of samples fall into two groups: their medians depend on chance|"
     r"In (?P<apart>[\d,]+) of (?P<several>[\d,]+) series timed by several processes, the medians of the processes "
     r"differ by more than 10 %)\.", _noise),
    (rf"{_ON}, the noise floor: of (?P<n>\d+) programs? timed under two names, nine in ten differ from themselves by "
     r"at most (?P<words>.+)\.", _floor),
    (rf"{_ON}, (?P<n>\d+) of (?P<of>\d+) such comparisons differ by more than 3 % and than their samples scatter, "
     r"(?P<program>\S+) by (?P<worst>[\d.]+) % \((?P<clock>\w+) clock, (?P<cache>\w+) cache\): the machine was not "
     r"quiet\.", _unquiet),
]  # fmt: skip


def _check(folder):
    tables, told = _Tables(folder), strongest(digest(load_run(folder)))
    for finding in told:
        found = [(match, check) for form, check in _FORMS if (match := re.fullmatch(form, finding.text))]
        assert len(found) == 1, finding.text
        match, check = found[0]
        try:
            check(tables, match)
        except AssertionError as error:
            raise AssertionError(finding.text) from error
    return told


def test_every_number_is_in_the_files(full_run):
    told = _check(full_run)
    assert {"status", "launches", "traffic", "speed", "fold", "error"} <= {finding.kind for finding in told}


@pytest.mark.parametrize("folder", _KEPT, ids=[folder.name for folder in _KEPT])
def test_every_number_of_the_kept_runs_is_in_the_files(folder):
    assert _check(folder)


def test_a_dozen_sentences_at_most_each_with_rows(run):
    told = strongest(digest(run))
    assert 5 <= len(told) <= 12
    assert all(finding.rows for finding in told)
    assert [finding.kind for finding in told] == sorted(
        (finding.kind for finding in told),
        key=["speed", "traffic", "error", "fold", "launches", "noise", "status"].index,
    )


def test_what_failed_comes_before_all_else(make_run):
    tables = full_tables()
    case = tables["cases"][0]
    rest = [row for row in tables["timings"] if row["case"] != case["case"]]
    tables["timings"] = [*rest, trouble(case, "failed", "made up")]
    assert strongest(digest(load_run(make_run(tables))))[0].kind == "status"
