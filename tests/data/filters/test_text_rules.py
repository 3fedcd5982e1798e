"""Each rule on text, on text that it must change or drop and on text that it must leave alone."""

from __future__ import annotations

import inspect
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.config.reasons import DROP_REASONS
from hanlin.config.settings.data import Corpus
from hanlin.config.settings.rules import ALL_TEXT_RULES, CORPUS_RULES, TEXT_RULES
from hanlin.data.filters import text as rules
from hanlin.data.filters.rules import RULE_FUNCTIONS, build_text_rules, clean_text
from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.ngrams import repeated_ngram_fraction

DEFAULT = build_text_rules(Corpus(sources="./x").rules)
SPRING = "春天的时候，翰林院里开满了花。学士们坐在树下读书，谈论古今的文章，也写下自己的诗句。"


def apply(name: str, text: str) -> str | Drop:
    result = RULE_FUNCTIONS[name](text, **ALL_TEXT_RULES[name])
    return result


def reason(name: str, text: str) -> str:
    result = apply(name, text)
    assert isinstance(result, Drop), result
    return result.reason


def test_every_rule_has_a_function_and_every_parameter_is_read() -> None:
    assert set(RULE_FUNCTIONS) == set(ALL_TEXT_RULES) and list(TEXT_RULES) == list(CORPUS_RULES)
    for name, parameters in ALL_TEXT_RULES.items():
        assert set(inspect.signature(RULE_FUNCTIONS[name]).parameters) - {"text"} == set(parameters), name


def test_every_rule_says_why() -> None:
    for name, rule in RULE_FUNCTIONS.items():
        assert rule.__doc__ and len(rule.__doc__) > 80, name


def test_ordinary_prose_passes_every_rule_unchanged() -> None:
    for text in (
        SPRING,
        "The library stands in the east of the town, and it opens at eight.",
        SPRING + "\n\n" + SPRING[:20],
    ):
        assert clean_text(text, DEFAULT) == (text, ())


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    mending = [pair for pair in DEFAULT if pair[0] in ("unicode", "control_characters", "whitespace")]
    once = clean_text(text, mending)
    if not isinstance(once, Drop):
        assert clean_text(once[0], mending) == (once[0], ())


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_no_text_makes_a_rule_fail(text: str) -> None:
    result = clean_text(text, DEFAULT)
    assert isinstance(result, Drop) or isinstance(result[0], str)


def test_a_lone_surrogate_is_dropped() -> None:
    assert clean_text("好\ud83d", []) == Drop("broken_characters", "U+D83D")


def test_width_of_letters_and_digits_is_one_but_chinese_punctuation_stays() -> None:
    assert apply("unicode", "ＧＰＴ４，是吗？！（好）²") == "GPT4，是吗？！（好）²"


def test_radicals_become_characters_and_composed_letters_one() -> None:
    assert apply("unicode", "⼈⼝ ﬁne cafe\u0301") == "人口 fine café"


def test_control_and_invisible_characters_are_removed_and_emoji_stay() -> None:
    assert apply("control_characters", "\ufeff春\u200b天\x00\r\n花\ue000开\u2028了👨‍👩‍👧") == "春天\n花开\n了👨‍👩‍👧"


def test_indents_of_paragraphs_are_removed_and_those_of_code_stay() -> None:
    assert apply("whitespace", "　　春天 \t\n\n\n\n    x = 1\xa0\n") == "春天\n\n    x = 1"


def test_a_page_of_html_becomes_its_visible_text() -> None:
    page = (
        "<!DOCTYPE html><html><head><title>题</title><style>p{}</style></head><body><nav>首页</nav>"
        "<script>var a = '<p>';</script><h1>春天</h1><p>花开&nbsp;了&amp;好</p><br>再见</body></html>"
    )
    assert apply("html", page) == "春天\n花开 了&好\n再见"


def test_a_page_without_visible_text_is_dropped() -> None:
    assert reason("html", "<html><head><title>x</title></head><body><script>f()</script></body></html>") == "no_text"


def test_entities_in_plain_text_are_resolved() -> None:
    assert apply("html", "春&nbsp;天 &ldquo;花&rdquo; AT&T a&b") == "春\xa0天 “花” AT&T a&b"


@pytest.mark.parametrize(
    "text", ["在 HTML 里 `<p>` 是段落，a < b && c > d。" * 3, "```html\n<div><p>好</p></div>\n```\n写法如上"]
)
def test_text_about_html_is_left_alone(text: str) -> None:
    assert apply("html", text) == text


def test_mojibake_is_repaired_or_dropped() -> None:
    wrong = SPRING.encode().decode("latin-1")
    assert apply("mojibake", wrong) == SPRING
    assert reason("mojibake", "锟斤拷" * 9 + SPRING) == "mojibake"


def test_lines_with_calls_to_action_are_removed_and_sentences_stay() -> None:
    text = f"{SPRING}\n扫码关注公众号，领取福利\n责任编辑：李四\n他说扫码关注公众号是常见的做法，" + SPRING * 2
    assert apply("advertisement_lines", text) == f"{SPRING}\n他说扫码关注公众号是常见的做法，" + SPRING * 2


