"""The rule `refusals`: answers that decline and give nothing else.

A refusal has two marks: one of its first sentences declines (抱歉，我无法提供…; As an AI language model, I cannot …),
and nothing but excuses, warnings and offers of other help follows. An answer that begins with a disclaimer and then
does what was asked is no refusal, and neither is one that asks for material which the question lacks.
"""

from __future__ import annotations

import re

from hanlin.core.records import Message
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

Turns = tuple[Message, ...]

_SIMPLIFY = str.maketrans(
    "無為個種語們對這樣沒時實現問題請當於從過說話訊資網際動機會參與評論預測權關經驗歡體裡應該違規進續給條縱複讀寫畫圖書聽觀點產難顧幫協務確認斷執編製號碼據詢議專業醫師遺發送簡單處決採購訂買賣價錢財還開總結學習記憶愛歷擁樂尋獲讓僅別錯誤麼嗎計劃數滿險傷惡虛擬換變轉麻煩查約裝設備選擇覺",
    "无为个种语们对这样没时实现问题请当于从过说话讯资网际动机会参与评论预测权关经验欢体里应该违规进续给条纵复读写画图书听观点产难顾帮协务确认断执编制号码据询议专业医师遗发送简单处决采购订买卖价钱财还开总结学习记忆爱历拥乐寻获让仅别错误么吗计划数满险伤恶虚拟换变转麻烦查约装设备选择觉",
) | {ord("’"): "'"}  # fmt: skip
_MAX_CHARS = 1_500
_HEAD_CHARS = 160


def _any_of(text: str) -> str:
    """A pattern of the alternatives that a text lists between white space; `_` is a blank in one."""
    return "(?:" + "|".join(text.split()).replace("_", " ") + ")"


