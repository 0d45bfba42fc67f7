"""Amazon SES: each request sent exactly once, and every answer understood. For the commands that send, and doctor."""

from mailroom.ses.account import account, connect_to_ask
from mailroom.ses.client import connect
from mailroom.ses.doctor import examine
from mailroom.ses.event_doctor import examine_events
from mailroom.ses.event_queue import EventQueue, connect_to_queue
from mailroom.ses.templates import Templates
from mailroom.ses.transport import SesTransport

__all__ = [
    "EventQueue",
    "SesTransport",
    "Templates",
    "account",
    "connect",
    "connect_to_ask",
    "connect_to_queue",
    "examine",
    "examine_events",
]