def test_a_text_of_calls_to_action_alone_is_an_advertisement() -> None:
    assert reason("advertisement_lines", "加微信领券\n扫码关注有礼\n好") == "advertisement"


def test_replacement_characters_beyond_a_few_drop_the_text() -> None:
    assert reason("replacement_characters", SPRING + "\ufffd春" * 3) == "replacement_characters"
    assert reason("replacement_characters", "春\ufffd来了") == "replacement_characters"
    assert reason("replacement_characters", f"{SPRING * 2}春\ufffd来了。" * 20) == "replacement_characters"


def test_a_post_or_a_long_line_loses_only_the_marks_of_a_few_lost_characters() -> None:
    assert apply("replacement_characters", SPRING + "\ufffd") == SPRING
    assert apply("replacement_characters", SPRING * 50 + "\ufffd") == SPRING * 50
    assert apply("replacement_characters", f"{SPRING * 3}春\ufffd来了。" * 5) == f"{SPRING * 3}春来了。" * 5


def test_three_marks_in_a_row_are_one_lost_character() -> None:
    page = SPRING + "\ufffd\ufffd\ufffd" + SPRING
    assert apply("replacement_characters", page) == SPRING * 2
    assert reason("replacement_characters", SPRING + "\ufffd" * 9) == "replacement_characters"


def test_short_lines_that_lost_characters_are_cut_from_a_text_of_others() -> None:
    page = [SPRING] * 9
    assert apply("replacement_characters", "\n".join([*page, "\ufffd\ufffd春\ufffd来", SPRING])) == "\n".join(
        [*page, SPRING]
    )
    assert (
        reason("replacement_characters", "\n".join([*page, *["\ufffd\ufffd春\ufffd来"] * 40]))
        == "replacement_characters"
    )


@pytest.mark.parametrize(
    "comment", ["  // \ufffd\ufffd用\ufffd", " /* \ufffd\ufffd用\ufffd */", " # \ufffd\ufffd用\ufffd"]
)
def test_of_a_line_of_code_only_the_comment_that_lost_characters_is_cut(comment: str) -> None:
    code = "\n".join(f"link(page_{n}, page_{n + 1});" for n in range(20))
    assert (
        apply("replacement_characters", f"{code}\nclose(page);{comment}\nfree(page);")
        == f"{code}\nclose(page);\nfree(page);"
    )


def test_an_explanation_of_replacement_characters_stays() -> None:
    text = f"{SPRING * 9}\n解码失败的字节显示为 U+FFFD，即 \ufffd。\n打开文件全是乱码：\ufffd\ufffd\ufffd"
    assert apply("replacement_characters", text) == text
    short = "认不出的字节变成\ufffd，再按 GBK 读出来又是别的字。"
    assert apply("replacement_characters", short) == short


def test_a_program_that_looks_for_replacement_characters_keeps_its_line() -> None:
    code = "\n".join([*(f"link(page_{n}, page_{n + 1});" for n in range(20)), 'if (page.contains("\ufffd")) {', "}"])
    assert apply("replacement_characters", code) == code


def test_a_line_that_lost_the_mark_of_an_item_loses_no_more() -> None:
    page = f"{SPRING * 9}\n\ufffd 船票\n  \ufffd\ufffd\ufffd 灯\n\ufffd 春\ufffd来"
    assert apply("replacement_characters", page) == f"{SPRING * 9}\n船票\n灯"


def test_repeated_lines_drop_a_text_and_a_refrain_does_not() -> None:
    assert reason("repeated_lines", "\n".join(["本站首页欢迎光临"] * 9 + [SPRING])) == "repeated_lines"
    refrain = "知我者，谓我心忧"
    poem = "\n".join(
        f"{line}\n{refrain}"
        for line in ("彼黍离离，彼稷之苗，行迈靡靡", "彼稷之穗，中心如醉，摇摇其心", "彼稷之实，行迈靡靡，中心如噎")
    )
    assert apply("repeated_lines", poem) == poem


def test_drawn_rules_are_no_repeated_lines_and_a_song_may_repeat_more() -> None:
    seasons = [SPRING, "夏天池塘里开满荷花，青蛙在叶子上唱歌。", "秋天果园里挂满苹果，农民忙着收获。"]
    drawn = ("." * 120 + "\n").join(f"{line}\n" for line in seasons * 1)
    assert apply("repeated_lines", f"{'.' * 120}\n{drawn}{'.' * 120}") == f"{'.' * 120}\n{drawn}{'.' * 120}"
    song = "\n".join(["月亮照着小山坡", "风儿吹过小河边", "阿妹坐在桥头上", "等着阿哥把家还"] * 4)
    assert apply("repeated_lines", song) == song
    assert reason("repeated_lines", song * 3) == "repeated_lines"


def test_source_code_may_repeat_three_quarters_and_front_matter_is_not_counted() -> None:
    code = "\n".join(f"void set_{n}(int value)\n{{\n  unlock(device);\n  write(device, value);\n}}" for n in range(9))
    assert apply("repeated_lines", code) == code
    assert reason("repeated_lines", "\n".join(["unlock(device);"] * 99)) == "repeated_lines"


