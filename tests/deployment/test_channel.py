import errno
import os
import shutil

import pytest
from attackable_channel import ACCEPTED, DAY, REFUSED, REVOCATION, Verify, flip, resign, sign_by_hand

from secpipeline.deployment import channel
from secpipeline.digests import canonical_json, sha256_bytes, tree_files
from secpipeline.errors import AttestationError, GateRefused, InputError
from secpipeline.provenance.evidence import EvidenceStore
from secpipeline.provenance.report import Report

OTHER_REVOCATION = canonical_json({"payload": "c291cmNlIHk=", "payloadType": "x", "signatures": []})


def intact(files, evidence, revocations):
    """Verifies as the real thing does: the bytes of the model must be those that were signed."""
    return ACCEPTED if (files / "detector.onnx").read_text().startswith("graph") else REFUSED


def test_an_activated_deployment_is_a_copy_of_the_files_and_the_evidence(place):
    files, evidence = place.make("one")
    active = place.activate((files, evidence))
    assert place.open() == active
    assert tree_files(active.files) == tree_files(files) == active.digests()
    assert EvidenceStore(active.evidence).current("deploy") == EvidenceStore(evidence).current("deploy")
    assert (active.previous, active.policy, active.revocations) == ("", None, None)
    (files / "detector.onnx").write_text("changed later")
    assert place.served() == "graph one"
    assert active.read("detector.onnx") == b"graph one"


def test_it_is_the_copy_that_is_verified_not_the_original(place):
    files, evidence = place.make("one")
    verify = Verify()
    place.activate((files, evidence), verify)
    ((where, seen, spoken, revocations),) = verify.seen
    assert place.channels in where.parents
    assert seen == tree_files(files)
    assert spoken == EvidenceStore(evidence).current("deploy")
    assert revocations is None


def test_the_policy_is_published_beside_the_files(place):
    policy = place.root / "default.yaml"
    policy.write_text("thresholds: {}\n")
    active = place.activate(place.make("one"), policy=policy)
    assert (active.policy / "default.yaml").read_text() == "thresholds: {}\n"
    assert active.digests("policy") == {"default.yaml": sha256_bytes(b"thresholds: {}\n")}
    (active.policy / "default.yaml").write_text("thresholds: none\n")
    assert place.code() == "channel-target"


def test_a_refused_first_deployment_leaves_a_channel_that_serves_nothing(place):
    with pytest.raises(GateRefused, match=r"channel production: .changed-file. deploy/detector\.onnx"):
        place.activate(place.make("one"), Verify(REFUSED))
    assert place.state() == {}
    with pytest.raises(AttestationError, match="nothing is deployed here") as raised:
        place.open()
    assert raised.value.code == "channel-missing"


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

    def broken(files, evidence, revocations):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        place.activate(place.make("two"), broken)
    assert place.state() == before


def test_activating_the_active_version_again_changes_nothing(place):
    deployment = place.make("one")
    place.activate(place.make("zero"))
    first = place.activate(deployment)
    before = place.state()
    verify = Verify()
    assert place.activate(deployment, verify) == first
    assert len(verify.seen) == 1
    assert place.state() == before


def test_activating_the_active_version_again_signs_anew_what_expires_soon(place):
    deployment = place.make("one")
    first = place.activate(deployment)
    place.now += 5 * DAY
    again = place.activate(deployment)
    assert (again.record, again.targets) == (first.record, first.targets)
    assert (again.signed_on, again.metadata["timestamp"]) == (place.now, 2)


def test_the_same_files_with_new_evidence_replace_evidence_that_no_longer_verifies(place):
    place.activate(place.make("zero"))
    files, evidence = place.make("one")
    first = place.activate((files, evidence))
    store = EvidenceStore(evidence)
    store.record("deploy", store.current("deploy"), place.ring.signer("log"))
    reports = iter([REFUSED, ACCEPTED])
    again = place.activate((files, evidence), lambda *seen: next(reports))
    assert again.version != first.version
    assert again.digests() == first.digests()
    assert again.previous == first.previous
    assert (again.evidence / "log.jsonl").read_bytes() == (evidence / "log.jsonl").read_bytes()