_AS_AI = (
    r"(?:我?(?:只是|仅仅是|是|身为|作为|做为)[^，,。！!？?\n]{0,16}?"
    r"(?:人工智能|AI|A\.I\.|语言模型|机器人?|聊天|程序|模型|智能|虚拟|助手|助理)[^，,。\n]{0,14})"
)
_DECLINES = _any_of(
    r"""
    无法 不能够? 没有?办法 没法 不可以 不会(?=[为给帮提支协参做生])
    不(?:应该?|便|方便|适合|愿意?|想)(?=[提回讨评参协给做]) 拒绝 难以(?=提供|回答|给出)
    (?:并?不|没有?)(?:具备|拥有|具有)?[^，。,\n]{0,14}(?:能力|功能|权限|途径) 帮不了 不支持 做不到 回答不了 不提供
    """
)
_DOES_NOT_KNOW = _any_of("不知道 不清楚 不了解 是?不(?:合适|恰当|道德|可取|被?允许|合法)的?")
_HAS_NO = (
    r"(?:并?没有|并?不(?:具备|具有|拥有|会有|存在)|无(?!法))[^，。,\n]{0,10}"
    + _any_of(
        """
        情感 感情 感觉 感受 情绪 意见 观点 看法 立场 喜好 偏好 爱好 兴趣 口味 经历 经验 体验 信仰 意识 身体 实体 形体
        记忆 家人? 生活 个性 性别 年龄 信息 数据 资讯 记录 资料
        """
    )
)  # fmt: skip
_OBJECT = _any_of(
    """
    提供 回答 答复 帮 为[您你] 给[您你出予] 执行 生成 创建 创作 编写 撰写 写 画 绘制 访问 查询 查看 查找 查到 预[订定]
    订购? 播放 满足 完成 协助 支持 参与 讨论 谈论 评论 评价 评判 推荐 预测 判断 确定 理解 处理 检查 检测 分析 获取
    获得 得知 知道 看到 听 设置 发[送布表] 打开 浏览 翻译 告[诉知] 透露 分享 描述 表达 体验 感受 做出? 进行 识别 制作
    展示 显示 教 购买 点[外餐] 叫 安排 联系 下载 上传 连接 连网 联网 实时 直接 遵[从守循] 接受 响应 参加 拥有 产生
    解决 解答 继续 按照 准确 具体 像人 真正 现在 向[您你] 对[这此该] 就[这此该] 复制 读取 计算 验证 核实 评估 保证
    确认 提出 介绍 列出 找到 使用 操作 控制 下达 模拟 扮演 选择 比较 更新 修改 保存 记[住录] 回忆
    """
)  # fmt: skip
_SORRY = (
    r"(?:我?们?(?:很|非常|十分|真的?|感到|深感|真是|表示|也)*(?:抱歉|对不起|不好意思|遗憾|道歉|歉意)[，,。！!…\s]*)"
)
_OPENER_ZH = compile_on_use(
    r"[“\"'\s*#>]*(?:(?:您好|你好|嗯|哦|这|额|呃)[，,。！!～~]?\s*|[^。！!？?\n]{2,16}[。！!])?(?:"
    rf"{_SORRY}(?:但是?|可是|不过|因为|由于)?[^。！？!?\n]{{0,60}}?"
    rf"(?:{_DECLINES}(?:[^，。,\n]{{0,8}}{_OBJECT}|[^，。,\n]{{0,3}}[，。,])|{_DOES_NOT_KNOW})"
    rf"|{_AS_AI}[，,]\s*[^。！？!?\n]{{0,30}}?(?:{_DECLINES}|{_HAS_NO})"
    r"|(?:我|本(?:模型|助手|AI)|这个模型|(?:AI|人工智能|语言模型|机器人|智能助手)(?:助手|模型|程序)?)"
    rf"(?:目前|暂时|现在|并|还|恐怕|实在|也|都|真的)*{_DECLINES}[^，。,\n]{{0,6}}"
    r"(?:提供|回答|帮[您你助]|为[您你]|满足|协助|执行|支持|讨论|给出|生成|参与|访问|完成)"
    r"|(?:无法|不能|拒绝)(?:回答|提供|满足|完成|执行)"
    r")",
    re.I,
)
_CANNOT = (
    r"(?:cannot|can'?t|can not|(?:not|un)(?: currently)? ?able|unable|won'?t|will not|couldn'?t|could not"
    r"|(?:not|n't) (?:comfortable|programmed|allowed|permitted|capable|authorized|designed|appropriate)"
    r"|(?:do|does)(?: not|n'?t)(?: currently| actually)? (?:have|possess|support|provide|feel|know))"
)
_OPENER_EN = compile_on_use(
    r"[“\"'\s*#>]*(?:(?:hi|hello|hey|well|oh|hmm|thank you[^.!]*)[,.!]?\s+)?(?:"
    r"(?:(?:I'?m|I am)?\s*(?:very |so |really |truly |deeply |terribly )?(?:sorry|afraid)|I (?:do )?apologi[sz]e"
    rf"|(?:my )?apologies|unfortunately|regrettably)[^.!?\n]{{0,80}}?(?:{_CANNOT}|must decline|not something I can)"
    r"|(?:as|I(?:'m| am)(?: just| only)?) an? [^.,!?\n]{0,40}?"
    rf"(?:AI|artificial|language model|assistant|chat ?bot|machine|computer program|virtual)[^.!?\n]{{0,60}}?{_CANNOT}"
    r"|I (?:cannot|can'?t|can not|won'?t|will not|must decline to|(?:am|'m) (?:not able|unable) to|refuse to)\s+"
    + _any_of(
        """
        fulfil\\w* assist help provide comply answer create generate write engage support satisfy complete respond
        do_that participate give share discuss offer recommend access browse predict produce perform make promote
        endorse suggest
        """
    )
    + r"|it (?:is|would be) (?:not |in)appropriate)",
    re.I,
)  # fmt: skip

