"""Well-signed evidence of every wrong shape is a clean refusal: no exception, no unknown code, nothing unprintable."""

import copy
import json

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import envelopes
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.log import CHECKPOINT_TYPE
from secpipeline.provenance.report import REASONS
from secpipeline.provenance.verification import Expectations, verify_chain
from secpipeline.stages import table

# A stage that reads nothing, one with a second signer, and one that sums up attestations.
STAGES = ("ingest", "gate", "release")
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
ODD = (
    *(None, True, False, 0, 1, -1, 0.0, 0.5, 10**30, float("inf"), float("nan")),
    *("", "x", "0", "1", "\ud800", "\x00", "\x1b[2J", "../x", "e\u0301", "x" * 5000, "0" * 64, "2031-01-01T00:00:00Z"),
    *([], {}, [[]], [None], {"": None}, {"sha256": "0" * 64}, {"sha256": 0}, {"md5": "0" * 32}),
)


class Desk:
    """A chain whose documents are rewritten, signed by those who may, and put back; then the next."""

    def __init__(self, chain, stage):
        self.chain, self.store, self.stage, self.spec = chain, chain.store, stage, chain.spec(stage)
        names = ("root.layout", "trust.dsse.json", "log.jsonl", "checkpoint.dsse.json", f"current/{stage}.json")
        self.original = {self.store.directory / name: (self.store.directory / name).read_bytes() for name in names}
        self.evidence = chain.current(stage)
        self.origin = chain.workspace.trust().log
        self.documents = {
            "statement": envelopes.read_unverified(self.evidence.statement),
            "link": envelopes.read_unverified(self.evidence.links[0]),
            "layout": envelopes.read_unverified(self.store.layout.read_bytes()),
            "trust": envelopes.read_unverified(self.store.trust.read_bytes()),
            "checkpoint": envelopes.read_unverified(self.store.log.checkpoint_path.read_bytes(), CHECKPOINT_TYPE),
            "envelope": envelopes.parse_object(self.evidence.statement),
            "pointer": self.evidence.digests(),
            "entry": next(json.loads(line) for line in self.store.log.path.open() if f'"stage":"{stage}"' in line),
        }

    def sign(self, document, *roles, payload_type=envelopes.PAYLOAD_TYPE):
        """As canonical_json, but of what that refuses as well."""
        payload = json.dumps(document).encode()
        return envelopes.sign(payload, payload_type, [self.chain.ring.signer(role) for role in roles])

    def put(self, kind, document):
        getattr(self, f"put_{kind}")(document)

    def put_statement(self, document):
        self.log_statement(self.sign(document, self.spec.role))

    def put_envelope(self, document):
        self.log_statement(json.dumps(document).encode())

    def log_statement(self, statement):
        link = copy.deepcopy(self.documents["link"])
        link["products"][self.spec.attestation] = {"sha256": sha256_bytes(statement)}
        self.log(statement, link)

    def put_link(self, document):
        self.log(self.evidence.statement, document)

    def log(self, statement, link):
        links = tuple(self.sign(link, role) for role in self.spec.roles)
        self.chain.record(self.stage, SignedEvidence(statement, links))

    def put_layout(self, document):
        layout, trust = self.sign(document, "owner-1", "owner-2"), copy.deepcopy(self.documents["trust"])
        trust["subject"][0]["digest"] = {"sha256": sha256_bytes(layout)}
        self.publish(layout, self.sign(trust, "owner-1", "owner-2"))

    def put_trust(self, document):
        self.publish(self.store.layout.read_bytes(), self.sign(document, "owner-1", "owner-2"))

    def publish(self, layout, trust):
        self.store.record_authority(layout, trust, self.origin, self.chain.ring.signer(LOG))

    def put_checkpoint(self, document):
        self.store.log.checkpoint_path.write_bytes(self.sign(document, LOG, payload_type=CHECKPOINT_TYPE))

    def put_pointer(self, document):
        (self.store.directory / f"current/{self.stage}.json").write_text(json.dumps(document))

    def put_entry(self, document):
        try:
            canonical_json(document)
        except InputError:
            assume(False)  # no log can hold it
        self.store.log.append(document if isinstance(document, dict) else {"": document}, self.chain.ring.signer(LOG))

    def put_back(self):
        for path, data in self.original.items():
            path.write_bytes(data)

    def verify(self):
        expect = Expectations(whole_history=True)  # no memory: each document is another future of one log
        owners, specs = self.chain.ring.owners(), self.chain.specs
        only = (*(stage.name for stage in table.upstream(self.stage)), self.stage)
        return verify_chain(self.store, self.chain.artifacts, owners, specs, only=only, expect=expect)


