"""A client of TUF that knows nothing of this project reads a channel over HTTP."""

import functools
import http.server
import threading

import pytest
from attackable_channel import Place, Verify
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater, UpdaterConfig

from secpipeline.deployment import channel
from secpipeline.digests import sha256_file


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def place(tmp_path, own_ring):
    return Place(tmp_path / "own", own_ring)


@pytest.fixture
def published(place):
    """Signed at the present time, since that is what the other client goes by."""
    files, evidence = place.make("one")
    active = channel.activate(place.channels, "production", files, evidence, place.ring, Verify(), place.memory)
    handler = functools.partial(QuietHandler, directory=str(place.directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield active, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def client(place, url, state):
    (place.root / state / "downloads").mkdir(parents=True, exist_ok=True)
    return Updater(
        str(place.root / state),
        url,
        target_dir=str(place.root / state / "downloads"),
        target_base_url=f"{url}/targets",
        config=UpdaterConfig(prefix_targets_with_hash=False),
        bootstrap=(place.directory / "1.root.json").read_bytes(),
    )


def test_the_active_model_is_found_and_downloaded(place, published):
    active, url = published
    updater = client(place, url, "plain")
    updater.refresh()
    path = f"versions/{active.version}/files/detector.onnx"
    target = updater.get_targetinfo(path)
    downloaded = updater.download_target(target)
    assert sha256_file(place.root / "plain/downloads" / downloaded.rpartition("/")[2]) == active.targets[path]
    assert updater.get_targetinfo("versions/other/files/detector.onnx") is None


def test_a_swapped_model_is_refused_by_it_too(place, published):
    active, url = published
    path = active.files / "detector.onnx"
    path.write_bytes(b"x" * path.stat().st_size)
    updater = client(place, url, "plain")
    with pytest.raises((RepositoryError, DownloadError)):
        updater.download_target(updater.get_targetinfo(f"versions/{active.version}/files/detector.onnx"))


def test_it_refuses_a_channel_that_went_back(place, published):
    _, url = published
    old = place.keep("old")
    client(place, url, "plain").refresh()
    channel.refresh(place.channels, "production", place.ring, place.memory)
    client(place, url, "plain").refresh()
    (place.directory / "timestamp.json").write_bytes((old / "timestamp.json").read_bytes())
    with pytest.raises(RepositoryError):
        client(place, url, "plain").refresh()


def test_it_follows_the_owners_to_a_new_key(place, published):
    active, url = published
    client(place, url, "plain").refresh()
    place.ring.replace("channel")
    channel.refresh(place.channels, "production", place.ring, place.memory)
    updater = client(place, url, "plain")
    updater.refresh()
    assert updater.get_targetinfo(f"versions/{active.version}/files/detector.onnx") is not None
    assert sorted(path.name for path in (place.root / "plain/root_history").iterdir())[-1] == "3.root.json"
