"""The record of templates: what was pushed, what is used, and the way back."""

import pytest
from sqlalchemy import Connection

from mailroom.errors import MailroomError
from mailroom.ops import templates


def push(connection: Connection, name: str = "activation-1", action: str = "activation") -> bool:
    return templates.add(connection, name, action=action, languages=["de", "en"], default_language="en")


def test_what_was_pushed_twice_is_there_once(conn: Connection) -> None:
    assert [push(conn), push(conn)] == [True, False]
    assert [each.name for each in templates.listing(conn) if each.created_at] == ["activation-1"]


def test_the_way_back_is_the_name_of_the_one_before(conn: Connection) -> None:
    push(conn)
    assert templates.use(conn, "activation", "activation-1") == "activationv1"
    with pytest.raises(MailroomError, match="no template activationv1 was pushed for activation"):
        templates.use(conn, "activation", "activationv1")


def test_it_may_be_told_to_use_one_that_nobody_pushed(conn: Connection) -> None:
    assert templates.use(conn, "activation", "mine", unpushed=True) == "activationv1"
    assert templates.use(conn, "activation", "mine", unpushed=True) == "mine"


@pytest.mark.parametrize("name", ["activation-1", "not/a name"])
def test_a_template_of_another_action_or_of_no_name_is_refused(conn: Connection, name: str) -> None:
    push(conn)
    with pytest.raises(MailroomError), conn.begin_nested():
        templates.use(conn, "password_recovery", name, unpushed=name != "activation-1")
    assert [each.uses for each in templates.listing(conn) if each.name == "passwordrecoveryv1"] == [
        ("password_recovery",)
    ]


@pytest.mark.parametrize(("languages", "default"), [(["de"], "en"), ([], "en"), (["DE"], "DE"), (["en", "x y"], "en")])
def test_languages_have_to_be_such(conn: Connection, languages: list[str], default: str) -> None:
    with pytest.raises(MailroomError):
        templates.add(conn, "activation-1", action="activation", languages=languages, default_language=default)


def test_what_there_is_no_action_of_is_refused(conn: Connection) -> None:
    with pytest.raises(MailroomError, match="there is no action nothing"):
        push(conn, action="nothing")


def test_the_list_has_what_is_used_and_what_was_pushed(conn: Connection) -> None:
    push(conn)
    push(conn, "activation-2")
    templates.use(conn, "activation", "activation-2")
    found = {each.name: (each.action, each.languages, each.uses) for each in templates.listing(conn)}
    assert found == {
        "activation-1": ("activation", ("de", "en"), ()),
        "activation-2": ("activation", ("de", "en"), ("activation",)),
        "passwordrecoveryv1": ("password_recovery", (), ("password_recovery",)),
    }
