"""What each page says of a database in which much has happened."""

import json
import re
from html import unescape
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, text

from mailroom.window import LOOK, Visitor, source
from mailroom.worker.report import tell_of_sweep
from tests.claiming import enqueue
from tests.running import eventually
from tests.trouble import statements
from tests.window import evening, scene
from tests.window.client import Window, opened
from tests.window.scene import QUEUE

EACH_SERVER = False
LANE = f"/lane/{quote(QUEUE, safe='')}/1/activation"
PAGES = ["/", "/flight", "/held", "/record", "/record?outcome=rejected", "/unconfirmed", "/flooded", "/account"]
PAGES += ["/doctor", "/lane/mailroom/0/password_recovery", LANE, "/act/pause", "/act/resume?scope=identity"]

# More digits than Python reads.
LONG = "9" * 5_000


def main(page: str) -> str:
    """What a person reads of a page, with its marks taken away."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("<main")[1].split("</main>", maxsplit=1)[0]).split())


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_words_that_people_write_are_shown_and_not_obeyed(window: Window, path: str) -> None:
    answer = window.ask(path)
    assert answer.status == 200, answer.text
    assert "<img" not in answer.text
    assert answer.text.count("<script") == 1
    assert "{{" not in answer.text.replace("{{7*7}}", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["sent", "unconfirmed", "rejected", "deferred", "held", "flight", "waiting", "bounced"]
)
def test_the_page_of_a_mail_tells_its_life(window: Window, tokens: dict[str, int], what: str) -> None:
    answer = window.ask(f"/mail/{tokens[what]}")
    assert answer.status == 200
    assert "<img" not in answer.text
    shown = main(answer.text)
    assert f"Mail {tokens[what]} of account" in shown
    words = {"flight": "is being sent", "waiting": "due", "sent": "accepted"}.get(what, what)
    assert words in shown.lower()


def test_the_page_of_a_mail_tells_what_ses_heard_of_it(window: Window, tokens: dict[str, int]) -> None:
    delivered = main(window.ask(f"/mail/{tokens['delivered']}").text)
    assert re.search(r"SES accepted it, and the recipient's server took it [\d.]+ m?s later", unescape(delivered))
    lived = unescape(delivered.split("Its life")[1])
    assert (
        lived.index("A worker took it") < lived.index("SES accepted it") < lived.index("The recipient's server took it")
    )
    page = window.ask(f"/mail/{tokens['bounced']}").text
    said = " ".join([f"word{scene.CANARY}"] * 3)
    assert "and it bounced" in main(page)
    [bounce] = re.findall(r'<li class="bad">.*?It bounced <code>(.*?)</code>', page, re.DOTALL)
    assert unescape(bounce) == said
    assert "The address is bad, or full" in main(page)


def test_the_page_of_a_late_recovery_tells_why_with_what_was_ruled_out_and_the_cure(engine: Engine) -> None:
    late = evening.stop(engine)
    with opened(engine) as window:
        page = window.ask(f"/mail/{late[0]}").text
        lane = window.ask("/lane/mailroom/0/password_recovery").text
    [sentence] = re.findall(r'<p class="sentence small act">(.*?)</p>', page)
    assert re.match(r"Account has been paused for \d+ s \(SendingPausedException, Sending has been paused", sentence)
    cure = '<p class="cure">aws sesv2 put-account-sending-attributes --sending-enabled'
    assert cure in page
    chain = re.findall(r"<li( class=\"holds\")?>([^<]*)", page.split('<ul class="chain"')[1].split("</ul>")[0])
    assert [words for holds, words in chain if holds] == [sentence]
    assert chain[0][1].startswith("2 workers of mailroom seen"), "the first was ruled out"
    assert "The application asked for it" in main(page)
    assert cure in lane


def test_the_first_page_begins_with_its_sentence_and_says_how_old_it_is(window: Window) -> None:
    page = window.ask().text
    heading = re.findall(r'<h1 class="sentence act">(.*?)</h1>', page)
    assert len(heading) == 1
    assert heading[0].startswith("Activations do not leave: no worker takes the queue q")
    shown = main(page)
    assert shown.index("Activations do not leave") < shown.index("Counted") < shown.index("Due now")
    assert re.search(r"Counted <time data-age [^>]*>\d+ s ago", page)
    for words in ("priority:2 since", "1 held", "password_recovery urgent", "activation normal", "1 of 4"):
        assert words in shown


def test_the_lists_have_the_mails_and_the_record_can_be_narrowed(window: Window, tokens: dict[str, int]) -> None:
    assert str(tokens["held"]) in main(window.ask("/held").text)
    assert str(tokens["flight"]) in main(window.ask("/flight").text)
    rejected = main(window.ask("/record?outcome=rejected").text)
    assert "MessageRejected" in rejected
    assert "Throttling" not in rejected
    assert "Throttling" in main(window.ask("/record?code=Throttling&since=1h").text)


def test_of_an_unconfirmed_mail_it_says_whether_it_went_out_again(window: Window, tokens: dict[str, int]) -> None:
    page = window.ask("/unconfirmed").text
    told = re.findall(
        r'<a href="/mail/(\d+)">.*?data-label="What became of it"( class="bad")?>([^<]*)<', page, re.DOTALL
    )
    assert {(int(token), bool(bad), ended) for token, bad, ended in told} == {
        (tokens["unconfirmed"], False, "waits to be sent again"),
        (tokens["held"], False, "is held until somebody decides"),
        (tokens["again"], True, "was sent again: it may be out twice"),
        (tokens["twice"], True, "is out twice"),
    }
    assert "4 2 sent again, last 24 h" in main(window.ask().text)


def test_who_is_flooded_is_shown_by_account_the_worst_first(engine: Engine) -> None:
    with engine.connect() as connection:
        few, many = scene.flood(connection, "few", 3), scene.flood(connection, "many", 4_711)
    with opened(engine) as window:
        shown = main(window.ask("/flooded").text)
    assert re.search(rf"The last {many} 4,711 \d\d:\d\d:\d\d UTC \d+ s ago {few} 3 \d\d", shown)
    assert "raise the limit, mailroom actions set ." in shown


@pytest.mark.slow
def test_what_ses_allows_is_shown_with_what_is_used_and_the_lines_of_aws(engine: Engine) -> None:
    evening.furnish(engine)
    with opened(engine) as window:
        pages = [window.ask().text.split('id="amazon"')[1].split("</section>")[0], window.ask("/account").text]
    for page in pages:
        words = " ".join(re.sub(r"<[^>]+>", " ", page).replace("\N{NO-BREAK SPACE}", " ").split())
        assert re.search(r"Rate [\d.]+ of 13 a second", words)
        assert "In 24 hours 31,412 of 50,000" in words, "what SES said, and the permits since"
        assert re.search(r"Bounced 0\.\d\d % of the newest 1,000 · 0\.4\d % of the last day.s 2\d,\d{3}", words)
        assert "AWS reviews an account at 5 %, and may stop it at 10 %" in words
        assert "AWS reviews an account at 0.1 %, and may stop it at 0.5 %" in words
        assert "Standing HEALTHY" in words
        lines = [re.findall(r'class="mark" d="M([\d.]+) ', gauge) for gauge in page.split('class="gauge"')[1:]]
        assert lines == [[], ["80.00"], ["41.67", "83.33"], ["16.67", "83.33"]], "the quota's line, and twice AWS's"


@pytest.mark.slow
def test_what_is_over_a_line_of_aws_is_marked(engine: Engine) -> None:
    evening.furnish(engine, one_bounced_of=17)
    with engine.connect() as connection:
        connection.execute(text("UPDATE ses_account SET enforcement = 'PROBATION', sent_last_24_hours = 49000"))
    evening.go_on(engine)
    with opened(engine) as window:
        marked = re.findall(r'<span class="bad">([^<]*)', window.ask("/account").text)
    assert [each.replace("\N{NO-BREAK SPACE}", " ")[:1] for each in marked] == ["4", "5", "5", "P"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/mail/99999999", "/mail/9223372036854775808", "/mail?token=x", "/mail?token="),
        *("/lane/mailroom/9/x", "/record?outcome=x", "/record?since=2y", "/held?number=x", "/held?number=1&at=x"),
        *(f"/mail/{LONG}", f"/mail?token={LONG}", f"/lane/mailroom/{LONG}/x", f"/held?number={LONG}"),
        *("/unconfirmed?number=1&at=0001-01-01T00:00:00%2B14:00", "/held?number=1&at=9999-12-31T23:59:59-14:00"),
        *("/act/burn", "/lane/mailroom/1/activation?number=1&at=", "/unconfirmed?number=1"),
    ],
)
def test_what_is_not_there_is_said_in_words(window: Window, path: str) -> None:
    answer = window.ask(path)
    assert answer.status == 404
    assert '<h1 class="sentence act">' in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *("/record?code=%00", "/lane/q%00/1/activation", "/lane/q/1/%00", "/act/retry?code=%00"),
        *("/held?number=99999999999999999999", f"/act/retry?token={LONG}", "/act/retry?token=9223372036854775808"),
    ],
)
def test_what_no_database_can_hold_is_no_fault_of_the_database(window: Window, path: str) -> None:
    answer = window.ask(path)
    assert answer.status == 400
    assert "does not answer" not in answer.text


def test_a_token_leads_to_its_mail(window: Window, tokens: dict[str, int]) -> None:
    found = window.ask(f"/mail?token={tokens['sent']}")
    assert (found.status, found.headers["Location"]) == (303, f"/mail/{tokens['sent']}")


def test_pages_follow_each_other_without_one_lost(engine: Engine) -> None:
    with engine.connect() as connection:
        scene.many(connection, 120)
    with opened(engine) as window:
        path, seen = "/held", []
        while path:
            page = window.ask(path).text
            seen += re.findall(r"/mail/(\d+)", page)
            following = re.findall(r'<a href="(\?[^"]+)" rel="next"', page)
            path = f"/held{following[0].replace('&amp;', '&')}" if following else ""
    assert len(seen) == len(set(seen)) == 120


@pytest.mark.slow
def test_whose_mail_it_is_is_told_to_who_may_act_and_written_down(
    window: Window, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.connect() as connection:
        account = connection.scalar(text("SELECT id FROM accounts WHERE email = :email"), {"email": scene.EMAIL})
        insert = "INSERT INTO tokens (action, account) VALUES ('password_recovery', :account) RETURNING id"
        token = connection.scalar(text(insert), {"account": account})
    assert scene.EMAIL not in window.ask(f"/mail/{token}").text
    asked = window.ask(f"/mail/{token}?who=1").text
    assert scene.EMAIL in asked
    assert "<img" not in asked
    assert f"window asked who='somebody here' account={account}" in caplog.text
    assert scene.EMAIL not in caplog.text
    caplog.clear()
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert window.ask(f"/mail/{token}?who=1", headers=link).status == 403
    assert "window asked" not in caplog.text, "a link on another page asks in nobody's name"
    with opened(engine, actions=engine, may=lambda _: Visitor("viewer", LOOK)) as other:
        refused = other.ask(f"/mail/{token}?who=1")
    assert refused.status == 403
    assert scene.EMAIL not in refused.text


@pytest.mark.slow
def test_who_has_the_page_is_told_so_and_twenty_tabs_cost_what_one_does(
    window: Window, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All within the two seconds for which a look is kept, or here within the ten minutes."""
    monkeypatch.setattr(source, "KEPT_SECONDS", 600.0)
    tag = window.ask().headers["ETag"]
    with statements(engine) as seen:
        answers = [window.ask(headers={"If-None-Match": tag}) for _ in range(20)]
    assert {(answer.status, answer.text) for answer in answers} == {(304, "")}
    assert [each for each in seen if "fleet_reading" in each] == []
    scene.count(engine)


