"""One template with all languages in it: each mail has its own text, whatever is in the others."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroom import handlebars, templates
from mailroom.templates.compose import Content, compose
from mailroom.templates.folder import Folder, Parts
from tests.templates.folders import FRENCH, GERMAN, GOOD, languages, write


def content(folder: Path, action: str = "activation") -> Content:
    return compose(templates.read(folder), action)


def rendered(whole: Content, language: str) -> str:
    given = {"login": "Ada", "login_text": "Ada", "secret": "s3cret", **whole.chosen(language)}
    return " ".join(handlebars.Template(text).render(given) for _, text in whole.parts.items())


def test_each_language_has_its_own_text_and_others_the_default(tmp_path: Path) -> None:
    whole = content(write(tmp_path, languages(en=GOOD, de=GERMAN, pt_BR=FRENCH)))
    assert (whole.languages, whole.flags) == (("de", "en", "pt-br"), ("lang_de", "lang_pt_br"))
    assert whole.chosen("pt-br") == {"lang_de": "", "lang_pt_br": "1"}
    assert whole.parts.subject == (
        "{{#if lang_de}}Willkommen{{else}}{{#if lang_pt_br}}Bienvenue{{else}}Welcome{{/if}}{{/if}}"
    )
    words = [rendered(whole, language).split()[0] for language in ("de", "en", "pt-br", "sv")]
    assert words == ["Willkommen", "Welcome", "Bienvenue", "Welcome"]


def test_one_language_asks_for_nothing(tmp_path: Path) -> None:
    whole = content(write(tmp_path, languages(en=GOOD)))
    assert (whole.parts.subject, whole.flags, whole.chosen("en")) == ("Welcome", (), {})


def test_the_name_is_of_all_that_is_in_it(tmp_path: Path) -> None:
    names = [
        content(write(tmp_path / str(number), files, settings=f'default_language = "{default}"')).name
        for number, (files, default) in enumerate(
            [
                (languages(en=GOOD), "en"),
                (languages(en=GOOD | {"subject.txt": "Welcome!"}), "en"),
                (languages(en=GOOD, de=GERMAN), "en"),
                (languages(en=GOOD, de=GERMAN), "de"),
                (languages(fr=GOOD), "fr"),
            ]
        )
    ]
    assert len(set(names)) == len(names)
    assert names[0] == content(tmp_path / "0").name
    assert all(name.startswith("activation-") and len(name) == len("activation-") + 8 for name in names)


WORDS = st.text(st.sampled_from("abc {}\\\n#/~é"), max_size=20)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_whatever_is_checked_comes_out_as_it_is_alone(texts: list[str]) -> None:
    codes = ["en", "de", "fr", "it", "sv"][: len(texts)]
    mail = Parts(subject="x", text="{{secret}}", html="{{secret}}")
    by_language = {
        code: replace(mail, text=f"{text}{{{{secret}}}}".strip("\n")) for code, text in zip(codes, texts, strict=True)
    }
    folder = Folder("en", {"activation": by_language}, {})
    if templates.problems(folder, "activation", has_code=False):
        return
    whole = compose(folder, "activation")
    for code, parts in by_language.items():
        own = handlebars.Template(parts.text).render({"secret": "s"})
        assert (
            handlebars.Template(whole.parts.text).render({"secret": "s", **whole.chosen(code)}).strip() == own.strip()
        )


@pytest.mark.parametrize("count", [2, 30])
def test_many_languages_lie_in_each_other(count: int) -> None:
    codes = ["en", *(f"x{letter}{number}" for letter in "abc" for number in "abcdefghij")][:count]
    texts = {code: Parts(subject=code, text=f"{code} {{{{secret}}}}", html=f"{code} {{{{secret}}}}") for code in codes}
    folder = Folder("en", {"activation": texts}, {})
    assert templates.problems(folder, "activation", has_code=False) == []
    whole = compose(folder, "activation")
    subject = handlebars.Template(whole.parts.subject)
    assert [subject.render(whole.chosen(code)) for code in codes] == codes


def test_more_languages_than_can_lie_in_each_other_are_one_problem() -> None:
    codes = ["en", *(f"x{one}{two}" for one in "abcdefgh" for two in "abcdefghijklm")]
    mail = Parts(subject="x", text="{{secret}}", html="{{secret}}")
    texts = {code: replace(mail, subject=code) for code in codes}
    [problem] = templates.problems(Folder("en", {"activation": texts}, {}), "activation", has_code=False)
    assert "lies more than 100 blocks deep" in problem