def test_markup_and_indented_code_may_repeat_three_quarters_too() -> None:
    layout = "\n".join(
        f'<TextView\n    android:id="@+id/{n}"\n    android:layout_width="match_parent"\n    android:gravity="end" />'
        for n in range(9)
    )
    assert apply("repeated_lines", layout) == layout
    functions = "\n".join(
        f"def load_{n}(path, config):\n    if path is None:\n        return None\n    return load(path, config)"
        for n in range(9)
    )
    assert apply("repeated_lines", functions) == functions
    page = "---\n" + "time: 2020-01-01\nreply:\n" * 9 + f"---\n{SPRING}"
    assert apply("repeated_lines", page) == page


def test_repeated_phrases_drop_a_text_without_line_ends() -> None:
    spun = "买苏州办公家具就找苏州办公家具厂家直接联系" * 12
    assert reason("repeated_phrases", spun) == "repeated_phrases"


def test_repeated_ngram_fraction_counts_covered_characters() -> None:
    unique = "".join(chr(0x4E00 + n) for n in range(300))
    assert repeated_ngram_fraction(unique, 10) == 0
    assert repeated_ngram_fraction(unique + unique, 10) == pytest.approx(0.5, abs=0.01)
    assert repeated_ngram_fraction(unique + unique[:12], 10, threshold=0.5) == 0


@pytest.mark.parametrize("n", [10, 15, 45])
@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_hides_no_fraction_above_it(n: int, seed: int) -> None:
    """Parts of many lengths are repeated near and far, so that some of them cross the windows of 5,000 characters."""
    rng = random.Random(seed)
    text = ""
    while len(text) < 12_000:
        fresh = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(rng.randrange(1, 3 * n)))
        start = rng.randrange(max(0, len(text) - 4_000), len(text) + 1)
        text += fresh[: rng.randrange(1 + len(fresh))] + text[start : start + rng.randrange(1, 6 * n)]
    exact = repeated_ngram_fraction(text, n)
    assert exact > 0.1
    assert repeated_ngram_fraction(text, n, exact - 1e-9) == exact


def test_the_length_of_a_long_book_does_not_count_as_repetition() -> None:
    chapters = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(60_000)) + "且听下回分解，欲知后事如何。" * 3
    assert apply("repeated_phrases", chapters) == chapters


def test_runs_of_one_character_drop_a_text() -> None:
    assert reason("repeated_characters", SPRING + "哈" * 100) == "repeated_characters"
    assert apply("repeated_characters", SPRING + "哈哈哈哈哈") == SPRING + "哈哈哈哈哈"


@pytest.mark.parametrize(
    "post",
    [
        "不是有人出来证实这条消息是假的了吗？？？？？？？？？？？？？？",
        "老张啊啊啊啊啊啊啊啊啊啊啊啊你究竟是有多会跳舞[泪]",
        "菜送到的时候已经凉透了。。。差评！！！！！！！！！！！！！！！！！！！！！！！",
        "味道很赞，送餐也快，手动一个赞，不，10000000000000个",
    ],
)
def test_posts_and_reviews_that_say_something_may_laugh_and_exclaim(post: str) -> None:
    assert apply("repeated_characters", post) == post


@pytest.mark.parametrize(
    "post",
    [
        "哈哈哈哈哈哈哈哈哈哈哈",
        "真的假的？？？？？？？？？？",
        "还可以。。。。。。。。。。。。。。。。。。。。。。。。。。",
        "@一个名字很长的人 @另一个人 2333333333333",
        "人间悲剧为何总是在这里上演" + "？" * 120,
    ],
)
def test_posts_that_are_runs_beside_a_word_or_names_are_dropped(post: str) -> None:
    assert reason("repeated_characters", post) == "repeated_characters"


@pytest.mark.parametrize(
    "post",
    [
        "多漂亮的孩子，愿你一路走好。" + "[爱心传递]" * 14,
        "今天吃脑残片了没？" + "[挖鼻屎]" * 11,
    ],
)
def test_emoticons_behind_what_a_post_says_are_no_repeated_phrases(post: str) -> None:
    assert apply("repeated_phrases", post) == post


@pytest.mark.parametrize(
    "post", ["[蜡烛]" * 45, "我爱他" * 46, "#张三生日快乐# " * 12 + "好喜欢你", "参加" + "…" * 118]
)
def test_posts_of_one_emoticon_or_one_phrase_are_repeated_phrases(post: str) -> None:
    assert reason("repeated_phrases", post) == "repeated_phrases"


def test_two_thirds_may_be_runs_in_a_post_and_a_fifth_in_a_page() -> None:
    said = "这一句话说了一些事情。"
    assert apply("repeated_characters", said + "！" * 20) == said + "！" * 20
    assert reason("repeated_characters", said + "！" * 30) == "repeated_characters"
    page = said + "一二三四五六七八九十" * 15 + "！" * 60
    assert len(page) > 200
    assert reason("repeated_characters", page) == "repeated_characters"


