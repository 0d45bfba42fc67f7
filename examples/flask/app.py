"""Sign-up, a link, a recovery, and the operator's window behind the application's own login, all in WSGI.

pip install flask a2wsgi gunicorn '../..[window]', set what is read below, then: gunicorn --threads 8 app:app
"""

import os
from hmac import compare_digest

from a2wsgi import ASGIMiddleware
from flask import Flask, redirect, request, session
from itsdangerous import BadSignature
from sqlalchemy import exc, text
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware

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
with (engine := connect_engine(URL, pool_size=8, isolation_level="READ COMMITTED")).begin() as connection:
    connection.execute(text("CREATE TABLE IF NOT EXISTS users (id serial, mailbox text UNIQUE)"))
app = Flask(__name__)
app.config |= {"SECRET_KEY": os.environ["SESSION_KEY"], "SESSION_COOKIE_SAMESITE": "Strict", "TRUSTED_HOSTS": HOSTS}
app.errorhandler(TokenError)(lambda _: ("This link is not good, or not any more.", 400))
app.errorhandler(exc.DataError)(app.errorhandler(exc.IntegrityError)(lambda _: ("That is no address.", 422)))
app.get("/", endpoint="home")(lambda: HOME)
app.get("/<any(activate, recover):link>", endpoint="link")(lambda link: LINK)  # scanners GET every link


def may(asked: Request) -> window.Visitor | Response:
    try:
        signed = app.session_interface.get_signing_serializer(app).loads(asked.cookies.get("session", ""))
    except BadSignature:
        signed = {}
    return window.Visitor("staff", window.LOOK) if signed.get("staff") else RedirectResponse("/", 303)


@app.post("/sign-up")
def sign_up() -> str:
    with engine.begin() as connection:  # the mail commits with the user, or not at all
        new = "INSERT INTO users (mailbox) VALUES (mailroom.address_key(:email)) ON CONFLICT DO NOTHING RETURNING id"
        if user := connection.scalar(text(new), {"email": request.form["email"]}):
            add = text("SELECT mailroom.add_account(:email, :email, reference => CAST(:user AS text))")
            connection.execute(add, {"email": request.form["email"], "user": user})
    return "Look into your mails."  # the same answer, whoever asks


@app.post("/forgotten")
def forgotten() -> str:
    with engine.begin() as connection:  # whichever fits is mailed; `mailroom actions set activation --per-day 10` first
        connection.execute(text(FORGOTTEN), request.form.to_dict())
    return "Look into your mails."


@app.post("/activate", defaults={"action": "activation"})
@app.post("/recover", defaults={"action": "password_recovery"})
def use(action: str) -> str:
    given = {"action": action, "key": KEYS, "code": request.form.get("code")}
    with engine.begin() as connection:  # after a recovery, set the new password in this transaction
        return f"Welcome, user {tokens.consume(connection, request.args['token'], **given).reference}."


@app.post("/login")
def log_in():
    session["staff"] = compare_digest(request.form["password"].encode(), os.environ["STAFF_PASSWORD"].encode())
    return redirect("/mail/")


mail = window.application(connect_engine(URL, pool_size=3, writes=False), may=may, names=HOSTS)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mail": ASGIMiddleware(mail)})
