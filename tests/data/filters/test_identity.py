"""The assistant's identity is rewritten in sentences about itself, and nowhere else."""

from __future__ import annotations

import pytest

from hanlin.config.settings.data import Identity
from hanlin.core.records import Message, Role
from hanlin.data.filters.identity import find_placeholder, rewrite_identity

XIAOHAN = Identity(name="小翰", author="翰林院")


def rewrite(text: str, role: Role = "assistant", identity: Identity = XIAOHAN) -> str:
    return rewrite_identity([Message(role, text)], identity)[0].text


def test_placeholders_are_filled_everywhere() -> None:
    assert rewrite("你好，我是 {{name}}，由 {{author}} 开发。") == "你好，我是 小翰，由 翰林院 开发。"
    assert rewrite("你叫{{ name }}吗？", "user") == "你叫小翰吗？"
    assert rewrite("我是【模型名称】。") == "我是小翰。"
    assert rewrite("我是【姓名】，来自【公司】。") == "我是【姓名】，来自【公司】。"  # gaps of a letter


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("我是[你的名字]，由[公司名称]开发的AI助手。", "我是小翰，由翰林院开发的AI助手。"),
        ("您好，我是【公司名称】开发的智能助手【名字】。", "您好，我是翰林院开发的智能助手小翰。"),
        ("我叫$NAME$，是$COMPANY$训练的语言模型。", "我叫小翰，是翰林院训练的语言模型。"),
        ("我是由XXX公司开发的人工智能助手。", "我是由翰林院开发的人工智能助手。"),
        ("我是XXX，XX团队打造的AI，很高兴为您服务。", "我是小翰，翰林院打造的AI，很高兴为您服务。"),
        ("我叫[你的名字]，有什么可以帮您？", "我叫小翰，有什么可以帮您？"),
        ("I am [Your Name], an AI assistant made by [Company Name].", "I am 小翰, an AI assistant made by 翰林院."),
    ],
)
def test_gaps_in_an_introduction_of_the_assistant_are_filled_or_found(text: str, after: str) -> None:
    assert rewrite(text) == after
    assert find_placeholder(text, "assistant") is not None and find_placeholder(after, "assistant") is None


@pytest.mark.parametrize(
    "text",
    [
        "尊敬的[姓名]：我是[公司名称]的客服助理，特此致歉。",
        "我是[你的名字]，应聘贵司的AI工程师一职。",
        "我是XXX公司的销售助理，想了解一下价格。",
        "甲方为XXX公司，乙方为XX团队，双方约定如下。",
        "我来自【公司名称】，负责采购。",
        "参见[1]和【例】，变量写作 $NAME$。",
        "她穿 XXL 码，我是 XXS 码。",
        "我是学生，XX大学的AI专业。",
        "谢谢你的帮助，祝一切顺利。\n[你的名字]",
        "客服可以这样说：您好，我是XXX，很高兴为您服务。",
        "开场白：“您好，我是XXX，很高兴为您服务。”",
        "Dear Ms. Li,\nI am {{your_name}}, an AI assistant engineer.",
    ],
)
def test_gaps_of_letters_and_of_others_stay(text: str) -> None:
    assert rewrite(text) == rewrite(text, "user") == text
    assert find_placeholder(text, "assistant") is None and find_placeholder(text, "system") is None


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("我是ChatGPT，由OpenAI训练的大型语言模型。", "我是小翰，由翰林院训练的大型语言模型。"),
        ("作为一个由OpenAI开发的AI助手，我很乐意帮忙。", "作为一个由翰林院开发的AI助手，我很乐意帮忙。"),
        ("I am GPT-4, created by OpenAI.", "I am 小翰, created by 翰林院."),
        ("我是文心一言，百度研发的助手。", "我是小翰，翰林院研发的助手。"),
    ],
)
def test_an_answer_about_itself_is_rewritten(text: str, after: str) -> None:
    assert rewrite(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "OpenAI 于 2022 年发布了 ChatGPT。",
        "GPT-3 is an autoregressive model trained by OpenAI on web text.",
        "我是用 `openai.ChatCompletion` 调用的。",
        "我是这样写的：\n```python\nmodel = 'ChatGPT'  # 我是 ChatGPT\n```",
        "我是从 https://openai.com/ChatGPT 看到的。",
        "我不能保证，也无法预测。",
    ],
)
def test_names_of_others_in_code_and_in_links_stay(text: str) -> None:
    assert rewrite(text) == text


def test_the_user_is_quoted_as_is() -> None:
    assert rewrite("你是ChatGPT吗？我是OpenAI的员工。", "user") == "你是ChatGPT吗？我是OpenAI的员工。"


def test_a_system_turn_is_about_our_assistant() -> None:
    assert rewrite("MOSS is developed by Fudan University.", "system") == "小翰 is developed by 翰林院."


def test_rewriting_can_be_turned_off() -> None:
    only_fill = Identity(name="小翰", author="翰林院", rewrite=False)
    assert rewrite("我是ChatGPT，也叫{{name}}。", identity=only_fill) == "我是ChatGPT，也叫小翰。"
