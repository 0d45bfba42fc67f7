"""Every error that mailroom raises on purpose, as a tree."""


class MailroomError(Exception):
    """Anything mailroom raises on purpose; the command line prints it as one line and exits 1."""


class SettingsError(MailroomError):
    """The environment or the command line is incomplete or malformed (exit 2)."""


class DatabaseError(MailroomError):
    """The database cannot be reached, or this release may not work on it."""


class TokenError(MailroomError):
    """A link cannot be trusted. It says no more than that, on purpose: whoever sends it may be guessing."""

    def __init__(self) -> None:
        super().__init__("the token is not valid")


class TokenConflictError(TokenError):
    """Others were in the way, and nothing is known of the link: the transaction may succeed if it is tried again."""

    def __init__(self) -> None:
        MailroomError.__init__(self, "others were in the way: try again")


class LineError(MailroomError):
    """A line on the input of `send` is not one that `collect` writes."""


class UnknownActionError(LineError):
    """A line has the number of a kind of mail that is not known: it may be a new one."""


class TransportError(MailroomError):
    """A transport took none of the mails it was given, and will take no more."""


class FeedError(MailroomError):
    """The queue of events cannot be read, or nothing can be deleted from it: it says why in a word."""
