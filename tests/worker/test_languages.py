"""Mails in their languages, from a folder through a worker and the real boto3 to SES."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import ses, templates
from mailroom.ops import templates as record
from mailroom.ses.templates import Templates
from mailroom.simulator import Simulator
from tests.running import PATIENCE_SECONDS, Held, aws, eventually, transport, working
from tests.templates.folders import FRENCH, GERMAN, GOOD, languages, write
from tests.world import add_accounts, ask_recovery, count, drained, misplaced

CODE = {"text.txt": "{{secret}} {{code}}", "html.html": "{{secret}} {{code}}"}


@pytest.fixture
def at_ses(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Templates:
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    return Templates(ses.connect_to_ask(region=None))


def push(connection: Connection, at_ses: Templates, folder: Path, *, use: bool = True) -> list[str]:
    """Push all that is in a folder, and use it; return the names."""
    read = templates.read(folder)
    contents = [templates.compose(read, action) for action in read.texts]
    for content in contents:
        at_ses.push(content.name, dict(content.parts.items()))
        record.add(
            connection,
            content.name,
            action=content.action,
            languages=content.languages,
            default_language=content.default_language,
        )
        if use:
            record.use(connection, content.action, content.name)
    return [content.name for content in contents]


def sign_up(connection: Connection, *tags: str | None, prefix: str = "user", status: str = "provisioned") -> list[int]:
    """Insert an account for each of these languages."""
    found = []
    for number, language in enumerate(tags):
        found += add_accounts(connection, 1, prefix=f"{prefix}{number}-", status=status)
        connection.execute(
            text("UPDATE accounts SET language = :language WHERE id = :id"), {"language": language, "id": found[-1]}
        )
    return found


def subjects(simulator: Simulator) -> dict[str, str | None]:
    return {mail.recipients[0].partition("@")[0]: mail.subject for mail in simulator.ledger.mails}


def work(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker send all there is."""
    with engine.connect() as connection, working(engine, transport(simulator, monkeypatch)):
        eventually(lambda: drained(connection), "all is sent")
        assert misplaced(connection) == []
    assert simulator.ledger.counts().rendering_failures == 0


@pytest.mark.slow
def test_everybody_is_written_to_in_their_language_in_one_call(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, at_ses: Templates, tmp_path: Path
) -> None:
    """Trap 25: their own, its base, the default where there is no text of theirs; three for one action of two."""
    english, german = {"subject.txt": "Recovery"}, {"subject.txt": "Wiederherstellung"}
    recovery = languages("password_recovery", en=GOOD | CODE | english, de=GERMAN | CODE | german)
    write(tmp_path, languages(en=GOOD, de=GERMAN, fr=FRENCH) | recovery)
    with engine.connect() as connection:
        push(connection, at_ses, tmp_path)
        sign_up(connection, "de", "fr-CA", "DE-at", "sv", None, "en-GB")
        for account in sign_up(connection, "de", "fr", prefix="known", status="active"):
            ask_recovery(connection, account)
    work(engine, simulator, monkeypatch)
    found = subjects(simulator)
    assert [found[f"user{number}-1"] for number in range(6)] == [
        *("Willkommen", "Bienvenue", "Willkommen"),
        *("Welcome", "Welcome", "Welcome"),
    ]
    assert [found["known0-1"], found["known1-1"]] == ["Wiederherstellung", "Recovery"]
    calls = [request for request in simulator.ledger.requests if request.operation.startswith("Send")]
    assert sorted(request.entries for request in calls) == [2, 6]


def test_a_lone_mail_has_its_language_too(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, at_ses: Templates, tmp_path: Path
) -> None:
    with engine.connect() as connection:
        push(connection, at_ses, write(tmp_path, languages(en=GOOD, de=GERMAN)))
        sign_up(connection, "de")
    work(engine, simulator, monkeypatch)
    assert subjects(simulator) == {"user0-1": "Willkommen"}
    assert [request.operation for request in simulator.ledger.requests][-1] == "SendEmail"


@pytest.mark.slow
def test_a_template_that_is_used_while_a_batch_is_in_flight_is_for_the_next(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, at_ses: Templates, tmp_path: Path
) -> None:
    """Trap 24."""
    with engine.connect() as connection:
        [before] = push(connection, at_ses, write(tmp_path / "1", languages(en=GOOD, de=GERMAN)))
        sign_up(connection, "de", "en", prefix="first")
        sends = Held(transport(simulator, monkeypatch))
        with working(engine, sends), sends:
            assert sends.answered.wait(PATIENCE_SECONDS), "a batch is in flight"
            [after] = push(connection, at_ses, write(tmp_path / "2", languages(en=GERMAN, de=FRENCH)))
            assert count(connection, "batches") == 1
            sign_up(connection, "de", prefix="second")
            sends.let_go.set()
            eventually(lambda: drained(connection), "all is sent")
    names = {mail.recipients[0].partition("@")[0]: mail.template.name for mail in simulator.ledger.mails}
    assert names == {"first0-1": before, "first1-1": before, "second0-1": after}
    assert subjects(simulator) == {"first0-1": "Willkommen", "first1-1": "Welcome", "second0-1": "Bienvenue"}


def test_a_template_that_was_made_by_hand_goes_on(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, at_ses: Templates, tmp_path: Path
) -> None:
    """One that is pushed and not used changes nothing, and the way back leads to what was there."""
    with engine.connect() as connection:
        [pushed] = push(connection, at_ses, write(tmp_path, languages(en=GOOD, de=GERMAN)), use=False)
        sign_up(connection, "de", "sv")
        assert record.use(connection, "activation", pushed) == "activationv1"
        assert record.use(connection, "activation", "activationv1", unpushed=True) == pushed
    work(engine, simulator, monkeypatch)
    assert set(subjects(simulator).values()) == {"Activate your account"}
