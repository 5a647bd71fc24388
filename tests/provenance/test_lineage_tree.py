"""The tree of runs, for people and for tools."""

import json

from secpipeline.digests import sha256_bytes
from secpipeline.provenance.lineage.queries import makers
from secpipeline.provenance.lineage.tree import tree, upstream


def test_a_run_that_several_rest_on_is_grown_once(chain):
    found = chain.history()
    text = tree(upstream(found, makers(found, sha256_bytes(b"graph"))))
    assert text.count("ingest ") == 1
    assert text.count("shown above") == 1
    assert text.splitlines()[1].startswith("├─ train ")


def test_the_tree_as_json_is_the_same_tree(chain):
    found = chain.history()
    (branch,) = upstream(found, makers(found, sha256_bytes(b"graph")))
    record = json.loads(json.dumps(branch.to_json()))
    assert record["stage"] == "deploy"
    assert [run["stage"] for run in record["runs"]] == ["train", "gate"]
    assert record["statement"] == branch.run.statement
