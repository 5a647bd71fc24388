import io

import numpy as np
import pytest
import torch
from PIL import Image
from rectangles import pictures
from torchvision.io import ImageReadMode, decode_jpeg

from secpipeline.datasets.loading import PAD, letterbox
from secpipeline.detection import augment
from secpipeline.detection.image_sources import JpegFiles, data_digest, place
from secpipeline.detection.prefetching import prefetch
from secpipeline.detection.recipes import Recipe
from secpipeline.detection.registry import build
from secpipeline.detection.training import train
from secpipeline.errors import InputError

CPU = torch.device("cpu")
IMAGES, PEOPLE = pictures(7, seed=2)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smooth(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels, kind="JPEG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def jpegs(images):
    return [encoded(image.transpose(1, 2, 0), quality=95) for image in images]


def decoded(file):
    return decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8), ImageReadMode.RGB)


def test_an_array_is_sliced():
    source = place(IMAGES, CPU)
    assert np.array_equal(source.take(np.array([5, 1])).numpy(), IMAGES[[5, 1]])


def test_files_of_the_frame_s_size_are_decoded_and_nothing_else():
    files = jpegs(IMAGES)
    source = place(JpegFiles(files, (64, 64)), CPU)
    taken = source.take(np.array([6, 0, 6]))
    assert taken.dtype == torch.uint8
    assert torch.equal(taken, torch.stack([decoded(files[index]) for index in (6, 0, 6)]))


