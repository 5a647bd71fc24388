"""The poisoning drill: plant each attack in a fresh release, and show what is found, held and undone.

Each attack spoils one source of a synthetic release of its own. The stages that guard a chain then run on it as they do
in production: judges are trained, findings scored, sources compared, images held. Label errors count as found if they
lead the findings of their kind. A backdoor is defeated if its images are held, and a detector that trained on the rest
does not obey the trigger although one that trained on everything does.

>>> main(Path("."), ["removed"])                                         # doctest: +SKIP
0
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from secpipeline.datasets import formats
from secpipeline.datasets.deliveries import Planter, deliver
from secpipeline.datasets.geometry import overlaps
from secpipeline.datasets.loading import load
from secpipeline.datasets.releases import Release, write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.synthetic import SceneSpec
from secpipeline.datasets.tables import CORNERS
from secpipeline.detection import registry
from secpipeline.detection.interface import Detector
from secpipeline.detection.recipes import Recipe, load_recipe
from secpipeline.detection.training import train
from secpipeline.drills.attacks import BY_NAME, SOURCE, Attack, Setting
from secpipeline.drills.backdoor_trial import Trial
from secpipeline.errors import CannotDecide, InputError
from secpipeline.params import load as load_params
from secpipeline.params import select
from secpipeline.poisoning.cleanlab_scores import Collected, box_scores
from secpipeline.poisoning.fusion import fuse, judges_of
from secpipeline.poisoning.pairs import judge
from secpipeline.stages import audit_labels, curate, validate
from secpipeline.stages.context import StageContext, read_report
from secpipeline.stages.table import stage_named

LEAST_PRECISION, LEAST_RATIO = 0.80, 2.0
LEAST_HELD, MOST_FALSE_ALARMS, MOST_SUCCESS, MOST_LOSS = 0.95, 0.05, 0.05, 0.01
SPLITS = {"calibration": 0.15, "test": 0.15}
_SAME_PLACE = 0.5


@dataclass(frozen=True)
class Row:
    """What became of one attack; shares in [0, 1], None where the question does not arise.

    Attributes
    ----------
    attack
        Its name.
    planted
        Boxes, or images with a trigger.
    found
        Of the ``planted`` strongest findings of its kind, the share that are planted ones; of images with a trigger,
        the share that is held.
    cleanlab
        The same share among cleanlab's lowest scores.
    false_alarms
        Of the honest images of all sources, the share that is held on its own account.
    named
        The sources that were named.
    before, after, control
        Success of the backdoor on detectors trained on everything, on what is left, and without any poison.
    loss
        By how much AP50 on clean images is lower after quarantine than without any poison.
    shortfalls
        The bounds that do not hold, in words.
    """

    attack: str
    planted: int
    found: float
    cleanlab: float | None
    false_alarms: float
    named: tuple[str, ...]
    before: float | None
    after: float | None
    control: float | None
    loss: float | None
    bound: bool
    shortfalls: tuple[str, ...] = ()


def main(
    root: Path,
    names: Sequence[str] = (),
    setting: Setting | None = None,
    out: Callable[[str], object] = print,
    directory: Path | None = None,
) -> int:
    """Run the drill and print its table.

    Parameters
    ----------
    root
        The project, whose recipes, expectations and parameters are used.
    names
        Attacks; all by default.
    setting
        How large.
    out
        Prints a line.
    directory
        Keeps releases and what the stages made of them; by default they are thrown away.

    Returns
    -------
    int
        0 if every bound holds, else 4.

    Raises
    ------
    InputError
        If an attack is unknown.
    CannotDecide
        If the drill is so small that nothing can be planted.
    """
    if unknown := sorted(set(names) - BY_NAME.keys()):
        raise InputError(f"{unknown[0]}: no such attack; there are {', '.join(BY_NAME)}")
    with tempfile.TemporaryDirectory() as temporary:
        drill = Drill(root, directory or Path(temporary), setting or Setting())
        rows = []
        out(_HEADER)
        for name in names or BY_NAME:
            rows.append(drill.run(BY_NAME[name]))
            out(text(rows[-1]))
    short = [f"{row.attack}: {why}" for row in rows if row.bound for why in row.shortfalls]
    out("\n".join(f"  missed  {line}" for line in short) or "every bound holds")
    return 4 if short else 0


_COLUMNS = ("planted", "found", "cleanlab", "false alarms", "before", "after", "control", "AP50 loss")
_HEADER = f"{'attack':28}" + "".join(f"{name:>13}" for name in _COLUMNS) + "  source named"


def text(row: Row) -> str:
    """One line of the table."""
    shares = (row.found, row.cleanlab, row.false_alarms, row.before, row.after, row.control)
    cells = [f"{row.planted}", *("" if share is None else f"{share:.1%}" for share in shares)]
    cells.append("" if row.loss is None else f"{row.loss:.3f}")
    named = ", ".join(row.named) or "none"
    return f"{row.attack:28}" + "".join(f"{cell:>13}" for cell in cells) + f"  {named}"


class Drill:
    """Runs attacks one after the other.

    Parameters
    ----------
    root
        The project.
    directory
        Where releases go.
    setting
        How large.
    """

    def __init__(self, root: Path, directory: Path, setting: Setting) -> None:
        self.root, self.directory, self.setting = root, directory, setting
        self._controls: dict[int, Detector] = {}

    def run(self, attack: Attack) -> Row:
        """Plant one attack in a release of its own and see what becomes of it."""
        artifacts = self._guarded(attack.name, attack.plant(SOURCE, attack.share, self.setting.seed), attack.scale)
        planted = _planted(artifacts / "ingest")
        if planted.empty:
            raise CannotDecide(f"{attack.name}: nothing could be planted in so few scenes; draw more")
        decisions = pd.read_parquet(artifacts / "curate/decisions.parquet").set_index("image_id")["decision"]
        named = tuple(sorted(read_report(artifacts / "audit_labels/sources.json")["named"]))
        row = Row(
            attack=attack.name,
            planted=len(planted) if attack.finding else planted["image_id"].nunique(),
            found=0.0,
            cleanlab=None,
            false_alarms=_false_alarms(artifacts, planted, named),
            named=named,
            before=None,
            after=None,
            control=None,
            loss=None,
            bound=attack.bound,
        )
        if attack.finding:
            found, theirs = _precisions(artifacts, planted, attack.finding)
            row = replace(row, found=found, cleanlab=theirs)
        else:
            held = decisions[planted["image_id"].unique()] != "accept"
            row = self._with_success(replace(row, found=float(held.mean())), attack, artifacts)
        return replace(row, shortfalls=tuple(shortfalls(attack, row)))

    def _guarded(self, name: str, planter: Planter | None, scale: int) -> Path:
        """The artifacts of a release that went through the stages that guard a chain."""
        artifacts = self.directory / name
        _ingest(artifacts / "ingest", self.directory / f"{name}-delivery", self.setting.spec(scale), planter)
        for stage in (validate, audit_labels, curate):
            self._stage(stage, artifacts)
        return artifacts

    def _stage(self, module: Any, artifacts: Path) -> None:
        stage = stage_named(module.__name__.rpartition(".")[2])
        out = artifacts / stage.name
        out.mkdir()
        context = StageContext(
            root=self.root,
            inputs={name: artifacts / name for name in stage.inputs},
            out=out,
            params=select(load_params(self.root / "params.yaml"), stage.params),
            resume=artifacts / "resume" / stage.name,
            files=stage.project_files(self.root),
        )
        context.write_json("summary.json", module.run(context).summary)

    def _with_success(self, row: Row, attack: Attack, artifacts: Path) -> Row:
        """With the success of the backdoor on three detectors, and what quarantine costs in AP50."""
        trial = Trial.draw(attack, self.setting, self._recipe().input_size)
        ingest = artifacts / "ingest"
        before = trial.measure(self._detector(Release(ingest, ingest)))
        after = trial.measure(self._detector(Release(artifacts / "curate", ingest)))
        if attack.scale not in self._controls:
            self._controls[attack.scale] = self._detector(self._never_poisoned(attack.scale))
        control = trial.measure(self._controls[attack.scale])
        return replace(
            row,
            before=before.success.rate,
            after=after.success.rate,
            control=control.success.rate,
            loss=control.average_precision - after.average_precision,
        )

    def _never_poisoned(self, scale: int) -> Release:
        directory = self.directory / f"never-poisoned-{scale}"
        if not directory.is_dir():
            _ingest(directory, self.directory / f"never-poisoned-{scale}-delivery", self.setting.spec(scale), None)
        return Release(directory, directory)

    def _detector(self, release: Release) -> Detector:
        chosen = release.images.loc[release.images["split"] == "train", "image_id"].tolist()
        recipe = self._recipe()
        data = load(release, chosen, recipe.input_size)
        detector = registry.build(recipe.detector, dict(recipe.config), seed=recipe.seed)
        train(detector, data.images, data.truth, recipe)
        return detector

    def _recipe(self) -> Recipe:
        """How the detectors without defences are trained, which are to learn the backdoor or not."""
        return load_recipe(self.root / "recipes/standard.yaml")


def _ingest(out: Path, delivery: Path, spec: SceneSpec, planter: Planter | None) -> None:
    """A release as the stage ingest writes it, with what was planted beside it."""
    out.mkdir(parents=True)
    delivered = deliver(delivery, spec, planter)
    annotations = formats.read(delivered.instances)
    splits = assign_splits(annotations.images, **SPLITS, holdout_sources=(), seed=spec.seed)
    write_release(out, annotations, splits)
    if delivered.planted is not None:
        (out / "planted.json").write_bytes(delivered.planted.read_bytes())


def _planted(ingest: Path) -> pd.DataFrame:
    """What was planted: image_id, kind, x1, y1, x2, y2 in the pixels of the image."""
    rows = json.loads((ingest / "planted.json").read_bytes())
    images = pd.read_parquet(ingest / "images.parquet", columns=["image_id", "file_name"])
    ids = dict(zip(images["file_name"], images["image_id"], strict=True))
    table = [(ids[row["file_name"]], row["kind"], *row["box"]) for row in rows]
    return pd.DataFrame(table, columns=["image_id", "kind", *CORNERS])


def _false_alarms(artifacts: Path, planted: pd.DataFrame, named: Sequence[str]) -> float:
    """The share of images without anything planted that is held, those of a source that is rightly named left out."""
    images = pd.read_parquet(artifacts / "ingest/images.parquet", columns=["image_id", "source"])
    decisions = pd.read_parquet(artifacts / "curate/decisions.parquet").set_index("image_id")["decision"]
    honest = images[~images["image_id"].isin(planted["image_id"])]
    if SOURCE in named:
        honest = honest[honest["source"] != SOURCE]
    return float((decisions[honest["image_id"]] != "accept").mean())


def _precisions(artifacts: Path, planted: pd.DataFrame, kind: str) -> tuple[float, float]:
    """How many of the strongest findings, and of cleanlab's lowest scores, are the planted boxes."""
    findings = pd.read_parquet(artifacts / "audit_labels/findings.parquet")
    own = findings[findings["kind"] == kind].head(len(planted))
    corners = [f"p{corner}" for corner in CORNERS] if kind == "missing" else list(CORNERS)
    theirs = _cleanlab(artifacts, kind).head(len(planted))
    own_share = _hits(own["image_id"], own[corners].to_numpy(np.float64), planted)
    return own_share, _hits(theirs["image_id"], theirs[list(CORNERS)].to_numpy(np.float64), planted)


