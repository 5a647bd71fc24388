import datetime as dt
import functools
import io
import logging
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_chain
from attackable_channel import flip
from fastapi.testclient import TestClient
from PIL import Image
from scattered_detector import scattered

from secpipeline.deployment import channel, serving
from secpipeline.deployment.client import open_channel
from secpipeline.detection.export import to_onnx
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.digests import canonical_json, sha256_file
from secpipeline.errors import AttestationError
from secpipeline.provenance import authority
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.trust import Revocation
from secpipeline.provenance.verification import Expectations, verify_chain

SIZE = (96, 128)
THRESHOLD = 0.05
CARD = {"name": "csp_tiny", "recipe": "standard", "input_size": list(SIZE), "threshold": THRESHOLD, "nms_iou": 0.5}
MONITOR = StepSpec("monitor", "monitor", ("deploy",), (), tiny_chain.PROVENANCE)
SPECS = (*tiny_chain.SPECS, MONITOR)
NAMES = [spec.name for spec in tiny_chain.SPECS]


@functools.cache
def exported(seed):
    with tempfile.TemporaryDirectory() as directory:
        to_onnx(scattered(seed), Path(directory) / "detector.onnx", SIZE)
        return (Path(directory) / "detector.onnx").read_bytes()


class Clock:
    def __init__(self):
        self.ahead = dt.timedelta(0)

    def __call__(self):
        return dt.datetime.now(dt.UTC) + self.ahead


class Deployed:
    """A channel that serves a signed deployment, and the chain that leads to it."""

    def __init__(self, root, ring):
        self.root, self.ring = root, ring
        self.channels = root / "channels"
        self.directory = self.channels / "production"
        self.chain = tiny_chain.TinyChain(root / "chain", ring)
        self.clock = Clock()

    def deploy(self, seed, threshold=THRESHOLD):
        """Sign and activate a detector drawn with this seed."""
        files = self.chain.artifacts / "deploy"
        shutil.rmtree(files)
        files.mkdir()
        (files / "detector.onnx").write_bytes(exported(seed))
        (files / "detector.json").write_bytes(canonical_json({**CARD, "threshold": threshold}))
        self.chain.sign("deploy")
        return channel.activate(
            self.channels, "production", files, self.chain.store.directory, self.ring, self.verify, self.root / "seen"
        )

    def verify(self, files, evidence, revocations):
        expect = Expectations(newer_trust=revocations)
        store, owners = EvidenceStore(evidence), self.ring.owners()
        return verify_chain(store, None, owners, SPECS, only=NAMES, files={"deploy": files}, expect=expect)

    def revoke(self, kind, name):
        """As the owners do, on the machine that has the chain; then every channel is told."""
        said = authority.said(self.chain.store, self.ring)
        revoked = said.with_revocation(Revocation(kind, name, "found poisoned", "2026-01-01T00:00:00Z"))
        authority.publish(self.chain.store, self.ring, SPECS, revoked)
        return self.publish_revocations({"trust": self.chain.store.trust.read_bytes()})

    def publish_revocations(self, said):
        return channel.publish_revocations(self.channels, "production", self.ring, said, self.root / "seen")

    def refresh(self):
        return channel.refresh(self.channels, "production", self.ring, self.root / "seen")

    @property
    def active(self):
        return open_channel(self.directory, self.ring.owners(), self.root / "looked")

    @property
    def files(self):
        return self.active.files

    @property
    def evidence(self):
        return self.active.evidence

    def app(self, ring=None, **keywords):
        owners = (ring or self.ring).owners()
        return serving.create_app(self.directory, owners, SPECS, self.root / "server", clock=self.clock, **keywords)

    def client(self, **keywords):
        return TestClient(self.app(**keywords))


@pytest.fixture(scope="module")
def made(tmp_path_factory, ring):
    root = tmp_path_factory.mktemp("deployed")
    chain = tiny_chain.build(root / "chain", ring)
    chain.sign_layout(SPECS)
    deployed = Deployed(root, ring)
    deployed.deploy(0)
    return deployed


@pytest.fixture
def deployed(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "home")
    return Deployed(tmp_path / "home", made.ring)


@pytest.fixture(scope="module")
def client(made):
    return made.client()


def picture(height, width, seed=0):
    """Blocks of colour: a JPEG of it is still like it when it is made smaller."""
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def encoded(image, kind="JPEG"):
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95)
    return buffer.getvalue()


def detect(client, data, name="street.jpg"):
    return client.post("/detect", files={"image": (name, data)})


def corners(answer):
    return np.array([[box[key] for key in ("x1", "y1", "x2", "y2", "score")] for box in answer.json()["boxes"]])


def test_health_names_the_version_that_is_served(made, client):
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": made.active.version}