@pytest.fixture(scope="module", params=STAGES)
def desk(request, built, tmp_path_factory):
    desk = Desk(built.copy(tmp_path_factory.mktemp("desk") / "chain"), request.param)
    assert desk.verify().ok
    return desk


def positions(value, path=()):
    """The path of every position in a JSON document, its root first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from positions(item, (*path, key))


def replaced(document, path, value):
    if not path:
        return value
    document = copy.deepcopy(document)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


def looked_up(document, path):
    for key in path:
        document = document[key]
    return document


@st.composite
def mutations(draw, document):
    """A position of a document and the document with that position retyped, deleted, doubled or filled up."""
    path = draw(st.sampled_from(list(positions(document))))
    how = draw(st.sampled_from(("retype", "retype", "retype", "delete", "double", "swap")))
    if how == "retype" or not path:
        return path, replaced(document, path, draw(st.sampled_from(ODD)))
    parent, key = copy.deepcopy(looked_up(document, path[:-1])), path[-1]
    if how == "delete":
        del parent[key]
    elif how == "double" and isinstance(parent, list):
        parent.append(parent[key])
    elif how == "double":
        parent[f"{key}x"] = parent[key]
        path = (*path[:-1], f"{key}x")
    else:
        other = draw(st.sampled_from(list(positions(document))))
        parent[key] = looked_up(document, other)
    return path, replaced(document, path[:-1], parent)


def free(kind, path):
    """What those who sign may say as they like, since nothing else in evidence contradicts it."""
    if kind == "trust":  # from when a key counts, and how often the owners spoke
        return path[-1:] in (("from",), ("version",))
    if kind == "entry":  # what the log's keeper notes of steps that there are not
        return True
    first = {
        "statement": {"predicate"},
        "link": {"environment", "byproducts", "materials"},
        "pointer": {"linksx", "statementx"},
    }
    return path[:1] != () and path[0] in first.get(kind, ())


def same(one, other):
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def require_clean_refusal(desk, data):
    kind = data.draw(st.sampled_from(sorted(desk.documents)), label="document")
    document = desk.documents[kind]
    path, mutated = data.draw(mutations(document), label="mutation")
    assume(not same(mutated, document))
    try:
        desk.put(kind, mutated)
        report = desk.verify()
    finally:
        desk.put_back()
    assert report.codes <= REASONS.keys()
    report.text().encode()
    json.dumps(report.to_json()).encode()
    assert free(kind, path) or not report.ok, f"{kind} at {path}"


@settings(max_examples=80, **QUIET)
@given(data=st.data())
def test_well_signed_nonsense_is_a_clean_refusal(desk, no_sync, data):
    require_clean_refusal(desk, data)


@pytest.mark.slow
@settings(max_examples=1000, **QUIET)
@given(data=st.data())
def test_much_well_signed_nonsense_is_a_clean_refusal(desk, no_sync, data):
    require_clean_refusal(desk, data)


def test_what_is_put_back_verifies(desk):
    for kind, document in desk.documents.items():
        desk.put(kind, document)
        report = desk.verify()
        desk.put_back()
        assert report.ok, f"{kind}: {report.text()}"


@pytest.mark.parametrize("kind", ["statement", "link", "layout", "trust", "checkpoint", "envelope", "pointer"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_every_document_replaced_by_every_odd_value_is_refused(desk, no_sync, kind, value):
    try:
        desk.put(kind, value)
        report = desk.verify()
    finally:
        desk.put_back()
    assert not report.ok
    assert report.codes <= REASONS.keys()


@given(data=st.binary(max_size=3000))
def test_garbage_is_malformed(data):
    for reader in (envelopes.read_unverified, envelopes.parse_object):
        try:
            assert isinstance(reader(data), dict)
        except AttestationError as error:
            assert error.code in ("malformed", "payload-type")  # noqa: PT017 - it need not raise
