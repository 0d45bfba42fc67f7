"""A client that reads botocore's files as ours do is what botocore makes it, for every region that there is."""

from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session, get_session

from mailroom.ses.client import connect
from mailroom.ses.service_files import ASKED, ServiceFiles
from tests.ses.calls import set_aws

# Ours, and those that botocore's own chain asks for credentials.
SERVICES = ["sesv2", "sqs", "sts", "sso", "sso-oidc", "signin"]


def session(*, ours: bool) -> Session:
    made = get_session()
    if ours:
        made.get_component("data_loader").file_loader = ServiceFiles()
    return made


def regions(of: Session) -> list[str]:
    """Every region of every partition, what is none in some services, and one that no file knows."""
    return [
        *(name for partition in of.get_available_partitions() for name in of.get_available_regions("sqs", partition)),
        "aws-global",
        "eu-new-9",
    ]


def sent(of: Session, service: str, region: str) -> tuple[Any, ...]:
    """Where the client of a service sends its requests, and as what it signs them."""
    client: Any = of.create_client(service, region_name=region, aws_access_key_id="a", aws_secret_access_key="b")
    signer = client._request_signer  # botocore has no other way
    return client.meta.endpoint_url, client.meta.partition, signer.region_name, signer.signing_name


@pytest.mark.parametrize("service", SERVICES)
def test_a_client_asks_where_botocore_has_it_ask(service: str) -> None:
    stock, ours = session(ours=False), session(ours=True)
    known = regions(stock)
    assert len(known) > 30
    for region in known:
        assert sent(ours, service, region) == sent(stock, service, region)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_what_botocore_says(service: str) -> None:
    stock, ours = (session(ours=mine).get_component("data_loader") for mine in (False, True))
    for kind in ("service-2", "endpoint-rule-set-1"):
        assert ours.load_service_model(service, kind) == stock.load_service_model(service, kind)


def test_a_client_of_ours_keeps_no_endpoints_of_services_that_nobody_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of all services are 3 MB, and a client keeps what it has read for ever."""
    set_aws(monkeypatch, tmp_path)
    client: Any = connect(region="eu-west-1", connections=1)
    read = client._loader.load_data("endpoints")  # botocore has no other way
    assert type(read) is dict
    assert {name for partition in read["partitions"] for name in partition["services"]} <= ASKED
