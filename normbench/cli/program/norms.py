"""`normbench norms`: where in a program the normalizations are, what they cost, and what to do."""

import argparse
import html
from dataclasses import replace
from pathlib import Path

from normbench.cli.arguments import chosen_target
from normbench.cli.program.explain import called_function, explained, prepare_process, write_page
from normbench.errors import UserError


def run(parsed: argparse.Namespace) -> int:
    target = chosen_target(parsed.target)
    prepare_process(target, parsed.dtype or ())
    from normbench.cli.arguments import check_compilers, chosen_targets
    from normbench.study.user_modules import import_modules

    check_compilers(chosen_targets([target]))
    import_modules(parsed.imports)
    if not parsed.function:
        raise UserError("norms needs --function MODULE:NAME, and --args MODULE:NAME or --shape for its arguments")
    name, function, args, kwargs = called_function(parsed)
    norms = replace(explained(name, function, args, kwargs, target), name=name).norms
    if not norms:
        raise UserError(
            f"function {name!r} has no normalization in it: nothing is scaled by 1/sqrt of a variance or a mean of "
            "squares; a hand-written kernel (Pallas, cuDNN) is not looked into"
        )
    from normbench.norms.text import norms_html, norms_json, norms_text

    print(norms_json(norms) if parsed.json else norms_text(norms, full=parsed.full))
    if parsed.html:
        write_page(Path(parsed.html), _PAGE.format(title=html.escape(name), body=norms_html(norms)))
    return 0


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Normalizations of {title}</title>
<style>body{{font:14px system-ui;margin:2em;color-scheme:light dark}}table{{border-collapse:collapse}}
td,th{{padding:2px 8px;border-bottom:1px solid #8884;text-align:left}}</style>
<h1>Normalizations of {title}</h1>{body}</html>
"""
