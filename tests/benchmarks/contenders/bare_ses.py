"""A bare loop of SendBulkEmail calls on boto3's client as mailroom makes it; one ready-made request, in threads.

Takes the number of calls and of threads; prints the calls a second.
"""

import sys
import threading
import time
from typing import Any
from uuid import uuid4

from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.mail.transport import Mail
from mailroom.ses.request import Requests
from tests.benchmarks.contenders.program import await_go
from tests.kinds import ACTIVATION

ENTRIES = 50


def ready_made(client: SESV2Client) -> dict[str, Any]:
    """A request as the worker makes it, of 50 entries."""
    mails = [Mail(n, f"user{n}@example.com", f"user{n}", "s" * 86, "12345") for n in range(ENTRIES)]
    requests = Requests(client, source="noreply@localhost", config_set="default", site=uuid4())
    return requests.write(ACTIVATION, [(mail, mail.address) for mail in mails], batch=str(uuid4()))


def main(calls: int, threads: int) -> None:
    """Make the calls, as many in each thread."""
    client = ses.connect(region="eu-west-1", connections=threads)
    asked = ready_made(client)

    def loop() -> None:
        for _ in range(calls // threads):
            client.send_bulk_email(**asked)

    loops = [threading.Thread(target=loop) for _ in range(threads)]
    await_go()
    began = time.perf_counter()
    for each in loops:
        each.start()
    for each in loops:
        each.join()
    print(f"calls={calls // threads * threads} seconds={time.perf_counter() - began}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
