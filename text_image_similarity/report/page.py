"""The page about a scored table, with its sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from ..errors import ErrorCode
from . import charts
from .document import document, image_cell, section, table
from .markup import escape, fold, reference
from .tally import OTHER, HostCount, ReportRow, Tally

_HOSTS_SHOWN = 25
_RETRYABLE = frozenset(code.value for code in ErrorCode if code.retryable)
_FACTS = ("input", "output", "model", "revision", "device", "precision", "backend", "preprocess")
_KINDS = {
    "cosine": "cosine, -1 to 1",
    "unit": "unit, (cosine + 1) / 2, 0 to 1",
    "clip_score": "clip_score, 100 times the cosine where it is positive, 0 to 100",
    "clipscore": "clipscore, 2.5 times the cosine where it is positive, 0 to 2.5",
    "ref_clipscore": "ref_clipscore, the harmonic mean of clipscore and the similarity to the nearest reference, 0 to 1.43",
}


def page(tally: Tally, summary: Mapping[str, Any], images: Mapping[Any, bytes]) -> str:
    """Return the whole page as HTML.

    Args:
        tally: Counts of the rows.
        summary: Contents of the run's summary file, and optionally `throughput`.
        images: Small JPEGs by reference.
    """
    name = PureWindowsPath(str(summary.get("input") or "a table")).name[:200]  # either slash separates folders
    links = [(place, place) for place in ("lowest", "highest", "failed")] + [("run", "the run")]
    return document(
        f"{name}: image–text similarity",
        name,
        _lede(tally, summary),
        "\n".join(_sections(tally, summary, images)),
        links,
    )


def _sections(tally: Tally, summary: Mapping[str, Any], images: Mapping[Any, bytes]) -> list[str]:
    lowest, highest, failed = tally.lowest(), tally.highest(), tally.failed()
    return [
        _warnings(summary.get("warnings") or []),
        _tiles(tally, summary),
        '<div class="pair">',
        section("Scores", charts.histogram(tally) + _bins_table(tally)),
        section("Throughput", charts.throughput(summary.get("throughput") or [])),
        "</div>",
        _failures(tally) if tally.failures else "",
        section(
            f"Lowest {len(lowest):,} scores", _scored_table(lowest, images, "Rows with the lowest scores"), "lowest"
        ),
        section(
            f"Highest {len(highest):,} scores",
            _scored_table(highest, images, "Rows with the highest scores"),
            "highest",
        ),
        _failed_section(failed, tally, images),
        section("The run", _facts(tally, summary), "run"),
    ]


def _lede(tally: Tally, summary: Mapping[str, Any]) -> str:
    model = f" with <b>{escape(summary['model'])}</b>" if summary.get("model") else ""
    where = f" on {escape(summary['device'])}" if summary.get("device") else ""
    return f"{tally.scored:,} of {tally.rows:,} rows scored{model}{where}."


def _warnings(warnings: Sequence[object]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="warning"><h2>Warnings</h2><ul>{items}</ul></section>'


def _tiles(tally: Tally, summary: Mapping[str, Any]) -> str:
    failed = tally.rows - tally.scored
    mean, median = tally.scores.mean(), tally.scores.quantile(0.5)
    seconds = (summary.get("seconds") or {}).get("total")
    tiles = [
        ("rows", f"{tally.rows:,}", ""),
        ("scored", f"{tally.scored:,}", _percent(tally.scored, tally.rows)),
        ("failed", f"{failed:,}", _percent(failed, tally.rows)),
        ("median score", _score(median), f"mean {_score(mean)}"),
        ("5 % score below", _score(tally.scores.quantile(0.05)), f"5 % above {_score(tally.scores.quantile(0.95))}"),
    ]
    if seconds is not None:
        speed = summary.get("pairs_per_second")
        tiles.append(("time", charts.duration(float(seconds)), "" if speed is None else f"{float(speed):,.1f} pairs/s"))
    shown = "".join(
        f'<div{" class=bad" if name == "failed" and failed else ""}><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>'
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{shown}</dl>'


def _bins_table(tally: Tally) -> str:
    rows = [[f"{low:g} to {high:g}", _number(count)] for low, high, count in tally.scores.merged(20)]
    if not rows:
        return ""
    body = "".join(f"<tr><td>{span}</td>{count}</tr>" for span, count in rows)
    bins = table("Scores in bins", [("score", ""), ("rows", "n")], body, sortable=False)
    return f'<details class="numbers"><summary>As numbers</summary>{bins}</details>'


def _failures(tally: Tally) -> str:
    failed = tally.failures.total()
    codes = "".join(
        f'<tr><td><code>{escape(code)}</code></td>{_number(count)}<td class="n" data-v="{count}">{_percent(count, failed)}</td>'
        f'<td class="draw">{charts.share_bar(count / tally.failures.most_common(1)[0][1])}</td>'
        f"<td>{'yes' if code in _RETRYABLE else ''}</td></tr>"
        for code, count in tally.failures.most_common()
    )
    heads = [("code", ""), ("rows", "n"), ("share", "n"), ("", "fixed"), ("worth retrying", "")]
    by_code = table("Failed rows by error code", heads, codes)
    heads = [("host", ""), ("failed", "n"), ("rows", "n"), ("share", "n"), ("most frequent code", "")]
    hosts = "".join(_host_row(name, host) for name, host in tally.worst_hosts(_HOSTS_SHOWN))
    failing = sum(host.failures is not None for host in tally.hosts.values())
    notes = [f"The {_HOSTS_SHOWN} worst of {failing:,} hosts with failures."] if failing > _HOSTS_SHOWN else []
    if tally.other_hosts.rows:
        notes.append(
            f"Counts are lower bounds: {tally.other_hosts.rows:,} rows ({tally.other_hosts.failed:,} of them failed) "
            "belong to hosts that are not counted one by one, because there are too many hosts."
        )
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    by_host = table("Failed rows by host", heads, hosts) + note
    return f'<div class="pair">{section("Failures by code", by_code)}{section("Failures by host", by_host)}</div>'


def _host_row(name: str, host: HostCount) -> str:
    code = host.failures.most_common(1)[0][0] if host.failures else ""
    share = f'<td class="n" data-v="{host.failed / host.rows:.6f}">{_percent(host.failed, host.rows)}</td>'
    return (
        f'<tr><td class="host"><bdi>{escape(name)}</bdi></td>{_number(host.failed)}{_number(host.rows)}{share}'
        f"<td><code>{escape(code)}</code></td></tr>"
    )


def _failed_section(rows: Sequence[ReportRow], tally: Tally, images: Mapping[Any, bytes]) -> str:
    if not rows:
        return section("Failed rows", '<p class="empty">No row failed.</p>', "failed")
    total = tally.failures.total()
    said = f"{len(rows):,} of the {total:,} failed rows are shown, with examples of every code."
    note = "" if len(rows) == total else f'<p class="note">{said}</p>'
    body = "".join(
        f'<tr>{_row_number(row)}{_image(row, images)}<td class="code"><code>{escape(row.code)}</code></td>'
        f'<td class="detail">{fold(_detail(row))}</td><td class="caption">{fold(row.text)}</td>'
        f'<td class="url">{reference(row.url)}</td></tr>'
        for row in rows
    )
    heads = [("row", "n"), ("image", "fixed"), ("code", ""), ("detail", ""), ("caption", ""), ("reference", "")]
    return section("Failed rows", note + table("Rows without a score", heads, body, kind="rows failed"), "failed")


def _scored_table(rows: Sequence[ReportRow], images: Mapping[Any, bytes], caption: str) -> str:
    if not rows:
        return '<p class="empty">No row has a score.</p>'
    body = "".join(
        f'<tr>{_row_number(row)}{_image(row, images)}<td class="n score" data-v="{row.similarity!r}">'
        f'{_score(row.similarity)}</td><td class="caption">{fold(row.text)}</td>'
        f'<td class="url">{reference(row.url)}</td></tr>'
        for row in rows
    )
    heads = [("row", "n"), ("image", "fixed"), ("score", "n"), ("caption", ""), ("reference", "")]
    return table(caption, heads, body, kind="rows")


def _facts(tally: Tally, summary: Mapping[str, Any]) -> str:
    facts = [(name, summary[name]) for name in _FACTS if summary.get(name) not in (None, "")]
    facts.append(("score", _KINDS[tally.kind]))
    stages = ", ".join(f"{name} {charts.duration(float(s))}" for name, s in (summary.get("seconds") or {}).items())
    versions = ", ".join(f"{name} {number}" for name, number in (summary.get("versions") or {}).items())
    facts += [(name, value) for name, value in (("time by stage", stages), ("versions", versions)) if value]
    note = "<p class='note'>Stages run side by side on several threads; their times add up to more than the total.</p>"
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{listed}</dl>{note if stages else ""}'


def _row_number(row: ReportRow) -> str:
    return f'<td class="n number" data-v="{row.number}">{row.number:,}</td>'


def _image(row: ReportRow, images: Mapping[Any, bytes]) -> str:
    return image_cell(images.get(row.source), f"image of row {row.number}")


def _detail(row: ReportRow) -> str:
    """Return the part of an error after its code."""
    error = row.error or "neither a score nor an error"
    return error if row.code == OTHER else error.partition(":")[2].strip()


def _number(count: int) -> str:
    return f'<td class="n" data-v="{count}">{count:,}</td>'


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
