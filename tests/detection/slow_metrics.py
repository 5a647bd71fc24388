"""The pedestrian metrics written out literally, one image, one detection and one threshold at a time.

The matching goes step by step as the definition published with the Caltech and CityPersons benchmarks does.
"""

from __future__ import annotations

import math

CITYPERSONS_POINTS = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a, b):
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def overlap(box, person, ignored):
    common = intersection(box, person)
    whole = area(box) if ignored else area(box) + area(person) - common
    return common / whole if common > 0 else 0.0


def inside(box, visibility, subset):
    height = box[3] - box[1]
    visible = 1.0 if math.isnan(visibility) else visibility
    seen = subset.min_visibility <= visible <= subset.max_visibility
    return seen and subset.min_height <= height <= subset.max_height


def match_image(truth, found, subset, iou):
    """``truth``: (box, ignore, visibility); ``found``: (box, score), any order.

    Returns (score, state) with the best score first, and the number of people to be found.
    """
    people = [(box, ignore or not inside(box, seen, subset)) for box, ignore, seen in truth]
    people.sort(key=lambda person: person[1])
    kept = [
        (box, score) for box, score in found if subset.min_height / 1.25 <= box[3] - box[1] < subset.max_height * 1.25
    ]
    kept.sort(key=lambda item: -item[1])
    taken, result = set(), []
    for box, score in kept:
        best, chosen = min(iou, 1 - 1e-10), None
        for index, (person, ignored) in enumerate(people):
            if index in taken:
                continue
            if chosen is not None and not people[chosen][1] and ignored:
                break
            if overlap(box, person, ignored) < best:
                continue
            best, chosen = overlap(box, person, ignored), index
        if chosen is None:
            result.append((score, 0))
        elif people[chosen][1]:
            result.append((score, -1))
        else:
            taken.add(chosen)
            result.append((score, 1))
    return result, sum(not ignored for _, ignored in people)


def curve(images):
    """Down the scores of all images: (true positives, false positives) after each counted detection."""
    counted = [(score, state) for detections, _ in images for score, state in detections if state >= 0]
    counted.sort(key=lambda item: -item[0])
    true = false = 0
    points = []
    for _, state in counted:
        true, false = true + (state == 1), false + (state == 0)
        points.append((true, false))
    return points, sum(people for _, people in images)


def average_precision(images):
    points, people = curve(images)
    total = 0.0
    for step in range(101):
        total += max((t / (t + f) for t, f in points if t / people >= step * 0.01 - 1e-12), default=0.0)
    return total / 101


def log_average_miss_rate(images):
    """As Caltech's code reads the curve: found at the last point that keeps to the rate, nobody if there is none."""
    points, people = curve(images)
    total = 0.0
    for step in range(9):
        found = 0.0
        for true, false in points:
            if false / len(images) <= 10 ** (-2 + step / 4):
                found = true / people
        total += math.log(max(1 - found, 1e-10))
    return math.exp(total / 9)


def log_average_miss_rate_of_citypersons(images):
    """As CityPersons' code reads the curve: its index is -1, the end, where no point keeps to the rate."""
    points, people = curve(images)
    total = 0.0
    for allowed in CITYPERSONS_POINTS:
        within = sum(false / len(images) <= allowed for _, false in points)
        total += math.log(1 - points[within - 1][0] / people)
    return math.exp(total / 9)


def miss_rate(images, threshold):
    found = sum(state == 1 and score >= threshold for detections, _ in images for score, state in detections)
    return 1 - found / sum(people for _, people in images)


def false_positives_per_image(images, threshold):
    false = sum(state == 0 and score >= threshold for detections, _ in images for score, state in detections)
    return false / len(images)
