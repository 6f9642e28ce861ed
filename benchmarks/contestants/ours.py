"""This package: `score_pairs` on local files."""

from __future__ import annotations

from typing import Any

from text_image_similarity import Config, Record, RunStats, load_encoder, score_pairs

from ..inputs import INPUTS, MODEL, Row
from . import Score


def load(**options: Any) -> Score:
    config = Config(**{"model": str(MODEL), "base_dir": str(INPUTS), "device": "cpu", **options})
    encoder = load_encoder(config)

    def score(rows: list[Row]) -> list[float]:
        stats = RunStats()
        records = (Record(row.url, row.caption) for row in rows)
        scores = [result.similarity for result in score_pairs(records, config, encoder=encoder, stats=stats)]
        if stats.failures:
            raise RuntimeError(f"rows failed: {dict(stats.failures)}")
        return scores

    return score
