"""Say again that nothing is newer: sign the log's checkpoint and every channel's timestamp with the present time.

>>> refresh(Workspace.open())                                            # doctest: +SKIP
['the log: 22 entries', 'production: version 439fa265e625a6de is active; valid until 2026-12-01 10:13 UTC']
"""

from __future__ import annotations

from secpipeline.provenance.keys import LOG
from secpipeline.stages import deploy
from secpipeline.workspace import Workspace


def refresh(workspace: Workspace) -> list[str]:
    """Sign anew, changing nothing else; one line for the log and each channel says what is current.

    Raises
    ------
    AttestationError
        If the log or a channel does not verify, or the keys of the roles log and channel are not here.
    """
    with workspace.lock():
        trust = workspace.trust()
        log = workspace.evidence.log
        log.refresh(workspace.ring().signer(LOG))
        size = log.read(trust.keys(LOG), trust.log).checkpoint.size
        return [f"the log: {size} entries", *(deploy.refresh(workspace, name) for name in deploy.serving(workspace))]