_LACKS_MATERIAL_ZH = compile_on_use(
    r"(?:没有?|未能?|并未|尚未|缺[少乏])[^，。,\n]{0,8}"
    r"(?:提供|给出|说明|附上|上传|指定|指明|给我|提到|输入|包含|收到|看到|找到|显示)(?!的?(?:功能|能力|服务))"
    r"|缺[少乏][^，。,\n]{0,10}(?:信息|上下文|内容|背景|数据|输入|材料)"
    r"|(?:请|麻烦)[您你]?(?:先|再)?(?:提供|给出|补充|输入|上传|发送|告诉我|明确|澄清|重新)"
    r"|[您你](?:的|所提)?(?:问题|输入|请求|描述)[^，。,\n]{0,6}不(?:够|明确|完整|清楚|清晰|太)"
    r"|如果[您你](?:能够?|可以)?(?:提供|给出|告诉)|(?:是|指|指的是|想要?)哪[个种些]|信息不足|(?:提供|给出|给定|已有|所给)的?(?:信息|材料|文本|文章|资料|数据|知识库)中|没有关于[^。\n]{0,30}的信息|(?:不理解|明白|理解)[您你]|[您你]的意思"
)
_LACKS_MATERIAL_EN = compile_on_use(
    _any_of(
        r"""
        sorry_(?:to_hear|for_(?:the|any|my)|about|you|that_you|if|i'?m_late|i_missed) (?:come|attend|join|make_it)_
        you_(?:did_not|didn'?t|have_not|haven'?t) (?:not|n'?t)_(?:provided|given|specified) clarify
        (?:provide|share|give)(?:_me)?(?:_with)?_(?:the|more|your|some|additional|a)_
        without_(?:more|further|any|additional|the)
        (?:more|additional|enough|further|necessary)_(?:information|context|details)
        which_\w+_(?:you|are) (?:not|n'?t)_(?:see|find)_(?:any|the|a)_
        """
    ),
    re.I,
)
_PIECES = compile_on_use(
    r"[。！？!?；;\n]+|(?<=[a-z\")])\. +|[,，]?\s*(?=但是?|不过|然而|可是)|[:：]|\b(?=however\b|but I can\b)", re.I
)
_FILLER_ZH = compile_on_use(
    _any_of(
        r"""
        抱歉 对不起 歉意 遗憾 谅解 理解 无法 不能 不会 不可以? 没有 没办法 不具备 不支持 拒绝 作为 只能 只是 仅仅?是?
        我(?:是|的(?:职责|目的|任务|功能|能力|目标|回答|主要|设计|知识|训练|存在|工作|程序)) 建议 请[您你]? 如有
        (?:如果|假如|若)(?:[您你需有想要]|还) [您你]可以
        可以(?:通过|访问|咨询|查|使用|参考|尝试|帮|为|给|协助|提供|回答|告诉|向) 能够?(?:帮|为|给|提供|回答|协助)
        尽(?:力|量|我) 乐意 很高兴 希望 期待 谢谢 感谢 祝 有什么 有其他 还有 是否
        需要(?:我|帮|注意|指出|强调|明确|提醒|更|进一步|您|你|其他|什么) 随时 因为 由于 因此 所以
        这(?:是|可能|需要|取决|超出|涉及|属于|类|种|样|违|不) 每个人 取决于 应该? 必须 务必 重要的是 我们 专业 医生
        律师 官方 咨询 查询 查阅 搜索 联系 寻求 求助 能力 功能 算法 程序 训练 模型 数据 实时 联网 互联网 帮助 服务
        问题
        """
    )
)  # fmt: skip
_LECTURE_ZH = compile_on_use(
    _any_of(
        """
        违法 非法 违反 犯罪 违规 法律 法规 道德 伦理 价值观 不当 危险 有害 危害 伤害 损害 侵犯 尊重 隐私 歧视 偏见
        仇恨 暴力 色情 恐怖 安全 健康的 合法 责任 遵守 准则 规定 政策 敏感 不良 负面 中立 客观 立场
        """
    )
)  # fmt: skip
_FILLER_EN = compile_on_use(
    _any_of(
        r"""
        sorry apolog cannot can'?t can_not unable not_able won'?t will_not do(?:es)?(?:_not|n'?t) as_an I(?:'m|_am)
        only just not_(?:appropriate|comfortable|capable|allowed|programmed|designed) please if_you let_me_know
        feel_free anything_else
        my_(?:purpose|training|programming|role|goal|primary|knowledge|capabilit|function|main|responses) is_there
        would_you could_you can_I how_(?:can|may)_I consult professional recommend suggest advise advice
        you_(?:can|may|could|should|might) help assist instead happy_to glad_to important encourage remember should
        must understand thank hope provide question information real-time access internet because since therefore
        designed trained it(?:'s|_is)_(?:not|best|always) this_(?:is|would|could|type|kind) it_would
        """
    ),
    re.I,
)  # fmt: skip
_LECTURE_EN = compile_on_use(
    _any_of(
        """
        illegal ethic moral harm danger violat inappropriate offensive respect privacy discriminat hate stereotyp
        violen against \\blaw safe responsib guideline polic promot
        """
    ),
    re.I,
)  # fmt: skip
_GIVES_EXAMPLES = compile_on_use(
    r"(?:根据|据)(?!您|你|我)[^，。\n]{2,20}(?:数据|研究|统计|调查|规定|资料|记载|报道)[^。\n]*[，,]"
    r"|according to (?!your)|the (?:current|answer) (?:date|time|is)|尚?未确定|还没有确定|只能[^我您你]{2,12}不能|"
    r"《[^》]*[^》法例定则約约]》|(?:比如|例如|譬如)(?!，?我)[^。\n]*、[^。\n]*、|(?:可以|能够?)(?:推荐|介绍|列举)[^。\n]*[：:]"
)
_LIST_ITEM = compile_on_use(r"^[ \t]*(?:\d+[.、)）]|[-*•·]|[一二三四五六七八九十]+、|[A-Z][.)])", re.M)
_ASKS_ABOUT_ITSELF = compile_on_use(
    r"[^\n]{0,40}(?:[你您](?!的|知道|是否知道|有没有办法|[能可]?(?:以|否|能|不能)?(?:帮|给|为|替|教|查|告诉|写|画|订|预|提供|推荐|介绍))[^\n]{0,24}[吗嗎？?]"
    r"|what (?:are you thinking|should i call you)|who are you"
    r"|(?:do|are|can|have|did|will|would|could) you\b[^\n]{0,60}\?)",
    re.I,
)
_APOLOGIZES = compile_on_use(r"抱歉|对不起|不好意思|遗憾|sorry|apolog|unfortunately", re.I)
_ASKS_FOR_WORDING = compile_on_use(
    r"改[写寫为為成得]|[转轉][换換]|翻[译譯]|[语語][气氣]|造句|例句|句子"
    r"|[写寫][^。\n]{0,20}(?:信|邮件|郵件|短信|回[复復]|借口|藉口|假[条條]|[对對][话話]|台[词詞])"
    r"|拒[绝絕]|\b(?:re(?:write|phrase|word)|paraphrase|translat\w*|convert|sentence|tone"
    r"|letter|e-?mail|excuse|decline|dialogue)\b",
    re.I,
)
_SPEAKS_AS_AI = compile_on_use(
    r"人工智能|AI|语言模型|助手|助理|机器人|程序|违法|道德|model|assistant|programm|ethic|illegal"
    r"|(?:help|assist) you with|request",
    re.I,
)
_MIN_CONTENT_ZH, _MIN_CONTENT_EN, _MIN_ITEMS, _SHORT_QUESTION = 24, 60, 2, 60
_MAX_EXCUSE_ZH, _MAX_EXCUSE_EN, _MAX_LECTURE_ZH, _MAX_LECTURE_EN = 150, 500, 260, 700


