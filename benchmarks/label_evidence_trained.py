"""What the label audit finds with judges that are really trained: precision, what a score is worth, images held.

OMP_NUM_THREADS=1 python benchmarks/label_evidence_trained.py            # hours on one core; --jobs shares them
OMP_NUM_THREADS=1 python benchmarks/label_evidence_trained.py --quick    # two minutes: only whether it runs

For each data seed and kind of error a synthetic release of its own is drawn (8 sources), 5 % of one source's boxes are
spoiled, judges are trained on whole-source folds and the labels audited, by the code of the stages. The result of each
is a file in --out; those that are there are not made again, so a run that was stopped goes on. So do the judges'
predictions: with --judge-only a machine with accelerators makes them alone, and one without audits them. The printed
tables are Markdown, over all seeds asked for. The kind "none" spoils nothing and shows how many honest images are held.
"""

import argparse
import dataclasses
import io
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from secpipeline.datasets import formats
from secpipeline.datasets.deliveries import deliver
from secpipeline.datasets.geometry import overlap
from secpipeline.datasets.loading import Pixels, load
from secpipeline.datasets.releases import Release, write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.datasets.tables import CORNERS
from secpipeline.detection import metrics
from secpipeline.detection.acceleration import take_turn
from secpipeline.detection.recipes import Recipe, load_recipe
from secpipeline.digests import sha256_file
from secpipeline.drills.attacks import BY_NAME, LABEL_SHARE, SOURCE
from secpipeline.judging import out_of_fold
from secpipeline.poisoning.audit import audit_labels
from secpipeline.poisoning.cleanlab_scores import Collected, box_scores
from secpipeline.poisoning.folds import assign_folds
from secpipeline.poisoning.fusion import fuse, judges_of
from secpipeline.poisoning.label_scores import LABEL_KINDS
from secpipeline.poisoning.pairs import judge
from secpipeline.store import write_atomic

ROOT = Path(__file__).parents[1]
KINDS = ("removed", "shifted", "ghost")
NOTHING = "none"
SEEDS = (300, 301, 302, 303)  # the method was tuned on 100 to 205
FRAMES = 2
HELD = 0.80  # quarantine.image_score in params.yaml
EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
WANTED = 0.80
AUDIT_SEED = 23
SAME_PLACE = 0.5
PREDICTED = tuple(f"p{corner}" for corner in CORNERS)
QUICK = {"scenes": 20, "epochs": 4, "folds": 2, "judges": 1}


def main() -> None:
    options = read_options()
    recipe = load_recipe(options.recipe)
    setting = {
        "recipe": sha256_file(options.recipe),
        "epochs": options.epochs or recipe.epochs,
        "folds": options.folds,
        "judges": options.judges,
        "scenes": options.scenes,
    }
    wanted = [(seed, kind) for seed in options.seeds for kind in options.kinds]
    files = {(seed, kind): options.out / f"{seed}-{kind}.json" for seed, kind in wanted}
    missing = [case for case, path in files.items() if not kept(path, setting)]
    options.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, take_turn, (context.Value("i", 0),)) as pool:
        jobs = {pool.submit(trial, *case, options.recipe, setting, files[case], options.judge_only) for case in missing}
        for job in as_completed(jobs):
            print(job.result(), file=sys.stderr, flush=True)
    if options.judge_only:
        return
    report([json.loads(path.read_text()) for path in files.values()])


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "judge.yaml", help="of the judges")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--judges", type=int, default=2, help="of each fold, of other seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the data")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, NOTHING], default=list(KINDS))
    parser.add_argument("--scenes", type=int, default=150, help=f"of each source, {FRAMES} frames each")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--judge-only", action="store_true", help="train judges, keep what they see, audit nothing")
    parser.add_argument("--out", type=Path, help="keeps the results; build/label-evidence by default")
    parser.add_argument("--quick", action="store_true", help="one seed, few scenes, weak judges: only whether it runs")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK, seeds=options.seeds[:1])
    options.out = options.out or ROOT / "build" / ("label-evidence-quick" if options.quick else "label-evidence")
    return options


