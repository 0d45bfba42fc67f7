"""pgqueuer 1 on asyncpg and uvloop, with the batches that it is asked for."""

import asyncio
import json
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.queries import Queries
from psycopg.conninfo import conninfo_to_dict

from tests.benchmarks.contenders.program import How, Stamps, await_go, run

ENQUEUED_AT_ONCE = 5000


async def _queries(url: str) -> Queries:
    return Queries.from_asyncpg_connection(await _connect(url))


async def _connect(url: str) -> Any:
    # asyncpg reads a URL or keywords, not libpq's string.
    given = conninfo_to_dict(url)
    names = {"user": "user", "password": "password", "host": "host", "port": "port", "dbname": "database"}
    return await asyncpg.connect(**{name: given[key] for key, name in names.items()})


async def _prepare(url: str) -> None:
    await (await _queries(url)).install()


async def _enqueue(url: str, count: int) -> None:
    queries = await _queries(url)
    for first in range(0, count, ENQUEUED_AT_ONCE):
        numbers = range(first, min(count, first + ENQUEUED_AT_ONCE))
        mails = [{"email": f"user{n}@example.com", "login": f"user{n}", "action": "activation"} for n in numbers]
        payloads: list[bytes | None] = [json.dumps(mail).encode() for mail in mails]
        await queries.enqueue(["mail"] * len(mails), payloads, [0] * len(mails))


async def _ask(url: str, count: int, gap: float, stamps: Stamps) -> None:
    queries = await _queries(url)
    for number in range(count):
        await queries.enqueue("mail", json.dumps({"key": number}).encode(), 100)
        stamps.note(number)
        await asyncio.sleep(gap)


async def _work(url: str, how: How) -> None:
    stamps = Stamps(how.stamps)
    queuer = PgQueuer.from_asyncpg_connection(await _connect(url))

    async def mail(job: Any) -> None:
        asked = json.loads(job.payload)
        if "key" in asked:
            stamps.note(asked["key"])
        if how.call_seconds:
            await asyncio.sleep(how.call_seconds)

    queuer.entrypoint("mail")(mail)
    await_go()
    await queuer.run(batch_size=how.batch)


if __name__ == "__main__":
    run(
        prepare=lambda url: uvloop.run(_prepare(url)),
        enqueue=lambda url, count: uvloop.run(_enqueue(url, count)),
        ask=lambda url, count, gap, stamps: uvloop.run(_ask(url, count, gap, stamps)),
        work=lambda url, how: uvloop.run(_work(url, how)),
    )
