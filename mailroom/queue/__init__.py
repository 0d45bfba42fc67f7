"""Jobs on their way: claimed, settled, rescued, changed by hand. For the worker; PostgreSQL decides every race.

Claim, look, rescue and settle are one statement each, but for what is settled late. On a connection that commits by
itself that is one transaction, as the worker has it.
"""

from mailroom.queue.claim import BUSY_WAIT, claim
from mailroom.queue.look import View, look
from mailroom.queue.rescue import rescue
from mailroom.queue.settle import return_abandoned, settle, settle_and_look

__all__ = ["BUSY_WAIT", "View", "claim", "look", "rescue", "return_abandoned", "settle", "settle_and_look"]
