"""The client of SES: region, credentials and time-outs, and no retries of its own."""

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from mailroom.errors import SettingsError
from mailroom.transport import CONNECT_TIMEOUT, READ_TIMEOUT

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client


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
    for name in ("boto3", "botocore", "urllib3"):  # at DEBUG they print request bodies, secrets included
        logging.getLogger(name).setLevel(logging.WARNING)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_timeout.total_seconds(),
        read_timeout=read_timeout.total_seconds(),
        max_pool_connections=connections,
        tcp_keepalive=True,
        parameter_validation=False,
    )
    try:
        session = boto3.Session(region_name=region)
        client = session.client("sesv2", config=config)
        credentials = session.get_credentials()
    except boto.NoRegionError as error:
        raise SettingsError(f"SES cannot be used: {error} Set AWS_REGION.") from error
    except (boto.BotoCoreError, ValueError) as error:
        raise SettingsError(f"SES cannot be used: {type(error).__name__}: check the AWS_ variables") from error
    if credentials is None:
        raise SettingsError("SES cannot be used: no AWS credentials were found (AWS_ACCESS_KEY_ID, a profile, a role)")
    return client
