"""What a publication leaves behind: whole states only, keys that can change, versions that only grow."""

import os
import shutil
import threading

import pytest
from attackable_channel import DAY, REVOCATION, Place, metadata_names
from tuf.api.metadata import Metadata

from secpipeline.errors import AttestationError
from secpipeline.provenance.keys import OWNERS


@pytest.fixture
def own_place(own_ring, tmp_path):
    return Place(tmp_path / "own", own_ring)


def root_of(place):
    newest = max(int(name.partition(".")[0]) for name in metadata_names(place.directory) if name.endswith("root.json"))
    return Metadata.from_bytes((place.directory / f"{newest}.root.json").read_bytes()).signed


class KilledError(BaseException):
    """Not an Exception: nothing may catch it."""


WRITES = ("replace", "rename", "mkdir", "unlink", "rmdir")


class Kill:
    """From the n-th change to the file system on, nothing is changed any more: not even cleaned up."""

    def __init__(self, monkeypatch, after):
        self.left = after
        for name in WRITES:
            monkeypatch.setattr(os, name, self.guard(getattr(os, name)))

    def guard(self, function):
        def guarded(*arguments, **keywords):
            self.left -= 1
            if self.left < 0:
                raise KilledError
            return function(*arguments, **keywords)

        return guarded


def outcomes_of_kills(place, prepare, publish, monkeypatch):
    """The outcome for two readers after a kill at each write in turn, until a publication gets through."""
    prepare(place)
    before = place.keep("before")
    memory = place.root / "kept/memory"
    shutil.copytree(place.memory, memory)
    for writes in range(1000):
        shutil.rmtree(place.memory)
        shutil.copytree(memory, place.memory)
        place.put_back(before)
        shutil.rmtree(place.root / "readers", ignore_errors=True)
        place.open("known")
        with monkeypatch.context() as patch:
            kill = Kill(patch, writes)
            try:
                publish(place)
                done = True
            except KilledError:
                done = False
            assert done == (kill.left >= 0)
        yield writes, done
        if done:
            return


@pytest.mark.slow
def test_a_publication_that_is_killed_at_any_write_leaves_the_old_state_or_the_new(place, monkeypatch):
    one, two, three = (place.make(name) for name in ("one", "two", "three"))

    def prepare(place):
        place.activate(one)
        place.revoke(REVOCATION)

    seen, written = [], 0
    for writes, done in outcomes_of_kills(place, prepare, lambda place: place.activate(two), monkeypatch):
        fresh, known = place.open("fresh"), place.open("known")
        assert fresh == known
        seen.append((fresh.files / "detector.onnx").read_text())
        assert [path.read_bytes() for path in fresh.revocations.iterdir()] == [REVOCATION]
        if writes % 7 == 0 or done:  # the next publication, by who was not killed, finishes the work
            place.activate(three)
            assert place.served() == "graph three"
            assert not list(place.directory.rglob(".*"))
        written = writes
    assert written > 30
    assert set(seen) == {"graph one", "graph two"}
    assert seen == sorted(seen)  # the old one up to the commit, the new one from then on
    assert seen.count("graph one") > 25
    assert seen[-1] == "graph two"


@pytest.mark.slow
def test_a_first_publication_that_is_killed_leaves_nothing_or_the_whole(place, monkeypatch):
    one, codes = place.make("one"), []
    for writes in range(1000):
        for left in (place.directory, place.memory):
            shutil.rmtree(left, ignore_errors=True)
        with monkeypatch.context() as patch:
            Kill(patch, writes)
            try:
                place.activate(one)
                break
            except KilledError:
                pass
        codes.append(place.code())
        if writes % 7 == 0:
            place.activate(one)
            assert place.served() == "graph one"
    assert codes.count("channel-missing") > 25
    assert set(codes) <= {"channel-missing", ""}
    assert codes == sorted(codes, reverse=True)


@pytest.mark.slow
def test_a_change_of_keys_that_is_killed_leaves_a_channel_that_can_be_read(own_place, monkeypatch):
    keys, kept = own_place.ring.directory, own_place.root / "old-keys"
    shutil.copytree(keys, kept)
    for role in ("releaser", "channel"):
        own_place.ring.replace(role)
    changed = own_place.root / "new-keys"
    shutil.copytree(keys, changed)

    def use(directory):
        shutil.rmtree(keys)
        shutil.copytree(directory, keys)

    def prepare(place):
        use(kept)
        place.activate(place.make("one"))
        use(changed)

    versions = []
    for _, done in outcomes_of_kills(own_place, prepare, lambda place: place.refresh(), monkeypatch):
        versions.append(own_place.open("known").metadata["root"])
        assert own_place.code() == ""
        if not done:
            own_place.refresh()
        assert len(root_of(own_place).keys) == 5  # three owners, the releaser, the channel
        assert own_place.code("known") == ""
    assert set(versions) == {1, 2, 3}


def test_what_a_killed_publication_left_behind_is_never_a_version_of_something_else(place):
    place.activate(place.make("one"))
    shutil.copy(place.directory / "1.targets.json", place.directory / "7.targets.json")
    active = place.activate(place.make("two"))
    assert active.metadata["targets"] == 8


def test_the_root_names_the_owners_and_one_key_for_each_role(place):
    place.activate(place.make("one"))
    root = root_of(place)
    assert root.consistent_snapshot
    assert set(root.roles["root"].keyids) == {key.keyid for key in place.ring.owners()}
    assert root.roles["root"].threshold == 2
    for role, holder in (("targets", "releaser"), ("snapshot", "channel"), ("timestamp", "channel")):
        assert root.roles[role].keyids == [place.ring.public(holder).keyid]


