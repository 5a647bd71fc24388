"""One deployment's evidence as a folder that an auditor takes away and checks with public tools.

>>> write(Contents(...), ring, Path("bundle-production"))                # doctest: +SKIP
>>> verify(Path("bundle-production"), owners).ok                         # doctest: +SKIP
True
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey

from secpipeline.digests import canonical_json, manifest_bytes, sha256_bytes, tree_files
from secpipeline.errors import AttestationError, InputError, SecpipelineError
from secpipeline.provenance import envelopes, guide, merkle, model_signature
from secpipeline.provenance import trust as trusts
from secpipeline.provenance.bill_of_materials.chain import covered
from secpipeline.provenance.bill_of_materials.checking import check as check_bill
from secpipeline.provenance.bill_of_materials.document import build as build_bill
from secpipeline.provenance.bill_of_materials.facts import DOCUMENTS
from secpipeline.provenance.bill_of_materials.facts import read as read_facts
from secpipeline.provenance.evidence import LAYOUT, TRUST, EvidenceStore, SignedEvidence
from secpipeline.provenance.keys import LOG, OWNERS, KeyRing, public_pem, read_public_key
from secpipeline.provenance.layout import INSPECTION, StepSpec, read_steps, steps_bytes
from secpipeline.provenance.log import CHECKPOINT, CHECKPOINT_TYPE, Checkpoint, LogView, read_checkpoint
from secpipeline.provenance.log import LOG as LOG_FILE
from secpipeline.provenance.report import Refusal, Report
from secpipeline.provenance.trust import Trust
from secpipeline.provenance.verification import Expectations, verify_chain
from secpipeline.store import write_atomic

STEPS = "steps.json"
SUMS, SUMS_SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
BILL, MODEL_SIGNATURE = "bill-of-materials.cdx.json", "model.sig"
DEPLOYED, RELEASER = "deploy", "releaser"
# The stages whose every file is in the bundle; of the others it has what the bill of materials is read from.
CARRIED_WHOLE = ("gate", "release", DEPLOYED)
CARRIED_FILES = DOCUMENTS
_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")
_UNREADABLE = (SecpipelineError, OSError, SslibError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle.

    Attributes
    ----------
    store
        The evidence that the log belongs to.
    evidence
        The envelopes of each stage's run behind the deployment.
    files
        Where each carried artifact lies now, by its name ``<stage>/<file>``.
    specs
        The steps of the chain.
    trust
        What the owners say.
    project
        Further files by their names in the bundle, such as the policy.
    since
        An earlier checkpoint's envelope, or none.
    """

    store: EvidenceStore
    evidence: Mapping[str, SignedEvidence]
    files: Mapping[str, Path]
    specs: Sequence[StepSpec]
    trust: Trust
    project: Mapping[str, bytes] = field(default_factory=dict)
    since: bytes | None = None


class BundleEvidence(EvidenceStore):
    """A bundle's folder, read as an evidence store."""

    def current(self, stage: str) -> SignedEvidence | None:
        """The envelopes of a stage as they lie in ``attestations/`` and ``links/``, in the order of the log's entry.

        Raises
        ------
        AttestationError
            If a link is missing or changed, or there is one more.
        """
        statement, proof = self.directory / f"attestations/{stage}.dsse.json", _proof(self.directory, stage)
        if not statement.is_file() or not proof.is_file():
            return None
        entry = envelopes.parse_object(envelopes.parse_object(proof.read_bytes())["line"].encode())
        links = [path.read_bytes() for path in (self.directory / "links").glob(f"{stage}.????????.link")]
        by_digest = {sha256_bytes(link): link for link in links}
        if sorted(by_digest) != sorted(entry["links"]):
            raise AttestationError("evidence-missing", f"{stage}: its links are not those that were logged")
        return SignedEvidence(statement.read_bytes(), tuple(by_digest[digest] for digest in entry["links"]))


