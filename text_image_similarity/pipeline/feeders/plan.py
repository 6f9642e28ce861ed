"""Decide how many feeders a session has, and the limits of each.

Limits apply to all feeders together: threads, concurrent requests to a host, and retries are divided among them.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ...config import Config
from ...decode.isolation import heif_module
from ...encoders import Encoder, OverlappingEncoder, PreparingEncoder
from ...errors import ConfigError
from ...system import usable_cores
from ..pixel_loader import Preparer
from .preparers import Unchanged, preparer_of

_RING_BYTES = 512 << 20  # bytes of pixels in transit; three or four batches if that is more
_MANY_CORES = 8  # with more cores than this, one process cannot feed an encoder on the CPU
_FEW_CORES = 4  # with fewer cores than this, the process that feeds the GPU uses all of them itself
_LONG_RUN = 512  # images of a run after which `auto` starts feeders: starting takes as long as loading a few hundred
_AHEAD = 64  # minimum number of images in transit for each feeder


@dataclass(frozen=True, slots=True)
class FeederSettings:
    """The settings that a feeder receives when it starts.

    Args:
        config: The run's settings, with this feeder's share of the threads and of the requests to a host.
        preparer: Object that prepares images for the encoder.
        fingerprint: Fingerprint of the encoder.
        cores: Number of images that the feeder decodes concurrently.
        share: The feeder's share of the run's downloads.
        heif: Module that registers an opener for HEIF, or None.
    """

    config: Config
    preparer: Preparer
    fingerprint: str
    cores: int
    share: float
    heif: str | None


@dataclass(frozen=True, slots=True)
class FeederPlan:
    """The feeders of a session.

    Args:
        settings: Settings of each feeder.
        after: Number of images that a run loads itself before it starts the feeders.
        look_ahead: Maximum number of images of a run in progress at a time.
        slots: Number of images that fit in the shared memory.
        slot_bytes: Bytes for each image; 0 if images are not arrays of one size.
        patience_s: Wall-clock seconds for one image, after which its feeder is considered hung.
        silence_s: Seconds without a sign of life, after which a feeder is considered hung.
    """

    settings: tuple[FeederSettings, ...]
    after: int
    look_ahead: int
    slots: int
    slot_bytes: int
    patience_s: float
    silence_s: float = 30.0


def look_ahead_of(config: Config, prepares: bool) -> int:
    """Return how many rows of a run may be in progress at a time.

    Args:
        config: The settings of the run.
        prepares: Whether images wait at the model's size; if they wait at full size, fewer are in progress.
    """
    if prepares:
        return max(8 * config.batch_size, 4 * config.io_workers)
    return max(2 * config.batch_size, config.io_workers)


def plan_feeders(config: Config, encoder: Encoder, *, skips: bool = False) -> FeederPlan | None:
    """Return the feeders for a session, or None if this process loads its images itself.

    Args:
        config: The session's settings.
        encoder: The session's encoder.
        skips: Whether there are embeddings from earlier runs. Feeders cannot see those embeddings, and would decode
            images that this process does not have to decode.

    Raises:
        ConfigError: `config.feeders` is a number, but the encoder's preprocessing cannot be sent to another process.
    """
    skips = skips or config.embedding_cache is not None
    count = config.feeders if config.feeders != "auto" else 0 if skips else _automatic(encoder)
    preparer = preparer_of(encoder) if count else None
    if count and not _can_be_sent(preparer):
        if config.feeders == "auto":
            return None
        raise ConfigError(
            f"feeders={count}, but {type(encoder).__name__} cannot prepare images in another process: add an attribute "
            "`preparer`, a small object that can be pickled, with `decode_side` and `prepare`, or set feeders=0"
        )
    count = min(count, config.limits.per_host)
    if not count or preparer is None:
        return None
    slot_bytes = _bytes_of(preparer)
    look_ahead = max(look_ahead_of(config, isinstance(encoder, PreparingEncoder)), _AHEAD * count)
    if slot_bytes:
        look_ahead = min(look_ahead, max(2 * config.batch_size, _RING_BYTES // slot_bytes - config.batch_size))
    in_progress = 2 if isinstance(encoder, OverlappingEncoder) and encoder.overlaps else 1  # batches
    return FeederPlan(
        tuple(_settings(config, preparer, encoder.info.fingerprint or "", place, count) for place in range(count)),
        _LONG_RUN if config.feeders == "auto" else 0,
        look_ahead,
        look_ahead + in_progress * config.batch_size,
        slot_bytes,
        max(60.0, 6 * config.limits.decode_s),  # more than an isolated decoder's own limit
    )


def _automatic(encoder: Encoder) -> int:
    """Return how many feeders, of several threads each, keep this machine's encoder busy."""
    cores = usable_cores()
    on_gpu = (encoder.info.device or "").startswith(("cuda", "mps"))
    if not (cores > _MANY_CORES or (on_gpu and cores >= _FEW_CORES)):
        return 0
    return 0 if isinstance(preparer_of(encoder), Unchanged) else cores // 2


def _settings(config: Config, preparer: Preparer, fingerprint: str, place: int, count: int) -> FeederSettings:
    limits = replace(config.limits, per_host=_share(config.limits.per_host, place, count))
    own = replace(config, limits=limits, io_workers=max(1, _share(config.io_workers, place, count)), feeders=0)
    cores = -(-usable_cores() // count)
    return FeederSettings(own, preparer, fingerprint, cores, 1 / count, heif_module())


def _share(whole: int, place: int, count: int) -> int:
    return whole // count + (place < whole % count)


def _can_be_sent(preparer: Preparer | None) -> bool:
    if preparer is None or type(preparer).__module__ == "__main__":  # other processes lack that module
        return False
    try:
        pickle.dumps(preparer)
    except Exception:  # any exception of an object that cannot be pickled
        return False
    return True


def _bytes_of(preparer: Preparer) -> int:
    """Return the size of a prepared image in bytes; 0 if it does not consist of arrays."""
    prepared: Any = preparer.prepare(Image.new("RGB", (64, 64)))
    arrays = prepared if isinstance(prepared, tuple) else (prepared,)
    return sum(array.nbytes for array in arrays) if all(isinstance(array, np.ndarray) for array in arrays) else 0
