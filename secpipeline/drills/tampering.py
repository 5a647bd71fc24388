"""What a tampering is: a change that somebody could make, and the reason code that must refuse it.

>>> LAYOUTS = Group("the layout", ThrowawayChain.verify)                 # doctest: +SKIP
>>> @LAYOUTS.refused("layout-missing")                                   # doctest: +SKIP
... def layout_removed(chain: ThrowawayChain) -> None:
...     \"\"\"The layout is deleted.\"\"\"
...     chain.store.layout.unlink()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.provenance.report import REASONS, Report
from secpipeline.provenance.verification import Expectations

# Changes a chain in place; what it returns is what the verifier is asked for beside the chain.
Tamper = Callable[[ThrowawayChain], Expectations | None]
Verify = Callable[[ThrowawayChain, Expectations | None], Report]


@dataclass(frozen=True)
class Tampering:
    """One way to tamper.

    Attributes
    ----------
    name
        A few words.
    sentence
        What is done, for people.
    expected
        The reason code that must be among those of the refusal.
    tamper
        Does it.
    """

    name: str
    sentence: str
    expected: str
    tamper: Tamper

    def __post_init__(self) -> None:
        if self.expected not in REASONS:
            raise LookupError(f"{self.name}: {self.expected} is no reason code")


def _unchanged(chain: ThrowawayChain) -> None:
    """The chain as it is built is what this group tampers with."""


@dataclass(frozen=True)
class Group:
    """Tamperings with one thing.

    Attributes
    ----------
    title
        What is attacked.
    verify
        Looks at a tampered copy as the user's command would.
    prepare
        Adds to the throwaway chain what this group needs.
    tamperings
        In the order in which they were written.
    """

    title: str
    verify: Verify
    prepare: Callable[[ThrowawayChain], None] = _unchanged
    tamperings: list[Tampering] = field(default_factory=list)

    def refused(self, code: str) -> Callable[[Tamper], Tamper]:
        """Register a function that must be refused by this code; its name and docstring are what people read."""

        def register(tamper: Tamper) -> Tamper:
            self.add(tamper.__name__.replace("_", " "), inspect.getdoc(tamper) or "", code, tamper)
            return tamper

        return register

    def add(self, name: str, sentence: str, code: str, tamper: Tamper) -> None:
        """Register one of many that differ by what they are done to."""
        self.tamperings.append(Tampering(name, sentence, code, tamper))
