import io

import numpy as np
import pytest
from PIL import Image

from secpipeline.assurance.pictures import (
    COLOURS,
    Layer,
    Tile,
    bar_chart,
    contact_sheet,
    draw_tile,
    line_chart,
    reliability_chart,
    thumbnail,
)

BLACK = np.zeros((60, 80, 3), np.uint8)
BOX = (10, 5, 40, 50)


def opened(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def has(picture, colour, tolerance=2):
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) <= tolerance).sum())


def sheet_of(count, columns, pixels=BLACK):
    return opened(contact_sheet([Tile(pixels, (), "x")] * count, columns))


def test_the_kinds_of_boxes_have_colours_that_stay_apart_but_an_attack_is_a_finding():
    colours = {kind: colour for kind, colour in COLOURS.items() if kind != "attacked"}
    assert len(set(colours.values())) == len(colours)
    assert COLOURS["attacked"] == COLOURS["finding"]


@pytest.mark.parametrize("kind", sorted(COLOURS))
@pytest.mark.parametrize("scale", [1, 3])
def test_a_box_is_drawn_in_the_colour_of_its_kind_along_its_edge_and_nowhere_else(kind, scale):
    plain = np.asarray(draw_tile(Tile(BLACK), scale))
    drawn = np.asarray(draw_tile(Tile(BLACK, (Layer(np.array([BOX]), kind),)), scale))
    rows, columns = np.nonzero((plain != drawn).any(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == tuple(side * scale for side in BOX)
    assert {tuple(pixel) for pixel in drawn[rows, columns].tolist()} == {COLOURS[kind]}
    middle = drawn[(BOX[1] + 2) * scale : (BOX[3] - 2) * scale, (BOX[0] + 2) * scale : (BOX[2] - 2) * scale]
    assert not middle.any()


def test_several_layers_and_boxes_are_drawn_and_the_pixels_stay_as_they_were():
    pixels = BLACK.copy()
    layers = Layer(np.array([BOX, (50, 5, 70, 50)]), "label"), Layer(np.array([(2, 2, 8, 8)]), "prediction")
    picture = draw_tile(Tile(pixels, layers))
    assert has(picture, COLOURS["label"]) > 200
    assert 0 < has(picture, COLOURS["prediction"]) < 30
    assert not pixels.any()


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.array([[5, 5, 5, 40]]), np.array([[30, 30, 20, 20]])])
def test_boxes_without_an_area_draw_nothing(boxes):
    assert draw_tile(Tile(BLACK, (Layer(boxes, "label"),))).tobytes() == draw_tile(Tile(BLACK)).tobytes()


def test_a_box_that_reaches_over_the_edge_is_drawn_as_far_as_it_shows():
    picture = draw_tile(Tile(BLACK, (Layer(np.array([[-20, 10, 30, 40]]), "finding"),)))
    assert has(picture, COLOURS["finding"]) > 60


def test_a_caption_stands_under_the_picture():
    plain, captioned = (np.asarray(draw_tile(Tile(BLACK, (), text))) for text in ("", "image 7"))
    assert plain.shape == captioned.shape
    assert np.array_equal(plain[:60], captioned[:60])
    assert (plain[60:] != captioned[60:]).any()


@pytest.mark.parametrize(
    ("count", "columns", "across", "down"), [(1, 4, 1, 1), (5, 2, 2, 3), (4, 4, 4, 1), (6, 3, 3, 2)]
)
def test_a_contact_sheet_is_a_png_of_as_many_rows_and_columns_as_it_needs(count, columns, across, down):
    sheet = sheet_of(count, columns)
    assert sheet.format == "PNG"
    one = sheet_of(1, 1)
    assert 80 <= one.width < 100
    assert 60 <= one.height < 100
    assert sheet.size == (one.width * across, one.height * down)


def test_each_tile_of_a_sheet_is_in_its_own_place():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = opened(contact_sheet([Tile(np.full((60, 80, 3), colour, np.uint8)) for colour in colours], columns=2))
    half = sheet.width // 2, sheet.height // 2
    places = [(half[0] // 2, half[1] // 2), (half[0] * 3 // 2, half[1] // 2), (half[0] // 2, half[1] * 3 // 2)]
    assert [sheet.getpixel(place) for place in places] == colours


def test_cells_take_the_largest_tile_and_scale_enlarges_all():
    small = Tile(np.full((20, 20, 3), 255, np.uint8))
    sheet = opened(contact_sheet([small, Tile(BLACK)], columns=2))
    assert sheet.size == sheet_of(2, 2).size
    assert has(sheet, (255, 255, 255), 0) == 400
    double = opened(contact_sheet([small, Tile(BLACK)], columns=2, scale=2))
    assert has(double, (255, 255, 255), 0) == 1600


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one tile"):
        contact_sheet([], columns=3)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (900, 1200), (1500, 300), (10, 2000)])
def test_a_thumbnail_is_a_jpeg_below_fifty_kilobytes_of_the_same_shape(height, width):
    data = thumbnail(contact_sheet([Tile(noise(height, width))], columns=1))
    picture = opened(data)
    assert picture.format == "JPEG"
    assert len(data) < 50_000
    assert picture.width / picture.height == pytest.approx((width + 4) / (height + 18), rel=0.1)
    assert picture.width <= width + 4


