"""The summary of a run, as in `<out>.summary.json`."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any

from ..encoders import ModelInfo
from ..metrics import Histogram
from ..records import Progress
from ..system import package_version
from ..workspace import Part
from .failures import columns_there
from .probability import summary_of

_POINTS = 300


@dataclass(frozen=True, slots=True, repr=False)
class Summary:
    """The summary of a run, including all its attempts.

    Args:
        input: Table that was read.
        output: Table that was written.
        info: Description of the model.
        score: Kind of score, as in `Config`.
        rows: Number of rows.
        scored: Number of rows with a score.
        captions_cut: Number of captions with a score that are longer than the model can read, so that their end is
            ignored; a row may have several captions. None if the engine cannot tell.
        failures: Number of rows without a score, by error code.
        seconds: Seconds per stage, summed over threads; `total` is the wall-clock time of scoring.
        pairs_per_second: Number of rows divided by the seconds of `total`.
        throughput: Points [seconds, rows finished by then], with seconds as in `total`.
        versions: Versions of the libraries that scores depend on.
        warnings: Warnings for users of the scores.
        job: Everything that the scores depend on: the input's digest, rows and columns, the settings, and the weights.
        output_content: Hash of the output file.
        similarity: The `mean`, `min`, `p5`, `p25`, `median`, `p75`, `p95` and `max` of the scores, with quantiles
            accurate to a thousandth of the range of `score`; None if there are no scores, or several for each pair.
        probability: The same figures for the column `probability`, if there is one.
    """

    input: str
    output: str
    info: ModelInfo
    score: str
    rows: int
    scored: int
    captions_cut: int | None
    failures: dict[str, int]
    seconds: dict[str, float]
    pairs_per_second: float
    throughput: list[tuple[float, int]]
    versions: dict[str, str]
    job: dict[str, Any]
    output_content: str
    warnings: list[str] = field(default_factory=list)
    similarity: dict[str, float] | None = None
    probability: dict[str, float] | None = None

    def __repr__(self) -> str:
        said = "".join(f", {name}={text!r}" for name, text in self._shown()[2:])
        return f"Summary({self.scored:,} of {self.rows:,} rows scored{said})"

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._shown())
        return f"<table>{''.join(rows)}</table>"

    def _shown(self) -> list[tuple[str, str]]:
        """Return the facts for a short description of the run."""
        found = [("rows", f"{self.rows:,}"), ("scored", f"{self.scored:,}"), ("model", self.info.model)]
        found += [(name, f"{values['mean']:.4f}") for name, values in (("mean", self.similarity),) if values]
        found += [(f"failed: {code}", f"{count:,}") for code, count in self.failures.items()]
        return [*found, ("output", self.output)]

    @property
    def columns(self) -> tuple[str, str]:
        """Columns of images and captions that were read."""
        settings = self.job["settings"]
        return settings["col_url"], settings["col_text"]

    @property
    def columns_there(self) -> tuple[str | None, str | None]:
        """The columns that the input has; shards have no column of references."""
        return columns_there(self.job["input_columns"], self.columns)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the summary file, with the model's facts as separate members."""
        values = asdict(self)
        del values["info"]
        return {"input": self.input, "output": self.output, **self.info.as_dict(), **values}


def outcome(
    parts: Sequence[Part], kind: str, captions_cut: int | None = 0, calibration: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the figures of all parts together, keyed by the names of the members of `Summary`.

    Args:
        parts: All parts of a run.
        kind: The score kind.
        captions_cut: Number of truncated captions in rows whose results are from an earlier run; None if unknown.
        calibration: Calibration of the probabilities, as in the identity of a run; None if there are none.
    """
    failures: Counter[str] = Counter()
    seconds: Counter[str] = Counter({"total": 0})
    for part in parts:
        failures.update(part.failures)
        seconds.update(part.seconds)
    rows = sum(part.rows for part in parts)
    ends = accumulate((part.seconds["total"] for part in parts), initial=0.0)
    points = list(zip(ends, accumulate((part.rows for part in parts), initial=0), strict=True))
    shown = points[:: max(1, -(-len(points) // _POINTS))]
    return {
        "rows": rows,
        "scored": sum(part.scored for part in parts),
        "captions_cut": (
            None if None in (cut := [captions_cut, *(part.captions_cut for part in parts)]) else sum(filter(None, cut))
        ),
        "failures": dict(sorted(failures.items())),
        "seconds": {stage: round(s, 3) for stage, s in sorted(seconds.items())},
        "pairs_per_second": round(rows / max(seconds["total"], 1e-6), 2),
        "throughput": [(round(at, 3), done) for at, done in dict.fromkeys([*shown, *points[-1:]])],
        "similarity": None if (scores := _scores(parts, kind)) is None else scores.summary(),
        "probability": summary_of(scores, calibration),
    }


def _scores(parts: Sequence[Part], kind: str) -> Histogram | None:
    """Return the histogram of all parts; None if the scores of a part were not counted."""
    scores = Histogram(kind)
    for part in parts:
        if part.scores is None:
            return None
        scores.take(part.scores)
    return scores


def versions() -> dict[str, str]:
    """Return the versions of the libraries that scores depend on."""
    found = {"python": platform.python_version(), "text-image-similarity": package_version()}
    for name in ("torch", "transformers", "onnxruntime", "openvino", "pillow", "httpx", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def together(summaries: Sequence[Summary], source: str, folder: str) -> Summary:
    """Combine the summaries of one or more outputs into one."""
    failures: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for one in summaries:
        failures.update(one.failures)
        seconds.update(one.seconds)
    rows, first = sum(one.rows for one in summaries), summaries[0]
    cut = [one.captions_cut for one in summaries]
    return replace(
        first,
        input=source,
        output=folder,
        rows=rows,
        scored=sum(one.scored for one in summaries),
        captions_cut=None if None in cut else sum(filter(None, cut)),
        failures=dict(sorted(failures.items())),
        seconds={stage: round(s, 3) for stage, s in sorted(seconds.items())},
        pairs_per_second=round(rows / max(seconds["total"], 1e-6), 2),
        throughput=[],
        similarity=None,
        probability=None,
        warnings=list(dict.fromkeys(text for one in summaries for text in one.warnings)),
        output_content="",
    )


def after(progress: Progress, summaries: Sequence[Summary]) -> Progress:
    """Return a progress callback that continues from earlier files; the total grows with each file."""
    rows, scored = sum(one.rows for one in summaries), sum(one.scored for one in summaries)

    def show(done: int, failed: int, total: int) -> None:
        progress(rows + done, rows - scored + failed, rows + total)

    return show
