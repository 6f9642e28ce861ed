"""Models behind two verbs: `encode_image` and `encode_text`.

`load_encoder` finds the model that a `Config` names and hands it to the file of its family; each family imports its own
heavy libraries, so naming this package costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from ..config import DEFAULT_MODEL, Config
from ..errors import ConfigError, ModelUnavailableError
from ..preprocess import ImageLike, Pixels
from ..similarity import Embeddings

__all__ = ["MINI", "Encoder", "PreparingEncoder", "load_encoder"]

MINI = Path(__file__).resolve().parent.parent / "weights" / "mini"

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
        """`fp32` or `fp16`."""

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
    """An encoder whose pictures can be brought to its size ahead of time, on other threads."""

    def prepare(self, image: Image.Image) -> Pixels:
        """Bring one picture to the model's size, (h, w, 3) uint8: cheap to hold, safe to call on any thread."""

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        """Encode what `prepare` returned, as `encode_image` would the pictures."""


def load_encoder(config: Config) -> Encoder:
    """Load the model that `config` names onto its device.

    Args:
        config: `model`, `revision`, `device` and `precision` are used.

    Returns:
        An encoder that may be shared between calls and threads.

    Raises:
        ModelUnavailableError: There is no such folder, or the hub is out of reach and the cache does not hold it.
        ModelError: The model is there but cannot be used.
        ConfigError: The device or precision is not available here.
    """
    name = str(config.model)
    folder = MINI if name == "mini" else Path(name).expanduser()
    if folder.is_dir():
        if config.revision is not None:
            raise ConfigError(f"revision={config.revision!r} is for hub models; {name} is a folder and has none")
        if _model_type(folder) == "dual_encoder":
            from .dual_encoder import load_dual_encoder

            return load_dual_encoder(folder, config)
        from .clip import load_clip

        return load_clip(str(folder), config, revision=None, trusted=False)
    if isinstance(config.model, PathLike) or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelUnavailableError(f"model folder {name} does not exist")
    name = _ALIASES.get(name, name)
    pinned = _PINNED.get(name)
    revision = config.revision or pinned
    from .hub import require_model

    require_model(name, revision)
    from .clip import load_clip

    return load_clip(name, config, revision=revision, trusted=revision is not None and revision == pinned)


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnavailableError(f"{folder} is not a model folder: its config.json cannot be read ({exc})") from exc
    return str(found.get("model_type", "")) if isinstance(found, dict) else ""
