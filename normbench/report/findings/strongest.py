"""The few findings that a reader should see first."""

from normbench.report.data.summary import Digest
from normbench.report.findings.findings import Finding, findings

_MOST = {"status": 2, "traffic": 3, "launches": 1, "speed": 3, "fold": 1, "error": 1, "noise": 1}
"""Of each kind, in the order in which they are shown: a dozen sentences, since nobody reads a hundred."""


def strongest(digest: Digest) -> list[Finding]:
    """At most a dozen findings: of each kind those with the greatest strength, first one of each operator."""
    told = findings(digest)
    chosen: list[Finding] = []
    for kind, most in _MOST.items():
        mine = sorted((each for each in told if each.kind == kind), key=lambda each: -each.strength)
        firsts = {_operator(each): each for each in reversed(mine)}
        leading = [each for each in mine if firsts[_operator(each)] is each]
        chosen += [*leading, *(each for each in mine if each not in leading)][:most]
    return chosen


def _operator(finding: Finding) -> str:
    return finding.rows[0][0].split(".")[0] if finding.rows else ""
