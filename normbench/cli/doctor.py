"""`normbench doctor`: prints what this machine can measure, and what would make its numbers untrustworthy."""

import argparse
import json
from collections import Counter
from dataclasses import asdict

from normbench.study.doctor.check import STATUSES
from normbench.study.doctor.doctor import examine


def run(parsed: argparse.Namespace) -> int:
    checks = examine()
    if parsed.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
        return 0
    width = max(len(check.name) for check in checks)
    for check in checks:
        advice = f": {check.advice}" if check.advice else ""
        print(f"{check.status:<9}{check.name:<{width + 2}}{check.found}{advice}")
    counts = Counter(check.status for check in checks)
    print(", ".join(f"{counts[status]} {status}" for status in STATUSES))
    return 0
