import doctest
import hashlib
import hmac
import json
import mmap
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline import digest_cache, paired_sha256
from secpipeline.digest_cache import DigestCache, Host
from secpipeline.errors import InputError
from secpipeline.paired_sha256 import HASHLIB_VARIABLE, hashlib_pair, pairing

KEY = bytes(range(32))
SECOND = 1_000_000_000


def true_digests(paths):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rewrite(path, data):
    """Change a file in place and set its modification time back; its ctime has moved for certain."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        with path.open("r+b") as file:
            file.write(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def swap(one, other):
    aside = one.with_name("aside")
    for source, target in ((one, aside), (other, one), (aside, other)):
        source.rename(target)


class Place:
    """Three files, a cache and a host that trusts this file system and whose clock is far ahead of every change."""

    def __init__(self, directory):
        self.directory = directory / "files"
        self.directory.mkdir()
        self.cache = directory / "digests.cache"
        self.host = Host(lambda: time.time_ns() + 60 * SECOND, "this boot", frozenset({directory.stat().st_dev}))
        self.paths = [self.directory / name for name in "abc"]
        for path in self.paths:
            path.write_text(f"bytes of {path.name}")

    def run(self, key=KEY, host=None, **options):
        """Verify as a command does; returns the digests, and how many came from the cache and from the bytes."""
        cache = DigestCache.open(self.cache, key, host=host or self.host, **options)
        found = cache.sha256([path for path in self.paths if path.exists()])
        cache.save()
        return found, (cache.hits, cache.hashed)


@pytest.fixture(scope="module", autouse=True, params=["hashlib", "extension"])
def engine(request):
    """Everything holds whatever hashes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HASHLIB_VARIABLE, "1" if request.param == "hashlib" else "")
        if request.param == "extension" and pairing() is hashlib_pair:
            pytest.skip("the extension was not built or does not run here")
        yield request.param


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_the_usage_example_holds():
    failed, tried = doctest.testmod(digest_cache)
    assert failed == 0
    assert tried > 5


def test_an_unchanged_file_is_read_once(place):
    expected = true_digests(place.paths)
    assert place.run() == (expected, (0, 3))
    assert place.run() == (expected, (3, 0))
    assert place.cache.stat().st_mode & 0o777 == 0o600
    cache = DigestCache.open(place.cache, KEY, host=place.host)
    assert list(cache.sha256([place.paths[1], place.paths[0], place.paths[1]])) == [place.paths[1], place.paths[0]]
    assert (cache.hits, cache.hashed) == (2, 0)


def test_a_relative_name_finds_what_an_absolute_one_recorded(place, monkeypatch):
    place.run()
    monkeypatch.chdir(place.directory)
    cache = DigestCache.open(place.cache, KEY, host=place.host)
    assert cache.sha256([Path("a")]) == {Path("a"): true_digests(place.paths)[place.paths[0]]}
    assert cache.hits == 1


def test_other_bytes_of_the_same_size_and_time_are_noticed(place):
    place.run()
    rewrite(place.paths[1], b"BYTES")
    assert place.run() == (true_digests(place.paths), (2, 1))


def test_files_that_changed_names_are_noticed(place):
    for path in place.paths:
        os.utime(path, ns=(0, 0))
    place.run()
    swap(*place.paths[:2])
    assert place.run() == (true_digests(place.paths), (1, 2))


def test_files_whose_directories_changed_names_are_noticed(place):
    """Made within one tick of the clock, they differ in their inodes alone."""
    place.paths[:] = [place.directory / "good/file", place.directory / "evil/file"]
    for path in place.paths:
        path.parent.mkdir()
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in place.paths]
    for _ in range(1000):
        for descriptor, data in zip(descriptors, (b"good", b"evil"), strict=True):
            os.pwrite(descriptor, data, 0)
        if len({(path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in place.paths}) == 1:
            break
    else:
        pytest.skip("this file system's clock has no coarse ticks")
    for descriptor in descriptors:
        os.close(descriptor)
    assert place.run()[1] == (0, 2)
    swap(*(path.parent for path in place.paths))
    assert place.run() == (true_digests(place.paths), (0, 2))


OPERATIONS = ("rewrite", "swap", "replace", "remove", "touch", "link", "nothing")


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2), st.integers(0, 2)), max_size=6))
def test_no_sequence_of_changes_gets_a_wrong_digest(tmp_path_factory, steps):
    place = Place(tmp_path_factory.mktemp("cache"))
    place.run()
    for number, (operation, one, other) in enumerate(steps):
        path, partner = place.paths[one], place.paths[other]
        if operation == "rewrite" and path.exists():
            rewrite(path, f"step {number}".encode()[: path.stat().st_size])
        elif operation == "swap" and one != other and path.exists() and partner.exists():
            swap(path, partner)
        elif operation == "replace":
            (place.directory / "new").write_text(f"BYTES of {number}")
            (place.directory / "new").rename(path)
        elif operation == "remove":
            path.unlink(missing_ok=True)
        elif operation == "touch" and path.exists():
            os.utime(path)
        elif operation == "link" and path.exists() and one != other:
            partner.unlink(missing_ok=True)
            os.link(path, partner)
        found, _ = place.run()
        assert found == true_digests(found)


