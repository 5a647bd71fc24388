"""What label evidence costs, beside cleanlab, and how much memory a large release needs.

OMP_NUM_THREADS=1 python benchmarks/label_evidence.py

The tables are those of tests/poisoning/label_simulation.py: about five boxes an image. cleanlab runs on a part of them
and is taken to be linear in the images, which it is within a tenth; --cleanlab-images makes it run on more. Memory is
the largest resident set of a process of its own that audits Parquet files part by part.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.object_detection.filter import find_label_issues
from cleanlab.object_detection.rank import get_label_quality_scores

from secpipeline.poisoning.audit import audit_parts
from secpipeline.poisoning.cleanlab_scores import image_quality
from secpipeline.poisoning.label_scores import score_labels
from secpipeline.poisoning.pairs import corners, judge
from secpipeline.poisoning.parts import ParquetParts

SPEEDUP, MEMORY = 50.0, 2.0
TILE = 2000
SOURCES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="of the comparison with cleanlab")
    parser.add_argument("--cleanlab-images", type=int, default=1_000, help="of them that cleanlab scores")
    parser.add_argument("--large", type=int, default=200_000, help="images of the release that is streamed; 0 for none")
    parser.add_argument("--audit", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.audit:
        audit_folder(options.audit)
        return
    compare(options.images, min(options.cleanlab_images, options.images))
    if options.large:
        stream(options.large)


def release(images: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Simulated tables of so many images with about five boxes and seven predictions each."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"{n:07}" for n in range(images)])
    source = np.array([f"vendor-{chr(97 + n * SOURCES // images)}" for n in range(images)])
    scene = np.char.mod("scene-%04d", np.arange(images) // 10)
    people = rng.poisson(5, images)
    image = np.repeat(np.arange(images), people)
    height = np.exp(rng.normal(3.9, 0.5, len(image))).clip(20, 150)
    left, foot = rng.uniform(0, 236, len(image)), 80 + height * 0.6
    xyxy = np.stack([left, foot - height, left + 0.41 * height, foot], axis=1)
    number = np.arange(len(image)) - np.repeat(np.cumsum(people) - people, people)
    boxes = pd.DataFrame(xyxy, columns=["x1", "y1", "x2", "y2"])
    boxes.insert(0, "image_id", ids[image])
    boxes.insert(0, "box_id", np.char.add(np.char.add(ids[image], "#"), number.astype(str)))
    seen = rng.random(len(image)) < 0.9
    noise = rng.normal(0, 0.05, xyxy.shape) * np.stack([0.41 * height, height] * 2, axis=1)
    found = pd.DataFrame((xyxy + noise)[seen], columns=["x1", "y1", "x2", "y2"])
    found.insert(0, "image_id", ids[image[seen]])
    labelled = rng.random(len(image)) >= 0.02
    score = rng.beta(6, 1.5, int(seen.sum()))
    return (
        pd.DataFrame({"image_id": ids, "source": source, "scene": scene}),
        boxes[labelled].assign(ignore=False).reset_index(drop=True),
        found.assign(score=score),
    )


def compare(images: int, of_them: int) -> None:
    """Seconds of cleanlab and of this package for the same scores, in one run."""
    tables = release(images)
    started = time.perf_counter()
    judged = judge(*tables)
    image_quality(judged)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    score_labels(judged)
    evidence = time.perf_counter() - started
    subset = judge(
        tables[0].head(of_them),
        *(table[table["image_id"].isin(tables[0]["image_id"].head(of_them))] for table in tables[1:]),
    )
    labels, predictions = as_cleanlab_wants(subset)
    started = time.perf_counter()
    theirs = get_label_quality_scores(labels, predictions, verbose=False)
    scores_seconds = (time.perf_counter() - started) * images / of_them
    started = time.perf_counter()
    find_label_issues(labels, predictions)
    issues_seconds = (time.perf_counter() - started) * images / of_them
    difference = float(np.abs(image_quality(subset)[0] - theirs).max())
    print(f"{images} images, {len(tables[1])} labels, {len(tables[2])} predictions; seconds by the wall clock")
    print(f"  cleanlab, scores and issues ({of_them} images, scaled)  {scores_seconds:8.1f} + {issues_seconds:.1f}")
    print(
        f"  the same scores and issues here, pairing included     {ours:8.2f}   (largest difference {difference:.1e})"
    )
    print(f"  evidence of every label and prediction                {evidence:8.2f}")
    ratio = (scores_seconds + issues_seconds) / ours
    told = "holds" if ratio >= SPEEDUP else "MISSED"
    both = (scores_seconds + issues_seconds) / (ours + evidence)
    print(f"  {ratio:.0f} times as fast ({both:.0f} with our own evidence), at least {SPEEDUP:.0f} wanted: {told}")


def as_cleanlab_wants(judged):
    labels, predictions = [], []
    for image in range(len(judged.images)):
        boxes = corners(judged.labels[judged.labels["image"] == image])
        found = judged.predictions[judged.predictions["image"] == image]
        labels.append({"bboxes": boxes, "labels": np.zeros(len(boxes), dtype=int)})
        one_class = np.empty(1, dtype=object)
        one_class[0] = np.column_stack([corners(found), found["score"].to_numpy(dtype="float64")])
        predictions.append(one_class)
    return labels, predictions


def stream(images: int) -> None:
    """The largest resident set of an audit of so many images in Parquet files."""
    with tempfile.TemporaryDirectory(prefix="secpipeline-labels-") as folder:
        for name, table in zip(("images", "boxes", "predictions"), release(images), strict=True):
            table.to_parquet(Path(folder) / f"{name}.parquet", index=False)
        command = [sys.executable, __file__, "--audit", folder]
        started = time.perf_counter()
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds = time.perf_counter() - started
    peak = float(told[0])
    verdict = "holds" if peak <= MEMORY else "MISSED"
    print(f"{images} images audited from Parquet in {seconds:.0f} s: {told[1]} findings, at most {peak:.2f} GB"
          f" resident, at most {MEMORY:.0f} wanted: {verdict}")  # fmt: skip


def audit_folder(folder: Path) -> None:
    parts = ParquetParts(*(folder / f"{name}.parquet" for name in ("images", "boxes", "predictions")), size=TILE)
    findings = audit_parts(parts, seed=1).findings
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, len(findings))


if __name__ == "__main__":
    main()
