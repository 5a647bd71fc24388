import io
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from small_deliveries import HEIGHT, WIDTH, encode, outcome, picture

from secpipeline.datasets.decoding import DecodeLimits, decode, decode_mask, image_file_size
from secpipeline.datasets.jpeg import read_layout
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


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(header, compressed, *, before=b"", between=b"", after=b""):
    """A PNG with these compressed pixels in two chunks, and further chunks before, between and after them."""
    middle = len(compressed) // 2
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", compressed[:middle]), between]
    return PNG[:8] + b"".join([*parts, chunk(b"IDAT", compressed[middle:]), after, chunk(b"IEND", b"")])


def header(width=WIDTH, height=HEIGHT, depth=8, colour=2, compression=0, filtering=0, interlace=0):
    return struct.pack(">IIBBBBB", width, height, depth, colour, compression, filtering, interlace)


def rows(pixels):
    """The rows of a picture as a PNG holds them, unfiltered."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def interlaced(pixels):
    """The rows of the seven passes of a PNG (Adam7)."""
    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
    return b"".join(rows(pixels[y::dy, x::dx]) for x, dx, y, dy in passes if pixels[y::dy, x::dx].size)


def scans(data):
    """Where the entropy-coded data of each scan begin and end."""
    return [(scan.start, scan.end) for scan in read_layout(data).scans]


def cut(data, scan, keep, end=b""):
    """A JPEG whose scan loses what follows a share of its data; with ``end`` the file ends there."""
    start, stop = scans(data)[scan]
    place = start + int((stop - start) * keep)
    while data[place - 1] == 0xFF:
        place -= 1
    return data[:place] + (end or data[stop:])


def without_scan(data, number):
    """A JPEG that lacks one scan and the tables before it."""
    ends = [start for start, _ in scans(data)]
    begin = scans(data)[number - 1][1]
    return data[:begin] + data[scans(data)[number][1] :] if ends else data


def inside_scan(data, extra, number=-1):
    """A JPEG with more bytes at the end of a scan."""
    stop = scans(data)[number][1]
    return data[:stop] + extra + data[stop:]


def segment(data, marker, content, place=2):
    """A JPEG with one more segment."""
    return data[:place] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[place:]


def frame_header(data, change):
    """A JPEG whose frame header was changed."""
    place = next(at for at in range(2, len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2))
    changed = bytearray(data)
    change(changed, place)
    return bytes(changed)


def skipping_a_bit(data):
    """A progressive JPEG whose brightness goes from two missing bits to none in one scan."""
    headers = [scan.start - 3 for scan in read_layout(data).scans]
    places = [at for at in headers if data[at + 2] in (0x21, 0x10) and data[at - 2] == 1]
    last = without_scan(data, headers.index(places[1]))
    return last[: places[0] + 2] + b"\x20" + last[places[0] + 3 :]


def restarts_exchanged(data):
    """A JPEG with two restart markers exchanged, as if a part had been moved."""
    return data.replace(b"\xff\xd0", b"\xff\xd7", 1)


def two_frames(kind, **options):
    return encode(PIXELS, kind, save_all=True, append_images=[Image.fromarray(picture(1))], **options)


NOISY = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
LARGE = encode(NOISY, quality=90)
PROGRESSIVE = encode(NOISY, quality=90, progressive=True)
RESTARTS = encode(NOISY, quality=90, restart_marker_rows=1)
RAW = rows(PIXELS)
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
    "JPEG with a page in its comment": ("a.jpg", encode(PIXELS, comment=b"<html><script>alert(1)</script></html>")),
    "JPEG with fill bytes before its end": ("a.jpg", JPEG[:-2] + b"\xff\xff\xff\xd9"),
    "JPEG with few padding bytes": ("a.jpg", inside_scan(JPEG, b"\0" * 8)),
    "JPEG with full colours": ("a.jpg", encode(PIXELS, subsampling=0, optimize=True)),
    "PNG in two parts": ("a.png", raw_png(header(), zlib.compress(RAW))),
    "PNG with stored pixels": ("a.png", raw_png(header(), zlib.compress(RAW, 0))),
    "PNG with a comment": ("a.png", raw_png(header(), zlib.compress(RAW), before=chunk(b"tEXt", b"a\0<html>"))),
    "interlaced PNG": ("a.png", raw_png(header(interlace=1), zlib.compress(interlaced(PIXELS)))),
}


@pytest.mark.parametrize("case", READABLE)
def test_an_honest_picture_becomes_the_pixels_that_every_viewer_shows(case):
    name, data = READABLE[case]

    decoded = decode(data, name)

    assert decoded.orientation == 1
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
    "PNG with half its pixels": ("a.png", png_with_pixels(lambda data: data[: len(data) // 2]), "truncated"),
    "PNG with garbage for pixels": ("a.png", png_with_pixels(lambda data: b"\xff" * len(data)), "cannot be inflated"),
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
    "PNG that would fill the memory": ("a.png", png_of_size(60_000, 60_000), "60000×60000 pixels, more than"),
    "PNG of more than 40 megapixels": ("a.png", png_of_size(8_000, 5_001), "8000×5001 pixels, more than"),
    "JPEG cut in half with a new end": ("a.jpg", cut(LARGE, 0, 0.5, b"\xff\xd9"), "its last rows are missing"),
    "JPEG cut near its end with a new end": ("a.jpg", cut(LARGE, 0, 0.98, b"\xff\xd9"), "its last rows are missing"),
    "JPEG without any pixel": ("a.jpg", cut(LARGE, 0, 0.0, b"\xff\xd9"), "its last rows are missing"),
    "JPEG with restarts cut in half": ("a.jpg", cut(RESTARTS, 0, 0.5, b"\xff\xd9"), "its last rows are missing"),
    "progressive JPEG cut in half": ("a.jpg", cut(PROGRESSIVE, 5, 0.5, b"\xff\xd9"), "scans are missing"),
    "progressive JPEG whose first scan is cut": ("a.jpg", cut(PROGRESSIVE, 0, 0.5), "a scan ends before"),
    "progressive JPEG whose last scan is cut": ("a.jpg", cut(PROGRESSIVE, -1, 0.5), "a scan ends before"),
    "progressive JPEG without a scan": ("a.jpg", without_scan(PROGRESSIVE, 4), "scans are missing"),
    "progressive JPEG that skips a bit": ("a.jpg", skipping_a_bit(PROGRESSIVE), "scans are missing"),
    "JPEG with half a table": (
        "a.jpg",
        segment(LARGE, 0xDB, b"\x05"),
        r"cannot be decoded \(cannot identify image file\); deliver",
    ),
    "JPEG with an archive behind its last pixel": (
        "a.jpg",
        inside_scan(LARGE, zipped()),
        "bytes behind its last pixel",
    ),
    "JPEG with another restart marker": ("a.jpg", restarts_exchanged(RESTARTS), "restart markers are out of order"),
    "JPEG with restarts nobody announced": (
        "a.jpg",
        cut(LARGE, 0, 0.5, b"\xff\xd0" + LARGE[-500:]),
        "0xd0 has no place",
    ),
    "JPEG of two sizes": ("a.jpg", LARGE.replace(b"\xff\xc4", LARGE[158:177] + b"\xff\xc4", 1), "its size twice"),
    "JPEG with a size that comes later": ("a.jpg", segment(LARGE, 0xDC, b"\0\x60"), "0xdc has no place"),
    "JPEG inside a JPEG": ("a.jpg", LARGE[:2] + LARGE, "malformed"),
    "JPEG without rows": (
        "a.jpg",
        frame_header(LARGE, lambda d, at: d.__setitem__(slice(at + 5, at + 7), b"\0\0")),
        "×0",
    ),
    "JPEG with 12 bits": (
        "a.jpg",
        frame_header(LARGE, lambda d, at: d.__setitem__(at + 4, 12)),
        "has 12 bits a colour",
    ),
    "arithmetic-coded JPEG": (
        "a.jpg",
        frame_header(LARGE, lambda d, at: d.__setitem__(at + 1, 0xC9)),
        "arithmetic-coded",
    ),
    "JPEG whose scan has a colour of its own": (
        "a.jpg",
        LARGE.replace(b"\xff\xda\0\x0c\x03\1", b"\xff\xda\0\x0c\x03\7"),
        "colours that",
    ),
    "JPEG of a million scans": (
        "a.jpg",
        PROGRESSIVE[:-2] + LARGE[scans(LARGE)[0][0] - 14 : -2] * 70 + b"\xff\xd9",
        "more than the 64",
    ),
    "JPEG bomb": (
        "a.jpg",
        frame_header(JPEG, lambda d, at: d.__setitem__(slice(at + 5, at + 9), b"\xff" * 4)),
        "more than",
    ),
    "PNG with a row too few": ("a.png", raw_png(header(), zlib.compress(RAW[:-97])), "less than the 2328 bytes"),
    "PNG with a byte too few": ("a.png", raw_png(header(), zlib.compress(RAW[:-1])), "less than the 2328 bytes"),
    "PNG with a row too many": ("a.png", raw_png(header(), zlib.compress(RAW + RAW[:97])), "more than the 2328 bytes"),
    "PNG with an archive behind its pixels": (
        "a.png",
        raw_png(header(), zlib.compress(RAW) + zipped()),
        "bytes behind its",
    ),
    "PNG whose pixels have no checksum": ("a.png", raw_png(header(), zlib.compress(RAW)[:-4]), "less than the 2328"),
    "PNG that inflates without end": ("a.png", raw_png(header(), zlib.compress(bytes(1 << 24))), "more than the 2328"),
    "interlaced PNG with a pass too few": (
        "a.png",
        raw_png(header(interlace=1), zlib.compress(interlaced(PIXELS)[:-1164])),
        "less than the",
    ),
    "PNG with two headers": (
        "a.png",
        raw_png(header(), zlib.compress(RAW), before=chunk(b"IHDR", header(8, 8))),
        "second IHDR",
    ),
    "PNG with parted pixels": (
        "a.png",
        raw_png(header(), zlib.compress(RAW), between=chunk(b"tEXt", b"a\0b")),
        "second IDAT",
    ),
    "PNG with an unknown critical chunk": (
        "a.png",
        raw_png(header(), zlib.compress(RAW), before=chunk(b"EViL", b"")),
        "critical",
    ),
    "PNG with an unknown colour": (
        "a.png",
        raw_png(header(colour=5), zlib.compress(RAW)),
        "PNG specification does not",
    ),
    "PNG with an unknown compression": (
        "a.png",
        raw_png(header(compression=1), zlib.compress(RAW)),
        "specification does not",
    ),
    "PNG without a header": ("a.png", PNG[:8] + PNG[33:], "does not begin with a header"),
    "PNG without pixels": ("a.png", PNG[:33] + chunk(b"IEND", b""), "less than the 2328 bytes"),
    "PNG whose text inflates without end": (
        "a.png",
        raw_png(header(), zlib.compress(RAW), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27)))),
        "cannot be decoded",
    ),
    "archive before a JPEG": ("a.jpg", zipped() + JPEG, "content is not JPEG"),
    "archive before a PNG": ("a.png", zipped() + PNG, "content is not PNG"),
    "page before a PNG": ("a.png", b"<html>" + PNG, "content is not PNG"),
    "PNG without width": ("a.png", png_of_size(0, 24), "says that it has 0×24 pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_picture_that_programs_could_read_differently_is_refused_by_name(case):
    name, data, message = REFUSED[case]

    with pytest.raises(InputError, match=message) as refusal:
        decode(data, name)

    assert str(refusal.value).startswith(f"{name}: ")
    assert str(refusal.value).isprintable()
    assert not re.search("0x[0-9a-f]{6}", str(refusal.value))  # an address would differ from run to run


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(17, 70), st.integers(17, 70)), st.integers(5, 100), st.sampled_from([0, 1, 2]),
    st.booleans(), st.sampled_from([0, 1, 3]), st.floats(0, 1),
)  # fmt: skip
def test_a_whole_jpeg_passes_and_one_that_was_cut_or_filled_does_not(size, quality, subsampling, best, rows, keep):
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3)).astype(np.uint8)
    data = encode(pixels, subsampling=subsampling, quality=quality, optimize=best, restart_marker_rows=rows)

    np.testing.assert_array_equal(decode(data, "a.jpg").pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

    with pytest.raises(InputError, match="its last rows are missing"):
        decode(cut(data, 0, keep / 2, b"\xff\xd9"), "a.jpg")
    with pytest.raises(InputError, match="bytes behind its last pixel"):
        decode(inside_scan(data, b"PK\x03\x04" * 12), "a.jpg")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(5, 100), st.floats(0, 1))
def test_a_cut_that_is_not_noticed_costs_no_more_than_two_blocks(quality, keep):
    grey = encode(Image.fromarray(NOISY[:40, :40]).convert("L"), quality=quality)
    whole = decode(grey, "a.jpg").pixels

    decoded, refusal = outcome(lambda: decode(cut(grey, 0, keep, b"\xff\xd9"), "a.jpg"))

    if refusal is None:
        blocks = (decoded.pixels != whole).any(axis=2).reshape(5, 8, 5, 8).any(axis=(1, 3)).ravel()
        assert not blocks[:-2].any()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.sampled_from([(0, 8), (0, 1), (0, 4), (2, 8), (3, 2)]))
def test_the_size_of_the_pixels_follows_the_header_for_every_shape(width, height, interlace, kind):
    colour, depth = kind
    bits = depth * (3 if colour == 2 else 1)
    sizes = (
        [(width, height)]
        if not interlace
        else [(len(range(x, width, dx)), len(range(y, height, dy))) for x, dx, y, dy in
              ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))]
    )  # fmt: skip
    raw = b"".join((b"\0" + b"\x11" * -(-w * bits // 8)) * h for w, h in sizes if w and h)
    palette = chunk(b"PLTE", bytes(range(12))) if colour == 3 else b""
    head = header(width, height, depth, colour, interlace=interlace)

    assert decode(raw_png(head, zlib.compress(raw), before=palette), "a.png").pixels.shape == (height, width, 3)

    for wrong in (raw[:-1], raw + b"\0"):
        with pytest.raises(InputError, match="than the"):
            decode(raw_png(head, zlib.compress(wrong), before=palette), "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_orientation_is_applied_where_that_is_asked_for(orientation, kind):
    data = encode(PIXELS, kind, exif=exif(orientation))

    decoded = decode(data, f"a.{kind.lower()}", turn="apply")

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_refused_even_where_they_are_applied(orientation):
    with pytest.raises(InputError, match=f"orientation '{orientation}', which does not exist"):
        decode(encode(PIXELS, exif=exif(orientation)), "a.jpg", turn="apply")


def test_decoding_stops_at_the_time_allowed():
    with pytest.raises(InputError, match=r"a\.jpg: takes more than the -1 seconds allowed"):
        decode(JPEG, "a.jpg", DecodeLimits(max_seconds=-1.0))


def test_a_mask_keeps_its_values_and_a_picture_is_none():
    values = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 5
    palette = Image.fromarray(values, "P")
    palette.putpalette([7, 7, 7] * 256)

    for image in (Image.fromarray(values), palette):
        np.testing.assert_array_equal(decode_mask(encode(image, "PNG"), "a.png"), values)
    for name, data, message in (
        ("a.png", PNG, "one 8-bit value a pixel, not of mode RGB"),
        ("a.png", encode(np.zeros((8, 8), np.uint16), "PNG"), "not of mode I;16"),
        ("a.jpg", JPEG, "must be a PNG"),
        ("a.png", raw_png(header(), zlib.compress(RAW[:-1])), "less than"),
    ):
        with pytest.raises(InputError, match=message):
            decode_mask(data, name)


@pytest.mark.parametrize(
    "data",
    [JPEG, LARGE, PROGRESSIVE, segment(JPEG, 0xFE, b"x" * 65_000)],
    ids=["small", "large", "progressive", "commented"],
)
def test_a_size_is_read_from_the_header_alone(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.png").write_bytes(PNG)

    assert image_file_size(tmp_path, "a.jpg") == Image.open(io.BytesIO(data)).size
    assert image_file_size(tmp_path, "b.png") == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jpg", JPEG[:100], "its header does not tell its size"),
        ("a.jpg", PNG, "content is not JPEG"),
        ("a.png", PNG[:20], "its header does not tell its size"),
        ("a.png", PNG[:18] + b"\1" + PNG[19:], "its header does not tell its size"),
        ("a.gif", PNG, "only .jpg"),
    ],
)
def test_a_size_that_the_header_does_not_tell_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)

    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        image_file_size(tmp_path, name)


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
