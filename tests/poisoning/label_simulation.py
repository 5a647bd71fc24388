"""Simulated street labels, out-of-fold predictions of a judge, and label poison with its truth."""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd

WIDTH, HEIGHT = 256, 192

JUDGES = {
    "strong": {"jitter": 0.03, "miss": 0.03, "a": 30.0, "b": 1.2, "false_per_image": 0.2},
    "middling": {"jitter": 0.06, "miss": 0.12, "a": 6.0, "b": 1.5, "false_per_image": 0.5},
    "weak": {"jitter": 0.08, "miss": 0.25, "a": 3.0, "b": 1.8, "false_per_image": 0.8},
}


@dataclass(frozen=True)
class Street:
    images: pd.DataFrame
    boxes: pd.DataFrame
    predictions: pd.DataFrame


@functools.cache
def draw_street(seed, judge="middling", sources=8, scenes=20, frames=8, unevenness=0.2):
    """Scenes of walking people; the judge's false alarms stand still through a scene, as real ones do.

    Drawn once per set of arguments: nobody may change the tables.
    """
    rng = np.random.default_rng(seed)
    quality = JUDGES[judge]
    image_rows, box_rows, found = [], [], []
    for source in [f"vendor-{chr(97 + n)}" for n in range(sources)]:
        harder = float(np.exp(rng.normal(0, unevenness)))
        for scene in range(scenes):
            people = _people(rng, int(rng.poisson(3)))
            distractors = _people(rng, int(rng.poisson(quality["false_per_image"] * harder)))
            confidence = rng.beta(1.3, 3.0, len(distractors))
            for frame in range(frames):
                image = f"{source}/{scene:03}/{frame:02}"
                image_rows.append({"image_id": image, "source": source, "scene": f"{scene:03}", "split": "train"})
                people[:, [0, 2]] += rng.normal(0, 4, (len(people), 1))
                for number, box in enumerate(people):
                    box_rows.append(_box(image, number, box))
                found += [_detect(rng, image, box, quality, harder) for box in people]
                still = zip(distractors, confidence, strict=True)
                found += [_seen(rng, image, box, float(c + rng.normal(0, 0.08))) for box, c in still]
    predictions = pd.DataFrame([row for row in found if row], columns=["image_id", "x1", "y1", "x2", "y2", "score"])
    return Street(pd.DataFrame(image_rows), pd.DataFrame(box_rows), predictions)


def _people(rng, count):
    height = np.clip(np.exp(rng.normal(3.9, 0.5, count)), 20, 150)
    left, foot = rng.uniform(0, WIDTH - 20, count), np.clip(80 + height * 0.6, 0, HEIGHT)
    return np.stack([left, foot - height, left + 0.41 * height, foot], axis=1)


def _box(image, number, box):
    corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
    row = {
        "box_id": f"{image}#{number}",
        "image_id": image,
        **corners,
        "label": "pedestrian",
        "ignore": False,
    }
    return row | {"visibility": np.nan, "height": float(box[3] - box[1])}


def _detect(rng, image, box, quality, harder):
    height = box[3] - box[1]
    missed = rng.random() < min(quality["miss"] * harder * (1.8 if height < 40 else 0.6), 0.9)
    if missed and rng.random() < 0.5:
        return None
    score = rng.uniform(0.05, 0.3) if missed else rng.beta(quality["a"], quality["b"])
    noise = rng.normal(0, quality["jitter"], 4) * np.array([box[2] - box[0], height] * 2)
    return (image, *map(float, box + noise), float(np.clip(score, 0.05, 1)))


def _seen(rng, image, box, score):
    if score < 0.05:
        return None
    return (image, *map(float, box + rng.normal(0, 1, 4)), min(score, 0.99))


def poison(street, seed, source, removed=0.0, shifted=0.0, ghost=0.0):
    """Poison the labels of one source; returns the new boxes and the truth (kind, image_id, box_id)."""
    rng = np.random.default_rng(seed)
    boxes = street.boxes.copy()
    own = boxes["image_id"].str.startswith(f"{source}/").to_numpy()
    draw = np.where(own, rng.random(len(boxes)), 2.0)
    gone, moved, extra = (
        draw < removed,
        (draw >= removed) & (draw < removed + shifted),
        np.zeros(len(boxes), bool),
    )
    extra[own] = rng.random(int(own.sum())) < ghost
    width = (boxes["x2"] - boxes["x1"]).to_numpy()[moved]
    height = boxes["height"].to_numpy()[moved]
    dx = rng.choice([-1, 1], len(width)) * rng.uniform(0.3, 0.7, len(width)) * width
    dy = rng.choice([-1, 1], len(width)) * rng.uniform(0.05, 0.3, len(width)) * height
    boxes.loc[moved, ["x1", "x2"]] += dx[:, None]
    boxes.loc[moved, ["y1", "y2"]] += dy[:, None]
    ghosts = [_box(boxes.at[row, "image_id"], 100 + row, _people(rng, 1)[0]) for row in boxes.index[extra]]
    truth = [("missing", *row) for row in boxes.loc[gone, ["image_id", "box_id"]].itertuples(index=False)]
    truth += [("location", *row) for row in boxes.loc[moved, ["image_id", "box_id"]].itertuples(index=False)]
    truth += [("ghost", row["image_id"], row["box_id"]) for row in ghosts]
    kept = pd.concat([boxes[~gone], pd.DataFrame(ghosts)], ignore_index=True)
    return kept, pd.DataFrame(truth, columns=["kind", "image_id", "box_id"])
