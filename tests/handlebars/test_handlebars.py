"""The renderer: what handlebars.js makes of a table of templates, what is refused, and what hostile ones cost."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroom.handlebars import RenderingError, Template, TemplateError
from mailroom.handlebars.render import MAX_RENDERED_DEPTH, MAX_STEPS
from mailroom.handlebars.tree import MAX_DEPTH

HERE = Path(__file__).parent
# [template, what handlebars.js 4.7.8 makes of it or null where it raises], with `noEscape` and `strict`: see expect.js.
TABLE = json.loads((HERE / "cases.json").read_text("utf-8"))
DATA: dict[str, Any] = TABLE["data"]

REFUSED = [
    "{{#name}}a{{/name}}",
    "{{^name}}a{{/name}}",
    "{{#if name}}a{{^}}b{{/if}}",
    "{{lookup user 'first'}}",
    "{{log name}}",
    "{{log}}",
    "{{helper name}}",
    "{{#if (eq a b)}}c{{/if}}",
    "{{#if zero includeZero=true}}a{{/if}}",
    "{{#each letters as |x|}}{{x}}{{/each}}",
    "{{letters.[0]}}",
    "{{letters.0}}",
    "{{user/first}}",
    "{{[name]}}",
    "{{#> p}}a{{/p}}",
    "{{> p user}}",
    "{{> p a=1}}",
    "{{> (p)}}",
    "{{{{raw}}}} {{a}} {{{{/raw}}}}",
    "{{true}}",
    "{{1}}",
    "{{'a'}}",
    "{{elsewhere}}",
    "{{@level}}",
    "{{@../index}}",
    "{{* dec}}",
    '{{#* inline "p"}}{{../name}}{{/inline}}',
    "{{naïve}}",
    "{{#if true}}a{{/if}}",
    "{{#eq a b}}c{{/eq}}",
]


def outcome(template: str, data: Any = DATA) -> str | None:
    """What it is rendered to, or None."""
    try:
        return Template(template).render(data)
    except (TemplateError, RenderingError):
        return None


@pytest.mark.parametrize(("template", "expected"), TABLE["cases"], ids=[case[0] for case in TABLE["cases"]])
def test_it_renders_as_handlebars_does(template: str, expected: str | None) -> None:
    assert outcome(template) == expected


def has_handlebars() -> bool:
    """Whether node is here, and finds handlebars."""
    node = shutil.which("node")
    return (
        node is not None
        and not subprocess.run([node, "-e", "require('handlebars')"], check=False, capture_output=True).returncode
    )


@pytest.mark.skipif("not has_handlebars()", reason="needs node and NODE_PATH with handlebars")
def test_the_table_is_what_handlebars_says() -> None:
    pairs = json.dumps([[template, DATA] for template, _ in TABLE["cases"]])
    said = subprocess.run(["node", str(HERE / "expect.js")], input=pairs, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == [expected for _, expected in TABLE["cases"]]


@pytest.mark.parametrize("template", REFUSED)
def test_what_it_does_not_do_is_refused_by_name(template: str) -> None:
    with pytest.raises(TemplateError, match="not supported") as refused:
        Template(template)
    assert any(tag in str(refused.value) for tag in re.findall(r"\{\{.*?\}\}", template))


@pytest.mark.parametrize(("template", "name"), [("{{a}} {{b.c}}", "b.c"), ("{{#if a}}{{> p}}{{/if}}", "p")])
def test_what_is_missing_is_named(template: str, name: str) -> None:
    assert Template(template).missing({"a": "x"}) == name
    with pytest.raises(RenderingError) as failed:
        Template(template).render({"a": "x"})
    assert failed.value.name == name


@pytest.mark.parametrize("value", [None, [], ["x"], {}, {"b": "c"}])
def test_what_has_no_text_is_no_mail(value: object) -> None:
    """Stricter than handlebars.js, which writes nothing for a null and [object Object] for an object."""
    assert outcome("{{a}}", {"a": value}) is None


def test_numbers_that_come_first_are_not_added_up() -> None:
    """As they are by handlebars.js: nobody can mean that."""
    assert outcome("{{a}}{{b}}", {"a": 1, "b": 2.5}) == "12.5"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(10**400, "Infinity"), (-(10**400), "-Infinity"), (float("inf"), "Infinity"), (float("nan"), "NaN")],
)
def test_numbers_that_are_none_are_written_as_javascript_writes_them(value: float, expected: str) -> None:
    assert outcome("{{a}}", {"a": value}) == expected


@given(st.text(st.sampled_from('{}#/>!~-\\ \n"*&@.abelsifnu'), max_size=60))
def test_no_text_makes_it_fail_otherwise(source: str) -> None:
    outcome(source, {"a": "x", "b": ["y"]})


@given(st.text(st.characters(exclude_characters="{\\\0", exclude_categories=["Cs"])))
def test_text_without_tags_is_left_as_it_is(source: str) -> None:
    assert outcome(source, {}) == source


# Whoever may push a template may do harm in other ways; but what is pushed by mistake must not stop the machine.

LARGE = 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "{{" * LARGE,
        "{{{" * LARGE,
        "{{!--" * LARGE,
        "{{!-- --" * LARGE,
        "\\{{" * LARGE,
        "\\" * LARGE + "{{a}}",
        " \n" * LARGE + "{{#if a}}" + " \n" * LARGE + "{{/if}}" + " \n" * LARGE,
        "{{a}} \n" * LARGE,
        "{{" + " " * LARGE + "else" + " " * LARGE + "x}}",
        "{{#if" + " " * LARGE + "}}",
        "{{#if " + "a." * LARGE + "}}",
        "{{" + "../" * LARGE + "a}}",
        "{{#if a}}" * LARGE,
        "{{#if a}}b{{else if c}}" * LARGE,
    ],
    ids=lambda source: source[:12],
)
@pytest.mark.timeout(60)
def test_a_long_template_costs_no_more_than_its_length(source: str) -> None:
    outcome(source, {"a": "x"})


def test_blocks_lie_only_so_deep_in_each_other() -> None:
    deep = "{{#if a}}" * MAX_DEPTH + "x" + "{{/if}}" * MAX_DEPTH
    chain = "{{#if b}}" + "{{else if b}}" * (MAX_DEPTH - 1) + "{{else}}x{{/if}}"
    assert [outcome(each, {"a": "1", "b": ""}) for each in (deep, chain)] == ["x", "x"]
    with pytest.raises(TemplateError, match=f"more than {MAX_DEPTH} blocks deep"):
        Template("{{#if a}}" + deep + "{{/if}}")
    with pytest.raises(TemplateError, match=f"more than {MAX_DEPTH} blocks deep"):
        Template("{{#if b}}{{else if b}}" + chain.removeprefix("{{#if b}}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('{{#* inline "p"}}{{> p}}{{/inline}}{{> p}}', f"more than {MAX_RENDERED_DEPTH} deep"),
        ("{{#each l}}{{#each @root.l}}{{#each @root.l}}{{/each}}{{/each}}{{/each}}", f"more than {MAX_STEPS} steps"),
        ("{{#each l}}{{@root.long}}{{/each}}", "longer than"),
        (
            "".join(f'{{{{#* inline "p{n}"}}}}{{{{> p{n + 1}}}}}{{{{> p{n + 1}}}}}{{{{/inline}}}}' for n in range(60))
            + '{{#* inline "p60"}}x{{/inline}}{{> p0}}',
            f"more than {MAX_STEPS} steps",
        ),
    ],
    ids=["a partial of itself", "loops in loops", "a long text in a loop", "partials that double"],
)
def test_a_short_template_cannot_become_a_long_one(source: str, reason: str) -> None:
    with pytest.raises(RenderingError, match=reason):
        Template(source).render({"l": ["x"] * 200, "long": "x" * 100_000})
