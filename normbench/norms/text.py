"""The normalizations of a program as a page: for a terminal, as HTML and as JSON."""

import html
import json
from collections.abc import Sequence
from typing import Any

from normbench.display.units import count, microseconds, predicted_text
from normbench.fusion.program.words import megabytes
from normbench.norms.site import REST, SHARED, Advice, Norms, Site, range_of, seconds_of

_WIDTH = 150
_SHOWN = 20
COLUMNS = ("#", "normalization", "x", "over", "where", "around", "own", "own MB", "shared", "shared MB", "least MB",
           "predicted us", "what to do")  # fmt: skip
_RIGHT = frozenset(("#", "own", "own MB", "shared", "shared MB", "least MB", "predicted us"))


def norms_text(norms: Norms, full: bool = False) -> str:
    """The page for a terminal: the sum, a row per site (equal ones as one), what is shared, and what to do."""
    groups = together(norms.sites)
    shown = groups if full else groups[:_SHOWN]
    lines = [f"{norms.name} on {norms.target}: {summary(norms)}", ""]
    if not groups:
        return lines[0]
    cells = [dict(zip(COLUMNS, COLUMNS, strict=True)), *(cells_of(group) for group in shown)]
    widths = {name: max(len(row[name]) for row in cells) for name in COLUMNS}
    for row in cells:
        lines.append(
            "  ".join(
                row[name].rjust(widths[name]) if name in _RIGHT else row[name].ljust(widths[name]) for name in COLUMNS
            ).rstrip()
        )
    if len(groups) > len(shown):
        lines.append(f"and {count(len(groups) - len(shown), 'other kind of site', 'other kinds of sites')}")
    lines += ["", *accounting_lines(norms), "", "what to do:"]
    lines += [f"  - {sentence}" for sentence in what_to_do(norms)]
    return "\n".join(lines)


def summary(norms: Norms) -> str:
    """How many there are and what they move, in a sentence."""
    if not norms.sites:
        return "no normalization in it"
    alone, touching = (sum(norms.launch_bytes[i] for i in which) for which in (norms.alone, norms.touching))
    return (
        f"{count(len(norms), 'normalization')}; of {count(len(norms.groups), 'launch', 'launches')} "
        f"{len(norms.alone)} are theirs alone, {megabytes(alone)} ({_share(alone, norms)}), and "
        f"{len(norms.touching)} touch them, {megabytes(touching)} ({_share(touching, norms)})"
    )


def accounting_lines(norms: Norms) -> list[str]:
    """What adds up to the program, in two sentences."""
    table = norms.accounting
    own = table.drop(index=[SHARED, REST])
    parts = [
        f"of their own {megabytes(int(own['bytes'].sum()))}",
        f"shared {megabytes(int(table['bytes'][SHARED]))}",
        f"everything else {megabytes(int(table['bytes'][REST]))}",
    ]
    seconds = seconds_of(norms.launch_s, range(len(norms.launch_s)))
    alone = seconds_of(norms.launch_s, norms.alone)
    timed = ""
    if seconds and alone is not None:
        whole = predicted_text(seconds, range_of(norms.launch_range_s, range(len(norms.launch_s))))
        share = f"{microseconds(alone)} ({100 * alone / seconds:.0f} %)"
        timed = f"; {whole}; of it {share} in launches that are theirs alone"
    return [f"{megabytes(norms.bytes)} in all: {', '.join(parts)}{timed}"]


def what_to_do(norms: Norms) -> list[str]:
    """Each action with the number of its sites and the most that it saves, and the reason of the largest."""
    found: dict[str, list[tuple[Site, Advice]]] = {}
    for site in norms.sites:
        for one in site.advice:
            found.setdefault(one.action, []).append((site, one))
    ordered = sorted(found.items(), key=lambda item: -sum(one.saved_bytes for _, one in item[1]))
    sentences = []
    for action, same in ordered:
        site, largest = max(same, key=lambda pair: pair[1].saved_bytes)
        saved = sum(one.saved_bytes for _, one in same)
        most = f", at most {megabytes(saved)} less" if saved else ""
        sentences.append(f"{action} ({count(len(same), 'site')}{most}): #{site.index}, {largest.reason}")
    return sentences


