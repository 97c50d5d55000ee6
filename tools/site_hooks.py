"""Hooks of the site (mkdocs.yml): a link to a file outside docs/ is not one there, for the site has no such file."""

import re

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """[text](../results/a.csv) becomes: text (`results/a.csv`), or `results/a.csv` alone where the text is the path."""
    return _OUTSIDE.sub(_plain, markdown)


def _plain(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    return f"`{path}`" if text.strip("`") in (path, path.rsplit("/", 1)[-1]) else f"{text} (`{path}`)"