def kept(path: Path, setting: dict) -> bool:
    """Whether this result is there already; one that was made otherwise may not stand among the others."""
    if not path.is_file():
        return False
    if json.loads(path.read_text())["setting"] != setting:
        sys.exit(f"{path}: was made with another recipe or other options; give another --out, or delete it")
    return True


def trial(seed: int, kind: str, recipe_file: Path, setting: dict, path: Path, judge_only: bool) -> str:
    """Draw, spoil, train judges, audit, measure and write to ``path``; what it cost, in words."""
    torch.set_num_threads(1)
    recipe = dataclasses.replace(load_recipe(recipe_file), epochs=setting["epochs"])
    height, width = recipe.input_size
    spec = SceneSpec(width, height, scenes_per_source=setting["scenes"], frames_per_scene=FRAMES, seed=seed)
    with tempfile.TemporaryDirectory(prefix="secpipeline-labels-") as directory:
        release, planted = draw(Path(directory), spec, kind)
        data = load(release, release.images["image_id"].tolist(), recipe.input_size)
        predictions, seconds = judged(release.images, data, recipe, setting, path.with_suffix(".parquet"))
    if judge_only:
        return f"{path.with_suffix('.parquet')}: {seconds} CPU seconds"
    started = time.process_time()
    found = measure(release.images, data.boxes, predictions, planted, kind)
    cost = {"judges": seconds, "audit": round(time.process_time() - started)}
    result = {"setting": setting, "seed": seed, "kind": kind, **found, "CPU seconds": cost}
    write_atomic(path, (json.dumps(result, indent=1) + "\n").encode())
    return f"{path}: {cost} CPU seconds"


def judged(images: pd.DataFrame, data: Pixels, recipe: Recipe, setting: dict, path: Path) -> tuple[pd.DataFrame, int]:
    """What the judges see, from the file if it is there, and the CPU seconds that it took."""
    made_of = json.dumps(setting, sort_keys=True)
    if path.is_file():
        table = pq.read_table(path)
        facts = table.schema.metadata
        if facts[b"setting"].decode() != made_of:
            sys.exit(f"{path}: was made with another recipe or other options; give another --out, or delete it")
        return table.to_pandas(), int(facts[b"seconds"])
    assigned = assign_folds(images, setting["folds"], AUDIT_SEED).to_numpy()
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="secpipeline-judges-") as resume:
        predictions = out_of_fold(data, assigned, recipe, Path(resume), setting["judges"])
    seconds = round(time.process_time() - started)
    table = pa.Table.from_pandas(predictions, preserve_index=False)
    facts = {**(table.schema.metadata or {}), "setting": made_of, "seconds": str(seconds)}
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(facts), stream, compression="zstd")
    write_atomic(path, stream.getvalue())
    return predictions, seconds


def draw(directory: Path, spec: SceneSpec, kind: str) -> tuple[Release, pd.DataFrame]:
    """A release, and what was planted in it: image_id and the box."""
    plan = None if kind == NOTHING else BY_NAME[kind].plant(SOURCE, LABEL_SHARE, spec.seed)
    delivered = deliver(directory / "delivery", spec, plan, processes=1)
    annotations = formats.read(delivered.instances)
    splits = assign_splits(annotations.images, calibration=0.15, test=0.15, holdout_sources=(), seed=spec.seed)
    out = directory / "release"
    out.mkdir()
    write_release(out, annotations, splits)
    ids = dict(zip(annotations.images["file_name"], annotations.images["image_id"], strict=True))
    rows = [] if delivered.planted is None else json.loads(delivered.planted.read_bytes())
    planted = pd.DataFrame([(ids[row["file_name"]], *row["box"]) for row in rows], columns=["image_id", *CORNERS])
    if plan is not None and planted.empty:
        sys.exit(f"seed {spec.seed}: nothing was planted in so few scenes; raise --scenes")
    return Release(out, out), planted


