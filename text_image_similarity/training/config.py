"""Every setting of a training run, validated once. Defaults are the documented baseline."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Literal, get_args

from ..checks import at_least, one_of
from ..config import Config
from ..errors import ConfigError

Loss = Literal["info_nce", "sigmoid"]
TextTowerName = Literal["lstm", "gru", "transformer"]
TrainPrecision = Literal["auto", "fp32", "bf16", "fp16"]

# The settings of the model itself; all others determine how it is trained.
MODEL_SETTINGS = (
    "image_tower", "image_weights", "text_tower", "init", "embed_dim", "head_width", "text_width", "text_layers",
    "vocab_size", "context_length", "image_size", "dropout", "temperature",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The settings of a training run.

    Args:
        image_tower: `mobilenet_v3_small` (Howard et al. 2019), another classifier of torchvision, `mobilenet_v2`,
            `efficientnet_lite0`, or `timm/NAME` (needs timm).
        image_weights: Initial weights of the image tower: `imagenet` downloads torchvision's or timm's weights, `none`
            means random weights, and any other value is a safetensors file with torchvision's parameter names.
        text_tower: `lstm`, `gru` or `transformer`.
        init: Folder of a trained model, or `mini`, to start from; the run uses that model's towers, vocabulary and
            temperature, so no other option for the model can be given.
        embed_dim: Dimension of the embeddings.
        head_width: Hidden width of the projections to embeddings; 0 makes them linear.
        text_width: Width of the text tower; a multiple of 32 for a transformer.
        text_layers: Layers of the text tower.
        vocab_size: Maximum number of pieces in the vocabulary, which is learned from the training captions.
        context_length: Longest caption, in tokens; longer ones are truncated.
        image_size: Side of the images, in pixels.
        dropout: Share of activations that are dropped, 0 to 0.9.
        temperature: Initial value of the learned temperature.
        loss: `info_nce` (CLIP) or `sigmoid` (SigLIP).
        epochs: Passes over the training photos, each with one caption drawn at random.
        batch_size: Number of pairs that the loss compares with each other.
        grad_accum: Number of parts in which a batch is encoded, to save memory; the loss still compares all
            pairs of the batch.
        lr: Peak learning rate of the text tower and the projections.
        image_lr: Peak learning rate of the image tower; 0 freezes it.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps during which the learning rate rises; afterwards it falls to zero along half a
            cosine.
        clip_norm: Norm to which larger gradients are clipped.
        ema: Decay of the moving average of the weights, which is validated and saved; 0 disables averaging.
        patience: Number of epochs without a better validation recall after which training stops; 0 disables this.
        augment: Whether images are cropped and mirrored at random, with random brightness, contrast and saturation.
        splits: `own` uses the splits of the data set; `random` splits it 60/20/20 by photo; `auto` is `own` if there is
            a train split, and `random` otherwise.
        col_url: Column of images or of references to them, if the source is a table; `url` also finds a column of
            images with another name, as in `score`.
        col_text: Column of captions, if the source is a table.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto` is `bf16` on CUDA if the GPU supports it, and `fp32` otherwise; `fp16` needs CUDA.
        seed: Seed of the split, the initial weights, the order, the choice of captions, the augmentation and dropout.
        workers: Threads that load images while the model is trained.
        checkpoint_steps: Steps between checkpoints within an epoch; a checkpoint is always written at the end of an
            epoch.
        tracking: URI of an MLflow store or server; `none` disables tracking.
        experiment: Name of the MLflow experiment.
        loading: Settings for fetching and decoding images, and for relative references; its `io_workers` and
            `batch_size` apply to validation. Its model and device are not used.

    Raises:
        ConfigError: A value is outside its choices or range.
    """

    image_tower: str = "mobilenet_v3_small"
    image_weights: str | PathLike[str] = "imagenet"
    text_tower: TextTowerName = "lstm"
    init: str | PathLike[str] | None = None
    embed_dim: int = 256
    head_width: int = 0
    text_width: int = 256
    text_layers: int = 1
    vocab_size: int = 10_000
    context_length: int = 64
    image_size: int = 224
    dropout: float = 0.1
    temperature: float = 0.07
    loss: Loss = "info_nce"
    epochs: int = 15
    batch_size: int = 128
    grad_accum: int = 1
    lr: float = 1e-3
    image_lr: float = 2e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.99
    patience: int = 5
    augment: bool = True
    splits: Literal["auto", "own", "random"] = "auto"
    col_url: str = "url"
    col_text: str = "caption"
    device: str = "auto"
    precision: TrainPrecision = "auto"
    seed: int = 0
    workers: int = 4
    checkpoint_steps: int = 500
    tracking: str = "sqlite:///mlflow.db"
    experiment: str = "text-image-similarity"
    loading: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        one_of("loss", self.loss, get_args(Loss))
        one_of("text_tower", self.text_tower, get_args(TextTowerName))
        one_of("precision", self.precision, get_args(TrainPrecision))
        one_of("splits", self.splits, ("auto", "own", "random"))
        for name in ("embed_dim", "text_width", "text_layers", "epochs", "grad_accum", "workers", "checkpoint_steps"):
            at_least(name, getattr(self, name), 1)
        for name in ("head_width", "patience", "seed"):
            at_least(name, getattr(self, name), 0)
        for name, least in (("vocab_size", 3), ("context_length", 3), ("image_size", 32), ("batch_size", 2)):
            at_least(name, getattr(self, name), least)
        for name, low, high in (
            ("dropout", 0.0, 0.9), ("temperature", 0.001, 10.0), ("lr", 0.0, 1.0), ("image_lr", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0), ("warmup", 0.0, 1.0), ("clip_norm", 1e-6, 1e6), ("ema", 0.0, 0.999999),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"{name}={value!r} must be a number from {low:g} to {high:g}")
        if self.grad_accum > self.batch_size:
            raise ConfigError(f"grad_accum={self.grad_accum} must not exceed batch_size={self.batch_size}")
        if self.init is not None:
            brought = set(MODEL_SETTINGS) - {"init"}
            given = [f.name for f in fields(self) if f.name in brought and getattr(self, f.name) != f.default]
            if given:
                raise ConfigError(f"{', '.join(given)} cannot be set with init={str(self.init)!r}, which has its own")

    def fixed(self) -> dict[str, object]:
        """Return the settings that a resumed run must not change; device, loading, checkpoints and tracking may."""
        free = ("device", "workers", "checkpoint_steps", "tracking", "experiment", "loading")
        return {
            name: str(value) if isinstance(value, PathLike) else value
            for name, value in asdict(self).items()
            if name not in free
        }
