"""What a verification says: every reason not to trust, by a code that stays the same.

>>> Report((Refusal("changed-file", "train", "train/detector.safetensors", "its bytes changed"),), ("train",), 1).ok
False
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secpipeline.errors import AttestationError

# Each code, and what to do about it.
REASONS: Mapping[str, str] = {
    "bill-of-materials": "the bill of materials is not what the evidence says; ask for the bundle again",
    "bundle-file": "a file of the bundle is missing, was added, or is not the one listed; ask for the bundle again",
    "bundle-signature": "the list of the bundle's files is not signed by the releaser; ask for the bundle again",
    "channel-expired": "the channel has not spoken for too long; `secpipeline refresh`, or find out who holds it back",
    "channel-malformed": "the channel's metadata cannot be read; activate a deployment again",
    "channel-missing": "the channel, or a part of its metadata, is not there; activate a deployment again",
    "channel-rewound": "the channel is older than the one seen here before; restore the later one",
    "channel-signature": "the channel's metadata is not signed by its roles' keys; find out who wrote it",
    "channel-target": "a file of the channel is not the one that was published; activate the deployment again",
    "channel-too-old": "the channel is older than was asked for; `secpipeline refresh`, or ask for what is current",
    "changed-file": "the bytes are not those that were signed; restore them, or run the stage again",
    "checkpoint-malformed": "the log's checkpoint cannot be read; restore it beside its log",
    "checkpoint-payload-type": "the checkpoint is something else; restore it beside its log",
    "checkpoint-signature": "the log's key did not sign the checkpoint; restore it beside its log",
    "clock": "this machine's clock is behind the evidence; set it, then verify again",
    "digest": "a digest is missing or is not SHA-256; run the stage again",
    "evidence-missing": "an envelope is missing or changed; restore it, or run the stage again",
    "input-unverified": "what the stage read is not verified; look at the refusals before this one",
    "key-exposed": "others may read a private key; make it private, or better replace it",
    "key-mismatch": "a private key is not that of its public key; replace it with `secpipeline keys rotate`",
    "key-missing": "this machine does not hold the key; run where it is",
    "key-retired": "signed by a key after its role was given another; run the stage again",
    "key-revoked": "signed by a key after it was revoked; run the stage again with the role's new key",
    "keys-inside": "the keys lie in the project; move them elsewhere",
    "layout-differs": "the layout is not that of this chain; renew it with `secpipeline layout`",
    "layout-expired": "the layout is older than its owners allowed; renew it with `secpipeline layout`",
    "layout-key": "the layout names a key that the owners gave to no role; renew it with `secpipeline layout`",
    "layout-malformed": "the layout cannot be read; restore it, or renew it with `secpipeline layout`",
    "layout-missing": "there is no layout; restore it, or renew it with `secpipeline layout`",
    "layout-payload-type": "the layout is something else; restore it, or renew it with `secpipeline layout`",
    "layout-signature": "two owners did not sign the layout; find out who wrote it before renewing it",
    "layout-superseded": "the log names a later layout or trust document; restore it, or run `secpipeline layout`",
    "link-command": "the link is of another command; run the stage again",
    "link-name": "the link is of another step; run the stage again",
    "link-products": "link and Statement are not about the same files; run the stage again",
    "link-return-value": "the command failed; run the stage again",
    "link-type": "not an in-toto link; run the stage again",
    "log-changed": "the past of the log was changed; restore it",
    "log-forked": "the log is not a continuation of the one seen here before; find out which is true",
    "log-origin": "this is the log of another chain; restore the right one",
    "log-missing": "there is no log, or no checkpoint over it; restore both",
    "log-rewound": "the log is older than the one seen here before; restore the later one",
    "log-truncated": "the log lacks entries that its checkpoint covers; restore it",
    "malformed": "the evidence cannot be read; restore it, or run the stage again",
    "model-signature": "the model is not the one that was signed; ask for the bundle again",
    "memory": "what this machine remembers of earlier verifications is damaged; find out why, then remove the file",
    "missing-file": "a file is gone, or is no plain file; restore it, or run the stage again",
    "missing-material": "the stage does not say that it read what it must; run it again",
    "not-judged": "the file is not the one that was judged; deploy that one, or judge this one",
    "not-logged": "the evidence is not in the log; run the stage again",
    "not-passed": "what was judged did not pass; nothing of it may be deployed",
    "payload-type": "the envelope holds something else; run the stage again",
    "predicate-type": "the Statement says something else than its stage must; run the stage again",
    "revoked": "the owners revoked this; build without it",
    "runs-disagree": "two runs of one step differ; find out which is true before anything is deployed",
    "signature": "the role's key did not sign this; run the stage again where that key is",
    "stale": "an input changed since; run the stage again",
    "statement-type": "not an in-toto Statement; run the stage again",
    "subject": "the Statement names its files wrongly; run the stage again",
    "superseded": "the log names later evidence of the stage; restore that, or run the stage again",
    "threshold": "the step's second run is missing; run it where the other key is",
    "too-old": "older than was asked for; ask for what is current",
    "trust-malformed": "the owners' trust document cannot be read; restore it",
    "trust-missing": "the owners' trust document is not there; restore it",
    "trust-payload-type": "the owners' trust document is something else; restore it",
    "trust-rewound": "the owners' trust document is older than one seen here before; restore the later one",
    "trust-shared-key": "two roles have one key; give one of them a new one with `secpipeline keys rotate`",
    "trust-signature": "two owners did not sign the trust document; find out who wrote it",
    "undeclared-material": "the stage read what it must not; run it again",
    "unexpected-file": "no evidence covers this file; remove it",
}


def _printable(text: str) -> str:
    """The same with everything escaped that could move a terminal's cursor, forge a line, or not be printed at all.

    Names come from those who are not trusted: of files, and in evidence whose signature is wrong.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Refusal:
    """One reason not to trust.

    Attributes
    ----------
    code
        One of :data:`REASONS`.
    stage
        Where, or "" for the chain as a whole.
    name
        The file, or "".
    message
        For people.
    expected, found
        SHA-256 in hex where bytes differ, else "".
    """

    code: str
    stage: str
    name: str
    message: str
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        digests = f" (expected sha256 {self.expected}, found {self.found or 'nothing'})" if self.expected else ""
        where = self.name or self.stage
        return _printable(f"[{self.code}] {where + ': ' if where else ''}{self.message}{digests}")


