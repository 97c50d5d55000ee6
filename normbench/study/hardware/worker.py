"""A process of its own that runs cases of the checks: `python -m normbench.study.hardware.worker NAME:INDEX ...`.

One line of JSON for each case. After a case that raised, the process may have lost the device: it ends with `GIVEN_UP`.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence

from normbench.study.hardware.checks import named
from normbench.study.hardware.runs import Outcome, judged

GIVEN_UP = 3
"""The status after a case that raised, which has been told; 1 is that of Python's own errors."""


def main(arguments: Sequence[str]) -> int:
    parent = os.getppid()
    for key in arguments:
        if os.getppid() != parent:  # nobody waits for it any more
            return GIVEN_UP
        name, index = key.split(":")
        try:
            outcome, status = judged(named([name])[0].cases[int(index)]), 0
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            outcome, status = Outcome(None, reason[:500]), GIVEN_UP
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
