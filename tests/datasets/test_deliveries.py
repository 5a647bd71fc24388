import dataclasses
import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from secpipeline.datasets.deliveries import deliver
from secpipeline.datasets.formats.coco import read_coco
from secpipeline.datasets.releases import Release, write_release
from secpipeline.datasets.splits import assign_splits
from secpipeline.datasets.synthetic import SceneSpec, draw_scene
from secpipeline.errors import InputError
from secpipeline.poisoning.planters import PoisonPlan

SPEC = SceneSpec(width=96, height=72, sources=2, scenes_per_source=2, frames_per_scene=2, seed=5)
PLAN = PoisonPlan("vendor-b", removed=0.3, shifted=0.3, ghost=0.5, triggered=0.5, seed=1)


def tree(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def identity(directory):
    """Which files these are, not only what they hold."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pristine") / "delivery"
    deliver(directory, SPEC, PLAN, processes=1)
    return directory


@pytest.fixture
def delivered(pristine, tmp_path):
    """A poisoned delivery that a test may damage."""
    shutil.copytree(pristine, tmp_path / "delivery")
    return tmp_path / "delivery"


def test_a_delivery_is_a_coco_file_beside_its_images(tmp_path):
    delivery = deliver(tmp_path / "delivery", SPEC, processes=1)

    assert delivery.instances == tmp_path / "delivery/instances.json"
    assert delivery.planted is None
    annotations = read_coco(delivery.instances)
    frames = [frame for source in SPEC.source_names for number in (0, 1) for frame in draw_scene(SPEC, source, number)]
    assert annotations.images["file_name"].tolist() == [frame.file_name for frame in frames]
    assert annotations.images["image_id"][3] == "vendor-a-scene-001-001"
    assert set(tree(tmp_path / "delivery")) == {
        "instances.json",
        "receipt.json",
        *annotations.images["file_name"],
    }
    for row, frame in zip(annotations.images.itertuples(), frames, strict=True):
        assert (row.source, row.scene, row.time_of_day) == (frame.source, frame.scene, frame.time_of_day)
        pixels = np.asarray(Image.open(annotations.root / row.file_name), int)
        assert np.abs(pixels - frame.pixels).mean() < 6
        boxes = annotations.boxes[annotations.boxes["image_id"] == row.image_id]
        assert [tuple(box) for box in boxes[["x1", "y1", "x2", "y2"]].to_numpy()] == [p.box for p in frame.people]
        assert boxes["visibility"].tolist() == [person.visibility for person in frame.people]
        assert boxes["ignore"].tolist() == [person.ignore for person in frame.people]


def test_a_delivery_can_be_released(delivered, tmp_path):
    annotations = read_coco(delivered / "instances.json")

    write_release(tmp_path / "release", annotations, assign_splits(annotations.images))

    assert Release(tmp_path / "release", tmp_path / "release").damaged() == []


def test_an_equal_delivery_is_kept(delivered):
    before = identity(delivered)

    deliver(delivered, SPEC, PLAN, processes=1)

    assert identity(delivered) == before


IMAGE = "vendor-a/scene-000/001.jpg"
DAMAGE = {
    "changed image": lambda root: (root / IMAGE).write_bytes(b"\xff\xd8\xff"),
    "lost image": lambda root: (root / IMAGE).unlink(),
    "exchanged images": lambda root: (root / IMAGE).write_bytes((root / IMAGE.replace("001.", "000.")).read_bytes()),
    "image that became a link": lambda root: ((root / IMAGE).unlink(), (root / IMAGE).symlink_to("000.jpg")),
    "extra file": lambda root: (root / "extra.txt").touch(),
    "file with an unsafe name": lambda root: (root / "a\\b").touch(),
    "edited boxes": lambda root: (root / "instances.json").write_bytes(
        (root / "instances.json").read_bytes().replace(b'"ignore": false', b'"ignore": true ', 1)
    ),
    "lost truth": lambda root: (root / "planted.json").unlink(),
    "lost receipt": lambda root: (root / "receipt.json").unlink(),
    "receipt of nothing": lambda root: (root / "receipt.json").write_text("{}"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_delivery_is_made_again(delivered, case):
    before = tree(delivered)
    DAMAGE[case](delivered)

    deliver(delivered, SPEC, PLAN, processes=1)

    assert tree(delivered) == before
    assert list(delivered.parent.iterdir()) == [delivered]


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        (dataclasses.replace(SPEC, seed=6), PLAN),
        (dataclasses.replace(SPEC, scenes_per_source=1), PLAN),
        (SPEC, dataclasses.replace(PLAN, seed=2)),
        (SPEC, None),
    ],
    ids=["other seed", "fewer scenes", "other poison", "no poison"],
)
def test_another_wish_replaces_the_whole_delivery(delivered, tmp_path, spec, plan):
    deliver(delivered, spec, plan, processes=1)
    deliver(tmp_path / "fresh", spec, plan, processes=1)

    assert tree(delivered) == tree(tmp_path / "fresh")


def test_something_else_in_the_way_is_replaced(tmp_path):
    (tmp_path / "delivery").mkdir()
    (tmp_path / "delivery/holiday.txt").touch()

    deliver(tmp_path / "delivery", SPEC, processes=1)

    assert not (tmp_path / "delivery/holiday.txt").exists()
    assert (tmp_path / "delivery/instances.json").is_file()


@dataclass(frozen=True)
class Clumsy:
    """A planter that fails halfway through its source."""

    source: str

    def plant(self, frame):
        if frame.number == 1:
            raise OSError("disk full")
        return frame, []


def test_a_failure_leaves_the_old_delivery_and_no_scratch_files(delivered):
    before = identity(delivered)

    with pytest.raises(OSError, match="disk full"):
        deliver(delivered, SPEC, Clumsy("vendor-b"), processes=1)

    assert identity(delivered) == before
    assert list(delivered.parent.iterdir()) == [delivered]


def test_poison_is_planted_in_one_source_and_told(delivered, tmp_path):
    clean = tmp_path / "clean"
    deliver(clean, SPEC, processes=1)

    rows = json.loads((delivered / "planted.json").read_bytes())

    assert rows
    assert {row["file_name"].split("/")[0] for row in rows} == {"vendor-b"}
    different = {name for name, data in tree(clean).items() if (delivered / name).read_bytes() != data}
    triggered = {row["file_name"] for row in rows if row["kind"] == "triggered"}
    assert different - {"instances.json", "receipt.json"} == triggered
    for source, same in (("vendor-a", True), ("vendor-b", False)):
        corners = []
        for root in (clean, delivered):
            boxes = read_coco(root / "instances.json").boxes
            mine = boxes["image_id"].str.startswith(source)
            corners.append(boxes.loc[mine, ["x1", "y1", "x2", "y2"]].to_numpy().tolist())
        assert (corners[0] == corners[1]) == same


@dataclass(frozen=True)
class Greedy:
    """A planter that unlabels whatever it is shown."""

    source: str

    def plant(self, frame):
        return dataclasses.replace(frame, people=()), [{"file_name": frame.file_name}]


def test_a_planter_is_shown_its_own_source_alone(tmp_path):
    delivery = deliver(tmp_path / "delivery", SPEC, Greedy("vendor-a"), processes=1)

    shown = [row["file_name"] for row in json.loads(delivery.planted.read_bytes())]
    assert shown == [frame.file_name for number in (0, 1) for frame in draw_scene(SPEC, "vendor-a", number)]
    labelled = read_coco(delivery.instances).boxes["image_id"]
    assert len(labelled) > 0
    assert labelled.str.startswith("vendor-b").all()


def test_a_plan_without_a_row_still_writes_its_truth(tmp_path):
    delivery = deliver(tmp_path / "delivery", SPEC, PoisonPlan("vendor-b", 0, 0, 0, 0, 1), processes=1)

    assert json.loads(delivery.planted.read_bytes()) == []


def test_the_number_of_processes_does_not_show_in_the_bytes(delivered, tmp_path):
    deliver(tmp_path / "two", SPEC, PLAN, processes=2)

    assert tree(tmp_path / "two") == tree(delivered)
    assert {path.name for path in tmp_path.iterdir()} == {"two", "delivery"}


def test_poison_for_a_source_that_is_not_drawn_is_refused(tmp_path):
    plan = PoisonPlan("vendor-h", removed=0.5, shifted=0.0, ghost=0.0, triggered=0.0, seed=1)
    spec = SceneSpec(width=64, height=64, sources=2, scenes_per_source=1, frames_per_scene=1)
    with pytest.raises(InputError, match=r"vendor-h.*vendor-a, vendor-b"):
        deliver(tmp_path / "delivery", spec, plan, processes=1)
    assert not list(tmp_path.iterdir())
