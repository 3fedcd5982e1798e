"""The rule on advertorials, and the signs of advertising in copied and generated pages."""

from __future__ import annotations

import pytest

from hanlin.config.settings.rules import ALL_TEXT_RULES, CORPUS_RULES
from hanlin.data.filters.rules import RULE_FUNCTIONS
from hanlin.data.ledger import Drop

SPRING = "春天来了，山上的桃花开得很盛，村里的人都到河边去看。"


def find_reason(rule: str, text: str) -> str | None:
    result = RULE_FUNCTIONS[rule](text, **ALL_TEXT_RULES[rule])
    return result.reason if isinstance(result, Drop) else None


@pytest.mark.parametrize(
    "text",
    [
        "青石管件有限公司是一家集设计、生产、销售于一体的企业，我公司技术力量雄厚，检测设备齐全，产品远销全国，深受广大用户的"
        "好评。公司秉承质量第一、客户至上的经营理念，竭诚为新老客户提供优质的服务。" + SPRING * 3,
        "本厂的提升机结构紧凑，操作简便，运行平稳，噪音小，使用寿命长，采用优质钢材，维修方便，广泛用于矿山和港口。"
        + SPRING * 4,
        "我们的团队经验丰富，为您提供一站式搬家服务，价格合理，上门服务，选择我们就是选择放心。" + SPRING * 5,
    ],
)
def test_a_company_that_praises_itself_is_an_advertorial(text: str) -> None:
    assert find_reason("advertorials", text) == "advertorial"


@pytest.mark.parametrize("disease", ["湿疹", "白癜风", "鼻炎"])
def test_a_page_of_a_clinic_is_an_advertorial_and_a_lesson_on_the_disease_is_none(disease: str) -> None:
    page = (
        f"{disease}患者平时要注意什么?{disease}是常见的病，下面青石医院的专家为大家介绍。{SPRING * 3}{disease}不能拖，"
        f"{disease}要到正规的专科医院治疗。{disease}患者平时要注意什么?希望大家早日康复。"
    )
    lesson = f"{disease}是一种常见病。{disease}的病因还不清楚，{disease}分为几型，{disease}和遗传有关。" + SPRING * 4
    assert find_reason("advertorials", page) == "advertorial"
    assert find_reason("advertorials", lesson) is None


def test_a_page_that_looks_for_shopkeepers_is_an_advertorial_and_news_of_them_is_none() -> None:
    page = "青石奶茶加盟费不高，加盟总部会扶持创业者开店，投资小，利润高，加盟商很快回本，加盟青石正当时。" + SPRING * 4
    news = "三国加盟协定，第四国明年加盟，第五国加盟的谈判未完，第六国无意加盟。" + SPRING * 4
    assert find_reason("advertorials", page) == "advertorial"
    assert find_reason("advertorials", news) is None


@pytest.mark.parametrize(
    "text",
    [
        "记者昨日从市政府获悉，青石公司的新设备性能稳定，深受用户欢迎。据悉，学校、大学和研究所都参加了会议，教授们作了报道。",
        "青石公司成立于1952年，总部在北京，公司拥有员工两千人，是一家集设计与施工于一体的国有企业，主营业务为铁路。",
        "我买的冰箱，售后服务不好，我公司的同事也投诉过，客户满意只是说说，网友都这么说。",
    ],
)
def test_news_an_encyclopedia_and_a_buyer_are_no_advertorials(text: str) -> None:
    assert find_reason("advertorials", text + SPRING * 5) is None


def test_advertorials_are_an_option() -> None:
    assert "advertorials" not in CORPUS_RULES


@pytest.mark.parametrize("word", ["赌博软件", "江苏快三", "某某娱乐平台", "澳门威尼娱人网站", "新葡京网"])
def test_a_betting_word_in_the_place_of_a_name_is_an_advertisement(word: str) -> None:
    page = f"近日，{word}师范学院的教授和研究生赴医院参加科研活动，学生们收获很大。" + SPRING * 4
    warning = f"学校和学院请民警给学生讲课，教师也来了，提醒大家远离{word}，谨防诈骗。" + SPRING * 4
    assert find_reason("advertisements", page) == "advertisement"
    assert find_reason("advertisements", warning) is None


@pytest.mark.parametrize(
    "abstract", ["从上半场开始。", "某某app官网登录春天来了，山上的桃花开得很盛，村里的人都到河边去看。"]
)
def test_an_abstract_that_is_short_or_has_a_name_before_it_is_found_again(abstract: str) -> None:
    beginning = abstract.removeprefix("某某app官网登录")
    assert (
        find_reason("advertisements", f"本文摘要：{abstract}\n{beginning}第四分钟，主队得到角球。") == "advertisement"
    )
    assert find_reason("advertisements", f"本文摘要：{abstract}\n别的话。") is None


def test_a_last_colon_with_a_bet_is_an_advertisement_and_the_name_of_an_app_is_none() -> None:
    assert find_reason("advertisements", SPRING * 3 + "：英超联赛下注。") == "advertisement"
    assert find_reason("advertisements", SPRING * 3 + "来源：青石日报客户端") is None


def test_an_essay_of_the_generator_is_an_advertisement_and_a_quotation_is_none() -> None:
    essay = "要想清楚，桃花，到底是一种怎么样的存在。这不禁令我深思。就我个人来说，桃花对我的意义，不能不说非常重大。"
    essay += "带着这句话，我们还要更加慎重的审视这个问题。" + SPRING
    assert find_reason("advertisements", essay) == "advertisement"
    assert find_reason("advertisements", "这不禁令我深思，要慎重。" + SPRING * 3) is None
