"""The pedestrian detector CSP on residual networks.

After Liu, Liao, Ren, Hu and Yu, "High-level semantic feature detection: a new perspective for pedestrian detection",
CVPR 2019: the last three stages of a residual network, the last one dilated instead of strided, are normalised,
deconvolved to stride 4 and concatenated; heads on top say where a centre is, how tall its person, and where in the
cell. The width is predicted as well unless an aspect ratio is given.

>>> detector = CspResNet18({"channels": 8, "aspect": 0.41})
>>> boxes, scores = detector.dense(torch.rand(2, 3, 96, 128))
>>> boxes.shape, scores.shape
(torch.Size([2, 768, 4]), torch.Size([2, 768]))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet, resnet18, resnet50

from secpipeline.detection import configuration
from secpipeline.detection.csp import CspDetector, start_heads
from secpipeline.detection.published_weights import WeightSource, load_into
from secpipeline.errors import InputError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# The length that the paper gives normalised features.
_GAIN = 10.0
_DEFAULTS = {"channels": 256, "aspect": None, "backbone": None}


class _Rise(nn.Module):
    """From a stage's stride up to 4, at unit length times a learned gain."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        padding = (4 - factor) // 2
        self.deconvolution = nn.ConvTranspose2d(inputs, outputs, 4, factor, padding)
        # Not four axes: laid out channels last, a single row of channels has strides that compiled code cannot return.
        self.gain = nn.Parameter(torch.full((outputs, 1, 1), _GAIN))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', factor · h, factor · w)."""
        return F.normalize(self.deconvolution(x).float(), dim=1) * self.gain


class _CspResNet(CspDetector):
    _network: ClassVar[Callable[..., ResNet]]
    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        settings = configuration.read(self.name, config, _DEFAULTS)
        width = configuration.whole(self.name, "channels", settings["channels"], 1, 4096)
        self._log_aspect = _log_aspect(self.name, settings["aspect"])
        super().__init__()
        self.config = {"channels": width, "aspect": settings["aspect"]}
        self.learned_sizes = 2 if self._log_aspect is None else 1
        self.backbone = type(self)._network(weights=None)
        del self.backbone.avgpool
        outputs = self.backbone.fc.in_features
        del self.backbone.fc
        _dilate(self.backbone.layer4)
        self.rises = nn.ModuleList(_Rise(outputs // part, width, f) for part, f in ((4, 2), (2, 4), (1, 4)))
        self.neck = nn.Sequential(
            nn.Conv2d(3 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.centre = nn.Conv2d(width, 1, 1)
        self.scale = nn.Conv2d(width, self.learned_sizes, 1)
        self.offset = nn.Conv2d(width, 2, 1)
        start_heads(self.centre, self.scale, self.offset)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        if settings["backbone"] is not None:
            self._start_from(WeightSource.of(self.name, "backbone", settings["backbone"]))
        self.to(memory_format=torch.channels_last)

    def _start_from(self, source: WeightSource) -> None:
        """Weights of an ImageNet classifier, without its classes. The trained detector no longer needs the file."""
        state = {name: tensor for name, tensor in source.tensors().items() if not name.startswith("fc.")}
        load_into(self.backbone, state, source.path)
        self.started_from = {source.path: source.sha256}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre logits (B, h, w), log sizes (B, 2, h, w) and offsets (B, 2, h, w) of images (B, 3, H, W)."""
        net = self.backbone
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        stages = []
        for stage in (net.layer2, net.layer3, net.layer4):
            x = stage(x)
            stages.append(x)
        risen = torch.cat([rise(x) for rise, x in zip(self.rises, stages, strict=True)], dim=1)
        features = self.neck(risen)
        scale = self.scale(features)
        if self._log_aspect is not None:
            scale = torch.cat([scale, scale + self._log_aspect], dim=1)
        return self.centre(features)[:, 0], scale, self.offset(features)


class CspResNet18(_CspResNet):
    """CSP on ResNet-18.

    Parameters
    ----------
    config
        ``channels``: width of the risen features (default 256). ``aspect``: width over height of every box, 0.41 in
        the paper; left out, the width is predicted. ``backbone``: ``{path, sha256}`` of ImageNet weights in
        torchvision's naming to start from; left out, it starts at random.

    Raises
    ------
    InputError
        If a key is unknown or has an impossible value, or the backbone's file does not fit.
    IntegrityError
        If the backbone's file is not the one that the digest names.
    """

    name = "csp_resnet18"
    _network = resnet18


class CspResNet50(_CspResNet):
    """CSP on ResNet-50, the paper's; ``config`` and errors as for :class:`CspResNet18`."""

    name = "csp_resnet50"
    _network = resnet50


def _log_aspect(name: str, aspect: Any) -> float | None:
    if aspect is None:
        return None
    if type(aspect) not in (int, float) or not 0 < aspect <= 10:
        raise InputError(f"{name}: config key 'aspect' is {aspect!r}; give a width over height such as 0.41")
    return math.log(aspect)


def _dilate(stage: nn.Module) -> None:
    """Keep a stage's resolution: its stride becomes dilation, so that its weights see what they saw before."""
    strided = False
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.kernel_size == (3, 3) and strided and module.stride == (1, 1):
            module.dilation, module.padding = (2, 2), (2, 2)
        strided |= module.stride == (2, 2)
        module.stride = (1, 1)