def write(contents: Contents, ring: KeyRing, out: Path) -> None:
    """Write the folder, or nothing.

    Raises
    ------
    InputError
        If ``out`` holds something already.
    AttestationError
        If evidence is missing, or the releaser's key is not here.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: not empty; name a new directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=out.parent, prefix=".bundle-"))
    try:
        fresh.chmod(0o755)
        _write(contents, ring, fresh)
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(contents: Contents, ring: KeyRing, out: Path) -> None:
    for spec in contents.specs:
        evidence = contents.evidence[spec.name]
        _write_evidence(spec, evidence, out)
        subjects = {f"{spec.name}/{name}": digest for name, digest in evidence.files(spec.name).items()}
        write_atomic(out / f"manifests/{spec.name}.sha256", manifest_bytes(subjects))
    for name in (LAYOUT, TRUST, LOG_FILE, CHECKPOINT):
        write_atomic(out / name, (contents.store.directory / name).read_bytes())
    write_atomic(out / STEPS, steps_bytes(contents.specs))
    _write_proofs(contents, out)
    owners = {f"keys/{name}.pem": public_pem(key) for name, key in zip(OWNERS, ring.owners(), strict=True)}
    carried = {name: path.read_bytes() for name, path in contents.files.items()}
    for name, data in {**owners, **_key_files(contents.trust), **carried, **contents.project}.items():
        write_atomic(out / name, data)
    write_atomic(out / BILL, build_bill(read_facts(*_payloads(contents.evidence), out)))
    scheme, _, key = ring.uri(RELEASER).partition(":")
    if scheme == "file2":  # the model-signing tool reads keys from files alone
        model_signature.sign(out / DEPLOYED, out / MODEL_SIGNATURE, Path(key))
    signers = _signing_owners(out)
    write_atomic(out / guide.NAME, guide.text(signers, model_signed=scheme == "file2").encode())
    sums = manifest_bytes(tree_files(out))
    write_atomic(out / SUMS, sums)
    write_atomic(out / SUMS_SIGNATURE, bytes.fromhex(ring.signer(RELEASER).sign(sums).signature))


def _write_evidence(spec: StepSpec, evidence: SignedEvidence, out: Path) -> None:
    write_atomic(out / spec.attestation, evidence.statement)
    for link in evidence.links:
        (signature,) = envelopes.parse_object(link)["signatures"]
        write_atomic(out / f"links/{spec.name}.{signature['keyid'][:8]}.link", link)


def _payloads(
    evidence: Mapping[str, SignedEvidence],
) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, dict[str, Any]]]:
    """Statements, digests of their envelopes, and links, by stage; of evidence that was verified."""
    statements = {name: envelopes.read_unverified(signed.statement) for name, signed in evidence.items()}
    digests = {name: sha256_bytes(signed.statement) for name, signed in evidence.items()}
    links = {name: envelopes.read_unverified(signed.links[0]) for name, signed in evidence.items()}
    return statements, digests, links


def _proof(directory: Path, stage: str) -> Path:
    return directory / f"log/{stage}.proof.json"


def _write_proofs(contents: Contents, out: Path) -> None:
    """For each stage its entry of the log and the path from it to the signed root, one sibling a line."""
    log = contents.store.read_log(contents.trust.keys(LOG), contents.trust.log)
    for spec in contents.specs:
        number = _entry(log, contents.evidence[spec.name])
        sides = merkle.proof_sides(number, len(log.lines))
        proof = {
            "entry": number,
            "line": log.lines[number].decode(),
            "path": [{"side": side, "hash": h} for side, h in zip(sides, log.inclusion(number), strict=True)],
            "root": log.checkpoint.root,
            "size": log.checkpoint.size,
        }
        write_atomic(_proof(out, spec.name), canonical_json(proof))
    if contents.since is not None:
        write_atomic(out / "log/consistency.json", canonical_json(_consistency(log, contents.since)))


def _entry(log: LogView, evidence: SignedEvidence) -> int:
    wanted = evidence.digests().items()
    for number, entry in enumerate(log.entries):
        if wanted <= entry.items():
            return number
    raise AttestationError("not-logged", "evidence of the deployment is not in the log; restore the log")


def _consistency(log: LogView, since: bytes) -> dict[str, Any]:
    earlier = read_checkpoint(since)
    if not 1 <= earlier.size <= log.checkpoint.size or log.root_at(earlier.size) != earlier.root:
        raise AttestationError("log-forked", "the log does not continue the checkpoint that was given")
    return {
        "from": {"root": earlier.root, "size": earlier.size},
        "proof": log.consistency(earlier.size),
        "to": {"root": log.checkpoint.root, "size": log.checkpoint.size},
    }


def _key_files(trust: Trust) -> dict[str, bytes]:
    """The roles' public keys in PEM by their names in the bundle."""
    files = {}
    for role, periods in trust.roles.items():
        for period in periods:
            name = role if period.end is None else f"{role}-until-{period.end}"
            files[f"keys/{name}.pem"] = public_pem(period.key)
    return files


