"""Written Cantonese, told from written Mandarin by its characters, words and verb endings, in either script.

Hong Kong mixes both in one text, so that their words are weighed against each other, and its news in Mandarin quote
what people said in Cantonese, so that quotations do not count. Words that Mandarin has too in another sense (仲裁,
掩埋, 赶紧) are listed only with their neighbors.
"""

from __future__ import annotations

from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.patterns import compile_on_use

_CHARACTERS = compile_on_use(
    "唔(?![、，。！？…,.!?―—])|[嘅咗佢哋冇嚟喺啲嘢咁噉乜嗰攞畀瞓嬲喎啩嘥㗎睇諗谂搵揾啱攰嗌冚孭噏嚿氹咩嘞啫唞掟靚]"
)
_QUOTATION = compile_on_use('「[^「」]*」|『[^『』]*』|“[^“”]*”|‘[^‘’]*’|"[^"\\n]*"')
_CERTAIN = frozenset("嘅咗佢哋冇嚟喺啲嘢咁嗰瞓唔㗎啱攰")
_VERBS = "食饮飲讲講做睇煮等行瞓玩写寫望谂諗读讀听聽揾搵倾傾搞估用整画畫唱跳跑坐企追着返买買卖賣攞拎拧计計带帶连連"
_WORDS = compile_on_use(
    "屋企|[听聽琴寻尋]日|[边邊][度个個位]|[点點][解样樣算知]|[而依]家|[钟鍾鐘锺]意|[细細](?:路|佬|妹|个|個)|家姐|老豆"
    "|阿[妈媽爸公婆哥嫂]|几多|幾多|[阵陣][间間先]|[头頭]先|[係系]咪|[净淨剩即梗定][係系]|得[闲閒]|[倾傾][偈计計]|收工"
    "|靓[仔女]|呢[度个個间間排次种種位班款]|(?:我|佢|你)地(?![方位址区區点點铁鐵])|[食饮飲][饭飯茶嘢紧緊得]|食晏"
    "|(?:[好想去未要]|可以)食(?![物品用材堂谱譜欲客量盐鹽油疗療宿])|返[工学學屋去来來嚟黎到香]|落[雨车車楼樓街堂]"
    "|行街|冲凉|沖[涼凉]|雪[柜櫃]|鸡翼|雞翼|好彩|[同加计計]埋|仲[有要系係未可会會好想得话話喺]|[先至]至"
    "|[话話][要俾畀你佢知唔]|俾[人佢我你]|[出返起過过落入]黎|黎[到試试食講讲緊紧架嘅]|[呢好有多少早果]d(?![A-Za-z])"
    "|d(?=[人嘢野])|唔該|第[日二]時|是但|大佬|咪[住再咁係系]|乜[嘢野]|[好幾几]耐|[丢掉坐放跌]低"
    "|[叫食飲饮去买買做变變走等開开死出換换轉转改加俾過过冇講讲]左(?![右手邊边侧側腳脚翼派腿肩臂眼耳转轉拐近鄰邻岸上下])"
    f"|[{_VERBS}][紧緊晒埋返](?![张張密迫绷繃])|[谢謝该該湿濕黑红紅死醒净淨惊驚烂爛用走完]晒(?![太伤傷])"
    "|(?<![關关聯联體体干维維譜谱])係(?![數数統统列指由屬属為为以因])"
    '|(?:^|(?<=[，。！？；、\n"「“]))[个個]'
    "(?![人性体體别別中月位子案股税稅头頭个個是有展小大])(?=[\u4e00-\u9fff])"
)
_MANDARIN = compile_on_use("[的們這那嗎吧们这吗很她沒没]|什[麼么]|怎[麼么]|[是在](?!否)")
_CHARACTER_WEIGHT, _MIN_SCORE, _HAN_PER_POINT, _MANDARIN_WEIGHT, _SENTENCE, _SHORT = 1.5, 2.0, 45, 1.0, 30, 100


def is_cantonese(text: str, han: int) -> bool:
    """Whether a Chinese text is written Cantonese.

    Args:
        text: Any Chinese text, simplified or traditional.
        han: Chinese characters in it.
    """
    characters = _CHARACTERS.findall(text)
    if characters and _QUOTATION.search(text):
        text, han = _remove_quotations(text, han)
        characters = _CHARACTERS.findall(text)
    if not characters and han > _SHORT:  # hardly a sentence of Cantonese is without one of them
        return False
    mandarin = len(_MANDARIN.findall(text))
    is_certain = not _CERTAIN.isdisjoint(characters)
    if is_certain and not mandarin and han <= _SENTENCE:
        return True
    words = _WORDS.findall(text)
    score = _CHARACTER_WEIGHT * len(characters) + len(words)
    return (
        score >= max(_MIN_SCORE, han / _HAN_PER_POINT)
        and len({*characters, *words}) >= (2 if is_certain else 3)
        and score > _MANDARIN_WEIGHT * mandarin
    )


def _remove_quotations(text: str, han: int) -> tuple[str, int]:
    """Remove what a text quotes, unless it is most of it: Mandarin news quote Cantonese, and so do word lists."""
    rest = _QUOTATION.sub("", text)
    han_in_rest = count_char_kinds(rest)[0]
    return (rest, han_in_rest) if 2 * han_in_rest >= han else (text, han)
