"""Non-maximum suppression of a whole batch at once, for devices that are slow to answer.

Going through boxes one by one, or image by image, an accelerator waits for the processor more than it works. Here every
box asks at the same time whether a kept better one covers it, again and again until no answer changes. A box's answer
depends on better boxes alone, so only the answers of the greedy algorithm are stable.

>>> boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 7]]])
>>> greedy(boxes, torch.ones(1, 3, dtype=torch.bool), 0.75).tolist()
[[True, False, True]]
"""

from __future__ import annotations

import torch
from torch import Tensor

from secpipeline.detection.box_targets import areas, intersections

# Pairs of boxes that are compared at once: on a processor what its caches hold.
_PAIRS = {"cuda": 2**26, "cpu": 2**22}
# Whether the answers are stable is asked so rarely because to ask is to wait for the device.
_ROUNDS = 8


@torch.compiler.disable  # type: ignore[untyped-decorator] # it runs for as long as the boxes need
@torch.no_grad()
def greedy(boxes: Tensor, present: Tensor, iou: float) -> Tensor:
    """Which boxes are kept, going from the best to the worst.

    Parameters
    ----------
    boxes
        (B, n, 4), of each image the best first.
    present
        (B, n) bool; the others are neither kept nor cover any.
    iou
        A box is dropped if a kept better one overlaps it by more.

    Returns
    -------
    Tensor
        (B, n) bool.
    """
    images = max(1, _PAIRS.get(boxes.device.type, _PAIRS["cpu"]) // max(1, boxes.shape[1] ** 2))
    parts = zip(torch.split(boxes, images), torch.split(present, images), strict=True)
    with torch.autocast(boxes.device.type, enabled=False):
        return torch.cat([_stable(_covers(part, iou), there) for part, there in parts])


def _covers(boxes: Tensor, iou: float) -> Tensor:
    """Whether a box would drop a worse one, (B, n, n) zeros and ones, which matrix products are fast with."""
    shared, area = intersections(boxes, boxes), areas(boxes)
    union = (area[:, :, None] + area[:, None]).sub_(shared)
    return (shared.div_(union) > iou).triu_(1).to(torch.float16 if boxes.is_cuda else torch.float32)


def _stable(covers: Tensor, present: Tensor) -> Tensor:
    kept = before = present
    while True:
        for _ in range(_ROUNDS):
            before = kept
            kept = present & ((kept[:, None].to(covers.dtype) @ covers)[:, 0] == 0)
        if torch.equal(before, kept):
            return kept
