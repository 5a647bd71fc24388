"""Tampering with the keys that lie on this machine."""

from __future__ import annotations

from secpipeline.drills.tampering import Group
from secpipeline.drills.throwaway import ThrowawayChain
from secpipeline.errors import AttestationError
from secpipeline.provenance.keys import ROLES, public_pem
from secpipeline.provenance.report import Refusal, Report
from secpipeline.provenance.verification import Expectations


def _use(chain: ThrowawayChain, expect: Expectations | None) -> Report:
    """As a run does: open the keys, verify the chain, and get ready to sign for each role."""
    try:
        ring = chain.workspace.ring()
        for role in ROLES:
            ring.signer(role)
    except AttestationError as error:
        return Report((Refusal(error.code, "", "", error.message),), ROLES, 0)
    return chain.verify(expect)


KEYS = Group("the keys on this machine", _use)


@KEYS.refused("key-exposed")
def private_key_exposed(chain: ThrowawayChain) -> None:
    """The trainer's private key can be read by everybody."""
    (chain.workspace.keys / "private/trainer.pem").chmod(0o644)


@KEYS.refused("key-missing")
def public_key_removed(chain: ThrowawayChain) -> None:
    """The trainer's public key is deleted."""
    (chain.workspace.keys / "public/trainer.pem").unlink()


@KEYS.refused("key-missing")
def private_key_removed(chain: ThrowawayChain) -> None:
    """The trainer's private key is deleted."""
    (chain.workspace.keys / "private/trainer.pem").unlink()


@KEYS.refused("key-missing")
def public_key_overwritten(chain: ThrowawayChain) -> None:
    """The trainer's public key is overwritten with something else."""
    (chain.workspace.keys / "public/trainer.pem").write_text("none\n")


@KEYS.refused("key-mismatch")
def public_key_exchanged(chain: ThrowawayChain) -> None:
    """A stranger's public key takes the place of the trainer's."""
    (chain.workspace.keys / "public/trainer.pem").write_bytes(public_pem(chain.strangers.public("trainer")))


@KEYS.refused("keys-inside")
def keys_in_the_project(chain: ThrowawayChain) -> None:
    """The keys are moved into the project, where they would be shared with it, and a link to them is left."""
    inside = chain.workspace.root / "keys"
    chain.workspace.keys.rename(inside)
    chain.workspace.keys.symlink_to(inside)
