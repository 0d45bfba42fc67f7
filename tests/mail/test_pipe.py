"""The line format: whatever an account may hold goes through it and comes back; anything else is a malformed line."""

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailroom.errors import LineError, TransportError
from mailroom.job import Action
from mailroom.mail.pipe import MAX_LINE, PipeTransport, parse
from mailroom.mail.transport import Mail
from mailroom.outcome import Sent
from tests.kinds import ACTIONS, ACTIVATION, RECOVERY

SECRET = "A-_9" * 21 + "aZ"
CODE = "01234"
LINE = f"1,ada@example.com,ada,{SECRET},{CODE}\n"

# What the database lets into an account: no control characters, and of course no half characters.
characters = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029")
mails = st.builds(
    Mail,
    token=st.none(),
    address=st.builds("{}@{}".format, st.text(characters, min_size=1, max_size=60), st.text(characters, min_size=1)),
    login=st.text(characters, min_size=1, max_size=254),
    secret=st.from_regex(r"[A-Za-z0-9_-]{86}", fullmatch=True),
    code=st.from_regex(r"[0-9]{5}", fullmatch=True),
)


def mail(login: str = "ada", address: str = "ada@example.com") -> Mail:
    return Mail(token=None, address=address, login=login, secret=SECRET, code=CODE)


class Written(io.RawIOBase):
    """What is written, a piece at a time."""

    def __init__(self) -> None:
        self.kept = bytearray()

    def write(self, given: Any) -> int:
        piece = bytes(given)[:50]
        self.kept += piece
        return len(piece)


def line_of(action: Action, batch: Sequence[Mail]) -> str:
    out = Written()
    PipeTransport(out).send(action, batch, batch="1")
    return out.kept.decode()


def read(line: str) -> list[tuple[Action, Mail]]:
    return parse(line, {str(action.number): action for action in ACTIONS})


def complaint(line: str) -> str:
    with pytest.raises(LineError) as error:
        read(line)
    return str(error.value)


@pytest.mark.slow
@given(action=st.sampled_from(ACTIONS), batch=st.lists(mails, min_size=1, max_size=50))
@example(action=ACTIVATION, batch=[mail(' "leading, and \N{PILE OF POO}"\ufeff'), mail('"'), mail(","), mail("'")])
def test_what_is_written_is_read(action: Action, batch: list[Mail]) -> None:
    line = line_of(action, batch)
    assert line.count("\n") == 1
    assert read(line) == [(action, each) for each in batch]


@given(st.text())
@example("\0" * 5 + ",,,,\n")
@example('"' * 131_073 + "\n")
@example("x" * 200_000 + ",,,,\n")
def test_any_other_text_is_a_line_or_an_error(text: str) -> None:
    for line in (text, text + "\n"):
        with contextlib.suppress(LineError):
            read(line)


@given(st.data())
def test_a_line_that_is_cut_off_anywhere_is_refused(data: st.DataObject) -> None:
    line = line_of(ACTIVATION, [mail("a,b"), mail()])
    complaint(line[: data.draw(st.integers(0, len(line) - 1))])


