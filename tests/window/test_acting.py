"""What is done from the window: with a reason, after a preview, bounded, on record, and with a way back."""

import re
from html import unescape

import pytest
from sqlalchemy import Engine

from mailroom.finding import failed, ok, warning
from mailroom.fleet import pauses
from mailroom.ops import browse
from mailroom.window import choice
from tests.trouble import statements
from tests.window import scene
from tests.window.client import SAME_ORIGIN, Window, opened
from tests.world import count, rows

EACH_SERVER = False


def field(page: str, name: str) -> str:
    """What a form sends for a field that is not seen."""
    return unescape(re.findall(rf'name="{name}" value="([^"]*)"', page)[0])


def of(engine: Engine, sql: str) -> int:
    with engine.connect() as connection:
        return count(connection, sql)


@pytest.mark.slow
def test_what_is_previewed_is_what_is_done_and_nothing_before(
    window: Window, engine: Engine, tokens: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    preview = window.ask("/act/release?held=1").text
    assert "Release 1 held mail?" in preview
    assert "This cannot be taken back" in preview
    assert f"/mail/{tokens['held']}" in preview
    assert of(engine, "jobs WHERE due_at = 'infinity'") == 1
    done = window.post("/act/release", tokens=field(preview, "tokens"), reason="looked at each")
    assert "Released 1 mail." in done.text
    assert of(engine, "jobs WHERE due_at = 'infinity'") == 0
    said = f"who='somebody here' reason='looked at each' jobs=1 first={tokens['held']} last={tokens['held']}"
    assert f"window begins action=release {said}" in caplog.text
    assert "window done action=release who='somebody here' reason='looked at each' jobs=1 changed=1" in caplog.text


def test_what_is_dropped_comes_back_by_retry(window: Window, engine: Engine, tokens: dict[str, int]) -> None:
    token = str(tokens["waiting"])
    assert "Dropped 1 mail." in window.post("/act/drop", tokens=token, reason="a test").text
    assert of(engine, f"deliveries WHERE token = {token} AND error_code = 'Dropped'") == 1
    assert "Try again" in window.ask(f"/act/retry?token={token}").text
    assert "1 mail." in window.post("/act/retry", tokens=token, reason="it was wrong").text
    assert of(engine, f"jobs WHERE token = {token}") == 1


def test_what_comes_back_has_the_priority_that_the_page_says(
    window: Window, engine: Engine, tokens: dict[str, int]
) -> None:
    token = str(tokens["recovery"])
    told = window.post("/act/drop", tokens=token, reason="a test").text
    assert "once, with the priority of its kind;" in told
    assert "with the priority of its kind;" in window.ask(f"/act/retry?token={token}").text
    window.post("/act/retry", tokens=token, reason="it was wrong")
    assert of(engine, f"jobs WHERE token = {token} AND priority = 0") == 1


@pytest.mark.slow
def test_all_of_a_list_means_what_the_list_shows(window: Window, engine: Engine, tokens: dict[str, int]) -> None:
    preview = window.ask("/act/retry?outcome=rejected&since=1d").text
    assert field(preview, "tokens") == str(tokens["rejected"])
    assert "1 mail on record with outcome rejected in the last day" in preview
    window.post("/act/retry", tokens=field(preview, "tokens"), reason="the template is right now")
    assert of(engine, f"jobs WHERE token = {tokens['rejected']}") == 1


def test_what_is_not_as_it_was_is_left_and_said(window: Window, tokens: dict[str, int]) -> None:
    sent, held = tokens["sent"], tokens["held"]
    done = window.post("/act/release", tokens=f"{sent},{held}", reason="a test")
    assert "Released 1 mail; 1 other left as it was." in done.text


def test_a_thousand_at_a_time_and_no_more(engine: Engine) -> None:
    with engine.connect() as connection:
        scene.many(connection, choice.MOST + 5)
    with opened(engine, actions=engine) as window:
        preview = window.ask("/act/drop?held=1").text
        assert "only these 1,000 are changed now" in preview
        chosen = field(preview, "tokens")
        assert len(chosen.split(",")) == choice.MOST
        refused = window.post("/act/drop", tokens=f"{chosen},999991", reason="a test")
        assert (refused.status, of(engine, "jobs")) == (400, choice.MOST + 5)
        assert "Dropped 1,000 mails." in window.post("/act/drop", tokens=chosen, reason="a test").text
        assert of(engine, "jobs") == 5


def test_a_name_of_a_queue_writes_no_control_characters_to_the_log(
    window: Window, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.connect() as connection:
        pauses.open_pause(connection, "queue:\x1b[31m", code=pauses.BY_HAND, reason="a test", probed=False)
    assert window.post("/act/resume", scope="queue:\x1b[31m", reason="a test").status == 200
    assert "window done action=resume" in caplog.text
    assert not any("\x1b" in record.getMessage() for record in caplog.records)  # `text` leaves them out


def test_the_preview_of_a_retry_names_the_queue_that_jobs_go_to(window: Window, tokens: dict[str, int]) -> None:
    assert "goes to the queue mailroom." in window.ask(f"/act/retry?token={tokens['rejected']}").text
    assert "goes to the queue" not in window.ask(f"/act/drop?token={tokens['waiting']}").text


def test_a_look_that_ends_early_says_how_many_it_found(
    window: Window, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MOST", 2)
    with engine.connect() as connection:
        scene.many(connection, 5)
    preview = window.ask("/act/drop?held=1").text
    assert "only these 2 are changed now" in preview
    assert len(field(preview, "tokens").split(",")) == 2


def test_a_search_of_a_long_record_ends_in_time_and_says_how_far_it_came(
    window: Window, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(browse, "SCAN_LIMIT", 1)
    with statements(engine) as seen:
        preview = window.ask("/act/retry?code=NoSuch").text
    assert sum("browse_attempts" in each for each in seen) == browse.MAX_SCANS
    assert "None was found as far back as one look goes." in preview
    assert re.search(r"Looked back to <time .*; what is older was not looked at", preview)
    monkeypatch.setattr(choice, "_LOOK_SECONDS", 60.0)
    assert "There is none" in window.ask("/act/retry?code=NoSuch").text


def test_more_than_a_thousand_are_refused_before_a_reason_is_asked_for(window: Window) -> None:
    tokens = ",".join(map(str, range(choice.MOST + 1)))
    assert window.ask(f"/act/drop?token={tokens}").status == 400


def test_a_pause_has_the_reason_of_who_made_it_and_ends_by_hand(window: Window, engine: Engine) -> None:
    assert "<option>activation</option>" in window.ask("/act/pause").text
    done = window.post("/act/pause", scope="activation", reason="the new   template is wrong")
    assert "Paused activation." in done.text
    with engine.connect() as connection:
        [row] = rows(connection, "SELECT code, reason, probe_at FROM pauses WHERE scope = 'activation'")
    assert tuple(row) == ("ByHand", "the new template is wrong", None)
    assert "<option selected>activation</option>" in window.ask("/act/resume?scope=activation").text
    assert "Resumed activation." in window.post("/act/resume", scope="activation", reason="mended").text
    assert of(engine, "pauses WHERE scope = 'activation'") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "form"),
    [
        ("drop", {"tokens": "1", "reason": ""}),
        ("drop", {"tokens": "1", "reason": "  "}),
        ("drop", {"tokens": "", "reason": "a test"}),
        ("drop", {"tokens": "1;2", "reason": "a test"}),
        ("drop", {"tokens": "9223372036854775808", "reason": "a test"}),
        ("drop", {"tokens": "9" * 5_000, "reason": "a test"}),
        ("pause", {"scope": "activation", "reason": "a \0 test"}),
        ("pause", {"scope": "nonsense", "reason": "a test"}),
        ("pause", {"reason": "a test"}),
        ("resume", {"scope": "activation", "reason": "a test"}),
    ],
)
def test_what_is_not_whole_changes_nothing(window: Window, engine: Engine, deed: str, form: dict[str, str]) -> None:
    before = of(engine, "jobs"), of(engine, "pauses")
    assert window.post(f"/act/{deed}", SAME_ORIGIN, **form).status == 400
    assert (of(engine, "jobs"), of(engine, "pauses")) == before


def test_a_form_that_is_none_is_not_read(window: Window) -> None:
    assert window.post("/act/drop", tokens="1," * 20_000, reason="a test").status == 413
    assert window.ask("/act/drop", "POST", "\xff=\xfe", SAME_ORIGIN).status == 400


def test_the_doctor_runs_on_request_and_by_who_may_act(engine: Engine) -> None:
    made = [ok("one", "is well"), failed("two", f"is not {scene.CANARY}", "do `this`"), warning("three", "hm", "that")]
    with opened(engine, actions=engine, checks=lambda: made) as window:
        assert "Run the checks" in window.ask("/doctor").text
        shown = window.post("/doctor").text
    assert "1 check of 3 failed." in shown
    assert shown.index(">two<") < shown.index(">three<") < shown.index(">one<")
    assert "do <code>this</code>" in shown
    assert "<img" not in shown
