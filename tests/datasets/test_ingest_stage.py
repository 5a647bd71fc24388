import json
import os
import signal

import pandas as pd
import pytest
from format_writers import WRITERS, Seen, Shot, blank

from secpipeline.datasets.releases import Release
from secpipeline.errors import InputError
from secpipeline.stages import ingest
from secpipeline.stages.context import StageContext

SHOTS = [
    Shot((60, 40), [Seen(2, 3, 8, 20, (8, 20))]),
    *[Shot((60, 40), [Seen(9, number, 8, 20, (8, 20))]) for number in range(9)],
]


@pytest.fixture(autouse=True)
def never_hang():
    """A pipe that is opened in the wrong way waits for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def params(delivered, **data):
    splits = {"calibration": 0.2, "test": 0.2, "holdout_sources": [], "seed": 1}
    return {"data": {"dataset": str(delivered.path), "clip_boxes": False, "poison": None} | data, "splits": splits}


def run(tmp_path, delivered, **data):
    out = tmp_path / "out"
    out.mkdir(parents=True)
    values = params(delivered, **data)
    return ingest.run(StageContext(root=tmp_path, inputs={}, out=out, params=values, resume=tmp_path / "resume")), out


def draw_images(delivered):
    """Write the images of a delivery whose writer does not."""
    root = ingest._read(delivered.path, params(delivered)["data"]).root
    for row in delivered.images.itertuples():
        if not (root / row.file_name).exists():
            blank(root / row.file_name, (row.width, row.height))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_delivery_in_any_format_becomes_a_release(tmp_path, writer):
    shots = SHOTS if writer != "mot" else [SHOTS[0]] * 3
    delivered = WRITERS[writer](tmp_path / "delivery", shots)
    draw_images(delivered)
    if writer in ("mot", "caltech vbb", "caltech json"):
        with pytest.raises(InputError, match="splits: 1 scenes outside the held-out sources"):
            run(tmp_path, delivered)
        return

    result, out = run(tmp_path, delivered)

    release = Release(out, out)
    pd.testing.assert_series_equal(release.images["image_id"], delivered.images["image_id"])
    assert len(release.boxes) == len(delivered.boxes) == result.summary["boxes"]
    assert release.damaged() == []
    assert json.loads((out / "rejected.json").read_bytes()) == []
    assert result.summary["rejected"] == 0
    outside = ingest.outside_files(params(delivered))
    assert result.materials.items() <= outside.items()


def spoil(path):
    path.unlink()
    os.mkfifo(path)


def test_an_unusable_image_fails_the_stage_unless_it_is_allowed_and_is_listed(tmp_path):
    delivered = WRITERS["yolo"](tmp_path / "delivery", SHOTS)
    spoil(tmp_path / "delivery/images/004.png")
    (tmp_path / "delivery/images/007.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    with pytest.raises(InputError, match="2 of 10 images cannot be used:"):
        run(tmp_path / "one", delivered)
    with pytest.raises(InputError, match=r"2 of 10 images cannot be used, more than data\.max_rejected 0\.1 allows:"):
        run(tmp_path / "two", delivered, max_rejected=0.1)
    result, out = run(tmp_path / "three", delivered, max_rejected=0.2)

    listed = json.loads((out / "rejected.json").read_bytes())
    assert [row["file_name"] for row in listed] == ["images/004.png", "images/007.png"]
    assert all(row["reason"].startswith(row["file_name"]) and row["source"] == "default" for row in listed)
    assert result.summary["rejected"] == 2
    assert len(Release(out, out).images) == 8


def test_what_lies_outside_is_another_computation_once_anything_in_it_changes(tmp_path):
    delivered = WRITERS["yolo"](tmp_path / "delivery", SHOTS)
    seen = [ingest.outside_files(params(delivered))]
    image = tmp_path / "delivery/images/004.png"

    for change in (
        lambda: image.write_bytes(image.read_bytes() + b"x"),
        lambda: image.write_bytes(b"not a picture"),
        lambda: spoil(image),
        lambda: (tmp_path / "delivery/labels/003.txt").write_text("0 0.5 0.5 0.5 0.5\n"),
        lambda: (tmp_path / "delivery/classes.txt").write_text("person\n"),
    ):
        change()
        seen.append(ingest.outside_files(params(delivered)))

    assert len({tuple(sorted(digests.items())) for digests in seen}) == len(seen)
    assert all(set(digests) == {"delivery/annotations", "delivery/images"} for digests in seen)


def test_one_annotation_file_is_named_in_the_evidence(tmp_path):
    delivered = WRITERS["coco"](tmp_path / "delivery", SHOTS)

    assert set(ingest.outside_files(params(delivered))) == {"delivery/instances.json", "delivery/images"}


def test_a_revoked_source_takes_its_rejected_images_with_it(tmp_path):
    delivered = WRITERS["yolo"](tmp_path / "delivery", SHOTS)
    (tmp_path / "delivery/images/004.png").write_bytes(b"")
    annotations = ingest._read(delivered.path, params(delivered)["data"])
    assert len(annotations.rejected) == 1

    assert ingest._without(annotations, {"another": "bad"}).rejected == annotations.rejected
    with pytest.raises(InputError, match="the owners revoked every source"):
        ingest._without(annotations, {"default": "bad"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"format": "voc"}, "'voc' is no annotation format; there are auto, coco"),
        ({"format": 5}, "5 is no annotation format"),
        ({"images": 5}, "must be paths"),
        ({"max_rejected": 2}, "max_rejected is 2; it must be a share from 0 to 1"),
        ({"orientation": "turn"}, "orientation is 'turn'; it must be refuse or apply"),
        ({"dataset": "/nowhere/instances.json"}, "/nowhere/instances.json: not found"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_one_clear_error(tmp_path, data, message):
    delivered = WRITERS["yolo"](tmp_path / "delivery", SHOTS)

    with pytest.raises(InputError, match=message):
        run(tmp_path, delivered, **data)
