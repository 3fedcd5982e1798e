"""The rule on advertorials, and the signs of advertising in copied and generated pages."""

from __future__ import annotations

import pytest

from hanlin.config.settings.rules import ALL_TEXT_RULES, CHAT_RULES, CORPUS_RULES
from hanlin.data.filters.rules import RULE_FUNCTIONS
from hanlin.data.ledger import Drop
from hanlin.data.text.advertorial_model import WEIGHTS, judge_page, measure_page

SPRING = "春天来了，山上的桃花开得很盛，村里的人都到河边去看。"


def find_reason(rule: str, text: str) -> str | None:
    result = RULE_FUNCTIONS[rule](text, **ALL_TEXT_RULES[rule])
    return result.reason if isinstance(result, Drop) else None


PAGES = {
    "company": (
        "青石管件有限公司成立于2008年，位于青石县工业园，是一家集设计、生产、销售于一体的企业，我公司技术力量"
        "雄厚，检测设备齐全，产品远销全国，深受广大用户的好评。公司秉承质量第一、客户至上的经营理念，竭诚为新"
        "老客户提供优质的服务，售后服务完善，欢迎来电咨询，电话0557-1234567。公司通过了ISO9001认证，荣获多项"
        "专利。"
    ),
    "goods": (
        "本厂的提升机结构紧凑，操作简便，运行平稳，噪音小，使用寿命长，采用优质钢材，维修方便，广泛用于矿山和"
        "港口。产品特点：该产品性能稳定，安全可靠，耐磨耐腐蚀，安装方便，节能环保，价格优惠，规格齐全。技术参"
        "数可根据用户要求定制，设备保修一年，生产厂家现货供应，售后服务完善，深受广大用户好评，欢迎新老客户前"
        "来洽谈，竭诚为您服务。"
    ),
    "clinic": (
        "湿疹患者平时要注意什么?湿疹是常见的皮肤病，很多患者都很烦恼，下面青石皮肤病医院的专家为大家介绍。湿"
        "疹不能拖，湿疹会扩散，湿疹患者要及时到正规的专科医院治疗，那么，湿疹患者平时要注意什么?湿疹患者要养"
        "成好的习惯，注意护理。以上就是青石皮肤病医院专家对湿疹的介绍，希望对大家有所帮助，祝患者早日康复。湿"
        "疹哪家医院好?咨询电话0557-1234567。"
    ),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_that_is_written_to_sell_is_an_advertorial(kind: str) -> None:
    assert find_reason("advertorials", PAGES[kind]) == "advertorial"


@pytest.mark.parametrize("kind", PAGES)
def test_a_few_lines_and_the_middle_of_a_long_page_are_not_judged(kind: str) -> None:
    assert find_reason("advertorials", PAGES[kind][:140]) is None
    assert find_reason("advertorials", SPRING * 20 + PAGES[kind] + SPRING * 160) is None


def test_a_long_page_that_begins_as_an_advertorial_is_one_unless_its_beginning_is_news() -> None:
    assert find_reason("advertorials", PAGES["company"] * 2 + SPRING * 160) == "advertorial"
    assert find_reason("advertorials", "（湖心日报记者 赵一）" + PAGES["company"] * 2 + SPRING * 160) is None


@pytest.mark.parametrize(
    "text",
    [
        "记者昨日从市政府获悉，青石公司的新设备性能稳定，深受用户欢迎。据悉，学校、大学和研究所都参加了会议，教授们作了报道。",
        "青石公司成立于1952年，总部在北京，公司拥有员工两千人，是一家集设计与施工于一体的国有企业，主营业务为铁路。",
        "我买的冰箱，售后服务不好，我公司的同事也投诉过，客户满意只是说说，网友都这么说。",
        "湿疹是一种常见病。湿疹的病因还不清楚，湿疹分为几型，湿疹和遗传有关，细胞和分子的研究还在进行，患者的样本分析有了结果。",
        "县税务局公告：各企业申报设备和产品的补贴，请到政务大厅，申报材料由主管部门评审，带来不便，敬请谅解。",
    ],
)
def test_news_an_encyclopedia_a_buyer_a_lesson_and_an_office_are_no_advertorials(text: str) -> None:
    assert find_reason("advertorials", text + SPRING * 5) is None


@pytest.mark.parametrize(
    "cue",
    [
        "（湖心日报记者 赵一）",
        "湖心网8月2日讯，",
        "招股书显示，",
        "青石管件（300904.SZ）",
        "日前，青石县举行发布会。",
        "厂长王山表示，",
    ],
)
def test_a_report_of_a_newspaper_or_on_a_share_is_no_advertorial(cue: str) -> None:
    for page in (PAGES["company"], PAGES["goods"]):
        assert find_reason("advertorials", cue + page) is None


GOODS = (
    "这款主机配备了新的处理器，性能出色，散热效果好，外观紧凑时尚，占据的空间小，耐用。"
    "它采用静音风扇，为用户提供稳定的性能，能满足用户对办公和娱乐的需求，价格优惠，非常适合放在书房里。"
    "主机的外壳是深灰色的，两侧有散热孔，背面有四个接口，附带一根电源线和一本说明书，开机以后十秒就能进入桌面，"
    "孩子可以用它上网课，老人可以用它看戏，也可以接上电视，看全家去年夏天在海边拍的照片。"
)


@pytest.mark.parametrize("cue", ["原标题：", "近日", "8月15日", "央视说", "来源：青石日报"])
def test_a_day_or_a_source_counts_if_the_page_is_not_sure_to_sell(cue: str) -> None:
    judged = judge_page(GOODS, 0.3)
    assert judged is not None and judged[0] < 0.9
    assert judge_page(f"{SPRING}{cue}{GOODS}", 0.3) is None
    assert judge_page(f"{SPRING}{cue}{PAGES['company']}", 0.5) is not None


def test_a_drop_says_the_words_that_sell() -> None:
    result = RULE_FUNCTIONS["advertorials"](PAGES["company"], **ALL_TEXT_RULES["advertorials"])
    assert isinstance(result, Drop) and "我公司" in result.detail


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_as_likely_whatever_probability_is_asked_for(kind: str) -> None:
    judged = judge_page(PAGES[kind], 0.0)
    assert judged is not None and judged == judge_page(PAGES[kind], judged[0] - 1e-6)
    assert judge_page(PAGES[kind], judged[0] + 1e-6) is None


def test_every_measure_has_a_weight_and_every_weight_a_measure() -> None:
    assert set(measure_page(SPRING)) == set(WEIGHTS)


def test_advertorials_are_judged_in_documents_by_default_and_in_chats_if_named() -> None:
    assert "advertorials" in CORPUS_RULES and "advertorials" not in CHAT_RULES


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


def test_a_page_that_offers_jobs_is_no_advertorial() -> None:
    assert find_reason("advertorials", PAGES["company"] + "现招聘焊工三名，月薪五千元，应聘者请带简历。") is None


def test_keywords_that_are_the_words_of_the_title_show_a_copy_made_by_a_program() -> None:
    title = "青石港的货船为什么停在湖心岛"
    page = f"{title}\n" + SPRING * 8
    assert (
        find_reason("advertisements", f"{page}\n本文关键词：某某体育app,青石港,的,货船,为什么,停在") == "advertisement"
    )
    assert find_reason("advertisements", f"{page}\n关键词：青石港，货船，航运，湖心岛，码头") is None