def test_provenance_names_the_recipe_every_file_and_who_signed_each_stage(made, client):
    found = client.get("/provenance").json()
    assert found["files"] == {name: sha256_file(made.files / name) for name in ("detector.json", "detector.onnx")}
    assert found["stages"] == [{"name": spec.name, "signed_by": spec.role} for spec in tiny_chain.SPECS]
    assert (found["channel"], found["recipe"], found["verified"]) == ("production", "standard", True)
    assert found["version"] == made.active.version


# Frame 96 × 128: twice the frame; a portrait, padded left and right; a wide one, padded above and below; the frame.
@pytest.mark.parametrize(
    ("height", "width", "scale", "left", "top"),
    [(192, 256, 0.5, 0, 0), (240, 160, 0.4, 32, 0), (144, 320, 0.4, 0, 19), (96, 128, 1, 0, 0)],
)
@pytest.mark.parametrize(("kind", "name"), [("JPEG", "street.jpg"), ("PNG", "street.PNG")])
def test_boxes_come_back_in_the_pixels_of_the_picture(made, client, height, width, scale, left, top, kind, name):
    data = encoded(picture(height, width), kind)
    answer = detect(client, data, name)
    assert answer.status_code == 200
    assert answer.json()["version"] == made.active.version
    shrunk = Image.open(io.BytesIO(data)).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BILINEAR
    )
    frame = np.full((*SIZE, 3), 114, np.uint8)
    frame[top : top + shrunk.height, left : left + shrunk.width] = np.asarray(shrunk)
    detector = OnnxDetector((made.files / "detector.onnx").read_bytes(), SIZE, 0.5)
    expected = detector.detect(frame.transpose(2, 0, 1)[None], THRESHOLD)[0]
    found = corners(answer)
    assert len(found) == len(expected.scores) > 0
    native = (expected.boxes - [left, top, left, top]) / scale
    edges = [width, height, width, height]
    np.testing.assert_allclose(np.clip(found[:, :4], 0, edges), np.clip(native, 0, edges), atol=1e-2)
    np.testing.assert_allclose(found[:, 4], expected.scores, atol=1e-5)
    assert (np.diff(found[:, 4]) <= 0).all()


def test_only_boxes_at_or_above_the_deployed_threshold_are_answered(made, client):
    data = encoded(picture(*SIZE), "PNG")
    served = serving.load_verified(made.directory, made.ring.owners(), SPECS, made.root / "looked")
    found = corners(detect(client, data, "street.png"))
    third = found[2, 4]
    higher = replace(served, card={**served.card, "threshold": third})
    assert len(found) > 3
    assert len(serving.detections(higher, np.asarray(picture(*SIZE)))) == 3


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "street.jpg"),
        (b"not a picture", "street.jpg"),
        (b"GIF89a" + bytes(40), "street.gif"),
        (encoded(picture(40, 40), "PNG"), "street.jpg"),
        (encoded(picture(40, 40)), "street"),
        (encoded(picture(40, 40))[:-20], "street.jpg"),
        (encoded(picture(40, 40)) + b"MZ", "street.jpg"),
        (encoded(picture(40, 40).convert("RGBA"), "PNG"), "street.png"),
    ],
)
def test_what_is_not_a_picture_is_refused_with_a_reason(client, data, name):
    answer = detect(client, data, name)
    assert answer.status_code == 422
    assert name in answer.json()["detail"]


def test_a_request_without_a_picture_is_refused(client):
    assert client.post("/detect").status_code == 422
    assert client.get("/detect").status_code == 405


def test_an_upload_beyond_the_limit_is_refused_and_one_at_the_limit_is_looked_at(client):
    too_large = detect(client, bytes(serving.MAX_UPLOAD_BYTES + 1))
    assert too_large.status_code == 413
    assert str(serving.MAX_UPLOAD_BYTES) in too_large.json()["detail"]
    assert detect(client, bytes(serving.MAX_UPLOAD_BYTES)).status_code == 422


def refusal(answer):
    assert answer.status_code == 503
    assert answer.json()["detail"]["status"] == "refused"
    return answer.json()["detail"]["code"]


def codes(client):
    """The reason codes of every way to ask; they are the same."""
    answers = (client.get("/healthz"), client.get("/provenance"), detect(client, encoded(picture(*SIZE))))
    (code,) = {refusal(answer) for answer in answers}
    return code


@pytest.mark.parametrize("position", [0, 5000, -1])
@pytest.mark.parametrize("name", ["detector.onnx", "detector.json"])
def test_a_flipped_bit_in_a_deployed_file_keeps_the_service_from_starting(deployed, name, position):
    path = deployed.files / name
    signed = sha256_file(path)
    flip(path, position if position < path.stat().st_size else 10)
    with pytest.raises(AttestationError) as raised:
        deployed.app()
    assert raised.value.code == "channel-target"
    for part in (str(path), signed, sha256_file(path)):
        assert part in str(raised.value)


