"""Words of pages that are written to sell, by kind, and words of other pages, which praise or blame in the same words.

`COMPANY_VOICE` is what only a company says of itself, `TRADE_WORDS` what is also said of it, `PRODUCT_CLAIMS` what is
said of goods. The kinds of `OTHER_KINDS` say little alone; `hanlin.data.text.advertorial_model` weighs all of them.
"""

from __future__ import annotations

from hanlin.data.text.prefilter import BigramFilter, PairWeights


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
"""Words of the trade, which say little alone."""
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
OTHER_KINDS = {
    "company": (
        "公司 企业 集团 有限公司 有限责任公司 股份公司 厂家 厂商 门店 分公司 子公司 总公司 工厂 本厂 商家 旗下 总部"
    ),
    "profile": (
        "成立于 创建于 始建于 创办于 创立于 组建于 注册资本 注册资金 坐落 座落 占地面积 建筑面积 固定资产 职工"
        " 年产 厂房 生产线 生产基地 高新技术 法人代表 经营范围 主营 前身 子公司 公司地址 年销售额 自动化生产 员工"
        " 总投资 工业园 开发区"
    ),
    "honor": (
        "荣获 称号 认证 专利 十佳 名牌 知名品牌 著名商标 知识产权 通过了 优秀企业 信用等级 重合同 龙头企业 领军"
        " 先进单位 示范企业 先进企业 诚信企业 一等奖 十大品牌 奖项 荣誉"
    ),
    "buying": (
        "价格 批发 采购 选购 报价 供应 多少钱 现货 定做 型号 规格 购买 订购 咨询 电话 热线 官网 客服 热销 优惠"
        " 预订 下单 免费 价位 性价比 售价 门市 商城 样品 付款 发货 送货 包装"
    ),
    "heading": (
        "产品特点 技术参数 产品介绍 产品说明 性能特点 主要特点 使用范围 适用范围 产品概述 产品用途 产品优势"
        " 产品描述 产品名称 产品简介 产品型号 应用范围 应用领域 概要描述 详细介绍 产品详情 产品参数 企业简介"
        " 公司简介 公司介绍 产品分类 产品性能 主要用途 功能特点 结构特点 技术特点 品牌介绍 项目介绍 适用于"
        " 广泛应用 广泛用于 注意事项 工作原理"
    ),
    "quality": (
        "耐腐 耐磨 寿命 稳定 可靠 高效 节能 环保 精度 强度 美观 防水 防火 防腐 保温 隔热 性能 优良 优质 方便 灵活"
        " 紧凑 效率 成本 质量 品质 安全性 耐用 坚固 轻便 重量轻 噪音 抗压 耐高温 耐热 绝缘 密封 光滑 舒适 时尚"
        " 高端 精密 精湛 纯天然 保养 维护"
    ),
    "industry": (
        "产品 安装 加工 制造 生产 销售 研发 设计 材料 材质 机械 系统 工程 钢管 管道 板材 机床 机器 涂料 塑料 仪器"
        " 检测仪 传感器 电机 阀门 水泵 轴承 模具 焊接 切割 喷涂 原料 物料 混凝土 不锈钢 聚氨酯 铸铁 化工 建材 装修"
        " 家具 包装机 破碎机 切割机 激光 变压器 电缆 树脂 橡胶 玻璃 地板 门窗 锅炉 空压机 过滤 输送 型材 配件"
        " 零部件 工业 行业 市场"
    ),
    "editor": (
        "小编 带大家 大家介绍 一起来看看 一起来了解 一起了解 希望对大家 以上就是 以上是 分享就 为大家 接下来"
        " 下面就 编辑者 大家了解 帮助到大家 供大家参考 想必大家 相信大家 大家都知道 希望可以 欢迎关注 敬请关注"
        " 来源于网络 如果有任何 更多信息"
    ),
    "clinic": (
        "医院 专科 专家 患者 正规 治疗 就医 就诊 医生 诊治 祝愿 康复 提醒 病情 危害 怎么办 哪家好 哪家医院"
        " 注意什么 早日 专科医院 皮肤病 研究所"
    ),
    "finance": (
        "亿元 同比 投资者 股东 公告 股份 股价 证券 基金 涨幅 跌幅 董事会 上市 净利润 营收 央行 利率 汇率 指数"
        " 板块 市值 季度"
    ),
    "speech": "表示 认为 指出 介绍说 告诉 记得 知道 看见 听到 回答 问道 说道 强调 据了解 透露",
    "science": (
        "研究 实验 理论 分子 细胞 基因 蛋白 化学式 元素 原子 定义 函数 算法 数据 代码 变量 模型 方法 公式 概念"
        " 统计 样本 分析 物种 植物 动物 分布 海拔 气候 温度 化合物 溶液 反应"
    ),
    "office": (
        "招标 投标 公告 各有关单位 有关部门 主管部门 监督管理局 招聘 应聘 岗位职责 任职要求 任职资格 薪资 五险"
        " 学历 招聘会 简历 面试 申报 评审 本院 我院 我校 我市 我县 我区 本科 专业技术 证书 报考 敬请谅解 带来不便"
        " 管理办法 行政审批 政务 税务 月薪 包食宿 包吃住 底薪"
    ),
    "question": (
        "百度知道 百度经验 有问必答 快速问医生 健康咨询描述 指导意见 病情分析 贴吧 楼主 采纳 答案 题主 谢邀 知乎"
        " 网友评论 提问时间 建议你 请问 怎么样啊 求助 回答 推荐答案 相关问题 知识人 回复 想问"
    ),
    "betting": (
        "欧洲杯 世界杯 官网 app APP 首页 体育 买球 竞猜 下注 投注 棋牌 彩票 网赌 博彩 娱乐 平台 观看 高清"
        " 在线观看 资源 影院 备案号 收录 域名 浏览 网址 登录 下载"
    ),
}
"""Words of further kinds, in which pages that sell differ from others."""

