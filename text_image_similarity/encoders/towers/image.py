"""Build image towers by name: two mobile networks that are defined here, and classifiers of torchvision and timm.

`mobilenet_v2` follows Sandler et al. 2018; `efficientnet_lite0` follows EfficientNet-Lite (Tan and Le 2019 without
squeeze-and-excitation, with ReLU6). Both networks have batch norm folded into the convolutions and TensorFlow's SAME
padding, because their published ImageNet weights were trained that way.
"""

from __future__ import annotations

import re
from typing import cast

from torch import Tensor, nn

from ...errors import ConfigError

Mean = tuple[float, float, float]
_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Expansion, channels, repeats, stride and kernel of each stage: table 2 of MobileNetV2; EfficientNet-B0's table 1.
_STAGES = {
    "mobilenet_v2": (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3),
    ),
    "efficientnet_lite0": (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
    ),
}  # fmt: skip
_FEATURES = 1280


class Backbone(nn.Module):
    """A network that turns normalised pixels (n, 3, s, s) into features (n, width).

    Args:
        features: The network, without its classifier.
        width: Width of the features.
        mean: Mean of each channel, for pixels scaled to 0..1.
        std: Standard deviation of each channel.
    """

    def __init__(self, features: nn.Module, width: int, *, mean: Mean, std: Mean):
        super().__init__()
        self.features = features
        self.width = width
        self.mean = mean
        self.std = std

    def forward(self, pixels: Tensor) -> Tensor:
        return pool(self.features(pixels))


def pool(features: Tensor) -> Tensor:
    """Average a feature map (n, c, h, w) over its positions; return features of shape (n, c) unchanged."""
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


class SameConv2d(nn.Conv2d):
    """A convolution with stride 2 and TensorFlow's SAME padding, which puts the extra row and column at the far end.

    An odd side gets the usual symmetric padding. For an even side, zeros in front of the kernel make the window start
    one position later; copying the input to pad it would take longer than the convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self._kernel(x), self.bias, 2, self.kernel_size[0] // 2, groups=self.groups)

    def folded(self, x: Tensor) -> nn.Conv2d:
        """Return the plain convolution that is equivalent for inputs of the shape of `x`, (n, c, h, w)."""
        kernel = self._kernel(x)
        height, width = kernel.shape[2:]
        plain = nn.Conv2d(
            self.in_channels, self.out_channels, (height, width), 2, self.kernel_size[0] // 2, groups=self.groups
        )
        plain.weight = nn.Parameter(kernel, requires_grad=False)
        plain.bias = self.bias
        return plain

    def _kernel(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] % 2 == 0, x.shape[3] % 2 == 0
        return nn.functional.pad(self.weight, (int(width), 0, int(height), 0))


class ConvReLU6(nn.Sequential):
    """A convolution with folded batch norm, SAME padding and, unless `linear`, a ReLU6."""

    def __init__(self, c_in: int, c_out: int, size: int, *, stride: int = 1, groups: int = 1, linear: bool = False):
        if stride == 1:
            conv = nn.Conv2d(c_in, c_out, size, padding=size // 2, groups=groups)
        else:
            conv = SameConv2d(c_in, c_out, size, stride, groups=groups)
        super().__init__(conv, *([] if linear else [nn.ReLU6(inplace=True)]))


class InvertedResidual(nn.Module):
    """A block that expands, filters each channel and projects, and adds the input if the shape is unchanged."""

    def __init__(self, c_in: int, c_out: int, size: int, *, stride: int, expansion: int):
        super().__init__()
        hidden = c_in * expansion
        expand = [ConvReLU6(c_in, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvReLU6(hidden, hidden, size, stride=stride, groups=hidden),
            ConvReLU6(hidden, c_out, 1, linear=True),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def build_backbone(name: str, image_size: int) -> Backbone:
    """Build an image tower with random weights.

    Args:
        name: Name of the network, as in `DualEncoderConfig.image_tower`.
        image_size: Side of the images, in pixels.

    Raises:
        ConfigError: The network does not exist, or does not return one vector per image.
        ModelNameError: An image would take too much memory or time.
    """
    if name in _STAGES:
        return Backbone(_mobile(name), _FEATURES, mean=_HALF, std=_HALF)
    if name.startswith("timm/"):
        return _timm(name.removeprefix("timm/"), image_size)
    return _torchvision(name, image_size)


def _mobile(name: str) -> nn.Sequential:
    blocks: list[nn.Module] = [ConvReLU6(3, 32, 3, stride=2)]
    width = 32
    for expansion, channels, repeats, stride, size in _STAGES[name]:
        for i in range(repeats):
            first = stride if i == 0 else 1
            blocks.append(InvertedResidual(width, channels, size, stride=first, expansion=expansion))
            width = channels
    blocks.append(ConvReLU6(width, _FEATURES, 1))
    return nn.Sequential(*blocks)


def _torchvision(name: str, image_size: int) -> Backbone:
    from torchvision import models  # needed only for models that use one of its networks

    if name not in models.list_models(module=models):
        known = ", ".join(_STAGES)
        raise ConfigError(
            f"image_tower={name!r} is not one of {known}, a classification model of torchvision, or timm/NAME"
        )
    if name in ("googlenet", "inception_v3"):
        raise ConfigError(f"image_tower={name!r} has auxiliary outputs in training; choose another network")
    network = models.get_model(name, weights=None)
    for head in ("classifier", "fc", "heads", "head"):
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
            break
    return Backbone(network, _width(network, name, image_size), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)


def _timm(name: str, image_size: int) -> Backbone:
    try:
        import timm
    except ImportError as exc:
        raise ConfigError(f"image_tower='timm/{name}' needs timm: pip install timm") from exc
    if not re.fullmatch(r"[\w.-]+", name):  # timm would look for a folder or a hub model
        raise ConfigError(f"image_tower='timm/{name}' is not the name of one of timm's networks")
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(f"image_tower='timm/{name}': timm cannot build it ({exc})") from exc
    data = network.pretrained_cfg
    return Backbone(
        network,
        _width(network, name, image_size),
        mean=cast(Mean, tuple(data["mean"])),
        std=cast(Mean, tuple(data["std"])),
    )


def _width(network: nn.Module, name: str, image_size: int) -> int:
    """Return the width of a network's features, after checking the cost of an image, without computing them."""
    from ..image_cost import check_image_cost  # takes a tenth of a second, and is needed only for these networks

    try:
        features = check_image_cost(
            f"the image tower {name}", network, lambda tower, images: tower(images), (image_size, image_size)
        )
    except (RuntimeError, AssertionError, ValueError) as exc:
        raise ConfigError(f"image_tower={name!r} does not accept images of {image_size} pixels: {exc}") from exc
    if not isinstance(features, Tensor) or features.ndim not in (2, 4):
        raise ConfigError(f"image_tower={name!r} does not return one vector per image; choose another network")
    return features.shape[1]