def _cleanlab(artifacts: Path, kind: str) -> pd.DataFrame:
    """Predictions by cleanlab's score of overlooked boxes, or labels by that of badly placed ones, the lowest first."""
    release = Release(artifacts / "ingest", artifacts / "ingest")
    predictions = pd.read_parquet(artifacts / "audit_labels/predictions.parquet")
    judged = judge(release.images, release.boxes, fuse(release.images, predictions, judges_of(predictions)))
    overlooked, located = box_scores(judged, Collected.of(judged).smallest)
    table, score = (judged.predictions, overlooked) if kind == "missing" else (judged.labels, located)
    # A score of 1, or none, says that nothing speaks against it.
    doubted = table.assign(cleanlab=score)[score < 1]
    return doubted.sort_values("cleanlab", kind="stable")


def _hits(image_ids: pd.Series[str], boxes: NDArray[np.float64], planted: pd.DataFrame) -> float:
    """The share of the planted boxes that is among ``boxes``."""
    found = 0
    for image_id, rows in planted.groupby("image_id"):
        near = boxes[(image_ids == image_id).to_numpy()]
        if len(near):
            found += int((overlaps(rows[list(CORNERS)].to_numpy(np.float64), near).max(axis=1) >= _SAME_PLACE).sum())
    return found / len(planted)


