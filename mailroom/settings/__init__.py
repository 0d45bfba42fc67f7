"""The environment, read once, checked and typed. Everything below the command line takes plain values."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mailroom.db.engine import URL_FORMS, connection_string
from mailroom.db.namespace import DEFAULT_SCHEMA
from mailroom.errors import SettingsError
from mailroom.mail.transport import MAX_CALL_TIME

PREFIX: Final = "MAILROOM_"
# Values that are never repeated in a message, nor in the repr of the settings.
SECRET: Final = {"database_url", "listen_database_url", "secret_key"}
MIN_SWEEP_INTERVAL: Final = timedelta(milliseconds=10)
MIN_RATE: Final = 0.01
MAX_NAME_BYTES: Final = 63  # PostgreSQL's


def _milliseconds(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if re.fullmatch(r"[0-9]{1,9}", str(value)) is None:
        raise ValueError("a whole number of milliseconds, at most 999999999")
    return timedelta(milliseconds=int(str(value)))


def days(value: object) -> timedelta | None:
    """Read a number of days, such as 90d. Raises ValueError, which says what is accepted."""
    if value is None or isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"([1-9][0-9]{0,3})d", str(value))
    if found is None:
        raise ValueError("a number of days, 1d to 9999d")
    return timedelta(days=int(found[1]))


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _secret_keys(value: object) -> tuple[bytes, ...]:
    if isinstance(value, tuple):
        return value
    if re.fullmatch(r"[0-9a-fA-F]{64}(,[0-9a-fA-F]{64})*", str(value)) is None:
        raise ValueError("64 hex digits, or several such keys with commas between them")
    return tuple(bytes.fromhex(key) for key in str(value).split(","))


def _rate(value: object) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", str(value)) is None or float(str(value)) < MIN_RATE:
        raise ValueError(f"a number a second, at least {MIN_RATE:g}")
    return float(str(value))


def _mail_rate(value: object) -> float | None:
    return None if value in (None, "") else _rate(value)


def _call_rate(value: object) -> float | None:
    return None if value in (None, "unlimited") else _rate(value)


def _matching(pattern: str, meaning: str) -> AfterValidator:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(meaning)
        return value

    return AfterValidator(check)


def _database_url(value: str, info: ValidationInfo) -> str:
    try:
        connection_string(value)
    except SettingsError:
        raise ValueError(URL_FORMS) from None
    return value


def _channel(value: str) -> str:
    # LISTEN cuts a longer name off, and NOTIFY refuses it: nothing would be heard.
    if re.fullmatch(r"\S+", value) is None or len(value.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ValueError(f"1 to {MAX_NAME_BYTES} characters without blanks, at most {MAX_NAME_BYTES} bytes in UTF-8")
    return value


def _schema(value: str) -> str:
    # PostgreSQL keeps the first two for itself, and reads the third in a search_path as the name of the role.
    kept = value.startswith("pg_") or value in ("information_schema", "$user")
    unwritable = re.search(r"[\0\ud800-\udfff]", value)  # a surrogate: the environment is not UTF-8
    if kept or unwritable or not 1 <= len(value.encode(errors="replace")) <= MAX_NAME_BYTES:
        raise ValueError(
            f"the name of a schema, 1 to {MAX_NAME_BYTES} bytes in UTF-8, not pg_…, information_schema or $user"
        )
    return value


Milliseconds = Annotated[timedelta, BeforeValidator(_milliseconds)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]


# A claim takes its time, and a call begins only if it can end within the lease.
MIN_LEASE: Final = MAX_CALL_TIME + timedelta(seconds=3)
# Each check is a notification, and each of those a lock of the whole cluster.
MIN_HEALTHCHECK: Final = timedelta(seconds=1)


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
    schema_name: Annotated[str, AfterValidator(_schema)] = Field(
        DEFAULT_SCHEMA,
        validation_alias=f"{PREFIX}SCHEMA",
        description="schema of the tables and functions; `mailroom migrate` makes it",
    )
    secret_key: Annotated[tuple[bytes, ...], NoDecode, BeforeValidator(_secret_keys)] = Field(
        (),
        repr=False,
        description="64 hex digits that sign the links; required to send."
        " Of several keys, with commas between them, the first signs and all verify",
    )
    channel_name: Annotated[str, AfterValidator(_channel)] = Field("token_insert", description="channel to LISTEN on")
    queue_name: Annotated[str, _matching(r"\S{1,63}", "1 to 63 characters without blanks")] = Field(
        "mailroom", description="queue to take jobs from"
    )
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
    prune_after: Annotated[timedelta | None, BeforeValidator(days)] = Field(
        None, description="how many days finished jobs are kept, as in 90d; by default they are never deleted"
    )
    unconfirmed_wait: Milliseconds = Field(
        timedelta(milliseconds=5_000),
        description="how long to wait for a late answer before an unconfirmed mail is sent again",
    )
    debug: bool = Field(False, description="print each request to stdout instead of sending it")
    ses_config_set: Annotated[str, _matching(r"[A-Za-z0-9_-]{0,64}", "at most 64 letters, digits, _ or -")] = Field(
        "default", description="configuration set of SES; empty for none"
    )
    ses_source: Annotated[str, _matching(r"[ -~]*[!-?A-~]@[!-?A-~][ -~]*", "an ASCII sender address")] = Field(
        "noreply@localhost", description="sender address"
    )
    ses_rate: Annotated[float | None, BeforeValidator(_mail_rate)] = Field(
        None,
        description="maximum mails a second of all workers and sweeps together;"
        " by default 0.9 of what SES allows the account",
    )
    ses_bulk_rate: Annotated[float | None, BeforeValidator(_call_rate)] = Field(
        1, description="maximum bulk calls a second of all workers and sweeps together, or unlimited"
    )
    # botocore reads AWS_DEFAULT_REGION alone, while every other AWS tool reads this one.
    aws_region: str | None = Field(
        None, validation_alias="AWS_REGION", description="region of SES; by default that of the AWS configuration"
    )
    ses_output_path: Path | None = Field(
        None,
        description="folder for raw error answers of SES; by default ./output for send, and none for worker and sweep",
    )

    @property
    def signing_key(self) -> bytes:
        """The key that signs. There must be one."""
        return self.secret_key[0]

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
        shown = f"{_ms(getattr(self, name))} ms"
        return ValueError(f"{PREFIX}{name.upper()}: {shown} is not accepted: {accepted}")


def load(*required: str, **overrides: Any) -> Settings:
    """Read and check the environment; keywords override it, except where they are None.

    `required` names fields that this command cannot do without. Raises SettingsError: one line that names the
    variable, its value unless that is a secret, and what is accepted.
    """
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


def variable(name: str) -> str:
    """Return the variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias) if alias else f"{PREFIX}{name.upper()}"


def unknown_variables() -> list[str]:
    """Return the MAILROOM_ variables of the environment that nothing reads: most likely misspelt."""
    known = {variable(name) for name in Settings.model_fields}
    ours = {name for name in os.environ if name.upper().startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_")}
    return sorted(name for name in ours if name.upper() not in known)


def _explain(detail: Any) -> str:
    accepted = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return accepted
    name = str(detail["loc"][0])  # of the field, or of the variable where that is another
    shown = "its value" if name in SECRET else repr(detail["input"])
    return f"{variable(name) if name in Settings.model_fields else name}: {shown} is not accepted: {accepted}"
