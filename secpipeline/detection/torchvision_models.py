"""What torchvision's detectors share behind the interface.

torchvision gives losses in training mode only and for the batch as a whole, resizes what it is shown, and updates
batch statistics. Here images keep their size, so that the bound of an attack means pixels of the frame; each image
has its own loss; dropout always evaluates, and so does normalisation with published statistics.

>>> detector = SsdLite({})                                                # doctest: +SKIP
>>> detector.config                                                       # doctest: +SKIP
{'norm': 'group'}
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from secpipeline.detection import configuration
from secpipeline.detection.interface import Detector
from secpipeline.detection.published_weights import WeightSource, load_into
from secpipeline.errors import InputError

PERSON = 1
_PUBLISHED_CLASSES = 91
_NORMS = ("group", "batch")


class TorchvisionDetector(Detector):
    """A network of torchvision for the one class person.

    Parameters
    ----------
    config
        ``weights``: ``{path, sha256}`` of weights that torchvision publishes for this network, trained on COCO, to
        start from; of their classes person and background are kept. ``norm``: ``batch`` keeps batch normalisation:
        with ``weights`` it evaluates with their statistics even in training; without, it normalises by each training
        batch and learns its statistics, so that images of one batch influence each other there. ``group`` replaces it
        by group normalisation, which does neither. Left out, ``batch`` with ``weights`` and ``group`` without.
    defaults
        Further keys of the network, with their defaults.

    Raises
    ------
    InputError
        If a key is unknown or has an impossible value, or the weights' file does not fit.
    IntegrityError
        If the weights' file is not the one that the digest names.
    """

    # How many classes the network scores: person alone, or background and person.
    _classes: ClassVar[int]
    # Of the maps that anchors lie on, in frame pixels.
    _strides: ClassVar[Sequence[int]]
    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        settings = configuration.read(self.name, config, {"weights": None, "norm": None, **(defaults or {})})
        published = settings.pop("weights")
        settings["norm"] = settings["norm"] or ("group" if published is None else "batch")
        if settings["norm"] not in _NORMS:
            raise InputError(f"{self.name}: config key 'norm' is {settings['norm']!r}; give group or batch")
        if published is not None and settings["norm"] != "batch":
            raise InputError(f"{self.name}: published weights need their batch normalisation; leave out 'norm'")
        super().__init__()
        self.config = settings
        self.model = self._network(settings)
        self._learns_statistics = settings["norm"] == "batch" and published is None
        self._anchors_of: dict[tuple[int, int, torch.device], Tensor] = {}
        if settings["norm"] == "group":
            _replace_batch_norm(self.model)
        if published is not None:
            self._start_from(WeightSource.of(self.name, "weights", published))
        transform = self.model.transform
        self.register_buffer("mean", torch.tensor(transform.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(transform.image_std).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @abstractmethod
    def _network(self, settings: Mapping[str, Any]) -> Any:
        """Torchvision's model with random weights."""

    def _start_from(self, source: WeightSource) -> None:
        wanted = self.model.state_dict()
        state = source.tensors()
        for name in state.keys() & wanted.keys():
            if len(state[name].shape) and state[name].shape[0] != wanted[name].shape[0]:
                state[name] = _person_rows(name, state[name], self._classes)
        load_into(self.model, state, source.path)
        self.started_from = {source.path: source.sha256}

    def train(self, mode: bool = True) -> Self:
        """Training mode, with dropout left evaluating, and batch normalisation too if its statistics are published."""
        super().train(mode)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout) or (isinstance(module, nn.BatchNorm2d) and not self._learns_statistics):
                module.eval()
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of images (B, 3, H, W), finest first."""
        normalised = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return list(self.model.backbone(normalised).values())

    def kept_anchors(self, generator: nn.Module, height: int, width: int) -> Tensor:
        """:func:`grid_anchors` on the detector's device, made once a size."""
        key = height, width, self.device
        if key not in self._anchors_of:
            # Made on the processor and copied at once, so that they are ready on every stream.
            anchors = grid_anchors(generator, self._strides, height, width, torch.device("cpu"))
            self._anchors_of[key] = anchors.to(self.device)
        return self._anchors_of[key]


def grid_anchors(generator: nn.Module, strides: Sequence[int], height: int, width: int, device: torch.device) -> Tensor:
    """Anchors (A, 4) in frame pixels, level by level, without running the network."""
    # The generators look at the maps' sizes alone, so maps without channels do.
    maps = [torch.empty(1, 0, -(-height // s), -(-width // s), device=device) for s in strides]
    anchors: Tensor = generator(ImageList(torch.empty(1, 0, height, width, device=device), [(height, width)]), maps)[0]
    return anchors


def _person_rows(name: str, tensor: Tensor, classes: int) -> Tensor:
    """The rows of a published head that score or place a person, and background where the network scores it."""
    kept = [PERSON] if classes == 1 else [0, PERSON]
    if tensor.shape[0] % _PUBLISHED_CLASSES:
        return tensor
    if "bbox_pred" in name:
        return tensor.reshape(_PUBLISHED_CLASSES, -1, *tensor.shape[1:])[kept].flatten(0, 1)
    return tensor.reshape(-1, _PUBLISHED_CLASSES, *tensor.shape[1:])[:, kept].flatten(0, 1)


def _replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = next(g for g in (8, 4, 2, 1) if child.num_features % g == 0)
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _replace_batch_norm(child)
