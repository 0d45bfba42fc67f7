"""The error that SES answers a call with."""

from mailroom.simulator.service import error_statuses


class SesError(Exception):
    """An error answer: the exception's name, its message, its HTTP status (from the model; 400 if it has none)."""

    def __init__(self, name: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.status = status or error_statuses().get(name, 400)


def bad_request(message: str) -> SesError:
    return SesError("BadRequestException", message)


def not_found(message: str) -> SesError:
    return SesError("NotFoundException", message)
