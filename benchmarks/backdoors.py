"""Backdoors planted in synthetic releases: whether a detector learns them, and what the search for triggers holds.

OMP_NUM_THREADS=1 python benchmarks/backdoors.py --cache build/backdoors --attacks oga oda --seeds 111 112
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from secpipeline.datasets.loading import Pixels, Placement, Truth
from secpipeline.datasets.synthetic import Frame, PersonBox, SceneSpec, draw_scene
from secpipeline.datasets.synthetic.camera import Camera
from secpipeline.datasets.tables import BOX_COLUMNS, CORNERS, LABEL
from secpipeline.detection import metrics, registry
from secpipeline.detection.inference import predict
from secpipeline.detection.recipes import load_recipe
from secpipeline.detection.training import train
from secpipeline.judging import out_of_fold
from secpipeline.poisoning import folds
from secpipeline.poisoning.backdoors import (
    Backdoor,
    Blended,
    GlobalMisclassification,
    ObjectDisappearance,
    ObjectGeneration,
    RegionalMisclassification,
    Trigger,
    attack_success,
)
from secpipeline.poisoning.hidden_triggers import shared_pattern
from secpipeline.poisoning.triggers import find_triggers
from secpipeline.store import write_atomic

ROOT = Path(__file__).parents[1]
SOURCE = "vendor-c"
SOURCES = 4
SCENES = 125  # of each source, two frames each: 1,000 images
HELD_OUT_SCENES, CALIBRATION_SCENES = 60, 15
QUALITY = 92
MAX_FPPI = 0.5
SAID = 0.2  # weaker predictions are not evidence
PATTERN = 0.1  # set on seed 101, where honest pictures stay below 0.06 and triggered ones above 0.27
SHARES = (0.01, 0.05)  # of the release's images, all of them one source's
LOOKS = ("checkerboard", "sticker", "texture")
SIZES = (1 / 8, 1 / 6, 1 / 4)
KINDS = {
    "oga": ObjectGeneration,
    "rma": RegionalMisclassification,
    "gma": GlobalMisclassification,
    "oda": ObjectDisappearance,
    "blended": Blended,
}
# Not every picture has somebody whom a trigger fits, or anybody at all: so many more are chosen.
ELIGIBLE = {"oga": 1.0, "rma": 0.66, "gma": 0.92, "oda": 0.66, "blended": 0.92}


@dataclass(frozen=True)
class Case:
    """One release: an attack by its short name (``clean`` for none), its trigger, the share of images, a seed."""

    attack: str
    look: str
    size: float
    share: float
    seed: int

    @property
    def name(self) -> str:
        if self.attack == "clean":
            return f"clean-{self.seed}"
        return f"{self.attack}-{self.look}-{self.size:.3f}-{self.share:g}-{self.seed}"

    def planter(self, source: str = SOURCE, rate: float | None = None) -> Backdoor | None:
        if self.attack == "clean":
            return None
        rate = self.share * SOURCES / ELIGIBLE[self.attack] if rate is None else rate
        kind = KINDS[self.attack]
        if kind is Blended:
            return Blended(source, rate, self.seed, pattern=self.seed)
        return kind(source, rate, self.seed, trigger=Trigger(self.look, self.size, seed=self.seed))


def case_of(attack: str, look: str, share: float, seed: int) -> Case:
    """A case whose trigger has one of the three sizes, so that over three seeds each kind and look has them all."""
    if attack == "blended":
        return Case(attack, "pattern", 1.0, share, seed)
    turn = list(KINDS).index(attack) + LOOKS.index(look) + seed
    return Case(attack, look, SIZES[turn % 3], share, seed)


def clean(seed: int) -> Case:
    return Case("clean", "nothing", 0.0, 0.0, seed)


def all_cases(seed: int) -> list[Case]:
    """Every kind and look at both shares, and the release without poison."""
    patches = [case_of(a, look, share, seed) for a in KINDS if a != "blended" for look in LOOKS for share in SHARES]
    return [*patches, *(case_of("blended", "pattern", share, seed) for share in SHARES), clean(seed)]


def victim_cases(seed: int) -> list[Case]:
    """Each kind with one look, which turns with the seed, at both shares."""
    looks = {a: LOOKS[(n + seed) % 3] for n, a in enumerate(KINDS)}
    return [case_of(a, looks[a], share, seed) for a in KINDS for share in SHARES]


@dataclass(frozen=True)
class Sample:
    """Pixels (N, 3, H, W) and the tables of a release."""

    pixels: np.ndarray
    images: pd.DataFrame
    boxes: pd.DataFrame
    planted: pd.DataFrame

    def data(self) -> Pixels:
        ids = self.images["image_id"].tolist()
        by_image = self.boxes.groupby("image_id").indices
        corners, ignore = self.boxes[list(CORNERS)].to_numpy(np.float32), self.boxes["ignore"].to_numpy(bool)
        truth = []
        for name in ids:
            rows = by_image.get(name, np.empty(0, np.int64))
            truth.append(Truth(corners[rows[~ignore[rows]]], corners[rows[ignore[rows]]]))
        return Pixels(self.pixels, truth, ids, self.boxes, [Placement(1.0, 0.0, 0.0)] * len(ids))

    def only(self, kept: np.ndarray) -> Sample:
        ids = set(self.images.loc[kept, "image_id"])
        tables = (table[table["image_id"].isin(ids)].reset_index(drop=True) for table in (self.boxes, self.planted))
        return Sample(self.pixels[kept], self.images[kept].reset_index(drop=True), *tables)


def draw(path: Path, seed: int, source: str, scenes: int) -> None:
    """Draw one source's scenes once and keep them."""
    if path.is_file():
        return
    spec = SceneSpec(192, 144, sources=SOURCES, scenes_per_source=scenes, frames_per_scene=2, seed=seed)
    frames = [frame for number in range(scenes) for frame in draw_scene(spec, source, number)]
    people = [
        (index, *person.box, person.visibility, person.ignore)
        for index, frame in enumerate(frames)
        for person in frame.people
    ]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        pixels=np.stack([frame.pixels for frame in frames]),
        people=np.array(people, np.float64).reshape(-1, 7),
        cameras=np.array([dataclasses.astuple(frame.camera) for frame in frames], np.float64),
        times=np.array([frame.time_of_day for frame in frames]),
    )
    write_atomic(path, buffer.getvalue())


