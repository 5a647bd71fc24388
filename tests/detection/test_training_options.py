import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectangles import pictures, truth
from torch import nn

from secpipeline.detection import schedules
from secpipeline.detection.csp import CspTiny
from secpipeline.detection.ema import MovingAverage
from secpipeline.detection.metering import Meter, PowerReader
from secpipeline.detection.recipes import EarlyStopping, Recipe
from secpipeline.detection.registry import build
from secpipeline.detection.stopping import best_epoch, is_over
from secpipeline.detection.training import train
from secpipeline.detection.training_record import TrainingRecord
from secpipeline.errors import CannotDecide, InputError

CPU = torch.device("cpu")
RECIPE = Recipe("tiny", "csp_tiny", {"channels": [8, 16, 16]}, (64, 64), 5, 4, 0.004, 1e-4, 1, None)
STOPPING = dataclasses.replace(RECIPE, epochs=7, early_stopping=EarlyStopping("clean", 2), ema=0.8, schedule="cosine")
SCORES = (0.1, 0.4, 0.3, 0.6, 0.5, 0.2, 0.9)
IMAGES, PEOPLE = pictures(10, seed=4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**changes):
    return dataclasses.replace(RECIPE, **changes)


def fresh(recipe=RECIPE, kind=CspTiny):
    detector = build(recipe.detector, dict(recipe.config), seed=recipe.seed)
    detector.__class__ = kind
    return detector


def run(recipe=RECIPE, detector=None, images=IMAGES, people=PEOPLE, **keywords):
    detector = detector or fresh(recipe)
    return detector, train(detector, images, people, recipe, **{"device": CPU, **keywords})


def weights(detector):
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def equal(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def scored(detector, epoch):
    return SCORES[epoch]


class Kill(BaseException):
    """As sudden as SIGKILL, but survived by the test."""


@pytest.mark.parametrize("last", [0, 2, 4])
def test_a_killed_training_with_average_and_early_stopping_resumes_to_the_same_weights(tmp_path, last):
    def killed(detector, epoch):
        if epoch == last:
            raise Kill
        return SCORES[epoch]

    unbroken, whole = run(STOPPING, validate=scored)
    with pytest.raises(Kill):
        run(STOPPING, validate=killed, checkpoint_dir=tmp_path)
    resumed, record = run(STOPPING, validate=scored, checkpoint_dir=tmp_path)
    assert record.resumed_at == last
    assert (record.losses, record.scores, record.kept_epoch) == (whole.losses, whole.scores, whole.kept_epoch)
    assert equal(weights(unbroken), weights(resumed))


def test_training_stops_when_patience_is_over_and_keeps_the_best_epoch(tmp_path):
    seen = []

    def validate(detector, epoch):
        assert not detector.training
        seen.append(weights(detector))
        return SCORES[epoch]

    detector, record = run(STOPPING, validate=validate, checkpoint_dir=tmp_path)
    assert record.scores == SCORES[:6]
    assert record.kept_epoch == 4
    assert equal(weights(detector), seen[3])
    assert not equal(seen[3], seen[5])
    again, finished = run(STOPPING, validate=validate, checkpoint_dir=tmp_path)
    assert (finished.resumed_at, finished.images, len(seen)) == (6, 0, 6)
    assert equal(weights(again), seen[3])


def test_scores_without_early_stopping_are_recorded_and_decide_nothing():
    plain, _ = run()
    detector, record = run(validate=scored)
    assert record.scores == SCORES[:5]
    assert record.kept_epoch == 5
    assert equal(weights(plain), weights(detector))


def test_early_stopping_without_a_score_or_with_one_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="needs a score on calibration data"):
        run(STOPPING)
    with pytest.raises(CannotDecide, match="score after epoch 1 is nan"):
        run(STOPPING, validate=lambda detector, epoch: float("nan"))


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4), st.floats(0, 0.5))
def test_the_best_epoch_is_one_that_nothing_later_improves_on(scores, patience, improvement):
    rule = EarlyStopping("clean", patience, improvement)
    best = best_epoch(scores, rule)
    assert -1 <= best < max(1, len(scores))
    assert (best == -1) == (not scores)
    assert all(score <= scores[best] + improvement for score in scores[best + 1 :])
    assert is_over(scores, rule) == (len(scores) - 1 - best >= patience)