@pytest.mark.parametrize(
    "post",
    [
        "终于要看完了吗[泪][泪][泪][泪]",
        "哈哈说得对∩_∩[害羞][爱你][钱]",
        "那是大猫⊙▽⊙",
        "没有肉→_→",
        "好吃🎉🎉🎉🎉🎉🎉",
        "大堂不错，门口人来人往////////////////////",
        "八级了啊．．．．．",
        "¯\\_(ツ)_/¯ 随便吧",
        "╮(╯▽╰)╭没办法",
    ],
)
def test_emoticons_beside_words_do_not_drop_a_post(post: str) -> None:
    assert apply("symbols", post) == post


@pytest.mark.parametrize("post", ["[蜡烛][蜡烛][蜡烛]", "→_→[哈哈]", "🎉🎉🎉", "+1[嘻嘻]", "#$%*&/+>^:!?"])
def test_posts_of_emoticons_and_symbols_alone_are_dropped(post: str) -> None:
    assert reason("symbols", post) == "symbols"


@pytest.mark.parametrize(
    "post", ["是我(○’ω’○)", "啊( ；´Д｀)", "(ﾉ∀｀●)⊃【喂~", "[爱心]️", "迷の⑨神", "黑得漂亮！(̿▀̿ ̿Ĺ̯̿̿▀̿ ̿)̄", "ʕ•ᴥ•ʔ 早安"]
)
def test_letters_in_emoticons_are_no_other_language(post: str) -> None:
    assert apply("chinese_or_english", post) == post


@pytest.mark.parametrize(
    "post", ["お誕生日おめでとう！[蛋糕]", "そうですよね。", "안녕히 주무 세요.", "愛してるよ、ずっと♪( ´θ｀)ノ"]
)
def test_short_posts_in_other_languages_are_dropped_beside_their_emoticons(post: str) -> None:
    assert reason("chinese_or_english", post) == "other_language"


def test_symbols_drop_a_text_and_formulas_do_not() -> None:
    assert reason("symbols", "★☆◆◇■□▲△●○" * 5 + SPRING) == "symbols"
    formula = "若 x² + y² = z²，则 z = √(x² + y²)。"
    assert apply("symbols", formula) == formula


@pytest.mark.parametrize(
    "text",
    ["Привет, как дела? Сегодня хорошая погода.", "こんにちは、きょうはいいてんきですね", "안녕하세요 오늘 날씨"],
)
def test_other_languages_are_dropped(text: str) -> None:
    assert reason("chinese_or_english", text) == "other_language"


def test_numbers_alone_are_no_other_language() -> None:
    assert apply("chinese_or_english", "3.14 + 2 = 5.14") == "3.14 + 2 = 5.14"


def test_advertisements_are_dropped_and_articles_on_them_stay() -> None:
    assert reason("advertisements", "欧宝体育app下载，" + SPRING + "更多请上欧宝体育官网") == "advertisement"
    assert reason("advertisements", "厂家直销，货到付款，免费咨询，欢迎来电。" + SPRING) == "advertisement"
    article = "警方提醒：网络赌博是违法行为。" + SPRING * 4
    assert apply("advertisements", article) == article


def test_characters_are_counted_by_kind() -> None:
    assert count_char_kinds("春a я5，★ \U00020000") == (2, 1, 1, 1, 1, 1, 2)


