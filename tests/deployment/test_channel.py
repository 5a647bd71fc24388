import json

import pytest

from secpipeline.deployment import channel
from secpipeline.digests import sha256_bytes, tree_digest, tree_files
from secpipeline.errors import GateRefused, InputError
from secpipeline.provenance.evidence import EvidenceStore, SignedEvidence
from secpipeline.provenance.verification import Refusal, Report

ACCEPTED = Report((), ("deploy",), 2)
REFUSED = Report((Refusal("changed-file", "deploy", "deploy/detector.onnx", "not what was signed"),), ("deploy",), 2)


class Verify:
    """Accepts or refuses, and keeps what it was shown."""

    def __init__(self, report=ACCEPTED):
        self.report = report
        self.seen = []

    def __call__(self, files, evidence):
        self.seen.append((files, tree_files(files), EvidenceStore(evidence).current("deploy")))
        return self.report


class Place:
    def __init__(self, root):
        self.root = root
        self.channels = root / "channels"
        self.directory = self.channels / "production"
        self.pointer = self.directory / "current.json"

    def make(self, name, content="graph"):
        """Files and evidence of a deployment; the name is what tells deployments apart."""
        files, evidence = self.root / name / "files", self.root / name / "evidence"
        files.mkdir(parents=True)
        (files / "detector.onnx").write_text(f"{content} {name}")
        (files / "detector.json").write_text("{}")
        store = EvidenceStore(evidence)
        store.record("deploy", SignedEvidence(json.dumps({"payload": name}).encode(), b"{}"))
        store.layout.write_text("layout")
        return files, evidence

    def activate(self, deployment, verify=None):
        return channel.activate(self.channels, "production", *deployment, verify or Verify())

    def rollback(self, verify=None):
        return channel.rollback(self.channels, "production", verify or Verify())

    def state(self):
        """Every byte of the channel."""
        return tree_files(self.directory) if self.directory.exists() else {}

    def served(self):
        files, _ = channel.location(self.directory, channel.current(self.directory))
        return (files / "detector.onnx").read_text()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_an_activated_deployment_is_a_copy_of_the_files_and_the_evidence(place):
    files, evidence = place.make("one")
    active = place.activate((files, evidence))
    assert channel.current(place.directory) == active
    assert active.version == tree_digest(tree_files(files))[:16]
    assert active.files == tree_files(files)
    assert active.previous == ""
    copied, spoken = channel.location(place.directory, active)
    assert tree_files(copied) == tree_files(files)
    assert EvidenceStore(spoken).current("deploy") == EvidenceStore(evidence).current("deploy")
    (files / "detector.onnx").write_text("changed later")
    assert place.served() == "graph one"


def test_it_is_the_copy_that_is_verified_not_the_original(place):
    files, evidence = place.make("one")
    verify = Verify()
    place.activate((files, evidence), verify)
    ((where, seen, spoken),) = verify.seen
    assert place.channels in where.parents
    assert seen == tree_files(files)
    assert spoken == EvidenceStore(evidence).current("deploy")


def test_a_refused_first_deployment_leaves_a_channel_that_serves_nothing(place):
    with pytest.raises(GateRefused, match=r"channel production: .changed-file. deploy/detector\.onnx"):
        place.activate(place.make("one"), Verify(REFUSED))
    assert place.state() == {}
    with pytest.raises(InputError, match="nothing is deployed here"):
        channel.current(place.directory)


def test_a_refused_deployment_leaves_the_channel_as_it_was(place):
    place.activate(place.make("one"))
    before = place.state()
    with pytest.raises(GateRefused):
        place.activate(place.make("two"), Verify(REFUSED))
    assert place.state() == before
    assert place.served() == "graph one"


def test_verification_that_looked_at_nothing_is_no_verification(place):
    with pytest.raises(GateRefused):
        place.activate(place.make("one"), Verify(Report((), (), 0)))
    assert place.state() == {}


def test_a_verification_that_breaks_off_leaves_the_channel_as_it_was(place):
    place.activate(place.make("one"))
    before = place.state()

    def broken(files, evidence):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        place.activate(place.make("two"), broken)
    assert place.state() == before


def test_activating_the_active_version_again_changes_nothing(place):
    deployment = place.make("one")
    place.activate(place.make("zero"))
    first = place.activate(deployment)
    before, written = place.state(), place.pointer.stat().st_mtime_ns
    verify = Verify()
    assert place.activate(deployment, verify) == first
    assert len(verify.seen) == 1
    assert place.state() == before
    assert place.pointer.stat().st_mtime_ns == written


