"""Detectors that look at their input through a filter, and can be attacked through it.

Random resizing (Xie et al., ICLR 2018), JPEG compression (Dziugaite et al., 2016; Guo et al., ICLR 2018) and the median
filter (Xu et al., "Feature squeezing", NDSS 2018). **None of them is a defence against an attacker who knows of it**:
Athalye, Carlini and Wagner ("Obfuscated gradients give a false sense of security", ICML 2018) broke all three. So that
no attack here is fooled by the filter, gradients go through it: exactly where it has any, and past its rounding as if
that were the identity (the straight-through case of their backward-pass differentiable approximation). A random filter
draws anew at every look, which averages over it in an attack of many steps.

>>> detector = Preprocessed({"inner": "csp_tiny", "config": {}, "kind": "median", "strength": 3})
>>> detector.logits(torch.rand(1, 3, 32, 48)).shape
torch.Size([1, 96])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.ranges import check_choice, check_range
from secpipeline.errors import InputError

_BOUNDS = {"jpeg": (1.0, 100.0), "median": (3.0, 7.0), "resize": (0.25, 1.0)}
# ITU-T T.81, annex K: the quantisation of luma and of chroma at quality 50.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Preprocessing:
    """Which filter.

    Attributes
    ----------
    kind
        ``jpeg``, ``median`` or ``resize``.
    strength
        Of ``jpeg`` the quality, 1 to 100; of ``median`` the odd width in pixels, 3 to 7; of ``resize`` the smallest
        factor, 0.25 to 1, of a random shrinking after which the image is enlarged to its size again.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        check_choice("preprocessing.kind", self.kind, tuple(_BOUNDS))
        check_range("preprocessing.strength", self.strength, *_BOUNDS[self.kind])
        if self.kind == "median" and self.strength % 2 != 1:
            raise InputError(f"preprocessing.strength {self.strength}: a median is over an odd number of pixels")


class Preprocessed(Detector):
    """Another detector behind a filter, in training, attack and use alike.

    Parameters
    ----------
    config
        ``inner`` and ``config``: the name and arguments of the detector; ``kind`` and ``strength``: the filter.
    """

    name = "preprocessed"
    looks: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        from secpipeline.detection.registry import named  # noqa: PLC0415 - the registry holds this class too

        if unknown := sorted(config.keys() ^ {"inner", "config", "kind", "strength"}):
            raise InputError(f"preprocessed: config key {unknown[0]!r}; it takes inner, config, kind and strength")
        super().__init__()
        if config["inner"] == self.name:
            raise InputError("preprocessed: one filter a detector")
        self.settings = Preprocessing(config["kind"], float(config["strength"]))
        # By name alone: a file of weights says what is inside, and must not choose which code runs.
        self.inner = named(config["inner"])(config["config"])
        self.config = {"inner": self.inner.name, "config": self.inner.config, **asdict(self.settings)}
        self.started_from = self.inner.started_from
        self.not_exportable = self.inner.not_exportable  # type: ignore[misc] # of the object: as what is inside
        self.placing = self.inner.placing  # type: ignore[misc] # likewise
        if self.settings.kind == "resize":  # part of the state, so that a resumed training draws on
            self.register_buffer("looks", torch.zeros((), dtype=torch.int64))

    def see(self, images: Tensor) -> Tensor:
        """The images (B, 3, H, W) as the inner detector gets them, differentiable."""
        # In full precision whatever the training computes in: a rounded cosine transform would be another filter.
        with torch.autocast(images.device.type, enabled=False):
            return self._filter(images.float())

    def _filter(self, images: Tensor) -> Tensor:
        if self.settings.kind == "jpeg":
            return jpeg(images, self.settings.strength)
        if self.settings.kind == "median":
            return median(images, int(self.settings.strength))
        self.looks += 1
        draw = torch.rand((), generator=torch.Generator().manual_seed(int(self.looks))).item()
        return resample(images, self.settings.strength + (1 - self.settings.strength) * draw)

    def encode(self, truth: Sequence[Truth], height: int, width: int) -> Encoded:
        """Targets of the inner detector; no filter moves anything."""
        return self.inner.encode(truth, height, width)

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Loss terms (B,) of the inner detector."""
        return self.inner.losses(self.see(images), encoded)

    def logits(self, images: Tensor) -> Tensor:
        """Person logits (B, K) of the inner detector."""
        return self.inner.logits(self.see(images))

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, K, 4) and scores (B, K) of the inner detector."""
        return self.inner.dense(self.see(images))


def resample(images: Tensor, factor: float) -> Tensor:
    """Shrink by ``factor`` and enlarge again; exact gradients."""
    height, width = images.shape[2:]
    small = (max(1, round(height * factor)), max(1, round(width * factor)))
    shrunk = F.interpolate(images, small, mode="bilinear", align_corners=False, antialias=True)
    return F.interpolate(shrunk, (height, width), mode="bilinear", align_corners=False)


def median(images: Tensor, width: int) -> Tensor:
    """The median of ``width`` × ``width`` pixels of each channel; the gradient goes to the pixel that was chosen."""
    reach = width // 2
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    windows = padded.unfold(2, width, 1).unfold(3, width, 1)
    return windows.flatten(4).median(dim=4).values


def jpeg(images: Tensor, quality: float) -> Tensor:
    """JPEG at full chroma resolution: what its quantisation leaves, whose rounding gradients pass straight through."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
    colours = torch.tensor(_TO_YCC)
    ycc = torch.einsum("dc,bchw->bdhw", colours.to(padded), padded * 255)
    ycc = ycc - torch.tensor([128.0, 0.0, 0.0]).to(ycc).view(1, 3, 1, 1)
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = ycc.reshape(-1, 3, rows, 8, columns, 8).transpose(3, 4)
    basis = _cosines().to(ycc)
    tables = _tables(quality).to(ycc)[None, :, None, None]
    scaled = (basis @ blocks @ basis.T) / tables
    rounded = scaled + (scaled.round() - scaled).detach()
    restored = (basis.T @ (rounded * tables) @ basis).transpose(3, 4).reshape(padded.shape)
    restored = restored + torch.tensor([128.0, 0.0, 0.0]).to(ycc).view(1, 3, 1, 1)
    rgb = torch.einsum("cd,bdhw->bchw", torch.linalg.inv(colours).to(ycc), restored) / 255
    return _clamp_straight_through(rgb[..., :height, :width])


def _clamp_straight_through(x: Tensor) -> Tensor:
    """A clamp would stop the gradient of every pixel that quantisation pushed past black or white."""
    return x + (x.clamp(0, 1) - x).detach()


def _cosines() -> Tensor:
    """The orthonormal discrete cosine transform of eight samples, (8, 8)."""
    place, frequency = torch.arange(8) + 0.5, torch.arange(8)[:, None]
    basis = torch.cos(math.pi / 8 * place * frequency) / 2
    basis[0] /= math.sqrt(2)
    return basis


def _tables(quality: float) -> Tensor:
    """Quantisation steps (3, 8, 8) at a quality, scaled as libjpeg does."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([_LUMA, _CHROMA, _CHROMA], dtype=torch.float32)
    return ((base * scale + 50) / 100).floor().clamp(1, 255)