KINDS: dict[str, frozenset[str]] = {
    "voice": COMPANY_VOICE,
    "trade": TRADE_WORDS,
    "claim": PRODUCT_CLAIMS,
    "goods": GOODS_WORDS,
    "disease": CLINIC_DISEASES,
    **{name: _words(text) for name, text in OTHER_KINDS.items()},
}
"""All kinds; a word of several belongs to the first."""

_WORDS: dict[str, list[tuple[str, str]]] = {}
for _kind, _phrases in reversed(KINDS.items()):
    for _phrase in _phrases:
        _WORDS.setdefault(_phrase[:2], []).append((_phrase, _kind))
for _candidates in _WORDS.values():
    _by_word = dict(_candidates)
    _candidates[:] = sorted(_by_word.items(), key=lambda item: (-len(item[0]), item[0]))
_PAIRS = BigramFilter(_WORDS)
_OTHER_PAGES = frozenset({"finance", "speech", "science", "office", "question"})
"""Kinds of words that pages which sell have less often than others."""
_DENSITY_PAIRS = PairWeights(
    {
        **{word[:2]: -7 for kind in _OTHER_PAGES for word in KINDS[kind]},
        **{word[:2]: 10 for kind, words in KINDS.items() if kind not in _OTHER_PAGES for word in words},
    }
)
_MIN_CHARS_OF_DENSITY = 300


def estimate_density(text: str) -> float:
    """Estimate how much of a text may be words of pages that sell, at a sixth of the cost of finding them.

    Args:
        text: The text.

    Returns:
        Beginnings of such words in 1,000 characters, less 0.7 of those of other pages' words.
    """
    return 100 * _DENSITY_PAIRS.sum(text) / max(len(text), _MIN_CHARS_OF_DENSITY)


def find_advertorial_phrases(text: str) -> dict[str, list[str]]:
    """Find the words of this module in a text, longest first where they overlap.

    Args:
        text: The text.

    Returns:
        The words in order, by kind (`KINDS`).
    """
    found: dict[str, list[str]] = {}
    end = 0
    words_of, starts_with = _WORDS.get, text.startswith
    for start in _PAIRS.find(text).tolist():
        if start >= end:
            for word, kind in words_of(text[start : start + 2], ()):
                if len(word) == 2 or starts_with(word, start):
                    if kind in found:
                        found[kind].append(word)
                    else:
                        found[kind] = [word]
                    end = start + len(word)
                    break
    return found