def measure(
    images: pd.DataFrame, boxes: pd.DataFrame, predictions: pd.DataFrame, planted: pd.DataFrame, kind: str
) -> dict:
    """What an audit of spoiled ``boxes`` makes of the ``planted`` ones, all in the same pixels."""
    audit = audit_labels(images, boxes, predictions, seed=AUDIT_SEED)
    findings = audit.findings[audit.findings["kind"].isin(LABEL_KINDS)].reset_index(drop=True)
    about = set(near(findings, CORNERS, planted)["row"]) | set(near(findings, PREDICTED, planted)["row"])
    right = findings.index.isin(about)
    score = findings["score"].to_numpy(np.float64)
    bins = np.digitize(score, EDGES[1:-1])
    spoiled, held = set(planted["image_id"]), set(findings.loc[score >= HELD, "image_id"])
    return {
        "images": len(images),
        "planted": len(planted),
        **({} if kind == NOTHING else precisions(images, boxes, predictions, findings, planted, kind)),
        "scores": [[int((bins == n).sum()), float(score[bins == n].sum()), int(right[bins == n].sum())]
                   for n in range(len(EDGES) - 1)],
        "squared error": float(((score - right) ** 2).sum()),
        "planted images": len(spoiled),
        "planted images held": len(spoiled & held),
        "honest images held": len(held - spoiled),
        "AP50": judges_precision(images, boxes, predictions),
        "canaries seen": dict(audit.seen),
    }  # fmt: skip


def precisions(images, boxes, predictions, findings, planted, kind) -> dict:
    """The share of planted boxes among as many of the strongest: by score, by evidence alone, and by cleanlab."""
    found_as = BY_NAME[kind].finding
    own = findings[findings["kind"] == found_as]
    corners = PREDICTED if found_as == "missing" else CORNERS
    by_evidence = own.sort_values("evidence", ascending=False, kind="stable")
    names = judges_of(predictions)
    one = predictions[predictions["judge"] == names[0]]
    cleanlab = {"one judge": one, "fused": fuse(images, predictions, names)}
    return {
        "precision": precision(own, corners, planted),
        "by evidence": precision(by_evidence, corners, planted),
        "cleanlab": {
            name: precision(doubted(images, boxes, seen, found_as), CORNERS, planted) for name, seen in cleanlab.items()
        },
    }


def doubted(images, boxes, predictions, found_as) -> pd.DataFrame:
    """Predictions by cleanlab's score of overlooked boxes, or labels by that of badly placed ones, the lowest first."""
    judged = judge(images, boxes, predictions)
    overlooked, located = box_scores(judged, Collected.of(judged).smallest)
    table, score = (judged.predictions, overlooked) if found_as == "missing" else (judged.labels, located)
    # A score of 1, or none, says that nothing speaks against it.
    return table.assign(cleanlab=score)[score < 1].sort_values("cleanlab", kind="stable")


def precision(ranked: pd.DataFrame, corners: tuple[str, ...], planted: pd.DataFrame) -> float:
    """Precision at k, the number of planted boxes; each of them, and each of the ranked, counts once."""
    found = near(ranked.head(len(planted)).reset_index(drop=True), corners, planted)
    return min(found["row"].nunique(), found["planted"].nunique()) / len(planted)