def test_the_average_follows_the_weights_and_is_what_is_kept():
    plain, _ = run()
    none, _ = run(changed(ema=0.0))
    slow, _ = run(changed(ema=0.999))
    assert equal(weights(plain), weights(none))
    start = weights(fresh())
    moved = {name: (tensor - start[name]).norm() for name, tensor in weights(plain).items() if "weight" in name}
    lagged = {name: (tensor - start[name]).norm() for name, tensor in weights(slow).items() if "weight" in name}
    assert 0 < sum(lagged.values()) < sum(moved.values())


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 0.999), st.lists(st.floats(-3, 3), min_size=1, max_size=15))
def test_the_moving_average_is_the_textbook_one_with_a_quick_start(decay, values):
    module = nn.BatchNorm1d(1)
    average = MovingAverage(module, decay)
    expected = 1.0
    for count, value in enumerate(values, 1):
        with torch.no_grad():
            module.weight.fill_(value)
            module.num_batches_tracked.fill_(count)
        average.update()
        share = min(decay, (1 + count) / (10 + count))
        expected = share * expected + (1 - share) * value
    assert average.weights["weight"].item() == pytest.approx(expected, abs=1e-5)
    assert average.weights["num_batches_tracked"] == len(values)
    with average.applied():
        assert module.weight.item() == pytest.approx(expected, abs=1e-5)
    assert module.weight.item() == pytest.approx(values[-1], abs=1e-6)


@pytest.mark.parametrize("name", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 40, 333])
def test_schedules_stay_below_their_peak_and_can_be_moved_forward(name, steps):
    def begun():
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.02)
        return optimizer, schedules.build(name, optimizer, 0.02, steps)

    optimizer, schedule = begun()
    rates = []
    for step in range(steps):
        other, moved = begun()
        schedules.forward(moved, step)
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        assert other.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            schedule.step()
    assert max(rates) <= 0.02 + 1e-12
    assert min(rates) > 0
    if name == "constant":
        assert set(rates) == {0.02}
    if name != "constant" and steps > 30:
        assert rates[0] <= 0.5 * max(rates)
        assert rates[-1] < 0.02 * max(rates)
        assert max(rates) == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_another_schedule_is_another_training(name):
    assert not equal(weights(run()[0]), weights(run(changed(schedule=name))[0]))


class Watching(CspTiny):
    """Notes whether autocast was on."""

    def losses(self, images, encoded):
        self.__dict__.setdefault("seen", set()).add(torch.is_autocast_enabled("cpu"))
        return super().losses(images, encoded)


@pytest.mark.parametrize(("precision", "cast"), [("float32", False), ("bfloat16", True)])
def test_the_precision_is_the_recipe_s(precision, cast):
    detector, _ = run(changed(precision=precision, epochs=1), fresh(kind=Watching))
    assert detector.seen == {cast}
    assert all(parameter.dtype == torch.float32 for parameter in detector.parameters())


def test_gradients_are_clipped_to_the_recipe_s_norm():
    norms = {}
    for clip in (1e-3, 5.0):
        found = norms[clip] = []

        class Measuring(CspTiny):
            def losses(self, images, encoded, found=found):
                # The gradients that the last step left behind.
                found.append(sum(p.grad.square().sum() for p in self.parameters() if p.grad is not None))
                return super().losses(images, encoded)

        run(changed(clip_norm=clip, epochs=1), fresh(kind=Measuring))
    assert all(float(square) ** 0.5 <= 1.01e-3 for square in norms[1e-3])
    assert max(float(square) ** 0.5 for square in norms[5.0]) > 1


def test_a_penalty_is_added_to_the_loss():
    plain, record = run(changed(precision="float32"))
    constant, more = run(changed(precision="float32"), penalty=lambda *_: torch.tensor(2.0))
    assert equal(weights(plain), weights(constant))
    assert np.allclose(np.array(more.losses) - record.losses, 2)

    def fewer(detector, images, encoded):
        assert images.shape[1:] == (3, 64, 64)
        return 100 * detector.centre.bias.sum()

    doubtful, _ = run(changed(precision="float32"), penalty=fewer)
    assert doubtful.centre.bias.item() < plain.centre.bias.item() - 0.005


def darkened(images, people, order, generator):
    """Half as bright, with noise of the generators, and nobody to be found in the first image."""
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    noise = torch.rand(images.shape, generator=generator) * order.uniform(0, 0.2)
    return images / 2 + noise, [truth(), *people[1:]]


