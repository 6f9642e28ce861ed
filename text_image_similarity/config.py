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
ScoreKind = Literal["cosine", "unit", "clip_score", "clipscore"]  # kinds of score for an image and a text
RowScore = Literal[ScoreKind, "ref_clipscore"]  # the same, and the one for rows with reference captions
Feeding = Literal["auto"] | int
Quoting = Literal["auto", "minimal", "none", "backslash"]

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
NOWHERE = os.devnull  # a `files_under` that contains no file
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
    """Limits on what one row may use and access.

    Args:
        connect_s: Seconds to open a connection.
        total_s: Seconds for all downloads of a row: attempts, redirects and pauses, but not waiting for a busy host.
        max_bytes: Largest image file, in bytes, after any content decoding.
        max_pixels: Largest image, in pixels.
        max_side: Longest side of an image, in pixels.
        decode_s: Seconds of processor time to decode one image with `isolate_decoder`; the limit on wall-clock time is
            three times as long.
        decode_memory: Bytes of memory to decode one image with `isolate_decoder`.
        per_host: Maximum number of concurrent requests to one host.
        allow_private_addresses: Let http(s) references reach private and loopback addresses, such as those on your
            own network; in a service, set it only if you trust its clients. Link-local addresses and cloud metadata
            services are always refused.
        allow_networks: Private networks that references may reach even without `allow_private_addresses`, such as
            `10.1.0.0/16`.
        allow_ports: Ports below 1024, besides 80 and 443, that references may reach.
        allow_local_files: Read local paths and `file:` URLs; a service never does.
        respect_opt_out: Fail an image with `disallowed_by_origin` if its origin opts out with `X-Robots-Tag`; see
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
    """The dialect of CSV and TSV files.

    Args:
        delimiter: The character between two fields, or `tab`; by default, a comma in CSV and a tab in TSV.
        quoting: `minimal`: a field may be quoted, and quotation marks in it are doubled; `backslash`: they are escaped
            with a backslash; `none`: quotation marks are part of the text. `auto` is `minimal`, but refuses rows that
            may follow another convention: with tabs, if a field begins with a quotation mark; otherwise, if a row has
            several lines and a backslash before a quotation mark.
        encoding: Character encoding, such as `cp1252`; by default UTF-8, or UTF-16 if the file has its byte-order mark.

    Raises:
        ConfigError: A value is not valid.

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
                f"delimiter={self.delimiter!r} must be tab or one character other than a quotation mark or backslash"
            )
        one_of("quoting", self.quoting, get_args(Quoting))
        if self.encoding is not None and not is_text_encoding(self.encoding):
            raise ConfigError(
                f"encoding={self.encoding!r} is not an encoding that Python supports; try utf-8, cp1252, gb18030 or utf-16"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a run.

    Args:
        model: Hub id, local folder, name of an open_clip model (see docs/models.md), or one of `fast` (CLIP ViT-B/32,
            the default), `accurate` (CLIP ViT-L/14) and `mini` (small, ships with this package, needs no download).
        revision: Commit, tag or branch of a hub model; by default, a pinned commit for `fast` and `accurate`, and the
            main branch for other models.
        device: `auto` picks CUDA, then MPS, then the CPU; or `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto` is fp16 on CUDA and MPS and fp32 on the CPU; `int8`, on the CPU only, is faster but changes
            scores slightly; see docs/performance.md#int8.
        backend: What runs the model: `torch`, `onnx` (ONNX Runtime on the CPU, same scores, needs the `onnx` extra),
            `openvino` (OpenVINO on the CPU, same scores, needs the `openvino` extra; see docs/performance.md#openvino),
            or `auto`: whichever of `torch` and `onnx` is installed, and the faster one if both are.
        triton_url: URL of an inference server that runs the towers of an export, such as `http://triton:8000` or
            `grpc://triton:8001`; see docs/triton.md. By default, the towers run in this process.
        preprocess: `exact` is OpenAI's pipeline; `fast` decodes large JPEGs at a reduced scale, resizes with torch,
            and changes scores slightly; see docs/performance.md#fast-preprocessing.
        batch_size: Images or captions encoded at once; a larger batch, up to a few hundred, is faster on a GPU.
        score: `cosine` (-1..1), `unit` (`(cos+1)/2`, four decimals), `clip_score` (`100*max(cos,0)`), `clipscore`
            (`2.5*max(cos,0)`, Hessel et al. 2021) or `ref_clipscore` (RefCLIPScore of the same paper, for rows with
            reference captions); see docs/scoring.md.
        timeout_s: Seconds for one attempt to download; the limit `total_s` on all attempts together may end it earlier.
        retries: Number of retries of a download after a temporary failure.
        io_workers: Threads that fetch and decode images; use more for slow or distant hosts.
        feeders: Separate processes that fetch, decode and resize images, at most one for each request that `per_host`
            allows; 0 uses threads of this process only. `auto` starts them in long runs on a machine with more than 8
            cores, or with a GPU and 4 or more; see docs/scale.md#feeders.
        isolate_decoder: Decode in worker processes with limits on time and memory, so that an image that crashes or
            hangs the decoder fails only its own row; this is slightly slower; see
            docs/images.md#what-the-decoder-reads.
        chunk_size: Number of rows in a part. A run that is killed loses at most the current part and the one that is
            being saved; batches never span two parts, so use more rows on a GPU.
        proxy: Proxy for http(s) references: `http://`, `https://`, `socks5://` or `socks5h://`, followed by `host:port`
            or `user:password@host:port`; by default none, even if the environment names one. Except with `socks5h`,
            host names are resolved on this machine where possible, and refused if they resolve to private addresses;
            see docs/images.md#proxies.
        ca_file: File or folder of PEM certificates to trust for https, in addition to the system's and those named by
            `SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE`; see docs/images.md#certificates.
        headers_file: JSON file with headers for individual hosts, such as `{"images.example.com": {"Authorization":
            "..."}}`, which are sent to no other host; see docs/images.md#headers-for-individual-hosts.
        base_dir: Folder that relative paths start from; by default, the folder of the table, or the working directory
            if there is no table.
        files_under: Folder that local files must be in after `..` and links are resolved; `/` allows every file. By
            default, this is the folder that a table's relative paths start from; a table at a URL or in a database may
            name no local file, and images that no table names may be anywhere; see
            docs/your-data.md#which-files-a-table-may-name.
        model_cache: Folder for models exported to ONNX, which only people you trust should be able to change; by
            default, a folder in the user's cache folder.
        embedding_cache: File that stores embeddings between runs, created if it does not exist, which several processes
            may share; or `redis://host:port/database` (`rediss://` with TLS, `redis://:password@host` with a password),
            for several machines; see docs/operating.md#an-embedding-cache-for-all-replicas. By default,
            embeddings are kept in memory only; see docs/scoring.md#many-calls-one-session.
        limits: Limits on what one row may use and access.
        dialect: The dialect of CSV and TSV files.

    Raises:
        ConfigError: A value is not valid, or values cannot be combined.

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
    proxy: str | None = field(default=None, repr=False)  # the URL may contain a password
    ca_file: str | PathLike[str] | None = None
    headers_file: str | PathLike[str] | None = None
    base_dir: str | PathLike[str] | None = None
    files_under: str | PathLike[str] | None = None
    model_cache: str | PathLike[str] | None = None
    embedding_cache: str | PathLike[str] | None = field(default=None, repr=False)  # a URL may contain a password
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
            raise ConfigError(  # without the value, which may contain a password
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


ConfigLike = Config | str | PathLike[str] | None  # a model's name means the defaults with that model


def _check_cache(place: str | PathLike[str] | None) -> None:
    """Raise a `ConfigError` if an embedding cache's place looks like a Redis URL but is not valid."""
    if not is_redis(place):
        return
    address = _REDIS.fullmatch(str(place))
    if not address or (address[1] is not None and not 0 < int(address[1]) < 65536):
        raise ConfigError(  # without the value, which may contain a password
            "embedding_cache must look like redis://host:port/database or redis://user:password@host:port/database, with "
            "redis or rediss; in the user name or password, write %40 for @, %3A for : and %2F for /"
        )


def _fitting(device: str, precision: Precision, backend: BackendName) -> None:
    """Raise a `ConfigError` if this device, precision and backend can never be combined."""
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
    """Tell whether an embedding cache's place is a Redis URL rather than a file."""
    return isinstance(place, str) and place.startswith(("redis://", "rediss://"))


def as_config(config: ConfigLike) -> Config:
    """Return settings as a `Config`: None means the defaults, and a string or path the defaults with that model.

    Raises:
        ConfigError: The string is empty.
        InputTypeError: The value has another type.
    """
    if config is None:
        return Config()
    if isinstance(config, (str, PathLike)):
        return Config(model=config)
    require_config(config)
    return config


def require_config(config: object) -> None:
    """Raise an `InputTypeError` unless a value is a `Config`."""
    # Not `isinstance`, because the class may have been loaded twice, as happens on Snowflake.
    if not (hasattr(config, "model") and hasattr(config, "limits")):
        raise InputTypeError.of("config", "a Config, such as Config(model='mini')", config)


def pair_score(config: Config, where: str) -> ScoreKind:
    """Return the kind of score for a run without reference captions.

    Raises:
        ConfigError: The kind needs references; the message states that `where` does not accept any.
    """
    if config.score == "ref_clipscore":
        raise ConfigError(f"score='ref_clipscore' needs reference captions, which {where} does not accept")
    return config.score
