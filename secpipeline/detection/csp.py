"""Detection as finding centres and heights (CSP).

After Liu, Liao, Ren, Hu and Yu, "High-level semantic feature detection: a new perspective for pedestrian detection",
CVPR 2019: one map says where a person's centre is, others its height and the offset within the cell. This version also
predicts the width, because boxes of other sources are not all drawn with the aspect ratio 0.41.

>>> detector = CspTiny({})
>>> boxes, scores = detector.dense(torch.rand(2, 3, 96, 128))
>>> boxes.shape, scores.shape
(torch.Size([2, 768, 4]), torch.Size([2, 768]))
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from secpipeline.datasets.loading import Truth
from secpipeline.detection import configuration
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.targets import TensorTargets
from secpipeline.errors import InputError

STRIDE = 4
# A centre's Gaussian has this share of the box's extent as its standard deviation.
_SIGMA = 0.12
# Loss weights of the paper are 0.01, 1 and 0.1 for a centre term that is summed over far more cells.
_SCALE_WEIGHT = 1.0
_OFFSET_WEIGHT = 0.1
_PRIOR = 0.01
# Typical log height in pixels, so that an untrained network starts there.
_LOG_HEIGHT = math.log(60.0)
# Width over height of a walking person, as the paper fixes it.
_ASPECT = 0.41


@dataclass(frozen=True)
class CspTargets(TensorTargets):
    """Dense targets; h = H / 4 and w = W / 4.

    Attributes
    ----------
    centre
        (B, h, w), 1 at a centre's cell and a Gaussian around it.
    positive
        (B, h, w) bool, the cells that predict a box.
    scale
        (B, 2, h, w), log height and log width in pixels, at positive cells.
    offset
        (B, 2, h, w), x and y of the centre within its cell in [0, 1), at positive cells.
    counted
        (B, h, w) bool, false in ignored regions.
    """

    centre: Tensor
    positive: Tensor
    scale: Tensor
    offset: Tensor
    counted: Tensor


def encode(truth: Sequence[Truth], height: int, width: int, device: torch.device | None = None) -> CspTargets:
    """Targets of images of (height, width) pixels, both multiples of 16, on ``device`` or the processor.

    Raises
    ------
    InputError
        If they are not.
    """
    if height % 16 or width % 16:
        raise InputError(f"a frame of {height} × {width} pixels: both must be multiples of 16")
    rows, columns = height // STRIDE, width // STRIDE
    shape = (len(truth), rows, columns)
    # The nearest, largest person comes last and wins a cell that two share.
    image, people = _listed([_smallest_first(people.boxes) for people in truth])
    cells, tops, sides = _cells(people, rows, columns)
    last = _last_of_each((image * rows + cells[:, 1]) * columns + cells[:, 0])

    def there(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    which, row, column = (there(index[last]) for index in (image, cells[:, 1], cells[:, 0]))
    centre = _heat(there(image), there(tops), there(sides), shape)
    centre[which, row, column] = 1
    positive = torch.zeros(shape, dtype=torch.bool, device=device)
    positive[which, row, column] = True
    scale, offset = (torch.zeros((len(truth), 2, rows, columns), device=device) for _ in range(2))
    sizes = np.log((people[last, 2:] - people[last, :2]) * STRIDE)
    scale[which, :, row, column] = there(sizes[:, ::-1].astype(np.float32))
    offset[which, :, row, column] = there((_middle(people) - cells)[last].astype(np.float32))
    counted = ~_covered([people.ignore for people in truth], shape, there) | positive
    return CspTargets(centre, positive, scale, offset, counted)


def _listed(boxes: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The boxes of all images in a row, in cells, and the image of each."""
    image = np.repeat(np.arange(len(boxes)), np.array([len(one) for one in boxes], np.int64))
    rows = [np.asarray(one, np.float64).reshape(-1, 4) for one in boxes]
    return image, np.concatenate([np.zeros((0, 4)), *rows]) / STRIDE


