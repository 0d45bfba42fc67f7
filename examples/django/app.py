"""Sign-up, a link, a recovery, and the operator's window behind the application's own login: Django, as ASGI.

pip install django uvicorn '../..[window]', set the variables that are read below, then: uvicorn app:application
"""

import os
from contextlib import suppress
from hmac import compare_digest

import django
from django.conf import settings
from django.core import asgi, signing
from django.db import DataError, IntegrityError, connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path
from psycopg.conninfo import conninfo_to_dict
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Router

from mailroom import tokens, window
from mailroom.db.engine import connect_engine, connection_string
from mailroom.errors import TokenError

URL, HOSTS = os.environ["MAILROOM_DATABASE_URL"], os.environ.get("HOSTS", "127.0.0.1").split(",")
KEYS = [tokens.key(each) for each in os.environ["MAILROOM_SECRET_KEY"].split(",")]
FORM = "<form method=post action='/{}'><input name={}><button>{}</button></form>".format
HOME = FORM("sign-up", "email", "Join") + FORM("forgotten", "email", "Forgotten") + FORM("login", "password", "Staff")
LINK = "<form method=post>Code, if the mail has one: <input name=code><button>Go on</button></form>"
LIBPQ = conninfo_to_dict(connection_string(URL))
BASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": LIBPQ.pop("dbname"), "OPTIONS": LIBPQ}}
settings.configure(ALLOWED_HOSTS=HOSTS, ROOT_URLCONF=__name__, SECRET_KEY=os.environ["SESSION_KEY"], DATABASES=BASES)
django.setup()
engine = connect_engine(URL, pool_size=5, isolation_level="READ COMMITTED")
connection.cursor().execute("CREATE TABLE IF NOT EXISTS users (id serial, mailbox text UNIQUE)")
SIGN_UP = "WITH new AS (INSERT INTO users (mailbox) VALUES (mailroom.address_key(%(email)s)) ON CONFLICT DO NOTHING "
SIGN_UP += "RETURNING id) SELECT mailroom.add_account(%(email)s, %(email)s, reference => CAST(id AS text)) FROM new"
# Whichever fits is mailed. Limit both first: `mailroom actions set activation --per-day 10`.
FORGOTTEN = "SELECT mailroom.request_mail(kind, NULL, id::text) FROM users, unnest(ARRAY['activation', "
FORGOTTEN += "'password_recovery']) AS kind WHERE mailbox = mailroom.address_key(%(email)s)"


def may(request: Request) -> window.Visitor | Response:
    try:
        return window.Visitor(signing.loads(request.cookies.get("staff", ""), max_age=3600), window.LOOK)
    except signing.BadSignature:
        return RedirectResponse("/", 303)


def ask(request: HttpRequest, words: str) -> HttpResponse:
    with suppress(DataError, IntegrityError), transaction.atomic():  # the mail commits with the user, or not at all
        connection.cursor().execute(words, {"email": request.POST.get("email", "")})
        return HttpResponse("Look into your mails.")  # the same answer, whoever asks
    return HttpResponse("That is no address.", status=422)


def link(request: HttpRequest, action: str) -> HttpResponse:
    if request.method != "POST":
        return HttpResponse(LINK)  # scanners GET every link
    given = {"action": action, "key": KEYS, "code": request.POST.get("code")}
    try:
        with engine.begin() as own:
            return HttpResponse(f"Welcome, user {tokens.consume(own, request.GET['token'], **given).reference}.")
    except TokenError:
        return HttpResponse("This link is not good, or not any more.", status=400)


def log_in(request: HttpRequest) -> HttpResponse:
    answer = HttpResponseRedirect("/mail/")
    if compare_digest(request.POST["password"].encode(), os.environ["STAFF_PASSWORD"].encode()):
        answer.set_cookie("staff", signing.dumps("staff"), samesite="Strict", httponly=True)
    return answer


ROUTES = [("", lambda _: HttpResponse(HOME)), ("sign-up", ask, {"words": SIGN_UP}), ("login", log_in)]
ROUTES += [("forgotten", ask, {"words": FORGOTTEN}), ("activate", link, {"action": "activation"})]
urlpatterns = [path(*route) for route in [*ROUTES, ("recover", link, {"action": "password_recovery"})]]
mail = window.application(connect_engine(URL, pool_size=3, writes=False), may=may, names=HOSTS)
application = Router(routes=[Mount("/mail", mail)], default=asgi.get_asgi_application())
