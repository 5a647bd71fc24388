"""Which sources are named when one was poisoned, and when none was: power and false discoveries.

OMP_NUM_THREADS=1 python benchmarks/attribution.py                        # a few minutes on one core
OMP_NUM_THREADS=1 python benchmarks/attribution.py --scenes 150 --deliveries 12 --pool 4 --folds 4 --cache judged

Draws synthetic deliveries in which three of the eight vendors are made harder on purpose (darker, softer, smaller),
trains judges on whole-source folds, and then poisons the label table of one source at a time. The judge of that source
never saw its labels, so its predictions stay valid; the judges of the other folds are not retrained, which
``--retrain`` does for one trial a delivery. ``--pool`` joins deliveries into one release with as many times the labels
of each source. ``--simulated`` runs the study of twenty sources with simulated judges instead.
"""

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from scipy.stats import beta

from secpipeline.datasets.loading import Truth
from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.datasets.tables import CORNERS
from secpipeline.detection import registry
from secpipeline.detection.inference import predict
from secpipeline.detection.recipes import load_recipe
from secpipeline.detection.training import train
from secpipeline.poisoning.attribution import attribute
from secpipeline.poisoning.concentration import concentrate
from secpipeline.poisoning.folds import assign_folds
from secpipeline.poisoning.label_scores import score_labels
from secpipeline.poisoning.pairs import judge
from secpipeline.poisoning.yardsticks import mark

RECIPE = Path(__file__).parents[1] / "recipes" / "judge.yaml"
WIDTH, HEIGHT = 192, 144
CONDITIONS = ("darker", "softer", "smaller")
FOUND_AS = {"removed": "missing", "shifted": "location", "ghost": "ghost"}
GHOST_HEIGHTS = (28.0, 86.0)


@dataclass(frozen=True)
class Delivery:
    """Pixels (N, 3, H, W) and the tables of one synthetic delivery."""

    pixels: np.ndarray
    images: pd.DataFrame
    boxes: pd.DataFrame


def draw(seed, scenes=150, frames=2, uneven=True):
    """Eight vendors; with ``uneven``, the pictures of three of them are made harder, whole vendors at a time."""
    spec = SceneSpec(width=WIDTH, height=HEIGHT, scenes_per_source=scenes, frames_per_scene=frames, seed=seed)
    rng = np.random.default_rng([seed, 1])
    condition = dict(zip(rng.permutation(spec.source_names), CONDITIONS if uneven else (), strict=False))
    pixels, images, boxes = [], [], []
    for source in spec.source_names:
        for scene in range(scenes):
            for frame in draw_scene(spec, source, scene):
                image_id = frame.file_name.removesuffix(".jpg")
                picture, scale, shift = harden(frame.pixels, condition.get(source, ""), rng)
                pixels.append(picture.transpose(2, 0, 1))
                images.append((image_id, source, frame.scene, condition.get(source, ""), frame.time_of_day))
                for n, person in enumerate(frame.people):
                    corners = np.array(person.box) * scale + np.array(shift * 2)
                    boxes.append((f"{image_id}#{n}", image_id, *corners, person.ignore, person.visibility))
    image_table = pd.DataFrame(images, columns=["image_id", "source", "scene", "condition", "time_of_day"])
    box_table = pd.DataFrame(boxes, columns=["box_id", "image_id", *CORNERS, "ignore", "visibility"])
    return Delivery(np.stack(pixels), image_table, box_table)


def harden(pixels, condition, rng):
    """An honest picture that is harder to judge; also the scale and shift of its boxes."""
    if condition == "darker":
        dark = pixels * 0.4 + rng.normal(0, 5, pixels.shape)
        return dark.clip(0, 255).astype(np.uint8), 1.0, (0.0, 0.0)
    if condition == "softer":
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.3))), 1.0, (0.0, 0.0)
    if condition == "smaller":
        size = (round(WIDTH * 0.7), round(HEIGHT * 0.7))
        left, top = (WIDTH - size[0]) // 2, (HEIGHT - size[1]) // 2
        frame = np.full_like(pixels, 114)
        frame[top : top + size[1], left : left + size[0]] = np.asarray(Image.fromarray(pixels).resize(size))
        return frame, 0.7, (float(left), float(top))
    return pixels, 1.0, (0.0, 0.0)


