"""Attacks on a channel by somebody who may write all of it and has no key, unless the test says which."""

import datetime as dt
import json
import os
import re
import shutil

import pytest
from attackable_channel import DAY, NOW, REVOCATION, Place, flip, metadata_names, resign, sign_by_hand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secpipeline.deployment.client import open_channel
from secpipeline.digests import canonical_json, sha256_bytes, tree_files
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.keys import KeyRing


@pytest.fixture
def old_and_new(place):
    """A channel with two deployments, a copy of it from when it had one, and a reader who has seen both."""
    place.activate(place.make("one"))
    old = place.keep("old")
    place.activate(place.make("two"))
    new = place.keep("new")
    assert place.code("known") == ""
    return old, new


@pytest.fixture
def place_after(old_and_new, place):
    """The same place; whatever a test did to the channel, the untouched one must be accepted again at the end."""
    yield place
    place.put_back(old_and_new[1])
    assert place.code("known") == ""
    assert place.code() == ""


def test_the_whole_channel_put_back_to_an_older_state_is_refused_by_who_saw_the_newer(place_after, old_and_new):
    place_after.put_back(old_and_new[0])
    assert place_after.code("known") == "channel-rewound"


def test_an_older_timestamp_alone_is_refused_by_who_saw_the_newer(place_after, old_and_new):
    shutil.copy(old_and_new[0] / "timestamp.json", place_after.directory)
    assert place_after.code("known") == "channel-rewound"


def test_without_memory_an_older_state_is_only_refused_when_a_bound_is_given(place_after, old_and_new):
    place_after.put_back(old_and_new[0])
    assert place_after.code() == ""
    assert place_after.code(at_least_version=2) == "channel-too-old"
    place_after.put_back(old_and_new[1])
    assert place_after.code(at_least_version=2) == ""
    assert place_after.code(at_least_version=3) == "channel-too-old"


def test_a_channel_that_nobody_speaks_for_any_more_is_refused_in_the_end(place_after):
    week = place_after.now + 7 * DAY
    assert place_after.code(now=week - dt.timedelta(seconds=1)) == ""
    for reader in ("known", "fresh"):
        assert place_after.code(reader, now=week) == "channel-expired"


def test_who_asks_for_a_young_signature_gets_one_or_a_refusal(place_after):
    day = dt.timedelta(days=1)
    assert place_after.code(max_age=day, now=NOW + day) == ""
    assert place_after.code(max_age=day, now=NOW + day + dt.timedelta(seconds=1)) == "channel-too-old"


def test_the_clock_decides_where_no_time_is_given(place_after):
    # Signed years ahead of the clock that runs this test.
    assert place_after.code(now=None) == "clock"


def test_a_clock_behind_the_channel_is_named(place_after):
    assert place_after.code(now=NOW - dt.timedelta(minutes=4)) == ""
    assert place_after.code(now=NOW - dt.timedelta(minutes=6)) == "clock"


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_parts_of_an_older_state_do_not_mix_with_newer_ones(place_after, role):
    shutil.copy(place_after.directory / f"1.{role}.json", place_after.directory / f"2.{role}.json")
    for reader in ("known", "fresh"):
        assert place_after.code(reader) == "channel-signature"


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json", "1.root.json"])
def test_edited_metadata_is_refused(place_after, name):
    path = place_after.directory / name
    content = json.loads(path.read_bytes())
    content["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_bytes(canonical_json(content))
    for reader in ("known", "fresh"):
        assert place_after.code(reader) == "channel-signature"


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json", "1.root.json"])
def test_missing_metadata_is_named(place_after, name):
    (place_after.directory / name).unlink()
    for reader in ("known", "fresh"):
        with pytest.raises(AttestationError, match=name if name != "1.root.json" else "production") as raised:
            place_after.open(reader)
        assert raised.value.code == "channel-missing"


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: data.replace(b'"version":2}}', b'"version":1,"version":2}}'),
        lambda data: data.replace(b",", b", ", 1),
        lambda data: data.rstrip(),
        lambda data: re.sub(rb'(?<="sig":")[0-9a-f]+', lambda sig: sig[0].upper(), data),
    ],
    ids=["a key twice", "a space", "no final newline", "capital digits"],
)
def test_what_means_the_same_in_other_bytes_is_refused(place_after, rewrite):
    path = place_after.directory / "timestamp.json"
    whole = path.read_bytes()
    path.write_bytes(rewrite(whole))
    assert path.read_bytes() != whole
    assert place_after.code() == "channel-malformed"


def test_a_pipe_is_no_metadata_and_no_target(place_after):
    for path in (place_after.directory / "timestamp.json", place_after.open().files / "detector.onnx"):
        kept = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert place_after.code() in {"channel-missing", "channel-target"}
        path.unlink()
        path.write_bytes(kept)


