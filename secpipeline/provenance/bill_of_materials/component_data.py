"""The ``data`` of components that are no models: releases with what is in them, reports, and files no stage made."""

from __future__ import annotations

from typing import Any

from secpipeline.provenance.bill_of_materials.chain import CURATE, INGEST, Step
from secpipeline.provenance.bill_of_materials.facts import CURATED, RATES, RAW, Facts
from secpipeline.provenance.bill_of_materials.lookup import get
from secpipeline.provenance.bill_of_materials.properties import properties
from secpipeline.provenance.bill_of_materials.references import first_part

RELEASES = {INGEST: "raw release", CURATE: "curated release"}
# What CycloneDX calls data that no stage made, by the first part of its name; configuration if it is not here.
_SOURCES = {"delivery": "dataset", "code": "source-code"}


def of_step(step: Step, facts: Facts) -> dict[str, Any]:
    """A release with what is in it, or a report."""
    if step.name not in RELEASES:
        return {"type": "other", "name": f"{step.name} report"}
    about = facts.documents[CURATED]
    if step.name == INGEST:
        compared = sorted({str(get(row, RATES, "source")) for row in facts.of(RATES, "rows")})
        about = {**facts.documents[RAW], "synthetic": facts.synthetic, "source": compared}
    contents = {"url": step.main[0], "properties": properties(about)}
    return {"type": "dataset", "name": RELEASES[step.name], "contents": contents}


def of_source(name: str) -> dict[str, Any]:
    """A file that no stage made."""
    return {"type": _SOURCES.get(first_part(name), "configuration"), "name": name}
