"""The errors that secpipeline raises on purpose; anything else is a bug.

A command line shows the message alone and exits with ``exit_code``. The tree is small because a caller can only do
five different things about a refusal: mend the input, restore the bytes, mend the evidence, accept the gate's
verdict, or gather what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable


class SecpipelineError(Exception):
    """Base of every deliberate refusal."""

    exit_code = 1


class InputError(SecpipelineError):
    """What the user gave cannot be used; the message names the file, row or key and what to do."""

    exit_code = 2


class IntegrityError(SecpipelineError):
    """Bytes on disk are not the bytes that were recorded.

    Parameters
    ----------
    name
        The file, as the user knows it.
    expected, found
        SHA-256 in hex; ``found`` is empty when the file is missing.
    hint
        What to do next.
    """

    exit_code = 3

    def __init__(self, name: str, expected: str, found: str, hint: str = "") -> None:
        state = f"sha256 {found}" if found else "nothing"
        super().__init__(f"{name}: expected sha256 {expected}, found {state}" + (f"; {hint}" if hint else ""))
        self.name, self.expected, self.found = name, expected, found


class AttestationError(SecpipelineError):
    """Evidence is missing, malformed, unsigned, signed by the wrong role, or does not fit the chain.

    Parameters
    ----------
    code
        A stable kebab-case reason code.
    message
        Names the stage and the file.
    """

    exit_code = 4

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"[{code}] {message}")
        self.code, self.message = code, message


class GateRefused(SecpipelineError):
    """The gate's verdict, or the lack of one, forbids what was asked."""

    exit_code = 5

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("refused:\n" + "\n".join(f"  - {reason}" for reason in self.reasons))


class CannotDecide(SecpipelineError):
    """There is too little evidence for a verdict; the message says how much would be enough."""

    exit_code = 6
