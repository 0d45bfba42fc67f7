"""An Amazon SES on loopback: real clients, real limits, faults on demand. For the demo, the tests and your own."""

from mailroom.simulator.account import Account
from mailroom.simulator.faults import Fault, Faults
from mailroom.simulator.feed import FeedSettings
from mailroom.simulator.happenings import FATES, Happening, state
from mailroom.simulator.ledger import Ledger
from mailroom.simulator.records import Counts, Mail, Request
from mailroom.simulator.server import Simulator, serve

__all__ = [
    "FATES",
    "Account",
    "Counts",
    "Fault",
    "Faults",
    "FeedSettings",
    "Happening",
    "Ledger",
    "Mail",
    "Request",
    "Simulator",
    "serve",
    "state",
]