def test_a_missing_or_an_extra_file_keeps_the_service_from_starting(deployed):
    model = deployed.files / "detector.onnx"
    extra = deployed.files / "extra.onnx"
    extra.write_bytes(b"x")
    with pytest.raises(AttestationError, match=r"extra\.onnx"):
        deployed.app()
    extra.unlink()
    deployed.app()
    model.unlink()
    with pytest.raises(AttestationError, match=r"detector\.onnx"):
        deployed.app()


def test_a_file_that_is_swapped_after_verification_keeps_the_service_from_starting(deployed, monkeypatch):
    path = deployed.files / "detector.onnx"
    signed = sha256_file(path)

    def verify_and_swap(*arguments, **keywords):
        report = verify_chain(*arguments, **keywords)
        flip(path, 100)
        return report

    monkeypatch.setattr(serving, "verify_chain", verify_and_swap)
    with pytest.raises(AttestationError, match=r"detector\.onnx") as raised:
        deployed.app()
    assert signed in str(raised.value)
    assert sha256_file(path) in str(raised.value)


def test_evidence_that_is_swapped_after_the_channel_was_verified_keeps_the_service_from_starting(deployed, monkeypatch):
    pointer = deployed.evidence / "current/gate.json"

    def open_and_swap(*arguments, **keywords):
        found = open_channel(*arguments, **keywords)
        pointer.write_bytes(b"{}")
        return found

    monkeypatch.setattr(serving, "open_channel", open_and_swap)
    with pytest.raises(AttestationError, match=r"gate\.json"):
        deployed.app()


def test_what_the_releaser_publishes_without_a_chain_behind_it_is_not_served(deployed):
    """A channel that is signed by its roles and holds another model than its evidence speaks of."""
    files = deployed.chain.artifacts / "deploy"
    (files / "detector.onnx").write_bytes(b"a model that no gate ever saw")
    accepted = deployed.verify(deployed.files, deployed.evidence, None)
    evidence = deployed.chain.store.directory
    channel.activate(
        deployed.channels, "production", files, evidence, deployed.ring, lambda *seen: accepted, deployed.root / "seen"
    )
    with pytest.raises(AttestationError, match=r"detector\.onnx") as raised:
        deployed.app()
    assert raised.value.code == "changed-file"


def test_a_service_that_runs_keeps_the_bytes_it_verified(deployed):
    client, data = deployed.client(), encoded(picture(96, 128))
    before = detect(client, data).json()
    (deployed.files / "detector.onnx").chmod(0o644)
    (deployed.files / "detector.onnx").write_bytes(b"evil")
    assert detect(client, data).json() == before
    assert before["boxes"]


def test_strangers_keys_are_no_root_of_trust(deployed, tmp_path):
    with pytest.raises(AttestationError) as raised:
        deployed.app(KeyRing.create(tmp_path / "strangers"))
    assert raised.value.code == "channel-signature"


def test_nothing_deployed_is_one_clear_error(tmp_path, ring):
    with pytest.raises(AttestationError, match="nothing is deployed here"):
        serving.create_app(tmp_path / "channels/production", ring.owners(), SPECS, tmp_path / "memory")


def test_a_service_does_not_start_on_a_channel_that_went_back(deployed):
    old = deployed.root / "old"
    shutil.copytree(deployed.directory, old)
    deployed.refresh()
    deployed.app()
    shutil.rmtree(deployed.directory)
    shutil.copytree(old, deployed.directory)
    with pytest.raises(AttestationError) as raised:
        deployed.app()
    assert raised.value.code == "channel-rewound"


@pytest.mark.parametrize("asked", [{"at_least_version": 2}, {"max_age": dt.timedelta(hours=1)}])
def test_a_service_starts_on_nothing_older_than_was_asked_for(deployed, asked):
    deployed.clock.ahead = dt.timedelta(hours=2)
    with pytest.raises(AttestationError) as raised:
        deployed.app(**asked)
    assert raised.value.code == "channel-too-old"
    deployed.clock.ahead = dt.timedelta(0)
    deployed.refresh()
    deployed.app(**asked)


def test_a_running_service_takes_over_what_is_activated_and_what_comes_back(deployed):
    client, data = deployed.client(), encoded(picture(*SIZE))
    first = detect(client, data).json()
    deployed.deploy(1, threshold=0.01)
    second = detect(client, data).json()
    assert second["version"] == deployed.active.version != first["version"]
    assert second["boxes"] != first["boxes"]
    assert client.get("/provenance").json()["previous"] == first["version"]
    channel.rollback(deployed.channels, "production", deployed.ring, deployed.verify, deployed.root / "seen")
    assert detect(client, data).json() == first


