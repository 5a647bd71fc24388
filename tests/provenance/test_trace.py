import json
import shutil

import pytest
from tiny_chain import SPECS

from secpipeline.digests import sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance.trace import History, tree


def keys(chain):
    return {spec.name: chain.ring.public(spec.role) for spec in SPECS}


def history(chain):
    return History.read(chain.store, keys(chain))


def stages(branches):
    return {branch.run.stage for branch in branches} | {
        stage for branch in branches for stage in stages(branch.branches)
    }


def test_a_deployed_file_rests_on_the_runs_that_its_links_name(chain):
    found = history(chain)
    branches = found.upstream(found.makers(sha256_bytes(b"graph")))
    assert [branch.run.stage for branch in branches] == ["deploy"]
    assert [branch.run.stage for branch in branches[0].branches] == ["train", "gate"]
    assert stages(branches) == {"deploy", "train", "gate", "ingest"}


def test_an_image_table_reaches_every_run_that_read_it_or_its_heirs(chain):
    found = history(chain)
    branches = found.downstream(found.makers(sha256_bytes(b"images")[:12]))
    assert [branch.run.stage for branch in branches] == ["ingest"]
    assert stages(branches) == {spec.name for spec in SPECS}


def test_a_run_that_several_rest_on_is_grown_once(chain):
    found = history(chain)
    text = tree(found.upstream(found.makers(sha256_bytes(b"graph"))))
    assert text.count("ingest ") == 1
    assert text.count("shown above") == 1
    assert text.splitlines()[1].startswith("├─ train ")


def test_a_run_that_read_other_bytes_under_the_same_name_is_no_heir(chain):
    (chain.artifacts / "ingest/images.parquet").write_bytes(b"other images")
    chain.sign("ingest")
    found = history(chain)
    assert len(found.runs) == len(SPECS) + 1
    assert stages(found.downstream(found.makers(sha256_bytes(b"other images")))) == {"ingest"}
    assert "train" in stages(found.downstream(found.makers(sha256_bytes(b"images"))))


def test_the_same_bytes_made_again_later_are_not_what_an_earlier_run_rests_on(chain):
    first = chain.store.current("train")
    later = chain.sign("train", materials={"recipes/other.yaml": sha256_bytes(b"other")})
    chain.sign("deploy", materials={"train/detector.safetensors": sha256_bytes(b"weights")})
    found = history(chain)
    branches = found.upstream(found.makers(sha256_bytes(b"graph")))
    trained = [run.run.statement for deployed in branches for run in deployed.branches if run.run.stage == "train"]
    assert trained == [sha256_bytes(first.statement), sha256_bytes(later.statement)]


def test_a_link_of_another_role_is_refused(chain):
    wrong = {**keys(chain), "train": chain.ring.public("red-team")}
    with pytest.raises(AttestationError, match="signature"):
        History.read(chain.store, wrong)


def test_a_link_under_another_stages_name_is_refused(chain):
    log = chain.store.log.read_bytes()
    chain.store.record("release", chain.store.current("deploy"))
    with pytest.raises(AttestationError, match=r"link-name.*deploy"):
        history(chain)
    chain.store.log.write_bytes(log)
    assert history(chain).runs


@pytest.mark.parametrize("number", [0, 2])
def test_a_broken_log_is_refused(chain, number):
    lines = chain.store.log.read_bytes().splitlines(keepends=True)
    del lines[number]
    chain.store.log.write_bytes(b"".join(lines))
    with pytest.raises(AttestationError, match="log"):
        history(chain)


def test_missing_envelopes_are_refused(chain):
    shutil.rmtree(chain.store.directory / "history")
    with pytest.raises(AttestationError, match="evidence-missing"):
        history(chain)


@pytest.mark.parametrize(
    ("target", "words"), [("0" * 64, "no signed run"), ("xyz", "not a SHA-256"), ("abc", "8 to 64")]
)
def test_a_file_that_nobody_made_is_one_clear_error(chain, target, words):
    with pytest.raises(InputError, match=words):
        history(chain).makers(target)


def test_the_tree_as_json_is_the_same_tree(chain):
    found = history(chain)
    (branch,) = found.upstream(found.makers(sha256_bytes(b"graph")))
    record = json.loads(json.dumps(branch.to_json()))
    assert record["stage"] == "deploy"
    assert [run["stage"] for run in record["runs"]] == ["train", "gate"]
    assert record["statement"] == branch.run.statement
