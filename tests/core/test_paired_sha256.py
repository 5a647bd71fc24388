import doctest
import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secpipeline import audit, paired_sha256
from secpipeline.paired_sha256 import (
    HASHLIB_VARIABLE,
    agrees_with_hashlib,
    hashlib_alone,
    hashlib_pair,
    pairing,
    reading,
)
from secpipeline.provenance.keys import read_public_key

RECORD = Path(__file__).parents[1] / "records/0.2.0"
# FIPS 180-4's examples and those of NIST's secure hashing page.
VECTORS = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
    b"ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu": (
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}
EXTENSION = "secpipeline._paired_sha256"

blocks = st.builds(
    lambda count, offset: max(0, 64 * count + offset), st.integers(0, 80), st.sampled_from([-9, -1, 0, 1])
)
lengths = st.integers(0, 5000) | blocks


@pytest.fixture(scope="module", params=["hashlib", "extension"])
def pair(request):
    if request.param == "hashlib":
        return hashlib_pair
    return pytest.importorskip(EXTENSION, reason="it was not built or does not run here", exc_type=ImportError).pair


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv(HASHLIB_VARIABLE, raising=False)


def both(first, second):
    return hashlib.sha256(first).digest(), hashlib.sha256(second).digest()


def wrong(first, second):
    return b"\xff" * 32, b"\xff" * 32


FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BUFFER = 5000


@pytest.fixture(scope="module")
def read_file():
    return pytest.importorskip(
        EXTENSION, reason="it was not built or does not run here", exc_type=ImportError
    ).read_file


@pytest.mark.parametrize("size", [0, 1, BUFFER - 1, BUFFER, BUFFER + 1])
def test_a_plain_file_is_read_if_it_is_shorter_than_the_buffer(read_file, tmp_path, size):
    data, buffer, path = os.urandom(size), bytearray(b"-" * BUFFER), tmp_path / "file"
    path.write_bytes(data)
    read = data if size < BUFFER else b""
    assert read_file(path, FLAGS, memoryview(buffer)) == (0, path.stat().st_mode, size, len(read))
    assert buffer == read.ljust(BUFFER, b"-")
    buffer.append(1)  # a buffer that is still held would refuse


NO_PLAIN_FILE = {
    "missing": (lambda path: None, errno.ENOENT),
    "link": (lambda path: path.symlink_to(__file__), errno.ELOOP),
    "dangling link": (lambda path: path.symlink_to("nowhere"), errno.ELOOP),
    "pipe": (os.mkfifo, 0),
    "directory": (os.mkdir, 0),
    "device": (lambda path: Path("/dev/zero"), 0),
}


@pytest.mark.parametrize("kind", NO_PLAIN_FILE)
def test_of_what_is_no_plain_file_nothing_is_read(read_file, tmp_path, kind):
    make, error = NO_PLAIN_FILE[kind]
    path = make(tmp_path / "entry") or tmp_path / "entry"
    buffer, before = bytearray(b"-" * BUFFER), len([*Path("/proc/self/fd").iterdir()])
    found, mode, _, count = read_file(path, FLAGS, buffer)
    assert (found, mode, count) == (error, 0 if error else path.lstat().st_mode, 0)
    assert buffer == b"-" * BUFFER
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_file_that_gives_more_than_its_size_is_read_past_it(read_file):
    data = Path("/proc/version").read_bytes()
    buffer = bytearray(BUFFER)
    assert read_file("/proc/version", FLAGS, buffer)[2:] == (0, len(data))
    assert buffer.startswith(data)


def test_only_a_name_flags_and_a_writable_buffer_are_taken(read_file, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path, flags, buffer in (
        (5, FLAGS, bytearray(9)),
        (tmp_path / "file", None, bytearray(9)),
        ("a", FLAGS, b"123"),
    ):
        with pytest.raises(TypeError):
            read_file(path, flags, buffer)
    for path in ("a\0b", b"a\0b"):
        with pytest.raises(ValueError, match="embedded null byte"):
            read_file(path, FLAGS, bytearray(9))


def test_with_hashlib_alone_files_are_read_by_python(read_file, unset):
    assert reading() is read_file
    with hashlib_alone():
        assert reading() is None


def test_the_usage_example_holds():
    assert doctest.testmod(paired_sha256) == (0, 2)


@pytest.mark.parametrize("first", VECTORS, ids=len)
@pytest.mark.parametrize("second", VECTORS, ids=len)
def test_published_digests(pair, first, second):
    assert [digest.hex() for digest in pair(first, second)] == [VECTORS[first], VECTORS[second]]


@settings(deadline=None, max_examples=300)
@given(lengths, lengths, st.integers(0, 63), st.binary(min_size=1, max_size=9))
def test_any_two_messages_at_any_address(pair, first, second, offset, seed):
    noise = hashlib.shake_256(seed).digest(10_200)
    one, other = memoryview(noise)[offset : offset + first], memoryview(noise)[5000 + offset : 5000 + offset + second]
    assert pair(one, other) == both(one, other)


def test_messages_that_are_not_one_run_of_bytes_are_refused(pair):
    for refused in (memoryview(b"abcdef")[::2], "abc", 1, None):
        for messages in ((refused, b""), (b"", refused)):
            with pytest.raises((TypeError, BufferError)):
                pair(*messages)


def test_a_refused_message_does_not_keep_the_other_one(pair):
    message = bytearray(100)
    with pytest.raises(TypeError):
        pair(message, "no bytes")
    pair(message, message)
    message.append(1)  # a buffer that is still held would refuse


def test_threads_do_not_disturb_each_other(pair):
    messages = [(os.urandom(3000 + 64 * number), os.urandom(9000 - number)) for number in range(40)] * 10
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda two: pair(*two), messages)) == [both(*two) for two in messages]


