"""Rules that judge the answers of a chat: refusals, repetition and symbols, beside the question."""

from __future__ import annotations

import pytest

from hanlin.config.settings.rules import ALL_CHAT_RULES, ANSWER_RULES, Rule, read_rules
from hanlin.core.records import Message
from hanlin.data.filters import answers
from hanlin.data.filters.answers import build_answer_rules, judge_answers
from hanlin.data.filters.refusals import refusals
from hanlin.data.ledger import Drop
from waiting import hang_limit

SPRING = "春天来了，小河边的柳树抽出了新芽，孩子们在草地上放风筝。"


def chat(question: str, answer: str) -> tuple[Message, ...]:
    return Message("user", question), Message("assistant", answer)


def judge(name: str, question: str, answer: str) -> Drop | None:
    (rule,) = build_answer_rules(
        rule if isinstance(rule, Rule) else Rule(**rule) for rule in read_rules([name], ALL_CHAT_RULES, ())
    )
    return judge_answers(chat(question, answer), [rule])


def test_settings_and_functions_name_the_same_rules_on_answers() -> None:
    assert set(answers.ANSWER_RULES) == set(ANSWER_RULES)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "抱歉，我无法回答这个问题。",
        "很抱歉，作为一个人工智能语言模型，我不能提供这样的内容。这种行为违反法律，请遵守社会公德。",
        "作为一种人工智能，我没有个人喜好。如果您还有其他问题，请随时告诉我。",
        "抱歉，作為一個AI助手，我無法為您查詢今天的天氣。建議您使用天氣網站。",
        "我不能为您提供这方面的帮助，因为这可能会伤害他人。",
        "对不起，我目前没有联网的能力，无法告诉您最新的消息。不过我可以帮助您解答其他问题。",
        "I'm sorry, but I cannot help with that request.",
        "As an AI language model, I don't have personal opinions. Is there anything else I can help you with?",
        "I can't provide instructions for that. It is illegal and could harm others.",
        "Unfortunately, I am unable to browse the internet. I recommend checking a weather website.",
        "作为人工智能，我不能替您作决定。",
        "I'm sorry, but as an AI language model, I cannot browse the web.",
        "I am sorry, but I don't have access to the files.",
        "Sorry, but I can't do that.",
        "As an AI language model, I'm not able to feel.",
        "I apologize, but I am unable to open links.",
    ],
)
def test_an_answer_that_only_refuses_is_dropped(answer: str) -> None:
    dropped = refusals(chat("请写一段介绍。", answer))
    assert isinstance(dropped, Drop) and dropped.reason == "refusal" and dropped.detail.startswith("turn 2: ")


@pytest.mark.parametrize(
    "answer",
    [
        "作为一个AI助手，我没有味觉，不过可以说说大家爱喝的茶：龙井清香，普洱醇厚，茉莉花茶带着花的香气。",
        "作为一名人工智能，我不能像人一样旅行，但江南的好处有三样：一是水多桥多，二是春天来得早，三是点心做得精细。",
        "抱歉，我无法画图，但可以用文字描述：\n1. 远处是一座青山\n2. 近处是一条小河\n3. 河边有一棵柳树",
        "很抱歉听到你生病了。先多喝热水，好好休息，如果明天还发烧，就去医院看看。",
        "抱歉，您没有提供文章的内容，请把文章发给我。",
        "无法确定作者的名字，学者们一般认为这首诗写于唐代中期，诗里写的是长安城外的春天景色。",
        "人不能像鸟一样飞行，因为人的骨头太重，也没有翅膀。",
        "As an AI language model, I have no taste, but many people love mango for its sweetness. Ripe ones are soft and"
        " fragrant, and the skin turns golden when they are ready.",
        "I'm sorry to hear that you lost your keys. Look under the sofa first.",
        "I'm sorry, but you did not give the text to summarize. Please provide the text.",
        "抱歉让你久等了，答案是四。",
        "很多人说我不能成功，我偏要试试。",
        "I'm sorry, but I'm unable to come to work today, for I have caught a cold.",
        "I am sorry, but the numbers you gave add up to nine, not ten.",
        "As an AI language model, I am able to sort words: apple, book, cat.",
    ],
)
def test_an_answer_after_an_apology_or_a_disclaimer_stays(answer: str) -> None:
    turns = chat("请写一段介绍。", answer)
    assert refusals(turns) == turns


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("你有感情吗？", "作为一个人工智能，我没有感情。"),
        ("你更喜欢喝茶还是喝水？", "作为一个虚拟助手，我不能喝茶，也不能喝水。"),
        ("把这句话改得客气一些：我不来开会了。", "很抱歉，我无法参加这次会议。"),
        ("写一封邮件拒绝邀请。", "非常抱歉，我不能接受您的邀请。"),
    ],
)
def test_what_is_asked_for_is_no_refusal(question: str, answer: str) -> None:
    turns = chat(question, answer)
    assert refusals(turns) == turns


