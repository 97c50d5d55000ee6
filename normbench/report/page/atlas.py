"""The atlas as HTML: per operator a table with a row per group and a column per variant."""

from html import escape

from normbench.display.palette import style
from normbench.report.data.atlas import AtlasRow, atlas_rows
from normbench.report.data.summary import Digest

_KEY = (
    "Median launches, and bytes moved over the minimum bytes, over the n problems of a row (over k where it says so). "
    "The best, marked ★, has the lowest ratio as shown, and of these the fewest launches, among the variants that "
    "compiled for the most problems. Targets for which all of a row is the same share it. Where a device was measured, "
    "the fastest variant has the lowest median of time over the baseline's time, with its 95 % interval; those whose "
    "interval overlaps it are not told apart from it."
)


def atlas_html(data: Digest) -> str:
    """The section's body; says so where nothing was compiled or compared."""
    rows = atlas_rows(data.atlas)
    if not rows:
        return "<p>No case was compiled.</p>"
    tables = []
    for operator in dict.fromkeys(row.group["operator"] for row in rows):
        mine = [row for row in rows if row.group["operator"] == operator]
        tables.append(f"<h3>{escape(operator)}</h3>{_table(mine)}")
    return f"<p>{_KEY}</p>{''.join(tables)}"


def _table(rows: list[AtlasRow]) -> str:
    variants = list(dict.fromkeys(variant for row in rows for variant in row.cells))
    timed = any(row.fastest for row in rows)
    head = "".join(f"<th>{name}</th>" for name in ("layout", "pass", "dtype", "context", "targets"))
    head += '<th class="number">n</th>'
    head += "".join(f'<th class="number">{_dot(variant)}{escape(variant)}</th>' for variant in variants)
    head += "<th>best</th>" + ("<th>fastest, time ÷ baseline</th>" if timed else "")
    body = "".join(f"<tr>{_cells(row, variants, timed)}</tr>" for row in rows)
    return (
        '<div class="scroll" tabindex="0"><table class="atlas"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: AtlasRow, variants: list[str], timed: bool) -> str:
    group = row.group
    dtype = group["dtype"] + (f" ({group['param_dtype']} parameters)" if row.says_parameters else "")
    texts = [group["layout"], group["pass"].replace("_", " and "), dtype, group["context"], ", ".join(row.targets)]
    cells = [f"<td>{escape(text)}</td>" for text in texts]
    cells.append(f'<td class="number">{row.n}</td>')
    for variant in variants:
        mark = "best number" if variant in row.best else "number"
        text = row.cells.get(variant, "") + (" ★" if variant in row.best else "")
        cells.append(f'<td class="{mark}">{escape(text)}</td>')
    cells.append(f'<td class="names">{escape(", ".join(row.best))}</td>')
    if timed:
        number = f" (n {row.timed})" if row.fastest and row.timed != row.n else ""
        cells.append(f'<td class="long">{escape(row.fastest + number)}</td>')
    return "".join(cells)


def _dot(variant: str) -> str:
    return f'<span class="dot" aria-hidden="true" style="background:{style(variant).colour}"></span>'
