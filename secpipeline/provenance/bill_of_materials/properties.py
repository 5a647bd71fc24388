"""Facts for which CycloneDX has no field, as its properties: pairs of a name and a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def properties(values: Mapping[str, Any], prefix: str = "") -> list[dict[str, str]]:
    """Numbers and words, one property each; a list is several of one name. Pictures are for people.

    >>> properties({"images": 7, "pictures": ["a.png"]})
    [{'name': 'secpipeline:images', 'value': '7'}]
    """
    return [
        {"name": f"secpipeline:{prefix}{key}", "value": item if isinstance(item, str) else json.dumps(item)}
        for key, value in sorted(values.items())
        for item in (value if isinstance(value, list) else [value])
        if key != "pictures"
    ]
