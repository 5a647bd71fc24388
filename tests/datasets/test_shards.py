import hashlib
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline.datasets.shards import Location, ShardReader, ShardWriter
from secpipeline.errors import InputError

FILES = {
    "vendor-a/quay/001.jpg": b"first" * 100,
    "vendor-a/quay/002.jpg": b"",
    "vendor-b/straße/003.jpg": b"x" * 512,
    f"vendor-b/{'long' * 40}/004.jpg": b"y" * 513,
    "005.png": bytes(range(256)) * 9,
}


def write_shards(directory, files, shard_bytes=4000, **options):
    writer = ShardWriter(directory, shard_bytes, **options)
    for name, data in files.items():
        writer.add(name, data)
    writer.close()
    return writer


def members(directory, shard):
    with tarfile.open(directory / shard) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_shards_are_tar_files_that_hold_every_file_once_and_in_order(tmp_path):
    writer = write_shards(tmp_path, FILES)

    found = [(shard, name, data) for shard in writer.digests for name, data in members(tmp_path, shard).items()]
    assert found == [(writer.locations[name].shard, name, data) for name, data in FILES.items()]
    assert list(writer.digests) == [f"shards/{number:05d}.tar" for number in range(len(writer.digests))]
    assert sorted(f"shards/{path.name}" for path in (tmp_path / "shards").iterdir()) == list(writer.digests)


def test_a_location_is_where_the_bytes_lie(tmp_path):
    places = write_shards(tmp_path, FILES).locations
    reader = ShardReader(tmp_path)

    for name, data in FILES.items():
        place = places[name]
        raw = (tmp_path / place.shard).read_bytes()
        assert raw[place.offset : place.offset + place.length] == data
        assert place.length == len(data)
        assert reader.read(place) == data


def test_equal_files_give_equal_shards_that_say_nothing_about_who_wrote_them(tmp_path):
    first = write_shards(tmp_path / "one", FILES)
    second = write_shards(tmp_path / "two", FILES)

    assert first.digests == second.digests
    for shard, digest in first.digests.items():
        data = (tmp_path / "one" / shard).read_bytes()
        assert data == (tmp_path / "two" / shard).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        with tarfile.open(tmp_path / "one" / shard) as archive:
            facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in archive}
        assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_shards_are_about_as_large_as_asked_for(tmp_path):
    writer = write_shards(tmp_path, {f"{n}.jpg": bytes(1000) for n in range(2000)}, shard_bytes=50 * 1536)

    sizes = [len(members(tmp_path, shard)) for shard in writer.digests]
    assert sum(sizes) == 2000
    assert 30 <= np.mean(sizes) <= 75
    assert max(sizes) <= 4 * 50


@pytest.mark.parametrize("change", ["add", "remove", "replace"])
def test_one_image_that_comes_goes_or_changes_leaves_the_other_shards_alone(tmp_path, change):
    files = {f"{n:04d}.jpg": n.to_bytes(2, "big") * 500 for n in range(600)}
    before = set(write_shards(tmp_path / "before", files, 30_000).digests.values())
    if change == "add":
        files["0300b.jpg"] = b"new" * 300
    elif change == "remove":
        del files["0300.jpg"]
    else:
        files["0300.jpg"] = b"other" * 200

    after = set(write_shards(tmp_path / "after", dict(sorted(files.items())), 30_000).digests.values())

    assert len(before) > 10
    assert 1 <= len(before - after) <= 2
    assert 1 <= len(after - before) <= 2


def test_a_known_shard_is_linked_and_not_written_again(tmp_path):
    first = write_shards(tmp_path / "one", FILES)

    def find(digest):
        return tmp_path / "one" / next(name for name, known in first.digests.items() if known == digest)

    second = write_shards(tmp_path / "two", FILES, find=find)

    assert second.digests == first.digests
    assert second.reused == len(first.digests) > 0
    for shard in first.digests:
        assert (tmp_path / "one" / shard).samefile(tmp_path / "two" / shard)


def test_a_shard_that_cannot_be_linked_is_written(tmp_path):
    writer = write_shards(tmp_path, FILES, find=lambda digest: tmp_path / "gone.tar")

    assert writer.reused == 0
    assert all((tmp_path / shard).is_file() for shard in writer.digests)


def test_a_writer_that_gets_nothing_writes_nothing(tmp_path):
    writer = write_shards(tmp_path, {})
    assert (writer.digests, writer.locations) == ({}, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_discarded_leaves_nothing_behind(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/notes.txt").touch()
    for name in ("kept", "own"):
        writer = write_shards(tmp_path / name, FILES)
        writer.discard()

    assert not (tmp_path / "own").exists()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0, 1, 511, 512, 513, 1500, 3000]), min_size=1, max_size=8), st.integers(1, 6000))
def test_any_sizes_come_back_from_their_locations(tmp_path_factory, sizes, shard_bytes):
    directory = tmp_path_factory.mktemp("shards")
    files = {f"{number}.jpg": bytes([number + 1]) * size for number, size in enumerate(sizes)}

    writer = write_shards(directory, files, shard_bytes)

    reader = ShardReader(directory)
    assert {name: reader.read(place) for name, place in writer.locations.items()} == files
    assert [name for shard in writer.digests for name in members(directory, shard)] == list(files)


# A location in a shard of 10240 bytes that does not have it, and what must be said.
BAD_LOCATIONS = {
    "missing shard": (Location("shards/gone.tar", 0, 1), r"gone\.tar: cannot be read"),
    "directory": (Location("shards", 0, 1), "shards: cannot be read"),
    "empty shard": (Location("shards/empty.tar", 0, 0), r"empty\.tar: cannot be read"),
    "end beyond the shard": (Location("shards/whole.tar", 10_000, 241), "10240 bytes, but .* end at byte 10241"),
    "start before the shard": (Location("shards/whole.tar", -5, 3), "10240 bytes"),
    "negative length": (Location("shards/whole.tar", 512, -3), "10240 bytes"),
}


@pytest.mark.parametrize("case", BAD_LOCATIONS)
def test_a_location_that_no_shard_has_is_refused_by_name(tmp_path, case):
    location, message = BAD_LOCATIONS[case]
    (shard,) = write_shards(tmp_path, {"a.jpg": b"x" * 512}, shard_bytes=1 << 40).digests
    (tmp_path / shard).rename(tmp_path / "shards/whole.tar")
    (tmp_path / "shards/empty.tar").touch()

    with pytest.raises(InputError, match=message):
        ShardReader(tmp_path).read(location)
