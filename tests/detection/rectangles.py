"""Pictures of bright upright rectangles on a dark street, and where the rectangles are."""

import numpy as np

from secpipeline.datasets.loading import Truth


def truth(boxes=(), ignore=()):
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(ignore, np.float32).reshape(-1, 4))


def pictures(count, seed=0, size=(64, 64), most=2):
    """``count`` images with 0 to ``most`` people each; the first image always has one."""
    rng = np.random.default_rng(seed)
    height, width = size
    images = rng.integers(20, 70, (count, 3, *size), dtype=np.uint8)
    people = []
    for index in range(count):
        boxes = []
        for _ in range(max(index == 0, rng.integers(0, most + 1))):
            tall = rng.uniform(0.35, 0.6) * height
            x, y = rng.uniform(0, width - 0.41 * tall), rng.uniform(0, height - tall)
            boxes.append((round(x), round(y), round(x + 0.41 * tall), round(y + tall)))
            images[index, :, boxes[-1][1] : boxes[-1][3], boxes[-1][0] : boxes[-1][2]] = rng.integers(190, 240)
        people.append(truth(boxes))
    return images, people
