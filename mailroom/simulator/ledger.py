"""The ledger: every request that came and every mail that was accepted, and what was accepted more than once."""

import itertools
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from mailroom.simulator.happenings import LISTED, PLAIN, Happening
from mailroom.simulator.records import Counts, Mail, Request

MAX_STORY = 100  # what is kept of what happened to one mail
TOKEN_TAG = "mailroom_token"  # noqa: S105  the name of a message tag, not a secret


class Ledger:
    """Exact counts, and the newest `limit` requests and mails in full (all of them without a limit)."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        # SES's own ids start with a time as well; ours differ between runs and sort within one.
        started = f"{time.time_ns() // 1_000_000:016x}"
        self._message_ids = (f"{started}-{number:012x}-000000" for number in itertools.count(1))
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._counts: Counter[str] = Counter()
            self._numbers = itertools.count(1)
            self._requests: deque[Request] = deque(maxlen=self._limit)
            self._mails: OrderedDict[str, Mail] = OrderedDict()
            self._tokens: Counter[str] = Counter()
            self._stories: dict[str, tuple[Happening, ...]] = {}

    def next_request(self) -> int:
        with self._lock:
            return next(self._numbers)

    def next_message_id(self) -> str:
        with self._lock:
            return next(self._message_ids)

    def record(self, request: Request, mails: Iterable[tuple[Mail, tuple[Happening, ...]]]) -> None:
        """Enter a request together with the mails it led to, each with what becomes of it by itself."""
        with self._lock:
            self._requests.append(request)
            self._counts["requests"] += 1
            for mail, story in mails:
                self._enter(mail)
                if story is not PLAIN:
                    self._note(mail.message_id, story)

    def note(self, message_id: str, happened: Sequence[Happening]) -> None:
        """Enter what happened to a mail, after what did before. At first it was sent and delivered, if nothing else."""
        with self._lock:
            self._note(message_id, (*self._stories.get(message_id, PLAIN), *happened), new=len(happened))

    def story(self, message_id: str) -> tuple[Happening, ...]:
        """What became of a mail so far, in order."""
        with self._lock:
            return self._stories.get(message_id, PLAIN)

    @property
    def requests(self) -> list[Request]:
        """Oldest first."""
        with self._lock:
            return list(self._requests)

    @property
    def mails(self) -> list[Mail]:
        """Oldest first."""
        with self._lock:
            return list(self._mails.values())

    def newest(self, limit: int, after: str | None = None) -> list[Mail]:
        """At most `limit` mails, newest first, none as old as the one with the message id `after`."""
        with self._lock:
            newer = itertools.takewhile(lambda mail: mail.message_id != after, reversed(self._mails.values()))
            return list(itertools.islice(newer, limit))

    def find(self, message_id: str) -> Mail | None:
        with self._lock:
            return self._mails.get(message_id)

    def counts(self) -> Counts:
        with self._lock:
            return Counts(**self._counts)

    def sent_tokens(self) -> Counter[str]:
        """How often a mail was accepted, by its tag `mailroom_token`."""
        with self._lock:
            return self._tokens.copy()

    def duplicates(self) -> dict[str, int]:
        """Of these, what was accepted more than once."""
        return {token: count for token, count in self.sent_tokens().items() if count > 1}

    def as_json(self) -> dict[str, Any]:
        requests = [asdict(request) | {"received_at": request.received_at.isoformat()} for request in self.requests]
        return {"requests": requests, "mails": [mail.as_json() for mail in self.mails], "duplicates": self.duplicates()}

    def _enter(self, mail: Mail) -> None:
        self._counts["mails"] += 1
        self._counts["rendering_failures"] += mail.missing is not None
        self._mails[mail.message_id] = mail
        if self._limit is not None and len(self._mails) > self._limit:
            forgotten, _ = self._mails.popitem(last=False)
            self._stories.pop(forgotten, None)
        if token := mail.tags.get(TOKEN_TAG):
            self._tokens[token] += 1
            self._counts["duplicates"] += self._tokens[token] == 2

    def _note(self, message_id: str, story: tuple[Happening, ...], *, new: int | None = None) -> None:
        """Keep a story if its mail is kept, and count the newest of what is in it, or all."""
        if message_id in self._mails:
            self._stories[message_id] = story[-MAX_STORY:]
        happened = story if new is None else story[len(story) - new :]
        self._counts["events"] += sum(one not in PLAIN for one in happened)
        self._counts["bounces"] += sum(one.type == "Permanent" and one.subtype != LISTED for one in happened)
        self._counts["complaints"] += sum(one.event == "Complaint" and one.subtype != LISTED for one in happened)
