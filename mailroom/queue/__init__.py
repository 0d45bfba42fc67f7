"""Jobs on their way: claimed, settled, rescued, changed by hand. For the worker; PostgreSQL decides every race."""

from mailroom.queue.claim import BUSY_WAIT, View, claim, give_back_abandoned, look, rescue, settle

__all__ = ["BUSY_WAIT", "View", "claim", "give_back_abandoned", "look", "rescue", "settle"]