def test_a_damaged_copy_of_the_active_version_is_replaced_and_the_way_back_is_kept(place):
    place.activate(place.make("zero"))
    deployment = place.make("one")
    active = place.activate(deployment)
    (active.files / "detector.onnx").write_text("tampered")
    assert place.code() == "channel-target"
    again = place.activate(deployment, intact)
    assert place.served() == "graph one"
    assert (again.version, again.previous) == (active.version, active.previous)
    place.rollback()
    assert place.served() == "graph zero"


def test_a_file_that_was_added_to_the_active_version_goes_when_it_is_activated_again(place):
    deployment = place.make("one")
    (place.activate(deployment).files / "extra.onnx").write_text("x")
    assert place.code() == "channel-target"
    place.activate(deployment)
    assert place.code() == ""


def test_the_newer_of_two_versions_is_served_and_the_older_one_comes_back_on_rollback(place):
    first, second = place.activate(place.make("one")), place.activate(place.make("two"))
    assert first.version != second.version
    assert second.previous == first.version
    assert place.served() == "graph two"
    verify = Verify()
    back = place.rollback(verify)
    assert place.served() == "graph one"
    assert (back.version, back.digests(), back.previous) == (first.version, first.digests(), second.version)
    assert back.metadata["timestamp"] > second.metadata["timestamp"] > first.metadata["timestamp"]
    assert verify.seen[0][:2] == (first.files, first.digests())
    place.rollback()
    assert place.served() == "graph two"


def test_only_the_active_deployment_and_the_one_before_are_published(place):
    first, second, third = (place.activate(place.make(name)) for name in ("one", "two", "three"))
    assert {path.split("/")[1] for path in third.targets} == {second.version, third.version}
    assert first.files.is_dir()


def test_a_version_that_no_longer_verifies_does_not_come_back(place):
    place.activate(place.make("one"))
    place.activate(place.make("two"))
    before = place.state()
    with pytest.raises(GateRefused, match=r"detector\.onnx"):
        place.rollback(Verify(REFUSED))
    assert place.state() == before


@pytest.mark.parametrize("part", ["files/detector.onnx", "evidence/root.layout"])
def test_a_version_whose_bytes_changed_does_not_come_back_whatever_verification_says(place, part):
    first = place.activate(place.make("one"))
    place.activate(place.make("two"))
    changed = first.files.parent / part
    changed.write_text("tampered")
    before = place.state()
    with pytest.raises(AttestationError) as raised:
        place.rollback()
    assert raised.value.code == "channel-target"
    for expected in (str(changed), first.targets[f"versions/{first.version}/{part}"], sha256_bytes(b"tampered")):
        assert expected in str(raised.value)
    assert place.state() == before


def test_a_way_back_that_was_damaged_is_not_published_again(place):
    place.activate(place.make("one"))
    second = place.activate(place.make("two"))
    (second.files / "detector.onnx").write_text("tampered")
    third = place.activate(place.make("three"))
    assert third.previous == ""
    assert place.served() == "graph three"
    with pytest.raises(InputError, match="no version before"):
        place.rollback()


def test_an_old_version_can_be_activated_anew(place):
    deployment = place.make("one")
    first = place.activate(deployment)
    second = place.activate(place.make("two"))
    third = place.activate(deployment)
    assert (third.version, third.previous) == (first.version, second.version)
    assert third.metadata["targets"] == 3
    assert place.served() == "graph one"


def test_there_is_no_way_back_from_the_first_version_or_from_nothing(place):
    with pytest.raises(AttestationError, match="nothing is deployed here"):
        place.rollback()
    active = place.activate(place.make("one"))
    with pytest.raises(InputError, match=f"no version before {active.version}"):
        place.rollback()


def test_refreshing_changes_the_signatures_and_not_the_deployment(place):
    active = place.activate(place.make("one"))
    targets = (place.directory / "1.targets.json").read_bytes()
    place.now += DAY
    again = place.refresh()
    assert (again.record, again.targets) == (active.record, active.targets)
    assert again.metadata == {"root": 1, "targets": 1, "snapshot": 2, "timestamp": 2}
    assert (again.signed_on, again.expires) == (place.now, place.now + 7 * DAY)
    assert (place.directory / "1.targets.json").read_bytes() == targets


def test_a_channel_that_expired_comes_back_to_life_with_a_refresh(place):
    place.activate(place.make("one"))
    place.now += 8 * DAY
    assert place.code("known") == "channel-expired"
    place.refresh()
    assert place.code("known") == ""