def test_agreement_is_found_and_one_wrong_bit_of_one_length_too(pair):
    assert agrees_with_hashlib(pair)
    for length in (0, 55, 64, 119, 128, 300):
        for place in (0, 1):

            def nearly(*messages, length=length, place=place):
                digests = [*both(*messages)]
                if len(messages[place]) == length:
                    digests[place] = digests[place][:-1] + bytes([digests[place][-1] ^ 1])
                return tuple(digests)

            assert not agrees_with_hashlib(nearly)
    assert not agrees_with_hashlib(lambda first, second: both(second, first))
    assert not agrees_with_hashlib(lambda first, second: both(first[:2000], second[:2000]))


def test_short_messages_of_two_lengths_must_agree_too():
    def only_of_one_length(first, second):
        same = len(first) == len(second) or max(len(first), len(second)) > 300
        return both(first, second) if same else wrong(first, second)

    assert not agrees_with_hashlib(only_of_one_length)


@pytest.mark.parametrize(("value", "alone"), [(None, False), ("", False), ("1", True), ("yes", True)])
def test_the_environment_turns_the_extension_off(unset, monkeypatch, value, alone):
    monkeypatch.setattr(paired_sha256, "_trusted_extension", lambda: wrong)
    if value is not None:
        monkeypatch.setenv(HASHLIB_VARIABLE, value)
    assert pairing() is (hashlib_pair if alone else wrong)


def test_hashlib_alone_lasts_as_long_as_the_outermost_that_wants_it(unset, monkeypatch):
    monkeypatch.setattr(paired_sha256, "_trusted_extension", lambda: wrong)
    with hashlib_alone(False):
        assert pairing() is wrong
    with hashlib_alone():
        with hashlib_alone(False):
            assert pairing() is hashlib_pair
        assert pairing() is hashlib_pair
    with pytest.raises(ZeroDivisionError), hashlib_alone():
        raise ZeroDivisionError
    assert pairing() is wrong


PROGRAM = """
import sys, types, warnings, pathlib
{prepare}
from secpipeline.digests import sha256_files
for _ in range(2):
    print(*sha256_files(sys.argv[1:], threads=1))
print(sys.modules.get({name!r}) is not None)
"""
EVERY_WAY = {
    "as it is": ("", ""),
    "absent": (f"sys.modules[{EXTENSION!r}] = None", ""),
    "of another build": (f"sys.modules[{EXTENSION!r}] = types.SimpleNamespace()", ""),
    "of an older build": (
        f"from secpipeline.paired_sha256 import hashlib_pair\n"
        f"sys.modules[{EXTENSION!r}] = types.SimpleNamespace(pair=lambda *both: hashlib_pair(*both))",
        "",
    ),
    "lying": (
        f"sys.modules[{EXTENSION!r}] = types.SimpleNamespace(pair=lambda one, other: (bytes(32), bytes(32)))",
        "RuntimeWarning: secpipeline._paired_sha256 disagrees with hashlib",
    ),
}


@pytest.mark.parametrize("way", EVERY_WAY)
def test_digests_do_not_depend_on_the_extension(unset, tmp_path, way):
    prepare, warning = EVERY_WAY[way]
    paths = [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * 1000 * number)
    command = [sys.executable, "-c", PROGRAM.format(prepare=prepare, name=EXTENSION), *paths]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    expected = " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert answer.stdout.splitlines()[:2] == [expected] * 2
    assert warning in answer.stderr
    assert answer.stderr.count("RuntimeWarning") == bool(warning)


def test_with_hashlib_asked_for_the_extension_is_not_even_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv(HASHLIB_VARIABLE, "1")
    (tmp_path / "a").write_bytes(b"x")
    command = [sys.executable, "-c", PROGRAM.format(prepare="", name=EXTENSION), *[tmp_path / "a"] * 3]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "False"


@pytest.fixture
def lying(unset, monkeypatch):
    monkeypatch.setattr(paired_sha256, "_trusted_extension", lambda: wrong)


@pytest.mark.parametrize("full", [False, True])
def test_a_full_verification_of_a_bundle_asks_hashlib_alone(lying, full):
    owners = tuple(read_public_key(path) for path in sorted((RECORD / "owners").glob("*.pem")))
    report = audit.verify_bundle(RECORD / "bundle", owners, audit.Asked(full=full)).report
    assert bool({"bundle-file", "changed-file"} & {refusal.code for refusal in report.refusals}) == (not full)


@pytest.mark.parametrize("full", [False, True])
def test_a_full_verification_of_a_channel_asks_hashlib_alone(lying, monkeypatch, full):
    monkeypatch.setattr(audit.deploy, "verify_channel", lambda *args, **options: pairing())
    used = audit.verify_channel(SimpleNamespace(), "production", audit.Asked(full=full))
    assert used is (hashlib_pair if full else wrong)