def test_every_reason_that_is_used_has_a_description() -> None:
    import re
    from pathlib import Path

    folder = Path(rules.__file__).parent
    named = {
        name
        for path in folder.glob("*.py")
        for name in re.findall(r'Drop\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20 and named <= set(DROP_REASONS)


CODE = """```js
function Menu() {
  const [open, setOpen] = useState(false);
  return <button onClick={() => setOpen(!open)}>Menu</button>;
}
```"""


def test_code_that_a_lesson_shows_again_is_no_repetition() -> None:
    steps = (
        "先写一个最小的菜单，只有开和关两种样子。",
        "点它一下，看看浏览器里显示什么，再回来读这几行。",
        "现在给按钮加上图标，注意名称要和文件一致。",
        "最后把它放进页面的右上角，刷新之后应当能看见。",
    )
    lesson = "\n".join(f"{step}\n{CODE}" for step in steps)
    assert apply("repeated_lines", lesson) == lesson
    assert apply("repeated_phrases", lesson) == lesson


def test_repetition_around_code_still_drops_a_text() -> None:
    spun = "买苏州办公家具就找苏州办公家具厂家直接联系" * 60 + "\n" + CODE
    assert reason("repeated_phrases", spun) == "repeated_phrases"
    assert reason("repeated_lines", "本站首页欢迎光临各位新老朋友\n" * 40 + CODE) == "repeated_lines"


SONG = """月亮挂在旧屋檐
风吹过门前的田
你说等到花开那天
就回到我的身边
我在桥头等你 等过一年又一年
我在桥头等你 等到河水变浅
"""


def test_a_song_may_repeat_its_refrain() -> None:
    song = SONG + "\n雨打湿了窗台\n信里的字已发白\n" + SONG
    assert apply("repeated_phrases", song) == song
    stanza = "采采卷耳，不盈顷筐。嗟我怀人，置彼周行。悠悠我思，曷云其亡。山有扶苏，隰有荷华。"
    poem = stanza + stanza.replace("卷耳", "芣苢") + stanza.replace("顷筐", "倾篮")
    assert apply("repeated_phrases", poem) == poem


def test_short_lines_that_repeat_again_and_again_are_no_song() -> None:
    assert reason("repeated_phrases", SONG * 12) == "repeated_phrases"
    offers = "".join(f"名称：办公桌子一张\n价格：{n} 元起价不含运费\n电话：见本页最下方\n" for n in range(20))
    assert reason("repeated_phrases", offers) == "repeated_phrases"


def test_indents_tables_decimals_and_drawn_rules_are_no_runs() -> None:
    code = "程序如下：\n" + "".join(f"{' ' * 4 * n}if x{n}:\n" for n in range(6))
    table = "| 姓名 | 年龄 |\n|--------------|--------------|\n| 王明 | 十二岁 |"
    form = "一、填空：春天的颜色是＿＿＿＿＿＿＿＿＿＿＿＿，秋天的颜色是＿＿＿＿＿＿＿＿＿＿＿＿。"
    forum = "怎样让孩子爱上读书？" + "-" * 40 + "先让他看见大人也在读书，再挑他喜欢的故事。"
    for text in (code, table, form, forum, "一除以三等于0.33333333333333"):
        assert apply("repeated_characters", text) == text
        assert apply("repeated_phrases", text) == text


def test_runs_of_letters_and_pages_of_drawn_rules_still_drop_a_text() -> None:
    for text in ("答案是余//////////", "好" * 30, "666666666666666", "-" * 60 + "完", "！" * 20 + "快来看"):
        assert reason("repeated_characters", text) == "repeated_characters", text


@pytest.mark.parametrize("rule", ["unicode", "control_characters", "mojibake"])
def test_an_ascii_text_is_treated_as_it_is_beside_chinese(rule: str) -> None:
    for text in ("".join(map(chr, range(128))), "a\r\nb\rc", "plain", "\x7f", "\x0b\x0c", "tab\tand\nline"):
        assert f"{apply(rule, text)}{SPRING}" == apply(rule, text + SPRING)


def test_a_betting_name_sewn_into_news_is_an_advertisement_and_a_guest_of_honor_is_not() -> None:
    sewn = "青山买球平台成立于去年。青山买球平台在工业园有厂房，近日获得称号。"
    assert reason("advertisements", sewn) == "advertisement"
    assert reason("advertisements", "银鹿贵宾会慰问群众，银鹿贵宾会负责人表示将继续支持。") == "advertisement"
    bank = "银行的贵宾会员可在贵宾会客室等候，贵宾会议也在那里举行。"
    assert apply("advertisements", bank) == bank


def test_a_spun_copy_with_its_abstract_is_an_advertisement_and_an_abstract_alone_is_not() -> None:
    abstract = "本文摘要：湖边新修的栈道本月开放，游人可以步行绕湖一周。"
    assert reason("advertisements", f"{abstract}\n{abstract[5:]}{SPRING}") == "advertisement"
    assert apply("advertisements", f"{abstract}\n{SPRING}") == f"{abstract}\n{SPRING}"


def test_medical_words_alone_are_no_advertisement() -> None:
    article = "早泄、阳痿与不孕的原因很多，性病也是其一，应到男科就诊。" + SPRING
    assert apply("advertisements", article) == article


def test_drawn_rules_and_a_song_are_no_repeated_lines() -> None:
    rule = "." * 100
    chapters = f"\n{rule}\n".join(f"第{n}章写的是{n}月里的事，院子里的树又长高了一些。" for n in "一二三四")
    for name in ("repeated_lines", "repeated_characters"):
        assert apply(name, chapters) == chapters
    song = "\n".join(["小河弯弯向东流", "河边有棵大柳树", "树下坐着老爷爷", "爷爷手里拿鱼竿"] * 4)
    assert apply("repeated_lines", song) == song


def test_marks_of_markdown_are_no_symbols() -> None:
    table = "| 省 | 分 |\n| --- | --- |\n" + "| 湘 | 9 |\n" * 9
    bold = "**6** × **7** = **42**\n" * 5
    for text in (table, bold):
        assert apply("symbols", text) == text


def test_tables_with_styles_in_an_article_with_code_become_text() -> None:
    styled = '<table style="width: 100%;box-sizing: border-box"><tbody><tr style="height:20pt">'
    table = f'{styled}<td style="padding:0">编号</td></tr>'
    article = f"{SPRING}\n{table}</tbody></table>\n```\n<p style='a'>x</p>\n```\n{SPRING[:9]}"
    result = apply("html", article)
    assert isinstance(result, str)
    assert "编号" in result and "<td" not in result and "<p style='a'>x</p>" in result
    lesson = f"{SPRING * 3}\n```\n{table}\n```\n用 `<b>` 加粗。"
    assert apply("html", lesson) == lesson


@pytest.mark.parametrize(
    "closing",
    [
        "以上就是选购水泵的几个要点，想了解更多型号的朋友可以联系我们。",
        "本厂供应各种尺寸的木箱，欢迎新老朋友来电咨询。",
        "课程九月开班，有意者请赶快联系我们报名吧！",
        "更多详情请致电本店。",
    ],
)
def test_an_article_that_ends_with_a_call_to_buy_is_an_advertisement(closing: str) -> None:
    article = SPRING * 8
    assert reason("advertisements", f"{article}\n{closing}") == "advertisement"
    assert apply("advertisements", f"{closing}{article}") == f"{closing}{article}"
    assert apply("advertisements", closing) == closing


@pytest.mark.parametrize(
    "closing",
    [
        "本文图片如涉及版权，需要删除的请联系我们。",
        "停水期间给市民带来不便，如需了解更多情况，欢迎来电咨询。",
        "安装时遇到问题，想了解更多的话请联系我们。",
        "老人说，欢迎大家到村里来，他愿意把这些故事讲给更多人听。",
        "他想联系上我们，可是那时村里还没有电话。",
    ],
)
def test_an_article_that_ends_with_a_notice_is_no_advertisement(closing: str) -> None:
    article = f"{SPRING * 8}\n{closing}"
    assert apply("advertisements", article) == article


TEASER = "湖心岛上的芦苇一到深秋就白了头，渔家的小船从苇丛里穿出来"


@pytest.mark.parametrize("dots", ["...", "......", "…"])
def test_a_list_of_articles_that_break_off_is_dropped(dots: str) -> None:
    assert reason("ellipsis_lines", "\n".join(f"{n}、{TEASER}{dots}" for n in range(4))) == "ellipsis_lines"


@pytest.mark.parametrize("end", [" ...", "， ...", "（ ...", "\xa0..."])
def test_results_of_a_search_engine_break_off_behind_a_blank(end: str) -> None:
    results = [f"{n}、{TEASER}{end}" for n in range(4)]
    assert reason("ellipsis_lines", "\n".join([*results, *[f"{TEASER}。"] * 4])) == "ellipsis_lines"


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"{n}、{TEASER}…… ..." for n in range(9)),
        "\n".join(f"{n}、{TEASER}。 ..." for n in range(9)),
        "\n".join(f"{n}、{TEASER}……" for n in range(9)),
        "\n".join(f"{n}、{TEASER}!..." for n in range(9)),
        "\n".join(f"{n}、{TEASER}..." for n in range(2)),
        f"{TEASER * 30}。\n" + "\n".join(f"{n}、{TEASER}..." for n in range(4)),
        "\n".join(["for i in range(3): ...", "    yield i", ">>> f(x)...", "..."] * 5),
        "\n".join(f"the boats go down the river {word}..." for word in ("again", "tonight", "and on", "alone")),
    ],
    ids=["a pause and dots", "full stops", "pauses", "exclamations", "two", "article", "code", "an English song"],
)
def test_pauses_of_a_story_and_an_article_with_a_few_teasers_are_no_list(text: str) -> None:
    assert apply("ellipsis_lines", text) == text