def near(table: pd.DataFrame, corners: tuple[str, ...], planted: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``table`` and of ``planted`` whose boxes overlap by at least .5: row, planted."""
    ours = table[["image_id"]].assign(row=np.arange(len(table)))
    theirs = planted[["image_id"]].assign(planted=np.arange(len(planted)))
    both = ours.merge(theirs, on="image_id")
    a = table[list(corners)].to_numpy(np.float64)[both["row"]]
    b = planted[list(CORNERS)].to_numpy(np.float64)[both["planted"]]
    known = np.isfinite(a).all(axis=1)
    same = np.zeros(len(both), dtype=bool)
    same[known] = overlap(a[known], b[known]) >= SAME_PLACE
    return both[same]


def judges_precision(images: pd.DataFrame, boxes: pd.DataFrame, predictions: pd.DataFrame) -> list[float]:
    """AP50 of each judge number over the sources whose labels are true, which it never saw."""
    honest = images.loc[images["source"] != SOURCE, "image_id"].tolist()
    found = []
    for name in judges_of(predictions):
        own = predictions[predictions["judge"] == name]
        found.append(metrics.average_precision(metrics.match(boxes, own, honest, metrics.ALL)))
    return found


def report(results: list[dict]) -> None:
    """The tables, over data seeds."""
    kinds = list(dict.fromkeys(result["kind"] for result in results))
    of = {kind: [result for result in results if result["kind"] == kind] for kind in kinds}
    print(f"setting: {json.dumps(results[0]['setting'])}; images {results[0]['images']}\n")
    print("| planted | data seeds | k | precision at k | by evidence alone | cleanlab | wanted |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in (kind for kind in kinds if kind != NOTHING):
        print(precision_row(kind, of[kind]))
    print("\n| score | findings | mean score | share that is planted |\n| --- | --- | --- | --- |")
    spoiled = [result for result in results if result["kind"] != NOTHING]
    for n, (low, high) in enumerate(itertools.pairwise(EDGES)):
        count, total, right = (sum(result["scores"][n][part] for result in spoiled) for part in range(3))
        shares = f"{total / count:.2f} | {right / count:.2f}" if count else " | "
        print(f"| {low:g} to {high:g} | {count:,} | {shares} |")
    findings = sum(row[0] for result in spoiled for row in result["scores"])
    if findings:
        print(f"\nBrier score {sum(result['squared error'] for result in spoiled) / findings:.3f}")
    print(f"\n| poison | honest images held at {HELD:g} | planted images held | judges' AP50 | CPU seconds a seed |")
    print("| --- | --- | --- | --- | --- |")
    for kind in kinds:
        print(held_row(kind, of[kind]))
    print("\nCanaries with evidence enough to become a finding, mean over all runs:", end=" ")
    print(
        ", ".join(f"{kind} {np.mean([r['canaries seen'].get(kind, 0.0) for r in results]):.0%}" for kind in LABEL_KINDS)
    )


def precision_row(kind: str, results: list[dict]) -> str:
    seeds = ", ".join(str(result["seed"]) for result in results)
    planted = [result["planted"] for result in results]
    own, alone = ([result[key] for result in results] for key in ("precision", "by evidence"))
    # The better of its rankings over all seeds, so that it does not profit from choosing by seed.
    rankings = results[0]["cleanlab"]
    theirs = max(np.mean([result["cleanlab"][name] for result in results]) for name in rankings)
    verdict = "holds" if np.mean(own) >= WANTED else "missed"
    return (
        f"| {kind} | {seeds} | {min(planted)}-{max(planted)} | **{np.mean(own):.2f}** {interval(own)} |"
        f" {np.mean(alone):.2f} {interval(alone)} | {theirs:.2f} | {WANTED:.2f}: {verdict} |"
    )


def held_row(kind: str, results: list[dict]) -> str:
    honest_held, spoiled_held, spoiled, images = (
        sum(result[key] for result in results)
        for key in ("honest images held", "planted images held", "planted images", "images")
    )
    planted = f"{spoiled_held} of {spoiled}" if spoiled else ""
    judges = [value for result in results for value in result["AP50"]]
    seconds = np.mean([sum(result["CPU seconds"].values()) for result in results])
    return (
        f"| {kind} ({len(results)}) | {honest_held} of {images - spoiled:,} | {planted} |"
        f" {min(judges):.3f}-{max(judges):.3f} | {seconds:.0f} |"
    )


def interval(values: list[float]) -> str:
    """95 % bootstrap interval of the mean over data seeds."""
    if len(values) < 2:
        return "(one seed)"
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"[{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
