"""Where launches come from and why they are apart, out of the report on their program."""

from typing import TYPE_CHECKING

from normbench.testing.changes import Reasons
from normbench.testing.structure import Kind, kind_of

if TYPE_CHECKING:
    from normbench.explanation.explain import Report
    from normbench.fusion.launches import Launch
    from normbench.fusion.refusals import Refusal


class ReportReasons(Reasons):
    """Names, source lines and refusals of the launches of one report."""

    def __init__(self, report: "Report"):
        self._launches = report.compilation.reading.launches
        self._refusals = report.compilation.reading.refusals

    def place(self, kind: Kind) -> str:
        first = self._first(kind)
        if first is None:
            return ""
        return "".join(f", {words}" for words in (first.name, first.source) if words)

    def why(self, kind: Kind) -> list[str]:
        ours = {launch.index for launch in self._launches if kind_of(launch) == kind}
        as_producer = [refusal for refusal in self._refusals if refusal.producer in ours]
        as_consumer = [refusal for refusal in self._refusals if ours & set(refusal.consumers)]
        return [self._apart(refusal, ours) for refusal in [*as_producer, *as_consumer][:1]]

    def _apart(self, refusal: "Refusal", ours: set[int]) -> str:
        producer = self._launches[refusal.producer].name
        if refusal.producer not in ours:
            return f"      now apart from {producer}, which was not fused into it: {refusal.reason}"
        names = ", ".join(self._launches[index].name for index in refusal.consumers[:3])
        return f"      now apart from {names} because {refusal.reason}"

    def _first(self, kind: Kind) -> "Launch | None":
        return next((launch for launch in self._launches if kind_of(launch) == kind), None)