# --- repetition and symbols -----------------------------------------------------------------------------------------


def test_an_answer_that_is_written_twice_or_in_a_loop_is_dropped() -> None:
    seasons = SPRING + "夏天池塘里开满荷花，青蛙在叶子上唱歌。秋天果园里挂满苹果，农民忙着收获，孩子们也来帮忙。"
    dropped = judge("repeated_phrases", "讲讲春天。", seasons * 2)
    assert dropped is not None and dropped.reason == "repeated_phrases" and dropped.detail.startswith("turn 2: ")
    assert judge("repeated_phrases", "讲讲春天。", "我是你的朋友，" * 30) is not None
    looping = judge("repeated_lines", "讲讲春天。", f"{SPRING}\n夏天也很好。\n" * 6)
    assert looping is not None and looping.reason == "repeated_lines"
    assert judge("repeated_characters", "讲讲春天。", "春天" + "好" * 40) is not None
    assert judge("symbols", "讲讲春天。", "春天∎∎●●■■◆◆▲▲◇◇□□好") is not None


@pytest.mark.parametrize(
    "answer",
    ["延xxxxxxxxxxx6长白营业部", "卡号为xxxxxxxxxxx2921、xxxxxxxxxxx8420。", "原告河××××××××××××0支付了工资。"],
)
def test_what_stands_for_a_name_or_a_number_is_no_run_in_an_answer(answer: str) -> None:
    assert judge("repeated_characters", "合同是谁签的？", answer) is None


@pytest.mark.parametrize(
    "answer", ["依照《刑法》第" + "×" * 600, "房屋位于朝阳区" + "x" * 40 + "号", "罪名：" + "x" * 30]
)
def test_a_loop_of_the_mark_that_stands_for_a_name_is_dropped(answer: str) -> None:
    assert judge("repeated_characters", "合同是谁签的？", answer) is not None


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("repeated_lines", "把“我喜欢春天的小河”重复五遍。", "我喜欢春天的小河，也喜欢秋天的果园。\n" * 5),
        ("repeated_lines", "写一首歌词。", "月亮照着小山坡，风儿吹过小河边\n" * 8),
        ("repeated_lines", "下一步怎么走？", "o.x\n.x.\n...\n" * 10),
        ("repeated_lines", "写一个表格的网页。", "<tr>\n<td>内容内容内容内容</td>\n</tr>\n" * 9),
        ("repeated_phrases", "Repeat the sentence 5 times.", "I like to walk along the river in spring. " * 5),
        (
            "repeated_phrases",
            "订一份训练计划。",
            "".join(
                f"第{week}周：\n周一：慢跑三公里，然后拉伸十分钟\n周三：游泳一小时，注意热身\n周五：休息，早点睡觉\n"
                for week in range(1, 6)
            ),
        ),
        (
            "repeated_phrases",
            "介绍一下公司的三项业务。",
            "".join(
                f"公司应当向客户说明{item}业务的收费标准，以便客户能够了解{item}业务的实际情况。"
                for item in ("储蓄", "贷款", "保险", "理财")
            ),
        ),
        ("repeated_characters", "画一条横线。", "=" * 60),
        ("symbols", "写一个匹配四位数字的正则表达式。", r"^\d{4}$"),
        ("symbols", "1 加 1 加 1 等于几？", "1 + 1 + 1 = 3"),
        ("symbols", "用表情说你很高兴。", "😀😀😀😀😀😀😀😀😀"),
        ("symbols", "今天开心吗", "😀😀😀😀😀😀😀😀😀"),
        ("symbols", "比较两种耳机。", "|项目|甲|乙|\n|---|---|---|\n|舒适|★★★|★★|\n|价格|★|★★|\n"),
    ],
)
def test_what_repeats_or_draws_for_a_reason_stays(name: str, question: str, answer: str) -> None:
    assert judge(name, question, answer) is None


def test_only_answers_are_judged() -> None:
    (rule,) = read_rules([{"repeated_lines": {"share": 0.3}}], ALL_CHAT_RULES, ())
    turns = (
        Message("user", f"这段话哪里重复了？\n{SPRING}\n{SPRING}\n{SPRING}\n{SPRING}"),
        Message("assistant", "四句话是一样的。"),
    )
    assert judge_answers(turns, build_answer_rules([rule if isinstance(rule, Rule) else Rule(**rule)])) is None


@pytest.mark.parametrize(
    "text", ["我", "不", "抱歉", "抱歉，", "作为AI，", "a ", "sorry ", "as an ", "|", "(", "1.", ":", "\n", "歌", "`"]
)
@hang_limit()
def test_no_answer_takes_a_rule_long(text: str) -> None:
    refusals(chat("问", text * 1_400))
    for name in ANSWER_RULES:
        judge(name, "问", text * 10_000)