def _smallest_first(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    tall = np.asarray(boxes, np.float64)
    return boxes[np.argsort(tall[:, 3] - tall[:, 1], kind="stable")]


def _middle(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _cells(
    people: NDArray[np.float64], rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Column and row of each person's centre (n, 2), and its Gaussian down (n, rows) and across (n, columns)."""
    cells = np.clip(np.trunc(_middle(people)), 0, [columns - 1, rows - 1]).astype(np.int64)
    sides = _profile(people[:, 0], people[:, 2], cells[:, 0], 2 * _SIGMA, columns)
    tops = _profile(people[:, 1], people[:, 3], cells[:, 1], _SIGMA, rows)
    return cells, tops, sides


def _profile(
    start: NDArray[np.float64], end: NDArray[np.float64], centre: NDArray[np.int64], sigma: float, count: int
) -> NDArray[np.float64]:
    """A Gaussian around each centre along ``count`` cells, 0 outside the person; (n, count)."""
    cell = np.arange(count)
    width = np.maximum(0.6, sigma * (end - start))[:, None]
    inside = (cell >= np.trunc(start)[:, None]) & (cell < np.ceil(end)[:, None])
    profile: NDArray[np.float64] = np.exp(-(((cell - centre[:, None]) / width) ** 2) / 2) * inside
    return profile


def _last_of_each(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each number occurs last."""
    found: NDArray[np.int64] = len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]
    return found


def _heat(image: Tensor, tops: Tensor, sides: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The highest Gaussian at every cell (B, h, w), of n people's profiles down and across."""
    people = (tops[:, :, None] * sides[:, None, :]).float().flatten(1)
    heat = torch.zeros((shape[0], shape[1] * shape[2]), device=people.device)
    return heat.scatter_reduce_(0, image[:, None].expand_as(people), people, "amax").view(shape)


def _covered(
    regions: Sequence[NDArray[np.float32]], shape: tuple[int, int, int], there: Callable[[NDArray[Any]], Tensor]
) -> Tensor:
    """The cells (B, h, w) that a region touches."""
    image, boxes = _listed(regions)
    across, down = (np.arange(count) for count in (shape[2], shape[1]))
    columns = (across >= np.trunc(boxes[:, :1])) & (across < np.ceil(boxes[:, 2:3]))
    rows = (down >= np.trunc(boxes[:, 1:2])) & (down < np.ceil(boxes[:, 3:]))
    touched = (there(rows)[:, :, None] & there(columns)[:, None, :]).flatten(1).float()
    covered = torch.zeros((shape[0], shape[1] * shape[2]), device=touched.device)
    return covered.index_add_(0, there(image), touched).view(shape) > 0


def centre_loss(logits: Tensor, targets: CspTargets) -> Tensor:
    """Focal loss over centres, its negatives weighted down near a centre (equation 3 of the paper); (B,)."""
    score = torch.sigmoid(logits)
    hit = -F.logsigmoid(logits) * (1 - score) ** 2 * targets.positive
    near = (1 - targets.centre) ** 4 * targets.counted * ~targets.positive
    miss = -F.logsigmoid(-logits) * score**2 * near
    people = targets.positive.flatten(1).sum(1).clamp(min=1)
    return (hit + miss).flatten(1).sum(1) / people


def box_losses(scale: Tensor, offset: Tensor, targets: CspTargets) -> tuple[Tensor, Tensor]:
    """Smooth L1 of log size and of the offset at the positive cells, averaged over people; (B,) each.

    ``scale`` is (B, 1, h, w) if heights alone are learned, else (B, 2, h, w).
    """
    people = targets.positive.flatten(1).sum(1).clamp(min=1)
    mask = targets.positive.unsqueeze(1)
    size = F.smooth_l1_loss(scale, targets.scale[:, : scale.shape[1]], reduction="none", beta=0.1) * mask
    place = F.smooth_l1_loss(offset, targets.offset, reduction="none", beta=0.1) * mask
    return size.flatten(1).sum(1) / people, place.flatten(1).sum(1) / people


class CspDetector(Detector):
    """What networks that find centres share: targets, losses and boxes.

    Attributes
    ----------
    learned_sizes
        2 where height and width are learned, 1 where the width follows from the height.
    """

    placing: ClassVar[tuple[str, ...]] = ("scale", "offset")
    learned_sizes: int = 2

    @abstractmethod
    def maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre logits (B, h, w), log height and width (B, 2, h, w) and offsets (B, 2, h, w) of (B, 3, H, W)."""

    def encode(self, truth: Sequence[Truth], height: int, width: int) -> CspTargets:
        """Targets for images of (height, width) pixels, on the detector's device."""
        return encode(truth, height, width, self.device)

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """Centre, scale and offset terms, (B,) each."""
        assert isinstance(encoded, CspTargets)
        centre, scale, offset = self.maps(images)
        size, place = box_losses(scale[:, : self.learned_sizes].float(), offset.float(), encoded)
        return {
            "centre": centre_loss(centre.float(), encoded),
            "scale": _SCALE_WEIGHT * size,
            "offset": _OFFSET_WEIGHT * place,
        }

    def logits(self, images: Tensor) -> Tensor:
        """Centre logits, (B, h·w)."""
        return self.maps(images)[0].flatten(1)

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One box and score a cell."""
        centre, scale, offset = self.maps(images)
        rows, columns = centre.shape[-2:]
        device = centre.device
        y = torch.arange(rows, device=device, dtype=torch.float32).view(-1, 1)
        x = torch.arange(columns, device=device, dtype=torch.float32).view(1, -1)
        cx = (x + offset[:, 0].float()) * STRIDE
        cy = (y + offset[:, 1].float()) * STRIDE
        half = scale.float().clamp(max=9.0).exp() / 2
        boxes = torch.stack([cx - half[:, 1], cy - half[:, 0], cx + half[:, 1], cy + half[:, 0]], dim=-1)
        width, height = columns * STRIDE, rows * STRIDE
        limit = torch.tensor([width, height, width, height], device=device, dtype=torch.float32)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        return boxes.flatten(1, 2), torch.sigmoid(centre.float()).flatten(1)


def start_heads(centre: nn.Conv2d, scale: nn.Conv2d, offset: nn.Conv2d) -> None:
    """Let an untrained network see nobody, at a typical size; ``scale`` predicts height, or height and width."""
    nn.init.zeros_(scale.weight)
    nn.init.normal_(centre.weight, std=0.01)
    starts = {
        centre: [-math.log((1 - _PRIOR) / _PRIOR)],
        scale: [_LOG_HEIGHT, _LOG_HEIGHT + math.log(_ASPECT)][: scale.out_channels],
        offset: [0.5, 0.5],
    }
    with torch.no_grad():
        for head, start in starts.items():
            assert head.bias is not None
            head.bias.copy_(torch.tensor(start))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _block(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return F.silu(x + self.second(self.first(x)))


class CspTiny(CspDetector):
    """Under a million parameters, for two processor cores and small frames.

    Parameters
    ----------
    config
        ``channels``: three widths at strides 4, 8 and 16; left out, the shipped ones.
    """

    name = "csp_tiny"

    def __init__(self, config: dict[str, Any]) -> None:
        widths = configuration.read(self.name, config, {"channels": [32, 48, 64]})["channels"]
        if not isinstance(widths, list) or len(widths) != 3:
            raise InputError(f"csp_tiny: config key 'channels' is {widths!r}; give three widths")
        c4, c8, c16 = (configuration.whole(self.name, "channels", width, 1, 4096) for width in widths)
        super().__init__()
        self.config = {"channels": [c4, c8, c16]}
        # Folding 2 × 2 pixels into channels first spares the largest maps, where small networks spend their time.
        self.stride4 = nn.Sequential(nn.PixelUnshuffle(2), _block(12, c4, 2), _Residual(c4))
        self.stride8 = nn.Sequential(_block(c4, c8, 2), _Residual(c8))
        self.stride16 = nn.Sequential(_block(c8, c16, 2), _Residual(c16))
        self.from16 = nn.Conv2d(c16, c8, 1)
        self.from8 = nn.Conv2d(c8, c4, 1)
        self.neck = _block(c4, c4)
        self.centre = nn.Conv2d(c4, 1, 1)
        self.scale = nn.Conv2d(c4, 2, 1)
        self.offset = nn.Conv2d(c4, 2, 1)
        start_heads(self.centre, self.scale, self.offset)
        self.to(memory_format=torch.channels_last)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre logits (B, h, w), log sizes (B, 2, h, w) and offsets (B, 2, h, w) of images (B, 3, H, W)."""
        x = ((images - 0.45) / 0.25).contiguous(memory_format=torch.channels_last)
        f4 = self.stride4(x)
        f8 = self.stride8(f4)
        f16 = self.stride16(f8)
        f8 = f8 + F.interpolate(self.from16(f16), scale_factor=2.0, mode="nearest")
        f4 = f4 + F.interpolate(self.from8(f8), scale_factor=2.0, mode="nearest")
        f4 = self.neck(f4)
        return self.centre(f4)[:, 0], self.scale(f4), self.offset(f4)
