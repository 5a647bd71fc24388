"""A new release takes what has not changed from the one before it, if that one can be trusted."""

import pytest

from secpipeline import runner
from secpipeline.stages import ingest

OTHER_SPLITS = {"splits.seed": 99}


@pytest.fixture
def written(monkeypatch):
    """What each ingest says it wrote."""
    outcomes = []
    write = ingest.write_release

    def recording(*arguments, **options):
        outcomes.append(write(*arguments, **options))
        return outcomes[-1]

    monkeypatch.setattr(ingest, "write_release", recording)
    return outcomes


def test_unchanged_images_and_shards_are_taken_over_and_nothing_differs(chain, written, monkeypatch):
    first = runner.run(chain, "ingest", OTHER_SPLITS)
    for record in (chain.home / "runs").rglob("*.json"):
        record.unlink()
    monkeypatch.setattr(runner, "_previous", lambda *_: None)
    again = runner.run(chain, "ingest", OTHER_SPLITS)

    assert written[0].reused_images == written[0].images > 0
    assert written[0].reused_shards == written[0].shards > 0
    assert (written[1].reused_images, written[1].reused_shards) == (0, 0)
    assert first.files == again.files


def test_nothing_is_taken_from_a_release_whose_bytes_are_not_those_that_were_signed(chain, written):
    shard = next((chain.store.artifacts / "ingest").rglob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.unlink()
    shard.write_bytes(data)

    runner.run(chain, "ingest", OTHER_SPLITS)

    assert (written[0].reused_images, written[0].reused_shards) == (0, 0)
    assert written[0].images > 0
