"""YOLOX-Nano, as its users would bring it: https://github.com/Megvii-BaseDetection/YOLOX (Apache-2.0)."""

import torch

from secpipeline.detection.brought import Adapter, BlackBox, WhiteBox

SIZE = (416, 416)
OBJECTNESS, PERSON = 4, 5


def prepare(images):
    """RGB in [0, 1] to BGR in [0, 255]."""
    return images.flip(1) * 255


def decode(outputs):
    """One box a place of three grids: centre in cells of its stride, log size in strides."""
    (places,) = outputs
    grid, strides = [], []
    for stride in (8, 16, 32):
        rows, columns = SIZE[0] // stride, SIZE[1] // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        grid.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
        strides.append(torch.full((rows * columns, 1), stride))
    cell, stride = torch.cat(grid).to(places), torch.cat(strides).to(places)
    centre, half = (places[..., :2] + cell) * stride, places[..., 2:4].exp() * stride / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    return boxes, places[..., OBJECTNESS] * places[..., PERSON]


def white_box(config):
    """With gradients."""
    return WhiteBox("yolox_nano", config, Adapter(SIZE, prepare, decode))


def black_box(config):
    """Run by onnxruntime."""
    return BlackBox("yolox_nano", config, Adapter(SIZE, prepare, decode))
