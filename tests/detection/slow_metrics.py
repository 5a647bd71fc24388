"""The pedestrian metrics written out literally, one image, one detection and one threshold at a time."""

from __future__ import annotations

import math


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a, b):
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def match_image(truth, found, subset, iou):
    """``truth``: (box, ignore, visibility); ``found``: (box, score), any order.

    Returns (score, state) with the best score first, and the number of people to be found.
    """
    people = []
    for box, ignore, visibility in truth:
        height = box[3] - box[1]
        inside = subset.min_height <= height <= subset.max_height
        visible = 1.0 if math.isnan(visibility) else visibility
        seen = subset.min_visibility <= visible <= subset.max_visibility
        people.append((box, ignore or not inside or not seen))
    kept = [
        (box, score) for box, score in found if subset.min_height / 1.25 <= box[3] - box[1] < subset.max_height * 1.25
    ]
    kept.sort(key=lambda item: -item[1])
    taken, result = set(), []
    for box, score in kept:
        best, chosen = iou, None
        for index, (person, ignored) in enumerate(people):
            overlap = intersection(box, person)
            union = area(box) + area(person) - overlap
            if not ignored and index not in taken and union > 0 and overlap / union >= best:
                best, chosen = overlap / union, index
        if chosen is not None:
            taken.add(chosen)
            result.append((score, 1))
        elif any(ignored and area(box) > 0 and intersection(box, p) / area(box) >= iou for p, ignored in people):
            result.append((score, -1))
        else:
            result.append((score, 0))
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
    points, people = curve(images)
    total = 0.0
    for step in range(9):
        allowed = 10 ** (-2 + step / 4)
        missed = min((1 - t / people for t, f in points if f / len(images) <= allowed + 1e-12), default=1.0)
        total += math.log(max(missed, 1e-10))
    return math.exp(total / 9)


def miss_rate(images, threshold):
    found = sum(state == 1 and score >= threshold for detections, _ in images for score, state in detections)
    return 1 - found / sum(people for _, people in images)


def false_positives_per_image(images, threshold):
    false = sum(state == 0 and score >= threshold for detections, _ in images for score, state in detections)
    return false / len(images)
