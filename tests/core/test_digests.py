import contextlib
import doctest
import errno
import hashlib
import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secpipeline import digests
from secpipeline.digests import (
    FileChanged,
    canonical_json,
    check_name,
    file_digests,
    look_and_hash,
    manifest_bytes,
    map_files,
    open_plain,
    read_through,
    sha256_file,
    sha256_files,
    tree_digest,
    tree_files,
)
from secpipeline.errors import InputError, IntegrityError
from secpipeline.paired_sha256 import HASHLIB_VARIABLE, hashlib_pair, pairing
from secpipeline.store import Store

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


sizes = st.builds(
    lambda border, offset: max(0, border + offset),
    st.sampled_from([0, 2048, 4096, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20]),
    st.integers(-2, 2),
)


@pytest.fixture(scope="module", autouse=True, params=["hashlib", "extension"])
def engine(request):
    """Everything holds whatever hashes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HASHLIB_VARIABLE, "1" if request.param == "hashlib" else "")
        if request.param == "extension" and pairing() is hashlib_pair:
            pytest.skip("the extension was not built or does not run here")
        yield request.param


def test_text_that_is_no_unicode_is_named():
    with pytest.raises(InputError, match=r"\$\.a\[0\]"):
        canonical_json({"a": ["\udc80"]})
    with pytest.raises(InputError, match="not Unicode"):
        canonical_json({"\udc80": 1})


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("digests")


def test_the_usage_example_holds():
    assert doctest.testmod(digests) == (0, 2)


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_digests_equal_hashlib_around_buffer_borders(place, size, seed):
    data = noise(size, seed)
    (place / "file").write_bytes(data)
    algorithms = ("md5", "sha256", "blake2b")
    expected = {name: hashlib.new(name, data).hexdigest() for name in algorithms}
    assert file_digests(place / "file", algorithms) == expected
    assert sha256_file(place / "file") == expected["sha256"]


@pytest.mark.parametrize("algorithms", [(), ("sha256", "shake_128"), ("sha257",)])
def test_an_algorithm_without_a_digest_is_refused(tmp_path, algorithms):
    (tmp_path / "file").write_bytes(b"x")
    assert set(file_digests(tmp_path / "file")) == {"sha256"}
    with pytest.raises(InputError, match="use such as sha256"):
        file_digests(tmp_path / "file", algorithms)


@settings(deadline=None)
@given(st.lists(st.integers(0, 600_000), max_size=6), st.integers(1, 9), st.integers(1, 20))
def test_many_files_equal_one_by_one_in_any_thread_count(place, lengths, threads, repeats):
    paths = []
    for number, length in enumerate(lengths):
        paths.append(place / f"many-{number}")
        paths[-1].write_bytes(noise(length, number))
    paths *= repeats
    assert sha256_files(paths, threads) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert sha256_files(iter(paths)) == [sha256_file(path) for path in paths]


@settings(deadline=None, max_examples=25)
@given(st.lists(sizes, min_size=2, max_size=9), st.integers(1, 2))
def test_files_of_any_size_are_hashed_in_pairs(place, lengths, threads):
    paths = [place / f"pair-{number}" for number in range(len(lengths))]
    for number, (path, length) in enumerate(zip(paths, lengths, strict=True)):
        path.write_bytes(noise(length, number))
    assert sha256_files(paths, threads) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_first_file_in_order_that_cannot_be_hashed_is_named(tmp_path, threads):
    paths = [tmp_path / f"{number:03d}" for number in range(300)]
    for path in paths:
        path.write_bytes(b"x")
    assert len(sha256_files(paths, threads)) == 300
    for number in (150, 40, 299):
        paths[number].unlink()
    with pytest.raises(InputError, match=r"/040: .*No such file"):
        sha256_files(paths, threads)


def test_a_bar_is_shown_when_asked_for_and_not_off_a_terminal(tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"x")
    sha256_files([tmp_path / "file"] * 3)
    assert not capsys.readouterr().err
    assert len(sha256_files([tmp_path / "file"] * 3, progress=True)) == 3
    assert "hash:   0%|          | 0/3" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_comes_by_itself_only_on_a_terminal_and_after_a_second(monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    map_files(lambda path: None, ["file"] * 3, threads=1)
    assert "hash" not in capsys.readouterr().err
    map_files(lambda path: time.sleep(0.6), ["file"] * 3, threads=1)
    assert ("hash:" in capsys.readouterr().err) == terminal


def bind_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # an absolute one may be longer than such names may be


NOT_PLAIN = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to(__file__),
    "link to a directory": lambda path: path.symlink_to("/"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "socket": bind_socket,
    "device": lambda path: os.mknod(path, 0o20600, os.makedev(1, 5)),  # /dev/zero: without end
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_is_no_plain_file_is_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "entry"
    try:
        NOT_PLAIN[kind](path)
    except PermissionError:
        pytest.skip("only root makes a device")
    for hash_it in (sha256_file, file_digests, lambda path: sha256_files([path])):
        with pytest.raises(InputError, match="/entry: cannot be read as a plain file"):
            hash_it(path)
    if kind not in ("missing", "directory"):
        with pytest.raises(InputError, match="/entry: only plain files"):
            tree_files(tmp_path)


@pytest.mark.parametrize("call", ["sha256_file(path)", "file_digests(path)", "tree_files(path.parent)"])
def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path, call):
    os.mkfifo(tmp_path / "pipe")
    program = f"import sys, pathlib; from secpipeline.digests import *; path = pathlib.Path(sys.argv[1]); {call}"
    command = [sys.executable, "-c", program, tmp_path / "pipe"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert answer.returncode == 1
    assert f"InputError: {tmp_path / 'pipe'}: " in answer.stderr


@pytest.mark.parametrize("length", [1000, 512 << 10, (512 << 10) + 1, 1 << 20])
@pytest.mark.parametrize("change", [-1, 0, 1, 512 << 10])
def test_a_file_whose_size_changes_while_it_is_read_has_no_digest(tmp_path, length, change):
    path = tmp_path / "file"
    path.write_bytes(noise(length))
    descriptor, status = open_plain(path)
    os.truncate(path, length + change)
    try:
        if change:
            with pytest.raises(FileChanged, match=rf"/file: had {length} bytes .* changed") as refusal:
                read_through(descriptor, path, status.st_size, hashlib.sha256().update)
            assert isinstance(refusal.value, IntegrityError)
        else:
            digest = hashlib.sha256()
            read_through(descriptor, path, status.st_size, digest.update)
            assert digest.hexdigest() == sha256_file(path)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("length", "change"),
    [
        *((length, change) for length in (1000, (512 << 10) - 1, 512 << 10) for change in (-1, 1, 512 << 10)),
        *((0, change) for change in (1, 512 << 10)),
    ],
)
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_file_that_changes_among_many_is_named_before_a_later_one_that_is_missing(tmp_path, length, change, changed):
    """The change comes after the file was opened and before it is read."""
    paths = [tmp_path / name for name in "abcd"]
    for path in paths[:3]:
        path.write_bytes(noise(length))

    def look(descriptor, status):
        if status.st_ino == paths[changed].stat().st_ino:
            os.truncate(paths[changed], length + change)

    with pytest.raises(FileChanged, match=rf"/{'abc'[changed]}: had {length} bytes .* changed"):
        look_and_hash(look, paths, threads=1)
    with pytest.raises(InputError, match=r"/d: .*No such file"):
        look_and_hash(lambda descriptor, status: None, paths, threads=1)


def test_a_file_that_comes_in_small_parts_is_read_to_its_end(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(noise(3000, number))
    readv = os.readv
    monkeypatch.setattr(os, "readv", lambda descriptor, buffers: readv(descriptor, [buffers[0][:700]]))
    found = look_and_hash(lambda descriptor, status: None, paths, threads=1)
    assert found == [(None, hashlib.sha256(noise(3000, number)).hexdigest()) for number in range(3)]


def test_every_name_is_hashed_and_a_zero_byte_in_one_is_no_name(tmp_path):
    names = [b"two\nlines", b"\xff no UTF-8", b" ", "\u00e9".encode()]
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]  # noqa: PTH118 - bytes
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(path)
    expected = [hashlib.sha256(path).hexdigest() for path in paths]
    for spell in (bytes, os.fsdecode, lambda path: Path(os.fsdecode(path))):
        assert sha256_files([spell(path) for path in paths]) == expected
    with pytest.raises(ValueError, match="embedded null byte"):
        sha256_files([paths[0], "a\0b"])


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
def test_a_file_that_gives_more_than_its_size_is_named_before_a_later_one_that_is_missing(tmp_path):
    (tmp_path / "first").write_bytes(b"x")
    with pytest.raises(FileChanged, match="/proc/version: had 0 bytes and gave"):
        sha256_files([tmp_path / "first", Path("/proc/version"), tmp_path / "missing"], threads=1)


def test_a_file_that_grows_is_refused_or_hashed_as_it_was_at_one_moment(tmp_path):
    path, chunk = tmp_path / "file", b"z" * 4096  # a page: it comes whole
    moments = {hashlib.sha256(chunk * count).hexdigest() for count in range(101)}
    path.write_bytes(b"")

    def grow():
        with path.open("ab", buffering=0) as file:
            for _ in range(100):
                file.write(chunk)
                time.sleep(0.0005)

    writer = threading.Thread(target=grow)
    writer.start()
    while writer.is_alive():
        with contextlib.suppress(FileChanged):
            assert set(sha256_files([path, path], threads=1)) <= moments
    writer.join()
    assert sha256_files([path], threads=1) == [hashlib.sha256(chunk * 100).hexdigest()]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named_with_its_cause(tmp_path):
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(InputError, match=r"/file: .*Permission denied") as refusal:
        sha256_files([tmp_path / "file"])
    assert isinstance(refusal.value.__cause__, PermissionError)


def test_an_interrupted_read_is_done_again_and_a_short_one_is_refused(tmp_path, monkeypatch):
    answers = [(errno.EINTR, 0, 0, 0), (errno.EINTR, 0, 0, 0), (0, stat.S_IFREG, 3, 3), (0, stat.S_IFREG, 3, 2)]
    monkeypatch.setattr(digests, "reading", lambda: lambda path, flags, buffer: answers.pop(0))
    assert len(sha256_files([tmp_path / "file"], threads=1)) == 1
    with pytest.raises(FileChanged, match="/file: had 3 bytes and gave 2"):
        sha256_files([tmp_path / "file"], threads=1)
    assert not answers


def test_what_looks_sees_every_file_open_and_unread(tmp_path):
    paths = [tmp_path / name for name in "abcde"]
    for number, path in enumerate(paths):
        path.write_bytes(noise(400_000 * (number + 1) // 3, number))

    def look(descriptor, status):
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        assert os.fstat(descriptor) == status
        return status.st_size

    expected = [(path.stat().st_size, sha256_file(path)) for path in paths]
    assert look_and_hash(look, paths, threads=1) == expected


def test_no_descriptor_is_left_open(tmp_path):
    paths = [tmp_path / f"{number}" for number in range(40)]
    for path in paths:
        path.write_bytes(b"x")
    paths[33].unlink()
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(3):
        with pytest.raises(InputError):
            sha256_files(paths, threads=1)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_file_that_grows_for_ever_is_given_up(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(noise(1 << 20))
    parts = []

    def append(part):
        parts.append(len(part))
        with path.open("ab") as file:
            file.write(part)

    descriptor, status = open_plain(path)
    with pytest.raises(FileChanged):
        read_through(descriptor, path, status.st_size, append)
    os.close(descriptor)
    assert 1 << 20 < sum(parts) <= 2 << 20


def test_a_digest_made_while_another_is_made_in_the_same_thread_is_right(tmp_path):
    outer, inner = noise(300_000, 1), noise(300_000, 2)
    (tmp_path / "outer").write_bytes(outer)
    (tmp_path / "inner").write_bytes(inner)
    digest = hashlib.sha256()

    def update(part):
        assert sha256_file(tmp_path / "inner") == hashlib.sha256(inner).hexdigest()
        digest.update(part)

    descriptor, status = open_plain(tmp_path / "outer")
    read_through(descriptor, tmp_path / "outer", status.st_size, update)
    os.close(descriptor)
    assert digest.hexdigest() == hashlib.sha256(outer).hexdigest()


def test_a_forked_process_has_buffers_of_its_own(tmp_path):
    """The child stops with its file in the buffer until the parent has hashed another file."""
    (tmp_path / "child").write_bytes(b"c" * 1000)
    (tmp_path / "parent").write_bytes(b"p" * 1000)
    sha256_file(tmp_path / "parent")
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        parts = []

        def wait_and_keep(part):
            if len(part):
                os.write(ready[1], b"r")
                os.read(go[0], 1)
            parts.append(bytes(part))

        descriptor, _ = open_plain(tmp_path / "child")
        read_through(descriptor, tmp_path / "child", 1000, wait_and_keep)
        os._exit(b"".join(parts) != b"c" * 1000)
    os.read(ready[0], 1)
    sha256_file(tmp_path / "parent")
    os.write(go[1], b"g")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@given(json_values)
def test_canonical_json_round_trips_and_ignores_key_order(value):
    encoded = canonical_json(value)
    assert json.loads(encoded) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == encoded


@pytest.mark.parametrize("value", [{"a": [1.0, float("nan")]}, {"a": {"b": float("inf")}}, {1: 2}])
def test_canonical_json_refuses_what_json_cannot_say_and_names_it(value):
    with pytest.raises(InputError, match=r"\$"):
        canonical_json(value)


@pytest.mark.parametrize("name", ["", "/a", "a/../b", "./a", "a//b", "a\\b", "a\nb", "e\u0301", "a\x7f"])
def test_unsafe_names_are_refused(name):
    with pytest.raises(InputError, match="rename"):
        check_name(name)


@given(st.characters())
@example("\u00a0")  # unprintable, but to be seen
def test_a_character_is_refused_in_a_name_if_it_is_invisible_or_ambiguous(character):
    name = f"a{character}b"
    unsafe = unicodedata.category(character)[0] == "C" or unicodedata.normalize("NFC", name) != name
    if unsafe or character == "\\":
        with pytest.raises(InputError, match="rename"):
            check_name(name)
    else:
        assert check_name(name) == name


def test_tree_lists_files_sorted_and_refuses_links(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/2").write_text("two")
    (tmp_path / "a").write_text("one")
    files = tree_files(tmp_path)
    assert list(files) == ["a", "b/2"]
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(InputError, match="link"):
        tree_files(tmp_path)


def test_tree_covers_hidden_files_and_any_depth(tmp_path):
    top = place = tmp_path / "top"
    for _ in range(1200):  # deeper than Python recurses
        place.mkdir()
        place /= "d"
    (place.parent / ".hidden").write_bytes(b"x")
    assert tree_files(top) == {"d/" * 1199 + ".hidden": hashlib.sha256(b"x").hexdigest()}
    subprocess.run(["rm", "-r", top], check=True)


def test_a_directory_that_is_not_there_is_no_empty_tree(tmp_path):
    assert tree_files(tmp_path) == {}
    with pytest.raises(InputError, match="/gone: cannot be listed"):
        tree_files(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_directory_that_may_not_be_listed_hides_nothing(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="/closed: cannot be listed"):
        tree_files(tmp_path)


def test_an_object_of_the_store_that_became_a_link_is_put_there_anew(tmp_path):
    store = Store(tmp_path / "home")
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "file").write_bytes(b"x")
    files = store.put(tmp_path / "one")
    assert store.has(files)
    path = store.object_path(files["file"])
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not store.has(files)
    with pytest.raises(IntegrityError, match="stage/file in the object store"):
        store.publish("stage", files)
    assert store.put(tmp_path / "two") == files
    assert store.has(files)
    assert not path.is_symlink()


def test_manifest_is_accepted_by_sha256sum(tmp_path):
    (tmp_path / "x y").write_bytes(b"1")
    (tmp_path / "z").write_bytes(b"2")
    files = tree_files(tmp_path)
    manifest = manifest_bytes(files)
    assert subprocess.run(["sha256sum", "-c", "-"], input=manifest, cwd=tmp_path, check=False).returncode == 0
    assert tree_digest(files) == hashlib.sha256(manifest).hexdigest()
