"""What is refused before it is pushed, with the file that it is in."""

from pathlib import Path

import pytest

from mailroom import templates
from mailroom.templates.check import MAX_BYTES, MAX_SUBJECT
from tests.templates.folders import FRENCH, GERMAN, GOOD, activation, languages, write


def problems(folder: Path, *, has_code: bool = False) -> list[str]:
    return templates.problems(templates.read(folder), "activation", has_code=has_code)


@pytest.mark.parametrize(
    "html",
    [
        "<!-- a --><p>{{secret}}</p><!-- b -->",
        "<!--[if mso]>{{secret}}<![endif]--><!--[if !mso]><!--><p>{{secret}}</p><!--<![endif]-->",
        "<!--><p>{{secret}}</p>",
        "<!---><p>{{secret}}</p><!-- b -->",
    ],
)
def test_what_stands_between_comments_is_seen(tmp_path: Path, html: str) -> None:
    assert problems(activation(tmp_path, html=html)) == []


def test_what_is_good_has_no_problems(tmp_path: Path) -> None:
    assert problems(write(tmp_path, languages(en=GOOD, de=GERMAN, fr=FRENCH))) == []


@pytest.mark.parametrize(
    ("part", "text", "problem"),
    [
        ("subject", " ", "is empty"),
        ("subject", "a\nb", "has more than one line"),
        ("subject", "a\rBcc: b", "has more than one line"),
        ("subject", "a\u2028b", "has more than one line"),
        ("subject", "a {{x_text}}", "for ordinary: has more than one line"),
        ("text", "{{#if secret}}here{{/if}}", "text.txt, for ordinary: {{secret}} is not written"),
        ("html", "{{#if login}}x{{else}}{{secret}}{{/if}}", "html.html, for ordinary: {{secret}} is not written"),
        ("html", '{{#* inline "a"}}{{secret}}{{/inline}}x', "html.html, for ordinary: {{secret}} is not written"),
        ("html", "<p>a</p><!-- {{secret}} -->", "html.html, for ordinary: {{secret}} is not written"),
        ("html", "<!-- <p>a</p> {{secret}}", "html.html, for ordinary: {{secret}} is not written"),
        ("subject", "Hello {{login}}", "uses login, which is escaped for HTML: use login_text"),
        ("subject", "{{secret}}", "uses secret: a subject is shown"),
        ("text", "{{secret}} {{login}}", "uses login, which is escaped for HTML: use login_text"),
        ("html", "{{secret}} {{login_text}}", "uses login_text, which is raw, in HTML: use login"),
        ("text", "{{login_text}}", "has no {{secret}}"),
        ("html", "<p>hello</p>", "has no {{secret}}"),
        ("text", "{{secret}} {{code}}", "uses code, and a mail of this action has only login, login_text, secret"),
        ("text", "{{secret}} {{device_text}}", "uses device_text, and"),
        ("text", "{{secret}}{{#if no}}{{else}}{{device}}{{/if}}", "uses device, and"),
        ("text", "{{secret}} {{lang_de}}", "uses lang_de, and"),
        ("text", "{{secret}} {{#if vip}}a{{/if}}", "uses vip, and"),
        ("text", "{{secret}} {{login_text.first}}", "uses login_text.first, and"),
        ("text", "{{secret}} {{#each login_text}}a{{/each}}", "uses each, and a mail has no lists"),
        ("text", "{{secret}} {{> footer}}", "footer: there is no such partial"),
        ("text", "{{secret}} {{#if login_text}}", "has no end"),
        ("text", "{{secret}} {{login_text", "not supported"),
        ("text", "{{secret}} {{lookup login_text}}", "'{{lookup login_text}}', which is not supported"),
        ("text", "{{secret}} \\", "begins or ends with a brace or a backslash"),
        ("text", "{{secret}} {", "begins or ends with a brace or a backslash"),
        ("html", "} {{secret}}", "begins or ends with a brace or a backslash"),
        ("html", "<!-- " + "x" * MAX_BYTES + " --> {{secret}}", "larger than 500 kB"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_each_problem_is_named_with_its_file(tmp_path: Path, part: str, text: str, problem: str) -> None:
    folder = activation(tmp_path, **{part: text})
    write(tmp_path, {}, settings='default_language = "en"\n[activation]\nx = "a\\nb"\n')
    try:
        found = problems(folder)
    except templates.FolderError as error:
        found = [str(error)]
    file = {"subject": "subject.txt", "text": "text.txt", "html": "html.html"}[part]
    assert any(problem in each and file in each for each in found), found


def test_where_there_is_a_code_the_mail_has_to_show_it(tmp_path: Path) -> None:
    assert [each.split(": ")[1] for each in problems(activation(tmp_path), has_code=True)] == ["has no {{code}}"] * 2
    blank = "{{secret}} {{#if code}}a code{{/if}}"
    [problem] = problems(activation(tmp_path, text=blank, html="{{secret}} {{code}}"), has_code=True)[:1]
    assert "{{code}} is not written" in problem


def test_data_is_what_the_folder_says_with_strings_in_two_ways(tmp_path: Path) -> None:
    """A string arrives as NAME, escaped, and NAME_text, raw; a number as NAME alone."""
    settings = 'default_language = "en"\n[activation]\ndevice = "<x>"\ncount = 3\n'
    texts = GOOD | {"text.txt": "{{secret}} {{device_text}} {{count}}", "html.html": "{{secret}} {{device}} {{count}}"}
    write(tmp_path, languages(en=texts), settings=settings)
    assert problems(tmp_path) == []
    activation(tmp_path, text="{{secret}} {{count_text}} {{device}}")
    write(tmp_path, {}, settings=settings)
    assert [each.split(", ")[0] for each in problems(tmp_path)] == [
        "activation/en/text.txt: uses count_text",
        "activation/en/text.txt: uses device",
    ]


def test_the_languages_together_have_to_fit(tmp_path: Path) -> None:
    """SES: 500 kB, the subject, text and HTML of all of them."""
    long = "x" * (MAX_BYTES // 3) + " {{secret}}"
    texts = {each: GOOD | {"html.html": f"{long} {each}"} for each in ("en", "de", "fr")}
    assert problems(write(tmp_path / "two", languages(en=texts["en"], de=texts["de"]))) == []
    [problem] = problems(write(tmp_path / "three", languages(**texts)))
    assert f"and SES takes {MAX_BYTES}" in problem


def test_a_text_is_the_same_alone_and_beside_others(tmp_path: Path) -> None:
    """Where a block stands alone on the first line its line goes; inside of another it stays, by handlebars' rules."""
    inside = GOOD | {"text.txt": "{{secret}}\n{{#if login_text}}\na\n{{/if}}\nend"}
    assert problems(write(tmp_path / "inside", languages(en=GOOD, de=inside))) == []
    odd = GOOD | {"text.txt": '{{secret}}{{#* inline "p"}}a\nb{{/inline}}\n  {{> p}}'}
    [problem, *_] = problems(write(tmp_path / "odd", languages(en=GOOD, de=odd)))
    assert problem.startswith("activation: de, text.txt, for ordinary: is another text beside the other languages")


def test_a_subject_has_to_fit_into_a_header(tmp_path: Path) -> None:
    long = "ä" * (MAX_SUBJECT // 2)
    assert problems(activation(tmp_path / "fits", subject=long)) == []
    [problem, *_] = problems(activation(tmp_path / "long", subject=long + "ä"))
    assert f"the subject has more than {MAX_SUBJECT} bytes" in problem


@pytest.mark.parametrize(
    ("part", "text", "problem"),
    [
        ("text", "https://x.example/a?u={{login_text}}&t={{secret}}", "text.txt: has the login in the link"),
        ("text", "https://x.example/a?t={{secret}}&u={{login_text}}", "text.txt: has the login in the link"),
        ("html", "<a href='https://x.example/?u={{login}}&amp;t={{secret}}'>a</a>", "html.html: has the login in the"),
        ("html", "<br>https://x.example/{{login}}/{{secret}}<br>", "html.html: has the login in the link"),
        ("text", "{{#if vip}}{{secret}}{{/if}}", "text.txt: {{secret}} is not written where vip is False"),
        ("html", "{{#if device}}{{secret}}{{/if}}", "html.html: {{secret}} is not written where device is ''"),
        ("html", "{{#if count}}{{secret}}{{/if}}", "html.html: {{secret}} is not written where count is 0"),
        ("html", "{{#if vip}}{{secret}}{{else}}<!-- {{secret}} -->{{/if}}", "{{secret}} is not written where vip is"),
        ("text", "{{#if vip}}{{secret}}{{else if device_text}}{{secret}}{{/if}}", "all of its data is otherwise"),
        ("html", "{{secret}} <i title={{login}}>a</i>", "html.html: has a value in a tag without quotes"),
        ("html", "{{secret}} <img alt='a b' title={{device}} src=x>", "html.html: has a value in a tag without"),
        ("html", "{{secret}} <{{device}}>a", None),
    ],
)
def test_no_value_makes_another_mail_of_it(tmp_path: Path, part: str, text: str, problem: str | None) -> None:
    """What is right for an example may be wrong for what somebody gives."""
    activation(tmp_path, **{part: text})
    write(tmp_path, {}, settings=f'default_language = "en"\n[activation]\n{VALUES}')
    found = problems(tmp_path)
    assert [each for each in found if problem is None or problem not in each] == []
    assert bool(found) is (problem is not None)


VALUES = 'device = "Firefox on Linux"\nvip = true\ncount = 3\n'


@pytest.mark.parametrize(
    "text",
    [
        "こんにちは{{login_text}}さん、https://x.example/{{secret}}を開いてください",
        "https://help.example/{{login_text}}:https://x.example/?d={{device_text}}&t={{secret}}",
        "{{#if vip}}a {{secret}}{{else}}{{secret}}{{/if}} {{#unless count}}b{{/unless}}",
    ],
)
def test_what_is_around_a_link_is_none_of_it(tmp_path: Path, text: str) -> None:
    page = (
        f"<!-- {{{{login}}}} --><p style='a'>{text.replace('_text', '')} <a href=\"https://x.example/{{{{secret}}}}\""
        " title=\"{{login}} on '{{device}}'\" >{{login}}'s</a><a href=https://x.example/{{secret}}>a</a>"
    )
    activation(tmp_path, text=text, html=page)
    write(tmp_path, {}, settings=f'default_language = "en"\n[activation]\n{VALUES}')
    assert problems(tmp_path) == []
