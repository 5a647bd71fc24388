"""The in-toto layout: which steps there are, who signs them, and how their files fit together.

>>> from secpipeline.provenance.layout import StepSpec, render
>>> specs = (StepSpec("ingest", "ingestor", (), (), "https://slsa.dev/provenance/v1"),)
>>> render(specs, {"ingestor": [key]}, expires)                          # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from securesystemslib.signer import SSlibKey

from secpipeline.digests import canonical_json, check_name, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.trust import owner_signers

INSPECTION = "gate-passed"
LIFETIME = dt.timedelta(days=30)
_README = (
    "Steps of the secpipeline chain. The owners' signatures on this file are the root of trust of every verdict. "
    "SHA-256 of the steps' full description, steps.json: "
)


@dataclass(frozen=True)
class StepSpec:
    """One step of the chain, as evidence sees it.

    Attributes
    ----------
    name
        The step; its artifacts are named ``<name>/…``.
    role
        Whose key signs.
    witness
        The role that runs the step a second time and signs that it made the same; empty where one run is enough.
    about
        Materials that its Statement is about, beside the step's own products.
    inputs
        The steps whose products it reads, all of them.
    files
        Patterns of further materials.
    predicate_type
        Of its Statement.
    """

    name: str
    role: str
    inputs: tuple[str, ...]
    files: tuple[str, ...]
    predicate_type: str
    witness: str = ""
    about: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Who must sign a link each; the first also signs the Statement."""
        return (self.role, self.witness) if self.witness else (self.role,)

    @property
    def command(self) -> list[str]:
        """What was run."""
        return ["secpipeline", "run", self.name]

    @property
    def attestation(self) -> str:
        """The artifact name of its Statement."""
        return f"attestations/{self.name}.dsse.json"


def steps_bytes(specs: Sequence[StepSpec]) -> bytes:
    """The full description of the steps, which a layout alone does not hold; its digest stands in the layout."""
    return canonical_json({"steps": [asdict(spec) for spec in specs]})


def read_steps(data: bytes) -> tuple[StepSpec, ...]:
    """The steps of a chain from their description.

    Raises
    ------
    AttestationError
        With code ``layout-malformed``.
    """
    try:
        steps = envelopes.parse_object(data)["steps"]
        specs = tuple(StepSpec(**{name: _frozen(value) for name, value in step.items()}) for step in steps)
        for spec in specs:
            check_name(spec.name)
        canonical = all(map(_is_typed, specs)) and steps_bytes(specs) == data
    except (AttestationError, InputError, KeyError, TypeError, AttributeError) as error:
        raise AttestationError("layout-malformed", f"the description of the steps cannot be read ({error})") from error
    if not canonical:
        raise AttestationError("layout-malformed", "the description of the steps is not in its one canonical form")
    return specs


def _is_typed(spec: StepSpec) -> bool:
    lists = (spec.inputs, spec.files, spec.about)
    texts = (spec.name, spec.role, spec.predicate_type, spec.witness, *itertools.chain(*lists))
    return all(isinstance(entry, tuple) for entry in lists) and all(isinstance(text, str) for text in texts)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def render(specs: Sequence[StepSpec], keys: Mapping[str, Sequence[SSlibKey]], expires: dt.datetime) -> dict[str, Any]:
    """The layout as in-toto 0.9 JSON.

    Parameters
    ----------
    specs
        The steps in order.
    keys
        Each role's public keys: the present one, and earlier ones that signed evidence which still counts.
    expires
        When the layout stops being valid, UTC.
    """
    known = {key.keyid: key for spec in specs for role in spec.roles for key in keys[role]}
    return {
        "_type": "layout",
        "readme": _README + sha256_bytes(steps_bytes(specs)),
        "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "keys": {keyid: {"keyid": keyid, **key.to_dict()} for keyid, key in sorted(known.items())},
        "steps": [_step(spec, [key.keyid for role in spec.roles for key in keys[role]]) for spec in specs],
        "inspect": _inspections(specs),
    }


def _step(spec: StepSpec, keyids: Sequence[str]) -> dict[str, Any]:
    materials = [["MATCH", f"{name}/*", "WITH", "PRODUCTS", "FROM", name] for name in spec.inputs]
    materials += [["ALLOW", pattern] for pattern in spec.files]
    products = [["REQUIRE", spec.attestation], ["CREATE", f"{spec.name}/*"], ["CREATE", spec.attestation]]
    return {
        "_type": "step",
        "name": spec.name,
        "pubkeys": sorted(keyids),
        "threshold": len(spec.roles),
        "expected_command": spec.command,
        "expected_materials": [*materials, ["DISALLOW", "*"]],
        "expected_products": [*products, ["DISALLOW", "*"]],
    }


def _inspections(specs: Sequence[StepSpec]) -> list[dict[str, Any]]:
    """What an auditor's own machine checks, in the directory of a bundle.

    The verdict is read with grep from canonical JSON, where a quote inside a text is always escaped, so that no reason
    can imitate the field; grep is on every machine.
    """
    names = {spec.name for spec in specs}
    if not {"gate", "deploy"} <= names:
        return []
    statements = [rule for spec in specs for rule in _same_bytes(spec.attestation, spec.name)]
    verdict = [["REQUIRE", "gate/verdict.json"], *_same_bytes("gate/*", "gate")]
    deployed = [["REQUIRE", "deploy/detector.onnx"], *_same_bytes("deploy/*", "deploy")]
    return [
        {
            "_type": "inspection",
            "name": INSPECTION,
            "run": ["grep", "-q", '"verdict":"pass"', "gate/verdict.json"],
            "expected_materials": [*verdict, *deployed, *statements, ["DISALLOW", "attestations/*"]],
            "expected_products": [["ALLOW", "*"]],
        }
    ]


def _same_bytes(pattern: str, step: str) -> list[list[str]]:
    """What matches is what the step produced, and nothing else matches."""
    match = [["MATCH", pattern, "WITH", "PRODUCTS", "FROM", step]]
    return match if pattern.startswith("attestations/") else [*match, ["DISALLOW", pattern]]


def sign(specs: Sequence[StepSpec], keys: Mapping[str, Sequence[SSlibKey]], ring: KeyRing, now: dt.datetime) -> bytes:
    """Render the layout, valid for thirty days, and sign it with every owner's key that is here.

    Raises
    ------
    AttestationError
        If fewer than two owners' keys are here.
    """
    payload = canonical_json(render(specs, keys, now + LIFETIME))
    return envelopes.sign(payload, envelopes.PAYLOAD_TYPE, owner_signers(ring))
