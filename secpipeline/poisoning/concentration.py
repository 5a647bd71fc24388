"""Where the events of a source, or of the whole release, crowd: kind, place, time, repeated patch.

A judge's own mistakes crowd too: at the horizon, in one camera, in dark scenes. Its *mild* doubts
(:mod:`secpipeline.poisoning.yardsticks`) crowd in the same places, so they say which share of the events to expect
anywhere. A group with a larger share is tested with a beta-binomial tail: binomial, with room for the limited
number of mild tests and for honest unevenness. Tests of one scene in one group count once, because a post that
stands in twenty frames is one mistake. Kinds of error are compared with what the other sources' kinds predict.
Benjamini-Hochberg runs over everything that was tried.

>>> found = concentrate(mark(tests), size=(1024, 2048))                # doctest: +SKIP
>>> sentences(found)                                                    # doctest: +SKIP
['vendor-c: 80 % of its missing boxes are on the left third of the image (33 % expected, q = 2e-05)']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import betabinom, false_discovery_control

from secpipeline.datasets.tables import CORNERS
from secpipeline.errors import InputError
from secpipeline.poisoning.attribution import WORDS
from secpipeline.poisoning.pairs import Floats

Row = dict[str, Any]

RELEASE = "the release"
CONCENTRATION_COLUMNS = (
    "scope",
    "kind",
    "dimension",
    "group",
    "strong",
    "share",
    "expected_share",
    "p_value",
    "q_value",
    "concentrated",
)
_ACROSS = ("left", "middle", "right")
_DOWN = ("top", "middle", "bottom")
_TIMES = ("first", "second", "last")
_PHRASES = {
    "across": "on the {} third of the image",
    "down": "in the {} third of the image's height",
    "time": "in the {} third of the scenes",
    "patch": "at the repeated patch {}",
    "kind": "{}",
}


@dataclass(frozen=True)
class ConcentrationRule:
    """When strong tests are called concentrated.

    Attributes
    ----------
    false_discovery_rate
        Of the Benjamini-Hochberg procedure over every scope, kind and group.
    min_share_ratio
        Share of the strong tests in the group over the share expected there.
    unevenness
        Standard deviation, relative to the mean, by which an honest share may differ from the expected one.
    """

    false_discovery_rate: float = 0.05
    min_share_ratio: float = 1.5
    unevenness: float = 0.3


def concentrate(
    marked: pd.DataFrame,
    size: tuple[int, int],
    patches: pd.DataFrame | None = None,
    rule: ConcentrationRule | None = None,
) -> pd.DataFrame:
    """Find groups that hold more of the events than the judges' mild doubts explain.

    Parameters
    ----------
    marked
        From :func:`secpipeline.poisoning.yardsticks.mark`; the names of scenes are taken to be in time order.
    size
        Height and width in pixels of the frame in which the corners lie.
    patches
        Which images (image_id) show which repeated patch (cluster); an image can have several rows. What
        clusters there are is found elsewhere; only their statistic is here.
    rule
        When to call events concentrated.

    Returns
    -------
    DataFrame
        One row per group with ``CONCENTRATION_COLUMNS``: scope (a source, or ``RELEASE``); kind; dimension
        (kind, across, down, time, patch); group; strong (scenes with events in the group); share and
        expected_share in [0, 1]; p_value, q_value, concentrated.

    Raises
    ------
    InputError
        If the size is not positive, or ``patches`` lists an image twice for one cluster or has no column
        image_id or cluster.
    """
    rule = rule or ConcentrationRule()
    _check(size, patches)
    doubted = _placed(marked[marked["event"] | marked["mild"]], marked, size)
    rows = [row for scope, own in _scopes(doubted) for row in _groups(scope, own, patches, rule)]
    rows += _kinds(doubted, rule)
    return _adjusted(rows, rule)


def sentences(found: pd.DataFrame) -> list[str]:
    """The concentrated rows of :func:`concentrate` in words, strongest first."""
    told = found[found["concentrated"]].sort_values(["q_value", "scope", "kind"], kind="stable")
    return [
        f"{row['scope']}: {row['share']:.0%} of its {_what(row)} "
        f"({row['expected_share']:.0%} expected, q = {row['q_value']:.1g})"
        for row in told.to_dict("records")
    ]


def _what(row: Mapping[Any, Any]) -> str:
    if row["dimension"] == "kind":
        return f"strong tests are {WORDS[row['group']]}"
    return f"{WORDS[row['kind']]} are {_PHRASES[row['dimension']].format(row['group'])}"


def _check(size: tuple[int, int], patches: pd.DataFrame | None) -> None:
    if min(size) <= 0:
        raise InputError(f"concentration: the frame's size is {size}; height and width are above 0")
    if patches is None:
        return
    if lacking := [column for column in ("image_id", "cluster") if column not in patches.columns]:
        raise InputError(f"the patches table has no column {', '.join(lacking)}")
    if (twice := patches.duplicated(["image_id", "cluster"])).any():
        raise InputError(f"the patches table lists {patches.loc[twice, 'image_id'].iloc[0]} twice for one cluster")


def _placed(doubted: pd.DataFrame, marked: pd.DataFrame, size: tuple[int, int]) -> pd.DataFrame:
    """Each test's third of the image across and down, and the third of its source's scenes it lies in."""
    label = doubted[list(CORNERS)].to_numpy("float64")
    predicted = doubted[[f"p{c}" for c in CORNERS]].to_numpy("float64")
    corners = np.where(np.isfinite(label), label, predicted)
    x, y = (corners[:, 0] + corners[:, 2]) / 2, (corners[:, 1] + corners[:, 3]) / 2
    scenes = marked[["source", "scene"]].drop_duplicates()
    order = (scenes.groupby("source")["scene"].rank() - 0.5) / scenes.groupby("source")["scene"].transform("size")
    when = pd.Series(order.to_numpy(), index=pd.MultiIndex.from_frame(scenes))
    times = when.loc[pd.MultiIndex.from_frame(doubted[["source", "scene"]])].to_numpy()
    return doubted.assign(
        across=_thirds(x / size[1], _ACROSS), down=_thirds(y / size[0], _DOWN), time=_thirds(times, _TIMES)
    )


def _thirds(share: Floats, names: tuple[str, str, str]) -> NDArray[np.str_]:
    third: NDArray[np.str_] = np.array(names)[np.clip((share * 3).astype(int), 0, 2)]
    return third


def _scopes(doubted: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [*((str(source), own) for source, own in doubted.groupby("source")), (RELEASE, doubted)]


def _groups(scope: str, own: pd.DataFrame, patches: pd.DataFrame | None, rule: ConcentrationRule) -> list[Row]:
    rows = []
    for kind, tests in own.groupby("kind"):
        for dimension in ("across", "down", "time"):
            strong, mild = _scenes(tests, "event", dimension), _scenes(tests, "mild", dimension)
            for group, number in strong.items():
                expected = (mild.get(group, 0) + 1) / (mild.sum() + 3)
                counts = (int(number), int(strong.sum()), expected, int(mild.sum()))
                rows.append(_row(scope, str(kind), dimension, str(group), counts, rule))
        for cluster, shown in patches.groupby("cluster")["image_id"] if patches is not None else ():
            marked = tests.assign(inside=tests["image_id"].isin(shown))
            strong, mild = _scenes(marked, "event", "inside"), _scenes(marked, "mild", "inside")
            expected = (mild.get(True, 0) + 1) / (mild.sum() + 2)
            counts = (int(strong.get(True, 0)), int(strong.sum()), expected, int(mild.sum()))
            rows.append(_row(scope, str(kind), "patch", str(cluster), counts, rule))
    return rows


def _kinds(doubted: pd.DataFrame, rule: ConcentrationRule) -> list[Row]:
    """A source's kinds of error, against what its mild tests and the other sources' ratios lead to expect."""
    counts = [
        doubted[doubted[which]].drop_duplicates(["source", "scene", "kind"]).groupby(["source", "kind"]).size()
        for which in ("event", "mild")
    ]
    strong, mild = counts[0].unstack(fill_value=0).align(counts[1].unstack(fill_value=0), fill_value=0)
    rows = []
    for source in strong.index if len(strong) > 1 else ():
        own, peers = strong.loc[source], strong.drop(index=source).sum()
        predicted = (mild.loc[source] + 0.5) * (peers + 0.5) / (mild.drop(index=source).sum() + 0.5)
        for kind, number in own[own > 0].items():
            expected = float(predicted[kind] / predicted.sum())
            found = (int(number), int(own.sum()), expected, int(min(mild.loc[source].sum(), peers.sum())))
            rows.append(_row(str(source), str(kind), "kind", str(kind), found, rule))
    return rows


def _scenes(tests: pd.DataFrame, which: str, group: str) -> pd.Series[int]:
    """In how many scenes each group has a test of this strength."""
    return tests[tests[which]].drop_duplicates(["source", "scene", group]).groupby(group).size()


def _row(
    scope: str, kind: str, dimension: str, group: str, counts: tuple[int, int, float, int], rule: ConcentrationRule
) -> Row:
    strong, total, expected, mild = counts
    return {
        "scope": scope,
        "kind": kind,
        "dimension": dimension,
        "group": group,
        "strong": strong,
        "share": strong / total if total else 0.0,
        "expected_share": expected,
        "p_value": _tail(strong, total, expected, mild, rule.unevenness),
    }


def _tail(strong: int, total: int, expected: float, mild: int, unevenness: float) -> float:
    """P(at least ``strong`` of ``total``) where the share is uncertain around ``expected``.

    A beta distribution with the weight of the mild tests, or less where honest unevenness is wider than that.
    """
    weight = min(float(mild), (1 - expected) / (unevenness**2 * expected)) if unevenness else float(mild)
    weight = max(weight, 2.0)
    return float(betabinom.sf(strong - 1, total, expected * weight, (1 - expected) * weight))


def _adjusted(rows: list[Row], rule: ConcentrationRule) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(CONCENTRATION_COLUMNS))
    if table.empty:
        return table.astype({"concentrated": bool})
    table["q_value"] = false_discovery_control(table["p_value"].to_numpy("float64"), method="bh")
    enough = table["share"] >= rule.min_share_ratio * table["expected_share"]
    table["concentrated"] = (table["q_value"] <= rule.false_discovery_rate) & enough
    return table
