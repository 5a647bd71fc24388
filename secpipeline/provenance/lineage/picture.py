"""A drawing of signed runs: what was made from what, by whom, when, and what must not be relied on.

A card is a stage, coloured by the role that signs it, and a box in it is a run. Stages are laid out in layers by the
longest way through the chain, as in K. Sugiyama et al., "Methods for visual understanding of hierarchical system
structures" (1981), so that every arrow leads to the right. Between neighbouring layers arrows lead from run to run;
what skips a layer is drawn from stage to stage, on rails above the cards.

The SVG needs nothing from outside: no script, style sheet, font or link. Equal runs give equal bytes.

>>> runs = history.origins(makers(history, "1004ff18e902"))             # doctest: +SKIP
>>> Path("lineage.svg").write_text(svg(history, runs, step_specs()))     # doctest: +SKIP
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from secpipeline.errors import InputError
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.lineage.graph import History, TracedRun

# All lengths are in pixels at natural size.
_MARGIN, _GUTTER, _CARD, _GAP = 18, 34, 112, 20
_HEADER, _ROW, _MARK, _BETWEEN = 38, 34, 13, 5
_RAIL, _STEP, _RADIUS = 9, 5, 5
_NOTE, _NARROWEST = 15, 300
_INK, _QUIET, _WIRE, _EDGE, _TINT = "#1d2939", "#667085", "#8591a3", "#d0d7e2", "#f8fafc"
_ALARM, _ALARM_TINT = "#c81e1e", "#fdecec"
# One colour a role, apart from each other and from the red that warns.
_ROLES = ("#1570b8", "#6b46c1", "#8a5a00", "#067a57", "#3f3f46", "#3a4db0", "#0e7490", "#5c6b1e")
_SANS = "system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
_MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True)
class _Box:
    """A run, or all the runs for which there was no room, and where it is drawn."""

    runs: tuple[TracedRun, ...]
    mark: str = ""
    reason: str = ""
    x: float = 0
    y: float = 0

    @property
    def height(self) -> float:
        return _ROW + (_MARK if self.mark else 0)

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class _Card:
    """A stage and where it is drawn; ``index`` is its place among those of its layer, counted from the top."""

    spec: StepSpec
    colour: str
    index: int
    x: float
    y: float
    boxes: tuple[_Box, ...]

    @property
    def height(self) -> float:
        return _card_height(self.boxes)

    @property
    def right(self) -> float:
        return self.x + _CARD

    @property
    def port(self) -> float:
        """The height at which rails leave and arrive."""
        return self.y + _HEADER / 2 + 2

    @property
    def aside(self) -> float:
        """How far its own upright rails keep from those of the cards above it, without leaving the gutter."""
        return _STEP * min(self.index, 2)


def svg(history: History, runs: Sequence[TracedRun], specs: Sequence[StepSpec], *, limit: int = 24) -> str:
    """Draw runs and how they rest on one another.

    Parameters
    ----------
    history
        Knows the runs.
    runs
        What to draw, such as :meth:`History.origins` or :meth:`History.reached`.
    specs
        The steps of the chain, each after its inputs.
    limit
        How many boxes a stage gets, at least 1. Where that is too few, those that must not be relied on and then the
        latest are drawn, and the last box stands for the others.

    Returns
    -------
    str
        An SVG document, fit to stand in a file or inside HTML.

    Raises
    ------
    InputError
        If there are no runs, or one is of no step.
    """
    by_stage = _by_stage(history, runs, specs)
    layers = _layers(specs, by_stage)
    wires, rails = _connections(history, [run for found in by_stage.values() for run in found], layers)
    boxes = {name: _boxes(history, found, limit) for name, found in by_stage.items()}
    cards = _place(specs, layers, boxes, _MARGIN + _rail_space(rails))
    width = max(_NARROWEST, max(card.right for card in cards) + _MARGIN)
    bottom = max(card.y + card.height for card in cards)
    notes = _notes(cards, bool(wires), bool(rails), width)
    parts = [
        *_draw_rails(rails, {card.spec.name: card for card in cards}),
        *(line for card in cards for line in _draw_card(card)),
        *_draw_wires(wires, cards, history),
        *_draw_notes(notes, bottom + _MARGIN),
    ]
    return _document(parts, width, bottom + _MARGIN + _NOTE * len(notes) + _MARGIN / 2, len(runs))


def _by_stage(history: History, runs: Sequence[TracedRun], specs: Sequence[StepSpec]) -> dict[str, list[TracedRun]]:
    """The runs to draw, oldest first, by their stages, in the order of the chain."""
    shown = {run.statement for run in runs}
    found: dict[str, list[TracedRun]] = {spec.name: [] for spec in specs}
    for run in history.runs:
        if run.statement in shown:
            if run.stage not in found:
                raise InputError(f"{run.stage}: a run of no step of this chain cannot be drawn")
            found[run.stage].append(run)
    if not any(found.values()):
        raise InputError("there are no runs to draw")
    return {name: mine for name, mine in found.items() if mine}


def _layers(specs: Sequence[StepSpec], shown: Collection[str]) -> dict[str, int]:
    """The layer of each shown stage: the longest way to it, layers without a shown stage left out."""
    longest: dict[str, int] = {}
    for spec in specs:
        longest[spec.name] = 1 + max((longest.get(name, 0) for name in spec.inputs), default=0)
    used = sorted({longest[name] for name in shown})
    return {spec.name: used.index(longest[spec.name]) for spec in specs if spec.name in shown}


def _rail_space(rails: Sequence[tuple[str, str]]) -> float:
    return _RAIL * len({source for source, _ in rails}) + 8 if rails else 0


def _connections(
    history: History, runs: Sequence[TracedRun], layers: Mapping[str, int]
) -> tuple[list[tuple[TracedRun, TracedRun]], list[tuple[str, str]]]:
    """What is drawn from run to run, and what is drawn from stage to stage."""
    shown = {run.statement for run in runs}
    wires: list[tuple[TracedRun, TracedRun]] = []
    rails: set[tuple[str, str]] = set()
    for run in runs:
        for parent in history.parents(run):
            if parent.statement in shown and layers[run.stage] - layers[parent.stage] == 1:
                wires.append((parent, run))
            elif parent.statement in shown:
                rails.add((parent.stage, run.stage))
    order = list(layers)
    return wires, sorted(rails, key=lambda rail: (order.index(rail[0]), order.index(rail[1])))


def _place(
    specs: Sequence[StepSpec], layers: Mapping[str, int], boxes: Mapping[str, Sequence[_Box]], top: float
) -> list[_Card]:
    """The cards, the layers centred on one horizontal line."""
    roles = list(dict.fromkeys(spec.role for spec in specs))
    columns: dict[int, list[StepSpec]] = {}
    for spec in specs:
        if spec.name in layers:
            columns.setdefault(layers[spec.name], []).append(spec)
    heights = {
        layer: sum(_card_height(boxes[spec.name]) for spec in column) + _GAP * (len(column) - 1)
        for layer, column in columns.items()
    }
    cards = []
    for layer, column in columns.items():
        x, y = _MARGIN + layer * (_CARD + _GUTTER), top + (max(heights.values()) - heights[layer]) / 2
        for index, spec in enumerate(column):
            colour = _ROLES[roles.index(spec.role) % len(_ROLES)]
            placed = _stacked(boxes[spec.name], x + _BETWEEN, y + _HEADER + _BETWEEN)
            cards.append(_Card(spec, colour, index, x, y, placed))
            y += cards[-1].height + _GAP
    return cards


def _card_height(boxes: Sequence[_Box]) -> float:
    return _HEADER + sum(box.height + _BETWEEN for box in boxes) + _BETWEEN


def _boxes(history: History, runs: Sequence[TracedRun], limit: int) -> list[_Box]:
    """The boxes of one stage, oldest first, before they have a place."""
    by_weight = sorted(range(len(runs)), key=lambda n: (not history.against(runs[n]), -n))
    kept = set(by_weight[: limit - 1] if len(runs) > limit else by_weight)
    boxes = [_box(history, (run,)) for number, run in enumerate(runs) if number in kept]
    rest = tuple(run for number, run in enumerate(runs) if number not in kept)
    return [*boxes, _box(history, rest)] if rest else boxes


def _box(history: History, runs: tuple[TracedRun, ...]) -> _Box:
    worst = next((run for run in runs if history.against(run)), None)
    if worst is None:
        return _Box(runs)
    mark = "in doubt" if worst.doubt else "revoked" if worst.revoked else "affected"
    return _Box(runs, mark, history.against(worst))


def _stacked(boxes: Sequence[_Box], x: float, y: float) -> tuple[_Box, ...]:
    placed = []
    for box in boxes:
        placed.append(replace(box, x=x, y=y))
        y += box.height + _BETWEEN
    return tuple(placed)


def _draw_wires(
    wires: Sequence[tuple[TracedRun, TracedRun]], cards: Sequence[_Card], history: History
) -> Iterator[str]:
    """Arrows from run to run, the red ones on top."""
    places = {run.statement: (box, card) for card in cards for box in card.boxes for run in box.runs}
    drawn: dict[tuple[float, float, float, float], bool] = {}
    for parent, run in wires:
        (start, left), (end, right) = places[parent.statement], places[run.statement]
        key = left.right - _BETWEEN, start.middle, right.x + _BETWEEN, end.middle
        drawn[key] = drawn.get(key, False) or bool(history.against(parent))
    for (x1, y1, x2, y2), alarm in sorted(drawn.items(), key=lambda item: (item[1], item[0])):
        bend = (x2 - x1) / 2
        colour = _ALARM if alarm else _WIRE
        path = f"M{_n(x1)} {_n(y1)}C{_n(x1 + bend)} {_n(y1)} {_n(x2 - bend)} {_n(y2)} {_n(x2 - 6)} {_n(y2)}"
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>{_head(x2, y2, colour)}'


def _draw_rails(rails: Sequence[tuple[str, str]], cards: Mapping[str, _Card]) -> Iterator[str]:
    """Stage to stage: from the side of a card up to a rail of its own, along it, and down into what read from it."""
    sources = list(dict.fromkeys(source for source, _ in rails))
    heights = {source: _MARGIN + number * _RAIL for number, source in enumerate(sources)}
    targets = {target: [source for source, other in rails if other == target] for _, target in rails}
    arrivals = {target: cards[target].x - 13 - cards[target].aside for target in targets}
    for source in sources:
        card, y = cards[source], heights[source]
        x = card.right + 8 + card.aside
        end = max(arrivals[target] for target, joined in targets.items() if source in joined)
        path = f"M{_n(card.right)} {_n(card.port)}H{_n(x - _RADIUS)}q{_RADIUS} 0 {_RADIUS} -{_RADIUS}"
        path += f"V{_n(y + _RADIUS)}q0 -{_RADIUS} {_RADIUS} -{_RADIUS}H{_n(end)}"
        yield f'<path d="{path}" fill="none" stroke="{card.colour}" stroke-width="1.2"/>'
    for target, joined in targets.items():
        card, x = cards[target], arrivals[target]
        path = f"M{_n(x)} {_n(min(heights[source] for source in joined))}V{_n(card.port - _RADIUS)}"
        path += f"q0 {_RADIUS} {_RADIUS} {_RADIUS}H{_n(card.x - 6)}"
        yield f'<path d="{path}" fill="none" stroke="{_WIRE}" stroke-width="1.2"/>{_head(card.x, card.port, _WIRE)}'
        for source in joined:
            yield f'<circle cx="{_n(x)}" cy="{_n(heights[source])}" r="2.6" fill="{cards[source].colour}"/>'


def _draw_card(card: _Card) -> Iterator[str]:
    x, y, width, height = _n(card.x), _n(card.y), _n(_CARD), _n(card.height)
    yield (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="#ffffff" stroke="{_EDGE}"/>'
        f'<path d="M{x} {_n(card.y + _HEADER)}v-{_HEADER - 7}q0 -7 7 -7h{_CARD - 14}q7 0 7 7v{_HEADER - 7}z" '
        f'fill="{card.colour}"/>'
    )
    # A nested picture cuts off what is too wide, whatever the font.
    yield f'<svg x="{_n(card.x + 8)}" y="{y}" width="{_n(_CARD - 12)}" height="{_HEADER}">'
    yield _text(0, 16, _short(card.spec.name, 15), 12, "#ffffff", bold=True)
    yield _text(0, 30, _short(" + ".join(card.spec.roles), 18), 10, "#ffffff")
    yield "</svg>"
    for box in card.boxes:
        yield from _draw_box(box)


def _draw_box(box: _Box) -> Iterator[str]:
    fill, stroke = (_ALARM_TINT, _ALARM) if box.mark else (_TINT, _EDGE)
    first, second = _wording(box)
    left = box.x + 6
    yield f"<g><title>{_tooltip(box)}</title>"
    yield (
        f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_CARD - 2 * _BETWEEN}" height="{_n(box.height)}" rx="4" '
        f'fill="{fill}" stroke="{stroke}"/>'
    )
    yield _text(left, box.y + 14, first, 10.5, _INK, mono=len(box.runs) == 1)
    yield _text(left, box.y + 27, second, 9.5, _QUIET)
    if box.mark:
        yield f'<path d="M{_n(left)} {_n(box.y + 40)}l4 -7.5l4 7.5z" fill="{_ALARM}"/>'
        yield _text(left + 12, box.y + 40, box.mark, 10, _ALARM, bold=True)
    yield "</g>"


def _wording(box: _Box) -> tuple[str, str]:
    last = _short(box.runs[-1].time.replace("T", " ").removesuffix("Z"), 16, cut="")
    if len(box.runs) == 1:
        return _short(box.runs[0].statement, 12, cut=""), last
    return f"{len(box.runs)} more runs", f"to {last[:10]}"


def _tooltip(box: _Box) -> str:
    run = box.runs[0]
    again = f", again {len(run.logged) - 1} times" if len(run.logged) > 1 else ""
    lines = [f"{run.stage} {run.statement}", f"logged {run.time}{again}"]
    if len(box.runs) > 1:
        lines = [f"{len(box.runs)} runs of {run.stage}"]
    return "\n".join(_short(line, 400) for line in (*lines, box.reason) if line)


def _notes(cards: Sequence[_Card], wired: bool, railed: bool, width: float) -> list[str]:
    sentences = ["Each box is a signed run: the first digits of its statement's SHA-256, and when it was logged (UTC)."]
    if wired:
        sentences.append("An arrow leads from a run to what read its files.")
    if railed:
        sentences.append("Rails show what else a stage read, from which stages.")
    if any(box.mark for card in cards for box in card.boxes):
        sentences.append(
            "Red: revoked by the owners, signed by a key that no longer counted, or resting on such a run."
        )
    return textwrap.wrap(" ".join(sentences), max(20, int((width - 2 * _MARGIN) / 5.6)))


def _draw_notes(notes: Sequence[str], y: float) -> Iterator[str]:
    for number, line in enumerate(notes):
        yield _text(_MARGIN, y + _NOTE * number + 10, escape(line), 10.5, _QUIET)


def _document(parts: Sequence[str], width: float, height: float, runs: int) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="Lineage of {runs} signed runs" '
        f'font-family="{_SANS}">'
    )
    ground = f'<rect width="{_n(width)}" height="{_n(height)}" rx="8" fill="#ffffff"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, markup: str, size: float, fill: str, *, bold: bool = False, mono: bool = False) -> str:
    style = f' font-family="{_MONO}"' * mono + ' font-weight="650"' * bold
    return f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" fill="{fill}"{style}>{markup}</text>'


def _head(x: float, y: float, colour: str) -> str:
    """The head of an arrow that arrives from the left."""
    return f'<path d="M{_n(x)} {_n(y)}l-7 -3.5v7z" fill="{colour}"/>'


def _short(text: str, most: int, cut: str = "…") -> str:
    """Text that fits and is safe inside markup."""
    shown = _printable(text)
    return escape(shown if len(shown) <= most else shown[: most - len(cut)] + cut)


def _printable(text: str) -> str:
    """XML has no control characters, and one that reverses the writing direction would lie."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def _n(number: float) -> str:
    """A coordinate, as short as it is exact enough."""
    return f"{number:.1f}".removesuffix(".0")
