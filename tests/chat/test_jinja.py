"""Jinja in a sandbox, with bounded work."""

from __future__ import annotations

import jinja2
import pytest

from hanlin.chat.rendering import work_budget
from hanlin.chat.rendering.jinja import JinjaTemplate, Markers
from hanlin.chat.rendering.work_budget import TemplateLimitError
from waiting import count_calls, hang_limit

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
    "a counter that is a variable": (
        "{% set hanlin_step = dict %}{% set budget = dict %}{% set environment = dict %}"
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    ),
    "a loop that skips": "{% for i in range(90000) %}{% for j in range(90000) if false %}{% endfor %}{% endfor %}",
    "a search in a loop": "{% for i in range(90000) %}{{ 'x' in range(90000) }}{% endfor %}",
    "blocks in blocks": "".join(
        f"{{% block b{i} %}}" + f"{{{{ self.b{i + 1}() }}}}" * 10 + "{% endblock %}" for i in range(12)
    )
    + "{% block b12 %}{% endblock %}",
    "columns": "{{ [1] | batch(1000000000, 'x') | list | length }}",
    "many fields": "{{ ('{:9999}' * 100000).format(*([1] * 100000)) }}",
    "one field many times": "{{ ('{0}' * 100000).format('x' * 10000) }}",
    "a joined list": "{% set a = 'x' * 10000000 %}{{ ([a] * 10000) | join }}",
    "a joined generator": "{% set a = 'x' * 10000000 %}{{ ''.join(([a] * 10000) | map('string')) }}",
    "a list as text": "{% set a = 'x' * 10000000 %}{{ ([a] * 10000) | string | length }}",
    "a rounding": "{{ 1.5 | round(10000000, 'ceil') }}",
    "an indent of JSON": "{{ [1] | tojson(indent=1000000000) | length }}",
    "an indent that is a text": "{{ ('\\n' * 100000) | indent('x' * 9999) }}",
    "texts that are kept": (
        "{% set n = namespace(l=[]) %}{% set b = '好' * 9000000 %}"
        "{% for i in range(6000) %}{% set n.l = n.l + [b ~ i] %}{% endfor %}"
    ),
    "a text that is split": "{{ ('x ' * 9000000).split() | length }}",
    "literal text in a macro": (
        "{% macro m() %}" + "y" * 50000 + "{% endmacro %}{% for i in range(99999) %}{% set x = m() %}{% endfor %}"
    ),
    "bytes": "{{ (5).to_bytes(1000000000, 'big') | length }}",
    "a namespace that holds itself": "{% set n = namespace() %}{% set n.x = n %}{{ n }}",
    "a deep list": (
        "{% set n = namespace(a=[1]) %}{% for i in range(20000) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}"
    ),
    "characters to strip": "{{ ('a' * 10000000).strip('b' * 9999 ~ 'a') }}",
    "a search from the end": "{{ ('a' * 1000000).rfind('ab' ~ 'a' * 500000) }}",
    "a partition from the end": "{{ ('a' * 1000000).rpartition('ab' ~ 'a' * 500000) | length }}",
    "a split from the end by name": "{{ ('a' * 1000000).rsplit(maxsplit=1, sep='ab' ~ 'a' * 500000) | length }}",
    "tabs by name": "{{ ('\\t' * 9).expandtabs(tabsize=999999999) | length }}",
    "endless output": "{% for i in range(90000) %}{% for j in range(5) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_endless_work_is_ended(source: str) -> None:
    with hang_limit(), pytest.raises(TemplateLimitError):
        render(source)


TEN_OF_TEN = "{% set a = ('lol', 'lol') %}" + "{% set a = (a, a, a, a, a, a, a, a, a, a) %}" * 12


@pytest.mark.parametrize(
    "use",
    [
        *("{{ a }}", "{{ a ~ 1 }}", "{{ a | string }}", "{{ a | upper }}", "{{ a | tojson }}", "{{ [a] | join }}"),
        *("{{ '%s' % (a,) }}", "{{ '{}'.format(a) }}", "{{ a == (a, 1) }}", "{{ a is eq((a,)) }}", "{{ a in [(a,)] }}"),
        *("{{ {}[a] }}", "{{ {a: 1} }}", "{{ dict([(a, 1)]) }}", "{{ {}.get(a) }}", "{{ [a, a] | sort }}"),
        *("{{ [a, a] | unique | list }}", "{{ [(a, 1)] | groupby(0) }}", "{{ [(a,)].index((a, 1)) }}"),
    ],
)
def test_ten_lists_of_ten_lists_are_never_walked_through_to_the_end(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_budget, "MAX_ITEMS", 100_000)
    with hang_limit(), pytest.raises(TemplateLimitError):
        render(TEN_OF_TEN + use)


def test_filters_in_a_loop_end_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_budget, "MAX_SECONDS", 0.3)
    with hang_limit(), pytest.raises(TemplateLimitError, match="seconds"):
        render("{% for i in range(90000) %}{{ range(90000) | map('string') | list | length }}{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        *("{{ " + "(" * 30000, "{% for i in [1] %}" * 40 + "{% endfor %}" * 40, "{{ a" + ".b" * 30000 + " }}"),
        *("{{ " + "9" * 5000 + " }}", "x" * 100_000, "{{ '" + "x" * 60000, "{{ x | urlize }}", "{{" * 30000),
    ],
)
def test_what_cannot_be_compiled_is_a_syntax_error(source: str) -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        JinjaTemplate(source)


def test_a_long_conversation_is_no_endless_work() -> None:
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": "好" * 100} for i in range(1000)]
    source = (
        "{% set n = namespace(text='') %}{% for m in messages %}{% if m == messages[-1] and 'x' not in m.content %}"
        "{% set n.text = n.text ~ m.content | trim | replace('好', '很好') %}{% else %}"
        "{% set n.text = n.text + '%s: ' % m.role + m['content'].strip().split('。')[0] %}{% endif %}{% endfor %}"
        "{{ n.text }}{{ messages | tojson(indent=4) }}{{ messages | map(attribute='role') | unique | join(',') }}"
    )
    assert len(render(source, messages=turns)) > 200_000


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


def test_a_template_that_is_endless_on_a_small_conversation_is_not_rendered_again() -> None:
    endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    template = JinjaTemplate("{% if x | length > 2 %}" + endless + "{% endif %}ok")
    assert template.render(MARKS, {"x": "ab"}) == "ok"
    for _ in range(2):  # a long conversation is refused alone
        with pytest.raises(TemplateLimitError):
            template.render(MARKS, {"x": "好" * 30_000})
    assert template.render(MARKS, {"x": "ab"}) == "ok"
    with pytest.raises(TemplateLimitError, match="200,000 loop turns"):
        template.render(MARKS, {"x": "abc"})

    def is_refused() -> None:
        with pytest.raises(TemplateLimitError, match="200,000 loop turns"):
            template.render(MARKS, {"x": "ab"})

    assert count_calls(is_refused) < 1000