def test_augmentation_of_a_defence_comes_before_encoding_and_is_repeatable(tmp_path):
    shown = []

    class Seeing(CspTiny):
        def encode(self, people, height, width):
            shown.append([len(person.boxes) for person in people])
            return super().encode(people, height, width)

    first, record = run(detector=fresh(kind=Seeing), augment=darkened)
    assert all(counts[0] == 0 for counts in shown)
    assert any(sum(counts) for counts in shown)
    second, again = run(augment=darkened, checkpoint_dir=tmp_path)
    assert equal(weights(first), weights(second))
    assert record.losses == again.losses
    assert not equal(weights(first), weights(run()[0]))
    run(changed(epochs=3), augment=darkened, checkpoint_dir=tmp_path / "other")


class Forgetful(CspTiny):
    """Draws from torch's own generator, as dropout does."""

    left = 10**9

    def losses(self, images, encoded):
        type(self).left -= 1
        if type(self).left < 0:
            raise Kill
        return super().losses(nn.functional.dropout(images, 0.2, self.training), encoded)


def test_a_network_that_draws_by_itself_is_repeatable_too_and_leaves_no_trace(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    unbroken, _ = run(detector=fresh(kind=Forgetful))
    assert torch.equal(torch.rand(1), expected)
    Forgetful.left = 7
    with pytest.raises(Kill):
        run(detector=fresh(kind=Forgetful), checkpoint_dir=tmp_path)
    Forgetful.left = 10**9
    resumed, record = run(detector=fresh(kind=Forgetful), checkpoint_dir=tmp_path)
    assert record.resumed_at == 2
    assert equal(weights(unbroken), weights(resumed))


def test_the_checkpoint_of_other_data_is_ignored(tmp_path):
    run(checkpoint_dir=tmp_path)
    others = IMAGES.copy()
    others[3, 0, 0, 0] ^= 1
    assert run(images=others, checkpoint_dir=tmp_path)[1].resumed_at == 0
    moved = [*PEOPLE[:-1], truth([(1, 2, 30, 60)])]
    assert run(people=moved, checkpoint_dir=tmp_path)[1].resumed_at == 0
    assert run(people=moved, checkpoint_dir=tmp_path)[1].resumed_at == RECIPE.epochs


def test_images_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"recipe tiny: images of \(64, 64\) pixels, not of \(64, 96\)"):
        run(changed(input_size=(64, 96)))


def test_the_record_says_what_was_trained_on_what_and_at_which_cost():
    _, record = run()
    assert (record.recipe, record.seed, record.training_images, record.images) == ("tiny", 1, 10, 50)
    assert (record.device, record.world_size, record.gpu_hours, record.energy_joules) == ("cpu", 1, 0, None)
    assert record.images_per_second == pytest.approx(record.images / record.seconds)
    assert record.peak_memory_bytes > 50e6
    assert torch.__version__.startswith(record.environment["torch"])
    assert len(record.data_sha256) == 64
    assert TrainingRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert run(images=np.flip(IMAGES))[1].data_sha256 != record.data_sha256


@pytest.mark.parametrize("deaf", ["", "trap '' TERM INT; "])
def test_power_is_averaged_over_what_the_program_prints(deaf):
    reader = PowerReader(("sh", "-c", f"{deaf}echo 100.5; echo '[N/A]'; echo 300.5; exec sleep 60"))
    while len(reader._watts) < 2:
        pass
    assert reader.stop() == 200.5
    assert PowerReader(("sh", "-c", "echo '[N/A]'")).stop() is None
    assert PowerReader(("there-is-no-such-program",)).stop() is None


def test_a_meter_measures_time_and_memory():
    with Meter(CPU) as meter:
        torch.zeros(2_000_000).sum()
    assert meter.seconds > 0
    assert meter.peak_memory_bytes > 50e6
    with contextlib.suppress(ValueError), Meter(CPU) as broken:
        raise ValueError
    assert broken.seconds > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
def test_a_compiled_training_learns_what_an_eager_one_does():
    recipe = changed(precision="float32", epochs=2)
    eager, record = run(recipe, images=IMAGES[:8], people=PEOPLE[:8])
    compiled, fast = run(dataclasses.replace(recipe, compile=True), images=IMAGES[:8], people=PEOPLE[:8])
    assert np.allclose(record.losses, fast.losses, rtol=1e-3)
    assert "losses" not in vars(compiled)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