def test_a_thumbnail_of_a_small_picture_keeps_its_size_and_colours():
    sheet = contact_sheet([Tile(np.full((60, 80, 3), (200, 30, 40), np.uint8))], columns=1)
    picture = opened(thumbnail(sheet))
    assert picture.size == opened(sheet).size
    assert has(picture, (200, 30, 40), 6) > 4000


@pytest.mark.parametrize("limit", [20_000, 4_000, 1_500])
def test_a_thumbnail_keeps_to_the_limit_it_is_given(limit):
    data = thumbnail(contact_sheet([Tile(noise(600, 800))], columns=1), limit)
    assert len(data) <= limit
    assert opened(data).width > 10


def test_a_limit_that_nothing_fits_gives_the_smallest_picture_there_is():
    assert opened(thumbnail(contact_sheet([Tile(BLACK)], columns=1), 10)).size == (1, 1)


def test_transparent_and_grey_pictures_have_thumbnails():
    for mode in ("RGBA", "L", "P"):
        buffer = io.BytesIO()
        Image.new(mode, (30, 20)).save(buffer, "PNG")
        assert opened(thumbnail(buffer.getvalue())).size == (30, 20)


LABELS = ("epoch", "loss")
CURVES = {"standard": [3.0, 2.0, 1.5], "adversarial": [3.0, 2.5, 2.2]}


def test_a_line_chart_is_a_png_that_changes_with_its_numbers():
    chart = line_chart(CURVES, [1, 2, 3], LABELS, "Training")
    picture = opened(chart)
    assert picture.format == "PNG"
    assert 400 < picture.width < 1200
    assert 200 < picture.height < 900
    assert 5_000 < len(chart) < 200_000
    assert chart == line_chart(CURVES, [1, 2, 3], LABELS, "Training")
    other = line_chart({**CURVES, "standard": [3.0, 2.0, 0.1]}, [1, 2, 3], LABELS, "Training")
    assert chart != other


def test_each_curve_has_its_own_colour():
    blue, orange = (31, 119, 180), (255, 127, 14)
    both = opened(line_chart(CURVES, [1, 2, 3], LABELS, "Training"))
    one = opened(line_chart({"standard": CURVES["standard"]}, [1, 2, 3], LABELS, "Training"))
    assert has(both, blue, 25) > 100
    assert has(both, orange, 25) > 100
    assert has(one, orange, 25) == 0


def test_a_bar_chart_grows_with_its_bars_and_shows_the_clean_one_in_its_colour():
    values = {"clean": 0.9, "vanish": 0.2}
    chart = bar_chart(values, {"clean": (0.85, 0.95), "vanish": (0.1, 0.3)}, "AP50", "Attacks")
    picture = opened(chart)
    assert picture.format == "PNG"
    clean, attacked = has(picture, COLOURS["clean"]), has(picture, (0, 114, 178))
    assert clean > 3 * attacked > 0
    many = opened(bar_chart({f"attack {n}": n / 20 for n in range(20)}, {}, "AP50", "Attacks"))
    assert many.height > 2 * picture.height
    assert many.width == picture.width


def test_the_bound_of_the_policy_is_drawn_where_there_is_one():
    values = {"clean": 0.9, "vanish": 0.2}
    without = opened(bar_chart(values, {}, "AP50", "Attacks"))
    bounded = opened(bar_chart(values, {}, "AP50", "Attacks", bound=(0.6, "policy")))
    assert has(without, (213, 94, 0), 10) == 0
    assert has(bounded, (213, 94, 0), 10) > 50


def test_an_interval_changes_the_picture_and_one_that_excludes_its_value_is_no_failure():
    values = {"clean": 0.5}
    plain = bar_chart(values, {}, "AP50", "Attacks")
    assert plain != bar_chart(values, {"clean": (0.3, 0.7)}, "AP50", "Attacks")
    assert opened(bar_chart(values, {"clean": (0.6, 0.7)}, "AP50", "Attacks")).format == "PNG"


def bins(*detections, precision=0.5):
    filled = {"score": 0.45, "precision": precision, "precision_low": 0.3, "precision_high": 0.8}
    edges = ({"low_score": n / 10, "high_score": (n + 1) / 10} for n in range(10))
    return [
        {**edge, "detections": count, **(filled if count else dict.fromkeys(filled))}
        for edge, count in zip(edges, (*detections, *[0] * 10), strict=False)
    ]


def test_the_reliability_of_scores_shows_precision_counts_and_the_threshold():
    chart = reliability_chart(bins(0, 0, 0, 0, 40), 0.4, "Scores")
    picture = opened(chart)
    assert picture.format == "PNG"
    assert has(picture, (0, 114, 178), 10) > 1000
    assert has(picture, (213, 94, 0), 10) > 100
    for other in (
        reliability_chart(bins(0, 0, 0, 0, 4), 0.4, "Scores"),
        reliability_chart(bins(0, 0, 0, 0, 40, precision=0.7), 0.4, "Scores"),
        reliability_chart(bins(0, 0, 0, 0, 40), 0.6, "Scores"),
    ):
        assert other != chart