@pytest.mark.parametrize("part", ["files/detector.onnx", "files/detector.json", "evidence/log.jsonl"])
def test_swapped_bytes_are_refused_with_the_file_and_both_digests(place_after, part):
    active = place_after.open()
    path = active.files.parent / part
    path.write_bytes(b"swapped")
    for reader in ("known", "fresh"):
        with pytest.raises(AttestationError) as raised:
            place_after.open(reader)
        assert raised.value.code == "channel-target"
        for expected in (str(path), active.targets[f"versions/{active.version}/{part}"], sha256_bytes(b"swapped")):
            assert expected in str(raised.value)


def test_the_model_of_the_deployment_before_does_not_pass_for_this_one(place_after):
    active = place_after.open()
    before = active.files.parents[1] / active.previous
    shutil.copy(before / "files/detector.onnx", active.files / "detector.onnx")
    assert place_after.code() == "channel-target"


@pytest.mark.parametrize("which", ["version", "previous"])
@pytest.mark.parametrize("part", ["files/detector.onnx", "evidence/current/deploy.json"])
def test_a_removed_target_is_refused(place_after, which, part):
    active = place_after.open()
    path = active.files.parents[1] / getattr(active, which) / part
    path.unlink()
    for reader in ("known", "fresh"):
        with pytest.raises(AttestationError, match="found no plain file") as raised:
            place_after.open(reader)
        assert raised.value.code == "channel-target"


@pytest.mark.parametrize("part", ["files/extra.onnx", "evidence/current/monitor.json"])
def test_a_file_that_was_never_published_is_refused(place_after, part):
    path = place_after.open().files.parent / part
    path.write_bytes(b"{}")
    with pytest.raises(AttestationError, match="never published") as raised:
        place_after.open()
    assert raised.value.code == "channel-target"


@pytest.mark.parametrize("which", ["version", "previous"])
def test_a_link_to_the_right_bytes_is_no_target(place_after, which):
    active = place_after.open()
    files = active.files.parents[1] / getattr(active, which) / "files"
    elsewhere = place_after.root / "elsewhere"
    shutil.copytree(files, elsewhere)
    shutil.rmtree(files)
    files.symlink_to(elsewhere)
    assert place_after.code() == "channel-target"


def test_a_file_that_is_swapped_after_it_was_verified_is_not_handed_out(place_after):
    active = place_after.open()
    (active.files / "detector.onnx").write_bytes(b"swapped")
    (active.evidence / "root.layout").write_bytes(b"swapped")
    with pytest.raises(AttestationError, match=r"detector\.onnx") as raised:
        active.read("detector.onnx")
    assert raised.value.code == "channel-target"
    with pytest.raises(AttestationError, match=r"root\.layout"):
        active.copy_evidence(place_after.root / "copy")


def test_the_evidence_that_is_copied_out_is_the_published_one(place_after):
    place_after.revoke(REVOCATION)
    active = place_after.open()
    evidence, revocations = active.copy_evidence(place_after.root / "copy")
    assert tree_files(evidence) == tree_files(active.evidence)
    assert tree_files(revocations) == tree_files(active.revocations)


def test_strangers_are_not_believed_whatever_root_lies_in_the_channel(place_after, tmp_path, old_and_new):
    strangers = KeyRing.create(tmp_path / "strangers")
    assert place_after.code(owners=strangers.owners()) == "channel-signature"
    theirs = Place(tmp_path / "theirs", strangers)
    theirs.activate(theirs.make("evil"))
    assert theirs.code() == ""
    place_after.put_back(theirs.directory)
    for reader in ("known", "fresh"):
        assert place_after.code(reader) == "channel-signature"


def test_a_channel_that_the_owners_began_anew_elsewhere_is_not_the_one_that_was_seen(place_after, tmp_path, ring):
    anew = Place(tmp_path / "anew", ring)
    for name in ("one", "two", "three"):
        anew.activate(anew.make(name))
    place_after.put_back(anew.directory)
    assert place_after.code("known") == "channel-rewound"
    assert place_after.code() == ""


def test_one_owner_is_not_enough(place_after, ring):
    def claim(root):
        root.keys.clear()
        for role in root.roles.values():
            role.keyids.clear()
            role.threshold = 1
        for role in root.roles:
            root.add_key(ring.public("owner-1"), role)

    sign_by_hand(place_after.directory / "1.root.json", claim, ring.signer("owner-1"))
    for name in ("timestamp.json", "2.snapshot.json", "2.targets.json"):
        sign_by_hand(place_after.directory / name, lambda signed: None, ring.signer("owner-1"))
    assert place_after.code() == "channel-signature"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("timestamp.json", "releaser"),
        ("2.snapshot.json", "releaser"),
        ("2.targets.json", "channel"),
        ("2.targets.json", "trainer"),
    ],
)
def test_each_role_signs_for_itself_alone(place_after, ring, name, role):
    sign_by_hand(place_after.directory / name, lambda signed: None, ring.signer(role))
    assert place_after.code() == "channel-signature"


