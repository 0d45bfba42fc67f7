"""The pages, as a real browser shows them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.simulator import FATES, Happening, Simulator
from tests.machine import missing
from tests.simulator.client import ALL, ask, bulk, entry, single, statuses

HOSTILE = """<script>document.title = "owned"</script><img src=x onerror='document.title = "owned"'>"</iframe>$text"""
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
OFFLINE = ["--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    """The command that prints a page after its scripts have run; the address is still to be added."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        missing("a Chromium")
    return [str(program), *FLAGS, *OFFLINE, f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom"]


def shown(browser: list[str], url: str) -> str:
    return subprocess.run([*browser, url], capture_output=True, check=True, text=True, timeout=60).stdout


def read(url: str) -> tuple[str, str]:
    """A page as it is served, and its Content-Security-Policy."""
    answer = ask(url)
    return answer.text, answer.headers["Content-Security-Policy"]


def test_a_browser_shows_the_inbox(ses: Simulator, client: SESV2Client, browser: list[str]) -> None:
    client.send_email(**single("first@example.com"))
    client.send_email(**single("second@example.com", variables={}))
    page = shown(browser, ses.url)
    assert page.index("second@example.com") < page.index("first@example.com")
    assert "Rendering failed: login_text is missing" in page
    for name, count in {"mails": 2, "requests": 2, "duplicates": 1, "rendering_failures": 1}.items():
        assert f'<dd id="{name}">{count}</dd>' in page


def test_the_inbox_shows_what_became_of_each_mail(ses: Simulator, client: SESV2Client) -> None:
    for fate, became in {
        "success": "delivered",
        "bounce": "bounced",
        "ooto": "out of office",
        "delay": "delayed",
    }.items():
        client.send_email(**single(f"{fate}@simulator.example"))
        assert re.search(rf"{fate}@simulator.example.*?>{became}</span>", read(ses.url)[0], re.DOTALL)
    ses.happen(ses.ledger.mails[0].message_id, Happening(event="Complaint", type="abuse"))
    assert ">complaint</span>" in read(ses.url)[0]


def test_a_mail_shows_its_story_and_whether_anybody_hears_of_it(told: Simulator, client: SESV2Client) -> None:
    for which, words in {"default": "publishes no events", "told": "as far as its event destination"}.items():
        client.send_email(**single("bounce@simulator.example", ConfigurationSetName=which))
        page, _ = read(f"{told.url}/mails/{told.ledger.mails[-1].message_id}")
        assert words in page
    assert "<li>Bounce <span>Permanent OnAccountSuppressionList 5.1.1 bounce@simulator.example</span></li>" in page


def test_where_a_button_leads_lets_a_mail_bounce(ses: Simulator, client: SESV2Client) -> None:
    client.send_email(**single())
    (path,) = re.findall(r'data-post="([^"]+/bounce)"', read(ses.url)[0])
    assert ask(ses.url + path, "POST", "{}").status == 204
    assert ">bounced</span>" in read(ses.url)[0]
    assert ses.ledger.story(ses.ledger.mails[0].message_id) == (*FATES["success"], FATES["bounce"][-1])


def test_hostile_content_is_inert_in_a_browser(ses: Simulator, client: SESV2Client, browser: list[str]) -> None:
    client.send_email(**single(variables=ALL | {"login": HOSTILE, "login_text": HOSTILE}))
    page = shown(browser, f"{ses.url}/mails/{ses.ledger.mails[0].message_id}")
    assert "<title>Activate your account" in page
    assert "Hello &lt;script&gt;" in page


def test_hostile_content_is_escaped_on_every_page(ses: Simulator, client: SESV2Client) -> None:
    content = {"Simple": {"Subject": {"Data": HOSTILE}, "Body": {"Text": {"Data": HOSTILE}, "Html": {"Data": HOSTILE}}}}
    client.send_email(**single() | {"Content": content})
    for path in ("/", f"/mails/{ses.ledger.mails[0].message_id}"):
        page, policy = read(ses.url + path)
        assert "<script>" not in page
        assert "<img" not in page
        assert "&lt;script&gt;" in page
        assert "default-src 'none'; script-src 'self';" in policy


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", r'"\ud800"', r'"\udc00\ud800"'])
def test_no_mail_keeps_the_others_from_being_shown(ses: Simulator, client: SESV2Client, value: str) -> None:
    data = json.dumps(ALL)[:-1] + f', "more": {value}}}'
    assert statuses(client, bulk(entry(), entry(variables=data))) == ["SUCCESS", "INVALID_PARAMETER"]
    half = {"Simple": {"Subject": {"Data": "\ud800"}, "Body": {"Text": {"Data": "\ud800"}}}}
    with pytest.raises(client.exceptions.BadRequestException):
        client.send_email(**single() | {"Content": half})
    assert ask(f"{ses.url}/_simulator/faults", "POST", '[{"latency_ms": 1e999}]').status == 400
    client.send_email(**single(variables=ALL | {"login": "\U0001f600"}))
    for path in ("/", "/_simulator/ledger", "/_simulator/inbox", "/_simulator/faults"):
        assert ask(ses.url + path).status == 200


def test_the_html_part_is_in_a_frame_without_any_rights(ses: Simulator, client: SESV2Client) -> None:
    client.send_email(**single())
    page, _ = read(f"{ses.url}/mails/{ses.ledger.mails[0].message_id}")
    assert '<iframe title="HTML part" sandbox="" srcdoc="&lt;!doctype html&gt;' in page


def test_an_empty_inbox_and_an_unknown_mail_say_so(ses: Simulator) -> None:
    assert "No mail yet" in read(ses.url)[0]
    nothing = ask(f"{ses.url}/mails/none")
    assert nothing.status == 404
    assert "No such mail" in nothing.text