def test_a_refresh_changes_nothing_but_what_provenance_says(deployed):
    client, data = deployed.client(), encoded(picture(*SIZE))
    before, boxes = client.get("/provenance").json(), detect(client, data).json()
    deployed.refresh()
    after = client.get("/provenance").json()
    assert detect(client, data).json() == boxes
    assert (before["metadata"]["timestamp"], after["metadata"]["timestamp"]) == (1, 2)
    assert after["signed_on"] >= before["signed_on"]
    changed = ("metadata", "signed_on", "expires")
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


def test_a_running_service_stops_when_what_it_serves_is_revoked_and_goes_on_with_another(deployed, monkeypatch):
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0)
    client = deployed.client()
    assert client.get("/healthz").status_code == 200
    deployed.revoke("detector", sha256_file(deployed.files / "detector.onnx"))
    assert codes(client) == "revoked"
    deployed.deploy(1)
    assert client.get("/healthz").json() == {"status": "ok", "version": deployed.active.version}


def test_a_running_service_stops_on_a_channel_that_was_tampered_with_and_recovers(deployed, monkeypatch):
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0)
    client, data = deployed.client(), encoded(picture(*SIZE))
    before = detect(client, data).json()
    timestamp = deployed.directory / "timestamp.json"
    kept = timestamp.read_bytes()
    timestamp.write_bytes(kept.replace(b'"version":1}}', b'"version":9}}'))
    assert codes(client) == "channel-signature"
    timestamp.unlink()
    assert codes(client) == "channel-missing"
    timestamp.write_bytes(kept)
    assert detect(client, data).json() == before


def test_a_running_service_stops_when_the_channel_is_put_back(deployed):
    old = deployed.root / "old"
    shutil.copytree(deployed.directory, old)
    deployed.refresh()
    client = deployed.client()
    assert client.get("/healthz").status_code == 200
    shutil.copy(old / "timestamp.json", deployed.directory)
    assert codes(client) == "channel-rewound"


def test_a_running_service_stops_when_the_channel_falls_silent(deployed, monkeypatch):
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0)
    client = deployed.client()
    deployed.clock.ahead = dt.timedelta(days=6, hours=23)
    assert client.get("/healthz").status_code == 200
    deployed.clock.ahead = dt.timedelta(days=7)
    assert codes(client) == "channel-expired"
    deployed.clock.ahead = dt.timedelta(0)
    deployed.refresh()
    assert client.get("/healthz").status_code == 200


def test_a_changed_file_is_noticed_within_a_minute_though_the_timestamp_is_the_same(deployed, monkeypatch):
    client = deployed.client()
    flip(deployed.files / "detector.onnx", 100)
    assert client.get("/healthz").status_code == 200
    monkeypatch.setattr(serving, "RECHECK_SECONDS", 0)
    assert codes(client) == "channel-target"


def test_a_service_that_refuses_does_not_verify_with_every_request(deployed, monkeypatch):
    client = deployed.client()
    (deployed.directory / "timestamp.json").write_bytes(b"{}")
    opened = []
    monkeypatch.setattr(serving, "open_channel", lambda *a, **k: opened.append(a) or open_channel(*a, **k))
    for _ in range(3):
        assert codes(client) == "channel-malformed"
    assert len(opened) == 1


def test_a_verification_that_breaks_off_leaves_nothing_to_serve(deployed, monkeypatch):
    client = TestClient(deployed.app(), raise_server_exceptions=False)

    def broken(*arguments, **keywords):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(serving, "open_channel", broken)
    deployed.refresh()
    assert client.get("/healthz").status_code == 500
    assert codes(client) == "unusable"
    monkeypatch.undo()
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0)
    assert client.get("/healthz").status_code == 200


def test_paths_go_to_the_log_and_not_to_whoever_asks(deployed, caplog):
    client = deployed.client()
    (deployed.directory / "timestamp.json").write_bytes(b"{}")
    with caplog.at_level(logging.WARNING, logger=serving.__name__):
        answer = client.get("/healthz")
    assert str(deployed.root) not in answer.text
    assert str(deployed.directory / "timestamp.json") in caplog.text


def test_many_requests_at_once_see_one_whole_deployment_or_the_other(deployed):
    client, data = deployed.client(), encoded(picture(*SIZE))
    first = detect(client, data).json()
    answers = []

    def ask():
        for _ in range(12):
            answers.append(detect(client, data).json())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    deployed.deploy(1, threshold=0.01)
    for thread in threads:
        thread.join()
    second = detect(client, data).json()
    assert second != first
    assert all(answer in (first, second) for answer in answers)