def intact(files, evidence):
    """Verifies as the real thing does: the bytes of the model must be those that were signed."""
    return ACCEPTED if (files / "detector.onnx").read_text().startswith("graph") else REFUSED


def test_a_damaged_copy_of_the_active_version_is_replaced_and_the_way_back_is_kept(place):
    place.activate(place.make("zero"))
    deployment = place.make("one")
    active = place.activate(deployment)
    copied, _ = channel.location(place.directory, active)
    (copied / "detector.onnx").write_text("tampered")
    again = place.activate(deployment, intact)
    assert place.served() == "graph one"
    assert (again.version, again.previous) == (active.version, active.previous)
    place.rollback()
    assert place.served() == "graph zero"


def test_the_newer_of_two_versions_is_served_and_the_older_one_comes_back_on_rollback(place):
    first, second = place.activate(place.make("one")), place.activate(place.make("two"))
    assert first.version != second.version
    assert second.previous == first.version
    assert place.served() == "graph two"
    verify = Verify()
    back = place.rollback(verify)
    assert place.served() == "graph one"
    assert (back.version, back.files, back.previous) == (first.version, first.files, second.version)
    assert channel.current(place.directory) == back
    assert verify.seen[0][1] == first.files
    place.rollback()
    assert place.served() == "graph two"


def test_a_version_that_no_longer_verifies_does_not_come_back(place):
    first = place.activate(place.make("one"))
    place.activate(place.make("two"))
    (channel.location(place.directory, first)[0] / "detector.onnx").write_text("tampered")
    before = place.state()
    with pytest.raises(GateRefused, match=r"detector\.onnx"):
        place.rollback(intact)
    assert place.state() == before
    assert place.served() == "graph two"


def test_an_old_version_can_be_activated_anew(place):
    deployment = place.make("one")
    first = place.activate(deployment)
    second = place.activate(place.make("two"))
    third = place.activate(deployment)
    assert (third.version, third.previous) == (first.version, second.version)
    assert place.served() == "graph one"


def test_there_is_no_way_back_from_the_first_version_or_from_nothing(place):
    with pytest.raises(InputError, match="nothing is deployed here"):
        place.rollback()
    active = place.activate(place.make("one"))
    with pytest.raises(InputError, match=f"no version before {active.version}"):
        place.rollback()


def damaged(**changes):
    whole = {"version": "0" * 16, "files": {}, "activated_at": 1, "previous": ""}
    return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"not json",
        b'{"version":"0000',
        b"[]",
        b"{}",
        b'{"version":"0000000000000000","files":{},"activated_at":1}',
        b'{"version":"0000000000000000","version":"1111111111111111","files":{},"activated_at":1,"previous":""}',
        damaged(version=5),
        damaged(version=None),
        damaged(version=""),
        damaged(version="../../elsewhere"),
        damaged(previous="../../elsewhere"),
        damaged(previous=5),
        damaged(files=[]),
    ],
)
def test_a_damaged_pointer_is_one_clear_error_and_mended_by_activating_again(place, content):
    deployment = place.make("one")
    active = place.activate(deployment)
    place.pointer.write_bytes(content)
    for question in (lambda: channel.current(place.directory), place.rollback):
        with pytest.raises(InputError, match=r"current\.json: .*activate a deployment again"):
            question()
    assert place.activate(deployment).version == active.version
    assert place.served() == "graph one"


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "/tmp", "a\\b", "a\nb"])
def test_a_channel_cannot_lie_outside_the_channels(place, name):
    deployment = place.make("one")
    with pytest.raises(InputError, match="not a safe"):
        channel.activate(place.channels, name, *deployment, Verify())
    with pytest.raises(InputError, match="not a safe"):
        channel.rollback(place.channels, name, Verify())
    assert not place.channels.exists()


def test_links_are_not_deployed(place):
    files, evidence = place.make("one")
    (files / "link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="link"):
        place.activate((files, evidence))
    assert place.state() == {}


def test_channels_do_not_share_their_state(place):
    place.activate(place.make("one"))
    channel.activate(place.channels, "staging", *place.make("two"), Verify())
    assert place.served() == "graph one"
    assert channel.current(place.channels / "staging").previous == ""


def test_what_a_killed_activation_left_behind_is_replaced(place):
    files, evidence = place.make("one")
    half = place.directory / "versions" / tree_digest(tree_files(files))[:16]
    (half / "files").mkdir(parents=True)
    (half / "files/detector.onnx").write_text("half")
    place.activate((files, evidence), intact)
    assert place.served() == "graph one"
    assert sorted(path.name for path in half.iterdir()) == ["evidence", "files"]
    assert sha256_bytes(b"graph one") == channel.current(place.directory).files["detector.onnx"]
