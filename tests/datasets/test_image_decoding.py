import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_deliveries import HEIGHT, WIDTH, encode, outcome, picture

from secpipeline.datasets.decoding import DecodeLimits, decode
from secpipeline.errors import InputError

PIXELS = picture()
JPEG = encode(PIXELS, quality=90)
PNG = encode(PIXELS, "PNG")


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("payload.sh", "#!/bin/sh\n")
    return buffer.getvalue()


def png_of_size(width, height):
    """A PNG that promises more pixels than it holds."""
    header = PNG[12:16] + struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


def png_with_pixels(change, good_checksum=True):
    """A PNG whose compressed pixels were changed."""
    length = struct.unpack_from(">I", PNG, 33)[0]
    old = PNG[41 : 41 + length]
    new = change(old)
    checksum = zlib.crc32(b"IDAT" + (new if good_checksum else old))
    return PNG[:33] + struct.pack(">I", len(new)) + b"IDAT" + new + struct.pack(">I", checksum) + PNG[45 + length :]


def two_frames(kind, **options):
    return encode(PIXELS, kind, save_all=True, append_images=[Image.fromarray(picture(1))], **options)


READABLE = {
    "PNG": ("a.png", PNG),
    "suffix in capitals": ("a.PNG", PNG),
    "grey PNG": ("a.png", encode(Image.fromarray(PIXELS).convert("L"), "PNG")),
    "black and white PNG": ("a.png", encode(Image.fromarray(PIXELS).convert("1"), "PNG")),
    "PNG with a palette": ("a.png", encode(Image.fromarray(PIXELS).quantize(16), "PNG")),
    "PNG with a text": ("a.png", encode(PIXELS, "PNG", exif=exif(1))),
    "JPEG": ("a.jpg", JPEG),
    "long suffix": ("deep/er/a.jpeg", JPEG),
    "grey JPEG": ("a.jpg", encode(Image.fromarray(PIXELS).convert("L"))),
    "progressive JPEG": ("a.jpg", encode(PIXELS, progressive=True)),
    "JPEG with restarts": ("a.jpg", encode(PIXELS, restart_marker_rows=1)),
    "JPEG with a comment": ("a.jpg", encode(PIXELS, comment=b"\xff\xd9 no end yet")),
    "JPEG that is upright": ("a.jpg", encode(PIXELS, exif=exif(1))),
}


@pytest.mark.parametrize("case", READABLE)
def test_an_honest_picture_becomes_the_pixels_that_every_viewer_shows(case):
    name, data = READABLE[case]

    decoded = decode(data, name)

    assert decoded.pixels.shape == (HEIGHT, WIDTH, 3)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert decoded.format == ("png" if "PNG" in case or "capitals" in case else "jpeg")


def test_a_lossless_picture_is_decoded_to_its_very_pixels():
    np.testing.assert_array_equal(decode(PNG, "a.png").pixels, PIXELS)


