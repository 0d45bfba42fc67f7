"""Moments as PostgreSQL has them, for programs that cannot hold them all."""

from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

EARLIEST: Final = datetime(1000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


class MomentLoader(Loader):
    """Reads a timestamptz; one that no datetime can hold, infinity among them, as the nearer of EARLIEST and LATEST.

    Somebody sets such a moment by hand, for "never" or "long ago", and all else in that row is still to be seen.
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        usual: Any = psycopg.adapters.get_loader(oid, Format.TEXT)
        self._usual = usual(oid, context)

    def load(self, data: Buffer) -> datetime:
        try:
            return self._usual.load(data)  # type: ignore[no-any-return]
        except psycopg.DataError:
            text = bytes(data)
            return EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else LATEST
