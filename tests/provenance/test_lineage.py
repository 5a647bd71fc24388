"""Which signed runs rest on which, and what stands against them."""

import json
import time

import pytest
import street_chain
from street_chain import PHASES, release_digest
from tiny_chain import NOW, SPECS

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import authority
from secpipeline.provenance.lineage.contributions import contributions
from secpipeline.provenance.lineage.graph import MAX_DEPTH, History, TracedRun
from secpipeline.provenance.lineage.queries import makers, touched
from secpipeline.provenance.lineage.tree import downstream, tree, upstream
from secpipeline.provenance.trust import Revocation


def stages(branches):
    return {branch.run.stage for branch in branches} | {
        stage for branch in branches for stage in stages(branch.branches)
    }


def test_a_deployed_file_rests_on_the_runs_that_its_links_name(chain):
    found = chain.history()
    branches = upstream(found, makers(found, sha256_bytes(b"graph")))
    assert [branch.run.stage for branch in branches] == ["deploy"]
    assert [branch.run.stage for branch in branches[0].branches] == ["train", "gate"]
    assert stages(branches) == {"deploy", "train", "gate", "ingest"}


def test_an_image_table_reaches_every_run_that_read_it_or_its_heirs(chain):
    found = chain.history()
    branches = downstream(found, makers(found, sha256_bytes(b"images")[:12]))
    assert [branch.run.stage for branch in branches] == ["ingest"]
    assert stages(branches) == {spec.name for spec in SPECS}


def test_a_run_that_read_other_bytes_under_the_same_name_is_no_heir(chain):
    (chain.artifacts / "ingest/images.parquet").write_bytes(b"other images")
    chain.sign("ingest")
    found = chain.history()
    assert len(found.runs) == len(SPECS) + 1
    assert stages(downstream(found, makers(found, sha256_bytes(b"other images")))) == {"ingest"}
    assert "train" in stages(downstream(found, makers(found, sha256_bytes(b"images"))))


def test_the_same_bytes_made_again_later_are_not_what_an_earlier_run_rests_on(chain):
    first = chain.store.current("train")
    later = chain.sign("train", materials={"recipes/other.yaml": sha256_bytes(b"other")})
    chain.sign("deploy", materials={"train/detector.safetensors": sha256_bytes(b"weights")})
    found = chain.history()
    branches = upstream(found, makers(found, sha256_bytes(b"graph")))
    trained = [run.run.statement for deployed in branches for run in deployed.branches if run.run.stage == "train"]
    assert trained == [sha256_bytes(first.statement), sha256_bytes(later.statement)]


def test_a_revoked_source_stands_against_all_that_it_reached_and_nothing_else(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    seven, _ = street.train("robust")
    street.take_in("8", ["vendor-a"])
    eight, _ = street.train("robust")
    revocation = Revocation("source", "vendor-c", "poisoned", NOW.strftime("%Y-%m-%dT%H:%M:%SZ"))
    authority.revoke(street.store, street.ring, street_chain.SPECS, revocation)
    found = street.history()
    (one,) = contributions(found, "vendor-c", phases=PHASES)
    assert "poisoned" in one.against
    assert "poisoned" in str(one)
    against = {run.statement: found.against(run) for run in found.runs}
    assert "rests on" in against[seven]
    assert not against[eight]
    ingests = [run for run in found.runs if run.stage == "ingest"]
    assert [bool(found.against(run)) for run in ingests] == [True, False]
    assert found.against(ingests[0]) == str(revocation)
    assert tree(upstream(found, [found.runs[0]])).endswith(str(revocation))
    assert upstream(found, [found.runs[0]])[0].to_json()["revoked"] == str(revocation)


def test_a_key_that_no_longer_counted_puts_what_rests_on_its_runs_in_doubt(chain, ring):
    before = chain.trust()
    authority.publish(chain.store, ring, SPECS, before.key_revoked("trainer", 2, "laptop stolen"))
    found = chain.history()
    stages = {run.stage for run in found.runs if found.against(run)}
    assert stages == {"train", "gate", "release", "deploy"}
    (trained,) = (run for run in found.runs if run.stage == "train")
    assert "laptop stolen" in trained.doubt
    assert found.against(trained) == trained.doubt


def test_what_a_digest_touches_and_reaches(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    street.train("robust")
    found = street.history()
    table_of_images = sha256_bytes(b"images of curated 7")
    assert {run.stage for run in touched(found, table_of_images[:8])} == {
        spec.name for spec in street_chain.SPECS if "curate" in spec.inputs or spec.name == "curate"
    } - {"monitor"}
    reached = found.reached(touched(found, table_of_images))
    assert {run.stage for run in reached} == set(street_chain.STAGES[3:-1])
    assert [run.stage for run in found.reached(touched(found, table_of_images), "deploy")] == ["deploy"]
    origins = found.origins(makers(found, table_of_images))
    assert [run.stage for run in origins] == list(street_chain.STAGES[:4])
    assert touched(found, "0" * 64) == ()
    with pytest.raises(InputError, match="not a SHA-256"):
        touched(found, "detector.onnx")


def runs_in_a_row(count):
    """Each reads what the one before made."""
    files = [frozenset({("train/x", f"{number:064x}")}) for number in range(count + 1)]
    return [TracedRun("train", f"{n:064x}", (n,), "2026-11-24T07:47:26Z", files[n], files[n + 1]) for n in range(count)]


def test_a_chain_too_deep_to_be_honest_is_refused_before_it_exhausts_a_reader():
    found = History(runs_in_a_row(MAX_DEPTH))
    assert len(tree(upstream(found, found.runs[-1:])).splitlines()) == MAX_DEPTH
    assert (
        json.dumps([branch.to_json() for branch in downstream(found, found.runs[:1])]).count("statement") == MAX_DEPTH
    )
    with pytest.raises(AttestationError, match="rest on one another"):
        History(runs_in_a_row(MAX_DEPTH + 1))


@pytest.mark.slow
def test_a_thousand_runs_are_read_and_answered_within_a_second(tmp_path, ring):
    street = street_chain.found(tmp_path / "street", ring, padding=12)
    for number in range(100):
        street.take_in(str(number), ["vendor-a", "vendor-c"])
        street.train(str(number))
    started = time.process_time()
    found = street.history()
    detectors = [digest for run in found.runs for name, digest in run.products if name == PHASES.deployed]
    assert len(found.runs) == 1000
    assert sum(len(run.files) for run in found.runs) > 40_000
    assert tree(upstream(found, makers(found, detectors[-1])))
    assert tree(downstream(found, makers(found, release_digest("raw 0"))))
    assert len(contributions(found, "vendor-c", phases=PHASES)) == 100
    assert time.process_time() - started < 1