# A name, its bytes, and why they are refused.
REFUSED = {
    "nothing": ("a.jpg", b"", "content is not JPEG"),
    "no suffix": ("a", JPEG, r"only \.jpg, \.jpeg and \.png"),
    "other suffix": ("a.gif", JPEG, r"only \.jpg, \.jpeg and \.png"),
    "suffix hidden by another": ("a.jpg.exe", JPEG, r"only \.jpg, \.jpeg and \.png"),
    "PNG named JPEG": ("a.jpg", PNG, "content is not JPEG"),
    "JPEG named PNG": ("a.png", JPEG, "content is not PNG"),
    "GIF named PNG": ("a.png", encode(PIXELS, "GIF"), "content is not PNG"),
    "page named JPEG": ("a.jpg", b"<html><script>1</script></html>", "content is not JPEG"),
    "JPEG cut in half": ("a.jpg", JPEG[: len(JPEG) // 2], "truncated"),
    "JPEG without its end": ("a.jpg", JPEG[:-2], "truncated"),
    "PNG cut in half": ("a.png", PNG[: len(PNG) // 2], "truncated"),
    "PNG with half its pixels": ("a.png", png_with_pixels(lambda data: data[: len(data) // 2]), "cannot be decoded"),
    "PNG with garbage for pixels": ("a.png", png_with_pixels(lambda data: b"\xff" * len(data)), "cannot be decoded"),
    "PNG with another checksum": ("a.png", png_with_pixels(lambda data: data + b"x", False), "malformed"),
    "PNG with another header": ("a.png", PNG[:20] + b"\x01" + PNG[21:], "malformed"),
    "archive after a JPEG": ("a.jpg", JPEG + zipped(), f"{len(zipped())} bytes after the end"),
    "archive after a PNG": ("a.png", PNG + zipped(), f"{len(zipped())} bytes after the end"),
    "second JPEG after the first": ("a.jpg", JPEG + JPEG, f"{len(JPEG)} bytes after the end"),
    "line break after a JPEG": ("a.jpg", JPEG + b"\n", "1 bytes after the end"),
    "JPEG of two pictures": ("a.jpg", two_frames("MPO"), "bytes after the end"),
    "PNG of two pictures": ("a.png", two_frames("PNG"), "more than one picture"),
    "JPEG on its side": ("a.jpg", encode(PIXELS, exif=exif(6)), "EXIF rotation"),
    "JPEG mirrored": ("a.jpg", encode(PIXELS, exif=exif(2)), "EXIF rotation"),
    "PNG on its side": ("a.png", encode(PIXELS, "PNG", exif=exif(8)), "EXIF rotation"),
    "see-through PNG": ("a.png", encode(Image.fromarray(PIXELS).convert("RGBA"), "PNG"), "mode RGBA"),
    "see-through grey PNG": ("a.png", encode(Image.fromarray(PIXELS).convert("LA"), "PNG"), "mode LA"),
    "PNG with one clear colour": ("a.png", encode(PIXELS, "PNG", transparency=(1, 2, 3)), "neither opaque RGB"),
    "PNG with 16 bits": ("a.png", encode(np.zeros((8, 8), np.uint16), "PNG"), "mode I;16"),
    "JPEG for print": ("a.jpg", encode(Image.fromarray(PIXELS).convert("CMYK")), "mode CMYK"),
    "PNG that would fill the memory": ("a.png", png_of_size(60_000, 60_000), "cannot be decoded"),
    "PNG of more than 40 megapixels": ("a.png", png_of_size(8_000, 5_001), "8000×5001 pixels, more than"),
    "PNG without width": ("a.png", png_of_size(0, 24), "cannot be decoded"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_picture_that_programs_could_read_differently_is_refused_by_name(case):
    name, data, message = REFUSED[case]

    with pytest.raises(InputError, match=message) as refusal:
        decode(data, name)

    assert str(refusal.value).startswith(f"{name}: ")


def test_the_limits_are_inclusive():
    decode(JPEG, "a.jpg", DecodeLimits(max_bytes=len(JPEG), max_pixels=WIDTH * HEIGHT))
    with pytest.raises(InputError, match=rf"a\.jpg: {len(JPEG)} bytes, more than the {len(JPEG) - 1} allowed"):
        decode(JPEG, "a.jpg", DecodeLimits(max_bytes=len(JPEG) - 1))
    with pytest.raises(InputError, match=r"a\.jpg: 32×24 pixels, more than the 767 allowed"):
        decode(JPEG, "a.jpg", DecodeLimits(max_pixels=WIDTH * HEIGHT - 1))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([("a.jpg", JPEG), ("a.png", PNG)]), st.data())
def test_every_beginning_of_a_picture_is_refused(file, data):
    name, content = file
    length = data.draw(st.integers(0, len(content) - 1))

    with pytest.raises(InputError, match=rf"^{name}: "):
        decode(content[:length], name)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from([("a.jpg", JPEG), ("a.png", PNG)]), st.binary(min_size=1, max_size=40))
def test_whatever_stands_after_a_picture_is_refused(file, tail):
    name, content = file

    with pytest.raises(InputError, match=f"^{name}: {len(tail)} bytes after the end"):
        decode(content + tail, name)


fuzzed = st.sampled_from(
    [
        ("a.jpg", JPEG),
        ("a.jpg", encode(PIXELS, progressive=True, exif=exif(1))),
        ("a.png", PNG),
        ("a.png", encode(PIXELS, "PNG", exif=exif(1))),
        ("a.png", two_frames("PNG")),
    ]
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=400, deadline=None, derandomize=True)
@given(fuzzed, st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_picture_with_broken_bytes_is_decoded_or_refused_by_name(file, changes):
    name, content = file
    broken = bytearray(content)
    for where, value in changes:
        broken[int(where * len(broken))] = value

    decoded, refusal = outcome(lambda: decode(bytes(broken), name))

    if refusal is None:
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.shape[2:] == (3,)
    else:
        assert refusal.startswith(f"{name}: ")
