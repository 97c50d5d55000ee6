"""`normbench history`: what several JAX releases make of the programs that a project's tests hold."""

import argparse

from normbench.errors import UserError
from normbench.testing.releases import history_text, releases


def run(parsed: argparse.Namespace) -> int:
    if not parsed.tests:
        raise UserError("history needs --tests PATH: the tests that use the fixture fusion")
    found = releases(parsed.python or (), parsed.tests)
    if not any(one.programs for one in found):
        raise UserError(f"tests {', '.join(parsed.tests)} check nothing with the fixture fusion")
    print(history_text(found))
    return 1 if any(one.failed for one in found) else 0