def shortfalls(attack: Attack, row: Row) -> list[str]:
    """The bounds that a row does not keep, in words."""
    missed = []
    if attack.finding and row.found < LEAST_PRECISION:
        missed.append(f"of the strongest findings {row.found:.0%} are planted boxes, less than {LEAST_PRECISION:.0%}")
    if attack.against_cleanlab and row.cleanlab is not None and row.found < LEAST_RATIO * row.cleanlab:
        missed.append(f"that is less than {LEAST_RATIO:g} times cleanlab's {row.cleanlab:.0%}")
    if attack.finding and row.named != (SOURCE,):
        missed.append(f"named {', '.join(row.named) or 'nobody'} instead of {SOURCE} alone")
    if not attack.finding and row.found < LEAST_HELD:
        missed.append(f"{row.found:.1%} of the images with the trigger are held, less than {LEAST_HELD:.0%}")
    if row.false_alarms > MOST_FALSE_ALARMS:
        missed.append(f"{row.false_alarms:.1%} of the honest images are held, more than {MOST_FALSE_ALARMS:.0%}")
    measures = (row.found, row.false_alarms, row.before, row.after, row.control, row.loss)
    if any(value is not None and np.isnan(value) for value in measures):
        missed.append("something could not be measured (no trials), so its bound is not shown")
    if row.before is not None and row.after is not None and row.control is not None:
        # A trigger hides a part of the person, so it also costs detectors something that were never poisoned.
        if attack.learned and row.before - row.control <= MOST_SUCCESS:
            missed.append(f"the attack does not work undefended ({row.before:.0%}, without poison {row.control:.0%})")
        if row.after - row.control > MOST_SUCCESS:
            missed.append(f"after quarantine the trigger works in {row.after:.1%}, without poison in {row.control:.1%}")
    if row.loss is not None and row.loss > MOST_LOSS:
        missed.append(f"quarantine costs {row.loss:.3f} of AP50, more than {MOST_LOSS}")
    return missed