@pytest.mark.parametrize(("native", "frame"), [((96, 160), (64, 64)), ((80, 48), (96, 128)), ((64, 96), (64, 160))])
def test_files_of_another_size_are_letterboxed_as_arrays_are(native, frame):
    file = encoded(smooth(*native), quality=95)
    expected, placement = letterbox(decoded(file).numpy().transpose(1, 2, 0), frame)
    found = JpegFiles([file], frame).decode(np.array([0]), CPU)[0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 3
    top, left = int(placement.top), int(placement.left)
    assert top + left > 0
    assert (found[:, :top] == PAD).all()
    assert (found[:, :, :left] == PAD).all()


def test_what_accelerators_would_read_otherwise_is_refused_by_number():
    good = encoded(smooth(64, 64))
    turned = Image.Exif()
    turned[0x0112] = 6
    with pytest.raises(InputError, match="training image 1: no JPEG"):
        JpegFiles([good, encoded(smooth(64, 64), "PNG")], (64, 64))
    with pytest.raises(InputError, match="training image 0: a damaged JPEG"):
        JpegFiles([b"\xff\xd8garbage"], (64, 64))
    with pytest.raises(InputError, match="training image 2: has an EXIF orientation"):
        JpegFiles([good, good, encoded(smooth(64, 64), exif=turned)], (64, 64))
    upright = Image.Exif()
    upright[0x0112] = 1
    assert len(JpegFiles([good, encoded(smooth(64, 64), exif=upright)], (64, 64))) == 2


def test_a_file_that_is_cut_off_is_one_clear_error():
    file = encoded(smooth(64, 64))
    whole = JpegFiles([file, file], (64, 64))
    whole.files[1] = whole.files[1][:40]
    with pytest.raises(InputError, match=r"training images \[1\]: not decoded on cpu"):
        whole.decode(np.array([1]), CPU)


def test_training_from_files_is_training_from_their_pixels():
    files = jpegs(IMAGES)
    recipe = Recipe("tiny", "csp_tiny", {"channels": [8, 16, 16]}, (64, 64), 2, 4, 0.004, 1e-4, 1, None)
    pixels = torch.stack([decoded(file) for file in files]).numpy()
    trained = []
    for images in (JpegFiles(files, (64, 64)), pixels):
        detector = build("csp_tiny", {"channels": [8, 16, 16]}, seed=1)
        trained.append((detector.state_dict(), train(detector, images, PEOPLE, recipe, device=CPU)))
    (first, record), (second, other) = trained
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert record.losses == other.losses
    assert record.data_sha256 != other.data_sha256


def test_the_digest_of_data_is_of_every_pixel_file_and_box():
    boxes = [(one.boxes, one.ignore) for one in PEOPLE]
    known = data_digest(IMAGES, boxes)
    assert data_digest(IMAGES.copy(), boxes) == known
    brighter = IMAGES.copy()
    brighter[-1, -1, -1, -1] ^= 1
    assert data_digest(brighter, boxes) != known
    assert data_digest(IMAGES.reshape(7, 3, 32, 128), boxes) != known
    exchanged = [(ignore, found) for found, ignore in boxes]
    assert data_digest(IMAGES, exchanged) != known
    files = jpegs(IMAGES)
    assert data_digest(JpegFiles(files, (64, 64)), boxes) != data_digest(JpegFiles(files[::-1], (64, 64)), boxes)


def test_changes_on_a_device_are_those_of_the_processor_but_for_the_noise():
    changes = augment.draw(np.random.default_rng(3), len(IMAGES), 1.5, (64, 64))
    quiet = augment.Changes(
        changes.affine, changes.gain, changes.tint, changes.contrast, np.zeros_like(changes.noise), changes.pattern
    )
    expected = augment.change(IMAGES, quiet)
    found = augment.change_on_device(torch.from_numpy(IMAGES), quiet, torch.Generator())
    assert np.abs(found.numpy() - expected).max() < 1e-5
    noisy = augment.change_on_device(torch.from_numpy(IMAGES), changes, torch.Generator().manual_seed(1))
    again = augment.change_on_device(torch.from_numpy(IMAGES), changes, torch.Generator().manual_seed(1))
    assert torch.equal(noisy, again)
    assert 0.001 < (noisy - found).abs().mean() < 0.05
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_a_part_of_a_batch_changes_as_it_does_within_the_whole():
    changes = augment.draw(np.random.default_rng(3), len(IMAGES), 1.5, (64, 64))
    whole, people = augment.change(IMAGES, changes), augment.change_truth(PEOPLE, changes, 64, 64)
    part = slice(2, 5)
    assert np.array_equal(augment.change(IMAGES[part], changes[part]), whole[part])
    for one, other in zip(augment.change_truth(PEOPLE[part], changes[part], 64, 64), people[part], strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.ignore, other.ignore)


def test_prefetching_keeps_the_order_and_raises_what_was_raised():
    assert list(prefetch(iter(range(50)))) == list(range(50))
    assert list(prefetch(iter(()))) == []

    def broken():
        yield 1
        yield 2
        raise InputError("image 3 is damaged")

    seen = []
    with pytest.raises(InputError, match="image 3 is damaged"):
        seen.extend(prefetch(broken()))
    assert seen == [1, 2]


def test_prefetching_stays_ahead_but_not_by_much_and_can_be_left():
    made = []

    def counted():
        for number in range(1000):
            made.append(number)
            yield number

    items = prefetch(counted())
    assert next(items) == 0
    items.close()
    assert len(made) <= 6


@needs_gpu
@pytest.mark.parametrize("share", [0.6, 0.0])
def test_every_way_to_the_gpu_brings_the_same_pixels(share):
    device = torch.device("cuda")
    indices = np.array([6, 0, 3])
    assert np.array_equal(place(IMAGES, device, share).take(indices).cpu().numpy(), IMAGES[indices])
    files = JpegFiles([encoded(smooth(96, 160, seed), quality=95) for seed in range(7)], (64, 64))
    found = place(files, device, share).take(indices).cpu()
    assert (found.int() - files.decode(indices, CPU).int()).abs().float().mean() < 2


@needs_gpu
@pytest.mark.parametrize("with_augment", [False, True])
def test_the_loss_falls_on_the_gpu(with_augment):
    recipe = Recipe("tiny", "csp_tiny", {"channels": [8, 16, 16]}, (64, 64), 40, 4, 0.004, 1e-4, 1, None, ema=0.9)
    detector = build("csp_tiny", {"channels": [8, 16, 16]}, seed=1)

    def nothing(images, people, order, generator):
        assert images.is_cuda
        return images, people

    record = train(detector, IMAGES, PEOPLE, recipe, augment=nothing if with_augment else None)
    assert record.losses[-1] < 0.6 * record.losses[0]
    assert record.gpu_hours > 0
    assert next(detector.parameters()).device == CPU