def test_a_refresh_renews_whatever_expires_soon(place):
    place.activate(place.make("one"))
    versions = []
    for days in (61, 200):  # targets live 90 days, a root a year
        place.now += days * DAY
        versions.append(place.refresh().metadata)
    assert [found["targets"] for found in versions] == [2, 3]
    assert [found["root"] for found in versions] == [1, 2]
    assert place.code() == ""


def test_revocations_are_published_with_the_same_deployment(place):
    active = place.activate(place.make("one"))
    told = place.revoke(REVOCATION)
    assert (told.version, told.digests()) == (active.version, active.digests())
    (path,) = told.revocations.iterdir()
    assert path.name == f"{sha256_bytes(REVOCATION)}.dsse.json"
    assert path.read_bytes() == REVOCATION
    assert place.open("known").metadata["timestamp"] == active.metadata["timestamp"] + 1


def test_publishing_the_same_revocations_again_changes_nothing(place):
    place.activate(place.make("one"))
    place.revoke(REVOCATION)
    before = place.state()
    place.revoke(REVOCATION)
    assert place.state() == before


def test_a_set_of_revocations_replaces_the_one_before(place):
    place.activate(place.make("one"))
    place.revoke(REVOCATION)
    both = place.revoke(REVOCATION, OTHER_REVOCATION)
    assert {path.read_bytes() for path in both.revocations.iterdir()} == {REVOCATION, OTHER_REVOCATION}
    assert place.revoke().revocations is None


def test_revocations_stay_when_something_else_is_activated_or_comes_back(place):
    place.activate(place.make("one"))
    place.revoke(REVOCATION)
    verify = Verify()
    second = place.activate(place.make("two"), verify)
    back = place.rollback(verify)
    for found in (second.revocations, back.revocations, *(seen[3] for seen in verify.seen)):
        assert found is not None
    assert [path.read_bytes() for path in back.revocations.iterdir()] == [REVOCATION]


def test_activating_can_bring_revocations_along(place):
    deployment = place.make("one")
    place.activate(deployment)
    active = place.activate(deployment, revocations={"a": REVOCATION, "b": OTHER_REVOCATION})
    assert len(list(active.revocations.iterdir())) == 2
    assert place.activate(deployment, revocations={}).revocations is None


def test_a_deployment_is_judged_by_the_revocations_that_come_with_it(place):
    def refuses_what_is_revoked(files, evidence, revocations):
        return REFUSED if revocations is not None and list(revocations.glob("*.dsse.json")) else ACCEPTED

    deployment = place.make("one")
    place.activate(deployment, refuses_what_is_revoked)
    before = place.state()
    with pytest.raises(GateRefused):
        place.activate(deployment, refuses_what_is_revoked, revocations={"a": REVOCATION})
    assert place.state() == before


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_published_revocation_can_neither_be_changed_nor_removed(place, damage):
    place.activate(place.make("one"))
    (path,) = place.revoke(REVOCATION).revocations.iterdir()
    path.unlink()
    if damage == "changed":
        path.write_bytes(OTHER_REVOCATION)
    assert place.code() == "channel-target"


def test_a_revocation_that_nobody_published_is_refused(place):
    place.activate(place.make("one"))
    told = place.revoke(REVOCATION)
    (told.revocations / "more.dsse.json").write_bytes(OTHER_REVOCATION)
    assert place.code() == "channel-target"


def test_an_empty_channel_is_left_alone(place):
    assert place.revoke(REVOCATION) is None
    assert not place.directory.exists()


def test_what_is_no_revocation_is_not_published(place):
    place.activate(place.make("one"))
    before = place.state()
    with pytest.raises(InputError, match="revocation 0 cannot be published"):
        place.revoke(b"not json")
    assert place.state() == before


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "/tmp", "a\\b", "a\nb"])
def test_a_channel_cannot_lie_outside_the_channels(place, name):
    files, evidence = place.make("one")
    keys = (place.ring, Verify(), place.memory)
    with pytest.raises(InputError, match="not a safe"):
        channel.activate(place.channels, name, files, evidence, *keys)
    with pytest.raises(InputError, match="not a safe"):
        channel.rollback(place.channels, name, *keys)
    with pytest.raises(InputError, match="not a safe"):
        channel.refresh(place.channels, name, place.ring, place.memory)
    with pytest.raises(InputError, match="not a safe"):
        channel.publish_revocations(place.channels, name, place.ring, {}, place.memory)
    assert not place.channels.exists()


