"""Phrases and forms of advertorials: pages on which companies and clinics describe themselves.

`COMPANY_VOICE` is what only a company says of itself, `TRADE_WORDS` what is also said of it, `PRODUCT_CLAIMS` what is
said of goods. `REPORTING` are words of news, schools, offices, shareholders and buyers, whose texts praise or blame in
the same words.
"""

from __future__ import annotations

import re

from hanlin.data.text.prefilter import BigramFilter


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPANY_VOICE = _words(
    """
    专业生产 专业制造 专业致力于 力量雄厚 实力雄厚 质量第一 品质第一 客户至上 用户至上 顾客至上 服务至上
    信誉至上 信誉第一 诚信为本 诚信经营 客户为中心 客户为本 用户为中心 为客户提供 为广大客户 为用户提供 为您提供
    经营理念 服务理念 企业理念 企业宗旨 服务宗旨 经营宗旨 我公司 我司 本公司 我们公司 公司主营 公司承接 公司承诺
    公司秉承 公司秉持 公司本着 产品远销 畅销全国 远销海外 远销国内外 远销全国 销往全国 深受广大 深受用户
    深受客户 深受顾客 深受消费者 深受国内外 广大客户 广大用户 客户一致好评 用户一致好评 用户的好评 客户的好评
    新老客户 新老顾客 新老用户 国内外客户 客户的信赖 客户信赖 用户信赖 您的信赖 值得信赖 客户的认可 客户满意
    客户的满意 竭诚 优质的服务 完善的售后 贴心服务 整体解决方案 全套解决方案 量身定制 量身定做 完善的服务
    品质保证 欢迎广大 我们的产品 我们的服务 我们专业 我们致力 我们承诺 生产厂家 厂家直 实力厂家 专业厂家
    厂家生产 来样 规格齐全 品种齐全 价格优惠 有限公司专业 定能满足 一对一咨询 为你整理 为您整理 您的首选
    您的最佳选择 您的理想选择 您的不二 理想选择 详情请致电 详情请咨询 免费上门 承揽 项目经验 成功案例 一条龙
    全程服务 服务周到 周到的服务 放心的 本厂 我厂 本店 我店 敝司 我们的客户 我们的团队 我们的专业 选择我们
    与我们合作 欢迎前来 欢迎光临 欢迎各界 欢迎来我 前来洽谈 前来考察 参观指导 光临指导 莅临指导 业务洽谈
    您的支持 为您解决 您身边的 公司实力 公司奉行 公司坚持
    """
)
TRADE_WORDS = _words(
    """
    供应商 制造商 生产商 经销商 售后服务 主营业务 业务范围 服务范围 服务项目 高品质 精湛的 尖端 根据用户
    用户提供 为企业提供 一家专业 现货 承接 技术团队 检测设备 检测手段 生产设备 性价比 专注于 高新技术企业
    先进的设备 先进的生产 自主研发的 最先进的 专业团队 专业的团队 经验丰富的 丰富的经验 质量体系认证
    质量管理体系 ISO9001 ISO14001 佼佼者 领军企业 国内领先 行业领先 遥遥领先 一站式 求发展 求生存 用户需求
    研发生产 生产销售 设计生产 研发、生产 生产、销售 一直致力 价格实惠 价格合理 优质服务 优质高效 双赢 合作共赢
    互利共赢 销售于一体 设计施工 上门服务 保修 自成立以来 量身打造 客户提供 新的辉煌 再创辉煌 满足客户 满足用户
    根据客户 针对客户 客户需求 客户的需求 客户的不同 公司以 公司所 公司将 公司拥有 公司具有 公司位于 公司坐落
    公司主要从事 公司主要生产 公司现有 公司是一家 有限公司是 有限公司成立 有限公司位于 有限公司坐落 是一家集
    公司可 公司长期 公司产品 公司主要产品 公司自成立 公司专注 公司致力 主要产品有 致力于打造 是集研发 集研发
    集科研 集设计 集生产 集产品 我们拥有 主营产品 专业提供 专业从事 公司凭借 公司始终 公司严格 公司全体 咨询我们
    欢迎您 我们提供 为您服务 自主知识产权 国家专利 优质的产品
    """
)
PRODUCT_CLAIMS = _words(
    """
    广泛应用于 广泛用于 广泛适用 可广泛 性能稳定 性能可靠 性能优良 性能优异 性能优越 稳定可靠 安全可靠 质量可靠
    质量稳定 质量优良 操作简单 操作方便 操作简便 使用方便 使用寿命长 经久耐用 坚固耐用 牢固耐用 结构紧凑
    结构简单 结构合理 设计合理 设计新颖 外形美观 外观美观 美观大方 美观耐用 造型美观 安装方便 安装简便 安装简单
    维护方便 维修方便 易于维护 易维护 节能环保 绿色环保 高效节能 节约能源 耐腐蚀 耐磨 耐高温 耐酸 耐候 抗老化
    防腐 自动化程度高 精度高 效率高 噪音小 噪音低 低噪音 能耗低 能耗小 成本低 降低成本 占地面积小 占地小
    运行平稳 运转平稳 故障率低 低故障 重量轻 强度高 硬度高 易清洗 采用优质 采用进口 采用先进 采用国际 采用国内
    引进德国 引进国外 国际先进 技术参数 产品介绍 产品特点 产品优势 产品用途 主要特点 性能特点 本产品 该产品
    系列产品 先进的技术 先进技术 核心技术 专利技术 有效解决 有效降低 有效提高 大大提高 大大降低 提高工作效率
    提高生产效率 维护成本 使用成本 运行成本 满足不同 本设备 该设备 理想的 理想材料 卓越 优异 独特的 应用范围广
    适用范围 价廉物美 物美价廉 更换方便 省时省力
    """
)
GOODS_WORDS = _words(
    """
    客户 用户 厂家 型号 规格 不锈钢 本机 该机 设备 产品 优质 优点 优势 先进 原材料 施工 材质 机型 定制 交货 售后
    保修 质保 技术支持
    """
)
"""Words of the trade, which count only beside others."""
REPORTING = re.compile(
    "记者|报道|本报|新华社|据悉|学院|学校|大学|教授|同学|党委|书记|政府|委员会|法院|条例|通知|电影|小说"
    "|比赛|球队|我买|投诉|董事会|亿元|同比|投资者|股东|公告|论文|我觉得|网友|停水|停电|管网|排行榜|十大品牌|谅解|居民|[网报日]讯"
)