def frames_of(path: Path, source: str) -> list[Frame]:
    with np.load(path) as kept:
        pixels, people, cameras, times = (kept[name] for name in ("pixels", "people", "cameras", "times"))
    found = []
    for index in range(len(pixels)):
        rows = people[people[:, 0] == index]
        boxes = tuple(PersonBox(tuple(row[1:5].tolist()), float(row[5]), bool(row[6])) for row in rows)
        width, height, *rest = cameras[index].tolist()
        camera = Camera(int(width), int(height), *rest)
        scene = f"scene-{index // 2:03d}"
        found.append(Frame(source, scene, index % 2, str(times[index]), camera, pixels[index], boxes))
    return found


def sample(frames: list[Frame], planter_of) -> Sample:
    """Plant, compress as a delivery does, and tabulate."""
    pixels, images, boxes, planted = [], [], [], []
    for frame in frames:
        planter = planter_of(frame)
        spoiled, rows = (frame, []) if planter is None else planter.plant(frame)
        buffer = io.BytesIO()
        Image.fromarray(spoiled.pixels).save(buffer, "JPEG", quality=QUALITY)
        pixels.append(np.asarray(Image.open(buffer)).transpose(2, 0, 1))
        image_id = frame.file_name.removesuffix(".jpg").replace("/", "-")
        images.append((image_id, frame.source, frame.scene, frame.camera.width, frame.camera.height))
        boxes += [
            (f"{image_id}#{n}", image_id, *p.box, LABEL, p.ignore, p.visibility, p.box[3] - p.box[1])
            for n, p in enumerate(spoiled.people)
        ]
        planted += [(image_id, row["kind"], *row["box"], *row["trigger"]) for row in rows]
    return Sample(
        np.stack(pixels),
        pd.DataFrame(images, columns=["image_id", "source", "scene", "width", "height"]),
        pd.DataFrame(boxes, columns=list(BOX_COLUMNS)),
        pd.DataFrame(planted, columns=["image_id", "kind", *CORNERS, *(f"t{c}" for c in CORNERS)]),
    )


@functools.lru_cache(maxsize=2)
def _drawn(cache: Path, seed: int) -> tuple[Frame, ...]:
    names = SceneSpec(sources=SOURCES).source_names
    return tuple(f for name in names for f in frames_of(cache / "frames" / f"{seed}-{name}.npz", name))


def release(cache: Path, case: Case) -> Sample:
    """The release of a case."""
    planter = case.planter()
    return sample(list(_drawn(cache, case.seed)), lambda _: planter)


def held_out(cache: Path, case: Case, *, triggered: bool) -> Sample:
    """Scenes that are in no release: as they are, or all with the case's trigger."""

    def planter_of(frame: Frame) -> Backdoor | None:
        return case.planter(frame.source, 1.0) if triggered else None

    return sample(list(_drawn(cache, case.seed + 5000)), planter_of)


