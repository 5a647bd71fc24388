"""A detector that somebody brings: any network and a few lines that say how to read its outputs.

An :class:`Adapter` says what the network takes and what its outputs mean. With it an ONNX file is a
:class:`BlackBox`, run by onnxruntime, that can be evaluated and attacked without gradients; or, where its operators are
covered, a :class:`WhiteBox`, a torch network shown to compute the same, that can be attacked with gradients and
trained.

>>> def detector(config):                                                 # doctest: +SKIP
...     return WhiteBox("mine", config, Adapter((416, 416), prepare, decode))
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from secpipeline.datasets.loading import Truth
from secpipeline.detection import configuration, onnx_import
from secpipeline.detection.box_targets import areas, as_tensor, clip, intersections
from secpipeline.detection.interface import Detector, Encoded
from secpipeline.detection.published_weights import WeightSource
from secpipeline.detection.targets import TensorTargets
from secpipeline.errors import InputError

# Scores this near to 0 or 1 are as sure as float32 can tell.
_LEAST, _MOST = 1e-30, 1 - 1e-6
# A place that overlaps a person this much should have found them.
_MATCH_IOU = 0.5
# Decides between boxes where none overlaps enough; less than any score that matters.
_TIE = 1e-6


@dataclass(frozen=True)
class Adapter:
    """How a network is spoken to.

    Attributes
    ----------
    size
        Height and width of its input in pixels; images come at this size.
    prepare
        RGB images (B, 3, H, W) in [0, 1] to the network's input, such as BGR in [0, 255].
    decode
        The network's outputs to boxes (B, K, 4) in input pixels and person scores (B, K) in [0, 1], before
        overlapping boxes are dropped. Differentiable torch operations, if gradients are wanted.
    """

    size: tuple[int, int]
    prepare: Callable[[Tensor], Tensor]
    decode: Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class People(TensorTargets):
    """The people of B images: boxes (B, n, 4) and which of the n places are taken (B, n), and the same of ignored."""

    boxes: Tensor
    present: Tensor
    ignore: Tensor
    ignored: Tensor


class BroughtDetector(Detector):
    """A network with an adapter.

    Parameters
    ----------
    name
        How reports call it.
    config
        ``path`` and ``sha256`` of the ONNX file.
    adapter
        How the network is spoken to.

    Raises
    ------
    InputError
        If ``config`` is not these two, or the file cannot be read.
    IntegrityError
        If the file is not the one that the digest names.
    """

    name: str  # type: ignore[misc] # of the object: one class serves every brought network
    placing: ClassVar[tuple[str, ...]] = ("box",)
    not_exportable: ClassVar[str] = "it came as ONNX: deploy the file it came as"

    def __init__(self, name: str, config: dict[str, Any], adapter: Adapter) -> None:
        super().__init__()
        settings = configuration.read(name, config, {"path": None, "sha256": None})
        self._source = WeightSource.of(name, "path, sha256", settings)
        self.started_from = {self._source.path: self._source.sha256}
        self.name, self.config, self.adapter = name, settings, adapter

    @abstractmethod
    def outputs(self, prepared: Tensor) -> list[Tensor]:
        """The network's outputs for what :attr:`Adapter.prepare` made."""

    def encode(self, truth: Sequence[Truth], height: int, width: int) -> People:
        """The people and ignored regions, filled up to equally many an image.

        Raises
        ------
        InputError
            If (height, width) is not the network's input size.
        """
        if (height, width) != self.adapter.size:
            raise InputError(f"{self.name}: images of {height} × {width}; it takes {self.adapter.size}")
        boxes, present = _padded([as_tensor(people.boxes) for people in truth])
        return People(boxes, present, *_padded([as_tensor(people.ignore) for people in truth]))

    def dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the adapter decodes, boxes cut at the frame.

        Raises
        ------
        InputError
            If the images have another size than the network takes, or the adapter returns something else than boxes
            and scores.
        """
        height, width = images.shape[-2:]
        if (height, width) != self.adapter.size:
            raise InputError(f"{self.name}: images of {height} × {width}; it takes {self.adapter.size}")
        decoded = self.adapter.decode(self.outputs(self.adapter.prepare(images)))
        # An adapter may well make its grid on the processor.
        boxes, scores = (part.to(images.device) for part in decoded)
        if scores.shape != boxes.shape[:-1] or boxes.shape[-1] != 4 or len(boxes) != len(images) or boxes.dim() != 3:
            raise InputError(
                f"{self.name}: its adapter decodes to boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)}; "
                "needed are (B, K, 4) and (B, K)"
            )
        return clip(boxes, height, width), scores

    def logits(self, images: Tensor) -> Tensor:
        """The scores' logits, (B, K)."""
        return _logit(self.dense(images)[1])

    def losses(self, images: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """How wrong the decoded boxes and scores are, whatever the network was trained with; (B,) each.

        Of the boxes that overlap a person by half the most confident should be sure and fit (cross-entropy and
        generalised IoU); a person whom none overlaps blames the nearest. Boxes on nobody should score 0 (weighted as
        in the focal loss of Lin et al., ICCV 2017); further ones on a person or in an ignored region are not judged.
        """
        assert isinstance(encoded, People)
        boxes, scores = self.dense(images)
        logits = _logit(scores)
        overlap = _overlaps(boxes.detach(), encoded.boxes, encoded.present)
        near = overlap >= _MATCH_IOU
        choice = scores.detach()[..., None] * near + _TIE * overlap
        apart = torch.cdist(_centre(boxes.detach()), _centre(encoded.boxes))
        best = torch.where(overlap.amax(1, keepdim=True) > 0, choice, -apart).argmax(1)
        missed = F.softplus(-logits.gather(1, best)) * encoded.present
        placed = boxes.gather(1, best[..., None].expand(-1, -1, 4))
        wanted = torch.where(encoded.present[..., None], encoded.boxes, placed.detach())
        misfit: Tensor = generalized_box_iou_loss(placed, wanted) * encoded.present
        ignored = _covered(boxes.detach(), encoded.ignore, encoded.ignored) >= _MATCH_IOU
        false = F.softplus(logits) * scores**2 * ~(near.any(-1) | ignored)
        people = encoded.present.sum(1).clamp(min=1)
        return {"missed": missed.sum(1) / people, "box": misfit.sum(1) / people, "false": false.sum(1) / people}


class BlackBox(BroughtDetector):
    """A network that onnxruntime runs: no gradients. Parameters and errors as for :class:`BroughtDetector`."""

    def __init__(self, name: str, config: dict[str, Any], adapter: Adapter) -> None:
        super().__init__(name, config, adapter)
        self._runtime = onnx_import.session(self._source.content(), self._source.path)

    def outputs(self, prepared: Tensor) -> list[Tensor]:
        """What onnxruntime computes.

        Raises
        ------
        InputError
            If a gradient is asked for.
        """
        if prepared.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"{self.name}: a black box has no gradients; attack it without them, or bring it as a white box"
            )
        return onnx_import.run(self._runtime, prepared)


