"""ONNX Runtime as a backend: the CPU's fastest here, two to three times torch.

A model is exported once (`onnx_export`) into a folder of the user's cache that is named by the fingerprint of its files;
from then on neither torch nor transformers is loaded for it. What lies in that cache decides scores, so only people who
are trusted may write there. A batch is shared out over one thread a core, a few pictures a call, which
keeps activations in the processor's cache. How many there are in a call moves no bit of a vector, but for a single
caption, which therefore goes with a copy of itself; a test holds that. In int8 every picture and caption is a call of its own: activations are
rounded to the range of what is encoded together, and neighbours must not move a score.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from platformdirs import user_cache_path
from tokenizers import Tokenizer

from ..config import Config
from ..errors import ConfigError, ModelError
from ..preprocess import Pixels, Preprocess
from ..similarity import Embeddings
from .fingerprint import fingerprint
from .tokens import Ids, Tokens, tokens_of
from .two_tower import TwoTowerEncoder

logger = logging.getLogger("text_image_similarity")

T = TypeVar("T")
_LAYOUT = 3  # of the exported folders; another number leaves old ones aside
# NVIDIA's driver, its Jetson boards, AMD's driver, Windows' GPUs in WSL.
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/nvgpu", "/dev/kfd", "/dev/dxg")
_IMAGES, _CAPTIONS = 4, 8  # in a call, at most; more fall out of the processor's cache
_WIDTH = 4  # captions are padded to multiples of so many tokens


def wanted(config: Config, shape: dict[str, Any]) -> bool:
    """Say whether a model is to run on ONNX Runtime.

    Args:
        config: `backend`, `precision` and `device` are used.
        shape: The model's `config.json`, or an empty one while it is not known.

    Raises:
        ConfigError: That was asked for and cannot be had: the extra is missing, or model or device are none of its.
    """
    asked = config.backend == "onnx" or config.precision == "int8"
    if config.backend == "torch":
        return False  # which refuses int8 itself
    # SigLIP's tokenizer is no single file, and the exporter cannot trace packed sequences.
    if shape.get("model_type") == "siglip" or shape.get("text_tower") in ("lstm", "gru"):
        if asked:
            raise ConfigError(f"{config.model} cannot run on ONNX Runtime; use backend='torch' and another precision")
        return False
    if config.precision == "fp16" or not (config.device == "cpu" or (config.device == "auto" and _no_gpu())):
        if asked:
            raise ConfigError("backend='onnx' and precision='int8' run on the CPU, in fp32 or int8; set device='cpu'")
        return False
    if missing := [name for name in ("onnxruntime", "onnx", "onnxscript") if find_spec(name) is None]:
        if asked:
            raise ConfigError(
                f"backend='onnx' and precision='int8' need {', '.join(missing)}: pip install 'text-image-similarity[onnx]'"
            )
        return False
    return True


def _no_gpu() -> bool:
    """Say whether this machine is known to have no GPU, without the seconds that loading torch takes to tell."""
    if sys.platform == "linux" and not any(map(os.path.exists, _GPU_FILES)):
        return True
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def load_onnx(
    name: str, folder: Path | None, config: Config, load_torch: Callable[[Config], TwoTowerEncoder]
) -> TwoTowerEncoder:
    """Open a model's exported form, which is made first if there is none.

    Args:
        name: What the encoder is called.
        folder: Where the model's files are, as far as they are here.
        config: `precision`, `preprocess`, `backend` and `cache_dir` are used.
        load_torch: Loads the model itself.

    Returns:
        The exported model; or, with `backend="auto"` in float32, what `load_torch` gives if the model cannot be exported or
        its exported form cannot be opened.

    Raises:
        ModelError: The model cannot be loaded; or, where its exported form was asked for, it cannot be exported, not to
            embeddings that are near enough, or not be opened.
    """
    precision = "int8" if config.precision == "int8" else "fp32"
    for_torch = replace(config, device="cpu", precision="fp32", backend="torch")
    weights = fingerprint(folder) if folder else None
    loaded: TwoTowerEncoder | None = None
    if weights is None or not _folder(config, weights, precision).is_dir():  # or files that are not all here yet
        loaded = load_torch(for_torch)
        weights = loaded.weights
    try:
        if weights is None:
            raise ModelError(f"the files of {name} are not to be found, by which its exported form is known")
        exported = _folder(config, weights, precision)
        if loaded is not None:
            _export_once(loaded, exported, precision)
        return _open(name, exported, weights, config)
    except ModelError as exc:
        if config.backend == "onnx" or precision == "int8":
            raise
        logger.warning("%s runs on torch instead of ONNX Runtime, which is faster: %s", name, exc)
        return loaded or load_torch(for_torch)


def _folder(config: Config, weights: str, precision: str) -> Path:
    cache = Path(config.cache_dir).expanduser() if config.cache_dir else user_cache_path("text-image-similarity")
    return cache / "onnx" / f"{weights}-{precision}-{_LAYOUT}"


def _export_once(encoder: TwoTowerEncoder, folder: Path, precision: str) -> None:
    """Export a model unless another process has done so meanwhile.

    Raises:
        ModelError: It cannot be exported.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):  # of several processes one exports and the others wait
            if not folder.is_dir():
                logger.info("exporting %s to ONNX, once, which takes half a minute: %s", encoder.model, folder)
                from .onnx_export import export

                export(encoder, folder, int8=precision == "int8")
    except ModelError:
        raise
    except Exception as exc:  # the exporters have kinds of their own, and the folder may be full or not ours
        raise ModelError(f"{encoder.model} cannot be exported to ONNX: {type(exc).__name__}: {exc}") from exc


