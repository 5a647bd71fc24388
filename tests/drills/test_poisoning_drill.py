"""The poisoning drill: its bounds bite, its table is complete, and a small one runs through the real stages."""

from dataclasses import replace

import pytest

from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.drills import poisoning
from secpipeline.drills.attacks import ATTACKS, BY_NAME, SOURCE, Setting
from secpipeline.drills.backdoor_trial import Trial
from secpipeline.errors import CannotDecide, InputError

LABELS = poisoning.Row("ghost", 30, 0.9, 0.1, 0.01, (SOURCE,), None, None, None, None, bound=True)
BACKDOOR = poisoning.Row("object-disappearance", 60, 0.98, None, 0.01, (), 0.8, 0.2, 0.18, 0.004, bound=True)


@pytest.mark.parametrize(("row", "attack"), [(LABELS, "ghost"), (BACKDOOR, "object-disappearance")])
def test_what_keeps_every_bound_falls_short_of_nothing(row, attack):
    assert poisoning.shortfalls(BY_NAME[attack], row) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"found": 0.79}, "79% are planted"),
        ({"cleanlab": 0.5}, "less than 2 times cleanlab's 50%"),
        ({"named": ()}, "named nobody"),
        ({"named": (SOURCE, "vendor-d")}, "named vendor-c, vendor-d"),
        ({"false_alarms": 0.06}, "6.0% of the honest images"),
    ],
)
def test_label_errors_fall_short_in_words(change, words):
    (missed,) = poisoning.shortfalls(BY_NAME["ghost"], replace(LABELS, **change))
    assert words in missed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"found": 0.94}, "94.0% of the images with the trigger"),
        ({"before": 0.2}, "does not work undefended (20%, without poison 18%)"),
        ({"after": 0.24}, "the trigger works in 24.0%, without poison in 18.0%"),
        ({"loss": 0.02}, "costs 0.020 of AP50"),
        ({"before": float("nan")}, "no trials"),
    ],
)
def test_backdoors_fall_short_in_words(change, words):
    (missed,) = poisoning.shortfalls(BY_NAME["object-disappearance"], replace(BACKDOOR, **change))
    assert words in missed


def test_an_attack_that_no_detector_learns_need_not_work():
    attack = BY_NAME["regional-misclassification"]
    assert poisoning.shortfalls(attack, replace(BACKDOOR, before=0.18)) == []


def test_every_attack_plants_in_the_one_source_only():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) == 9
    for attack in ATTACKS:
        planter = attack.plant("vendor-e", attack.share, 3)
        assert planter.source == "vendor-e"


def test_the_trial_shows_the_pattern_that_was_planted():
    frame = next(iter(draw_scene(SceneSpec(scenes_per_source=1, frames_per_scene=1), "vendor-e", 0)))
    one, other = (BY_NAME["blended"].plant("vendor-e", 1.0, seed).plant(frame)[0].pixels for seed in (60, 61))
    assert (one != frame.pixels).any()
    assert (one == other).all()


def test_an_unknown_attack_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(InputError, match="no such attack; there are removed, shifted"):
        poisoning.main(tmp_path, ["removal"])


def test_a_trial_shows_the_same_scenes_with_and_without_the_trigger():
    attack = BY_NAME["object-disappearance"]
    trial = Trial.draw(attack, Setting(held_out_scenes=2, seed=7), (144, 192))
    assert trial.plain.shape == trial.triggered.shape == (16, 3, 144, 192)
    changed = (trial.plain != trial.triggered).any(axis=(1, 2, 3))
    assert {name for name, was in zip(trial.ids, changed, strict=True) if was} == set(trial.planted["image_id"])
    assert 0 < changed.sum() <= 16
    assert set(trial.calibration) < set(trial.ids)


@pytest.mark.slow
def test_a_small_drill_runs_the_real_stages_and_says_what_it_misses(tiny_project, tmp_path):
    recipe = tiny_project / "recipes/standard.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1\n", "epochs: 20\n"))
    lines = []
    setting = Setting(scenes=8, frames=1, held_out_scenes=4, seed=11)
    code = poisoning.main(tiny_project, ["shifted", "object-disappearance"], setting, lines.append, tmp_path / "kept")
    assert code == 4
    assert [line.split()[0] for line in lines[1:3]] == ["shifted", "object-disappearance"]
    assert "missed" in lines[3]
    assert (tmp_path / "kept/shifted/curate/decisions.parquet").is_file()


def test_a_drill_too_small_to_plant_anything_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(poisoning.Drill, "_guarded", lambda *_: tmp_path)
    monkeypatch.setattr(poisoning, "_planted", lambda _: poisoning.pd.DataFrame())
    with pytest.raises(CannotDecide, match="nothing could be planted"):
        poisoning.main(tmp_path, ["ghost"], directory=tmp_path)
