"""Lines of advertising and page furniture are cut, and lines that only mention such things are not."""

from __future__ import annotations

import pytest

from hanlin.config.settings.rules import TEXT_RULES
from hanlin.data.filters.boilerplate import advertisement_lines
from hanlin.data.filters.rules import RULE_FUNCTIONS
from hanlin.data.ledger import Drop
from hanlin.data.text.page_furniture import CALL, CREDIT, END_MARK, FURNITURE, LINKS_HEADING, SOURCE, find_cues

ARTICLE = "湖心岛上的芦苇一到深秋就白了头，渔家的小船从苇丛里穿出来，惊起几只水鸟。"
"""A line of content."""

CUT = (
    "读这篇文章之前，请先点一下上方的蓝字，再点关注，明天还能收到新的一篇。",
    "看文章之前，请先关注",
    "喜欢就点个在看吧",
    "**点亮“在看”，让更多人看到**",
    "觉得不错就分享给更多朋友",
    "长按识别上图的二维码，进群领资料",
    "扫码关注，不错过下一期",
    "点击**蓝字**关注我们",
    "随手点个赞再走",
    "好文分享收藏赞一下最美点在看哦",
    "戳“阅读原文”看全部名单",
    "后台回复【湖心岛】，免费领取地图",
    "报名热线：010-12345678（微信同号）",
    "欢迎来电咨询",
    "商务合作：微信 huxindao",
    "责编丨王一 审核丨李二",
    "编 辑：王一审 核：李二",
    "撰稿/王一 校对/李二",
    "图片来自网络，如有侵权请联系删除",
    "未经授权，禁止转载",
    "本文仅供学习，由此造成的任何后果由使用者自行承担，与本号无关，不代表本平台的立场。",
    "上一篇：湖心岛的夏天",
    "— END —",
    "举报/反馈",
    "最新评论（12）",
    "举报",
    "回复 举报",
    "收藏 | 举报",
    "评论(3) 点赞(15)",
    "转发 2 评论 3 赞 4",
    "赞(0)",
    "共3条评论",
    "时间:2014-05-02 06:50:01 阅读:436 评论:0",
    "点击展开",
    "点击展开更多",
    "登录后才能评论",
    "我要评论",
    "只看楼主",
    "[点我收藏+]",
    "更多>>",
    "返回网站首页",
    "查看全部评论",
    "展开全文",
    "收起全文",
    "阅读全文>>",
    "本文首发于湖心岛公众号",
    "原文首发于知乎专栏“湖心岛”",
    "（完）",
    "请将本号设为星标，以防失联",
    "Copyright © 2020 All Rights Reserved",
)
KEPT = (
    "答：拨打客服热线10086查询。",
    "只要给她点关注，她就高兴一整天。",
    "警方提醒：不要扫描陌生人发来的二维码，不要点击短信里的链接。",
    "收到短信别点击链接领取补贴，先给银行打电话。",
    "这首诗首发于一九二三年的《小说月报》",
    "举报电话在村委会门口",
    "举报的人很多",
    "## 举报",
    "- 收藏 举报",
    "1. 举报",
    "收藏",
    "阅读 90",
    "阅读 20分 写作 30分",
    "2014-05-02 06:50",
    "点击展开的菜单在右边",
    "登录后评论会显示在下面",
    "回复 他的信",
    "赞同 3",
    "阅读全文后，说说湖心岛的变化。",
    "首发于博客 时间是三月",
    "他的评论（12）和我的不一样，他说湖心岛的芦苇更好看。",
    "有人让我加微信，说能便宜买到船票，要先交定金，这样可信吗？",
    "第二步：打开小程序，点击进入“码头”页面，选择日期。",
    "3. 点击查看订单，核对姓名和证件号。",
    "怎么关注公众号才能收到开船的消息？",
    "警方提醒：凡是让您扫码领取补贴的都是诈骗。",
    "作者：王一",
    "来源：湖心岛的水来自雪山，一年四季都是凉的，渔家说它养人。",
    "县商务合作局公布了渡口的名单，如下：",
    "他把二维码贴在船头，游人上了岸才想起来付钱，他也不急，说明天再给也行。",
    "        end",
    "他说完了，屋里安静下来。",
    "村里的人在群里问谁去，他回复：“我去。”",
    "晚上六点，她给丈夫发了一条微信：船票买好了，明天一早就走。",
    "渔家要大家一定要齐心，掏出手机让大家加微信。",
    "讲这一段的时候，重点看这个蓝字部分，就是航线从哪里开始。",
    "去过岛上的人回来以后，我们开始持续关注。",
    "写信的人呼吁关注“湖心岛”被围垦一事。",
    "没有得到上级同意的时候，不建议邀请上级领导入群。",
    "那几年没有钱去做广告投放，就靠船工在茶馆里讲。",
    "岛上的作坊跟外地的几个设计品牌合作。",
    "当晚7点左右，这篇写芦苇的文章被转发了一千多次。",
    "看完以后感受到一点点收藏价值了。",
    "你们觉得不够热闹，我们就想分享给你们这么多故事。",
    "开通网页支付还需要：备案网站ICP备案号",
    "编辑/etc/crontab文件，在最后添加一行",
    "| 渡口 | 公众号：湖心岛 | 每天两班 |",
    "这篇写渡口的文章的观点被大量转发。",
    "起点在看台东侧，焦点在看台上的老人身上。",
    "接入点转发报文，节点收藏夹同步完成。",
    "他点亮了灯，在看一本旧书。",
    "她点了一碗面，边吃边在看手机。",
    "点评区里有人转发了通知。",
    "他的优点是喜欢点赞别人。",
    "重点关注我们县的三个村。",
    "假设有一百个用户参与某个限时秒杀活动。",
    "这篇论文研究了限时优惠对消费者的影响。",
    "随手转发谣言也可能违法。",
    "点击实例可进入集群的页面，查看各个实例。",
    "他扫码进群后，收到了三条消息。",
    "合作微信公众平台的开发者需要先注册。",
    "如果有人侵犯了你的权利，应当怎么通知平台处理？",
)