@pytest.mark.parametrize("role", ["releaser", "channel"])
def test_a_role_with_a_new_key_is_told_by_the_owners_and_its_old_key_counts_no_more(own_place, role):
    own_place.activate(own_place.make("one"))
    own_place.open("known")
    old = own_place.ring.public(role).keyid
    new = own_place.ring.replace(role).keyid
    active = own_place.refresh()
    named = {keyid for holders in root_of(own_place).roles.values() for keyid in holders.keyids}
    assert new in named
    assert old not in named
    assert active.metadata["root"] == 3  # one that knows both keys until everything is signed anew, then this one
    for reader in ("known", "fresh"):
        assert own_place.code(reader) == ""


def test_a_stolen_key_is_worth_nothing_after_it_was_replaced(own_place):
    own_place.activate(own_place.make("one"))
    own_place.open("known")
    thief = own_place.root / "stolen"
    shutil.copytree(own_place.ring.directory, thief)
    stolen = own_place.keep("stolen-channel")
    own_place.ring.replace("channel")
    own_place.refresh()
    assert own_place.code("known") == ""
    for name in ("timestamp.json", "1.snapshot.json", "1.targets.json"):
        shutil.copy(stolen / name, own_place.directory)
    assert own_place.code("known") == "channel-signature"
    assert own_place.code() == "channel-signature"
    own_place.put_back(stolen)
    assert own_place.code("known") == "channel-rewound"


def test_one_owner_with_a_new_key_is_told_by_the_others(own_place):
    own_place.activate(own_place.make("one"))
    old = own_place.ring.owners()
    own_place.open("known")
    own_place.ring.replace("owner-1")
    assert own_place.code() == ""  # the other two signed as well
    own_place.refresh()
    for owners in (own_place.ring.owners(), old):
        assert own_place.code(owners=owners) == ""
        assert own_place.code("known", owners=owners) == ""
    assert len(root_of(own_place).roles["root"].keyids) == 3


def test_owners_who_all_have_new_keys_cannot_speak_for_a_channel_of_the_old_ones(own_place):
    deployment = own_place.make("one")
    own_place.activate(deployment)
    for owner in OWNERS:
        own_place.ring.replace(owner)
    for publish in (own_place.refresh, lambda: own_place.activate(deployment)):
        with pytest.raises(AttestationError, match="none of its roots is signed") as raised:
            publish()
        assert raised.value.code == "channel-signature"


def forget(ring, *roles):
    for role in roles:
        (ring.directory / "private" / f"{role}.pem").unlink()


def test_a_machine_with_the_channels_key_alone_can_refresh(own_place):
    own_place.activate(own_place.make("one"))
    forget(own_place.ring, *OWNERS, "releaser")
    for days in (5, 60, 10):
        own_place.now += days * DAY
        assert own_place.refresh().signed_on == own_place.now
    own_place.now += 20 * DAY  # past the targets' ninety days
    with pytest.raises(AttestationError, match="releaser") as raised:
        own_place.refresh()
    assert raised.value.code == "key-missing"


def test_the_owners_are_needed_once_their_root_has_expired_and_not_before(own_place):
    own_place.activate(own_place.make("one"))
    forget(own_place.ring, *OWNERS)
    for days in (300, 64):
        own_place.now += days * DAY
        assert own_place.refresh().metadata["root"] == 1
    own_place.now += DAY
    with pytest.raises(AttestationError, match="owners") as raised:
        own_place.refresh()
    assert raised.value.code == "key-missing"


def test_a_machine_without_the_owners_cannot_begin_a_channel_or_change_a_key(own_place):
    one = own_place.make("one")
    own_place.activate(one)
    own_place.ring.replace("releaser")
    forget(own_place.ring, *OWNERS[1:])
    before = own_place.state()
    for publish in (own_place.refresh, lambda: own_place.activate(own_place.make("two"))):
        with pytest.raises(AttestationError, match="owner-1") as raised:
            publish()
        assert raised.value.code == "key-missing"
        assert own_place.code() == ""
    assert own_place.state().items() >= before.items()
    elsewhere = Place(own_place.root / "elsewhere", own_place.ring)
    with pytest.raises(AttestationError) as raised:
        elsewhere.activate(one)
    assert raised.value.code == "key-missing"
    assert metadata_names(elsewhere.directory) == []


@pytest.mark.parametrize("role", ["releaser", "channel"])
def test_who_lacks_a_roles_key_publishes_nothing(own_place, role):
    own_place.activate(own_place.make("one"))
    own_place.open("known")
    forget(own_place.ring, role)
    with pytest.raises(AttestationError, match=role) as raised:
        own_place.activate(own_place.make("two"))
    assert raised.value.code == "key-missing"
    assert own_place.served() == "graph one"
    assert own_place.code("known") == ""


def test_publications_at_the_same_time_happen_one_after_the_other(place):
    place.activate(place.make("first"))
    made = [place.make(f"number {number}") for number in range(4)]
    start, failures = threading.Barrier(5), []

    def publish(deployment):
        start.wait()
        try:
            place.activate(deployment)
        except Exception as error:
            failures.append(error)

    def read():
        start.wait()
        for _ in range(20):
            try:
                place.open("while it happens")
            except AttestationError as error:
                failures.append(error)

    threads = [threading.Thread(target=publish, args=(deployment,)) for deployment in made]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    active = place.open()
    assert active.metadata == {"root": 1, "targets": 5, "snapshot": 5, "timestamp": 5}
    assert len({path.split("/")[1] for path in active.targets}) == 2
