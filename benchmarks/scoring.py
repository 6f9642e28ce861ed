"""A run of `score_pairs`, for the sections that measure only this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_image_similarity import Config, Limits, Record, RunStats, load_encoder, score_pairs

from .inputs import INPUTS, MODEL, PHOTOS, read_rows, warm
from .meter import Meter

VIT, MINI = "vit", "mini"


def config_of(model: str, **options: Any) -> Config:
    """Return the settings of a run: `vit` is the ViT-B/32 of the inputs, `mini` the included model."""
    there = {"model": str(MODEL) if model == VIT else model, "base_dir": str(INPUTS)}
    return Config(**{**there, "device": "cpu", **options})


def score(
    *, model: str, pairs: int, table: str = "pairs.csv", server: str = "", options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Time a run on `pairs` rows of a table, from local files or from `server`, after warming up with other rows."""
    there: dict[str, Any] = dict(options or {})
    if server:
        there |= {"limits": Limits(allow_private_addresses=True, per_host=64), "io_workers": 32}
    config = config_of(model, **there)
    encoder = load_encoder(config)
    rows, spare = read_rows(table, pairs), read_rows("pairs.csv", config.batch_size, skip=PHOTOS - config.batch_size)
    warm(rows)
    records, spare_records = ([Record(server + row.url, row.caption) for row in part] for part in (rows, spare))
    list(score_pairs(spare_records, config, encoder=encoder))
    stats = RunStats()
    with Meter() as meter:
        for _ in score_pairs(records, config, encoder=encoder, stats=stats):
            pass
    if stats.failures:
        raise RuntimeError(f"rows failed: {dict(stats.failures)}")
    found = {"pairs": pairs, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds, "stages": dict(stats.seconds)}
    if config.embedding_cache is not None:
        found["cache_mib"] = sum(part.stat().st_size for part in _parts(Path(config.embedding_cache))) / 2**20
    return found


def _parts(cache: Path) -> list[Path]:
    return list(cache.parent.glob(cache.name + "*"))