def together(sites: Sequence[Site]) -> list[tuple[Site, ...]]:
    """Equal sites as one, those that move most first."""
    found: dict[tuple, list[Site]] = {}
    for site in sites:
        key = (site.kind, site.masked, site.devices, site.statistics, site.shape, site.axes, site.dtype, site.source,
               site.activation, site.residual, len(site.launches), len(site.shared))  # fmt: skip
        found.setdefault(key, []).append(site)
    return [tuple(same) for same in sorted(found.values(), key=lambda same: -sum(_moved(site) for site in same))]


def _moved(site: Site) -> int:
    return site.own_bytes + site.shared_bytes


def cells_of(group: Sequence[Site]) -> dict[str, str]:
    """One line of the table; of several sites the sums."""
    first = group[0]
    given = " (given statistics)" if first.statistics == "given" else ""
    masked = "masked " if first.masked else ""
    several = f" over {first.devices} devices" if first.devices > 1 else ""
    groups = f" of {first.groups} groups" if first.groups else ""
    seconds = [site.predicted_s for site in group if site.predicted_s is not None]
    around = [first.activation if first.activation != "none" else "", "residual" if first.residual else ""]
    passes = [name for name in first.passes if name != "forward"]
    return {
        "#": str(first.index) if len(group) == 1 else f"{first.index} x{len(group)}",
        "normalization": f"{masked}{first.kind}{groups}{several}{given}" + (f", {', '.join(passes)}" if passes else ""),
        "x": f"{first.dtype}[{','.join(str(size) for size in first.shape)}]",
        "over": ",".join(str(axis) for axis in first.axes),
        "where": first.source or first.scope,
        "around": ", ".join(part for part in around if part),
        "own": str(sum(len(site.launches) for site in group)),
        "own MB": _mb(sum(site.own_bytes for site in group)),
        "shared": str(sum(len(site.shared) for site in group)),
        "shared MB": _mb(sum(site.shared_bytes for site in group)),
        "least MB": _mb(sum(site.least_bytes for site in group)),
        "predicted us": f"{sum(seconds) * 1e6:.1f}" if len(seconds) == len(group) else "",
        "what to do": first.advice[0].action,
    }


def norms_html(norms: Norms) -> str:
    """The page as HTML: the same, with every site."""
    escape = html.escape
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(_html_row(cells_of(group)) for group in together(norms.sites))
    actions = "".join(f"<li>{escape(sentence)}</li>" for sentence in what_to_do(norms))
    account = "".join(f"<p>{escape(line)}</p>" for line in accounting_lines(norms)) if norms.sites else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if norms.sites else ""
    todo = f"<p>What to do</p><ul>{actions}</ul>" if norms.sites else ""
    return f"<p>{escape(norms.name)} on {escape(norms.target)}: {escape(summary(norms))}</p>{table}{account}{todo}"


def _html_row(cells: dict[str, str]) -> str:
    found = (
        f"<td style='text-align:{'right' if name in _RIGHT else 'left'}'>{html.escape(cells[name])}</td>"
        for name in COLUMNS
    )
    return f"<tr>{''.join(found)}</tr>"


def norms_json(norms: Norms) -> str:
    """Everything as JSON: the program's sums, the accounting, and a record per site."""
    sites: list[dict[str, Any]] = []
    for site in norms.sites:
        record = {name: value for name, value in vars(site).items() if name not in ("advice", "problem")}
        sites.append({**record, "advice": [vars(one) for one in site.advice]})
    accounting = norms.accounting.reset_index().to_dict(orient="records")
    whole = {"name": norms.name, "target": norms.target, "bytes": norms.bytes, "launches": len(norms.groups)}
    return json.dumps({**whole, "accounting": accounting, "sites": sites}, indent=2, allow_nan=False, default=str)


def _mb(size: int) -> str:
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"


def _share(size: int, norms: Norms) -> str:
    return f"{100 * size / norms.bytes:.0f} %" if norms.bytes else "0 %"
