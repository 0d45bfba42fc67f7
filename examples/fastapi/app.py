"""Sign-up, a link, a recovery, and the operator's window behind the application's own login.

pip install fastapi itsdangerous uvicorn '../..[window]', set what is read below, then: uvicorn app:app
"""

import os
from hmac import compare_digest
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import exc, text
from starlette.middleware.sessions import SessionMiddleware

from mailroom import tokens, window
from mailroom.db.engine import connect_engine
from mailroom.errors import TokenError

URL, HOSTS = os.environ["MAILROOM_DATABASE_URL"], os.environ.get("HOSTS", "127.0.0.1").split(",")
KEYS = [tokens.key(each) for each in os.environ["MAILROOM_SECRET_KEY"].split(",")]
ASK = "<form method=post action='{}'><input name={}><button>{}</button></form>"
PAGES = [("sign-up", "email"), ("forgotten", "email"), ("login", "password type=password")]
HOME = "".join(ASK.format(f"/{action}", field, action) for action, field in PAGES)
LINK = "<form method=post>Code, if the mail has one: <input name=code><button>Go on</button></form>"
FORGOTTEN = "SELECT mailroom.request_mail(kind, reference => CAST(id AS text)) FROM users, unnest(ARRAY['activation', "
FORGOTTEN += "'password_recovery']) AS kind WHERE mailbox = mailroom.address_key(:email)"
with (engine := connect_engine(URL, pool_size=5, isolation_level="READ COMMITTED")).begin() as connection:
    connection.execute(text("CREATE TABLE IF NOT EXISTS users (id serial, mailbox text UNIQUE)"))


async def read_form(request: Request) -> dict[str, str]:
    return {"email": "", "password": ""} | dict(parse_qsl((await request.body()).decode()))


def may(request: Request) -> window.Visitor | Response:
    return window.Visitor("staff", window.LOOK) if request.session.get("staff") else RedirectResponse("/", 303)


Form = Annotated[dict[str, str], Depends(read_form)]
BAD = dict.fromkeys((exc.IntegrityError, exc.DataError), lambda *_: HTMLResponse("That is no address.", 422))
app = FastAPI(default_response_class=HTMLResponse, exception_handlers=BAD)
app.mount("/mail", window.application(connect_engine(URL, pool_size=3, writes=False), may=may, names=HOSTS))
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_KEY"], same_site="strict")
app.add_exception_handler(TokenError, lambda *_: HTMLResponse("This link is not good, or not any more.", 400))
app.get("/")(lambda: HOME)
app.get("/activate")(app.get("/recover")(lambda: LINK))  # scanners GET every link


@app.post("/sign-up")
def sign_up(form: Form) -> str:
    with engine.begin() as connection:  # the mail commits with the user, or not at all
        new = "INSERT INTO users (mailbox) VALUES (mailroom.address_key(:email)) ON CONFLICT DO NOTHING RETURNING id"
        if user := connection.scalar(text(new), form):
            add = text("SELECT mailroom.add_account(:email, :email, reference => CAST(:user AS text))")
            connection.execute(add, form | {"user": user})
    return "Look into your mails."  # the same answer, whoever asks


@app.post("/forgotten")
def forgotten(form: Form) -> str:
    with engine.begin() as connection:  # whichever fits is mailed; `mailroom actions set activation --per-day 10` first
        connection.execute(text(FORGOTTEN), form)
    return "Look into your mails."


@app.post("/activate")
@app.post("/recover")
def use(token: str, form: Form, request: Request) -> str:
    action = "activation" if request.url.path == "/activate" else "password_recovery"
    with engine.begin() as connection:  # after a recovery, set the new password in this transaction
        user = tokens.consume(connection, token, action=action, key=KEYS, code=form.get("code")).reference
    return f"Welcome, user {user}."


@app.post("/login")
def log_in(form: Form, request: Request) -> Response:
    request.session["staff"] = compare_digest(form["password"].encode(), os.environ["STAFF_PASSWORD"].encode())
    return RedirectResponse("/mail/", 303)
