"""Tokens in mails: what verifies, and what does not."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailroom.errors import TokenError
from mailroom.job import Action
from tests.kinds import ACTIONS, ACTIVATION, RECOVERY, sign, verify
from tests.tokens.signed import ALPHABET, OTHER_KEY, SECRET, other
from tests.world import KEY

ORIGINAL = "Qg84W2nmW8ClkDGZBdoC7UXM0BakAhmlBmR4emc4JJji0aMHLqfdM07rn1sHN8tvGk9go-hsKJMwvtqdGm5Cjw"
actions = st.sampled_from(ACTIONS)
secrets = st.binary(min_size=32, max_size=32)
codes = st.from_regex(r"[0-9]{5}", fullmatch=True)


def refused(token: str, *, action: Action = ACTIVATION, key: bytes = KEY, code: str | None = None) -> bool:
    try:
        verify(token, action=action, key=key, code=code)
    except TokenError as error:
        return str(error) == str(TokenError())
    return False


def test_a_token_of_the_original_verifies() -> None:
    secret = verify(ORIGINAL, action=ACTIVATION, key=KEY)

    assert secret == base64.urlsafe_b64decode(ORIGINAL + "==")[:32]
    assert sign(secret, action=ACTIVATION, key=KEY) == ORIGINAL


@pytest.mark.parametrize(
    ("action", "message"),
    [(ACTIVATION, b"/activate" + SECRET), (RECOVERY, b"/recover" + SECRET + b"01234")],
)
def test_a_token_is_the_secret_and_its_hmac_in_base64url(action: Action, message: bytes) -> None:
    mac = hmac.new(KEY, message, hashlib.sha256).digest()

    token = sign(SECRET, action=action, key=KEY, code="01234")

    assert token == base64.urlsafe_b64encode(SECRET + mac).decode().rstrip("=")
    assert len(token) == 86


@settings(deadline=None)
@given(secret=secrets, key=secrets, action=actions, code=codes)
def test_what_was_signed_verifies(secret: bytes, key: bytes, action: Action, code: str) -> None:
    token = sign(secret, action=action, key=key, code=code)

    assert verify(token, action=action, key=key, code=code) == secret
    assert set(token) <= set(ALPHABET)


@settings(deadline=None)
@given(token=st.text(), action=actions, code=st.none() | st.text())
def test_whatever_else_comes_is_refused(token: str, action: Action, code: str | None) -> None:
    assert refused(token, action=action, code=code)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_token_with_one_character_changed_is_refused(action: Action) -> None:
    token = sign(SECRET, action=action, key=KEY, code="01234")

    accepted = [
        place
        for place, character in enumerate(token)
        if not refused(token[:place] + other(character) + token[place + 1 :], action=action, code="01234")
    ]

    assert accepted == []


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        ORIGINAL[:-1],
        ORIGINAL[1:],
        ORIGINAL[:43],
        ORIGINAL + "A",
        ORIGINAL + "=",
        ORIGINAL + "==",
        ORIGINAL[:-2] + "==",
        ORIGINAL + "\n",
        " " + ORIGINAL,
        ORIGINAL[:-1] + "\n",
        ORIGINAL[:40] + " " + ORIGINAL[41:],
        ORIGINAL.replace("Q", "\N{FULLWIDTH LATIN CAPITAL LETTER Q}"),
        ORIGINAL.replace("-", "\N{HYPHEN}"),
        ORIGINAL.swapcase(),
    ],
)
def test_a_token_of_another_shape_is_refused(spelling: str) -> None:
    assert refused(spelling)


def test_only_one_spelling_of_the_last_character_verifies() -> None:
    """64 bytes leave four bits of the 86th character over, so a lenient decoder reads sixteen spellings as one."""
    alike = [
        ORIGINAL[:-1] + last
        for last in ALPHABET
        if base64.urlsafe_b64decode(ORIGINAL[:-1] + last + "==") == base64.urlsafe_b64decode(ORIGINAL + "==")
    ]

    assert len(alike) == 16
    assert [spelling for spelling in alike if not refused(spelling)] == [ORIGINAL]


@pytest.mark.parametrize(
    ("secret", "url", "plain"), [(b"\xff" * 32, "_", "/"), (b"\xfb\xef\xbe" * 10 + b"\xfb\xef", "-", "+")]
)
def test_the_other_base64_alphabet_is_refused(secret: bytes, url: str, plain: str) -> None:
    token = sign(secret, action=ACTIVATION, key=KEY)

    assert url in token
    assert refused(token.replace(url, plain))
    assert refused(token.replace(url, plain, 1))


def test_a_token_of_another_action_is_refused() -> None:
    activation = sign(SECRET, action=ACTIVATION, key=KEY)
    recovery = sign(SECRET, action=RECOVERY, key=KEY, code="01234")

    assert refused(activation, action=RECOVERY, code="01234")
    assert refused(recovery, action=ACTIVATION)


def test_a_token_of_another_key_is_refused() -> None:
    assert refused(ORIGINAL, key=OTHER_KEY)


@pytest.mark.parametrize(
    "code",
    [
        None,
        "",
        "01235",
        "1234",
        "001234",
        "01234 ",
        "01234\n",
        "+1234",
        "\N{ARABIC-INDIC DIGIT ZERO}1234",
        "\N{FULLWIDTH DIGIT ZERO}1234",
        "\N{SUPERSCRIPT TWO}1234",
        "0123\x00",
    ],
)
def test_a_recovery_with_another_code_is_refused(code: str | None) -> None:
    recovery = sign(SECRET, action=RECOVERY, key=KEY, code="01234")

    assert refused(recovery, action=RECOVERY, code=code)


@pytest.mark.parametrize("code", ["", "1234", "123456", "\N{ARABIC-INDIC DIGIT ZERO}1234", "1234x"])
def test_a_recovery_is_not_signed_without_five_digits(code: str | None) -> None:
    with pytest.raises(ValueError, match="five ASCII digits"):
        sign(SECRET, action=RECOVERY, key=KEY, code=code)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_secrets_and_keys_are_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign(bytes(length), action=ACTIVATION, key=KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        sign(SECRET, action=ACTIVATION, key=bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        verify(ORIGINAL, action=ACTIVATION, key=bytes(length))


def test_an_empty_key_makes_nobodys_token_good() -> None:
    """A key that was never set is the one key that everybody knows."""
    forged = base64.urlsafe_b64encode(SECRET + hmac.digest(b"", b"/activate" + SECRET, "sha256")).decode().rstrip("=")

    with pytest.raises(ValueError, match="32 bytes"):
        verify(forged, action=ACTIVATION, key=b"")


@settings(deadline=None)
@given(keys=st.lists(secrets, min_size=1, max_size=4), which=st.integers(0, 3))
def test_any_of_several_keys_may_have_signed(keys: list[bytes], which: int) -> None:
    signer = keys[which % len(keys)]
    token = sign(SECRET, action=ACTIVATION, key=signer)

    assert verify(token, action=ACTIVATION, key=keys) == SECRET
    others = [key for key in keys if key != signer]
    if others:
        with pytest.raises(TokenError):
            verify(token, action=ACTIVATION, key=others)


def test_all_keys_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for keys in ((KEY, OTHER_KEY, SECRET), (OTHER_KEY, SECRET, KEY)):
        verify(ORIGINAL, action=ACTIVATION, key=keys)
    assert len(compared) == 6


@pytest.mark.parametrize("keys", [(), (KEY, b""), (b"", KEY), (KEY, KEY[:31])])
def test_each_of_several_keys_is_32_bytes_and_there_is_one(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        verify(ORIGINAL, action=ACTIVATION, key=keys)
