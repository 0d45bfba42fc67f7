"""`/account` and `/doctor`: what Amazon SES said and when, and each check of the database with its cure."""

from collections.abc import Callable, Iterable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mailroom.finding import Finding, Level
from mailroom.ops.reputation import AWS_BOUNCES, AWS_COMPLAINTS
from mailroom.ops.words import several
from mailroom.window import views
from mailroom.window.overview import overview
from mailroom.window.rights import ACT
from mailroom.window.source import Seen

# Makes the checks of `mailroom doctor`, as far as they are about the database.
Checks = Callable[[], Iterable[Finding]]
# AWS's lines: from the first an account is under review, from the second it may be stopped.
AWS: Final = {"bounce": AWS_BOUNCES, "complaint": AWS_COMPLAINTS}


def routes() -> list[Route]:
    """Return the routes of the page of the account."""
    return [
        Route("/account", account),
        Route("/doctor", offer),
        Route("/doctor", examine, methods=["POST"]),
    ]


def account(request: Request) -> Response:
    """Show what SES allows the account, how much of it is used, and how mails are taken."""
    seen: Seen = request.app.state.source.see()
    found = None if seen.reading is None else overview(seen, seen.reading)
    return views.page(request, "account.html", seen, reading=seen.reading, foreign=seen.foreign, found=found, aws=AWS)


def offer(request: Request) -> Response:
    """Offer the checks; they are made on request."""
    may = request.app.state.checks is not None and views.visitor(request).right == ACT
    return views.page(request, "doctor.html", request.app.state.source.see(), findings=None, said="", may=may)


def examine(request: Request) -> Response:
    """Make the checks."""
    if request.app.state.checks is None or views.visitor(request).right != ACT:
        raise HTTPException(403, "The checks need the rights of a worker; run `mailroom doctor`.")
    findings = sorted(request.app.state.checks(), key=lambda each: list(Level).index(each.level), reverse=True)
    return views.page(
        request, "doctor.html", request.app.state.source.see(), findings=findings, said=_said(findings), may=True
    )


def _said(findings: Iterable[Finding]) -> str:
    """Say how the checks ended."""
    levels = [finding.level for finding in findings]
    failed, doubtful = levels.count(Level.FAILED), levels.count(Level.WARNING)
    if failed:
        return f"{several(failed, 'check')} of {len(levels)} failed."
    return f"{several(doubtful, 'thing')} to judge." if doubtful else f"All is well: {several(len(levels), 'check')}."
