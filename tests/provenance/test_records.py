"""Evidence that an earlier version signed verifies for ever, and changed it does not."""

import datetime as dt
import shutil
from pathlib import Path

import pytest

from secpipeline.provenance import bundle, envelopes
from secpipeline.provenance.keys import read_public_key
from secpipeline.provenance.log import CHECKPOINT_TYPE
from secpipeline.provenance.verification import Expectations

RECORDS = sorted(path.parent for path in (Path(__file__).parents[1] / "records").glob("*/bundle"))


def verify(record, directory):
    """As on the day after it was signed: what a layout allows ends after thirty days."""
    checkpoint = envelopes.read_unverified((record / "bundle/checkpoint.dsse.json").read_bytes(), CHECKPOINT_TYPE)
    now = dt.datetime.fromisoformat(checkpoint["time"]) + dt.timedelta(days=1)
    owners = [read_public_key(path) for path in sorted((record / "owners").glob("owner-*.pem"))]
    return bundle.verify(directory, owners, Expectations(now=now))


def test_there_are_records():
    assert RECORDS


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_a_kept_bundle_verifies(record):
    report = verify(record, record / "bundle")
    assert report.ok, report.text()
    assert len(report.steps) >= 11


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
@pytest.mark.parametrize("name", ["deploy/detector.onnx", "trust.dsse.json", "steps.json", "log.jsonl"])
def test_a_changed_one_does_not(record, name, tmp_path):
    shutil.copytree(record / "bundle", tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not verify(record, tmp_path / "bundle").ok
