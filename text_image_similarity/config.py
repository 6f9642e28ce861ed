"""Every setting of a run, validated once.

Defaults are literals. Nothing here reads the environment, opens a file or loads a library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Literal, get_args

from .errors import ConfigError

Precision = Literal["auto", "fp32", "fp16", "int8"]
BackendName = Literal["auto", "torch", "onnx"]
PreprocessMode = Literal["exact", "fast"]
ScoreKind = Literal["cosine", "unit", "clip_score", "clipscore"]

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
_PROXY = re.compile(r"http://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})/?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one row may cost, and what it may reach.

    Args:
        connect_s: Seconds to open a connection.
        total_s: Seconds for a row's download in all: redirects, retries and waiting included.
        retry_after_s: Longest `Retry-After` that is waited for, in seconds.
        max_redirects: Redirects followed for one picture.
        max_bytes: Largest picture file, in bytes after any content decoding.
        max_pixels: Largest picture, in pixels.
        max_side: Longest side of a picture, in pixels.
        decode_s: Seconds of processor time that decoding one picture may take, with `isolate_decoder`; by the clock it
            may take three times as long.
        decode_memory: Bytes of memory that it may take, with `isolate_decoder`.
        per_host: Requests to one host at a time.
        allow_private_addresses: Whether http(s) references may reach private, loopback and link-local addresses.
        allow_local_files: Whether paths and `file:` references are read.
        respect_opt_out: Whether a picture whose origin opts out with `X-Robots-Tag` (noai, noimageai, noindex,
            noimageindex, none) fails with `disallowed_by_origin`.
    """

    connect_s: float = 3.0
    total_s: float = 25.0
    retry_after_s: float = 30.0
    max_redirects: int = 5
    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 30_000
    decode_s: float = 5.0
    decode_memory: int = 1 << 30
    per_host: int = 8
    allow_private_addresses: bool = False
    allow_local_files: bool = True
    respect_opt_out: bool = False

    def __post_init__(self) -> None:
        for name in ("connect_s", "total_s", "decode_s"):
            seconds(name, getattr(self, name), 0.001)
        for name in ("max_bytes", "max_pixels", "max_side", "decode_memory", "per_host"):
            at_least(name, getattr(self, name), 1)
        seconds("retry_after_s", self.retry_after_s, 0.0)
        at_least("max_redirects", self.max_redirects, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a run.

    Args:
        model: A hub id, a local folder, or an alias: `fast` (CLIP ViT-B/32, the default), `accurate` (CLIP ViT-L/14),
            `mini` (small, ships with this package, needs no download).
        revision: Commit, tag or branch of a hub model; None takes the pinned one of an alias or of the default.
        device: `auto` picks CUDA, then MPS, then the CPU; `cuda:1` names one of several.
        precision: `auto` is fp16 on CUDA and MPS and fp32 on the CPU; `int8` is for the CPU, twice as fast with CLIP,
            and moves scores a little (docs/performance.md).
        backend: What runs the model: `torch`, `onnx` (ONNX Runtime, on the CPU, with the extra of that name), or `auto`, the
            faster one that is installed; their scores are equal.
        preprocess: `exact` equals OpenAI's pipeline; `fast` decodes large JPEGs at a reduced scale and resizes with torch.
        batch_size: Pictures encoded at once.
        score: `cosine` (-1..1), `unit` ((cos+1)/2, four decimals), `clip_score` (100*max(cos,0)) or `clipscore`
            (2.5*max(cos,0), Hessel et al. 2021).
        timeout_s: Seconds for one try of a download; `limits.total_s`, for all tries together, ends it earlier.
        retries: Further tries after the first, for failures that may pass.
        io_workers: Threads that fetch and decode.
        isolate_decoder: Whether encoded pictures are decoded in worker processes, where a crash or a hang of the decoder
            costs one row; slower, see docs/scoring.md.
        chunk_size: Rows of a part. A table's run keeps finished parts when it is stopped; batches end with their part.
        proxy: `http://host:port` that http(s) references are fetched through; None goes to the hosts themselves, whatever
            the environment says. The proxy resolves the names, so that only literal addresses are checked here.
        base_dir: Folder that relative paths start from; None is the working directory.
        cache_dir: Folder where exported models are kept, to be written by none but people you trust; None is the user's
            cache folder.
        embedding_cache: File that keeps embeddings from run to run, made if it is not there; None keeps them for the run
            only. Runs and processes may share it.
        limits: What one row may cost, and what it may reach.

    Raises:
        ConfigError: A value is outside its choices or range.

    Example:
        >>> Config(model="mini", score="unit").batch_size
        32
    """

    model: str | PathLike[str] = DEFAULT_MODEL
    revision: str | None = None
    device: str = "auto"
    precision: Precision = "auto"
    backend: BackendName = "auto"
    preprocess: PreprocessMode = "exact"
    batch_size: int = 32
    score: ScoreKind = "cosine"
    timeout_s: float = 10.0
    retries: int = 2
    io_workers: int = 16
    isolate_decoder: bool = False
    chunk_size: int = 1000
    proxy: str | None = None
    base_dir: str | PathLike[str] | None = None
    cache_dir: str | PathLike[str] | None = None
    embedding_cache: str | PathLike[str] | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not isinstance(self.model, (str, PathLike)) or not str(self.model):
            raise ConfigError(
                f"model={self.model!r} is no model: give a hub id, a folder, or one of fast, accurate, mini"
            )
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device={self.device!r} is not one of auto, cpu, mps, cuda, cuda:0, cuda:1, ...")
        one_of("precision", self.precision, get_args(Precision))
        one_of("backend", self.backend, get_args(BackendName))
        one_of("preprocess", self.preprocess, get_args(PreprocessMode))
        one_of("score", self.score, get_args(ScoreKind))
        for name in ("batch_size", "io_workers", "chunk_size"):
            at_least(name, getattr(self, name), 1)
        at_least("retries", self.retries, 0)
        if not isinstance(self.isolate_decoder, bool):
            raise ConfigError(f"isolate_decoder={self.isolate_decoder!r} is neither True nor False")
        for name in ("cache_dir", "embedding_cache"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (str, PathLike)) and str(value)):
                raise ConfigError(f"{name}={value!r} is no path")
        proxy = None if self.proxy is None else _PROXY.fullmatch(str(self.proxy))
        if self.proxy is not None and not (proxy and 0 < int(proxy[2]) < 65536):
            raise ConfigError(f"proxy={self.proxy!r} is no address like http://proxy.example:3128")
        seconds("timeout_s", self.timeout_s, 0.001)
        if not isinstance(self.limits, Limits):
            raise ConfigError(f"limits must be a Limits({', '.join(f.name for f in fields(Limits))})")


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a `ConfigError` that names the choices unless a setting is one of them."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(choices)}")


def at_least(name: str, value: object, least: int) -> None:
    """Raise a `ConfigError` unless a setting is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")


def seconds(name: str, value: object, least: float) -> None:
    """Raise a `ConfigError` unless a setting is a number of seconds from `least` to a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 86_400:
        raise ConfigError(f"{name}={value!r} must be a number of seconds from {least:g} to 86400, a day")