MENU = (
    "莲城 莲城历史沿革 莲城行政区划 莲城地理环境 莲城自然资源 莲城人口 莲城经济 莲城社会事业 莲城交通运输"
    " 莲城名优特产 莲城风景名胜 莲城著名人物"
)


@pytest.mark.parametrize(
    "text",
    [
        MENU,
        MENU.replace(" ", " | "),
        f"首页\n{MENU}",
        "http://img3.example.com/photo/600x450_1.jpg?a=1 http://img3.example.com/photo/t_1.jpg?a=2\n图片",
        "平陆| 惠安| 项城| 大余| 浏阳| 青白江| 邳州| 清徐| 姜堰| 江油| 张北| 北戴河| 五华",
        "东山村 西山村 南山村 北山村 上河村 下河村 前屯村 后屯村 大湾村 小湾村 石桥村 木桥村",
        "前往第 " + " ".join(map(str, range(1, 40))) + " 卷",
    ],
    ids=["blanks", "bars", "lines", "addresses", "short names", "villages", "page numbers"],
)
def test_a_text_of_nothing_but_keywords_or_addresses_is_dropped(text: str) -> None:
    assert reason("keyword_lists", text) == "keyword_list"


@pytest.mark.parametrize(
    "text",
    [
        f"{MENU}。",
        MENU.replace(" ", "\n"),
        "床前明月光 疑是地上霜 举头望明月 低头思故乡 " * 4,
        "赵一 钱二 孙三 李四 周五 吴六 郑七 王八 冯九 陈十 褚一 卫二 蒋三",
        "你问我爱你有多深 我爱你有几分 我的情也真 我的爱也真 月亮代表我的心 你去想一想 你去看一看"
        " 轻轻的一个吻 已经打动我的心 深深的一段情 教我思念到如今 你问我爱你有多深 我爱你有几分",
        "姓名 赵一 身高 175cm 体重 75kg 出生日期 1974年4月3日 毕业院校 东山学院 职业 教师"
        " 著作 《湖心》 奖项 2003年金叶奖 住处 北京",
        "见 https://example.com/a，第三章讲得更清楚",
        "油耗的数字都在这段录像里了，大家看看 https://example.com/video/a4fe8812c07d9b3561ffe0a2?from=share&time=1528785224",
        "\n".join(f"第{n}个例子讲怎样画一条线和一个圆 https://example.com/{'draw' * 15}/{n}" for n in range(60)),
        "\n".join(f"{n} {n * 37 % 101} {n * 53 % 97}" for n in range(30)),
    ],
    ids=[
        "a sentence",
        "a line each",
        "verse",
        "names",
        "a song",
        "facts",
        "a link",
        "a post and its link",
        "explained links",
        "a table",
    ],
)
def test_verse_names_and_facts_are_no_keywords(text: str) -> None:
    assert apply("keyword_lists", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "洗脸的步骤 先用温水 + 洗面奶 + 毛巾 再用爽肤水 + 精华素 + 润肤霜 最后用防晒霜 + 粉底液 + 散粉 + 眉笔",
        "★白羊座—经历 ★金牛座—奖励 ★双子座—电影 ★巨蟹座—亲情 ★狮子座—赞扬 ★处女座—书本 ★天秤座—音乐 ★天蝎座—爱情"
        " ★射手座—快乐 ★魔羯座—目标 ★水瓶座—友情 ★双鱼座—美梦",
    ],
)
def test_steps_and_pairs_are_no_keywords(text: str) -> None:
    assert apply("keyword_lists", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "正在为您跳转到访问页面……如果您的浏览器没有自动跳转，请检查以下设置。请确保浏览器没有禁止发送cookie。",
        "签到排名：今日本吧第个签到，本吧因你更精彩，明天继续来努力！本吧签到人数：0。成为超级会员，赠送补签卡。",
        "404 Not Found\nnginx/1.18",
        "抱歉，您访问的页面不存在或已被删除！",
        "Warning: file_get_contents(a.php): failed to open stream: HTTP request failed!",
    ],
)
def test_what_a_server_says_in_the_place_of_a_page_is_dropped(text: str) -> None:
    assert reason("keyword_lists", text) == "keyword_list"


