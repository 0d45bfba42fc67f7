"""A server that is far away: a proxy that passes on everything, each way half of a round trip later.

    python -m tests.benchmarks.far HOST PORT ROUND_TRIP_MS

Prints the port on which it listens, on loopback.
"""

import asyncio
import contextlib
import sys


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, in its order; what comes while something is on its way travels behind it."""
    loop = asyncio.get_running_loop()
    travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        while True:
            arrives_at, chunk = await travelling.get()
            await asyncio.sleep(arrives_at - loop.time())
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
        writer.close()

    arriving = asyncio.create_task(arrive())
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65_536):
            travelling.put_nowait((loop.time() + delay, chunk))
    travelling.put_nowait((loop.time() + delay, b""))
    with contextlib.suppress(ConnectionError):
        await arriving


async def main(host: str, port: int, round_trip_ms: float) -> None:
    """Listen until the process ends."""
    delay = round_trip_ms / 2000

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(_pass_on(reader, back, delay), _pass_on(there, writer, delay))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    sys.stdout.write(f"listening on {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
