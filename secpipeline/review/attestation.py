"""Decisions signed, and read again only if they are about what lies here.

The Statement is about the file of decisions; everything its predicate says is computed from that file, and computed
again by whoever reads it. ``docs/predicates/review-v0.1.schema.json`` is its schema.

>>> envelope = sign(journal.read_bytes(), ring.signer("label-auditor"))                     # doctest: +SKIP
>>> review = open_review(envelope, journal.read_bytes(), [key], data.digests)               # doctest: +SKIP
>>> apply(release.images, release.boxes, review.decisions, data.quarantine)                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from securesystemslib.signer import Key, Signer

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes, statements
from secpipeline.review.journal import Written, read
from secpipeline.review.quality import summary

PREDICATE = "https://github.com/secpipeline/predicates/review/v0.1"
ROLE = "label-auditor"
DECISIONS = "review/decisions.jsonl"


def sign(decisions: bytes, signer: Signer) -> bytes:
    """An envelope around a Statement about the decisions.

    Parameters
    ----------
    decisions
        The journal's bytes. Items that were not answered yet are said to be open.
    signer
        Of the role ``label-auditor``.

    Raises
    ------
    InputError
        If the journal cannot be read, or holds no decision.
    """
    return envelopes.sign(canonical_json(_statement(decisions)), envelopes.PAYLOAD_TYPE, [signer])


def open_review(envelope: bytes, decisions: bytes, keys: Sequence[Key], digests: Mapping[str, str]) -> Written:
    """Verify a signed review and read its decisions.

    Parameters
    ----------
    envelope, decisions
        The signed Statement, and the bytes of the journal that it is about.
    keys
        Those of the role ``label-auditor``; one of them must have signed.
    digests
        SHA-256 of what the decisions are to be applied to; :attr:`secpipeline.review.data.ReviewData.digests`.

    Raises
    ------
    AttestationError
        With code ``malformed``, ``payload-type`` or ``signature``; ``predicate-type`` if it is no review;
        ``changed-file`` if these are not the decisions that were signed; ``predicate`` if it says something else than
        they do; ``review-stale`` if they are about another release or other findings.
    """
    content = envelopes.verify(envelope, keys, 1)
    if content.get("predicateType") != PREDICATE:
        raise AttestationError("predicate-type", f"a review expected, not {content.get('predicateType')!r}")
    found = statements.resources({DECISIONS: sha256_bytes(decisions)})
    if content.get("subject") != found:
        raise AttestationError(
            "changed-file", f"{DECISIONS}: sha256 {sha256_bytes(decisions)}, signed was {content.get('subject')!r}"
        )
    try:
        if _statement(decisions) != content:
            raise AttestationError("predicate", "the review's Statement does not say what its decisions say")
        written = read(decisions, DECISIONS)
    except InputError as error:
        raise AttestationError("malformed", str(error)) from error
    for name, digest in sorted(written.header.digests.items()):
        if digests.get(name) != digest:
            raise AttestationError(
                "review-stale",
                f"the review is of {name} with sha256 {digest}, here it is {digests.get(name, 'missing')};"
                " its decisions are not applied; review again",
            )
    return written


def _statement(decisions: bytes) -> dict[str, Any]:
    written = read(decisions, DECISIONS)
    if not written.decisions:
        raise InputError(f"{DECISIONS}: nothing was decided; there is nothing to sign")
    return statements.statement({DECISIONS: sha256_bytes(decisions)}, PREDICATE, _predicate(written))


def _predicate(written: Written) -> dict[str, Any]:
    header, decisions = written.header, written.decisions
    times = [decision.time for decision in decisions]
    predicate = {
        "startedOn": min(times),
        "finishedOn": max(times),
        "reviewers": sorted({decision.reviewer for decision in decisions}),
        "materials": statements.resources(header.digests),
        "plan": {
            "budget": asdict(header.rule),
            "seed": header.seed,
            "sha256": header.plan,
            "items": header.items,
            "images": header.images,
            "sampled": header.sampled,
            "population": header.population,
            "repeated": header.repeated,
        },
        "result": {
            **summary(decisions, header.population),
            "open": header.items - len(decisions),
        },
    }
    texts: dict[str, Any] = statements.text_numbers(predicate)
    return texts
