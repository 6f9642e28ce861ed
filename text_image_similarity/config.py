"""Every setting of a run, validated once.

Defaults are literals. Nothing here reads the environment, opens a file or loads a library.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Literal, get_args

from .checks import at_least, auto_or_at_least, is_text_encoding, networks_of, one_of, ports_of, seconds, true_or_false
from .errors import ConfigError, InputTypeError

Precision = Literal["auto", "fp32", "fp16", "int8"]
BackendName = Literal["auto", "torch", "onnx", "openvino"]
PreprocessMode = Literal["exact", "fast"]
ScoreKind = Literal["cosine", "unit", "clip_score", "clipscore"]  # of an image and a text
RowScore = Literal[ScoreKind, "ref_clipscore"]  # and of a row with reference captions
Feeding = Literal["auto"] | int
Quoting = Literal["auto", "minimal", "none", "backslash"]

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
NOWHERE = os.devnull  # a `files_under` that no file is under
_PROXY = re.compile(
    r"(?:https?|socks5h?)://(?:[^\s:@/?#\[\]]+(?::[^\s:@/?#\[\]]*)?@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})/?",
    re.ASCII,
)
_SERVER = re.compile(
    r"(?:https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:/[\w./~-]*)?"
    r"|grpcs?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5})",
    re.ASCII,
)
_REDIS = re.compile(
    r"rediss?://(?:[^\s/?#@]*@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(?:/\d{0,4})?", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one row may cost, and what it may reach.

    Args:
        connect_s: Seconds to open a connection.
        total_s: Seconds for all downloading of a row: tries, redirects and pauses, but not the wait for a place at a busy
            host.
        max_bytes: Largest image file, in bytes after any content decoding.
        max_pixels: Largest image, in pixels.
        max_side: Longest side of an image, in pixels.
        decode_s: Seconds of processor time to decode one image with `isolate_decoder`; by the clock it may take three times
            as long.
        decode_memory: Bytes of memory to decode one image with `isolate_decoder`.
        per_host: Requests to one host at a time.
        allow_private_addresses: Let http(s) references reach private and loopback addresses, such as those of your own network; in a
            service only if you trust its clients. Link-local addresses and clouds' metadata stay out of reach.
        allow_networks: Private networks that they may reach without it, such as `10.1.0.0/16`.
        allow_ports: Ports below 1024, besides 80 and 443, that they may reach.
        allow_local_files: Read paths and `file:` references; a service never does.
        respect_opt_out: Fail an image with `disallowed_by_origin` if its origin opts out with `X-Robots-Tag`, see
            docs/images.md#opting-out.

    Raises:
        ConfigError: A value is outside its range.
    """

    connect_s: float = 3.0
    total_s: float = 25.0
    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 30_000
    decode_s: float = 5.0
    decode_memory: int = 1 << 30
    per_host: int = 8
    allow_private_addresses: bool = False
    allow_networks: tuple[str, ...] = ()
    allow_ports: tuple[int, ...] = ()
    allow_local_files: bool = True
    respect_opt_out: bool = False

    def __post_init__(self) -> None:
        for name in ("connect_s", "total_s", "decode_s"):
            seconds(name, getattr(self, name), 0.001)
        for name in ("max_bytes", "max_pixels", "max_side", "decode_memory", "per_host"):
            at_least(name, getattr(self, name), 1)
        for name in ("allow_private_addresses", "allow_local_files", "respect_opt_out"):
            true_or_false(name, getattr(self, name))
        object.__setattr__(self, "allow_networks", networks_of("allow_networks", self.allow_networks))
        object.__setattr__(self, "allow_ports", ports_of("allow_ports", self.allow_ports))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How CSV and TSV files are written.

    Args:
        delimiter: The character between two fields, or `tab`; by default a comma in CSV and a tab in TSV.
        quoting: `minimal`: a field may be quoted, with quotation marks in it doubled; `backslash`: with a backslash before them;
            `none`: quotation marks belong to the text. `auto` is `minimal`, but a table whose fields are separated by tabs is
            refused if a field begins with a quotation mark, because such tables are written in both ways.
        encoding: Their character encoding, such as `cp1252`; by default UTF-8, or UTF-16 with a byte-order mark.

    Raises:
        ConfigError: A value is outside its choices.

    Example:
        >>> Dialect(delimiter="tab").delimiter
        '\\t'
    """

    delimiter: str | None = None
    quoting: Quoting = "auto"
    encoding: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.delimiter, str) and self.delimiter.lower() in ("tab", "\\t"):
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (
            not isinstance(self.delimiter, str) or len(self.delimiter) != 1 or self.delimiter in '"\\\r\n\0'
        ):
            raise ConfigError(
                f"delimiter={self.delimiter!r} must be tab or one character, not a quotation mark or backslash"
            )
        one_of("quoting", self.quoting, get_args(Quoting))
        if self.encoding is not None and not is_text_encoding(self.encoding):
            raise ConfigError(
                f"encoding={self.encoding!r} is not an encoding that Python knows; try utf-8, cp1252, gb18030 or utf-16"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a run.

    Args:
        model: Hub id, local folder, name of an open_clip model (see docs/models.md), or one of `fast` (CLIP ViT-B/32, the
            default), `accurate` (CLIP ViT-L/14) and `mini` (small, ships with this package, needs no download).
        revision: Commit, tag or branch of a hub model; by default the pinned one of `fast` and `accurate`.
        device: `auto` picks CUDA, then MPS, then the CPU; or `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto` is fp16 on CUDA and MPS and fp32 on the CPU; `int8`, for the CPU, is faster but moves scores a
            little, see docs/performance.md#int8.
        backend: What runs the model: `torch`, `onnx` (ONNX Runtime on the CPU, equal scores, needs the `onnx` extra),
            `openvino` (OpenVINO on the CPU, equal scores, needs the `openvino` extra, see docs/performance.md#openvino), or
            `auto`, the faster one of the first two that is installed.
        triton_url: An inference server that runs the towers of an export, such as `http://triton:8000` or `grpc://triton:8001`, see
            docs/triton.md; by default they run in this process.
        preprocess: `exact` equals OpenAI's pipeline; `fast` decodes large JPEGs at a reduced scale, resizes with torch, and
            moves scores a little, see docs/performance.md#fast-preprocessing.
        batch_size: Images or captions encoded at once; more helps on a GPU, up to a few hundred.
        score: `cosine` (-1..1), `unit` (`(cos+1)/2`, four decimals), `clip_score` (`100*max(cos,0)`), `clipscore`
            (`2.5*max(cos,0)`, Hessel et al. 2021) or `ref_clipscore` (RefCLIPScore of the same paper, for rows with reference
            captions), see docs/scoring.md.
        timeout_s: Seconds for one try of a download; the limit `total_s`, for all tries together, ends it earlier.
        retries: Further tries of a download, for failures that may pass.
        io_workers: Threads that fetch and decode; raise it for slow or distant hosts.
        feeders: Processes that fetch, decode and resize images beside the one that encodes them, at most one for each request that
            `per_host` allows; 0 is none. `auto` starts them in long runs on a machine with a GPU or more than 8 cores, see
            docs/scale.md#feeders.
        isolate_decoder: Decode in worker processes with limits of time and memory, where an image that crashes or hangs the
            decoder costs one row; a little slower, see docs/images.md#what-the-decoder-reads.
        chunk_size: Rows of a part, the most that a stopped run of a table loses; batches end with their part, so raise it
            on a GPU.
        proxy: What http(s) references are fetched through: `http://`, `https://`, `socks5://` or `socks5h://` and
            `host:port` or `user:password@host:port`; by default none, whatever the environment says. Names are looked up
            here as far as possible, except with `socks5h`, and refused if they lead to private addresses, see
            docs/images.md#proxies.
        ca_file: Certificates in PEM, a file or a folder, that https connections trust beside the system's and those that
            `SSL_CERT_FILE` or `REQUESTS_CA_BUNDLE` name, see docs/images.md#certificates.
        headers_file: JSON file with headers for single hosts, such as `{"images.example.com": {"Authorization": "..."}}`,
            which no other host is sent, see docs/images.md#headers-for-single-hosts.
        base_dir: Folder that relative paths start from; by default the folder of the table, or the working directory where
            there is none.
        files_under: Folder that local files must be in, wherever `..` and links lead; `/` allows any. By default the one that a
            table's relative paths start from; none for a table at a URL or in a database, and any for records that no table holds,
            see docs/your-data.md#which-files-a-table-may-name.
        model_cache: Folder where exported models are kept; only people you trust should be able to write to it. By default
            it is in the user's cache folder.
        embedding_cache: File that keeps embeddings from run to run, created if it does not exist; runs and processes may share
            it. Or `redis://host:port/database` (`rediss://` with TLS, `redis://:password@host` with a password), which
            machines may share, see docs/operating.md#an-embedding-cache-for-all-replicas. By default they are kept in memory
            only, see docs/scoring.md#many-calls-one-session.
        limits: What one row may cost, and what it may reach.
        dialect: How the CSV and TSV files of a table are written.

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
    triton_url: str | None = None
    preprocess: PreprocessMode = "exact"
    batch_size: int = 32
    score: RowScore = "cosine"
    timeout_s: float = 10.0
    retries: int = 2
    io_workers: int = 16
    feeders: Feeding = "auto"
    isolate_decoder: bool = False
    chunk_size: int = 1000
    proxy: str | None = field(default=None, repr=False)  # it may hold a password
    ca_file: str | PathLike[str] | None = None
    headers_file: str | PathLike[str] | None = None
    base_dir: str | PathLike[str] | None = None
    files_under: str | PathLike[str] | None = None
    model_cache: str | PathLike[str] | None = None
    embedding_cache: str | PathLike[str] | None = field(default=None, repr=False)  # it may hold a password
    limits: Limits = field(default_factory=Limits)
    dialect: Dialect = field(default_factory=Dialect)

    def __post_init__(self) -> None:
        if not isinstance(self.model, (str, PathLike)) or not str(self.model):
            raise ConfigError(
                f"model={self.model!r} is not valid; give a hub id, a folder, or one of fast, accurate, mini"
            )
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device={self.device!r} is not one of auto, cpu, mps, cuda, cuda:0, cuda:1, ...")
        one_of("precision", self.precision, get_args(Precision))
        one_of("backend", self.backend, get_args(BackendName))
        one_of("preprocess", self.preprocess, get_args(PreprocessMode))
        one_of("score", self.score, get_args(RowScore))
        _fitting(self.device, self.precision, self.backend)
        for name in ("batch_size", "io_workers", "chunk_size"):
            at_least(name, getattr(self, name), 1)
        at_least("retries", self.retries, 0)
        auto_or_at_least("feeders", self.feeders, 0)
        true_or_false("isolate_decoder", self.isolate_decoder)
        for name in ("base_dir", "files_under", "model_cache", "embedding_cache", "ca_file", "headers_file"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (str, PathLike)) and str(value)):
                raise ConfigError(f"{name} must be a path, not {value!r}")
        proxy = None if self.proxy is None else _PROXY.fullmatch(str(self.proxy))
        if self.proxy is not None and not (proxy and 0 < int(proxy[2]) < 65536):
            raise ConfigError(  # without the value, which may hold a password
                "proxy must look like http://host:port or http://user:password@host:port, with http, https, socks5 or "
                "socks5h; in the user name or password, write %40 for @, %3A for : and %2F for /"
            )
        if self.triton_url is not None and not _SERVER.fullmatch(str(self.triton_url)):
            raise ConfigError(
                f"triton_url={self.triton_url!r} must look like http://host:8000 or grpc://host:8001, with http, https, grpc or grpcs"
            )
        _check_cache(self.embedding_cache)
        seconds("timeout_s", self.timeout_s, 0.001)
        if not isinstance(self.limits, Limits):
            raise ConfigError(f"limits must be a Limits({', '.join(f.name for f in fields(Limits))})")
        if not isinstance(self.dialect, Dialect):
            raise ConfigError(f"dialect must be a Dialect({', '.join(f.name for f in fields(Dialect))})")


ConfigLike = Config | str | PathLike[str] | None  # a model's name stands for the defaults with that model


def _check_cache(place: str | PathLike[str] | None) -> None:
    """Raise a `ConfigError` where an embedding cache's place begins like a Redis's address and is not one."""
    if not is_redis(place):
        return
    address = _REDIS.fullmatch(str(place))
    if not address or (address[1] is not None and not 0 < int(address[1]) < 65536):
        raise ConfigError(  # without the value, which may hold a password
            "embedding_cache must look like redis://host:port/database or redis://user:password@host:port/database, with "
            "redis or rediss; in the user name or password, write %40 for @, %3A for : and %2F for /"
        )


def _fitting(device: str, precision: Precision, backend: BackendName) -> None:
    """Raise a `ConfigError` where no machine and no model could have a device, a precision and a backend together."""
    if precision == "int8" and backend == "torch":
        raise ConfigError(
            "precision='int8' needs ONNX Runtime; set backend='onnx' or backend='auto', or another precision"
        )
    if backend in ("onnx", "openvino") and precision == "fp16":
        raise ConfigError(
            f"backend={backend!r} runs in fp32 or int8; for precision='fp16' set backend='torch' or backend='auto'"
        )
    if (backend in ("onnx", "openvino") or precision == "int8") and device not in ("auto", "cpu"):
        cause = "precision='int8'" if backend == "auto" else f"backend={backend!r}"
        raise ConfigError(f"{cause} runs on the CPU, not on device={device!r}; set device='cpu'")
    if precision == "fp16" and device == "cpu":
        raise ConfigError("precision='fp16' needs a GPU; with device='cpu' use auto or fp32")


def is_redis(place: str | PathLike[str] | None) -> bool:
    """Say whether an embedding cache's place is a Redis and not a file."""
    return isinstance(place, str) and place.startswith(("redis://", "rediss://"))


def as_config(config: ConfigLike) -> Config:
    """Return settings: those given, the defaults for None, and for a text or a path the defaults with that model.

    Raises:
        ConfigError: The text is empty.
        InputTypeError: It is something else.
    """
    if config is None:
        return Config()
    if isinstance(config, (str, PathLike)):
        return Config(model=config)
    require_config(config)
    return config


def require_config(config: object) -> None:
    """Raise an `InputTypeError` unless something is a `Config`."""
    if not (
        hasattr(config, "model") and hasattr(config, "limits")
    ):  # the class may have been loaded twice, as on Snowflake
        raise InputTypeError.of("config", "a Config, such as Config(model='mini')", config)


def pair_score(config: Config, where: str) -> ScoreKind:
    """Return the score kind of a run whose rows have no reference captions.

    Args:
        config: The settings of the run.
        where: What messages call the run.

    Raises:
        ConfigError: The kind needs references.
    """
    if config.score == "ref_clipscore":
        raise ConfigError(f"score='ref_clipscore' needs reference captions, which {where} does not take")
    return config.score