def test_an_article_on_errors_of_servers_stays() -> None:
    for lesson in (
        "页面不存在时，服务器返回 404，即 Not Found。" + SPRING * 10,
        "404 很有名：当你访问的页面不存在时，服务器就会返回它。",
        "你访问的页面不存在，服务器就返回 404。",
    ):
        assert apply("keyword_lists", lesson) == lesson


def test_a_table_of_contents_with_leaders_is_dropped_but_a_dotted_price_list_is_not() -> None:
    chapters = "\n".join(f"第{n}章 数值计算方法的对象与特点{'.' * 60} {n}" for n in range(9))
    assert reason("repeated_characters", chapters) == "repeated_characters"
    document = chapters + "\n" + SPRING * 30
    assert apply("repeated_characters", document) == document
    prices = "\n".join(f"第{n}道菜是后院里种的青菜和昨天捉的鱼{'.' * 6} {n} 元" for n in range(9))
    assert apply("repeated_characters", prices) == prices


@pytest.mark.parametrize(
    "text",
    [
        "正在旧时，人平易近的糊口很坚苦，后来平易近间故事传了下来。",
        f"卍长寿佛牌卍(www.example.com){SPRING * 3}",
        f"☆长寿佛牌☆（http://example.com）{SPRING * 3}",
        "离婚三年，他又找上门来。小说《湖心》无弹窗阅读，最新章节尽在云中书库。",
        f"yabo手机版登录：{SPRING * 3}",
        f"亚博游戏娱乐_亚博足彩{SPRING * 3}",
        "睁开全数湖心市是中邦第二大都市，是经邦务院照准的都市。",
        "说到名言，大家肯定都不陌生吧？下面是小编整理的励志名言，欢迎阅读，希望大家能够喜欢。",
        "导读：　校园活动总结(共8篇)校园活动总结一年来，我们坚持以活动育人为宗旨，在创新...",
    ],
    ids=["spun", "address", "stars", "novel site", "opening bet", "opening game", "spun state", "editor", "samples"],
)
def test_forms_of_pages_that_programs_make_are_advertisements(text: str) -> None:
    assert reason("advertisements", text) == "advertisement"