def _signing_owners(out: Path) -> list[str]:
    """The key files of the owners who signed the layout."""
    signers = {signature["keyid"] for signature in envelopes.parse_object((out / LAYOUT).read_bytes())["signatures"]}
    names = [f"keys/{owner}.pem" for owner in OWNERS]
    return [name for name in names if read_public_key(out / name).keyid in signers]


def verify(directory: Path, owners: Sequence[SSlibKey], expect: Expectations | None = None) -> Report:
    """Verify a bundle: the chain in it, its list of files, its bill of materials and its model's signature.

    The chain is held to the steps that the owners signed for it, so that a bundle of an earlier version still verifies.

    Parameters
    ----------
    directory
        The bundle.
    owners
        The owners' public keys, as they gave them to you; those in the bundle prove nothing.
    expect
        Freshness.
    """
    try:
        present = tree_files(directory)  # a folder with a pipe or a link in it is not looked into any further
    except SecpipelineError as error:
        return Report((Refusal("bundle-file", "", "", str(error)),), (), 0)
    try:
        specs = read_steps((directory / STEPS).read_bytes())
    except (AttestationError, OSError) as error:
        return Report((Refusal("layout-malformed", "", STEPS, str(error)),), (), 0)
    places = {name: directory / name for name in CARRIED_WHOLE if (directory / name).is_dir()}
    expect = replace(expect or Expectations(), latest=False)  # the log went on after an earlier deployment
    report = verify_chain(BundleEvidence(directory), None, owners, specs, files=places, expect=expect)
    checks = _BundleChecks(directory, present, owners, specs, report)
    return replace(report, refusals=(*report.refusals, *checks.run()))