def truth_of(delivery, boxes):
    """What a judge is trained on: the labels of ``boxes``, image by image."""
    rows = dict(iter(boxes.groupby("image_id")))
    none = boxes.iloc[:0]
    found = []
    for image_id in delivery.images["image_id"]:
        own = rows.get(image_id, none)
        corners, ignore = own[list(CORNERS)].to_numpy(np.float32), own["ignore"].to_numpy(bool)
        found.append(Truth(corners[~ignore], corners[ignore]))
    return found


def judge_all(delivery, boxes, folds, seed):
    """Predictions for every image by a judge that trained on other sources only."""
    recipe, device = load_recipe(RECIPE), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assigned, truth = assign_folds(delivery.images, folds, seed).to_numpy(), truth_of(delivery, boxes)
    parts = []
    for fold in range(folds):
        inside, outside = np.flatnonzero(assigned == fold), np.flatnonzero(assigned != fold)
        judge = registry.build(recipe.detector, dict(recipe.config), seed=recipe.seed + fold)
        train(judge, delivery.pixels[outside], [truth[n] for n in outside], recipe, device=device)
        names = delivery.images["image_id"].to_numpy()[inside].tolist()
        parts.append(predict(judge.to(device), delivery.pixels[inside], names))
    return pd.concat(parts, ignore_index=True)


def judged(cache, seed, options):
    """A delivery's images, boxes and predictions; read from the cache if they are there."""
    name = f"{seed}-{options.scenes}-{options.folds}"
    files = [cache / f"{name}-{part}.parquet" for part in ("images", "boxes", "predictions")] if cache else []
    if files and all(file.is_file() for file in files):
        return tuple(pd.read_parquet(file) for file in files)
    delivery = draw(seed, options.scenes)
    tables = (delivery.images, delivery.boxes, judge_all(delivery, delivery.boxes, options.folds, seed=23))
    for file, table in zip(files, tables, strict=False):
        cache.mkdir(parents=True, exist_ok=True)
        table.to_parquet(file)
    return tables


def poison(images, boxes, source, kind, share, seed):
    """Spoil this share of one source's boxes: removed, shifted by .3 to .7 widths, or ghosts where nobody is."""
    rng = np.random.default_rng([seed, 5])
    source_of = dict(zip(images["image_id"], images["source"], strict=True))
    own = (boxes["image_id"].map(source_of) == source).to_numpy() & ~boxes["ignore"].to_numpy()
    chosen = own & (rng.random(len(boxes)) < share)
    if kind == "removed":
        return boxes[~chosen]
    if kind == "ghost":
        return pd.concat([boxes, ghosts(boxes, own, chosen, rng)], ignore_index=True)
    moved = boxes.copy()
    xyxy = boxes.loc[chosen, list(CORNERS)].to_numpy()
    width, height = xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1]
    right, down = xyxy[:, [0, 2]].mean(axis=1) < WIDTH / 2, HEIGHT - xyxy[:, 3] > xyxy[:, 1]
    dx = np.where(right, 1, -1) * rng.uniform(0.3, 0.7, len(xyxy)) * width
    dy = np.where(down, 1, -1) * rng.uniform(0.05, 0.3, len(xyxy)) * height
    moved.loc[chosen, list(CORNERS)] = xyxy + np.stack([dx, dy, dx, dy], axis=1)
    for corner, most in zip(CORNERS, (WIDTH, HEIGHT) * 2, strict=True):
        moved[corner] = moved[corner].clip(0, most)
    return moved