def refusals(messages: Turns) -> Turns | Drop:
    """Drop a conversation with an answer that is a refusal and nothing else.

    One of the answer's first sentences declines, and what follows is only excuses, warnings and offers of other help:
    fewer than 24 characters in Chinese (60 in English) of anything else, no list and no code. An answer after a
    disclaimer stays, and so does one that asks for missing material. Not in the default set, because some refusals are
    right.
    """
    question = ""
    for turn_number, message in enumerate(messages, start=1):
        if message.role == "user":
            question = message.text
        is_learned = message.role == "assistant" and message.train is not False
        if is_learned and (phrase := find_refusal(message.text, question)):
            return Drop("refusal", f"turn {turn_number}: {phrase}")
    return messages


def find_refusal(answer: str, question: str = "") -> str:
    """Find the phrase with which an answer refuses; empty if it does something else.

    Args:
        answer: The answer.
        question: The turn before it. A question about the assistant itself (你有感情吗？) is answered by a disclaimer,
            and a letter or a sentence that declines may be what is asked for.
    """
    text = answer.strip()
    if not text or len(text) > _MAX_CHARS:
        return ""
    head = text[:_HEAD_CHARS].translate(_SIMPLIFY)
    chinese = _OPENER_ZH.match(head)
    match = chinese or _OPENER_EN.match(head)
    if match is None or "```" in text or len(_LIST_ITEM.findall(text)) >= _MIN_ITEMS:
        return ""
    text = text.translate(_SIMPLIFY)
    if (_LACKS_MATERIAL_ZH if chinese else _LACKS_MATERIAL_EN).search(text):
        return ""
    if not _APOLOGIZES.search(match[0]) and len(question) <= _SHORT_QUESTION and _ASKS_ABOUT_ITSELF.match(question):
        return ""
    if _ASKS_FOR_WORDING.search(question) and not _SPEAKS_AS_AI.search(text):
        return ""
    return "" if _does_more(text[match.end() :], bool(chinese)) else match[0].strip()[:60]


def _does_more(text: str, chinese: bool) -> bool:
    """Whether what follows the words that decline is more than excuses, warnings and offers of other help."""
    filler, lecture = (_FILLER_ZH, _LECTURE_ZH) if chinese else (_FILLER_EN, _LECTURE_EN)
    longest = (_MAX_EXCUSE_ZH, _MAX_LECTURE_ZH) if chinese else (_MAX_EXCUSE_EN, _MAX_LECTURE_EN)
    if len(text) > longest[bool(lecture.search(text))] or _GIVES_EXAMPLES.search(text):
        return True
    pieces = [piece.strip() for piece in _PIECES.split(text)[1:]]
    content = sum(len(piece) for piece in pieces if not (filler.search(piece) or lecture.search(piece)))
    return content >= (_MIN_CONTENT_ZH if chinese else _MIN_CONTENT_EN)