CLINIC_DISEASES = _words(
    """
    白癜风 白斑 银屑病 牛皮癣 癫痫 尖锐湿疣 生殖器疱疹 梅毒 淋病 湿疹 荨麻疹 痤疮 灰指甲 腋臭 狐臭 痔疮 肛裂
    肛瘘 早泄 阳痿 前列腺炎 包皮 不孕 不育 人流 宫颈糜烂 宫颈炎 阴道炎 盆腔炎 附件炎 卵巢囊肿 输卵管 鼻炎 鼻窦炎
    鼻息肉 咽炎 中耳炎 耳鸣 脱发 斑秃 胃炎 结肠炎 肝硬化 乙肝 强直性脊柱炎 股骨头坏死 颈椎病 腰椎间盘突出 类风湿
    风湿病 痛风 抑郁症 精神分裂症 尿毒症 肾虚 肾病 肾炎 子宫肌瘤 乳腺增生 月经不调 尿路感染 尿道炎 膀胱炎 妇科病
    斜视 弱视 打鼾 口臭 牙周炎 种植牙 隆鼻 双眼皮 吸脂 植发 祛斑 祛痘 色斑 腱鞘炎 滑膜炎 骨质增生 坐骨神经痛
    偏头痛 面瘫 三叉神经痛 羊癫疯 便秘 肠炎 脂肪肝 胆结石 甲状腺 失眠 帕金森 脑瘫 自闭症 多动症 抽动症 白内障
    甲亢 糖尿病 鱼鳞病 红斑狼疮 静脉曲张 皮炎 疤痕 血管瘤 胎记
    """
)
"""Diseases of which clinics have pages written to be found by search engines."""
CLINIC_SIGNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:医院|专科|医生|专家|研究[所院]|门诊|诊所|皮肤病)[^。，！？!?\n]{0,16}"
        r"(?:提示|提醒|介绍|解答|祝愿|祝福|讲解|表示|指出|告诉|分析)",
        r"正规[^。！？!?\n]{0,8}(?:医院|专科|治疗|机构)"
        r"|[去到往][^。，！？!?\n]{0,8}专[业科][^。，！？!?\n]{0,8}(?:医院|治疗|就诊)|及[早时][^。！？!?\n]{0,6}(?:治疗|就医|就诊)",
        r"希望[^。！？!?\n]{0,24}(?:帮助|帮到|患者|大家|治疗|康复|重视)|祝愿?[^。！？!?\n]{0,16}(?:康复|健康)",
        r"(?:下面|一起)[^。！？!?\n]{0,30}(?:介绍|看看|了解|解答|讲解)|那么[，,]"
        r"|以上(?:就?是|内容)[^。！？!?\n]{0,40}(?:介绍|内容|讲解|解答)",
        r"哪[家个里][^。！？!?\n]{0,8}(?:医院|好)|医院[^。！？!?\n]{0,8}(?:哪[家个]|怎么样|好不好)",
    )
)
"""What such pages say beside the disease; each counts once."""

FRANCHISE = "加盟"
FRANCHISE_SIGNS = _words(
    "总部 创业 投资 开店 利润 选址 市场前景 赚钱 扶持 加盟商 加盟店 加盟费 品牌 商机 致富 回本 投入 小本 项目"
)
"""What pages that look for shopkeepers say beside it."""

_KINDS = (
    ("voice", COMPANY_VOICE),
    ("trade", TRADE_WORDS),
    ("claim", PRODUCT_CLAIMS),
    ("goods", GOODS_WORDS),
    ("disease", CLINIC_DISEASES),
    ("franchise", frozenset({FRANCHISE})),
)
_PHRASES: dict[str, list[tuple[str, str]]] = {}
for _kind, _phrase in sorted(
    ((kind, phrase) for kind, phrases in _KINDS for phrase in phrases), key=lambda item: (-len(item[1]), item)
):
    _PHRASES.setdefault(_phrase[:2], []).append((_phrase, _kind))
_PAIRS = BigramFilter(_PHRASES)


def find_advertorial_phrases(text: str) -> dict[str, list[str]]:
    """Find the phrases of this module in a text, longest first where they overlap.

    Args:
        text: The text.

    Returns:
        The phrases in order by kind: `voice`, `claim`, `goods`, `trade`, `disease` and `franchise`.
    """
    found: dict[str, list[str]] = {}
    end = 0
    for start in _PAIRS.find(text).tolist():
        if start >= end:
            for phrase, kind in _PHRASES.get(text[start : start + 2], ()):
                if text.startswith(phrase, start):
                    found.setdefault(kind, []).append(phrase)
                    end = start + len(phrase)
                    break
    return found
