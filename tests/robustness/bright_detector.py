"""A detector that needs no training: people are rectangles a little brighter than the street.

It decides by the mean brightness of 16 × 40 pixels on a grid, so every attack, control and health check has a known
effect: four grey levels are enough to hide a person or to make half a person whole.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from secpipeline.datasets.loading import Truth
from secpipeline.detection.interface import Detector

STREET, PERSON, PIVOT = 124, 132, 129.5
HEIGHT, WIDTH, DOWN, ACROSS = 64, 96, 24, 8
BOX_HEIGHT, BOX_WIDTH = 40, 16


class Targets:
    """Which grid places hold a person, (B, K)."""

    def __init__(self, values):
        self.values = values

    def to(self, device):
        return Targets(self.values.to(device))

    def __getitem__(self, index):
        return Targets(self.values[index])


class BrightDetector(Detector):
    """``gain`` is the steepness of the logits; 0 gives no gradient at all."""

    name = "bright"

    def __init__(self, gain: float = 400.0) -> None:
        super().__init__()
        self.config = {"gain": float(gain)}
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))

    def logits(self, images):
        pooled = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), (BOX_HEIGHT, BOX_WIDTH), (DOWN, ACROSS))
        return (self.gain * (pooled - PIVOT / 255)).flatten(1)

    def encode(self, truth, height, width):
        columns = (width - BOX_WIDTH) // ACROSS + 1
        rows = (height - BOX_HEIGHT) // DOWN + 1
        values = torch.zeros(len(truth), rows * columns)
        for index, people in enumerate(truth):
            for x1, y1, *_ in people.boxes:
                values[index, int(y1 // DOWN) * columns + int(x1 // ACROSS)] = 1
        return Targets(values)

    def losses(self, images, encoded):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            self.logits(images), encoded.values, reduction="none"
        )
        return {"person": loss.sum(1)}

    def dense(self, images):
        scores = self.logits(images).sigmoid()
        columns = (images.shape[3] - BOX_WIDTH) // ACROSS + 1
        places = torch.arange(scores.shape[1])
        corner = torch.stack([places % columns * ACROSS, places // columns * DOWN], 1).float()
        boxes = torch.cat([corner, corner + torch.tensor([BOX_WIDTH, BOX_HEIGHT])], 1)
        return boxes.expand(len(images), -1, -1), scores


def street(count: int, seed: int = 0, people: tuple[int, int] = (0, 3)):
    """``count`` images with their truth, box table and names; people are half a width or more apart."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 3, HEIGHT, WIDTH), STREET, np.uint8)
    truth, rows = [], []
    for index in range(count):
        columns = rng.permutation(3)[: rng.integers(people[0], people[1] + 1)]
        boxes = np.zeros((len(columns), 4), np.float32)
        for place, column in enumerate(columns):
            x, y = column * 32 + rng.integers(0, 2) * ACROSS, rng.integers(0, 2) * DOWN
            boxes[place] = (x, y, x + BOX_WIDTH, y + BOX_HEIGHT)
            images[index, :, y : y + BOX_HEIGHT, x : x + BOX_WIDTH] = PERSON
            rows.append((f"image-{index}", *boxes[place].tolist(), False, 1.0, float(BOX_HEIGHT)))
        truth.append(Truth(boxes, np.zeros((0, 4), np.float32)))
    columns = ["image_id", "x1", "y1", "x2", "y2", "ignore", "visibility", "height"]
    table = pd.DataFrame(rows, columns=columns).astype({"ignore": bool})
    return images, truth, table, [f"image-{index}" for index in range(count)]
