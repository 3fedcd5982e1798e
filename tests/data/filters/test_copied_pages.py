"""Copies that programs rewrote or cut out of a list, offers that hide in them, and what only looks so."""

import pytest

from hanlin.config.settings.rules import TEXT_RULES
from hanlin.data.filters.rules import RULE_FUNCTIONS
from hanlin.data.ledger import Drop

NEWS = "昨天下午，城北的新桥通车，附近的人都来看热闹，车辆一辆接一辆地开过去，一切井然有序。"


def apply(rule: str, text: str) -> str | Drop:
    return RULE_FUNCTIONS[rule](text, **TEXT_RULES[rule])


@pytest.mark.parametrize(
    "text",
    [
        "克日，市委布告主持会议，夸大指出要高质量成长，与会的人都鞭策经济，党的扶植也有了起色，大家很高兴。",
        "他糊口方式很健康，身材素质也好，日常糊口里每天都走路，这样的人不容易生病。",
        "用途：用于美股周三收盘小幅走高制造石油催化剂、玻璃着色剂、磁性三家公司上市材料、钕化合物中间体等工业。",
        "作为(wei)世界最(zui)大(da)的望远镜，它能看见很远(yuan)的星。",
        "哪里有私家侦探公司:186-2400-2362，专业可靠。" + NEWS * 5,
        "网赌被黑找我们www.example.com，先出款后付费。" + NEWS * 5,
        NEWS * 6 + "做单亏损的朋友可以咨询我，微信：abc123456",
        "海鲜大排档低价转让，设备齐全，接手可盈利，联系电话15132540000",
        "专业办理各类证件，快速安全，QQ 123456789",
        "不看征信，当天放款，联系电话：13900000000",
        "代写毕业论文，查重包过，QQ：123456789",
        "花呗提现官网客服QQ：123456789 湖心岛的小说作品在今年秋天出版，写的是渔家的故事。",
        "湖心岛的芦苇#白条提现#到深秋就白了头#白条怎么提现#，渔家的小船穿出来。",
        "某县（小姐）联系方式【v芯:158x5022x6782】同电话" + NEWS * 5,
        "怎么做快速排名【扣:3?1?3?8?0?8?6?2?0?9】排名首页" + NEWS * 5,
        NEWS * 6 + "想跟上的朋友手机幑の信の查の询【abc478】就能找到我了。",
    ],
    ids=[
        *("spun", "spun 2", "a data sheet", "sounds", "a detective", "a site", "a messenger", "a small ad"),
        *("forged papers", "a loan", "an essay for sale", "cash", "cash scattered"),
        *("a call girl", "digits apart", "a messenger in disguise"),
    ],
)
def test_what_programs_rewrote_and_offers_in_other_text_are_advertisements(text: str) -> None:
    assert isinstance(apply("advertisements", text), Drop)


@pytest.mark.parametrize(
    "text",
    [
        "他为糊口奔走，年年如此，谁人知道他的难处。",
        "用途：用于制造石油催化剂、玻璃着色剂、磁性材料、钕化合物中间体、化学试剂等工业。",
        "函数(function)有参数(argument)和返回值(value)，方法(method)属于对象(object)。",
        "近日，民警破获一起案件，嫌疑人开设私家侦探公司，电话13800000000，骗取钱财，已被公安机关刑拘。" + NEWS * 3,
        NEWS * 6 + "新闻热线、投稿请咨询小编，微信：abc123456",
        "本人在城北丢失身份证一张，有捡到的好心人联系13798820000归还，面议酬谢！",
        "各位家长好，孩子有事请先打招呼，联系电话：13912345678",
        "供应商说货在路上，司机手机：13812345678",
        "老人高龄补贴由村里代为办理，有事请打电话：13812345678",
        "记者暗访私家侦探公司，2023年5月起接单12起，每单收费100000元。" + NEWS,
        "黑客马拉松：2024-05-01 在杭州举行，共 120000 人报名参加。" + NEWS,
        "失主王小姐的联系方式：138x1234x5678，请捡到的好心人归还。" + NEWS,
        "微芯片公司公布第 20230501 号公告，股价上涨。" + NEWS,
        "投票结果 1?2?3 看不清，编码坏了。" + NEWS,
        "今天接到某某贷款公司员工电话13812345678，说朋友借款留了我的电话，我不知情，他就辱骂我。" + NEWS * 3,
        "花呗套现有风险：监管部门提醒，白条套现、花呗套现都是违规的。",
        "先生(xiansheng)说(shuo)过(guo)：学(xue)而(er)时(shi)习(xi)之(zhi)，不(bu)亦(yi)说(yue)乎(hu)。",
    ],
    ids=[
        *("one word", "a data sheet", "English", "the police", "an editor", "a lost card"),
        *(
            "parents",
            "a supplier",
            "an allowance",
            "a report",
            "a contest",
            "a finder",
            "a maker of chips",
            "lost marks",
            "a complaint",
            "a warning",
            "a lesson",
        ),
    ],
)
def test_what_only_has_such_words_stays(text: str) -> None:
    assert apply("advertisements", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "7小时前?-?某星座有神秘的能力 05-01 相关文章 某组织宣称对此..",
        "首页 热图推荐 推荐图集 换一组 继续向左滑动 进入下一图集 ..",
        "".join(f"城北第{number}座桥通车的消息，居民都很高兴，交警也在桥头...阅读详情" for number in range(6)),
    ],
    ids=["a piece with its age", "a frame", "links to read on"],
)
def test_pieces_of_lists_that_break_off_are_dropped(text: str) -> None:
    assert isinstance(apply("ellipsis_lines", text), Drop)


@pytest.mark.parametrize(
    "text",
    [
        "7小时前，城北的桥断了，现在已经抢修好..",
        "今天又加班，先睡了 ..",
        "I will tell you all about it when I am home ..",
        NEWS + "他想说什么，又没有说...",
        NEWS * 3 + "...阅读全文",
    ],
    ids=["a sentence", "a short post", "a short post in English", "a pause", "one link"],
)
def test_texts_that_end_with_dots_stay(text: str) -> None:
    assert apply("ellipsis_lines", text) == text


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("2018-12-26 09:13来源:浙江影视娱乐频道", True),
        ("视频:老婆偷偷买了一个手机影视&gt微电影2018-05-0116:26:090", True),
        ("2018-05-23 18:58 来源:湖心新闻 播放次数:水饺店破墙开门无证经营，居民怨声载道", False),
        ("会议于2018-05-23 18:58开始", False),
    ],
    ids=["a source", "a film", "a title", "a line"],
)
def test_the_time_and_the_source_of_a_page_are_no_text(text: str, dropped: bool) -> None:
    assert isinstance(apply("keyword_lists", text), Drop) is dropped


SCRAPS = "失所 因欧 是今 非线性 凸肚 症快 枳樽 也斯 庄则 早熟 一遭 圈乱 文无 手叹 人匿 钻落 江系 052 档信 胸贴"


def test_scraps_of_words_are_no_text_and_a_list_of_names_is() -> None:
    scraps = f"{SCRAPS} 匡撑 壳新 1150 枪持 屡传 十开 手也 抽中 在对 对雅 的还"
    assert isinstance(apply("keyword_lists", scraps), Drop)
    names = " ".join(f"{first}{second}" for first in "赵钱孙李周吴" for second in "一二三四五六七八")
    assert apply("keyword_lists", names) == names
