"""Statistics held against each other: each source against its peers, and a release against one that was accepted.

A difference is told in units of the scatter that is to be expected, ``deviation = |difference| / scatter``, where
scatter² adds up how much peers differ (1.4826 times the median absolute deviation, which estimates the standard
deviation and which less than half of the peers can spoil; Rousseeuw and Croux, "Alternatives to the median absolute
deviation", JASA 1993), the standard errors of both sides, and a floor: nobody minds 5 % or three percentage points.
How large a deviation may be says the suite.

>>> against_peers(statistics)[["source", "measure", "value", "median", "deviation"]]    # doctest: +SKIP
>>> against_baseline(statistics, accepted)                                              # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from secpipeline.validation.statistics import PARTITIONS, SOURCE, Group, Measure, Statistics

COMPARED, FEW, NOTHING, NEW, GONE = "compared", "too few", "nothing to measure", "new", "gone"
MIN_SCENES = 10
MIN_PEERS = 3
_RELATIVE_FLOOR = math.log(1.05)
_SHARE_FLOOR = 0.03
_TO_DEVIATION = 1.4826
PEER_COLUMNS = ("source", "measure", "images", "value", "median", "peers", "deviation", "status")
BASELINE_COLUMNS = ("partition", "name", "measure", "images", "value", "accepted", "deviation", "status")


def against_peers(statistics: Statistics) -> pd.DataFrame:
    """Each measure of each source beside the median of the other sources.

    Returns
    -------
    DataFrame
        With :data:`PEER_COLUMNS`: deviation is 0 or more, NaN unless status is ``compared``. A source with fewer
        than :data:`MIN_SCENES` scenes is neither compared nor a peer; fewer than :data:`MIN_PEERS` peers are none.
    """
    sources = statistics.of(SOURCE)
    measures = {name: group.measures() for name, group in sources.items()}
    enough = {name for name, group in sources.items() if group.scenes >= MIN_SCENES}
    rows = []
    for name, group in sources.items():
        for key, own in measures[name].items():
            others = [measures[other][key] for other in sources if other in enough and other != name]
            peers = [peer for peer in others if not math.isnan(peer.value)]
            rows.append((name, key, group.images, own.value, *_among(own, peers, name in enough)))
    return _table(rows, PEER_COLUMNS)


def _among(own: Measure, peers: list[Measure], enough: bool) -> tuple[float, int, float, str]:
    """Median of the peers, how many they are, the deviation from it, and a status."""
    values = np.array([peer.value for peer in peers])
    median = float(np.median(values)) if len(values) else math.nan
    if math.isnan(own.value):
        return median, len(peers), math.nan, NOTHING
    if not enough or len(peers) < MIN_PEERS:
        return median, len(peers), math.nan, FEW
    distances = sorted(_difference(peer.value, median, own.relative) for peer in peers)
    # The lower of two middle ones: it is finite even if half of the peers have nothing.
    scatter = math.hypot(_TO_DEVIATION * distances[(len(distances) - 1) // 2], own.error, _floor(own))
    return median, len(peers), _difference(own.value, median, own.relative) / scatter, COMPARED


def against_baseline(statistics: Statistics, accepted: Statistics) -> pd.DataFrame:
    """Each measure of each group beside that of the accepted release.

    Returns
    -------
    DataFrame
        With :data:`BASELINE_COLUMNS`. A group that only one of the two has is ``new`` or ``gone``; one with fewer
        than :data:`MIN_SCENES` scenes on either side is not compared.
    """
    rows = []
    for partition in PARTITIONS:
        now, before = statistics.of(partition), accepted.of(partition)
        for name in dict.fromkeys((*now, *before)):
            rows += [(partition, name, *entry) for entry in _entries(now.get(name), before.get(name))]
    return _table(rows, BASELINE_COLUMNS)


def _entries(now: Group | None, before: Group | None) -> list[tuple[str, int, float, float, float, str]]:
    """One row a measure of a group; a single one about images if there is nothing to compare it with."""
    if now is None or before is None:
        images, accepted = (group.images if group else 0 for group in (now, before))
        return [("images", images, images, accepted, math.nan, NEW if now else GONE)]
    old = before.measures()
    enough = min(now.scenes, before.scenes) >= MIN_SCENES
    return [
        (key, now.images, own.value, old[key].value, *_change(own, old[key], enough))
        for key, own in now.measures().items()
    ]


def _change(own: Measure, old: Measure, enough: bool) -> tuple[float, str]:
    if math.isnan(own.value) and math.isnan(old.value):
        return math.nan, NOTHING
    if not enough:
        return math.nan, FEW
    if math.isnan(own.value) or math.isnan(old.value):
        return math.nan, GONE if math.isnan(own.value) else NEW
    scatter = math.hypot(own.error, old.error, _floor(own))
    return _difference(own.value, old.value, own.relative) / scatter, COMPARED


def _difference(a: float, b: float, relative: bool) -> float:
    """How far apart; nothing and something are infinitely far apart by ratio."""
    if not relative:
        return abs(a - b)
    return abs(math.log(a / b)) if a > 0 and b > 0 else math.inf if a != b else 0.0


def _floor(measure: Measure) -> float:
    return _RELATIVE_FLOOR if measure.relative else _SHARE_FLOOR


def _table(rows: Sequence[tuple[object, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    numbers = [column for column in ("value", "median", "accepted", "deviation") if column in columns]
    return frame.astype(dict.fromkeys(numbers, "float64"))