@pytest.mark.slow
def test_a_page_is_another_once_what_it_says_of_a_trouble_is(engine: Engine) -> None:
    with engine.connect() as connection:
        scene.many(connection, 1)
        connection.execute(text("UPDATE jobs SET due_at = now()"))
        scene.worker(connection, "host/1/2", "1")
        connection.execute(text("UPDATE workers SET seen_at = now() - interval '60 s'"))
    scene.count(engine)
    with opened(engine) as window:
        answer = window.ask()
        assert "no worker takes the queue" in answer.text
        eventually(lambda: window.ask(headers={"If-None-Match": answer.headers["ETag"]}).status == 200)


@pytest.mark.slow
def test_programs_read_the_same(window: Window) -> None:
    told = window.ask("/reading.json").json
    assert told["advice"]["state"] == "act"
    assert {lane["action"] for lane in told["reading"]["lanes"]} == {"activation", "password_recovery"}
    assert told["reading"]["pauses"][0]["scope"] in {"identity", "priority:2"}


def test_nobody_has_counted_yet(engine: Engine) -> None:
    with opened(engine) as window:
        assert "Nobody has counted yet" in window.ask().text
        assert window.ask("/reading.json").json["reading"] is None
        assert window.ask("/account").status == 200


def test_what_another_release_has_counted_is_not_taken_for_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        token = enqueue(connection, 1)[0]
        connection.execute(text("UPDATE readings SET read_at = now(), found = '{\"format\": 2}'"))
    with opened(engine) as window:
        for path in ("/", "/account", f"/mail/{token}"):
            shown = main(window.ask(path).text)
            assert "of another release" in shown
            assert "obody has counted" not in shown
            assert "mailroom worker" not in shown
        assert window.ask("/metrics").status == window.ask("/flight").status == 200


def test_where_cron_alone_sweeps_it_says_when_the_last_one_ended(engine: Engine) -> None:
    assert tell_of_sweep(engine, queue="mailroom") == ""
    with opened(engine) as window:
        shown = main(window.ask().text)
    assert "ails leave by sweeps alone" in shown
    assert re.search(r"Workers 0 a sweep ended \d+ s ago", shown)
    assert re.search(r"A sweep of mailroom from cron, \S+/sweep/mailroom, ended \d+ s ago", shown)


def test_a_window_that_may_act_counts_where_no_worker_does(engine: Engine) -> None:
    with opened(engine, actions=engine) as window:
        assert "Counted" in window.ask().text
        assert json.loads(window.ask("/reading.json").text)["reading"]["lanes"] == []
