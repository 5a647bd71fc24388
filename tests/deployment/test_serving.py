import io
import shutil

import numpy as np
import pytest
import tiny_chain
from fastapi.testclient import TestClient
from PIL import Image
from scattered_detector import scattered

from secpipeline.deployment import channel, serving
from secpipeline.detection.export import to_onnx
from secpipeline.detection.onnx_detector import OnnxDetector
from secpipeline.digests import canonical_json, sha256_file
from secpipeline.errors import AttestationError, InputError, IntegrityError
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.keys import KeyRing
from secpipeline.provenance.layout import StepSpec
from secpipeline.provenance.verification import verify_chain

SIZE = (96, 128)
THRESHOLD = 0.05
CARD = {"name": "csp_tiny", "recipe": "standard", "input_size": list(SIZE), "threshold": THRESHOLD, "nms_iou": 0.5}
MONITOR = StepSpec("monitor", "monitor", ("deploy",), (), tiny_chain.PROVENANCE)
SPECS = (*tiny_chain.SPECS, MONITOR)


class Deployed:
    """A channel that serves a signed deployment."""

    def __init__(self, root, ring):
        self.root, self.ring = root, ring
        self.channels = root / "channels"
        self.directory = self.channels / "production"

    @property
    def files(self):
        return channel.location(self.directory, channel.current(self.directory))[0]

    @property
    def evidence(self):
        return channel.location(self.directory, channel.current(self.directory))[1]

    def app(self, ring=None):
        return serving.create_app(self.directory, (ring or self.ring).owners(), SPECS)

    def client(self):
        return TestClient(self.app())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("deployed")
    chain = tiny_chain.build(root / "chain", KeyRing.create(root / "keys"))
    shutil.rmtree(chain.artifacts / "deploy")
    to_onnx(scattered(), chain.artifacts / "deploy/detector.onnx", SIZE)
    (chain.artifacts / "deploy/detector.json").write_bytes(canonical_json(CARD))
    chain.sign("deploy")
    chain.sign_layout(SPECS)
    deployed = Deployed(root / "home", chain.ring)
    names = [spec.name for spec in tiny_chain.SPECS]

    def verify(files, evidence):
        return verify_chain(evidence, None, chain.ring.owners(), SPECS, only=names, files={"deploy": files})

    channel.activate(deployed.channels, "production", chain.artifacts / "deploy", chain.store.directory, verify)
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
    assert answer.json() == {"status": "ok", "version": channel.current(made.directory).version}


def test_provenance_names_the_recipe_every_file_and_who_signed_each_stage(made, client):
    found = client.get("/provenance").json()
    assert found["files"] == {name: sha256_file(made.files / name) for name in ("detector.json", "detector.onnx")}
    assert found["stages"] == [{"name": spec.name, "signed_by": spec.role} for spec in tiny_chain.SPECS]
    assert (found["channel"], found["recipe"], found["verified"]) == ("production", "standard", True)
    assert found["version"] == channel.current(made.directory).version


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
    assert answer.json()["version"] == channel.current(made.directory).version
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
    served = serving.load_verified(made.directory, made.ring.owners(), SPECS)
    found = corners(detect(client, data, "street.png"))
    third = found[2, 4]
    higher = serving.Served(served.detector, served.size, {**served.card, "threshold": third}, served.provenance)
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


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0, 5000, -1])
@pytest.mark.parametrize("name", ["detector.onnx", "detector.json"])
def test_a_flipped_bit_in_a_deployed_file_keeps_the_service_from_starting(deployed, name, position):
    path = deployed.files / name
    signed = sha256_file(path)
    flip(path, position if position < path.stat().st_size else 10)
    with pytest.raises(AttestationError) as raised:
        deployed.app()
    assert raised.value.code == "changed-file"
    for part in (f"deploy/{name}", signed, sha256_file(path)):
        assert part in str(raised.value)


def test_a_missing_or_an_extra_file_keeps_the_service_from_starting(deployed):
    extra = deployed.files / "extra.onnx"
    extra.write_bytes(b"x")
    with pytest.raises(AttestationError, match=r"deploy/extra\.onnx"):
        deployed.app()
    extra.unlink()
    (deployed.files / "detector.onnx").unlink()
    with pytest.raises(AttestationError, match=r"deploy/detector\.onnx"):
        deployed.app()


def test_a_file_that_is_swapped_after_verification_keeps_the_service_from_starting(deployed, monkeypatch):
    path = deployed.files / "detector.onnx"
    signed = sha256_file(path)

    def verify_and_swap(*arguments, **keywords):
        report = verify_chain(*arguments, **keywords)
        flip(path, 100)
        return report

    monkeypatch.setattr(serving, "verify_chain", verify_and_swap)
    with pytest.raises(IntegrityError, match=r"detector\.onnx") as raised:
        deployed.app()
    assert (raised.value.expected, raised.value.found) == (signed, sha256_file(path))


def test_a_service_that_runs_keeps_the_bytes_it_verified(deployed):
    client, data = deployed.client(), encoded(picture(96, 128))
    before = detect(client, data).json()
    (deployed.files / "detector.onnx").chmod(0o644)
    (deployed.files / "detector.onnx").write_bytes(b"evil")
    assert detect(client, data).json() == before
    assert before["boxes"]


def test_changed_or_missing_evidence_keeps_the_service_from_starting(deployed):
    current = EvidenceStore(deployed.evidence).current("gate")
    pointer = deployed.evidence / "current/gate.json"
    kept = pointer.read_bytes()
    pointer.unlink()
    with pytest.raises(AttestationError, match="gate"):
        deployed.app()
    pointer.write_bytes(kept)
    (path,) = (
        path
        for path in (deployed.evidence / "history").rglob("*")
        if path.is_file() and path.read_bytes() == current.link
    )
    flip(path, 20)
    with pytest.raises(AttestationError, match="gate"):
        deployed.app()


def test_strangers_keys_are_no_root_of_trust(deployed, tmp_path):
    with pytest.raises(AttestationError) as raised:
        deployed.app(KeyRing.create(tmp_path / "strangers"))
    assert raised.value.code == "layout-signature"


def test_nothing_deployed_is_one_clear_error(tmp_path, made):
    with pytest.raises(InputError, match="nothing is deployed here"):
        serving.create_app(tmp_path / "channels/production", made.ring.owners(), SPECS)
