"""Phrases that filters look for: spam, betting sites, names and vendors of assistants.

A phrase is listed because it is common on pages that teach a model nothing and rare elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hanlin.data.text.prefilter import Prefilter


class Phrases:
    """A pattern that matches any of some phrases, longest first, with a prefilter that says where it may match.

    Args:
        phrases: The phrases.
        bits: Bits of the prefilter; more of them give fewer false candidates.
        forms: Patterns by a text with which all that they match begins; None: the pattern of an earlier text is.
    """

    def __init__(self, phrases: Sequence[str], bits: int, forms: Mapping[str, str | None] | None = None) -> None:
        ordered = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
        groups: dict[str, list[str]] = {}
        for phrase in ordered:
            groups.setdefault(phrase[0], []).append(re.escape(phrase[1:]))
        patterns = [f"{re.escape(first)}(?:{'|'.join(endings)})" for first, endings in groups.items()]
        patterns += [pattern for pattern in (forms or {}).values() if pattern]
        self.pattern = re.compile("|".join(patterns))
        self._beginnings = frozenset(beginning[:3] for beginning in (*ordered, *(forms or {})))
        self.prefilter = Prefilter(self._beginnings, bits)

    def find_all(self, text: str, minimum: int = 1) -> list[str]:
        """Find the phrases in a text, in order; an empty list if there are fewer than `minimum`."""
        if self.prefilter.count_candidates(text) < minimum:
            return []
        beginnings = self._beginnings
        starts = [
            start
            for start in self.prefilter.find_starts(text)
            if text[start : start + 3] in beginnings or text[start : start + 2] in beginnings
        ]
        if len(starts) < minimum:
            return []
        hits: list[str] = []
        end = 0
        for start in starts:
            if start >= end and (match := self.pattern.match(text, start)):
                hits.append(match[0])
                end = match.end()
        return hits if len(hits) >= minimum else []


def compile_phrases(text: str, *phrases: str, bits: int = 4, forms: Mapping[str, str | None] | None = None) -> Phrases:
    """Compile phrases: those that `text` lists between white space, and `phrases`, which may contain blanks.

    Args:
        text: Phrases separated by white space.
        phrases: More phrases.
        bits: Bits of the prefilter; more of them give fewer false candidates.
        forms: Patterns by a text with which all that they match begins; None: the pattern of an earlier text is.
    """
    return Phrases((*text.split(), *phrases), bits, forms)


_SITE_WORD = (
    "体育|娱乐|国际|电竞|游戏|足彩|彩票|真人|棋牌|视讯|官方|官网|网[址站页]|手机|登[录陆]|注册|平台|下载|投注|买球|客户端|入口|客服"
    "|开奖|计划|走势|赛车|app|APP|vip|VIP|pk|PK|com"
)
_OF_A_SITE = rf"(?={_SITE_WORD}|[^\u4e00-\u9fff]|\Z)"
"""What follows the name of a betting site, if the same characters are in other words too: 东北亚博览会, 势必威胁."""
BETTING_SITES = compile_phrases(
    """
    yabo 欧宝体育 betway bt365 爱游戏体育 海德体育 ope体育 OPE体育 乐虎国际 澳洲幸运 王者威尼斯
    米乐体育 开云体育 kok体育 KOK体育 云开体育 星空体育 雷火电竞 乐鱼体育 半岛体育 天博体育 pg电子 时时彩
    幸运飞艇 真人荷官 六合彩 太阳城娱乐 皇冠体育 金沙娱乐 万博体育 bob体育 BOB体育 江南体育
    九州体育 乐动体育 正规买球 手机买球 网上买球 体育买球 世界杯买球 欧洲杯买球
    皇冠比分 皇冠现金 皇冠官网 皇冠正网 皇冠新网 皇冠网址 皇冠投注 皇冠足球 正规网赌 网赌软件 赌球网
    威尼斯人网站 威尼斯人官网 威尼斯人网址 威尼斯人娱乐 威尼斯人平台 威尼娱人 葡京网站 葡京官网 葡京娱乐 葡京网址
    葡京平台 葡京赌 新葡萄京 新萄京 金沙网站 金沙官网 金沙网址 永利官网 永利网址 太阳城官网 太阳城网站 太阳城网址
    ag亚游 AG亚游 凯发k8 凯发娱乐 凯发国际 尊龙凯时 利来国际 利来娱乐 ag真人 AG真人 ag旗舰 AG旗舰 龙8国际 优发国际
    优发娱乐 和记娱乐 博天堂 伟德国际 伟德体育 韦德体育 大发体育 大发娱乐 大发彩票
    大发扑克 明升体育 新利体育 沙巴体育 竞技宝 雷竞技 泛亚电竞 火狐体育 芒果体育 博鱼体育 博鱼app 贝博体育
    亿德体育 环亚娱乐 千亿国际 千亿体育 乐鱼app 乐鱼官网 开元棋牌 开云app 分分彩 腾博会
    pk10计划 PK10计划 pk10开奖 PK10开奖 飞艇计划 快三计划 赛车计划群 棋牌游戏中心
    """,
    bits=5,
    forms={
        "亚博": rf"(?<![东西南北中欧])亚博{_OF_A_SITE}",
        "必威": rf"(?<!势)必威{_OF_A_SITE}",
        "狗万": rf"狗万{_OF_A_SITE}",
        "华体会": rf"(?<!中)华体会{_OF_A_SITE}",
        "九游会": r"九游会(?!员)",
        "同乐城": r"同乐城(?![堡市镇])",
        "现金网": r"现金网(?![点络银])",
        "爱体育": rf"爱体育(?={_SITE_WORD})(?!国际|登录|注册|游戏)",
        "北京赛车": rf"北京赛车(?={_SITE_WORD}|群|技巧|精准)(?!体育|国际|手机|游戏)",
        "新葡京": "新葡京(?!赌场|大?酒店|娱乐场)",
        "真钱": r"真钱(?:下注|投注|游戏|棋牌|平台|娱乐|赌|爱拼|麻将|扎金花|百家乐|德州)",
        "彩神": r"彩神(?:争霸|[8８]|[vVⅤ]|官|app|平台|登录|下载)",
        "特马": r"特马(?:号|资料|开奖|查询|网|诗|图)",
        "杯竞猜": r"杯(?:决赛|冠军)?(?:竞猜|下注|投注|押注|外围)(?!活动|游戏|大赛|有奖|型|彩|赛)",
        **dict.fromkeys(("杯决赛", "杯冠军", "杯下注", "杯投注", "杯押注", "杯外围")),
        "联赛下注": r"联赛(?:下注|投注|押注|买球)",
        **dict.fromkeys(("联赛投注", "联赛押注", "联赛买球")),
        "买球平": r"买球(?:平台|网|app|APP|官网|软件|入口)",
        **dict.fromkeys(("买球网", "买球a", "买球A", "买球官", "买球软", "买球入")),
        "贵宾会": r"贵宾会(?![员议见客所计堂客谈])",
        "体育app": r"体育(?:app|APP)(?:官网|下载|官方|手机|最新|登录|平台)",
        "体育APP": None,
        "体育官方": r"体育官方(?:网站|网|app|APP|下载|入口|登录|平台)",
        "体育投注": r"体育投注(?:平台|网|app|APP)",
        "娱乐平台": r"娱乐平台(?:登录|注册|入口|下载|网址|app|官网)",
        "棋牌官": r"棋牌(?:官网|平台|app|APP|下载|官方)",
        **dict.fromkeys(("棋牌平", "棋牌a", "棋牌A", "棋牌下")),
        "彩票": r"彩票(?:app|APP|官网|平台)(?:登录|注册|下载|入口|官网|官方)",
        "电竞官": r"电竞(?:app|APP|官网|平台)(?:登录|注册|下载|入口|官方)",
        **dict.fromkeys(("电竞平", "电竞a", "电竞A")),
    },
)

SEWN_IN_BETTING = re.compile(
    r"赌博(?:软件|平台|网)|网赌|赌球|娱乐(?:平台|城|网站|官网)|娱人网站|[葡萄]京(?:娱乐|网|官|集团|平台|app)|比分网"
    r"|(?:江苏|安徽|湖北|吉林|上海|北京|广西|河北|甘肃|彩票|内蒙古|福建)快三|棋牌(?:平台|官网|app)"
)
"""Words of betting sites that a program has put in the place of a name on a copied page."""
ON_CRIME = re.compile(
    "[民特辅]警|警方|公安|派出所|反诈|诈骗|涉赌|涉案|嫌疑|刑拘|刑事|犯罪|法院|检察|骗局|典型案"
    "|不法分子|假冒|冒充|谨防|严正声明"
)
"""Words of the police and the courts: who warns of fraud and betting writes the phrases of those who advertise it."""
SPUN_CUE = "平易近"
SPUN = re.compile(
    "[人国农居市公渔村股网难选彩]平易近(?![人。，、；！？”])|平易近[间族主营生众政俗办警航事用心意权商企]"
)
"""平易近, by which a program replaced 民: 人平易近币, 平易近间故事. Writers have it in 平易近人 only."""
STATE_CUE = "邦"
SPUN_STATE = re.compile("中邦|全邦|邦际|邦度|邦产|邦营|邦务院|邦有企")
"""邦, by which a program replaced 国: 中邦, 邦务院. Two of them are in no text of a writer."""
OPENING_ADDRESS = re.compile(
    r"[卍卐]?([卍卐]|[^\w\s，。、“”《》【】「」『』()（）\-*#])[^\n，。]{2,24}?\1\s*[（(]\s*(?:https?://|www\.|[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|cn)\b)"
)
"""A keyword between two marks and an address behind it, with which a page begins that goes on with the news."""
NOVEL_CUES = ("阅读", "章节", "书友")
NOVEL_SITE = re.compile(
    "无弹窗|最新章节|免费(?:在线|全文)?阅读|全文(?:免费)?阅读|在线阅读|(?i:txt)(?:全集)?下载|书友群|各位书友要是觉得"
    "|章节列表|全文字更新|推荐票|读者群|请不要忘记向您QQ群"
)
"""What sites of novels say around the name of one."""
SOLD_TIPS_CUE = "计划"
SOLD_TIPS = re.compile(r"(?:pk\s?10|快三|[分时]{2}彩|赛车|飞艇|28|彩票?)\W{0,2}计划[^\n。]{0,6}(?:微信|QQ|群)", re.I)
"""An offer of tips for a lottery, which is pasted into the news."""
EDITOR_CUES = ("小编", "本站", "导读")
EDITOR_FRAME = re.compile(
    r"\A导读[：:][^\n]{0,60}[（(]共\d{1,2}篇[)）][^\n]*(?:\.\.\.|…)\W*\Z"
    r"|(?:(?:小编|本站)[^。\n]{0,8}(?:整理|准备|分享|推荐|带来|收录)|[随和跟]小编)[^\n]{0,50}"
    r"(?:欢迎[^。\n]{0,4}(?:阅读|参考|借鉴|查看)|希望[^。\n]{0,14}(?:喜欢|帮助|参考|借鉴)"
    r"|供[^。\n]{0,10}参考|一起来?看|来看)[^\n]{0,24}\Z"
)
"""What the editor of a site of samples writes before them: a short text that ends with it has no sample."""
LISTINGS = {
    "户型": re.compile(
        "房源(?:优势|亮点|描述|特色|卖点)|户型介绍|(?:小区|社区|周边)介绍|核心卖点|房屋(?:亮点|优势)|业主(?:诚心|急|直)"
        "|更多的?房源|看房(?:方便|随时)|随时看房|税费解析|权属抵押|交通出行|装修描述|投资分析"
    ),
    "包装说明": re.compile(
        "(?:供应地|包装说明|产品规格|运输说明|最小起订量?|供货总量|发货期限|产品单价|产品型号|有效期至)\\s?[：:]"
    ),
    "征信": re.compile(
        "秒批|秒下|口子|黑户|无需审核|不[看查]征信|下款|芝麻分|急需钱|急用钱|(?:怎么|如何)贷款|能贷款[吗么]"
        '|征信(?:花了|不好|小白|"小白)'
    ),
}
"""What offers of flats, goods and loans are made of, by a word that is in each; three different ones are an offer."""
SEWN_SHEET_CUES = ("石油催化剂", "公斤/")
SEWN_SHEET = re.compile(
    r"用途：用于(?!制造石油催化剂)[^，。、]{4,}制造石油催化剂|包装：真空(?!包装)[^，。、]{4,}包装[^。]{0,40}公斤/(?!件)"
)
"""A data sheet of goods into which a program sewed headlines: 用途：用于十年后收获票房制造石油催化剂."""
PINYIN_IN_BRACKETS = re.compile(r"[\u4e00-\u9fff]\((?:[bpmfdtnlgkhjqxrzcsyw]h?)?[aeiouv]{1,3}(?:ng?|r)?\)")
"""The sound behind a character without its tone: 大(da)大(da)拓展, which a program puts behind any of them."""
INSTITUTION = re.compile("学院|大学|学校|教授|研究生|研究所|研究员|医院|学生|教师|科研|学科|专业|党委|论文|专家")
"""Words of the pages that are copied: on schools, institutes and hospitals."""
ON_BETTING = re.compile(
    "[警赌]方|公安|民警|诈骗|涉赌|犯罪|查处|打击|嫌疑|赌客|赌徒|赌场|赌资|赌瘾|戒赌|禁赌|反赌|彩民|开奖|中奖|体彩|福彩|彩票中心"
    "|球迷|赛季|赔率|博彩业|旅游|酒店|拉斯维加斯|法院|律师|违法|网络安全|游戏"
)
"""Words of pages that speak of betting, or of hotels with such names."""

GENERATED_CUE = "慎"
"""A character that no long text of the generator of `GENERATED` is without."""
GENERATED = re.compile(
    "不经意间这样说过|无意间说过这样一句话|曾经提到过|这不禁令我深思|这启发了我|虽然很短，但令我浮想联翩|带着这句话，我们"
    "|带着这些问题，我们来审视|我们不得不面对一个非常尴尬的事实|不得不面对这些问题|发生了会如何，不发生又会如何|到底需要如何做到"
    "|又会如何产生|到底应该如何实现|不能不说非常重大|而这些并不是完全重要|其他一切则会迎刃而解|问题的关键究竟为何"
    "|到底是一种怎么样的存在|也是经过了深思熟虑|更加慎重的审视这个问题|这种事实对本人来说意义重大|带到了一个新的维度去思考"
    "|务必慎重的考虑|那么就必须慎重考虑"
)
"""Sentences of a widespread generator of essays on any topic."""

SPAM_PHRASES = compile_phrases(
    """
    博彩 赌场 赌博 投注 下注 百家乐 老虎机 娱乐城 威尼斯人 棋牌 开户送 彩票平台 体育平台 澳门新 娱乐平台 娱乐登录
    注册送 首存 返水 私服 外挂 代开发票 办证 刻章 套现 无抵押 小额贷款 网贷 刷单 日结 兼职招聘 壮阳药 无痛人流
    男科医院 妇科医院 不孕不育医院 祖传秘方 无效退款 医院哪家 哪家医院好 治疗费用 人流医院 专家预约 在线挂号 厂家直销
    批发价 货到付款 包邮 优惠券 限时抢购 立即购买 免费咨询 在线咨询 咨询电话 加盟热线 招商加盟 代理加盟 诚招代理
    欢迎来电 竭诚 加微信 加V信 微信号 扫码 QQ群 公众号 成人网站 成人电影 激情视频 约炮 一夜情 高清无码 在线观看免费
    免费下载安装 官网下载 最新网址 备用网址 登录网址 手机版下载 贵宾会 限时优惠 限时特惠 限时秒杀 火热招生 火热报名
    火爆招生 名额有限 先到先得 团购价 拼团价 到手价 抢购价 券后价 秒杀价 免费试听 试听课 报名优惠 包教包会 代办资质
    资质代办 代理记账 售楼处电话 售楼热线 看房热线 楼盘详情 拎包入住 预约看房 实力厂家 厂家供应 现货供应 型号齐全
    量大从优 欢迎选购 欢迎订购 厂家批发 免费量房 免费设计 上门维修 售后维修 免费领取 限量抢购 咨询热线 预约热线
    订购热线 微信同号 同微信 扫码领取 点击领取 立即报名 立即抢购 立即咨询 免费咨询热线 包邮到家 全国包邮 一件代发
    零风险 月入过万 轻松赚钱
    一区二区 自拍偷拍 成人视频
    """,
    bits=4,
)

_IN_SENTENCE = r"[^。！？!?\n]"
SALES_CALL = re.compile(
    rf"欢迎{_IN_SENTENCE}{{0,14}}(?:来电|致电|咨询|联系|选购|订购|洽谈)|来电(?:咨询|洽谈|订购|订货)|向我们(?:公司)?(?:咨询|订购|购买)"
    rf"|(?:需要|需求|想要|想了解|了解更多|感兴趣|有意|购买|选购|定制|报价|咨询|合作|加盟){_IN_SENTENCE}{{0,30}}"
    rf"(?:联系|咨询|致电){_IN_SENTENCE}{{0,4}}(?:我们|我司|我公司|本公司)|详情{_IN_SENTENCE}{{0,4}}(?:致电|来电|咨询我们|联系我们)"
    rf"|(?:送到|前往)我们{_IN_SENTENCE}{{0,10}}(?:中心|门店|医院|公司)"
)
"""A call to buy something or to ask a company for it, as sales texts end with."""
SALES_CALL_WORDS = ("咨询", "联系", "致电", "来电", "洽谈", "选购", "订购", "我们")
"""One of them is in every `SALES_CALL`."""
OPENING_CONTACT = re.compile(
    r"(?<![\d.])1[3-9]\d[-= ]?\d{4}[-= ]?\d{4}(?!\d)"
    r"|(?:[qQ]{2}|扣扣|微信|薇信?|徽信|[vV][xX信]|加[vVqQ])(?:[qQ号/]|同号|客服){0,3}\s?[:：【]\s?\d[\d ]{5,10}\d"
)
"""The number of a telephone or of a messenger with which a text begins that offers something.

