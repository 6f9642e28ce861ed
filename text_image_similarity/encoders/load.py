"""Models behind two verbs: `encode_image` and `encode_text`.

`load_encoder` finds the model that a `Config` names and hands it to the file of its family; each family imports its own
heavy libraries, so naming this package costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from PIL import Image

from ..config import DEFAULT_MODEL, Config
from ..errors import ConfigError, ModelUnavailableError
from ..preprocess import ImageLike, Pixels
from ..similarity import Embeddings
from .zipped import on_disk

if TYPE_CHECKING:
    from .two_tower import TwoTowerEncoder


# Hub models whose exact weights are known, by alias.
_ALIASES = {"fast": DEFAULT_MODEL, "accurate": "openai/clip-vit-large-patch14"}
_PINNED = {
    DEFAULT_MODEL: "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
}


class Encoder(Protocol):
    """A dual encoder: pictures and texts become vectors in one space. Safe to share between threads.

    `score_pairs` needs no more than the two verbs; `score_csv` writes the other facts into its summary.
    """

    @property
    def model(self) -> str:
        """Hub id, folder or alias of the model."""

    @property
    def revision(self) -> str | None:
        """Commit of a hub model, or None."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`, `mps`."""

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `int8`."""

    @property
    def embed_dim(self) -> int:
        """Width of the shared space."""

    @property
    def context_length(self) -> int:
        """Longest caption in tokens; longer ones are cut."""

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with before a softmax or sigmoid."""

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        """Encode pictures (PIL images of any size and mode, or RGB arrays (h, w, 3) uint8) to unit vectors.

        Pixels count as they are: EXIF orientation is a matter of files, which `score_pairs` and `score_images` read.

        Returns:
            Shape (n, embed_dim), float32; a row is not finite where the model gave no finite answer.
        """

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Encode captions to unit vectors, shape (n, embed_dim), float32."""


@runtime_checkable
class PreparingEncoder(Encoder, Protocol):
    """An encoder whose pictures and captions can be made ready ahead of time, on other threads."""

    @property
    def fingerprint(self) -> str | None:
        """What its embeddings depend on besides pixels and words, or None; equal ones may share an embedding cache."""

    @property
    def decode_side(self) -> int | None:
        """Shorter side, in pixels, that pictures may be reduced to while they are decoded; None: decode them whole."""

    def prepare(self, image: Image.Image) -> Pixels:
        """Bring one picture to the model's size, (h, w, 3) uint8: cheap to hold, safe to call on any thread."""

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        """Encode what `prepare` returned, as `encode_image` would the pictures."""

    def tokenize(self, texts: Sequence[str]) -> Sequence[Any]:
        """Turn captions into what the model reads, one item each; safe to call on any thread."""

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        """Encode items that `tokenize` returned, as `encode_text` would the captions."""


def describe(encoder: Encoder) -> dict[str, Any]:
    """Return what a report says of an encoder: model, revision, device, precision, backend and preprocess mode."""
    facts = {name: getattr(encoder, name, None) for name in ("model", "revision", "device", "precision")}
    backend = getattr(getattr(encoder, "backend", None), "name", None)
    return {**facts, "backend": backend, "preprocess": "fast" if getattr(encoder, "decode_side", None) else "exact"}


def identify(encoder: Encoder) -> dict[str, Any]:
    """Return what `describe` does, and the encoder's `fingerprint`; one without has the name of its class for it."""
    return {**describe(encoder), "fingerprint": getattr(encoder, "fingerprint", None) or type(encoder).__qualname__}


def model_folder(name: str) -> Path:
    """Return the folder that a model's name stands for, if it stands for one; `mini`'s is this package's."""
    if name == "mini":
        return on_disk(Path(__file__).resolve().parent.parent / "weights" / "mini")
    return Path(name).expanduser()


def load_encoder(config: Config) -> Encoder:
    """Load the model that `config` names onto its device.

    Args:
        config: `model`, `revision`, `device`, `precision`, `backend`, `preprocess` and `model_cache` are used.

    Returns:
        An encoder that may be shared between calls and threads.

    Raises:
        ModelUnavailableError: There is no such folder, or the hub is out of reach and the cache does not hold it.
        ModelError: The model is there but cannot be used.
        ConfigError: The device, backend or precision is not available here, or not for this model.
    """
    name = str(config.model)
    folder = model_folder(name)
    if folder.is_dir():
        if config.revision is not None:
            raise ConfigError(f"revision={config.revision!r} is for hub models; {name} is a folder and has none")
        dual_encoder = _shape(folder).get("model_type") == "dual_encoder"
        load = partial(_dual_encoder, folder) if dual_encoder else partial(_clip, str(folder), None, trusted=False)
        from .fingerprint import unchanged

        with unchanged(folder):
            return _load(name if dual_encoder else str(folder), folder, config, load)
    if isinstance(config.model, PathLike) or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelUnavailableError(f"model folder {name} does not exist")
    name = _ALIASES.get(name, name)
    pinned = _PINNED.get(name)
    revision = config.revision or pinned
    from .hub import cached_folder, require_model

    require_model(name, revision)
    load = partial(_clip, name, revision, trusted=revision is not None and revision == pinned)
    encoder = _load(name, cached_folder(name, revision), config, load)
    commit = cached_folder(name, revision)
    return replace(encoder, revision=commit.name if commit else None)


def _load(name: str, folder: Path | None, config: Config, load: Callable[[Config], TwoTowerEncoder]) -> TwoTowerEncoder:
    """Load a model on the backend that `config` asks for; `folder` is where its files are, as far as they are here."""
    from .onnx_backend import load_onnx, wanted

    if not wanted(config, _shape(folder) if folder else {}):
        return load(config)
    return load_onnx(name, folder, config, load)


def _dual_encoder(folder: Path, config: Config) -> TwoTowerEncoder:
    from .dual_encoder import load_dual_encoder

    return load_dual_encoder(folder, config)


def _clip(name: str, revision: str | None, config: Config, *, trusted: bool) -> TwoTowerEncoder:
    from .clip import load_clip

    return load_clip(name, config, revision=revision, trusted=trusted)


def _shape(folder: Path) -> dict[str, Any]:
    """Read what a model's `config.json` says."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnavailableError(f"{folder} is not a model folder: its config.json cannot be read ({exc})") from exc
    return found if isinstance(found, dict) else {}
