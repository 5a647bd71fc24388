"""Which altered copies of a picture are found as duplicates, and how many honest pictures are taken for copies.

OMP_NUM_THREADS=1 python benchmarks/duplicates.py                                  # two minutes on one core

Synthetic street scenes are drawn for each seed (8 sources of 150 scenes of 2 frames, 192 × 144 pixels). Of some of
them, a copy that was altered in one way is delivered by another source, in another split. A copy is found if it is a
finding.
"""

import argparse
import hashlib
import io
from collections.abc import Callable

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import binomtest

from secpipeline.datasets.duplicates import dhash
from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.datasets.tables import empty_boxes
from secpipeline.poisoning.duplicates import duplicate_findings

COPIER = "copier"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument("--scenes", type=int, default=150, help="of each source, two frames each")
    parser.add_argument("--copies", type=int, default=200, help="of each kind and seed")
    options = parser.parse_args()
    found = dict.fromkeys(ALTERED, 0)
    honest, pictures, copies = 0, 0, 0
    for seed in options.seeds:
        spec = SceneSpec(scenes_per_source=options.scenes, frames_per_scene=2, width=192, height=144, seed=seed)
        drawn = [
            (frame.source, frame.scene, Image.fromarray(frame.pixels))
            for source in spec.source_names
            for scene in range(options.scenes)
            for frame in draw_scene(spec, source, scene)
        ]
        originals = table(drawn, "train")
        honest += len(duplicate_findings(originals, empty_boxes()))
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(drawn), min(options.copies, len(drawn)), replace=False)
        pictures, copies = pictures + len(drawn), copies + len(chosen)
        for name, alter in ALTERED.items():
            altered = [(COPIER, f"copy-{number}", alter(drawn[number][2], rng)) for number in chosen]
            both = pd.concat([originals, table(altered, "test")], ignore_index=True)
            findings = duplicate_findings(both, empty_boxes())
            found[name] += int(findings["image_id"].str.startswith(COPIER).sum())
    report(options.seeds, pictures, honest, copies, found)


def table(drawn: list[tuple[str, str, Image.Image]], split: str) -> pd.DataFrame:
    """The image table of pictures with their source and scene."""
    rows = [
        (f"{source}/{scene}/{number}", hashlib.sha256(picture.tobytes()).hexdigest(), *picture.size, source, scene,
         split, dhash(picture))
        for number, (source, scene, picture) in enumerate(drawn)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["image_id", "sha256", "width", "height", "source", "scene", "split", "dhash"])


Alter = Callable[[Image.Image, np.random.Generator], Image.Image]


def compressed(quality: int) -> Alter:
    def alter(picture: Image.Image, _: np.random.Generator) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return alter


def resized(factor: float) -> Alter:
    return lambda picture, _: picture.resize((round(picture.width * factor), round(picture.height * factor)))


def brightened(factor: float) -> Alter:
    return lambda picture, _: ImageEnhance.Brightness(picture).enhance(factor)


def noisy(sigma: float) -> Alter:
    def alter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.asarray(picture, np.float64)
        return Image.fromarray((pixels + rng.normal(0, sigma, pixels.shape)).clip(0, 255).astype(np.uint8))

    return alter


def cropped(share: float) -> Alter:
    """This share of width and height cut off each side."""

    def alter(picture: Image.Image, _: np.random.Generator) -> Image.Image:
        x, y = round(share * picture.width), round(share * picture.height)
        return picture.crop((x, y, picture.width - x, picture.height - y))

    return alter


def mirrored(picture: Image.Image, _: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(picture)


ALTERED: dict[str, Alter] = {
    "JPEG quality 40": compressed(40),
    "JPEG quality 10": compressed(10),
    "resized to 0.9": resized(0.9),
    "resized to 0.5": resized(0.5),
    "brightness × 1.15": brightened(1.15),
    "brightness × 1.5": brightened(1.5),
    "Gaussian noise, σ = 8": noisy(8),
    "1 % cut off each side": cropped(0.01),
    "2 % cut off each side": cropped(0.02),
    "3 % cut off each side": cropped(0.03),
    "5 % cut off each side": cropped(0.05),
    "mirrored": mirrored,
}


def report(seeds: list[int], pictures: int, honest: int, copies: int, found: dict[str, int]) -> None:
    print(f"seeds {', '.join(map(str, seeds))}: {honest} findings among {pictures:,} honest pictures")
    print(f"of {copies} copies of each kind these were found (95 % interval by Wilson):\n")
    print("| copy | found |\n|---|---|")
    for name, count in found.items():
        interval = binomtest(count, copies).proportion_ci(method="wilson")
        print(f"| {name} | {count / copies:.1%} ({interval.low:.1%} to {interval.high:.1%}) |")


if __name__ == "__main__":
    main()