Names of messengers (微信：nofashion) are not among them: articles begin with the account from which they are.
"""
HIDDEN_NUMBER = re.compile(
    r"(?<!\d)1[3-9]\d([^\d\s.·/+—–－,，、到至和×xX✕*＊~～-])\d{4}\1\d{4}(?!\d)|(?<![\d?])\d(?:[?？]\d){6,11}(?![\d?])"
)
"""The number of a telephone or messenger written so that no filter finds it: 156乄1330乄4344, 3?1?3?8?0?8?6."""
LONG_NUMBER = re.compile(r"\d(?:(?<!\d\d)(?<!-\d)(?<!2(?=0\d\d-))[-= \d]{5}|(?<=1)\d\d\D\d{4}\D\d{4}|[?？]\d[?？]\d)")
"""What begins nearly every `OPENING_CONTACT` and `HIDDEN_NUMBER`, and found in an eighth of the time: each begins with
a digit. Dates are none."""
ILLEGAL_OFFER = re.compile(
    r"(?:私家|私人|天眼)侦探|侦探(?:公司|热线|社)|黑客(?!马拉松|松)\W{0,3}[^。，\n]{0,6}?[:：σ]|网赌被黑|(?:花呗|信用卡|白条)\W?(?:套现|提现)"
    r"|定位找人|聊天记录[^。]{0,8}(?:恢复|查询)|查[^。]{0,6}通话记录|外围(?:女|模特)|(?:永久|复制)网址|招收代理"
    r"|[(（【]小姐[)）】]|[叫找约]小姐(?:上门|服务|电话)|(?:上门|全套)服务[^。]{0,6}小姐|[vV薇威]芯|[vV薇微威][❤♥]"
)
"""What nobody offers but in an advertisement, whatever the page goes on with."""
ILLEGAL_CONTACT = re.compile(
    r"(?<!\d)(?!(?:19|20)\d\d[-年./])\d(?:[-&*=.· x×]?\d){5,}+(?!\s?[多余]?(?:[元人次名万亿件条块部场]|美元))|www\."
)
"""How to reach those who offer it, in the first 120 characters; what is counted there is no number to call."""
DIRECT_OFFER = re.compile(
    r"(?:花呗|信用卡|白条)\W?(?:套现|提现)[^。，\n]{0,12}?(?:[qQ]{2}|微信|[vV][xX]?|[微威薇]信|扣扣)\W{0,3}\d{5}"
)
"""An offer of cash with its number at once, which is one whatever the opening goes on with: 花呗提现官网客服QQ：."""
CASH_CUES = ("提现", "套现")
CASH_KEYWORD = re.compile(r"(白条|花呗|信用卡|任性[付贷]|借呗)(?:怎么|如何|可以|能|能够)?(?:自己)?[提套取]现")
MARKED_CASH_KEYWORD = re.compile(
    rf"[#~～·—](?:京东)?{CASH_KEYWORD.pattern}|{CASH_KEYWORD.pattern}(?:吗|方法|出来)?[#~～·—]"
)
"""What programs scatter among sentences of others to be found by searches: #京东白条提现#京东白条怎么提现#."""
ON_CASH = re.compile(
    "记者|风险|违[规法]|被罚|处罚|监管|央行|银监|消费者|提醒|判决|乱象|打击|严禁|禁止|手续费是|利息怎么"
)
"""What texts have that tell of such offers, or explain them."""
ON_OFFERS = re.compile("记者(?:暗访|调查|采访|了解|获悉)|暗访|纪录片|小说|电影|电视剧|讲述|观看|大赛|论坛|报名|研讨")
"""What texts have that tell of such offers, or of a film of them."""
CLOSING_CONTACT_CUES = ("信", "q", "Q", "v", "V", "扣扣", "企鹅")
"""One of them is in every `CLOSING_CONTACT`."""
CLOSING_CONTACT = re.compile(
    r"(?:微\s?信|威信|薇信?|徽信|(?<![a-zA-Z])[vV][xX信]?|加[vVqQ]|[qQ]{2}|扣扣|企鹅)\W{0,3}(?:号|同号|号码)?\s?[:：;；]?\s?[\u4e00-\u9fff]{0,3}[a-zA-Z_]{0,8}\d{4,}"
)
"""The number or the name with digits of a messenger at the end of a text."""
HIDDEN_MESSENGER = re.compile(r"[幑嶶溦]の?\W?信|[微薇徽威]の信")
"""The name of a messenger that is written so that no filter finds it: 幑の信."""
CLOSING_OFFER = re.compile("咨询|指导|盈利|亏损|回本|喊单|操作|免费领|非诚勿扰|详询|购买|代理|探讨")
"""What the last sentences have beside it if they offer something."""
NOT_AN_OFFER = re.compile(
    "作者|编辑|投稿|来稿|稿件|爆料|报料|转载|版权|商务|合作|来源|公众|小编|新闻|热线|记者|关注|邮箱|举报|主编|运营|监督|广告|客服|技术支持"
    "|报名|考试|律师|地址|文/|原文|责任|签名|电子书|医院|预约|学校|政府|部门|骗|警"
)
"""What else they have: who wrote the page, an office, a warning."""
SMALL_AD = re.compile(
    r"(?:联系|电话|微信|[vV][xX]|手机|[qQ]{2}|加我|看房)[^。，\d\n]{0,8}?[:：]?\s?1[3-9]\d{9}\D{0,12}\Z"
    r"|(?:微信|[vV][xX]|[qQ]{2})\W{0,3}[a-zA-Z_]{0,8}\d{5,12}\D{0,12}\Z"
)
"""The number of a mobile telephone or messenger with which a short text ends."""
SMALL_AD_OFFER = re.compile(
    "出售|出租|转让|低价|急转|回收|招[聘租生商收工募人徒]|招(?:代理|兼职|临时)|代理|供应(?!商)|优惠|特价|有意|需要的|有车的|有卖|价格|面议|承接|租房|接手|主营"
    "|办理(?:各类|各种)|(?:各类|各种)证件|办证|刻章|代开|代办|放款|下款|不[看查]征信|无抵押|套现|代还|应急贷|信用贷|贷款办理|办理贷款|秒到账"
    "|代[写发考做]|论文(?:发表|查重|降重|润色)|发表论文|包(?:过|发表|录用)"
)
"""What such a text offers, or looks for to buy."""
NOT_A_SMALL_AD = re.compile(
    "寻|启[事示]|丢失|遗失|走失|失联|举报|[警骗]|公安|身份证|失物|求助|投诉|捡到|归还|记者|爆料|编辑|投稿|作者|来源|公众|通知|公告|责编"
    "|值班|监督|捐|好心人|法院|异议|转载|版权|律师|求[购租职一]|学校|医院|政府"
)
"""What it has if it asks for help or has an author."""
NO_OFFER = re.compile(
    "寻[人找狗物]|启[事示]|丢失|走失|失联|举报|警[方察]|公安|报警|失物|求助|投诉|退款|订单|爆料|记者|邮编|通讯地址|法院|原告"
    "|被告|律师|曝光|骗|简历|招聘|聘|姓名|作者|编辑|投稿|来稿|公众|关注|阅读原文|转载|版权|身份证|发帖人|反映|回复|楼主|提问|如何|怎[么样]|验证码"
    "|通知|公告|各单位|政府|委员会|主办|承办|值班|急诊|医院|学校|辱骂|骚扰|催收|恐吓|不知情|[给打]我(?:打|来)?电话"
)
"""What such a text has that asks for help, complains, or has an author."""
NOT_A_SALES_CALL = re.compile(
    "版权|侵权|侵犯|删除|稿件|投稿|读者|考生|业主|市民|群众|居民|律师|法律|举报|监督|有误|错误|(?<!有所)帮助|疑问|物业|技术支持"
    r"|(?:如有|任何|遇到|其他)[^。！？\n]{0,4}问题"
)
"""What beside it shows that a call is for something else: notices, corrections, help pages, offices."""

