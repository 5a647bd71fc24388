import os

import pytest

from secpipeline.errors import InputError, IntegrityError
from secpipeline.store import Store, write_atomic


def produce(store, content):
    with store.scratch("test") as scratch:
        (scratch / "out/sub").mkdir(parents=True)
        for name, text in content.items():
            (scratch / "out" / name).write_text(text)
        return store.put(scratch / "out")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_put_and_publish_make_the_outputs_current_and_read_only(store):
    files = produce(store, {"a": "1", "sub/b": "2"})
    store.publish("stage", files)
    assert (store.artifacts / "stage/sub/b").read_text() == "2"
    assert store.is_published("stage", files)
    assert (store.artifacts / "stage/a").stat().st_mode & 0o222 == 0
    assert not list((store.home / "scratch").iterdir())


def test_old_objects_stay_when_new_outputs_are_published(store):
    old = produce(store, {"a": "1"})
    store.publish("stage", old)
    store.publish("stage", produce(store, {"a": "2"}))
    assert (store.artifacts / "stage/a").read_text() == "2"
    assert store.has(old)
    store.publish("stage", old)
    assert (store.artifacts / "stage/a").read_text() == "1"


def test_a_changed_object_is_refused_by_name_and_replaced_by_a_good_one(store):
    files = produce(store, {"a": "good"})
    path = store.object_path(files["a"])
    path.chmod(0o644)
    path.write_text("evil")
    assert not store.has(files)
    with pytest.raises(IntegrityError, match="stage/a"):
        store.publish("stage", files)
    assert produce(store, {"a": "good"}) == files
    store.publish("stage", files)
    assert (store.artifacts / "stage/a").read_text() == "good"


def test_an_extra_or_missing_file_is_not_what_was_published(store):
    files = produce(store, {"a": "1"})
    store.publish("stage", files)
    (store.artifacts / "stage/extra").write_text("x")
    assert not store.is_published("stage", files)
    store.publish("stage", files)
    (store.artifacts / "stage/a").unlink()
    assert not store.is_published("stage", files)


def test_write_atomic_leaves_the_old_bytes_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="permissions"):
        write_atomic(tmp_path / "file", b"x")


def test_a_file_where_the_home_should_be_is_one_clear_error(tmp_path):
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"), Store(tmp_path / "home").scratch("x"):
        pass
