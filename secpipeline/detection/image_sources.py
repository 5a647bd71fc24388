"""Where training images lie and how they get to the device that trains.

On the processor they are sliced out of one array. For an accelerator they are copied to it once as uint8 where they
fit, which is 0.9 MB for a frame of 640 × 480 pixels; where they do not, each batch goes there through page-locked
memory. JPEG files are decoded by the accelerator's own decoder (nvJPEG), once or batch by batch.

>>> source = place(np.zeros((8, 3, 32, 32), np.uint8), torch.device("cpu"))
>>> source.take(np.array([3, 1])).shape
torch.Size([2, 3, 32, 32])
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from tqdm import tqdm

from secpipeline.datasets.loading import PAD
from secpipeline.datasets.loading import place as placement_in
from secpipeline.errors import InputError

# What is left is for the network, its gradients and its activations.
CACHED_SHARE = 0.6
_JPEG = b"\xff\xd8"
_ORIENTATION = 0x0112
_DECODED_AT_ONCE = 64


class ImageSource(Protocol):
    """Images of one size on one device."""

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        """Some images, uint8 (B, 3, H, W) on the device."""


class JpegFiles:
    """Images given as JPEG files, to be decoded where they are needed and letterboxed into one frame.

    Parameters
    ----------
    files
        The bytes of each image; they were checked when they were ingested.
    size
        Height and width of the frame in pixels.

    Raises
    ------
    InputError
        If one is no JPEG or has an EXIF orientation, which accelerators do not apply.
    """

    def __init__(self, files: Sequence[bytes], size: tuple[int, int]) -> None:
        self.size = size
        self.files = [
            torch.from_numpy(np.frombuffer(_checked(data, index), np.uint8).copy()) for index, data in enumerate(files)
        ]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W) of the decoded frames."""
        return len(self.files), 3, *self.size

    def decode(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """Some images as frames, uint8 (B, 3, H, W) on the device.

        Raises
        ------
        InputError
            If a file is damaged, or torchvision cannot decode on this device.
        """
        files = [self.files[index] for index in indices.tolist()]
        try:
            pictures = decode_jpeg(files, ImageReadMode.RGB, device=str(device))
        except RuntimeError as error:
            hint = "give decoded images instead"
            raise InputError(
                f"training images {indices.tolist()}: not decoded on {device} ({error}); {hint}"
            ) from error
        return torch.stack([_letterbox(picture, self.size) for picture in pictures])


def _checked(data: bytes, index: int) -> bytes:
    if not data.startswith(_JPEG):
        raise InputError(f"training image {index}: no JPEG; give decoded images instead")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) != 1
    except OSError as error:
        raise InputError(f"training image {index}: a damaged JPEG ({error}); deliver it again") from error
    if turned:
        raise InputError(f"training image {index}: has an EXIF orientation; give decoded images instead")
    return data


def _letterbox(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (3, h, w) in a frame, on its device; resampled pixels differ from those of the processor a little."""
    height, width = picture.shape[1:]
    if (height, width) == size:
        return picture
    placement = placement_in((height, width), size)
    inner = max(1, round(height * placement.scale)), max(1, round(width * placement.scale))
    resized = F.interpolate(picture[None].float(), inner, mode="bilinear", antialias=True)[0]
    frame = torch.full((3, *size), PAD, dtype=torch.uint8, device=picture.device)
    top, left = int(placement.top), int(placement.left)
    frame[:, top : top + inner[0], left : left + inner[1]] = resized.round().clamp(0, 255).to(torch.uint8)
    return frame


Images = NDArray[np.uint8] | JpegFiles


def place(images: Images, device: torch.device, share: float | None = None) -> ImageSource:
    """Bring images as near to the device as its memory allows.

    Parameters
    ----------
    images
        uint8 (N, 3, H, W), or JPEG files.
    device
        Where they are needed.
    share
        Of the accelerator's free memory that they may fill; default :data:`CACHED_SHARE`.
    """
    if device.type == "cuda":
        allowed = CACHED_SHARE if share is None else share
        if math.prod(images.shape) <= allowed * torch.cuda.mem_get_info(device)[0]:
            return _Resident(_all_on(images, device))
        return _Decoding(images, device) if isinstance(images, JpegFiles) else _Pinned(images, device)
    if isinstance(images, JpegFiles):
        return _Decoding(images, device)
    return _Host(images)


def _all_on(images: Images, device: torch.device) -> Tensor:
    """All images on the device, brought there part by part."""
    held = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in tqdm(range(0, len(images), _DECODED_AT_ONCE), "to the device", disable=None, leave=False):
        part = np.arange(start, min(start + _DECODED_AT_ONCE, len(images)))
        if isinstance(images, JpegFiles):
            held[start : start + len(part)] = images.decode(part, device)
        else:
            held[start : start + len(part)] = torch.from_numpy(images[part]).to(device)
    return held


class _Host:
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._images[indices])


class _Resident:
    def __init__(self, images: Tensor) -> None:
        self._images = images

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        return self._images.index_select(0, torch.from_numpy(indices).to(self._images.device, non_blocking=True))


class _Pinned:
    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self._images, self._device = images, device

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        staged = torch.empty((len(indices), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=True)
        np.take(self._images, indices, axis=0, out=staged.numpy())
        return staged.to(self._device, non_blocking=True)


class _Decoding:
    def __init__(self, files: JpegFiles, device: torch.device) -> None:
        self._files, self._device = files, device

    def take(self, indices: NDArray[np.int64]) -> Tensor:
        return self._files.decode(indices, self._device)


def data_digest(images: Images, truth: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> str:
    """SHA-256 in hex over the images, as they are given, and the (boxes, ignored regions) of each."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    if isinstance(images, JpegFiles):
        for file in images.files:
            digest.update(len(file).to_bytes(8, "little") + file.numpy().tobytes())
    else:
        digest.update(np.ascontiguousarray(images).data)
    for boxes, ignore in truth:
        digest.update(repr((len(boxes), len(ignore))).encode())
        digest.update(np.ascontiguousarray(boxes, np.float32).tobytes())
        digest.update(np.ascontiguousarray(ignore, np.float32).tobytes())
    return digest.hexdigest()
