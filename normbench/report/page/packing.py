"""What a page holds compressed and unpacks when it is asked for: a page of thousands of cases opens at once."""

import base64
import json
import zlib
from html import escape
from typing import Any

import pandas as pd

from normbench.display.palette import INK
from normbench.explanation.picture import fusion_picture
from normbench.report.data.frames import Run
from normbench.report.plots.figure_parts import to_svg
from normbench.report.plots.gallery import Picture

_POINT_PX = 4 / 3
MOST_PICTURES = 8_000
"""Of a page. Of more programs only those of several launches are drawn, as many of them: a single launch has nothing
that a picture shows and its row does not."""


def packed(name: str, value: Any) -> str:
    """A <script> element that holds `value` as JSON, deflated, in base64; `report.js` unpacks it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    data = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return f'<script type="application/octet-stream" id="{name}">{data}</script>'


def figure_places(found: list[Picture]) -> tuple[str, dict[str, str]]:
    """The plots' captions with a place for each, as high as its plot, and the plots as SVG by name."""
    places = []
    for picture in found:
        title, name = escape(picture.title, quote=True), escape(picture.name, quote=True)
        places.append(
            f'<figure><figcaption>{title}</figcaption><div class="scroll plot" role="img" aria-label="{title}" '
            f'tabindex="0" data-plot="{name}" style="min-height:{_height(picture):.0f}px"></div></figure>'
        )
    return "".join(places), _drawn(found)


def figure_chooser(found: list[Picture]) -> tuple[str, dict[str, str]]:
    """A menu of the plots' questions and a place for the one that is chosen; and the plots as SVG by name."""
    if not found:
        return "", {}
    options = "".join(
        f'<option value="{escape(picture.name, quote=True)}">{escape(picture.title)}</option>' for picture in found
    )
    first = found[0]
    name, title = escape(first.name, quote=True), escape(first.title, quote=True)
    markup = (
        f'<form class="switches"><label class="words">Question <select id="plot">{options}</select></label></form>'
        f'<figure><div class="scroll plot" role="img" tabindex="0" id="plot-place" data-plot="{name}" '
        f'aria-label="{title}" style="min-height:{_height(first):.0f}px"></div></figure>'
    )
    return markup, _drawn(found)


def _drawn(found: list[Picture]) -> dict[str, str]:
    drawn = {}
    for picture in found:
        svg = to_svg(picture.figure, picture.name).replace(INK, "currentColor")
        drawn[picture.name] = svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
    return drawn


def _height(picture: Picture) -> float:
    return picture.figure.get_figheight() * 72 * _POINT_PX


def fusion_pictures(run: Run) -> dict[str, dict[str, str]]:
    """By case and target, the picture of the compiled program; absent where nothing was compiled, and see
    `MOST_PICTURES`."""
    compiled = {(str(row["case"]), str(row["target"])): row for row in run.compiled.to_dict("records")}
    found: dict[str, dict[str, str]] = {}
    ordered = _programs(run.launches).sort_values(["case", "target", "index"], kind="stable")
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in ordered.to_dict("records"):
        rows.setdefault((str(row["case"]), str(row["target"])), []).append(row)
    for (case, target), launches in rows.items():
        facts = {name: _known(value) for name, value in compiled.get((case, target), {}).items()}
        found.setdefault(case, {})[target] = fusion_picture(f"{target}", launches, facts).inline()
    return found


def _programs(launches: pd.DataFrame) -> pd.DataFrame:
    """The launches of the programs that are drawn."""
    programs = launches.groupby(["case", "target"], sort=False)
    if programs.ngroups <= MOST_PICTURES:
        return launches
    several = launches[programs["index"].transform("size") > 1]
    return several[several.groupby(["case", "target"], sort=False).ngroup() < MOST_PICTURES]


def _known(value: Any) -> Any:
    return None if pd.isna(value) else value