@pytest.mark.parametrize(
    ("login", "field"),
    [
        ("ada", "ada"),
        ("ada lovelace", "ada lovelace"),
        ("o'hara", "o'hara"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("lovelace, ada", '"lovelace, ada"'),
        ('ada "the first"', '"ada ""the first"""'),
    ],
)
def test_fields_are_quoted_only_where_they_must_be(login: str, field: str) -> None:
    assert line_of(ACTIVATION, [mail(login)]) == f"1,ada@example.com,{field},{SECRET},{CODE}\n"


def test_a_batch_is_one_line_and_an_action_a_number() -> None:
    assert line_of(RECOVERY, [mail(), mail("bob", "bob@example.com")]) == (
        f"2,ada@example.com,ada,{SECRET},{CODE},2,bob@example.com,bob,{SECRET},{CODE}\n"
    )


def test_a_batch_is_sent_once_its_line_is_written() -> None:
    out = Written()
    assert PipeTransport(out).send(ACTIVATION, [mail(), mail()], batch="1") == [Sent(None), Sent(None)]
    assert out.kept.endswith(b"\n")


def test_a_closed_output_takes_no_more() -> None:
    class Closed(io.RawIOBase):
        def write(self, given: Any) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(TransportError, match="Broken pipe") as error:
        PipeTransport(Closed()).send(ACTIVATION, [mail()], batch="1")
    assert "ada" not in str(error.value)


def test_what_the_output_did_not_take_is_written_no_more() -> None:
    """Its batch is returned: the rest of the line must not follow, as that of a buffer does when Python ends."""

    class Full(Written):
        def write(self, given: Any) -> int:
            if len(self.kept) >= 100:
                raise OSError(28, "No space left on device")
            return super().write(given)

    out = Full()
    with out, pytest.raises(TransportError, match="No space left"):
        PipeTransport(out).send(ACTIVATION, [mail()], batch="1")
    assert len(out.kept) == 100


def test_an_output_that_does_not_block_is_waited_for() -> None:
    """Somebody who shares it may have set it so. Before, the batch was returned, and its line written all the same."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)

    def read_late() -> bytes:
        time.sleep(0.1)
        with open(reads, "rb") as source:
            return source.read()

    with ThreadPoolExecutor(1) as reader:
        line = reader.submit(read_late)
        with open(writes, "wb", buffering=0) as out:
            assert PipeTransport(out).send(ACTIVATION, [mail()] * 50, batch="1") == [Sent(None)] * 50
        assert read(line.result().decode()) == [(ACTIVATION, mail())] * 50


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "cut off"),
        (LINE.rstrip("\n"), "cut off"),
        ("\n", "0 fields"),
        ("\r\n", "0 fields"),
        (LINE.replace("\n", ",\n"), "6 fields"),
        (LINE.replace(",", ";"), "1 fields"),
        ("0" + LINE[1:], "an action is not one of 1, 2"),
        ("11" + LINE[1:], "an action is not one of 1, 2"),
        ("\N{SUPERSCRIPT ONE}" + LINE[1:], "an action is not one of 1, 2"),
        (LINE.replace("@", ""), "an address, login or secret"),
        (LINE.replace(",ada,", ",,"), "an address, login or secret"),
        (LINE.replace(SECRET, SECRET[1:]), "an address, login or secret"),
        (LINE.replace(SECRET, SECRET[1:] + "="), "an address, login or secret"),
        (LINE.replace(CODE, "1234"), "five digits"),
        (LINE.replace(CODE, "\N{ARABIC-INDIC DIGIT ONE}1234"), "five digits"),
        (LINE.replace(CODE, ""), "five digits"),
        (LINE.replace(",ada,", ',"ada,'), "RFC 4180"),
        (LINE.replace(",ada,", ',"ada"x,'), "RFC 4180"),
        (LINE.replace(",ada,", ",a\0da,"), "control characters"),
        (LINE.replace(",ada,", ",a\rda,"), "control characters"),
        (LINE.replace(",ada,", ',"a\rda",'), "control characters"),
        (LINE.replace(",ada,", ",a\x85da,"), "control characters"),
        (LINE.replace(",ada,", ",a\u2028da,"), "control characters"),
        (LINE.replace(",ada,", ",a\udcffda,"), "not UTF-8"),
        ("x" * (MAX_LINE + 1), f"longer than {MAX_LINE} characters"),
        ("x" * MAX_LINE + "\n", f"longer than {MAX_LINE} characters"),
    ],
)
def test_a_malformed_line_is_refused_for_what_is_wrong(line: str, why: str) -> None:
    said = complaint(line)
    assert why in said
    assert "ada" not in said
    assert SECRET[:20] not in said


def test_a_line_may_end_as_on_windows() -> None:
    assert read(LINE.replace("\n", "\r\n")) == read(LINE)


def test_fifty_of_the_longest_mails_fit() -> None:
    longest = mail('"' * 254, "a" * 200 + "@" + "b" * 53)
    assert read(line_of(ACTIVATION, [longest] * 50)) == [(ACTIVATION, longest)] * 50