def _open(name: str, folder: Path, weights: str, config: Config) -> TwoTowerEncoder:
    """Open an exported folder.

    Raises:
        ModelError: It is damaged, or not of this model.
    """
    try:
        facts = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        if facts["weights"] != weights:
            raise ValueError("it is of another model")
        tokens = open_tokens(folder, facts)
        return TwoTowerEncoder(
            model=name,
            revision=None,
            embed_dim=facts["embed_dim"],
            context_length=facts["context_length"],
            logit_scale=facts["logit_scale"],
            preprocess=_preprocess(facts["preprocess"], fast=config.preprocess == "fast"),
            tokens=tokens,
            backend=open_backend(folder, tokens, precision="int8" if config.precision == "int8" else "fp32"),
            weights=weights,
        )
    except Exception as exc:  # ONNX Runtime and tokenizers raise exceptions of their own kinds
        raise ModelError(f"the exported model in {folder} cannot be opened; delete it to export anew: {exc}") from exc


def open_tokens(folder: Path, facts: dict[str, Any]) -> Tokens:
    """Read the tokenizer of an exported folder."""
    tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.encode_special_tokens = facts["encode_special_tokens"]  # which its file does not hold
    return tokens_of(tokenizer, pad=facts["pad"], if_empty=facts["if_empty"])


def _preprocess(facts: dict[str, Any], *, fast: bool) -> Preprocess:
    if fast:
        import torch  # noqa: F401 - which resizes then; loaded here, not within the time of the first picture
    size, crop = facts["size"], facts["crop"]
    return Preprocess(
        size=size if isinstance(size, int) else (size[0], size[1]),
        crop=crop and (crop[0], crop[1]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        resample=Image.Resampling(facts["resample"]),
        fast=fast,
    )


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """Two exported towers.

    Args:
        image_session, text_session: ONNX Runtime sessions of one thread each.
        tokens: What pads the ids.
        workers: The threads that share the calls.
        precision: `fp32` or `int8`.
    """

    image_session: Any
    text_session: Any
    tokens: Tokens
    workers: Workers
    precision: str

    @property
    def name(self) -> str:
        return "onnx"

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def batch_invariant(self) -> bool:
        return True  # see the module

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        step = self._at_once(len(pixels), _IMAGES)
        batches = [np.stack(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return self._run(self.image_session, batches, least=1)

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        alone = self.precision == "int8"
        batches = self.tokens.batches(rows, most=self._at_once(len(rows), _CAPTIONS), step=1 if alone else _WIDTH)
        return self._run(self.text_session, list(batches), least=1 if alone else 2)

    def _at_once(self, count: int, most: int) -> int:
        return 1 if self.precision == "int8" else min(most, -(-count // self.workers.count))

    def _run(self, session: Any, batches: list[NDArray[Any]], *, least: int) -> Embeddings:
        def features(batch: NDArray[Any]) -> Embeddings:
            filled = batch if len(batch) >= least else batch.repeat(least, axis=0)
            found: Embeddings = session.run(None, {"input": filled})[0]
            return found[: len(batch)]

        return np.concatenate(self.workers.map(features, batches))


class Workers:
    """A number of threads, started anew in a forked process, where a parent's threads do not follow."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = Lock()
        self._process = 0

    def map(self, work: Callable[[T], Embeddings], items: Sequence[T]) -> list[Embeddings]:
        """Return what the threads make of each item, in order."""
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="score-onnx")
                    self._process = os.getpid()
        return list(self._pool.map(work, items))


def open_backend(folder: Path, tokens: Tokens, *, precision: str) -> OnnxBackend:
    """Open the two graphs of an exported folder."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    image, text = (
        onnxruntime.InferenceSession(folder / f"{tower}.onnx", options, providers=["CPUExecutionProvider"])
        for tower in ("image", "text")
    )
    return OnnxBackend(image, text, tokens, Workers(_cores()), precision)


def _cores() -> int:
    """Return the cores this process may use: OMP_NUM_THREADS, as torch reads it, or those it is bound to."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
