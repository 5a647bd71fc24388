"""FastestDet, as its users would bring it: https://github.com/dog-qiuqiu/FastestDet (BSD 3-Clause)."""

import torch

from secpipeline.detection.brought import Adapter, BlackBox, WhiteBox

SIZE = (352, 352)
PERSON = 5  # after objectness and four box numbers come the classes, person first


def prepare(images):
    """RGB to BGR, in [0, 1]."""
    return images.flip(1)


def decode(outputs):
    """One box a cell: centre by tanh within a cell's reach, size by sigmoid as a share of the image."""
    (cells,) = outputs
    height, width = cells.shape[-2:]
    x = torch.arange(width, device=cells.device) + torch.tanh(cells[:, 1])
    y = torch.arange(height, device=cells.device)[:, None] + torch.tanh(cells[:, 2])
    centre = torch.stack([x * SIZE[1] / width, y * SIZE[0] / height], dim=-1)
    half = torch.stack([torch.sigmoid(cells[:, 3]) * SIZE[1], torch.sigmoid(cells[:, 4]) * SIZE[0]], dim=-1) / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1).flatten(1, 2)
    # The exponents of the published decoder; the least number keeps their slope finite.
    scores = cells[:, 0].clamp(min=1e-12) ** 0.6 * cells[:, PERSON].clamp(min=1e-12) ** 0.4
    return boxes, scores.flatten(1)


def white_box(config):
    """With gradients."""
    return WhiteBox("fastestdet", config, Adapter(SIZE, prepare, decode))


def black_box(config):
    """Run by onnxruntime."""
    return BlackBox("fastestdet", config, Adapter(SIZE, prepare, decode))
