"""What a worker is busy with, in a page shared with its parent: writing it costs no system call."""

import mmap
import struct

STEPS = (
    "starting", "waiting", "compiling", "drawing inputs", "checking", "preparing the timing of",
    "measuring the ceiling for", "timing", "attributing the time of",
)  # fmt: skip


class Mark:
    """A sequence number, the index of a case within its unit (-1 for all of them), and a step.

    The worker calls it; the parent reads it. A sequence number that stands still means a step that does not end.
    """

    _FORMAT = struct.Struct("<qii")
    SIZE_BYTES = mmap.PAGESIZE

    def __init__(self, page: mmap.mmap):
        self._page = page
        self._sequence = 0
        self._cases: tuple[str, ...] = ()
        self._steps = {step: index for index, step in enumerate(STEPS)}

    def units(self, cases: tuple[str, ...]) -> None:
        """Says which cases the indices are of."""
        self._cases = cases

    def __call__(self, case: str | None, step: str) -> None:
        self._sequence += 1
        index = -1 if case is None else self._cases.index(case)
        self._FORMAT.pack_into(self._page, 0, self._sequence, index, self._steps[step])

    @classmethod
    def read(cls, page: mmap.mmap) -> tuple[int, int, str]:
        """Sequence number, index of the case or -1, step."""
        sequence, index, step = cls._FORMAT.unpack_from(page, 0)
        return sequence, index, STEPS[step]
