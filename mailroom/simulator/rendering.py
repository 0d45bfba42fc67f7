"""The data that a template is rendered with: an entry's own over the default."""

from collections.abc import Mapping
from typing import Any


def merge(default: Mapping[str, Any], replacement: Mapping[str, Any]) -> dict[str, Any]:
    """Replacement wins key by key, through objects; lists and scalars are replaced whole."""
    merged = {**default, **replacement}
    for name in default.keys() & replacement.keys():
        if isinstance(default[name], dict) and isinstance(replacement[name], dict):
            merged[name] = merge(default[name], replacement[name])
    return merged
