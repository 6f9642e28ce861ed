"""Render results as the text between the markers of docs/performance*.md, and as a plot.

A marker is `<!-- benchmark:NAME -->` ... `<!-- /benchmark:NAME -->`; NAME is a section, `machine` or `missing`.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl

from .contestants.field import FIELD
from .results import Results, Rounds, mid, rate
from .sections import all_sections

_MARKED = re.compile(r"(<!-- benchmark:([\w-]+) -->\n).*?(<!-- /benchmark:\2 -->)", re.DOTALL)
_OURS, _PEER = "#1b6ca8", "#b8bec6"


def render(results: Results, page: Path) -> None:
    """Rewrite the text between the markers of `page` and of pages whose names begin with its name; draw the plot."""
    texts = {
        section.name: section.table(found) for section in all_sections() if (found := results.rounds.get(section.name))
    }
    if results.rounds.keys() - {"gpu"}:  # the GPU section describes its own machine
        texts |= {"machine": _machine(results), "missing": _missing(results)}
    for path in page.parent.glob(f"{page.stem}*{page.suffix}"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_MARKED.sub(lambda match: _filled(match, texts), text), encoding="utf-8")
    if peers := results.rounds.get("peers"):
        plot(peers, page.with_suffix(".svg"))


def _filled(match: re.Match[str], texts: dict[str, str]) -> str:
    start, name, end = match.groups()
    return f"{start}{texts[name]}\n{end}" if name in texts else match.group()


def _machine(results: Results) -> str:
    found = results.machine
    rounds = max((len(one) for section in results.rounds.values() for one in section.values()), default=0)
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB of memory, no GPU used; {found['system']}, "
        f"Python {found['python']}; medians of {rounds} rounds."
    )


def _missing(results: Results) -> str:
    lines = [f"- {section}, {job}: `{why}`" for section, jobs in results.failed.items() for job, why in jobs.items()]
    return "\n".join(lines) or "None."


def plot(rounds: Rounds, path: Path) -> None:
    """Draw the contestants' pairs/s as bars, with whiskers from the slowest to the fastest round."""
    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same results give the same file
    there = sorted((c for c in FIELD if c.name in rounds), key=lambda c: mid(rounds[c.name], rate))
    rates = [mid(rounds[c.name], rate) for c in there]
    all_rates = [[rate(one) for one in rounds[c.name]] for c in there]
    whiskers = [
        [middle - min(each) for middle, each in zip(rates, all_rates, strict=True)],
        [max(each) - middle for middle, each in zip(rates, all_rates, strict=True)],
    ]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.32 * len(there)), layout="constrained")
    labels = [f"{c.label}, {c.setting}" for c in there]
    colours = [_OURS if c.ours else _PEER for c in there]
    bars = axes.barh(labels, rates, color=colours, xerr=whiskers, error_kw={"elinewidth": 1, "capsize": 2})
    axes.bar_label(bars, fmt="%.1f", padding=6, fontsize=8)
    axes.set_xlabel("pairs/s with ViT-B/32 from 512x512 JPEG files: median, slowest and fastest round", fontsize=8)
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