SELF_REFERENCE = re.compile(
    r"我(?:是|叫|就是|名为|的名字|的开发者|的创造者|的全名|由|被|来自|并非|不是)|本(?:模型|助手)"
    r"|作为(?:一[个名款位])? ?(?:由|人工智能|AI|大型?语言|大规模语言|语言模型|聊天|智能|Chat|GPT|MOSS)"
    r"|\b(?:I am|I'm|I’m|I was|my name|my creators?|as an? (?:AI|large|language|artificial)"
    r"|as (?:ChatGPT|GPT|MOSS)|call me)\b",
    re.I,
)
CREATION_VERBS = re.compile(
    r"开发|训练|研发|创造|创建|推出|打造|制作|\b(?:developed|trained|created|made|built)\b", re.I
)
ASSISTANT_NAMES = re.compile(
    r"(?<![A-Za-z0-9])(?:Chat ?GPT(?:[- ]?[34](?:\.5)?)?|GPT(?:[- ]?[345](?:\.5|o)?(?:-turbo)?)?|ChatGLM(?:-?\d?-?6B)?"
    r"|MOSS|Claude|Bard|Gemini|Qwen|DeepSeek|Kimi|Llama(?:[- ]?[23])?|InternLM|Baichuan|BELLE)(?![A-Za-z0-9])"
    r"|文心一言|通义千问|讯飞星火|智谱清言|百川大模型|豆包|盘古大模型"
)
ASSISTANT_VENDORS = re.compile(
    r"(?<![A-Za-z0-9])(?:Open ?AI|Anthropic|Google(?: DeepMind)?|DeepMind|Meta(?: AI)?|Microsoft|Fudan University"
    r"|Tsinghua University|Alibaba(?: Cloud)?|Baidu|Zhipu(?: ?AI)?|DeepSeek|Moonshot(?: ?AI)?)(?![A-Za-z0-9])"
    r"|百度(?:公司)?|阿里(?:巴巴(?:集团)?|云)(?:通义实验室)?|科大讯飞|智谱(?:AI|华章)?|清华大学(?:KEG实验室)?"
    r"|复旦大学|字节跳动|华为|月之暗面|深度求索|上海人工智能实验室"
)


