"""Phrases that filters look for: spam, betting sites, names and vendors of assistants.

A phrase is listed because it is common on pages that teach a model nothing and rare elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

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
        self.prefilter = Prefilter([beginning[:3] for beginning in (*ordered, *(forms or {}))], bits)

    def find_all(self, text: str, minimum: int = 1) -> list[str]:
        """Find the phrases in a text, in order; an empty list if there are fewer than `minimum`."""
        if self.prefilter.count_candidates(text) < minimum:
            return []
        hits: list[str] = []
        end = 0
        for start in np.flatnonzero(self.prefilter.find_candidates(text)).tolist():
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


BETTING_SITES = compile_phrases(
    """
    亚博 yabo 欧宝体育 华体会 必威 betway bt365 爱游戏体育 海德体育 ope体育 OPE体育 乐虎国际 澳洲幸运 王者威尼斯
    米乐体育 开云体育 kok体育 KOK体育 云开体育 星空体育 雷火电竞 乐鱼体育 半岛体育 九游会 天博体育 pg电子 时时彩
    北京赛车 幸运飞艇 现金网 真人荷官 六合彩 新葡京 太阳城娱乐 皇冠体育 金沙娱乐 万博体育 bob体育 BOB体育 江南体育
    爱体育 九州体育 乐动体育 正规买球 手机买球 网上买球 体育买球 世界杯买球 欧洲杯买球
    """,
    bits=4,
    forms={
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
    """,
    bits=7,
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
NOT_A_SALES_CALL = re.compile(
    "版权|侵权|侵犯|删除|稿件|投稿|读者|考生|业主|市民|群众|居民|律师|法律|举报|监督|有误|错误|帮助|疑问|物业|技术支持"
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