@pytest.mark.parametrize(
    "text",
    [
        "他平易近人，大家都愿意同他说话。这样平易近人的先生不多见。",
        "第七届中国—南亚博览会在昆明开幕，东北亚博览会将在长春举行。南亚博览会共有四个馆。",
        "孩子们热爱体育，老师也热爱体育。热爱体育的人身体好。",
        "涨水势必威胁到下游的村庄，势必威胁到田里的庄稼。",
        "这里的中华体会到了春天，大家都从中华体会到了。",
        "民警提醒：刷单、下注、网贷、包邮返利都是诈骗，遇到嫌疑人请立即报警。",
        f"{SPRING * 8}医生说：“牙疼就来，欢迎来我们医院咨询。”老人听了很高兴，说以后一定常来。",
        "这部小说的最新章节写得很好，读来让人想起少年时的夏天。",
        "下面就和小编一起来看看吧！湖心市的高考成绩六月二十五日公布，志愿从二十七日填到七月一日，各校的招生计划已经发到手里。",
        "各友邦的使节都到了，邦国之间互通有无。先王之制，邦内甸服，邦外侯服。",
        "本校发现有人假冒本校名义建QQ群、发微信号、在公众号上收费，请谨防上当。",
        "欧洲优胜者杯外围赛抽签，世界杯外围赛首轮，球队以首名出线。",
    ],
    ids=[
        *("idiom", "expo", "sports", "threat", "inside words", "police", "quoted call", "one formula"),
        *("editor and sample", "states", "warning", "qualifiers"),
    ],
)
def test_words_inside_other_words_warnings_and_quoted_calls_are_no_advertisement(text: str) -> None:
    assert apply("advertisements", text) == text


def test_entities_whose_ampersand_was_lost_are_mojibake() -> None:
    assert reason("mojibake", "当代中国道?#20262;?#20917;和价值观念面临严峻挑战。") == "mojibake"
    text = "见第三页?#12345;处，那里写着全部的经过和结果。"
    assert apply("mojibake", text) == text


OFFER = "青石县工地板房出租电话：13900001111王经理，本公司承接板房出租、岗亭出售。" + SPRING * 3


def test_a_text_that_begins_with_a_number_to_call_is_an_advertisement() -> None:
    assert reason("advertisements", OFFER) == "advertisement"
    assert reason("advertisements", OFFER.replace("电话：13900001111", "【QQ号：123456789】")) == "advertisement"


@pytest.mark.parametrize(
    "text",
    [
        OFFER.replace("出租", "丢失", 1),
        OFFER.replace("板房出租电话", "法院通知，原告王某，电话"),
        OFFER.replace("板房出租电话", "民政局关于集体婚礼的通知，报名电话"),
        OFFER.replace("青石县工地板房出租电话：", "怎么注册账号？先输入手机号"),
        OFFER.replace("电话：13900001111", "微信：nofashion"),
        OFFER.replace("13900001111", "1.13900001111"),
        SPRING * 4 + OFFER,
        "联系电话：13900001111。",
    ],
    ids=["lost", "a court", "an office", "a lesson", "the name of an account", "a decimal", "at the end", "a line"],
)
def test_a_number_in_another_place_or_for_another_purpose_is_none(text: str) -> None:
    assert apply("advertisements", text) == text


def test_tips_for_a_lottery_are_an_advertisement_and_a_plan_is_none() -> None:
    news = "男子醒来点烟引发爆炸，警方正在调查。"
    assert reason("advertisements", f"{news}pk10计划，加微信：abc123，约谈了市委副主任。") == "advertisement"
    plan = f"{news}彩票中心的年度计划说，明年在群众中办三次活动。"
    assert apply("advertisements", plan) == plan


def test_a_casino_that_is_a_building_is_no_name_of_a_site() -> None:
    report = "澳门半岛上的新葡京赌场是金色的建筑。" + SPRING + "新葡京酒店在它旁边。"
    assert apply("advertisements", report) == report
    assert reason("advertisements", report.replace("新葡京赌场", "新葡京官网")[:90] + "新葡京") == "advertisement"


@pytest.mark.parametrize(
    "text",
    [
        "一、房源优势：南北通透。二、户型介绍：三室两厅，朝向南北。三、社区介绍：绿化率高，环境优美，交通方便。",
        "品牌：云海    产品规格：1kw    供应地：江苏南京    包装说明：木箱    双电源控制柜，质量可靠，价格公道。",
        "征信不好怎么办？没有银行流水能贷款吗？黑户贷款口子有哪些，这几家平台门槛低，当天就能到账，赶快看看吧。",
        "看病的人很多，老平民心里没有底，伴跟着信任也就交了钱，后来才知道药是没有用的，大家要小心。",
        "城北哪里有侦探公司：136乄6150乄9158，专业可靠，价格公道，成功后再付费。" + "本公司有多年经验。" * 15,
    ],
)
def test_offers_of_flats_goods_and_loans_and_hidden_numbers_are_advertisements(text: str) -> None:
    assert isinstance(apply("advertisements", text), Drop)


@pytest.mark.parametrize(
    "text",
    [
        "设计师说，这个户型的缺点是没有朝南的窗，小区介绍里却没有提到，买房的人要自己去看。",
        "警方提醒：不看征信、黑户可贷、秒批的广告都是诈骗，不要下款前交费，遇到这种情况请向公安机关报案。",
        "他跟着父亲走了很远，谁人都不认识他。",
        "收件人的电话是 138—1234—5678，地址在城南，请在工作时间送到，谢谢。" + "货物要轻放。" * 25,
    ],
)
def test_what_only_mentions_such_things_is_none(text: str) -> None:
    assert apply("advertisements", text) == text