def judge(text: str) -> str | Drop:
    return RULE_FUNCTIONS["advertisement_lines"](text, **TEXT_RULES["advertisement_lines"])


def cut(*lines: str) -> list[str]:
    """The lines that are left of an article with these lines in it."""
    text = "\n".join((ARTICLE, ARTICLE[::-1], *lines, ARTICLE[1:], *[ARTICLE[2:]] * 9))
    left = judge(text)
    assert not isinstance(left, Drop)
    return [line for line in left.split("\n") if line in lines]


@pytest.mark.parametrize("line", CUT)
def test_a_line_of_furniture_is_cut(line: str) -> None:
    assert cut(line) == []


@pytest.mark.parametrize("line", KEPT)
def test_a_line_that_mentions_such_things_stays(line: str) -> None:
    assert cut(line) == [line]


def test_titles_after_a_heading_of_links_are_cut_at_the_end_of_a_page_only() -> None:
    links = "往期回顾\n湖心岛的夏天\n渡口的老人"
    article = "\n".join([ARTICLE] * 6)
    assert advertisement_lines(f"{article}\n{links}", 80, 0.5) == article
    left = advertisement_lines(f"{links}\n" + "\n".join([ARTICLE] * 6), 80, 0.5)
    assert isinstance(left, str) and "渡口的老人" in left and "往期回顾" not in left


def test_the_source_of_a_page_is_cut_at_its_edges_only() -> None:
    middle = "\n".join([*[ARTICLE] * 5, "来源：渡口日报", *[ARTICLE] * 9])
    assert advertisement_lines(middle, 80, 0.5) == middle
    assert advertisement_lines(f"{ARTICLE}\n来源：渡口日报", 80, 0.5) == ARTICLE


def test_code_is_left_alone() -> None:
    code = f"{ARTICLE}\n```\n扫码关注我们\nEND\n```\n{ARTICLE}"
    assert advertisement_lines(code, 80, 0.5) == code


def test_a_page_of_furniture_and_a_title_is_an_advertisement_and_one_with_a_sentence_is_cut() -> None:
    furniture = "扫码关注我们\n点击阅读原文\n责编：王一 审核：李二"
    assert isinstance(advertisement_lines(f"湖心岛的秋天\n{furniture}", 80, 0.5), Drop)
    assert advertisement_lines(f"{ARTICLE[:20]}白了头。\n{furniture}", 80, 0.5) == f"{ARTICLE[:20]}白了头。"


@pytest.mark.parametrize("line", CUT)
def test_the_pairs_of_characters_are_in_every_line_that_is_cut(line: str) -> None:
    plain = line.replace("*", "")
    if any(pattern.search(plain) for pattern in (CALL, CREDIT, END_MARK, FURNITURE, LINKS_HEADING, SOURCE)):
        assert find_cues(plain + "\n")


@pytest.mark.parametrize(
    "post",
    [
        "风云足球明天凌晨03:45直播曼城对拜仁的比赛，敬请关注！",
        "近日，某地一名女子在医院就诊的事引起了大家的讨论。详情请点击以下阅读原文",
        "把一本书放进特制的外套里，隔层中的种子会慢慢发芽。（图片来自网络）",
        "夜里做梦隔壁老王居然给我点赞",
        "目击者爆料：新桥路口这会儿堵成一片了",
        "//@海边看云:盼着物资早点送到小城 这么点转发量看得人着急",
        "各位家长请扫描下方二维码加入班级群，明天下午三点开家长会，请准时参加。",
        "发布会定于明日上午十点举行，请各媒体记者扫码报名，凭记者证入场。",
    ],
)
def test_a_post_that_says_something_stays(post: str) -> None:
    assert judge(post) == post


@pytest.mark.parametrize(
    "post",
    [
        "精品课程免费报名，名额不多，敬请关注！",
        "敬请关注",
        "新书69元包邮到家，数量不多，欢迎关注",
        "求转发！",
        "看完返回搜狐，查看更多 责任编辑：",
        "各位家长请扫码进群，免费领取同步练习！",
        "本站资源均来自网络，请在下载后24小时内删除，如有侵权请联系我们删除。",
    ],
)
def test_a_post_that_sells_or_says_nothing_is_an_advertisement(post: str) -> None:
    assert isinstance(judge(post), Drop)


def test_a_word_between_tags_on_lines_of_their_own_is_part_of_its_sentence() -> None:
    text = f'{ARTICLE}\n渔家常常\n<a href="/lake">\n举报\n</a>\n偷捕的人。'
    assert judge(text) == text
