"""The simulator's own interface, below `/_simulator`: the ledger, the faults and the account, as JSON."""

from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mailroom.simulator.faults import Fault
from mailroom.simulator.ses import Ses

FAULTS = TypeAdapter(list[Fault])
NEWEST = 100


class Control:
    """Reads and changes the state of one `Ses`."""

    def __init__(self, ses: Ses) -> None:
        self._ses = ses

    def routes(self) -> list[Route]:
        return [
            Route("/_simulator/ledger", self.ledger, methods=["GET"]),
            Route("/_simulator/ledger", self.clear_ledger, methods=["DELETE"]),
            Route("/_simulator/counts", self.counts, methods=["GET"]),
            Route("/_simulator/inbox", self.inbox, methods=["GET"]),
            Route("/_simulator/faults", self.faults, methods=["GET"]),
            Route("/_simulator/faults", self.add_faults, methods=["POST"]),
            Route("/_simulator/faults", self.clear_faults, methods=["DELETE"]),
            Route("/_simulator/account", self.account, methods=["GET"]),
            Route("/_simulator/account", self.change_account, methods=["PATCH"]),
        ]

    # Those that are not coroutines run in a thread, so that a large ledger does not hold up SES.

    def ledger(self, _: Request) -> Response:
        return JSONResponse(self._ses.ledger.as_json())

    def clear_ledger(self, _: Request) -> Response:
        self._ses.ledger.clear()
        return Response(status_code=204)

    async def counts(self, _: Request) -> Response:
        return JSONResponse(asdict(self._ses.ledger.counts()))

    def inbox(self, request: Request) -> Response:
        """The newest mails, `limit` of them, `after` the one with this message id."""
        limit = request.query_params.get("limit", "")
        most = int(limit) if limit.isdecimal() and len(limit) < 10 else NEWEST
        newest = self._ses.ledger.newest(most, request.query_params.get("after"))
        return JSONResponse({**asdict(self._ses.ledger.counts()), "newest": [mail.as_json() for mail in newest]})

    async def faults(self, _: Request) -> Response:
        return JSONResponse(FAULTS.dump_python(self._ses.faults.pending(), mode="json"))

    async def add_faults(self, request: Request) -> Response:
        try:
            self._ses.faults.add(*FAULTS.validate_json(await request.body()))
        except ValidationError as error:
            return refused(error)
        return Response(status_code=204)

    async def clear_faults(self, _: Request) -> Response:
        self._ses.faults.clear()
        return Response(status_code=204)

    async def account(self, _: Request) -> Response:
        return JSONResponse(self._ses.account.model_dump(mode="json"))

    async def change_account(self, request: Request) -> Response:
        try:
            self._ses.account.change(await request.body())
        except ValidationError as error:
            return refused(error)
        return await self.account(request)


def refused(error: ValidationError) -> Response:
    """What is wrong with the body of a request; not what it held, which JSON may be unable to say."""
    told = error.errors(include_url=False, include_context=False, include_input=False)
    return JSONResponse({"errors": told}, status_code=400)
