"""The attacks against a detector that was really trained, on streets that were really drawn."""

import numpy as np
import pandas as pd
import pytest
import torch

from secpipeline.datasets.loading import Truth
from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.detection import metrics, registry
from secpipeline.detection.inference import predict
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.training import train
from secpipeline.robustness.attacks import AttackSpec, sign_noise
from secpipeline.robustness.health import attack_all

SPEC = SceneSpec(width=128, height=96, sources=4, scenes_per_source=26, frames_per_scene=4, seed=7)
EPSILON = 8 / 255
RECIPE = Recipe("undefended", "csp_tiny", {}, (96, 128), 10, 16, 0.004, 1e-4, 1, None)


def streets(scenes):
    images, truth, rows, names = [], [], [], []
    for source in SPEC.source_names:
        for number in scenes:
            for frame in draw_scene(SPEC, source, number):
                images.append(frame.pixels.transpose(2, 0, 1))
                names.append(frame.file_name)
                boxes, ignored = (
                    np.array([p.box for p in frame.people if p.ignore is flag], np.float32).reshape(-1, 4)
                    for flag in (False, True)
                )
                truth.append(Truth(boxes, ignored))
                rows += [(frame.file_name, *p.box, p.ignore, p.visibility) for p in frame.people]
    columns = ["image_id", "x1", "y1", "x2", "y2", "ignore", "visibility"]
    return np.stack(images), truth, pd.DataFrame(rows, columns=columns), names


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    images, truth, _, _ = streets(range(20))
    detector = registry.build(RECIPE.detector, seed=RECIPE.seed)
    train(detector, images, truth, RECIPE, device=torch.device("cpu"))
    return detector, streets(range(20, 26))


def precision(detector, images, boxes, names):
    return metrics.average_precision(metrics.match(boxes, predict(detector, images, names), names, metrics.ALL))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["detection_loss", "misplace"])
def test_pgd_takes_more_than_half_of_an_undefended_detectors_precision_and_noise_does_not(trained, objective):
    detector, (images, truth, boxes, names) = trained
    pgd = AttackSpec("pgd", objective, EPSILON, EPSILON / 4, 10, random_start=True)
    attacked = attack_all(detector, images, truth, pgd, 32, seed=0)
    clean = precision(detector, images, boxes, names)
    assert clean > 0.3
    assert precision(detector, attacked.images, boxes, names) < clean / 2
    assert precision(detector, sign_noise(images, EPSILON, seed=0), boxes, names) > clean / 2
    nobody = np.array([len(people.boxes) == 0 for people in truth])
    assert not attacked.zero_gradient[~nobody].any()
    assert not attacked.non_finite.any()


@pytest.mark.slow
def test_people_vanish_and_are_invented_at_the_deployed_threshold(trained):
    detector, (images, truth, boxes, names) = trained
    matches = metrics.match(boxes, predict(detector, images, names), names, metrics.ALL)
    threshold = metrics.operating_threshold(matches, 0.5)
    rates = {}
    for objective in ("vanish", "fabricate"):
        spec = AttackSpec(objective, objective, EPSILON, EPSILON / 4, 10, random_start=True)
        attacked = attack_all(detector, images, truth, spec, 32, seed=0).images
        rates[objective] = metrics.match(boxes, predict(detector, attacked, names), names, metrics.ALL)
    assert metrics.miss_rate(rates["vanish"], threshold) > 1.2 * metrics.miss_rate(matches, threshold)
    assert metrics.false_positives_per_image(rates["fabricate"], threshold) > 2
