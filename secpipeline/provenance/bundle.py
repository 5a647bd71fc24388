"""The evidence as a folder that an auditor takes away and checks with public tools.

>>> export(Path("build/evidence"), Path("build/artifacts"), Path("audit"), specs, owners)   # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import SSlibKey

from secpipeline.digests import manifest_bytes, tree_files
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import public_pem
from secpipeline.provenance.layout import OWNER_THRESHOLD, StepSpec
from secpipeline.store import write_atomic

_CARRIED = ("gate", "release", "deploy")

_GUIDE = """# Check this evidence without secpipeline

Everything here can be checked with tools that are not ours. You need `in-toto-verify` (the Python package `in-toto`),
`sha256sum`, and for a look inside, `jq` and `base64`.

**The keys.** `keys/owner-*.pem` came with this folder, so they prove nothing until you compare them with what the
owners gave you by another way:

    sha256sum keys/*.pem

**The chain.** In this folder:

    in-toto-verify --layout root.layout --link-dir links --verification-keys {keys}

Exit code 0 means: two owners signed the layout and it has not expired; every step was signed by the key of its role;
what each step read is what the step before it made; the gate's verdict in `gate/verdict.json` is "pass"; and the files
under `gate/`, `deploy/` and `attestations/` are, byte for byte, those that were signed. Any other exit code means they
are not.

**The bytes.** `sha256sum -c SHA256SUMS`

**The attestations.** Each `attestations/<stage>.dsse.json` is an in-toto Statement in a DSSE envelope:

    jq -r .payload attestations/gate.dsse.json | base64 -d | jq .

**The data and weights** are too large to carry. Whoever holds the artifacts can compare them with the digests in each
Statement's `subject`; `ingest/dataset.sha256` is a manifest for `sha256sum -c`.
"""


def export(
    evidence_dir: Path, artifacts: Path, out: Path, specs: Sequence[StepSpec], owners: Sequence[SSlibKey]
) -> None:
    """Write the folder.

    Parameters
    ----------
    evidence_dir, artifacts
        The workspace's.
    out
        A directory that does not exist yet, or is empty.
    specs, owners
        The steps, and the owners' public keys.

    Raises
    ------
    InputError
        If ``out`` holds something already.
    AttestationError
        If a step has no evidence.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: not empty; name a new directory")
    store = EvidenceStore(evidence_dir)
    for spec in specs:
        evidence = store.current(spec.name)
        if evidence is None:
            raise AttestationError("evidence-missing", f"{spec.name}: no evidence yet; run `secpipeline run`")
        (signature,) = envelopes.parse_object(evidence.link)["signatures"]
        write_atomic(out / spec.attestation, evidence.statement)
        write_atomic(out / f"links/{spec.name}.{signature['keyid'][:8]}.link", evidence.link)
    write_atomic(out / "root.layout", store.layout.read_bytes())
    names = [f"keys/owner-{number}.pem" for number in range(1, len(owners) + 1)]
    for name, key in zip(names, owners, strict=True):
        write_atomic(out / name, public_pem(key))
    for stage in _CARRIED:
        shutil.copytree(artifacts / stage, out / stage)
    write_atomic(out / "VERIFY.md", _GUIDE.format(keys=" ".join(names[:OWNER_THRESHOLD])).encode())
    write_atomic(out / "SHA256SUMS", manifest_bytes(tree_files(out)))
