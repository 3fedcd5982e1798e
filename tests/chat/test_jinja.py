"""Jinja in a sandbox, with bounded work."""

from __future__ import annotations

import time

import jinja2
import pytest

from hanlin.chat.rendering.jinja import JinjaTemplate, Markers, TemplateLimitError

MARKS = Markers("⟦", "⟧", "¦")


def render(source: str, **variables: object) -> str:
    return JinjaTemplate(source).render(MARKS, variables)


def test_generation_blocks_are_marked() -> None:
    assert render("a{% generation %}b{% endgeneration %}c") == "a⟦b⟧c"


def test_a_template_says_whether_it_marks_generation() -> None:
    assert JinjaTemplate("{% generation %}{% endgeneration %}").has_generation_blocks
    assert not JinjaTemplate("{% for m in messages %}{{ m }}{% endfor %}").has_generation_blocks


def test_json_is_not_escaped() -> None:
    assert render("{{ x | tojson }}", x={"问": "<a> & 'b'"}) == '{"问": "<a> & \'b\'"}'


def test_the_date_does_not_move() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"


def test_blocks_leave_no_blank_lines_as_in_transformers() -> None:
    assert (
        render("{% for i in [1, 2] %}\n  {% if i == 2 %}\n{% break %}\n  {% endif %}\n{{ i }}\n{% endfor %}\n") == "1\n"
    )


def test_marks_occur_in_none_of_the_texts() -> None:
    used = "".join(map(chr, range(0xE000, 0xE010)))
    markers = Markers.choose_unused([used, "你好"])
    assert len(set(markers)) == 3
    assert not set(markers) & set(used)


ENDLESS = {
    "nested loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a long text": "{{ 'x' * 999999999 }}",
    "a text that doubles": (
        "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}"
    ),
    "a text joined to itself": (
        "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}"
    ),
    "a wide method": "{{ 'x'.center(999999999) }}",
    "a wide filter": "{{ 'x' | center(999999999) }}",
    "a wide format": "{{ '%999999999d' % 1 }}",
    "a wide format method": "{{ '{:999999999}'.format(1) }}",
    "a width that is given": "{{ '{:{}}'.format(1, 999999999) }}",
    "a star for a width": "{{ '%*d' % (999999999, 1) }}",
    "a replacement that grows": "{{ ('x' * 9999999).replace('x', 'y' * 9999999) }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a number that squares": (
        "{% set n = namespace(a=9) %}{% for i in range(60) %}{% set n.a = n.a * n.a %}{% endfor %}"
    ),
    "endless output": "{% for i in range(90000) %}{% for j in range(5) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_endless_work_is_ended(source: str) -> None:
    started = time.monotonic()
    with pytest.raises(TemplateLimitError):
        render(source)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ messages.append(1) }}", "{{ 1 // 0 }}"],
)
def test_what_the_sandbox_forbids_and_what_fails_is_a_template_error(source: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        render(source, messages=[])


def test_long_contents_are_no_endless_work() -> None:
    text = "好" * 100_000
    source = "{{ '%s%s' % (x, x) }}{{ '{}{}'.format(x, x) }}{{ x.replace('好', '很好') }}{{ [x, x] | join(', ') }}"
    assert len(render(source, x=text)) == 800_002


def test_steps_are_counted_for_each_rendering_anew() -> None:
    template = JinjaTemplate("{% for i in range(90000) %}{% endfor %}done")
    assert {template.render(MARKS, {}) for _ in range(3)} == {"done"}
