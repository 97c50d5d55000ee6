"""`normbench compare`: what became slower, faster, fused in another way or less accurate between two runs."""

import argparse
import json
from pathlib import Path

from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    from analysis.report import load_run
    from analysis.report.compare import compare
    from analysis.report.compare_text import comparison_text
    from analysis.report.compare_verdict import DEFAULT_THRESHOLD, SLOWER

    threshold = DEFAULT_THRESHOLD if parsed.threshold is None else parsed.threshold
    if not 0 < threshold < 1:
        raise UserError(f"threshold {threshold:g}; allowed: a share above 0 and below 1, e.g. 0.03 for 3 %")
    found = compare(load_run(Path(parsed.run_a)), load_run(Path(parsed.run_b)), threshold)
    print(json.dumps(found.document(), indent=1, ensure_ascii=False) if parsed.json else comparison_text(found))
    return int(parsed.fail_on_slower and found.count(SLOWER) > 0)
