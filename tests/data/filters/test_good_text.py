"""Good text of kinds that a rule took for junk: laws, code, tables, poems, dimensions, lessons on encodings."""

from __future__ import annotations

import pytest

from hanlin.config.settings.rules import ALL_TEXT_RULES
from hanlin.data.filters.rules import RULE_FUNCTIONS
from hanlin.data.ledger import Drop

SENTENCES = "海绵床垫的密度越高，回弹越慢，支撑也越好，弹簧床垫则看弹簧的圈数与线径，买以前最好躺一躺。\n" * 4
LESSON = (
    "把一段GBK的文字按UTF-8读，读不出的字节都换成替换字符；再按GBK存一次，两个替换字符的六个字节就拼成“锟斤拷”三个字。"
    "见到它，说明原来的字节已经丢了，换什么读法也找不回来，只能从备份里重新取一份，读的时候先说清楚文件是用什么写的，存的时候也一样。"
)


def apply_rule(name: str, text: str) -> str | Drop:
    return RULE_FUNCTIONS[name](text, **ALL_TEXT_RULES[name])


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            "advertisement_lines",
            "第十三条 由他人执笔的报告、讲话等作品，著作权归报告人或者讲话人享有。\n第十四条 有约定的依其约定。",
        ),
        (
            "advertisement_lines",
            "有下列情形之一的，应当受理：\n（一）被告如向原告发出侵权警告，请原告停止侵权；\n（二）其他情形。",
        ),
        ("advertisement_lines", "犬戎占据了周朝的焦获之地，在泾水和渭水一带，侵犯中原地区。\n平王即位，东迁于洛邑。"),
        (
            "advertisement_lines",
            "1. 接收请求：网关收到客户端的请求。\n2. 请求转发：将请求发送到选定的实例。\n3. 返回结果。",
        ),
        (
            "advertisement_lines",
            "DECLARE\n  n NUMBER;\nBEGIN\n  SELECT COUNT(*) INTO n FROM t;\nEND;\n执行以上程序块，即可数出行数。",
        ),
        ("advertisements", "社区老年活动中心共三层，一层设阅览室，二层设健身房。\n活动项目：阅览、书画、台球、棋牌。"),
        ("advertisements", "床垫的尺寸有两种：180×2000×2200毫米与150×2000×2200毫米。\n" + SENTENCES),
        ("keyword_lists", "500 Internal Server Error 是指服务器出错。先看日志，再看配置。"),
        ("keyword_lists", "404 Not Found 表示服务器上没有所请求的资源。遇到它时，先检查地址有没有拼错。"),
        ("mojibake", LESSON),
        ("mojibake", "这碗汤烫烫烫，慢点喝，别急。"),
        (
            "mojibake",
            "雁塞日初晴，胡關雪復平。\n危竿緣廣漠，古竇傍長城。\n拔劒金星出，彎弧玉羽鳴。\n誰知係虜者，賈誼是書生。",
        ),
        ("html", "在网页里，小于号要写成&lt;，大于号要写成&gt;，这叫转义。"),
        ("symbols", "┌─┬─┬─┐\n│甲│乙│丙│\n├─┼─┼─┤\n│一│二│三│\n├─┼─┼─┤\n│四│五│六│\n└─┴─┴─┘"),
        (
            "ocr_debris",
            "令i等于一，若i小于n，则看第i个元素与第j个元素，把第j项移到第i项之前，再令j加一，当j等于n时停止。",
        ),
    ],
)
def test_good_text_is_returned_as_it_is(rule: str, text: str) -> None:
    assert apply_rule(rule, text) == text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("advertisements", "张先生办证 156乄1330乄4344 当天可取。\n" + SENTENCES),
        ("advertisements", "某学院二零一九年招生简章。\n本文关键词：欧洲杯买球"),
        ("keyword_lists", "404 Not Found\nnginx"),
        ("mojibake", "锟斤拷锟斤拷" * 4 + "编码" + SENTENCES),
        ("mojibake", "烫烫烫烫烫烫烫烫屯屯屯屯屯屯屯屯" + SENTENCES),
        ("symbols", "│├┼┤└┴┘" * 9),
    ],
)
def test_what_is_like_it_and_bad_is_still_dropped(rule: str, text: str) -> None:
    assert isinstance(apply_rule(rule, text), Drop)


@pytest.mark.parametrize(
    "line",
    ["- END -", "The End", "如有侵权，请联系删除", "如侵权", "若侵犯了您的权益请告知", "著作权归原作者", "求转发"],
)
def test_furniture_of_such_words_is_still_cut(line: str) -> None:
    assert apply_rule("advertisement_lines", f"{SENTENCES}{line}") == SENTENCES.rstrip("\n")


def test_ends_of_lines_and_pages_do_not_join_two_words() -> None:
    text = "first\x0bsecond\x0cthird\n\x0cfourth\x0b\x0b\nfifth"
    assert apply_rule("control_characters", text) == "first\nsecond\nthird\nfourth\nfifth"
