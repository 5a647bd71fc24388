"""``VERIFY.md``: how an auditor checks a bundle with public tools."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

NAME = "VERIFY.md"
_MODEL = re.compile(r"<!-- model -->\n(.*)<!-- /model -->\n", re.DOTALL)


def text(owners: Sequence[str], *, model_signed: bool) -> str:
    """The guide of one bundle.

    Parameters
    ----------
    owners
        The key files of the owners who signed the layout.
    model_signed
        Whether there is a ``model.sig``; without one, its section is left out.
    """
    template = resources.files("secpipeline.provenance").joinpath("verify.md").read_text(encoding="utf-8")
    return _MODEL.sub(r"\1" if model_signed else "", template).replace("@OWNERS@", " ".join(owners))