@pytest.mark.parametrize(
    ("age", "recorded"), [(-SECOND, False), (0, False), (2 * SECOND - 1, False), (2 * SECOND, True)]
)
def test_a_file_changed_within_two_seconds_of_its_hashing_is_hashed_again(place, age, recorded):
    del place.paths[1:]
    now = place.paths[0].stat().st_ctime_ns + age
    host = replace(place.host, now=lambda: now)
    place.run(host=host)
    assert place.run(host=host) == (true_digests(place.paths), (1, 0) if recorded else (0, 1))


def test_a_writer_through_a_mapping_that_was_there_before_is_noticed(place):
    """Its second store into a page moves no time; so while it can store, nothing is recorded."""
    path = place.paths[0]
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    mapping[0] = ord("1")
    assert place.run() == (true_digests(place.paths), (0, 3))
    mapping[0] = ord("2")
    assert place.run() == (true_digests(place.paths), (2, 1))
    mapping.close()
    place.run()
    assert place.run() == (true_digests(place.paths), (3, 0))


def test_a_file_that_is_open_for_writing_is_not_recorded(place):
    with place.paths[0].open("ab"):
        place.run()
        assert place.run() == (true_digests(place.paths), (2, 1))


def test_nothing_is_recorded_on_a_file_system_that_keeps_no_ctime(place):
    host = replace(place.host, devices=frozenset())
    place.run(host=host)
    assert place.run(host=host) == (true_digests(place.paths), (0, 3))
    assert recorded(place) == {}
    place.run()
    assert place.run(host=host) == (true_digests(place.paths), (0, 3))


@pytest.mark.parametrize("directory", [Path(__file__).parent, Path("/tmp"), Path("/dev/shm"), Path("/proc")])
def test_the_host_trusts_the_file_systems_that_stat_names(directory):
    if not directory.is_dir():
        pytest.skip(f"no {directory}")
    command = ["stat", "--file-system", "--format=%T", str(directory)]
    kind = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert (directory.stat().st_dev in Host().devices) == (kind in ("ext2/ext3", "xfs", "f2fs"))


def test_another_boot_trusts_nothing(place):
    place.run()
    assert Host().boot == Host().boot != ""
    assert place.run(host=replace(place.host, boot="next boot")) == (true_digests(place.paths), (0, 3))


def test_a_cache_under_another_key_is_ignored_however_it_was_forged(place):
    """The forger's own cache vouches, for the file as it is, for the digest that the victim expects."""
    place.run(key=bytes(32))
    found = true_digests(place.paths)[place.paths[0]].encode()
    forge(place, bytes(32), lambda body: body.replace(found, b"f" * 64))
    forged = place.cache.read_bytes()
    assert b"f" * 64 in forged
    assert place.run() == (true_digests(place.paths), (0, 3))
    place.cache.write_bytes(forged)
    found, counts = place.run(key=bytes(32))
    assert (found[place.paths[0]], counts) == ("f" * 64, (3, 0))


def forge(place, key, change):
    """Rewrite a cache's body as the holder of ``key`` could."""
    header, _, body = place.cache.read_bytes().split(b"\n", 2)
    body = change(body)
    code = hmac.new(key, b"\n".join([header, place.host.boot.encode(), body]), "sha256").hexdigest().encode()
    place.cache.write_bytes(b"\n".join([header, code, body]))


