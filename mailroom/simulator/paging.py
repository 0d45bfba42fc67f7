"""Lists that SES gives a page at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

from mailroom.simulator.refusal import bad_request


def page(rows: Sequence[tuple[str, Any]], members: Mapping[str, Any], name: str, most: int) -> dict[str, Any]:
    """A page of `rows`, which are sorted by their keys, as the member `name`. `NextToken` is the last key on it."""
    after = members.get("NextToken", "")
    size = min(members.get("PageSize", most), most)
    if size < 1:
        raise bad_request(f"PageSize must be 1 to {most}")
    rest = [row for row in rows if row[0] > after]
    more = {"NextToken": rest[size - 1][0]} if len(rest) > size else {}
    return {name: [row for _, row in rest[:size]], **more}
