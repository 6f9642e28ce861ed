"""ImageNet weights for an image tower: downloaded by torchvision or timm, or from a safetensors file."""

from __future__ import annotations

import urllib.error
import urllib.request
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..encoders.towers import Backbone
from ..errors import ModelError, ModelUnavailableError, UsageError

_WAIT_S = 5
_EPSILON = 1e-5  # epsilon of torchvision's batch norm


def load_image_weights(backbone: Backbone, tower: str, weights: str | PathLike[str]) -> None:
    """Load pretrained weights into an image tower.

    Args:
        backbone: The tower with random weights.
        tower: Name of the tower.
        weights: `imagenet`, `none`, or a safetensors file with the parameter names of torchvision's network; batch norm
            is folded into the convolutions of a tower that has no batch norm.

    Raises:
        ModelUnavailableError: The weights cannot be downloaded, or there is no such file.
        ModelError: The file does not fit the tower.
    """
    if str(weights) == "none":
        return
    if str(weights) == "imagenet":
        given = _download(tower)
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ModelUnavailableError(f"image_weights={path} must be a file, imagenet or none")
        try:
            given = load_file(path)
        except (OSError, SafetensorError, MemoryError) as exc:
            raise ModelError(f"{path} is not a readable safetensors file: {exc}") from exc
    if tower == "mobilenet_v2" and any("running_mean" in name for name in given):
        _fold(backbone.features, given, weights)
        return
    known = backbone.features.state_dict()
    fitting = {name: value for name, value in given.items() if name in known and value.shape == known[name].shape}
    missing = [name for name in known if name not in fitting and not name.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"image_weights={weights} do not fit {tower}: {len(missing)} of its {len(known)} tensors are missing or have"
            f" another shape, such as {missing[0]}"
        )
    backbone.features.load_state_dict(fitting, strict=False)


def _fold(features: nn.Module, given: dict[str, Tensor], source: str | PathLike[str]) -> None:
    """Load the weights of torchvision's MobileNetV2 into convolutions without batch norm.

    Both networks name their layers in order of execution, so the n-th convolutions correspond.
    """
    names = [name.removesuffix(".weight") for name, value in given.items() if value.ndim == 4]
    names.sort(key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
    ours = [module for module in features.modules() if isinstance(module, nn.Conv2d)]
    try:
        for name, conv in zip(names, ours, strict=True):
            parent, _, last = name.rpartition(".")
            norm = f"{parent}.{int(last) + 1}"  # a convolution is followed by its batch norm
            norms = [given[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
            # Checked before anything is computed, because other shapes might be broadcast to a far larger one.
            if given[f"{name}.weight"].shape != conv.weight.shape or any(
                each.shape != (conv.out_channels,) for each in norms
            ):
                raise ValueError(f"{name} has another shape")
            scale = given[f"{norm}.weight"] / torch.sqrt(given[f"{norm}.running_var"] + _EPSILON)
            with torch.no_grad():
                conv.weight.copy_(given[f"{name}.weight"] * scale[:, None, None, None])
                assert conv.bias is not None
                conv.bias.copy_(given[f"{norm}.bias"] - given[f"{norm}.running_mean"] * scale)
    except (KeyError, ValueError, RuntimeError) as exc:
        raise ModelError(f"image_weights={source} are not torchvision's MobileNetV2: {exc}") from exc


def _download(tower: str) -> dict[str, Tensor]:
    advice = "set --image-weights to a safetensors file, or to none to start from random weights"
    if tower.startswith("timm/"):
        import timm

        try:
            network = timm.create_model(tower.removeprefix("timm/"), pretrained=True, num_classes=0)
        except Exception as exc:  # timm lets all exceptions of its hub client through
            raise ModelUnavailableError(f"the weights of {tower} cannot be downloaded ({exc}); {advice}") from exc
        return dict(network.state_dict())
    if tower in ("mobilenet_v2", "efficientnet_lite0"):
        raise UsageError(f"image_weights='imagenet' is not available for {tower} with its SAME padding; {advice}")
    from torchvision import models

    weights = models.get_model_weights(tower).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        if not cached.exists():
            # Connect first with a short timeout, because the download itself has none.
            urllib.request.urlopen(urllib.request.Request(weights.url, method="HEAD"), timeout=_WAIT_S).close()
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as exc:
        raise ModelUnavailableError(f"the weights of {tower} cannot be downloaded ({exc}); {advice}") from exc
    return state
