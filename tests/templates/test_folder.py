"""The folder: what is read from where, and one line for what is wrong with it."""

import os
from pathlib import Path

import pytest

from mailroom import templates
from mailroom.templates import starter
from mailroom.templates.folder import MAX_FILE, FolderError, direction
from tests.templates.folders import FRENCH, GERMAN, GOOD, activation, languages, write


def test_each_language_has_its_three_texts(tmp_path: Path) -> None:
    read = templates.read(write(tmp_path, languages(en=GOOD, de=GERMAN, pt_BR=FRENCH)))
    assert read.default_language == "en"
    assert {language: parts.subject for language, parts in read.texts["activation"].items()} == {
        "en": "Welcome",
        "de": "Willkommen",
        "pt-br": "Bienvenue",
    }


def test_line_ends_and_marks_of_editors_are_no_text(tmp_path: Path) -> None:
    write(tmp_path, languages(en=GOOD))
    (tmp_path / "activation/en/subject.txt").write_bytes(b"\xef\xbb\xbfWelcome\r\n")
    assert templates.read(tmp_path).texts["activation"]["en"].subject == "Welcome"


def test_a_layout_goes_around_the_texts_and_knows_the_language(tmp_path: Path) -> None:
    layout = {
        "layout/html.html": '<html lang="{{> language}}" dir="{{>dir}}">{{> content}}</html>',
        "layout/ar/text.txt": "{{> content}}\n-- in Arabic",
    }
    texts = templates.read(write(tmp_path, languages(en=GOOD, ar=FRENCH) | layout)).texts["activation"]
    assert texts["en"].html == f'<html lang="en" dir="ltr">{GOOD["html.html"]}</html>'
    assert texts["ar"].html == f'<html lang="ar" dir="rtl">{FRENCH["html.html"]}</html>'
    assert (texts["en"].text, texts["ar"].text) == (GOOD["text.txt"], FRENCH["text.txt"] + "\n-- in Arabic")


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "ltr"), ("he", "rtl"), ("fa-ir", "rtl"), ("az-arab", "rtl"), ("ur-latn", "ltr"), ("arn", "ltr")],
)
def test_the_direction_is_that_of_the_script(language: str, expected: str) -> None:
    assert direction(language) == expected


EN = languages(en=GOOD)


