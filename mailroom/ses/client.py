"""The client of SES: region, credentials and time-outs, no retries of its own; and a new one where that may help."""

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore
from botocore import exceptions as boto
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.session import Session, get_session

from mailroom.errors import SettingsError
from mailroom.mail.transport import CONNECT_TIMEOUT, READ_TIMEOUT
from mailroom.ses import answer, network
from mailroom.ses.service_files import ServiceFiles

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

log = logging.getLogger(__name__)

T = TypeVar("T")
C = TypeVar("C")

# Credentials may come from a program, or from a server on this machine.
MAX_CONNECT: Final = timedelta(seconds=30)
_CREDENTIAL: Final = re.compile(r"[!-~]+")
# No longer than the wait for the first probe of a pause, which must find the new credentials.
RENEW_EVERY: Final = timedelta(seconds=2)


class Clients(Generic[C]):
    """The client that calls are made with, replaced by a new one where that may help. Safe to share between threads.

    A client reads credentials, profile, region and endpoint when it is made, and keeps them, and its connections, for
    ever. What was renewed outside only a new one finds.
    """

    def __init__(self, client: C, renew: Callable[[], C] | None, *, of: str = "SES") -> None:
        """`renew` makes a client like the first, from what is outside now; None: it is never replaced.

        `of` is the service, for the log.
        """
        self._client = client
        self._renew = renew
        self._of = of
        self._lock = threading.Lock()
        self._doubted = False
        self._renew_at = 0.0
        self._trouble = ""

    def doubt(self) -> None:
        """Have the next call made with a new client, but not more often than every RENEW_EVERY."""
        self._doubted = True

    def current(self) -> C:
        """Return the client for a call that begins now; calls in flight keep theirs.

        Where no new one can be made, because what is outside is half written, say, it is the one there was.
        """
        with self._lock:
            now = time.monotonic()
            if self._renew is None or not self._doubted or now < self._renew_at:
                return self._client
            # Whoever hangs in making one, if it is for ever, keeps nobody else from trying.
            self._doubted, self._renew_at = False, now + RENEW_EVERY.total_seconds()
        try:
            client = self._renew()
        except SettingsError as error:
            self._doubted = True
            self._note(str(error))
            return self._client
        self._note("")
        self._client = client
        return client

    def _note(self, trouble: str) -> None:
        if trouble not in {"", self._trouble}:
            log.warning("no new client of %s, the old one goes on: %s", self._of, trouble)
        self._trouble = trouble


def connect(
    *,
    region: str | None,
    connections: int,
    connect_timeout: timedelta = CONNECT_TIMEOUT,
    read_timeout: timedelta = READ_TIMEOUT,
    attempts: int = 1,
) -> "SESV2Client":
    """Return a client that sends each request once, or up to `attempts` times, whatever the environment says.

    More than once is for questions: botocore's default sends a bulk call up to five times after a time-out, 250 mails
    for 50. Without `region` it comes from boto3's own chain, as credentials and endpoint do; SettingsError if they make
    no sense or are missing. One client serves `connections` threads. Validation is off: requests are built here alone,
    and SES checks what botocore does not.
    """
    config = Config(
        user_agent=user_agent(),
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_timeout.total_seconds(),
        read_timeout=read_timeout.total_seconds(),
        max_pool_connections=connections,
        tcp_keepalive=True,
        parameter_validation=False,
    )
    return made(lambda session: session.client("sesv2", config=config), "SES", region=region)


def user_agent() -> str:
    """Return what our requests say they are from. botocore would put its own together twice for each: a sixth of it."""
    return f"mailroom Boto3/{boto3.__version__} Botocore/{botocore.__version__}"


def made(make: Callable[[boto3.Session], T], what: str, *, region: str | None) -> T:
    """Return a client that is made from what boto3's own chain says. Raises SettingsError, which names `what`."""
    _quieten()

    def make_it() -> tuple[T, Credentials | None]:
        session = boto3.Session(region_name=region or None, botocore_session=_session())
        if not session.region_name:  # botocore takes an empty name for one, and blames the endpoint that it makes of it
            raise boto.NoRegionError
        client: Any = make(session)
        _check_endpoint(client.meta.endpoint_url)
        client.meta.events.register("before-parse", answer.drop_foreign_body)
        return client, session.get_credentials()

    try:
        client, credentials = network.with_deadline(make_it, within=MAX_CONNECT)
    except network.FailedError as error:
        if isinstance(error.cause, boto.NoRegionError):
            raise SettingsError(f"{what} cannot be used: {error.cause} Set AWS_REGION.") from error
        if type(error.cause) is ValueError:  # botocore's, of an endpoint: it quotes it, which may hold a password
            raise SettingsError(
                f"{what} cannot be used: its endpoint is not a URL such as http://127.0.0.1:8025:"
                f" check AWS_ENDPOINT_URL_{what.replace('SES', 'SESV2')}, AWS_ENDPOINT_URL and the AWS configuration"
            ) from error
        raise SettingsError(f"{what} cannot be used: {error.code}: check the AWS_ variables") from error
    if credentials is None:
        raise SettingsError(
            f"{what} cannot be used: no AWS credentials were found (AWS_ACCESS_KEY_ID, a profile, a role)"
        )
    if not _can_sign(credentials):
        raise SettingsError(
            f"{what} cannot be used: an AWS credential has a blank or a line end in it, or other letters than ASCII:"
            " check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and the file of credentials"
        )
    return client


def _session() -> Session:
    """Return a session that reads botocore's files as we do, wherever they are (AWS_DATA_PATH)."""
    session = get_session()
    session.get_component("data_loader").file_loader = ServiceFiles()
    return session


def _can_sign(found: Credentials) -> bool:
    """Whether a request can be signed with these, as far as that is known here: others are asked for at each call."""
    if type(found) is not Credentials:
        return True
    parts = (found.access_key, found.secret_key, found.token)
    return all(_CREDENTIAL.fullmatch(part) for part in parts if part)


def _check_endpoint(url: str) -> None:
    """Raise ValueError for a URL that no call could be made to: botocore would say so at each call, and not here."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.port == 0:  # or it raises, for what is no port
        raise ValueError("not a URL of a server")


def _quieten() -> None:
    """Keep the libraries from logging what nobody may read."""
    for name in ("boto3", "botocore", "urllib3"):  # at DEBUG they print request bodies, secrets included
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("botocore.credentials", "urllib3.connection"):  # they warn with tracebacks and with what others wrote
        logging.getLogger(name).setLevel(logging.ERROR)
