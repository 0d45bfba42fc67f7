"""The environment, read once, checked and typed. For the command line: everything below it takes plain values."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mailroom.db.namespace import DEFAULT_SCHEMA
from mailroom.errors import SettingsError
from mailroom.mail.transport import MAX_CALL_TIME
from mailroom.settings.values import (
    MAX_PORT,
    ON_LOOPBACK,
    QUEUE,
    SQS,
    Address,
    CallRate,
    Channel,
    DatabaseUrl,
    Days,
    Folder,
    MailRate,
    Milliseconds,
    Password,
    Queue,
    Region,
    Schema,
    SecretKeys,
    Sender,
    matching,
    shown,
)

PREFIX: Final = "MAILROOM_"
# Values that are never repeated in a message, nor in the repr of the settings.
SECRET: Final = {"database_url", "listen_database_url", "secret_key", "window_actions_database_url", "window_password"}
MIN_SWEEP_INTERVAL: Final = timedelta(milliseconds=10)

# A claim takes its time, and a call begins only if it can end within the lease.
MIN_LEASE: Final = MAX_CALL_TIME + timedelta(seconds=3)
# Each check is a notification, and each of those a lock of the whole cluster.
MIN_HEALTHCHECK: Final = timedelta(seconds=1)


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


class Settings(BaseSettings):
    """What the environment says; each field is the variable of its name, with MAILROOM_ in front."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, validate_default=False)

    database_url: DatabaseUrl = Field(
        "", repr=False, description="PostgreSQL database with the queue, as in postgresql://host/name; required"
    )
    listen_database_url: DatabaseUrl = Field(
        "",
        repr=False,
        description="direct connection for LISTEN, if the other goes through PgBouncer; by default the same database",
    )
    # pydantic has a `schema` of its own.
    schema_name: Schema = Field(
        DEFAULT_SCHEMA,
        validation_alias=f"{PREFIX}SCHEMA",
        description="schema of the tables and functions; `mailroom migrate` makes it",
    )
    secret_key: SecretKeys = Field(
        (),
        repr=False,
        description="64 hex digits that sign the links; required to send."
        " Of several keys, with commas between them, the first signs and all verify",
    )
    channel_name: Channel = Field("token_insert", description="channel to LISTEN on")
    queue_name: Queue = Field("mailroom", description="queue to take jobs from")
    healthcheck_interval: Milliseconds = Field(
        timedelta(milliseconds=270_000), description="how often an idle LISTEN connection is tested"
    )
    batch_timeout: Milliseconds = Field(timedelta(milliseconds=5_000), description="maximum wait for a batch to fill")
    batch_limit: int = Field(10, ge=1, le=50, description="maximum number of jobs in a batch, 1 to 50")
    sweep_interval: Milliseconds = Field(timedelta(milliseconds=5_000), description="how often a worker sweeps")
    lease: Milliseconds = Field(timedelta(milliseconds=30_000), description="how long a claim holds its jobs")
    on_unconfirmed: Literal["resend", "hold"] = Field(
        "resend", description="what to do with a mail that may have been sent: resend or hold"
    )
    prune_after: Days = Field(
        None, description="how many days finished jobs are kept, as in 90d; by default they are never deleted"
    )
    unconfirmed_wait: Milliseconds | None = Field(
        None,
        description="how long to wait for a late answer before an unconfirmed mail is sent again;"
        " by default 5000, and 60000 while events of SES are heard",
    )
    debug: bool = Field(False, description="print each request to stdout instead of sending it")
    ses_config_set: Annotated[str, matching(r"[A-Za-z0-9_-]{0,64}", "at most 64 letters, digits, _ or -")] = Field(
        "default", description="configuration set of SES; empty for none"
    )
    ses_source: Sender = Field("noreply@localhost", description="sender address")
    ses_rate: MailRate = Field(
        None,
        description="maximum mails a second of all workers and sweeps together;"
        " by default 0.9 of what SES allows the account",
    )
    ses_bulk_rate: CallRate = Field(
        1, description="maximum bulk calls a second of all workers and sweeps together, or unlimited"
    )
    # botocore reads AWS_DEFAULT_REGION alone, while every other AWS tool reads this one.
    aws_region: Region = Field(
        None, validation_alias="AWS_REGION", description="region of SES; by default that of the AWS configuration"
    )
    events_queue_url: str = Field(
        "",
        description="URL of the SQS queue that SES's events come through; by default none is read",
    )
    aws_endpoint_url_sqs: str | None = Field(
        None, validation_alias="AWS_ENDPOINT_URL_SQS", description="where SQS is; by default at AWS"
    )
    ses_output_path: Folder = Field(
        None,
        description="folder for raw error answers of SES; by default ./output for send, and none for worker and sweep",
    )

    window_password: Password = Field(
        "",
        repr=False,
        description="password of the window, for any user name; by default it needs none, on this machine",
    )
    window_actions_database_url: DatabaseUrl = Field(
        "",
        repr=False,
        description="the same database with the role worker, to act from the window; by default it only looks",
    )
    probe_address: Address = Field(
        None,
        description="port for probes and metrics of a worker, on loopback, or ADDRESS:PORT; by default there is none",
    )
    log_format: Literal["text", "json"] = Field("text", description="how the log is written: text or json")

    @property
    def signing_key(self) -> bytes:
        """The key that signs. There must be one."""
        return self.secret_key[0]

    @property
    def events_endpoint(self) -> str | None:
        """Where the queue of events is, if on this machine and no variable of AWS says so; None: as those say."""
        here = ON_LOOPBACK.match(self.events_queue_url)
        return here[0] if here and not self.aws_endpoint_url_sqs else None

    @model_validator(mode="after")
    def _queue_is_one(self) -> Self:
        url = self.events_queue_url
        here = ON_LOOPBACK.match(url)
        known = SQS.fullmatch(url) or (QUEUE.fullmatch(url) and (here or self.aws_endpoint_url_sqs))
        if url and (not known or (here and int(here[1] or MAX_PORT) > MAX_PORT)):
            raise ValueError(
                f"{PREFIX}EVENTS_QUEUE_URL: {shown(url)} is not accepted: the https:// URL of an SQS queue, as in"
                " https://sqs.eu-west-1.amazonaws.com/123456789012/mailroom-events; any other only with"
                " AWS_ENDPOINT_URL_SQS, or on this machine"
            )
        return self

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if self.sweep_interval < MIN_SWEEP_INTERVAL:
            raise self._unfit("sweep_interval", f"at least {_ms(MIN_SWEEP_INTERVAL)} ms")
        if self.healthcheck_interval < self.batch_timeout:
            raise self._unfit("healthcheck_interval", f"at least MAILROOM_BATCH_TIMEOUT, {_ms(self.batch_timeout)} ms")
        if self.lease < MIN_LEASE:
            longest = f"{_ms(MIN_LEASE)} ms: the longest SES call and {_ms(MIN_LEASE - MAX_CALL_TIME)} ms to spare"
            raise self._unfit("lease", f"at least {longest}")
        if self.healthcheck_interval < MIN_HEALTHCHECK:
            raise self._unfit("healthcheck_interval", f"at least {_ms(MIN_HEALTHCHECK)} ms")
        return self

    def _unfit(self, name: str, accepted: str) -> ValueError:
        given = f"{_ms(getattr(self, name))} ms"
        return ValueError(f"{PREFIX}{name.upper()}: {given} is not accepted: {accepted}")


