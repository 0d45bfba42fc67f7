"""procrastinate 3: asynchronous tasks on a worker with a pool of psycopg connections, woken by LISTEN."""

import asyncio

from procrastinate import App, PsycopgConnector

from tests.benchmarks.contenders.program import How, Stamps, await_go, run

# What a call defers at once, and what a worker runs at once where nothing else is asked for.
DEFERRED_AT_ONCE = 1000


def _app(url: str, stamps: Stamps, call_seconds: float = 0) -> App:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=20))

    async def mail(key: str | None = None, **_: str) -> None:
        if key is not None:
            stamps.note(key)
        if call_seconds:
            await asyncio.sleep(call_seconds)

    app.task(name="mail")(mail)
    return app


async def _prepare(url: str) -> None:
    async with _app(url, Stamps(None)).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def _enqueue(url: str, count: int) -> None:
    async with _app(url, Stamps(None)).open_async() as app:
        task = app.configure_task("mail")
        for first in range(0, count, DEFERRED_AT_ONCE):
            numbers = range(first, min(count, first + DEFERRED_AT_ONCE))
            await task.batch_defer_async(
                *({"email": f"user{n}@example.com", "login": f"user{n}", "action": "activation"} for n in numbers)
            )


async def _ask(url: str, count: int, gap: float, stamps: Stamps) -> None:
    async with _app(url, Stamps(None)).open_async() as app:
        task = app.configure_task("mail", priority=100)
        for number in range(count):
            await task.defer_async(key=str(number))
            stamps.note(number)
            await asyncio.sleep(gap)


async def _work(url: str, how: How) -> None:
    async with _app(url, Stamps(how.stamps), how.call_seconds).open_async() as app:
        await_go()
        await app.run_worker_async(concurrency=how.concurrency)


if __name__ == "__main__":
    run(
        prepare=lambda url: asyncio.run(_prepare(url)),
        enqueue=lambda url, count: asyncio.run(_enqueue(url, count)),
        ask=lambda url, count, gap, stamps: asyncio.run(_ask(url, count, gap, stamps)),
        work=lambda url, how: asyncio.run(_work(url, how)),
    )