def test_a_full_run_reads_every_byte_and_records_what_it_found(place):
    place.run()
    found = true_digests(place.paths)[place.paths[0]].encode()
    forge(place, KEY, lambda body: body.replace(found, b"f" * 64))
    lying = place.cache.read_bytes()
    assert place.run()[0][place.paths[0]] == "f" * 64
    place.cache.write_bytes(lying)
    assert place.run(full=True) == (true_digests(place.paths), (0, 3))
    assert place.run() == (true_digests(place.paths), (3, 0))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_run_asks_hashlib_alone_and_so_finds_out_a_lying_extension(place, monkeypatch, threads):
    place.paths += [place.directory / f"{number}" for number in range(40)]
    for path in place.paths:
        path.write_text(path.name)
    monkeypatch.setenv(HASHLIB_VARIABLE, "")
    monkeypatch.setattr(paired_sha256, "_trusted_extension", lambda: lambda first, second: (b"\xff" * 32, b"\xee" * 32))

    def digests(**options):
        cache = DigestCache.open(place.cache, KEY, host=place.host, **options)
        return cache.sha256(place.paths, threads)

    assert set(digests().values()) >= {"ff" * 32, "ee" * 32}
    assert digests(full=True) == true_digests(place.paths)
    assert set(digests().values()) >= {"ff" * 32, "ee" * 32}


def test_no_flipped_bit_and_no_cut_leads_to_a_wrong_digest(place):
    del place.paths[1:]
    place.run()
    good, expected = place.cache.read_bytes(), true_digests(place.paths)
    flips = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(len(good)) for bit in range(8)]
    for damaged in [*flips, *(good[:length] for length in range(len(good))), good + b" ", b"\n" + good, good * 2]:
        place.cache.write_bytes(damaged)
        cache = DigestCache.open(place.cache, KEY, host=place.host)
        assert cache.sha256(place.paths) == expected
        assert cache.hits == 0
    place.cache.write_bytes(good)
    assert place.run() == (expected, (1, 0))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(__file__), lambda path: None])
def test_what_is_no_cache_file_is_an_empty_cache(place, make):
    make(place.cache)
    cache = DigestCache.open(place.cache, KEY, host=place.host)
    assert cache.sha256(place.paths) == true_digests(place.paths)
    assert (cache.hits, cache.hashed) == (0, 3)


@pytest.mark.parametrize("pipe", ["digests.cache", "file"])
def test_a_pipe_in_place_of_the_cache_or_a_file_does_not_hang(tmp_path, pipe):
    (tmp_path / ("file" if pipe != "file" else "other")).write_bytes(b"x")
    os.mkfifo(tmp_path / pipe)
    program = (
        "import sys; from pathlib import Path; from secpipeline.digest_cache import DigestCache\n"
        "place = Path(sys.argv[1]); cache = DigestCache.open(place / 'digests.cache', bytes(32))\n"
        "print(cache.sha256([place / 'file'])[place / 'file'])"
    )
    command = [sys.executable, "-c", program, tmp_path]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if pipe == "file":
        assert f"InputError: {tmp_path}/file: cannot be read as a plain file" in answer.stderr
    else:
        assert answer.stdout.strip() == hashlib.sha256(b"x").hexdigest()


def test_a_link_in_place_of_a_recorded_file_is_refused(place):
    place.run()
    elsewhere = place.directory.rename(place.directory.with_name("elsewhere"))  # which moves no file's own times
    place.directory.mkdir()
    place.paths[0].symlink_to(elsewhere / "a")
    with pytest.raises(InputError, match="/a: cannot be read as a plain file"):
        place.run()


def test_files_that_are_gone_leave_the_cache(place):
    place.run()
    assert set(recorded(place)) == {str(path) for path in place.paths}
    place.paths[0].unlink()
    place.run()
    assert set(recorded(place)) == {str(path) for path in place.paths[1:]}
    place.paths[:] = place.paths[2:]
    place.run()
    assert len(recorded(place)) == 2
    place.run(full=True)
    assert len(recorded(place)) == 1


def recorded(place):
    return json.loads(place.cache.read_bytes().split(b"\n", 2)[2])


def test_a_name_that_is_no_text_is_recorded(place):
    path = Path(os.fsdecode(os.fsencode(place.directory) + b"/\xff\n"))
    path.write_bytes(b"x")
    place.paths[:] = [path]
    place.run()
    assert place.run() == (true_digests([path]), (1, 0))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(tmp_path, key):
    with pytest.raises(InputError, match="32 bytes"):
        DigestCache.open(tmp_path / "cache", key)


def test_a_missing_file_is_one_clear_error(place):
    place.run()
    gone = place.paths[1]
    gone.unlink()
    with pytest.raises(InputError, match=r"/b: .*No such file"):
        DigestCache.open(place.cache, KEY, host=place.host).sha256([gone])
