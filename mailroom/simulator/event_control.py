"""The part of the simulator's own interface that is about events: what becomes of a mail, the feed, the queues."""

from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mailroom.simulator.control import refused
from mailroom.simulator.happenings import FATES, Happening
from mailroom.simulator.publishing import happen
from mailroom.simulator.queues import Queue
from mailroom.simulator.ses import Ses

STORY = TypeAdapter(list[Happening])


class EventControl:
    """Reads and changes the state of one `Ses`."""

    def __init__(self, ses: Ses) -> None:
        self._ses = ses

    def routes(self) -> list[Route]:
        mail = "/_simulator/mails/{message_id}/events"
        queue = "/_simulator/queues/{name}"
        return [
            Route(mail, self.story, methods=["GET"]),
            Route(mail, self.happen, methods=["POST"]),
            Route(mail + "/{fate}", self.meet_fate, methods=["POST"]),
            Route("/_simulator/feed", self.feed, methods=["GET"]),
            Route("/_simulator/feed", self.change_feed, methods=["PATCH"]),
            Route("/_simulator/queues", self.queues, methods=["GET"]),
            Route(queue, self.create_queue, methods=["PUT"]),
            Route(queue, self.change_queue, methods=["PATCH"]),
            Route(queue, self.delete_queue, methods=["DELETE"]),
        ]

    async def story(self, request: Request) -> Response:
        """What became of a mail so far."""
        return JSONResponse(
            STORY.dump_python(list(self._ses.ledger.story(request.path_params["message_id"])), mode="json")
        )

    async def happen(self, request: Request) -> Response:
        """Let the events of the body, a list, happen to a mail."""
        try:
            return self._happen(request, STORY.validate_json(await request.body()))
        except ValidationError as error:
            return refused(error)

    async def meet_fate(self, request: Request) -> Response:
        """Let a mail have what ends the story of an address such as bounce@."""
        fate = FATES.get(request.path_params["fate"])
        return _unknown() if fate is None else self._happen(request, [fate[-1]])

    async def feed(self, _: Request) -> Response:
        return JSONResponse(self._ses.feed.settings.model_dump(mode="json"))

    async def change_feed(self, request: Request) -> Response:
        try:
            self._ses.feed.change(await request.body())
        except ValidationError as error:
            return refused(error)
        return await self.feed(request)

    async def queues(self, _: Request) -> Response:
        return JSONResponse([_described(queue) for queue in self._ses.queues.all()])

    async def create_queue(self, request: Request) -> Response:
        """Make a queue, new and empty, with the dead-letter queue that `dead_letters` names."""
        queue = self._ses.queues.create(request.path_params["name"], request.query_params.get("dead_letters"))
        return JSONResponse(_described(queue), status_code=201)

    async def change_queue(self, request: Request) -> Response:
        queue = self._ses.queues.find(request.path_params["name"])
        if queue is None:
            return _unknown()
        try:
            queue.change(await request.body())
        except ValidationError as error:
            return refused(error)
        return JSONResponse(_described(queue))

    async def delete_queue(self, request: Request) -> Response:
        self._ses.queues.delete(request.path_params["name"])
        return Response(status_code=204)

    def _happen(self, request: Request, story: list[Happening]) -> Response:
        mail = self._ses.ledger.find(request.path_params["message_id"])
        if mail is None:
            return _unknown()
        happen(self._ses, mail, story)
        return Response(status_code=204)


def _described(queue: Queue) -> dict[str, Any]:
    waiting, in_flight, delayed = queue.counts()
    counts = {"waiting": waiting, "in_flight": in_flight, "delayed": delayed, "dropped": queue.dropped}
    dead = queue.dead_letters.name if queue.dead_letters else None
    return {"name": queue.name, "dead_letters": dead, **counts, **queue.settings.model_dump(mode="json")}


def _unknown() -> Response:
    return JSONResponse({"message": "The simulator has no such mail, event or queue"}, status_code=404)