def test_who_has_the_channels_key_still_cannot_change_what_is_deployed(place_after):
    resign(place_after, lambda targets: targets.targets.popitem(), targets="channel")
    assert place_after.code() == "channel-signature"


@pytest.mark.parametrize(
    "change",
    [
        lambda targets: targets.unrecognized_fields.clear(),
        lambda targets: targets.unrecognized_fields.update(deployment=[]),
        lambda targets: targets.unrecognized_fields["deployment"].update(version="../../elsewhere"),
        lambda targets: targets.unrecognized_fields["deployment"].update(version="0" * 16),
        lambda targets: targets.unrecognized_fields["deployment"].update(previous=5),
        lambda targets: targets.unrecognized_fields["deployment"].update(activated_at="yesterday"),
        lambda targets: targets.unrecognized_fields["deployment"].update(more="x"),
        lambda targets: targets.targets.update({"../outside": next(iter(targets.targets.values()))}),
        lambda targets: next(iter(targets.targets.values())).hashes.update(sha512="0" * 128),
        lambda targets: targets.targets.clear(),
    ],
)
def test_what_a_channel_never_says_is_refused_even_if_its_roles_signed_it(place_after, change):
    resign(place_after, change)
    assert place_after.code() == "channel-malformed"


def test_a_timestamp_must_say_when_it_was_signed(place_after, ring):
    path = place_after.directory / "timestamp.json"
    sign_by_hand(path, lambda signed: signed.unrecognized_fields.clear(), ring.signer("channel"))
    assert place_after.code() == "channel-malformed"


def test_one_version_with_two_contents_is_refused_by_who_saw_the_first(place_after, ring):
    path = place_after.directory / "timestamp.json"
    sign_by_hand(path, lambda signed: setattr(signed, "expires", NOW + 300 * DAY), ring.signer("channel"))
    assert place_after.code("known") == "channel-signature"


def test_what_was_seen_is_read_or_refused(place_after):
    memory = place_after.root / "readers/known"
    for name in ("timestamp.json", "snapshot.json", "targets.json"):
        kept = (memory / name).read_bytes()
        for damage in (b"", b"{}", kept[:-30]):
            (memory / name).write_bytes(damage)
            with pytest.raises(AttestationError, match=name) as raised:
                place_after.open("known")
            assert raised.value.code == "memory"
        (memory / name).write_bytes(kept)


def test_a_memory_that_cannot_be_written_is_one_clear_error(place_after):
    (place_after.root / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep what is seen"):
        open_channel(place_after.directory, place_after.ring.owners(), place_after.root / "file" / "memory", now=NOW)


def test_nothing_deployed_is_one_clear_error(tmp_path, ring):
    for directory in (tmp_path / "none", tmp_path):
        with pytest.raises(AttestationError, match="nothing is deployed here") as raised:
            open_channel(directory, ring.owners(), tmp_path / "memory")
        assert raised.value.code == "channel-missing"


@pytest.fixture(scope="module")
def rich(tmp_path_factory, ring):
    """A channel with everything that a channel can hold; read only, but for single bits that are put back."""
    place = Place(tmp_path_factory.mktemp("rich"), ring)
    policy = place.root / "default.yaml"
    policy.write_text("thresholds: {}\n")
    place.activate(place.make("one"), policy=policy)
    place.activate(place.make("two"), policy=policy)
    place.revoke(REVOCATION)
    return place


def read_by_nobody(place):
    """Older metadata, kept as a record, that no reader needs."""
    current = {"1.root.json", "timestamp.json", "3.snapshot.json", "3.targets.json"}
    return {name for name in metadata_names(place.directory) if name not in current}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.data())
def test_any_flipped_bit_is_refused(rich, data):
    files = sorted(rich.state().keys() - read_by_nobody(rich))
    path = rich.directory / data.draw(st.sampled_from(files))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    bit = data.draw(st.integers(0, 7))
    flip(path, position, bit)
    try:
        code = rich.code()
    finally:
        flip(path, position, bit)
    metadata = path.parent == rich.directory
    assert code in ({"channel-signature", "channel-malformed", "channel-missing"} if metadata else {"channel-target"})


def test_the_channel_whose_bits_were_flipped_is_accepted_before_and_after(rich):
    assert rich.code() == ""
    path = rich.directory / "timestamp.json"
    flip(path, 100)
    assert rich.code() != ""
    flip(path, 100)
    assert rich.code() == ""
