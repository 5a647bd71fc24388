import tarfile

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


def write_shards(directory, files, shard_bytes=4000):
    writer = ShardWriter(directory, shard_bytes)
    places = {name: writer.add(name, data) for name, data in files.items()}
    writer.close()
    return writer.names, places


def test_shards_are_tar_files_that_hold_every_file_once_and_in_order(tmp_path):
    names, places = write_shards(tmp_path, FILES)

    members = []
    for shard in names:
        with tarfile.open(tmp_path / shard) as archive:
            members += [(shard, member.name, archive.extractfile(member).read()) for member in archive]
    assert members == [(places[name].shard, name, data) for name, data in FILES.items()]
    assert names == ["shards/00000.tar", "shards/00001.tar"]


def test_a_location_is_where_the_bytes_lie(tmp_path):
    _, places = write_shards(tmp_path, FILES)
    reader = ShardReader(tmp_path)

    for name, data in FILES.items():
        place = places[name]
        raw = (tmp_path / place.shard).read_bytes()
        assert raw[place.offset : place.offset + place.length] == data
        assert place.length == len(data)
        assert reader.read(place) == data


def test_equal_files_give_equal_shards_that_say_nothing_about_who_wrote_them(tmp_path):
    names, _ = write_shards(tmp_path / "one", FILES)
    write_shards(tmp_path / "two", FILES)

    for shard in names:
        assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
        with tarfile.open(tmp_path / "one" / shard) as archive:
            facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in archive}
        assert facts == {(0, 0, 0, "", "", 0o644, True)}


def test_a_shard_is_closed_once_it_is_large_enough(tmp_path):
    names, places = write_shards(tmp_path, {str(n): bytes(1000) for n in range(7)}, shard_bytes=3 * (512 + 1024))

    assert [place.shard for place in places.values()] == [names[0]] * 3 + [names[1]] * 3 + [names[2]]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]


def test_a_writer_that_gets_nothing_writes_nothing(tmp_path):
    assert write_shards(tmp_path, {}) == ([], {})
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0, 1, 511, 512, 513, 1500, 3000]), min_size=1, max_size=8), st.integers(1, 6000))
def test_any_sizes_come_back_from_their_locations(tmp_path_factory, sizes, shard_bytes):
    directory = tmp_path_factory.mktemp("shards")
    files = {f"{number}.jpg": bytes([number + 1]) * size for number, size in enumerate(sizes)}

    names, places = write_shards(directory, files, shard_bytes)

    reader = ShardReader(directory)
    assert {name: reader.read(place) for name, place in places.items()} == files
    listed = []
    for shard in names:
        with tarfile.open(directory / shard) as archive:
            listed += archive.getnames()
    assert listed == list(files)


# A location in a shard of 10240 bytes that does not have it, and what must be said.
BAD_LOCATIONS = {
    "missing shard": (Location("shards/00009.tar", 0, 1), r"00009\.tar: cannot be read"),
    "directory": (Location("shards", 0, 1), "shards: cannot be read"),
    "empty shard": (Location("shards/empty.tar", 0, 0), r"empty\.tar: cannot be read"),
    "end beyond the shard": (Location("shards/00000.tar", 10_000, 241), "10240 bytes, but .* end at byte 10241"),
    "start before the shard": (Location("shards/00000.tar", -5, 3), "10240 bytes"),
    "negative length": (Location("shards/00000.tar", 512, -3), "10240 bytes"),
}


@pytest.mark.parametrize("case", BAD_LOCATIONS)
def test_a_location_that_no_shard_has_is_refused_by_name(tmp_path, case):
    location, message = BAD_LOCATIONS[case]
    write_shards(tmp_path, {"a.jpg": b"x" * 512}, shard_bytes=100_000)
    (tmp_path / "shards/empty.tar").touch()

    with pytest.raises(InputError, match=message):
        ShardReader(tmp_path).read(location)