@pytest.mark.parametrize(
    ("files", "settings", "words"),
    [
        ({}, 'default_language = "en"', "has no folder of an action"),
        (EN, "", "has no default_language"),
        (EN, "default_language = 'not a language'", "has no default_language"),
        (EN, "default_language = ", "templates.toml: "),
        (EN, 'default_language = "fr"', "has no fr, which is the default"),
        (EN, 'default_language = "en"\ncolour = "red"', "colour is not known"),
        (EN, 'default_language = "en"\n[other]\na = "b"', r"\[other\] is of no action"),
        (EN, 'default_language = "en"\n[activation]\nlang_de = "1"', "lang_de: request_mail does not take it"),
        (EN, 'default_language = "en"\n[activation]\na_text = "1"', "a_text: request_mail does not take it"),
        (EN, 'default_language = "en"\n[activation]\na = ["1"]', "a: request_mail does not take it"),
        (languages("Not-An-Action", en=GOOD), 'default_language = "en"', "is no name of an action"),
        (EN | languages(notalanguage=GERMAN), 'default_language = "en"', "is no language"),
        (EN | languages(EN=GERMAN), None, "twice"),
        (EN | {"activation/de/subject.txt": "x"}, None, "text.txt: No such file"),
        (EN | {"layout/text.txt": "nothing"}, None, "has {{> content}} not once"),
        *((EN, f'default_language = "en"\n[activation]\na = {value}', "a: request_mail does not take it") for value in (
            "inf", "-nan", "1" + "0" * 400, str(-(2**53) - 1), r'"\u0000"', "1979-05-27",
        )),
        (EN, 'default_language = "en"\n[activation]\na = 1' + "0" * 5000, "has a number that is too long"),
        (EN, 'default_language = "en"\na = ' + "[" * 50_000, "too much in each other"),
        (EN | {"activation/en/html.htm": "x"}, None, "html.htm: means nothing here"),
        (EN | {"activation/subject.txt": "x"}, None, "activation/subject.txt: means nothing here"),
        (EN | {"layout/html.htm": "x"}, None, "layout/html.htm: means nothing here"),
        (EN | {"layout/subject.txt": "x"}, None, "layout/subject.txt: means nothing here"),
        (EN | {"layout/en/subject.txt": "x"}, None, "layout/en/subject.txt: means nothing here"),
        (EN | {"layout/de-AT/text.txt": "{{> content}}"}, None, "has de-at, a language that no action has"),
        (EN | {"layout/EN/text.txt": "{{> content}}", "layout/en/text.txt": "{{> content}}"}, None, "has en twice"),
        (EN | {"activation/en/text.txt": "x" * (MAX_FILE + 1)}, None, "is larger than 500 kB"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, files: dict[str, str], settings: str | None, words: str) -> None:
    write(tmp_path, files, **({} if settings is None else {"settings": settings}))
    with pytest.raises(FolderError, match=words) as refused:
        templates.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_what_is_no_text_is_one_line(tmp_path: Path) -> None:
    activation(tmp_path)
    (tmp_path / "activation/en/text.txt").write_bytes(b"\xff")
    with pytest.raises(FolderError, match="is not UTF-8"):
        templates.read(tmp_path)
    with pytest.raises(FolderError, match="is no folder"):
        templates.read(tmp_path / "nowhere")


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A device has no end, and a pipe that nobody writes to no beginning."""
    activation(tmp_path)
    for path in ("activation/en/text.txt", "templates.toml"):
        file = tmp_path / path
        kept = file.read_bytes()
        file.unlink()
        file.symlink_to("/dev/zero")
        with pytest.raises(FolderError, match="is no ordinary file"):
            templates.read(tmp_path)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(FolderError, match="is no ordinary file"):
            templates.read(tmp_path)
        file.unlink()
        file.write_bytes(kept)


@pytest.mark.parametrize(
    ("path", "words"),
    [("layout", "layout: No such file"), ("activation", "activation: leads nowhere"), ("layout/en", "leads nowhere")],
)
def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path, path: str, words: str) -> None:
    write(tmp_path, languages("recovery", en=GOOD) | ({"layout/text.txt": "{{> content}}"} if "/" in path else {}))
    (tmp_path / path).symlink_to("elsewhere")
    with pytest.raises(FolderError, match=words):
        templates.read(tmp_path)


def test_a_layout_that_is_no_folder_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="layout: Not a directory"):
        templates.read(write(tmp_path, EN | {"layout": "{{> content}}"}))


def test_a_layout_is_that_of_its_language_however_that_is_spelled(tmp_path: Path) -> None:
    files = {"layout/text.txt": "{{> content}}", "layout/pt-br/text.txt": "{{> content}}\n-- Brazil"}
    texts = templates.read(write(tmp_path, languages(en=GOOD, pt_BR=FRENCH) | files)).texts["activation"]
    assert texts["pt-br"].text == FRENCH["text.txt"] + "\n-- Brazil"
    assert texts["en"].text == GOOD["text.txt"]


def test_what_is_hidden_beside_the_texts_or_left_by_an_editor_is_in_nobodys_way(tmp_path: Path) -> None:
    extra = {"activation/en/.DS_Store": "", "activation/en/text.txt~": "", "activation/.keep": "", "README.md": "read"}
    assert list(templates.read(write(tmp_path, EN | extra)).texts) == ["activation"]


def test_the_starter_is_good_and_says_who_writes(tmp_path: Path) -> None:
    """Real letters for both of mailroom's actions, in two languages, with nothing of the example's left."""
    folder = tmp_path / "templates"
    starter.write(folder, name="Müller & Co", site="https://shop.example/account")
    read = templates.read(folder)
    assert {action: sorted(texts) for action, texts in read.texts.items()} == {
        "activation": ["de", "en"],
        "password_recovery": ["de", "en"],
    }
    assert templates.problems(read, "activation", has_code=False) == []
    assert templates.problems(read, "password_recovery", has_code=True) == []
    for action, path in (("activation", "activate"), ("password_recovery", "recover")):
        for language, parts in read.texts[action].items():
            assert f"https://shop.example/account/{path}?token={{{{secret}}}}" in parts.text
            assert f'href="https://shop.example/account/{path}?token={{{{secret}}}}"' in parts.html
            assert f'<html lang="{language}" dir="ltr"' in parts.html
            assert ("Müller & Co" in parts.text, "Müller &amp; Co" in parts.html) == (True, True)
            assert "xample.com" not in parts.text + parts.html
    with pytest.raises(FolderError, match="is there already"):
        starter.write(folder, name="Shop", site="https://shop.example")


def test_the_starters_texts_differ_by_language(tmp_path: Path) -> None:
    starter.write(tmp_path, name="Shop", site="https://shop.example")
    for texts in templates.read(tmp_path).texts.values():
        assert len({part for parts in texts.values() for _, part in parts.items()}) == 6