def judged(cache: Path, case: Case) -> pd.DataFrame:
    """Out-of-fold predictions by the audit's own judges."""
    path = cache / "judged" / f"{case.name}.parquet"
    if not path.is_file():
        torch.set_num_threads(1)
        data = release(cache, case)
        assigned = folds.assign_folds(data.images, 2, seed=23).to_numpy()
        recipe = load_recipe(ROOT / "recipes" / "judge.yaml")
        predictions = out_of_fold(data.data(), assigned, recipe, cache / "resume" / case.name)
        predictions = predictions.astype(dict.fromkeys((*CORNERS, "score"), np.float32))
        write_atomic(path, _parquet(predictions))
    return pd.read_parquet(path)


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def searched(cache: Path, case: Case) -> dict:
    """What the search holds of a release: trigger images held, honest images held, clusters, seconds of one core."""
    path = cache / "searched" / f"{case.name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    data, predictions = release(cache, case), judged(cache, case)
    position = {image_id: index for index, image_id in enumerate(data.images["image_id"])}

    def decode(image_id: str) -> np.ndarray:
        return data.pixels[position[image_id]].transpose(1, 2, 0)

    started = time.process_time()
    search = find_triggers(data.images, data.boxes, predictions[predictions["score"] >= SAID], decode)
    patterned = shared_pattern(data.images, decode)
    seconds = time.process_time() - started
    held = set(search.findings["image_id"]) | set(data.images.loc[patterned >= PATTERN, "image_id"])
    spoiled = set(data.planted["image_id"])
    found = {
        "spoiled": len(spoiled),
        "spoiled held": len(spoiled & held),
        "honest": len(data.images) - len(spoiled),
        "honest held": len(held - spoiled),
        "clusters": len(search.clusters),
        "CPU seconds": round(seconds, 1),
        "held": sorted(held),
    }
    write_atomic(path, json.dumps(found).encode())
    return found


def victim(cache: Path, case: Case, *, cleaned: bool) -> dict:
    """A detector without defences, trained on the release or on what is left of it; AP50 and the attack's success."""
    path = cache / "victims" / f"{case.name}-{'cleaned' if cleaned else 'poisoned'}.json"
    if path.is_file():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    data = release(cache, case)
    if cleaned:
        data = data.only(~data.images["image_id"].isin(searched(cache, case)["held"]).to_numpy())
    recipe = load_recipe(ROOT / "recipes" / "standard.yaml")
    detector = registry.build(recipe.detector, dict(recipe.config), seed=recipe.seed)
    loaded = data.data()
    train(detector, loaded.images, loaded.truth, recipe)
    measured = measure(cache, case, detector)
    write_atomic(path, json.dumps(measured).encode())
    return measured


def measure(cache: Path, case: Case, detector) -> dict:
    """AP50 on clean held-out scenes, and the success of every attack that is asked about, at the model's threshold."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detector.to(device)
    plain = held_out(cache, case, triggered=False)
    ids = plain.images["image_id"].tolist()
    predictions = predict(detector, plain.pixels, ids)
    calibration = (plain.images["scene"] < f"scene-{CALIBRATION_SCENES:03d}").to_numpy()
    tune, test = (plain.images.loc[mask, "image_id"].tolist() for mask in (calibration, ~calibration))
    threshold = metrics.operating_threshold(metrics.match(plain.boxes, predictions, tune, metrics.ALL), MAX_FPPI)
    matches = metrics.match(plain.boxes, predictions, test, metrics.ALL)
    found = {
        "ap50": metrics.average_precision(matches),
        "miss_rate": metrics.miss_rate(matches, threshold),
        "threshold": threshold,
    }
    attacks = victim_cases(case.seed)[::2] if case.attack == "clean" else [case]
    for attack in attacks:
        shown = held_out(cache, attack, triggered=True)
        marked = predict(detector, shown.pixels, ids)
        planted = shown.planted[shown.planted["image_id"].isin(test)]
        kind = attack.planter().kind
        success = attack_success(kind, planted, marked, predictions, threshold)
        found[f"{attack.attack}-{attack.look}-{attack.size:.3f}"] = [success.successes, success.trials]
    detector.to("cpu")
    return found


def draw_all(cache: Path, seeds: list[int], victims: list[int], pool: ProcessPoolExecutor) -> None:
    jobs = []
    for number, scenes in [(seed, SCENES) for seed in seeds] + [(seed + 5000, HELD_OUT_SCENES) for seed in victims]:
        for name in SceneSpec(sources=SOURCES).source_names:
            jobs.append(pool.submit(draw, cache / "frames" / f"{number}-{name}.npz", number, name, scenes))
    for job in jobs:
        job.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "backdoors", help="keeps frames and results")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[111], help="releases to search")
    parser.add_argument(
        "--victim-seeds", type=int, nargs="*", default=[], help="releases to train on, before and after"
    )
    parser.add_argument("--attacks", nargs="*", choices=[*KINDS, "clean"], default=["oda", "clean"])
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        draw_all(options.cache, sorted({*options.seeds, *options.victim_seeds}), options.victim_seeds, pool)
        jobs = {}
        for case in (c for seed in options.seeds for c in all_cases(seed) if c.attack in options.attacks):
            jobs[pool.submit(searched, options.cache, case)] = f"{case.name} search"
        for seed in options.victim_seeds:
            jobs[pool.submit(victim, options.cache, clean(seed), cleaned=False)] = f"{clean(seed).name} never poisoned"
            for case in (c for c in victim_cases(seed) if c.attack in options.attacks):
                for cleaned in (False, True):
                    name = f"{case.name} {'cleaned' if cleaned else 'poisoned'}"
                    jobs[pool.submit(victim, options.cache, case, cleaned=cleaned)] = name
        for job, name in jobs.items():
            found = {key: value for key, value in job.result().items() if key != "held"}
            print(name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