def ghosts(boxes, own, chosen, rng):
    """One box for each chosen one, where one of the source's people of about that height stood in another image."""
    xyxy = boxes[list(CORNERS)].to_numpy()
    height = xyxy[:, 3] - xyxy[:, 1]
    models = np.flatnonzero(own & (height >= GHOST_HEIGHTS[0]))
    people, rows = boxes.groupby("image_id").indices, []
    for row in np.flatnonzero(chosen):
        image_id = boxes["image_id"].iat[row]
        others = xyxy[people[image_id]]
        for _ in range(40):
            tall = np.exp(rng.uniform(*np.log(GHOST_HEIGHTS)))
            x1, y1, x2, y2 = xyxy[models[np.argmin(np.abs(np.log(height[models] / tall)))]]
            left = rng.uniform(0, WIDTH - (x2 - x1))
            box = np.array([left, y1, left + x2 - x1, y2])
            shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(axis=1)
            if shared.max() < 0.02 * (x2 - x1) * (y2 - y1):
                rows.append((f"{image_id}#ghost-{row}", image_id, *box, False, 1.0))
                break
    return pd.DataFrame(rows, columns=boxes.columns)


def tests_of(images, boxes, predictions, delivery):
    """Tests with the sources renamed by how hard they are, so that deliveries can be joined."""
    tests = score_labels(judge(images, boxes, predictions))
    tests["source"] = tests["source"].map(roles(images))
    for column in ("scene", "image_id", "box_id"):
        tests[column] = f"{delivery}-" + tests[column]
    return tests


def roles(images):
    conditions = images.groupby("source")["condition"].first()
    plain = (f"plain-{number}" for number in itertools.count())
    return {source: condition or next(plain) for source, condition in conditions.items()}


def real_judges(options):
    """Honest and poisoned releases, each of ``pool`` deliveries."""
    seeds = range(options.seed, options.seed + options.deliveries)
    honest, poisoned = [], []
    for start in range(0, options.deliveries, options.pool):
        pool = {seed: judged(options.cache, seed, options) for seed in seeds[start : start + options.pool]}
        clean = pd.concat([tests_of(*tables, seed) for seed, tables in pool.items()], ignore_index=True)
        honest += list(honest_releases(clean, options))
        names = sorted(clean["source"].unique())
        rng = np.random.default_rng([options.seed, start])
        for kind in FOUND_AS:
            for name in rng.choice(names, options.sources, replace=False):
                poisoned.append(poisoned_release(pool, kind, name, options.share))
                print(poisoned[-1], flush=True)
        if options.retrain:
            print("retrained:", retrained(seeds[start], kind="ghost", options=options), flush=True)
    report(honest, poisoned, options.share)


def honest_releases(clean, options):
    """The release itself and bootstraps of its scenes: the names of sources that were named, and what is said."""
    rng = np.random.default_rng(options.seed)
    for number in range(1 + options.bootstraps):
        tests = clean if number == 0 else resampled(clean, rng)
        marked = mark(tests)
        crowded = concentrate(marked, (HEIGHT, WIDTH))["concentrated"].any()
        yield {"named": attribute(tests).named, "concentrated": bool(crowded)}


def resampled(tests, rng):
    """The same number of scenes of each source, drawn with replacement; a scene drawn twice becomes two."""
    parts = []
    for _, own in tests.groupby("source"):
        scenes = dict(iter(own.groupby("scene")))
        for number, name in enumerate(rng.choice(sorted(scenes), len(scenes))):
            again = scenes[name].copy()
            again["scene"] = f"{number:04}"
            again["image_id"] = f"{number:04}-" + again["image_id"]
            parts.append(again)
    return pd.concat(parts, ignore_index=True)