def load(*required: str, **overrides: Any) -> Settings:
    """Read and check the environment; keywords override it, except where they are None.

    `required` names fields that this command cannot do without. Raises SettingsError: one line that names the
    variable, its value unless that is a secret, and what is accepted.
    """
    _refuse_two_spellings()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(detail) for detail in error.errors())) from None
    for name in required:
        if not getattr(settings, name):
            meaning = Settings.model_fields[name].description
            raise SettingsError(f"{variable(name)} is not set: {meaning}")
    return settings


def log_format() -> str:
    """Return how the log is to be written, before the settings are checked: what is not accepted, `load` tells."""
    found = {name.upper(): value for name, value in os.environ.items()}  # pydantic takes any case, too
    return "json" if found.get(f"{PREFIX}LOG_FORMAT") == "json" else "text"


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who started the process wants to hear how it is, at this socket; and that it is alive, within that time."""

    address: str
    watchdog: timedelta | None


def supervisor() -> Supervisor | None:
    """Return what systemd says in the environment of a process that it supervises; None without one."""
    address, usec = os.environ.get("NOTIFY_SOCKET", ""), os.environ.get("WATCHDOG_USEC", "")
    if not address.startswith(("/", "@")):
        return None
    is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    # What is longer than thirty years is never: for that systemd writes a number of twenty digits.
    watched = is_ours and re.fullmatch(r"[1-9][0-9]{0,14}", usec) is not None
    return Supervisor(address, timedelta(microseconds=int(usec)) if watched else None)


def variable(name: str) -> str:
    """Return the variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias) if alias else f"{PREFIX}{name.upper()}"


def unknown_variables() -> list[str]:
    """Return the MAILROOM_ variables of the environment that nothing reads: most likely misspelt."""
    known = {variable(name) for name in Settings.model_fields}
    ours = {name for name in os.environ if name.upper().startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_")}
    return sorted(name for name in ours if name.upper() not in known)


def _refuse_two_spellings() -> None:
    """Raise SettingsError where a variable is there in capitals and otherwise: nobody knows which one is meant."""
    seen: dict[str, str] = {}
    for name in os.environ:
        other = seen.setdefault(name.upper(), name)
        if other != name and name.upper().startswith(PREFIX):
            raise SettingsError(f"{name.upper()} is set twice, as {other} and as {name}: unset one of them")


def _explain(detail: Any) -> str:
    accepted = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return accepted
    name = str(detail["loc"][0])  # of the field, or of the variable where that is another
    given = "its value" if name in SECRET else shown(detail["input"])
    return f"{variable(name) if name in Settings.model_fields else name}: {given} is not accepted: {accepted}"
