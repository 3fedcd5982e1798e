"""Patterns of lines that are on many web pages and belong to none: calls to action, credits, notices, links.

Each pattern is for a line without Markdown marks. `PAIRS` finds the lines that may have one of them at a hundredth of
the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hanlin.data.text.patterns import compile_on_use
from hanlin.data.text.prefilter import BigramFilter

_CODE = "(?:二维码|小程序码|太阳码)"
_IN = "[^。！？!?；;]"  # within a sentence
_Q = r"[\s“”\"'‘’【】「」『』《》\[\]（）()↓↑👇👆☟☝▼▲→←☞☛❤~～：:·丨｜|]*"  # quotes and pointing marks
_PERSON = "(?:微信|公众号|公号|小编|客服|老师|助手|助理|群主|管理员|班主任|顾问|红娘|店主|运营)"

_CALLS = (
    # scan a code
    rf"(?:扫|识别|长按|长摁|识图|关注|添加){_IN}{{0,16}}{_CODE}",
    rf"{_CODE}{_IN}{{0,10}}(?:关注|咨询|报名|[加进入]群|领取|添加|联系|了解|购买|下载|订阅|预约|参与|观看)",
    rf"扫码{_Q}(?:关注|添加|加|进|入|咨询|领|报名|下载|参与|查看|预约|订|购|回复|了解|联系|免费|注册|观看|申请)",
    r"^\W*(?:请|欢迎|快来|用|或用)?(?:微信|手机)?扫[一1]扫|(?:微信|手机)扫[一1]扫\W*$|^\W*扫码\W*$",
    # click
    rf"(?:点击?|戳|轻触|单击){_IN}{{0,10}}(?:蓝字|蓝色|阅读原文|标题下|题目下)|^\W*蓝字\W*$",
    rf"(?:点击?|戳){_Q}(?:上方|上面|下方|下面|文末|[左右]上角){_Q}{_IN}{{0,16}}(?:关注|订阅|加星)",
    rf"(?:点击|戳|点){_Q}(?:关注|订阅|这里|此处|下图|上图){_Q}"
    r"(?:$|[，,！!]|直达|了解|关注|查看|进入|领|报名|下载|购买|免费|一键|咨询|阅读)",
    rf"(?:点击|戳){_Q}(?:上方|下方|文末|下面|上面){_Q}"
    r"(?:卡片|链接|视频|图片|名片|小程序|海报|话题|文字|公众号|关注|订阅|观看|购买|领取|报名|查看)",
    rf"(?:点击|戳)(?:链接|图片|图书标题|文字|海报|卡片|名片|视频|标题){_Q}(?:即可|直接|可以?|立即|马上|免费)?{_Q}"
    r"(?:查看|进入|报名|购买|领取|下载|预约|订阅|关注|阅读|观看|播放|识别)",
    rf"^\W*点击(?:即可|直接|立即|马上|免费)?(?:查看|进入|报名|购买|领取|预约|订阅|关注|阅读|观看|播放){_IN}{{0,30}}$",
    r"点击(?:查看|阅读|进入)[☞>》↓👇]|[（(]点击图片|(?:请|详情)[猛轻]?戳|点此(?:电话)?(?:咨询|查看|进入|购买|报名)",
    r"[“\"【「《\[]\W*阅读\W*原文\W*[”\"】」》\]]|^\W*(?:点击)?阅读\W*原文\W*$"
    r"|阅读原文(?:了解|查看|立即|进入|报名|购买|获取)",
    # answer, follow, join
    r"(?:后台|对话框|公众号内?|评论区|留言区)\W{0,6}(?:回复|留言|私信|发送|输入)",
    r"回复\W{0,6}[“\"【「\[『][^”\"】」\]』]{1,14}[”\"】」\]』]\W{0,6}(?:$|获取|领取|查看|免费|即可|可|进|加|下载|立即)",
    rf"关注{_Q}(?:我们|本公众|公众|官方|微信|视频号|小编|不迷路)(?!的)|关注[“「【『][^”」】』]{{1,16}}[”」】』]|人已关注",
    r"(?:长期|持续|多多|欢迎|记得|麻烦|快来|立即|一键|点点|点个|加个?|先|再点|点击|敬请)\W{0,3}"
    r"(?:点个?|来|大家|各位)?关注(?:\W|本|一下|下|吧|哦|哟|啦|再|$)",
    r"(?:公众号|公众账号|微信号|微信|视频号|QQ|QQ群|VX|V信|薇信)(?:\s?ID)?\s?[：:｜|丨](?!//)",
    r"^\W*(?:企业微信|微信?公众号|官方微信|视频号|小程序|微信扫码)\W*$|^.{1,16}官方(?:微信|微博|公众号)\W*$",
    rf"(?:加|添加){_Q}(?:我|我们)?{_PERSON}?{_Q}(?:微信|V信|VX|薇信)(?![软支])|加(?:微(?=\W|了解|咨询|领|$)|V信|薇|QQ)",
    r"(?:扫码|欢迎|邀请?|拉你|申请|一键|微信|备注|回复|可)[^。]{0,8}[进入加][^。]{0,6}群|[进入加]群(?:领|交流|学习|讨论|备注|请)",
    r"交流群\W{0,3}(?:招新|加入|申请|来了|开放)|加入(?:知识)?星球|(?:上传|发布|同步)[至到](?:知识)?星球|知识星球(?:内|获取|福利|优惠|门票|\W*$)",
    r"^\W*关注我\W*$|(?:更多|欢迎|请|快来)[^。]{0,14}关注\W*$|加好友(?:进群|拉群|备注)|点这里(?:自助)?(?:下载|领取|查看|报名)",
    # contact and sales
    r"[（(]\s?同(?:微信?|微信同号|微信号)\s?[）)]|微信(?:同号|同步)",
    r"(?:报名|客服|咨询|服务|加盟|订购|订票|售后|订房|招商|预约|购票|投稿|爆料|报料)\W{0,2}(?:热线|电话|微信|QQ|邮箱)(?:号码)?"
    r"\W{0,4}(?:[：:]|[\d\[+(（-]|$|请|加|同)",
    r"(?:全国|24小时|免费|统一)(?:服务|客服|咨询|订购|售后|加盟|招商|订票)?(?:热线|电话)",
    r"(?:商务|广告|商家|业务|品牌|寻求)合作(?!局|社|银行)\W{0,6}(?:请|微信|联系|QQ|电话|加|[：:丨]|$)|合作微信|广告投放",
    r"(?:投稿|爆料|报料)\W{0,3}(?:邮箱|邮件|请|热线|电话|至|方式|联系|[：:])|欢迎投稿",
    r"(?:欢迎|敬请|随时)(?:来电|致电|来函|垂询|咨询|详询|选购|订购|新老)|欢迎(?:添加|扫|长按|加入|订阅)",
    r"(?:详情|课程|购买|预约|更多详情|更多信息|更多优惠)请?(?:咨询|致电|垂询)|^\W*了解更多(?:相关)?(?:资讯|信息|详情|内容)\W*$",
    r"^\W*(?:立即|点击|一键)(?:购买|报名|咨询|抢购|订购|下单|预约|领取|申请|加入|扫码|注册|体验)\W*$",
    r"(?:免费|0元|扫码|一键)(?:领取|试听|试看|试学|进群|订阅)|限时(?:福利|优惠|折扣|特惠|秒杀)|错过再等",
    r"(?:一经|购买后)[^。]{0,8}(?:不退|不接受|概不)|原价\s?\d+\s?元|下单仅需|仅需\s?[¥￥]\s?\d",
)
_FURNITURE = (
    # share and like
    rf"(?:点个?|点点|点亮|点下|点一下|(?<![请需])求|给个|来个|随手|动动|帮忙点){_Q}{_IN}{{0,8}}(?:在看|小红心|小心心|点赞|收藏|转发|三连)",
    r"^\W*(?:球|求)?(?:分享|收藏)?\W*(?:点赞|在看|转发|点个?赞)(?:\W+(?:分享|点赞|在看|收藏|转发|留言|赞|评论))*\W*$",
    r"(?:点赞|在看|转发|收藏)\W{0,2}(?:[、，和+➕/|]|)\W{0,2}(?:点赞|分享|在看|转发|收藏)[^。]{0,12}(?:吧|哦|哟|呀|[~～!！👇↓]|安排|支持|三连)",
    r"(?:觉得|喜欢|有用|不错|朋友)[^。]{0,14}(?:欢迎|记得|请|麻烦|别忘|就)[^。]{0,6}(?:点个?赞|点个在看|(?:分享|转发)(?:给|到|一下|出去))",
    r"^\W*[球点](?:分享|收藏|点赞|在看)\W*$|^\W*(?:\[#[^\]]+\]\(\)\s*)+$|点赞评论关注|给我?们?点赞|[一素][键质]三连|点个三连|点(?:个|一?下|击)?\W{0,3}[“\"「【]\W?(?:在看|赞|好看)",
    r"[“\"「【]\W?在看\W?[”\"」】]|在看\W{0,3}(?:点这里|吗|你最好看|点一下)|你最好看",
    r"(?:转发|分享)(?:给|到|至)\W{0,3}(?:朋友圈|更多|身边|需要|好友|微信)|分享[到至]\s?[：:]|^\W*分享到?\W*$",
    r"^\W*(?:阅读|看)(?:本文|文章|此文|全文|正文)(?:之?前)\W{0,4}(?:请|麻烦|记得|先|辛苦|诚邀)",
    r"^\W*(?:感谢|谢谢)(?:您的?|大家的?|你的?)?(?:阅读|观看|关注|支持)\W*$|欢迎在?(?:评论|留言)区",
    r"设(?:为|置为?|个)\W{0,4}星标|[加点]个?\W{0,3}星标|星标\W{0,2}置顶|添加星标|置顶\W{0,3}公众号|防止失联",
    # notices
    r"(?:如|若|倘|一[经旦律])[^。]{0,14}侵(?:权|犯)(?=\W*$|[^。]{0,16}(?:联|删|告知|通知|请(?!求)|必究|处理|立即|撤|我们|本站|小编|后台))|侵权?(?:请)?(?:立)?(?:即)?(?:删|联|告知)|版权(?:问题|异议)[^。]{0,10}(?:联系|告知|删)",
    r"(?:图片|图文|文章|素材|部分图|内容|配图|资料|音频|视频)(?:均|部分|主要|皆)?(?:来源|来自|源)于?(?:互联)?网络?"
    r"|图源\W{0,2}网|网络转载",
    r"版权(?:归|均归|均属|属于|所有)[^。]{0,20}(?:所有|作者|原|©|Copyright|$|[：:]|未经)|著作权归(?:原|本|作者(?:本人)?所有)|版权声明|版权与?免责",
    r"(?:转载|引用|摘编|刊用)\W{0,4}(?:请|须|需|务必|敬请)[^。]{0,6}(?:注明|标明|联系|保留|获得|授权)"
    r"|(?:欢迎|谢绝|禁止|严禁|如需|未经[^。]{0,20})转载|不得转载|(?:转载自|转自)[：:]?\W{0,3}(?:公众号|微信)",
    r"未经(?:本[^。]{0,6}|书面|许可|作者|允许)?(?:授权|许可|同意|允许)[^。]{0,8}(?:不得|禁止|严禁)[^。]{0,4}(?:转载|使用|复制)"
    r"|(?:本文|文章)(?:经授权|已获授权|由[^。]{1,14}编译)",
    r"^\W*(?:注[：:])?(?:本文|内容|文章|以上|本公众号|本号|本站|工具)?[^。，,]{0,12}仅(?:供|用于)[^。，,]{0,12}(?:学习|研究|交流)",
    r"^\W*(?:免责声明|版权声明|郑重声明|郑\s?重\s?声\s?明)\W*$|免责声明\s?[：:]"
    r"|^\W*(?:声明|特别声明)[：:][^。]{0,60}(?:侵|版权|转载|网络|作者)",
    r"All rights reserved|Copyright\s?(?:©|\(c\)|[12]\d{3})|©\s?(?:[12]\d{3}|Copyright|版权)|[\u4e00-\u9fff]ICP备"
    r"|公网安备|备案(?:号|序号|编号)[：:]",
    r"click here to|subscribe to our|sign up for our|^\W*(?:sign|log) in\b|terms of (?:service|use)|read more »"
    r"|privacy policy",
    # links and the end of a page
    r"(?:^|[\s【>《])(?:上一篇|下一篇)\s?[：:]|^\W*[上下]一[篇页]\W*$|上一页\W{0,3}(?:\d|下一页)|\d\s?下一页"
    r"|点击图片进入下一页",
    r"返回(?:顶部|首页|列表|上页|搜狐)|^\W*(?:打印本?页?|关闭窗口|加入收藏|设为首页|收藏本页|网站地图|联系我们|关于我们|友情链接|意见反馈)"
    r"(?:\W+(?:打印本?页?|关闭|关闭窗口|联系我们|关于我们|友情链接|网站地图|加入收藏|设为首页))*\W*$",
    r"字[体号]\s?[：:]?\s?[【\[（(]?\s?大\s?[】\]）)]?\W{0,3}中\W{0,3}小|(?:点击数|浏览次数|阅读次数|点击次数|浏览量|阅读量|人气)\s?[：:]\s?\d",
    r"友情链接(?!栏|功能|模块|交换)",
    r"^\W*(?:全文完|本文完)\W*$|^[-—–=～~·•*\s（(]{1,12}(?:完|End)[-—–=～~·•*\s）)]{1,12}$",
)
_HEADINGS = (
    r"往期(?:热门|精彩|相关|推荐|优质)?(?:回顾|推荐|精选|精彩|阅读|文章|热文|内容|好文|干货)?|(?:上期|精彩|往昔)回顾",
    r"精彩(?:推荐|文章|内容|阅读)|热门(?:文章|推荐|阅读|资讯)|猜你(?:还)?喜欢|大家[都还]?在看|历史文章|PAST\s*REVIEW\S*",
    r"近期(?:文章|热文|推荐|好文)|(?:发现|查?看)?更多(?:精彩|新闻|资讯|阅读|推荐|内容|文章|精彩推荐|精彩内容|精彩文章)",
    r"(?:推荐|相关|延伸|拓展|扩展|延展)(?:阅读|文章|推荐|新闻|资讯)|(?:推荐|好文|热文|图文)(?:文章|推荐)|为[您你]推荐|最新(?:文章|资讯)|阅读推荐",
)
_ROLES = (
    "责任编辑 责任编 责编 编辑 微信编辑 本期编辑 执行编辑 美术编辑 新媒体编辑 美编 审核 审校 校对 监制 总监制"
    " 编审 初审 复审 终审 一审 二审 三审 审签 签发 审定 审定发布 排版 供稿 供图 核稿 值班编辑 值班主任"
    " 值班总编 通讯员 图文 文图 撰稿 运营支持 投稿邮箱"
)
_OTHER_ROLES = (
    "作者 文字 图片 摄影 记者 文 图 视频 撰写 撰文 整理 编译 制作 制图 设计 主办 主办方 出品 策划 统筹 主编"
    " 总编辑 发布 配图 摄像 剪辑"
)
_SOURCES = "来源 图源 内容来源 文章来源 信息来源 稿件来源 本文来源 图文来源 原文来源 稿源"


def _any_of(names: str) -> str:
    r"""A pattern of names with blanks between their characters, longer names first: 编辑 -> 编\s*辑."""
    return "|".join(r"\s*".join(name) for name in sorted(names.split(), key=len, reverse=True))


_MARK = r"\s*[:：丨｜|/▏│]\s*"

_ANY_ROLE = _any_of(f"{_ROLES} {_OTHER_ROLES} {_SOURCES}")

CALL = re.compile("|".join(_CALLS), re.I)
"""A call to action, unless the line is a step, a question or a warning (`NOT_A_CALL`)."""
FURNITURE = re.compile("|".join(_FURNITURE), re.I)
"""Furniture wherever it is."""
ARTICLE = re.compile(r"第[一二三四五六七八九十百千零〇两\d]{1,7}[条條]|[（(][一二三四五六七八九十]{1,3}[)）]")
"""How an article or an item of a law or contract begins, which speaks of rights and permissions and cuts none."""
BLOCK_START = re.compile(
    r"\s*(?:BEGIN|[Bb]egin|IF|LOOP|CASE|WHILE|FOR|DO|DECLARE|CREATE|PROCEDURE|FUNCTION|[Ff]unction|PROGRAM|Sub)\b"
)
"""A line of code that an END closes."""
END_MARK = re.compile(r"^\W*(?:The\s+End|THE\s+END|E\s?N\s?D|End)\W*$")
CREDIT = re.compile(f"(?:{_any_of(_ROLES)}){_MARK}")
CREDITS = re.compile(rf"^\W*(?:(?:(?:{_ANY_ROLE})\s+)*(?:{_ANY_ROLE}){_MARK}[^。！？!?；;，,]{{0,30}}?\W*)+$")
"""A line of credits alone; one of them has to be a `CREDIT`, because a document has an author (作者：) too."""
SOURCE = re.compile(rf"^\W*@?(?:{_any_of(_SOURCES)}){_MARK}[^。！？!?；;，,]{{1,24}}$")
"""Where a page was taken from, if the line is at the beginning or end of the page."""
LINKS_HEADING = re.compile(rf"^\W*(?:{'|'.join(_HEADINGS)})\W*$", re.I)
"""A heading of links to other pages."""
LONG_NOTICE = re.compile(
    r"^\W*+(?:免责声明|版权声明|特别声明|郑重声明|转载声明|声明|由于传播|仅供|仅限|内容仅|注[：:]本文|请(?:读者)?自觉|请勿(?:利用|将)|本(?:文|站|网|平台|公众号)[^。]{0,30}(?:仅供|仅用于|转载|来源|系|不代表|所提供))"
    r".*(?:侵权|侵犯|版权|后果|责任|立场|非法|转载)"
)
"""A disclaimer, which may be longer than other furniture."""
POST_END = re.compile(
    r"\W*(?:(?:敬请|欢迎)(?:大家|各位|新老\w{2})?(?:持续|继续|前往|届时)?(?:关注|留意|期待|收看|收听|观看)"
    r"|(?:原文)?转发(?:原文)?评论|(?:图片?|视频)?(?:来自|源自?)网络"
    r"|(?:(?<=[。！？])|(?<=[。！？] ))详情[^。]{0,12}阅读原文)"
    r"\W*(?:标签\W*)?\Z"
)
"""Furniture at the end of a post that says something before it."""
POST_THAT_SELLS = re.compile(
    "微信|QQ|电话|热线|二维码|扫码|领取|免费(?!入场|开放|参观|观看)|报名|订购|订阅|团购|购买|咨询|优惠|折扣|加盟|招生|上市|官方微博|蓝字|上方|下方|声明|版权"
    r"|[¥￥]|\d\s?元|\d{3,4}-\d{7,8}|1[3-9]\d{9}"
)
"""What a post has before that end if it sells something, or is nothing but furniture."""
NOTICE_STARTS = frozenset("免版特郑转声由仅内注请本")
"""The characters with which such a notice begins."""
NOT_A_CALL = re.compile(
    r"^\W*(?:\d{1,2}\s?[.、)）．]|[（(]\d{1,2}[)）]|[①-⑳]|第[一二三四五六七八九十\d]+[步种]|步骤|首先|其次|然后|接着|方法|[A-Da-d][.、）])"
    r"|菜单|对话框|选项|设置|右上角的|弹出|界面|登录后|按钮|应用程序|浏览器|软件"
    r"|[？?]\W*$|吗\W*$|怎么|如何|怎样|为什么|是不是|可信|被骗|诈骗|骗子|谨防|切勿|警惕|据报道|记者了解"
)
"""Steps of instructions, questions and warnings."""

_BLANKS = " \t\u3000"
_WORDS = (
    "二维 序码 阳码 扫码 扫一 扫1 蓝字 蓝色 原文 题下 点击 点这 点此 点关 点订 点下 点上 戳这 戳此 戳关 戳订"
    " 戳下 戳上 戳文 戳链 戳图 戳海 戳卡 戳名 戳视 戳标 戳“ 戳” 戳【 戳「 戳《 戳[ 戳↓ 戳👇 请戳 情戳 猛戳"
    " 轻戳 关注 订阅 星标 加星 失联 后台 话框 众号 众账 论区 言区 回复 频号 小程 加微 加薇 加V 加v 加Q 加q"
    " 薇信 V信 v信 业微 方微 信公 信同 信扫 同微 星球 流群 热线 务合 告合 家合 牌合 求合 作微 投稿 爆料 报料"
    " 迎来 迎致 迎垂 迎咨 迎详 迎选 迎订 迎新 迎老 迎添 迎扫 迎长 迎加 迎在 迎评 迎留 迎转 迎投 敬请 时来 时致"
    " 时垂 时咨 时详 询电 询微 询Q 询邮 询热 名电 名热 服电 服微 服Q 盟电 购电 票电 后电 房电 商电 约电 稿电"
    " 料电 务电 费电 国电 时电 一电 名微 盟微 购微 约微 情咨 情请 程咨 买咨 约咨 息咨 惠咨 请咨 请致 请垂 即购"
    " 即报 即咨 即抢 即订 即下 即预 即领 即申 即加 即扫 即注 即体 一键 领取 试听 试学 解更 在看 红心 心心 点赞"
    " 个赞 藏转 转发 三连 享到 享至 享给 享、 享， 享/ 好看 读本 读文 读此 读全 读正 读前 读之 看文 看本"
    " 看此 看全 看正 谢阅 谢您 谢大 谢你 谢观 谢关 谢支 侵权 侵犯 侵删 侵联 侵请 侵立 侵即 侵告 版权 作权 于网"
    " 自网 自互 于互 源网 源互 图源 络转 转载 用请 用须 用需 编请 转自 未经 经授 编译 声明 P备 p备"
    " 网安 一篇 一页 返回 打印 闭窗 设为 置为 设个 入收 藏本 站地 系我 于我 情链 见反 字体 字号 击数 览次 览量"
    " 读次 读量 击次 人气 文完 往期 期回 昔回 彩回 彩推 彩文 彩内 彩阅 门文 门推 门阅 门资 猜你 家都 家还 家在"
    " 期文 期热 期推 期好 多精 多新 多资 多阅 多推 多内 多文 荐阅 荐文 荐新 荐资 关阅 关文 关推 关新 关资 伸阅"
    " 伸文 展阅 展文 文推 您推 你推 新文 新资 本文 本站 本网 本平 本公 友群 习群 丝群 者群 论群 料群 研群 考群"
    " 长群 利群 区群 术群 职群 信群 Q群 q群 进群 入群 加群 Q： q： Q: q: X： x： X: x: D： D: d： d: Q｜ 信："
    " 信: 信｜ 信丨 号： 号: 号｜ 号丨 完— 完- 完） 完) 识星 至星 到星 好友 费试 时福 时优 时折 时特 时秒 再等"
    " 不退 不接 概不 原价 仅需 球分 球点 球在 点分 点收 点点 [# 务热 仅供 仅用 仅限 读推 请自 请读 请勿 享一"
    " 享出 案号 案序 案编 告投 目下 史文 于传 加客 加老 加助 加管 加班 加小 加顾 加红 加店 加运 加公 加我 加好"
)
_ENGLISH = "rv RV yr YR PY ck bs n_u n_i g_i ms _» va AS En ND N_"


def _list_pairs() -> Iterator[str]:
    """The pairs of characters of which one is in every line that a pattern matches."""
    yield from _WORDS.split()
    yield from (pair.replace("_", " ")[:2] for pair in _ENGLISH.split())
    for name in (*_ROLES.split(), *_SOURCES.split()):
        yield from (name[-1] + mark for mark in ":：丨｜|/▏│" + _BLANKS)
    yield from ("©" + second for second in " 12CcV版")
    yield from (first + second for first in "-—–=～~·•* （(" for second in "完Ee")


_LONGER = {
    **dict.fromkeys(("rv", "RV"), "(?<=rese)rved"),
    **dict.fromkeys(("yr", "YR"), "(?<=cop)yright"),
    "PY": "(?<=co)pyright",
    "ck": "(?<=cli)ck here to",
    "bs": "(?<=su)bscribe to our",
    "n ": "(?<=sig)n (?:up for|in)",
    "g ": "(?<=lo)g in",
    "ms": "(?<=ter)ms of (?:service|use)",
    "va": "(?<=pri)vacy policy",
    "AS": "(?<=p)ast",
    "En": r"End[^\w\n]*$",
    "ND": r"(?<=[e\s*`])nd[^\w\n]*$",
    "N ": r"(?<=[e\s*`])n d[^\w\n]*$",
    **dict.fromkeys((mark + letter for mark in "-—–=～~·•* （(" for letter in "Ee"), r".end[^\w\n]*$"),
    **dict.fromkeys(
        (name[-1] + blank for name in (*_ROLES.split(), *_SOURCES.split()) for blank in _BLANKS),
        r".[\s*`\u200b]+(?:\w[\s*`\u200b]*)?[:：丨｜|/▏│]",
    ),
    "[#": r"\[#[^\]]+\]\(\)",
    "返回": "返回[顶首列上搜]",
    "设为": r"设为(?:首页|\W{0,8}星标)",
    "置为": r"置为\W{0,8}星标",
}
"""What follows, and where it begins what comes before, if a line with one of these pairs is to match a pattern for its
sake. They are frequent in other lines: 85 % of those with a pair in manuals and program text have no other.
"""
_PAIRS = frozenset(_list_pairs())
_FILTER = BigramFilter(_PAIRS)
_CONFIRM = {pair: compile_on_use(_LONGER[pair], re.I | re.M) if pair in _LONGER else None for pair in _PAIRS}


def find_cues(lines: str) -> list[int]:
    """Find what is in every line that a pattern matches.

    Args:
        lines: Lines, each with a line end.

    Returns:
        Positions of such pairs of characters, in order.
    """
    return [
        start
        for start in _FILTER.find(lines).tolist()
        if (pair := lines[start : start + 2]) in _CONFIRM
        and ((confirm := _CONFIRM[pair]) is None or confirm.match(lines, start))
    ]