def poisoned_release(pool, kind, name, share):
    parts = []
    for seed, (images, boxes, predictions) in pool.items():
        source = {role: source for source, role in roles(images).items()}[name]
        parts.append(tests_of(images, poison(images, boxes, source, kind, share, seed), predictions, seed))
    found = attribute(pd.concat(parts, ignore_index=True))
    return verdict(found, kind, name)


def verdict(found, kind, name):
    row = found.table.set_index(["source", "kind"]).loc[(name, FOUND_AS[kind])]
    others = [source for source in found.named if source != name]
    shares = {column: round(float(row[column]), 3) for column in ("rate_ratio", "detectable_share")}
    return {"kind": kind, "source": str(name), "named": bool(row["named"]), "others": others, **shares}


def retrained(seed, kind, options):
    """The same trial with every judge trained anew on the poisoned labels."""
    delivery = draw(seed, options.scenes)
    source = delivery.images["source"].iloc[-1]
    boxes = poison(delivery.images, delivery.boxes, source, kind, options.share, seed)
    predictions = judge_all(delivery, boxes, options.folds, seed=23)
    found = attribute(tests_of(delivery.images, boxes, predictions, seed))
    return verdict(found, kind, roles(delivery.images)[source])


def simulated_judges(options):
    """Twenty sources, uneven on purpose, judged by simulated judges of three strengths."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "poisoning"))
    from label_simulation import draw_street  # noqa: PLC0415 - a test helper, not on the path before
    from label_simulation import poison as poison_street  # noqa: PLC0415

    for name in ("strong", "middling", "weak"):
        honest, poisoned = [], []
        for seed in range(options.seed, options.seed + options.deliveries):
            street = draw_street.__wrapped__(seed, name, sources=20, unevenness=options.unevenness)
            tests = score_labels(judge(street.images, street.boxes, street.predictions))
            crowded = concentrate(mark(tests), (192, 256))["concentrated"].any()
            honest.append({"named": attribute(tests).named, "concentrated": bool(crowded)})
            kind = list(FOUND_AS)[seed % 3]
            boxes, _ = poison_street(street, seed + 1000, "vendor-c", **{kind: options.share})
            found = attribute(score_labels(judge(street.images, boxes, street.predictions)))
            poisoned.append(verdict(found, kind, "vendor-c"))
        print(f"-- {name} judges, unevenness {options.unevenness}")
        report(honest, poisoned, options.share)


def report(honest, poisoned, share):
    table = pd.DataFrame(poisoned)
    print(f"honest releases with a named source: {interval([bool(trial['named']) for trial in honest])}")
    print(f"honest releases with a concentration: {interval([trial['concentrated'] for trial in honest])}")
    for kind, rows in table.groupby("kind"):
        print(
            f"{share:.0%} {kind}: named {interval(rows['named'])}, rate ratio {rows['rate_ratio'].median():.1f}", end=""
        )
        print(f", detectable share {rows['detectable_share'].median():.3f} (medians)")
    print(f"poisoned releases in which another source was named: {interval(table['others'].map(bool))}", flush=True)


def interval(hits):
    """Share and 95 % Clopper-Pearson interval."""
    hits = np.asarray(hits, dtype=bool)
    k, n = int(hits.sum()), len(hits)
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{k} of {n} = {k / n:.2f} [{low:.2f}, {high:.2f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40, help="of each source in each delivery, two frames each")
    parser.add_argument("--deliveries", type=int, default=1)
    parser.add_argument("--pool", type=int, default=1, help="deliveries joined into one release")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--sources", type=int, default=4, help="poisoned one after the other, for each kind")
    parser.add_argument("--bootstraps", type=int, default=19, help="of the scenes of each honest release")
    parser.add_argument("--share", type=float, default=0.05, help="of the source's boxes")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="where predictions are kept")
    parser.add_argument("--retrain", action="store_true")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--unevenness", type=float, default=0.3, help="of the simulated sources")
    options = parser.parse_args()
    (simulated_judges if options.simulated else real_judges)(options)


if __name__ == "__main__":
    main()
