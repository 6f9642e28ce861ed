"""A training step: encode a batch in parts, compare all its pairs, and update the weights.

With several parts, the batch is encoded twice: first for the loss and its gradient with respect to the vectors, then
part by part for the weights. Memory is therefore needed for only one part, while the loss still compares every pair
(GradCache, Gao et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.dual_encoder import token_ids
from ..encoders.towers import DualEncoder
from ..errors import ConfigError, ModelError
from .config import TrainConfig
from .data import Batch, seed_of
from .losses import info_nce, sigmoid_loss
from .optimisation import warmup_cosine

_LARGEST_LOG_SCALE = 4.6052  # ln 100, as in CLIP


class Stepper:
    """Updates a model's weights, one batch at a time.

    Args:
        model: Model on its device.
        tokenizer: Tokenizer of the model.
        config: The settings of the run.
        steps: Number of steps of the whole run.
    """

    def __init__(self, model: DualEncoder, tokenizer: Tokenizer, config: TrainConfig, steps: int):
        self._model, self._tokenizer, self._config, self._steps = model, tokenizer, config, steps
        self._loss = info_nce if config.loss == "info_nce" else sigmoid_loss
        self._device = next(model.parameters()).device
        self._dtype = choose_dtype(config, self._device)
        backbone = list(model.backbone.parameters())
        model.backbone.requires_grad_(config.image_lr > 0)
        known = {id(p) for p in backbone}
        rest = [p for p in model.parameters() if id(p) not in known]
        self._weights = [p for p in (*backbone, *rest) if p.requires_grad]
        # No weight decay for biases, norms and the temperature.
        groups = [
            {"params": [p for p in part if p.requires_grad and (p.ndim > 1) == decayed], "peak": peak,
             "weight_decay": config.weight_decay if decayed else 0.0}
            for part, peak in ((backbone, config.image_lr), (rest, config.lr))
            for decayed in (True, False)
        ]  # fmt: skip
        self.optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr)
        mean, std = model.backbone.mean, model.backbone.std
        self._mean = torch.tensor(mean, device=self._device).view(3, 1, 1) * 255
        self._std = torch.tensor(std, device=self._device).view(3, 1, 1) * 255
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=self._dtype == torch.float16)

    def step(self, batch: Batch, number: int) -> float:
        """Train on a batch and return its loss.

        Args:
            batch: Batch of at least two pairs.
            number: Number of the step in the whole run, from 0.

        Raises:
            ModelError: The loss or its gradient is not finite; the weights are unchanged.
        """
        self._model.train()
        self._model.backbone.train(self._config.image_lr > 0)  # a frozen tower also keeps its statistics
        for group in self.optimiser.param_groups:
            warmup = max(1, round(self._config.warmup * self._steps))
            group["lr"] = group["peak"] * warmup_cosine(number, self._steps, warmup)
        size = -(-len(batch.captions) // self._config.grad_accum)
        parts = [slice(start, start + size) for start in range(0, len(batch.captions), size)]
        self.optimiser.zero_grad()
        if len(parts) == 1:
            image, text = self._encode(batch, parts[0], number)
            loss = self._compare(image, text)
            torch.autograd.backward(self.scaler.scale(loss))
        else:
            loss = self._in_parts(batch, parts, number)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self._weights, self._config.clip_norm)
        value = float(loss.detach())
        # In fp16, the scaler skips a step with an infinite gradient, and uses a smaller scale for the next one.
        if not math.isfinite(value) or not (self.scaler.is_enabled() or math.isfinite(float(norm))):
            raise ModelError(
                f"at step {number + 1} the loss is {value} and the norm of its gradient is {float(norm)}; start again"
                " with a lower --lr, or with --precision fp32"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with torch.no_grad():
            self._model.log_logit_scale.clamp_(max=_LARGEST_LOG_SCALE)
        return value

    def _in_parts(self, batch: Batch, parts: list[slice], number: int) -> Tensor:
        with torch.no_grad():
            encoded = [self._encode(batch, part, number) for part in parts]
        image = torch.cat([one for one, _ in encoded]).requires_grad_()
        text = torch.cat([one for _, one in encoded]).requires_grad_()
        loss = self._compare(image, text)
        torch.autograd.backward(self.scaler.scale(loss))  # computes the gradients of the vectors, and of scale and bias
        for part in parts:
            with self._still_statistics():
                again = self._encode(batch, part, number)  # the same dropout, so the same vectors
            torch.autograd.backward(again, (image.grad[part], text.grad[part]))  # type: ignore[index]
        return loss

    def _encode(self, batch: Batch, part: slice, number: int) -> tuple[Tensor, Tensor]:
        """Encode some pairs into unit vectors of images and texts, (m, d) each, in float32."""
        torch.manual_seed(seed_of(self._config.seed, -1, number, part.start))
        pixels = batch.pixels[part].to(self._device)
        pixels = (pixels.float() - self._mean) / self._std
        ids = token_ids(self._tokenizer, batch.captions[part]).to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            image = self._model.image(pixels.contiguous(memory_format=torch.channels_last))
            text = self._model.text(ids)
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    def _compare(self, image: Tensor, text: Tensor) -> Tensor:
        return self._loss(image, text, self._model.log_logit_scale.exp(), self._model.logit_bias)

    @contextmanager
    def _still_statistics(self) -> Iterator[None]:
        """Keep a part from counting twice in batch norm's running statistics."""
        norms = [m for m in self._model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def choose_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype in which the towers compute; weights and loss stay in float32.

    Raises:
        ConfigError: fp16 was requested without CUDA, or bf16 on a device that does not support it.
    """
    if config.precision == "fp16" and device.type != "cuda":
        raise ConfigError("precision='fp16' needs CUDA in training; use auto, fp32 or bf16")
    bf16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    if config.precision == "bf16" and not bf16:
        raise ConfigError(f"precision='bf16' is not supported on {device}; use fp32")
    if config.precision == "fp16":
        return torch.float16
    return (
        torch.bfloat16
        if config.precision == "bf16" or (device.type == "cuda" and bf16 and config.precision == "auto")
        else torch.float32
    )
