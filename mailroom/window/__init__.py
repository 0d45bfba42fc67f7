"""The operator's window: a page that says whether mail leaves, and why not. For who is on call.

`application` is what `mailroom window` serves, and what an application mounts behind its own login.
"""

from mailroom.window.application import application
from mailroom.window.rights import ACT, LOOK, Visitor

__all__ = ["ACT", "LOOK", "Visitor", "application"]
