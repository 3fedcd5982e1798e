"""Phrases that filters look for: calls to action, spam, betting sites, names and vendors of assistants.

A phrase is listed because it is common on pages that teach a model nothing and rare elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hanlin.data.text.prefilter import Prefilter


class Phrases:
    """A pattern that matches any of some phrases, longest first, with a prefilter that says if it is worth running."""

    def __init__(self, phrases: Sequence[str], bits: int) -> None:
        ordered = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
        self.pattern = re.compile("|".join(map(re.escape, ordered)))
        self.prefilter = Prefilter(ordered, bits)

    def find_all(self, text: str, minimum: int = 1) -> list[str]:
        """Find the phrases in a text, in order; an empty list if there are fewer than `minimum`."""
        if self.prefilter.count_candidates(text) < minimum:
            return []
        hits = self.pattern.findall(text)
        return hits if len(hits) >= minimum else []


def compile_phrases(text: str, *phrases: str, bits: int = 4) -> Phrases:
    """Compile phrases: those that `text` lists between white space, and `phrases`, which may contain blanks.

    Args:
        text: Phrases separated by white space.
        phrases: More phrases.
        bits: Bits of the prefilter; more of them give fewer false candidates.
    """
    return Phrases((*text.split(), *phrases), bits)


CALLS_TO_ACTION = compile_phrases(
    """
    扫码关注 扫码添加 扫码加 扫码进 扫码咨询 二维码关注 识别二维码 扫描二维码 长按二维码 识别图中 扫描下方 扫一扫
    点击这里 点击下方 点击上方 点击链接 点击进入 点击领取 点击关注 点击图片查看 点击图片关注 点击查看 点击阅读
    点击蓝字 点蓝字 后台回复 关注我们 关注公众号 关注本公众号 关注微信 公众号： 公众号: 加微信 加我微信 加V信 加薇信
    加QQ 加qq 微信号： 微信号: 微信： 客服热线 客服电话 客服微信 咨询热线 咨询电话 咨询微信 报名热线 报名电话
    服务热线： 服务热线: 加盟热线 加盟电话 订购热线 订购电话 责任编辑： 责任编辑: 版权所有： 版权所有© 文章版权归
    图片版权归 转载请注明 谢绝转载 上一篇： 上一篇: 下一篇： 下一篇: 上一页 下一页 相关阅读： 相关阅读: 相关推荐：
    相关推荐: 相关文章： 相关文章: 推荐阅读： 推荐阅读: 延伸阅读： 返回顶部 返回首页 返回列表 分享到： 分享到:
    打印本页 免责声明： 阅读原文 友情链接 广告合作 商务合作 投稿邮箱
    """,
    "All rights reserved", "all rights reserved", "All Rights Reserved", "Copyright ©", "Copyright (c)",
    "Click here to", "click here to", "Subscribe to our", "Sign up for our", "Sign in to", "Log in to",
    "Terms of Service", "Terms of Use", "Read more »", "Read More »",
)  # fmt: skip

BETTING_SITES = compile_phrases(
    """
    亚博 yabo 欧宝体育 华体会 必威 betway bt365 爱游戏体育 海德体育 ope体育 OPE体育 乐虎国际 澳洲幸运 王者威尼斯
    米乐体育 开云体育 kok体育 KOK体育 云开体育 星空体育 雷火电竞 乐鱼体育 半岛体育 九游会 天博体育 pg电子 时时彩
    北京赛车 幸运飞艇 现金网 真人荷官 六合彩
    """,
    bits=2,
)

SPAM_PHRASES = compile_phrases(
    """
    博彩 赌场 赌博 投注 下注 百家乐 老虎机 娱乐城 威尼斯人 棋牌 开户送 彩票平台 体育平台 澳门新 娱乐平台 娱乐登录
    注册送 首存 返水 私服 外挂 代开发票 办证 刻章 套现 无抵押 小额贷款 网贷 刷单 日结 兼职招聘
    壮阳 早泄 阳痿 包皮 人流 无痛 不孕 性病 尖锐湿疣 祖传秘方 无效退款 根治 专科医院 男科 妇科医院 治疗费用
    厂家直销 批发价 货到付款 包邮 优惠券 限时抢购 立即购买 免费咨询 在线咨询 咨询电话 加盟热线 招商加盟 代理加盟
    诚招代理 欢迎来电 竭诚 加微信 加V信 微信号 扫码 QQ群 公众号 成人网站 成人电影 激情视频 约炮 一夜情 高清无码
    在线观看免费 免费下载安装 官网下载 最新网址 备用网址 登录网址 手机版下载
    """
)

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