def test_links_are_not_deployed(place):
    files, evidence = place.make("one")
    (files / "link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="link"):
        place.activate((files, evidence))
    assert place.state() == {}


def test_channels_do_not_share_their_state(place):
    place.activate(place.make("one"))
    files, evidence = place.make("two")
    memory = place.root / "staging"
    staged = channel.activate(place.channels, "staging", files, evidence, place.ring, Verify(), memory, now=place.now)
    assert staged.previous == ""
    assert place.served() == "graph one"


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"signatures":[],"signed":{}}\n'])
def test_damaged_metadata_is_one_clear_error_and_mended_by_activating_again(place, name, content):
    deployment = place.make("one")
    place.activate(deployment)
    (place.directory / name).write_bytes(content)
    for question in (place.open, place.refresh, place.rollback, lambda: place.revoke(REVOCATION)):
        with pytest.raises(AttestationError) as raised:
            question()
        assert raised.value.code == "channel-malformed"
        assert name in str(raised.value)
    place.activate(deployment)
    assert place.served() == "graph one"
    assert place.open("known").metadata["timestamp"] == 2


def test_a_lost_channel_is_continued_and_not_begun_anew(place):
    deployment = place.make("one")
    place.activate(deployment)
    place.activate(place.make("two"))
    place.open("known")
    root = (place.directory / "1.root.json").read_bytes()
    shutil.rmtree(place.directory)
    assert place.code("known") == "channel-missing"
    again = place.activate(deployment)
    assert (place.directory / "1.root.json").read_bytes() == root
    assert again.metadata == {"root": 1, "targets": 3, "snapshot": 3, "timestamp": 3}
    assert place.code("known") == ""


def test_a_damaged_root_is_put_back_by_activating_again(place):
    deployment = place.make("one")
    place.activate(deployment)
    flip(place.directory / "1.root.json", 200)
    assert place.code() in {"channel-signature", "channel-malformed"}
    place.activate(deployment)
    assert place.code() == ""


def test_nobody_signs_a_rewound_channel_anew(place):
    place.activate(place.make("one"))
    old = place.keep("old")
    place.activate(place.make("two"))
    place.put_back(old)
    before = place.state()
    for question in (place.refresh, place.rollback, lambda: place.revoke(REVOCATION)):
        with pytest.raises(AttestationError) as raised:
            question()
        assert raised.value.code == "channel-rewound"
    assert place.state() == before
    again = place.activate(place.make("three"))
    assert (again.metadata["timestamp"], again.previous) == (3, "")


def no_way_back(targets):
    targets.unrecognized_fields["deployment"]["previous"] = ""


def require_nothing_is_built_on_it(place):
    for question in (place.refresh, place.rollback, lambda: place.revoke(REVOCATION)):
        with pytest.raises(AttestationError) as raised:
            question()
        assert raised.value.code == "channel-signature"


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_nobody_builds_on_metadata_that_its_role_did_not_sign(place, role):
    place.activate(place.make("one"))
    place.activate(place.make("two"))
    resign(place)
    assert place.code() == ""
    resign(place, **{role: "trainer"})
    require_nothing_is_built_on_it(place)
    assert place.activate(place.make("three")).previous == ""


def test_nobody_builds_on_metadata_that_the_snapshot_does_not_name(place):
    """The releaser signed it, and its version is right, but it never was what the channel said."""
    place.activate(place.make("one"))
    place.activate(place.make("two"))
    sign_by_hand(place.directory / "2.targets.json", no_way_back, place.ring.signer("releaser"))
    require_nothing_is_built_on_it(place)


def test_a_deployment_without_files_or_without_evidence_is_one_clear_error(place):
    files, evidence = place.make("one")
    (place.root / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to deploy"):
        place.activate((place.root / "empty", evidence))
    with pytest.raises(InputError, match="cannot be copied"):
        place.activate((files, place.root / "nowhere"))
    assert place.state() == {}


@pytest.mark.parametrize("function", ["replace", "rename", "fsync"])
def test_a_disk_that_fails_is_one_clear_error_and_changes_nothing(place, monkeypatch, function):
    place.activate(place.make("one"))
    before, two = place.state(), place.make("two")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(InputError, match="No space left"):
            place.activate(two)
    assert place.state() == before
    assert place.served() == "graph one"
