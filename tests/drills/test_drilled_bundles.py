"""What a bundle may hold besides the latest: an auditor asks for the deployment of last month too."""

from attackers import GROUPS

from secpipeline.drills import bundles
from secpipeline.provenance import bundle


def test_a_bundle_of_an_earlier_deployment_verifies_though_the_log_went_on(chain):
    earlier = {spec.name: chain.current(spec.name) for spec in chain.specs}
    chain.run("train", "export", "attack", "gate", "release", "deploy", "monitor")
    assert chain.current("train") != earlier["train"]
    bundles.pack(chain, earlier)
    report = bundle.verify(bundles.directory(chain), chain.ring.owners())
    assert report.ok, report.text()


def test_the_workspace_itself_must_hold_the_latest(chain):
    signing = next(group for group in GROUPS if group.title == "statements and links")
    put_back = next(tampering for tampering in signing.tamperings if tampering.name == "earlier run put back")
    put_back.tamper(chain)
    assert chain.verify().codes == {"superseded"}