class _BundleChecks:
    """What a bundle holds beside the chain."""

    def __init__(
        self,
        directory: Path,
        present: Mapping[str, str],
        owners: Sequence[SSlibKey],
        specs: Sequence[StepSpec],
        report: Report,
    ) -> None:
        self.directory, self.present = directory, present
        self.owners, self.specs, self.report = owners, specs, report

    def run(self) -> list[Refusal]:
        """Every refusal."""
        refusals: list[Refusal] = []
        for check in (self._files, self._signature, self._keys, self._carried, self._proofs, self._bill, self._model):
            try:
                refusals += check()
            except AttestationError as error:
                refusals.append(Refusal(error.code, "", "", error.message))
            except _UNREADABLE as error:
                refusals.append(Refusal("bundle-file", "", "", f"{type(error).__name__}: {error}"))
        return refusals

    def _files(self) -> Iterator[Refusal]:
        """The folder holds exactly the files of its list."""
        listed = dict(_parse_sums((self.directory / SUMS).read_bytes()))
        present = dict(self.present)
        # in-toto-verify leaves a record of its inspection in the folder.
        for name in (SUMS, SUMS_SIGNATURE, f"{INSPECTION}.link"):
            present.pop(name, None)
        for name in sorted(listed.keys() | present.keys()):
            expected, found = listed.get(name, ""), present.get(name, "")
            if expected != found:
                what = "not in the list" if not expected else "changed" if found else "missing"
                yield Refusal("bundle-file", "", name, what, expected, found)

    def _signature(self) -> Iterator[Refusal]:
        """The list is signed by the releaser."""
        sums, signature = ((self.directory / name).read_bytes() for name in (SUMS, SUMS_SIGNATURE))
        for key in self._releasers():
            try:
                key.verify_signature(Signature(key.keyid, signature.hex()), sums)
            except UnverifiedSignatureError:
                continue
            return
        yield Refusal("bundle-signature", "", SUMS, "the releaser did not sign this list")

    def _releasers(self) -> list[SSlibKey]:
        periods = self._trust().roles[RELEASER]
        return [period.key for period in periods if period.ended != trusts.REVOKED]

    def _trust(self) -> Trust:
        return trusts.read((self.directory / TRUST).read_bytes(), self.owners)

    def _keys(self) -> Iterator[Refusal]:
        """The roles' public keys in the folder are those that the owners name, the owners' own those given."""
        owned = {public_pem(key) for key in self.owners}
        strange = [name for name in OWNERS if (self.directory / f"keys/{name}.pem").read_bytes() not in owned]
        if len(strange) > len(OWNERS) - len(self.owners):
            yield Refusal("bundle-file", "", f"keys/{strange[0]}.pem", "is not the key of an owner that you trust")
        for name, pem in _key_files(self._trust()).items():
            path = self.directory / name
            if not path.is_file() or path.read_bytes() != pem:
                yield Refusal("bundle-file", "", name, "is not the key that the owners name", sha256_bytes(pem))

    def _carried(self) -> Iterator[Refusal]:
        """Single artifacts and manifests say what the evidence says."""
        for stage, subjects in self.report.subjects.items():
            manifest = self.directory / f"manifests/{stage}.sha256"
            if manifest.read_bytes() != manifest_bytes(subjects):
                yield Refusal("bundle-file", stage, manifest.name, "is not what the evidence says")
            for name, digest in self.present.items():
                if name.startswith(f"{stage}/") and subjects.get(name) != digest:
                    yield Refusal("changed-file", stage, name, "its bytes are not those that were signed")

    def _proofs(self) -> Iterator[Refusal]:
        """Each stage's proof leads from its entry to the root that the log's key signed."""
        for spec in self.specs:
            proof = envelopes.parse_object(_proof(self.directory, spec.name).read_bytes())
            checkpoint = self._checkpoint()
            hashes = [bytes.fromhex(sibling["hash"]) for sibling in proof["path"]]
            leaf = merkle.leaf_hash(proof["line"].encode())
            root = bytes.fromhex(checkpoint.root)
            whole = (proof["root"], proof["size"]) == (checkpoint.root, checkpoint.size)
            if not whole or not merkle.verify_inclusion(leaf, proof["entry"], checkpoint.size, hashes, root):
                yield Refusal(
                    "bundle-file", spec.name, f"log/{spec.name}.proof.json", "does not lead to the log's root"
                )

    def _checkpoint(self) -> Checkpoint:
        data = (self.directory / CHECKPOINT).read_bytes()
        return Checkpoint.parse(envelopes.verify(data, self._trust().keys(LOG), 1, CHECKPOINT_TYPE))

    def _bill(self) -> Iterator[Refusal]:
        store = BundleEvidence(self.directory)
        evidence = {spec.name: signed for spec in self.specs if (signed := store.current(spec.name))}
        files = covered(*_payloads(evidence))
        for problem in check_bill((self.directory / BILL).read_bytes(), files):
            yield Refusal("bill-of-materials", "", BILL, problem)

    def _model(self) -> Iterator[Refusal]:
        if (self.directory / MODEL_SIGNATURE).is_file():
            key = self.directory / f"keys/{RELEASER}.pem"
            model_signature.verify(self.directory / DEPLOYED, self.directory / MODEL_SIGNATURE, key)
        yield from ()


def _parse_sums(data: bytes) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(data.decode().splitlines(), 1):
        found = _SUM.fullmatch(line)
        if found is None:
            raise AttestationError("bundle-file", f"{SUMS}: line {number} is not `<sha256>  <name>`")
        yield found[2], found[1]