# --- words of programs that rewrite a copied text ---------------------------------------------------------------------

# Words that programs write which replace each word of a copied text by a synonym, so that it looks new. They take
# 发展 for 成长, and do so in compounds in which no writer does: 高质量成长, 相干部门, 办理题目. Words that old
# novels, Taiwan or Hong Kong have are not listed, nor those that mean something else as well (怀疑人 is in 怀疑人生).
# Of 107,000 texts of news, law, novels, essays of the 1920s, manuals and crawls none has two.
_SPUN_WORDS = """
可以或许 最年夜 重年夜 巨年夜 强年夜 扩年夜 庞年夜 宏年夜 伟年夜 较年夜 年夜型 年夜学 年夜众 年夜量 年夜概
小我私家 小我信息 小我隐私 克日， 相干部 相干负责 相干职 相干人员 相干政策 相干法 相干规 标的目的 民众号 经由过程
查询造访 造访组 主锻练 总锻练 锻练组 尝试室 实行室 中小门生 保存水平 保存质量 保存情况 糊口水平 糊口质量 糊口方式
日常糊口 不竭加 不竭提 不竭完 不竭进 不竭发 原质料 财产链 财产园 文化财产 财产化 可连续成 高质量成长 成长计谋
经济社会成长 天下杯 天下上 伴侣圈 犯法怀疑 犯法行 个中部 平安隐患 主动化 互联收集 收集平安 节制系 节制器 办事器
德律风 处理惩罚 缘故起因 日常平凡 原问题： 原问题: 血通例 通例检 暗示： 暗示出 先容说 先容了 揭晓文 揭晓讲
团体有限公 党委布告 市委布告 县委布告 省委布告 总布告 支部布告 副布告 向导干部 引导干部 主要向导 集会室 集会指
聚会会议 陈诉显 陈诉指 陈诉称 事变职 事恋职 研讨所 研讨职 研讨院 钻研职 钻研所 钻研院 迷信技 生齿老 生齿数
低落本 低落了 低落成 修建面积 都会化 都会群 都会规 住民委 小区住民 黉舍的 黉舍教 次要缘由 次要内容
获患上 使患上 值患上 觉患上 患上到 显患上 变患上 懂患上 取患上 记患上 没有仅 因而可知 乐成地 乐成的 办理题目
黎民群 老庶民 平凡话 公安构造 检察构造 国度主席 国度级 国度队 国度统 国度电 国度安 党和国度 观光社
消耗者 花费者 斲丧者 交通变乱 变乱发 变乱产 手艺创 手艺职 科学手艺 高新手艺 信息手艺 互助火伴 战略互助 深度互助
上风互 焦点竞 焦点手 焦点价 焦点技 代价观 晋升企 提拔企 提拔用 扶植工 扶植项 扶植单 文明扶植 党的扶植
勾当现 本次勾当 此次勾当 系列勾当 夸大指 身材状 身材安 身材素 安康饮 安康生 医治方 存眷度 存眷点 存眷的 备受存眷
遭到社 感化力 鞭策经 鞭策企 干系密 汗青上 汗青文 汗青悠 贯彻进修 进修贯 海内市 采办力 接纳措 雷同于
天下大赛 徐病 积极参取 主动参取 凡是环境 凡是来说 凡是情况 今朝已 伴跟着 老平民 效劳职员 谁人大 谁人女
谁人男 谁人老 根基都是
"""

SPUN_WORDS = tuple(dict.fromkeys(word for word in _SPUN_WORDS.split() if len(word) > 2))
"""The words, each of three characters and more."""


def _compile(words: tuple[str, ...]) -> re.Pattern[str]:
    """Compile a pattern of words, grouped by their first character."""
    endings: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        endings.setdefault(word[0], []).append(re.escape(word[1:]))
    return re.compile("|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in endings.items()))


SPUN_WORD = _compile(SPUN_WORDS)
COPY_CUE = re.compile(
    "丧者|乱[产发]|伴[侣跟]|侣圈|凡话|劳职|夜[众型学概量]|宏年|巨年|庞年|庶民|彻进|恋职|懂患|扩年|拔[企用]|斲丧|晓[文讲]|朝已|植[单工项]"
    "|汗青|略互|眷[度点的]|竭[加发完提进]|练组|糊口[水质方]|缘由|耗者|舍教|讨[所职院]|询造|谁人|锻练|鞭策|黉舍|黎民|齿[数老]|户型|包装说明|征信"
)
"""Rare pairs of characters of 60 of the words, one of which is in 11 of 16 such pages, and the cues of `LISTINGS`.

One search finds all of them in the time that three substrings take; it stops at 1 % of news. More pairs cost more.
"""