class WhiteBox(BroughtDetector):
    """A network converted to torch, with gradients. Parameters as for :class:`BroughtDetector`.

    Raises
    ------
    InputError
        As there, or if the network cannot be converted or computes something else than onnxruntime then.
    """

    def __init__(self, name: str, config: dict[str, Any], adapter: Adapter) -> None:
        super().__init__(name, config, adapter)
        probes = adapter.prepare(onnx_import.noise(2, (3, *adapter.size)))
        self.network = onnx_import.convert(self._source.content(), self._source.path, probes)

    def outputs(self, prepared: Tensor) -> list[Tensor]:
        """What the converted network computes."""
        outputs: list[Tensor] = self.network(prepared)
        return [output.float() for output in outputs]


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) of each image as one tensor (B, m, 4), m at least 1, and which places are taken (B, m)."""
    most = max((len(row) for row in rows), default=0) or 1
    boxes, present = torch.zeros(len(rows), most, 4), torch.zeros(len(rows), most, dtype=torch.bool)
    for index, row in enumerate(rows):
        boxes[index, : len(row)], present[index, : len(row)] = row, True
    return boxes, present


def _centre(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _overlaps(boxes: Tensor, people: Tensor, present: Tensor) -> Tensor:
    """IoU (B, K, n) of boxes (B, K, 4) with people (B, n, 4); 0 where nobody is."""
    shared = intersections(boxes, people)
    union = areas(boxes)[:, :, None] + areas(people)[:, None] - shared
    return shared / union.clamp(min=1e-6) * present[:, None]


def _covered(boxes: Tensor, regions: Tensor, present: Tensor) -> Tensor:
    """The largest share (B, K) of each box that one region covers."""
    share = intersections(boxes, regions) / areas(boxes)[:, :, None].clamp(min=1e-6)
    return (share * present[:, None]).amax(-1)


def _logit(scores: Tensor) -> Tensor:
    # Cut off at float32's own limits, not at a round number that would leave unlikely places without a gradient.
    return torch.log(scores.clamp(min=_LEAST)) - torch.log1p(-scores.clamp(max=_MOST))
