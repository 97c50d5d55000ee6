"""The few findings that a reader should see first."""

from normbench.report.data.summary import NOT_RUN, Digest
from normbench.report.findings.findings import Finding, findings

_MOST = {"speed": 3, "traffic": 3, "error": 1, "fold": 1, "launches": 1, "noise": 1, "status": 2}
"""Of each kind, in the order in which they are shown: a dozen sentences, since nobody reads a hundred. What failed
comes before all of them; that all went well, last."""
_WELL = ("ok", "unsupported")


def strongest(digest: Digest) -> list[Finding]:
    """At most a dozen findings, by importance: what failed, which is faster, what it moves, how exact it is, how sure
    that is. Of each kind those with the greatest strength, first one of each operator."""
    told = findings(digest)
    chosen: list[Finding] = []
    for kind, most in _MOST.items():
        mine = sorted((each for each in told if each.kind == kind), key=lambda each: -each.strength)
        firsts = {_operator(each): each for each in reversed(mine)}
        leading = [each for each in mine if firsts[_operator(each)] is each]
        chosen += [*leading, *(each for each in mine if each not in leading)][:most]
    failed = digest.summary[~digest.summary["status"].isin((*_WELL, NOT_RUN))]
    places = set(zip(failed["case"], failed["target"], strict=True))
    return sorted(chosen, key=lambda each: not (each.kind == "status" and places & set(each.rows)))


def _operator(finding: Finding) -> str:
    return finding.rows[0][0].split(".")[0] if finding.rows else ""