@dataclass(frozen=True)
class Report:
    """The outcome of one verification.

    Attributes
    ----------
    refusals
        Everything that was wrong; empty means verified.
    steps
        The steps that were looked at.
    files
        How many files were compared with their digests.
    log_size
        Entries of the log, 0 if it could not be read.
    """

    refusals: tuple[Refusal, ...]
    steps: tuple[str, ...]
    files: int
    log_size: int = 0
    subjects: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Nothing was refused, and something was checked."""
        return not self.refusals and bool(self.steps)

    @property
    def codes(self) -> frozenset[str]:
        """The reason codes of all refusals."""
        return frozenset(refusal.code for refusal in self.refusals)

    def require(self) -> None:
        """Raise :class:`AttestationError` with every refusal unless all is well."""
        if not self.steps:
            raise AttestationError("evidence-missing", "there is no evidence to verify")
        if self.refusals:
            rest = "".join(f"\n  {refusal}" for refusal in self.refusals[1:])
            first = self.refusals[0]
            raise AttestationError(first.code, str(first).removeprefix(f"[{first.code}] ") + rest)

    def text(self) -> str:
        """A table for people."""
        bad = {refusal.stage for refusal in self.refusals}
        lines = [f"  {step:14} {'REFUSED' if step in bad else 'ok'}" for step in self.steps]
        return "\n".join([*lines, *(f"  {refusal}" for refusal in self.refusals)])

    def to_json(self) -> dict[str, Any]:
        """The same for tools."""
        return {
            "ok": self.ok,
            "steps": list(self.steps),
            "files": self.files,
            "logEntries": self.log_size,
            "refusals": [{**asdict(refusal), "remedy": REASONS.get(refusal.code, "")} for refusal in self.refusals],
        }
