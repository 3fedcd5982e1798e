"""Rules on the answers of a conversation: end marks, truncated, or in another language than the question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hanlin.core.records import Message
from hanlin.core.text import find_end_marks
from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.language_id import ENGLISH_WORDS
from hanlin.data.text.patterns import compile_on_use

_COMMAS, _HANGING_MARKS = tuple("，,"), tuple("、（(《【“「『")
_ITEM = compile_on_use(
    r"^\s*(?:\d+[.、)]\s|[A-Za-z][.、)]|[-*•]\s|[一二三四五六七八九十]{1,3}、|[（(][\d一二三四五六七八九十]{1,3}[）)])\s*"
)
_HANGING_WORD = compile_on_use(
    r"(?:^|[\s,])(?:the|an?|of|and|or|to|with|for|in|by|from|that|because|is|are|at|on|into|than|as|such|its|their|his"
    r"|her|your|our|my|this|these|those|which|who|while|if|when|but|not|can|will|may|should|have|has|was|were|be)$"
)
_MAY_END = compile_on_use(r"\b(?:to|with|for|in|by|from|at|on|that|this|can|will|may|have|was|were|be)$")
_WORD_LIST = compile_on_use(r"(?:[\w'’-]+, ){2,}[\w'’-]+")
_MIN_SENTENCE_WORDS = 6
_LATIN_END = compile_on_use(r"[A-Za-z]$")
_COMPLETE_END = compile_on_use(
    r"[。！？!?…;；.~～”\"'’）)】」』》\]}`*|:：>—-][^\w]*$|[^\w\s]$|\d ?[\u4e00-\u9fff]{1,4}$"
    r"|[了吧吗嗎呢啊呀哦喔啦嘛哈哒么麼咯呗唄哎唉]$|的话$|等等?$|[谢謝]{2}$|[好行對对]$|而已$|以上$|可以$|采[纳納]$|[顺順]利$|[评評]$|[赞讚贊]$"
)
_UNFINISHED_END = compile_on_use(
    "[也而且和与與或并並但地得把被将將在从從向对對为為以及是就都还還又再更最很]$|(?:^|[，,；;])[^，,；;是会會可能要应應需]*的$"
)
_ENDED_BEFORE_MARK = compile_on_use(
    r"[。！？!?]$|[了吧吗嗎呢啊呀哦喔啦嘛哈]$|(?:^|[，,、；;。！？])[^，,、；;。！？]*[是会會能要可就][^，,、；;。！？]*的$"
    r"|(?:^|[，,、；;。！？])(?:[祝愿願盼]|希望|早日?)[^，,、；;。！？]*$"
)
"""What is before a comma with which people end an answer: a full stop, a particle, 是…的, or a wish."""
_SENTENCE_ENDS = compile_on_use(r"[。！？]|(?<!\d)[.!?] ")
_STOPS = tuple("。！？.!?;；")
_MANY_SENTENCES, _MIN_CUT_CHARS = 8, 200
_MIN_SENTENCES, _MIN_ENGLISH_WORDS, _MAX_HAN, _SHORT_QUESTION = 3, 3, 5, 150
_WORD = compile_on_use("[A-Za-z]{2,}")
_FREE_END = compile_on_use(r"#\w+$|https?://\S+$|\d$|^[A-Z][a-z]+(?: [a-z]+){0,2},$")
_CODE_ENDS, _MAX_SIGNATURE = tuple("。！？.!?)}]|;\"'`"), 8
_CODE = compile_on_use(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.S)


_ANY_MARK = compile_on_use(
    r"<[|｜][^|｜<>\n]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>|\[(?:EOS|BOS|SEP|CLS|PAD)\]|<(?:start|end)_of_turn>|\[/?INST\]",
    re.I,
)
_NAMES_MARKS = compile_on_use(
    r"(?<![A-Za-z])(?:EOS|BOS|end[- ]of[- ](?:text|turn|sequence|sentence)|stop (?:token|string|sequence)s?|end tokens?"
    r"|special tokens?|chat[- ]?template|chatml|tokenizers?|strike-?through)(?![A-Za-z])"
    r"|[结結]束[符标標]|[终終]止[符标標]|特殊(?:符[号號]|字符|[标標][记記]|[词詞]元|token)"
    r"|[结結终終][束止](?:[标標][记記]|[词詞]元)|分[词詞]器|[对對][话話]模板|分隔符",
    re.I,
)
_ASKS_FOR_MARK = compile_on_use(r"HTML|XML|(?<![A-Za-z])(?:tag|mark|token|symbol|delimiter)|[标標][签籤记記]|符", re.I)
_MIN_BODY = 5
"""Characters of an answer from which on its last word may lead to a mark: 是 alone is an answer."""
_LEADS_TO_MARK = compile_on_use(
    r"(?:(?<![不也可还還都就])是|(?<![立随隨当當旋])即|叫[做作]|[写寫]作|(?<!行)[为為]|[使采]用|添加|加上|[和与與或]|[:：=\"'`“‘「『(（<,，、]"
    r"|(?<![A-Za-z])(?:is|as|with|by|token|called|named|to|use|uses|using|and|or|append|add|an?|the|tag|marker?|string))"
    r"\s*\Z",
    re.I,
)
"""How a sentence goes on with a mark that it is about; the end of an answer is no such word."""


def end_marks(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Take marks such as `</s>`, `<|im_end|>` and `<|eot_id|>`, spelled at the end of an answer, off the text.

    A question of the same chat loses them too. Why: many public sets have them left over from a chat template. Typed
    marks are plain text to training, so that the model would learn to spell them before its real end of turn. A mark
    inside code, in the middle of a text, closing a `<s>`, at the end of a sentence about it (结束符是 </s>), or in a
    chat whose texts name or hold such marks elsewhere stays: there it is what the answer is about.
    """
    ends = [find_end_marks(message.text) if message.role in ("user", "assistant") else -1 for message in messages]
    if not any(end >= 0 and message.role == "assistant" for end, message in zip(ends, messages, strict=True)):
        return messages
    bodies = [message.text[:end] if end >= 0 else message.text for end, message in zip(ends, messages, strict=True)]
    cut: dict[int, str] = {}
    for index, (end, message) in enumerate(zip(ends, messages, strict=True)):
        if end >= 0 and message.role == "assistant" and not _is_about_marks(bodies, messages, index):
            cut[index] = bodies[index].rstrip()
    if cut:
        cut |= {
            index: bodies[index].rstrip()
            for index, (end, message) in enumerate(zip(ends, messages, strict=True))
            if end >= 0 and message.role == "user"
        }
    return tuple(replace(turn, text=cut[index]) if index in cut else turn for index, turn in enumerate(messages))


def _is_about_marks(bodies: Sequence[str], messages: Sequence[Message], index: int) -> bool:
    """Whether the marks at the end of an answer are a part of what it says.

    Args:
        bodies: The texts of all turns without such marks.
        messages: The turns.
        index: That of the answer.
    """
    body = bodies[index]
    leads = len(body.strip()) >= _MIN_BODY and _LEADS_TO_MARK.search(body[-_LEAD:])
    if leads or body.count("```") % 2 or _ANY_MARK.search(body):
        return True
    if body.rpartition("\n")[2].count("`") % 2:
        return True
    asked = next((turn for turn in range(index - 1, -1, -1) if messages[turn].role == "user"), None)
    question = bodies[asked] if asked is not None else ""
    if _ANY_MARK.search(question) or _NAMES_MARKS.search(question):
        return True
    if not body.strip():
        return bool(_ASKS_FOR_MARK.search(question))
    return bool(_NAMES_MARKS.search(body[-_SENTENCE:]))


_LEAD, _SENTENCE = 20, 80
"""Characters before a mark that lead to it, and those of the sentence that it would end."""


def truncated_answers(messages: tuple[Message, ...], longest_open: int) -> tuple[Message, ...] | Drop:
    """Drop a conversation with an answer that is cut off in the middle.

    An answer is cut off if its last fence (```python) is not closed; if it ends with an opening bracket, 、 or an
    English word that needs another, or, after complete sentences, a comma; or if its last line goes on after several
    sentences with `longest_open` characters or more (after eight sentences a quarter of that) that have no end (a
    number with its unit, 了 or 吧 is an end), in an answer of 200 characters or with an end like 并且. Why: generated
    data was cut at a token limit, and a model learns to stop there. Headings, names, numbers, formulas, list items,
    verse, phrases, code, chats that are written with commas, links, closings of letters and signatures end without
    punctuation and stay, as does a comma behind a full stop, a particle or a wish (祝早日康复，), and so does an end
    that the question has too. Default 40. Not in the default set.
    """
    question = ""
    for turn_number, message in enumerate(messages, start=1):
        if message.role == "user":
            question = message.text
        if message.role != "assistant" or message.train is False or message.tool_calls or not message.text.strip():
            continue
        if (truncation := _find_truncation(message.text.rstrip(), question, longest_open)) is not None:
            return Drop("truncated_answer", f"turn {turn_number}: {truncation}")
    return messages


def _find_truncation(text: str, question: str, longest_open: int) -> str | None:
    """Find why an answer is cut off, as the detail of a Drop; None if it is complete."""
    fences = [line.strip() for line in text.split("\n") if line.lstrip().startswith("```")]
    if len(fences) % 2 and len(fences[-1]) > 3 and not text.endswith(_CODE_ENDS):
        return fences[-1][:20] if text.count("\n", text.rindex("```")) > 1 else None
    line = _ITEM.sub("", text.rsplit("\n", 1)[-1], count=1)
    if "```" in line or len(line) <= _MAX_SIGNATURE or _FREE_END.search(line[-100:]) or text[-6:] in question:
        return None
    if (before := line.rstrip("，,、 ")) != line and _ENDED_BEFORE_MARK.search(before):
        return None
    sentences = _SENTENCE_ENDS.split(text)
    if (
        line.endswith(_HANGING_MARKS)
        or (line.endswith(_COMMAS) and len(sentences) > 2)
        or (_HANGING_WORD.search(line) and not _may_end_with_word(text, line))
    ):
        return "…" + line[-20:]
    last = _SENTENCE_ENDS.split(line)[-1]
    least = longest_open if len(sentences) < _MANY_SENTENCES else longest_open // 4
    is_open = last != line and len(last) >= least and not _COMPLETE_END.search(line[-20:])
    if _LATIN_END.search(line):  # a last word does not tell whether an English sentence is complete
        return None
    if is_open and (_UNFINISHED_END.search(line) or (_is_long(text, sentences) and not _lists_open_items(text))):
        return "…" + line[-20:]
    return None


def _is_long(text: str, sentences: list[str]) -> bool:
    """Whether a text is as long as those that are cut at a limit; people leave out the last stop of short answers."""
    return len(sentences) > _MIN_SENTENCES and len(text) >= _MIN_CUT_CHARS


def _may_end_with_word(text: str, line: str) -> bool:
    """Whether a text may be complete though its last word often needs another: a phrase, code, or lines without stops.

    Prepositions and auxiliaries end a clause (a task they are struggling with), a verse or a list of words too.
    """
    *lines, last = text.split("\n")
    if last.startswith(("    ", "\t")) or (not lines and len(line.split()) < _MIN_SENTENCE_WORDS):
        return True
    if not _MAY_END.search(line):
        return False
    has_stops = any(other.rstrip().endswith(_STOPS) for other in lines)
    return bool(_WORD_LIST.fullmatch(line)) or (bool(lines) and not has_stops and not _SENTENCE_ENDS.search(line))


def _lists_open_items(text: str) -> bool:
    """Whether a text ends with a list item and most items before it have no full stop either."""
    *lines, last = text.split("\n")
    items = [line.rstrip() for line in lines if _ITEM.match(line)] if _ITEM.match(last) else []
    return bool(items) and sum(not item.endswith(_STOPS) for item in items) * 2 > len(items)


_MENTIONS_LANGUAGE = compile_on_use(
    r"英[文语語译譯]|[中汉漢]英|英[中汉漢]|翻[译譯]|[译譯][成为為]|双语|雙語|外[语語文]|中文|[汉漢][语語]|日[语語文]|法[语語文]|德[语語文]|俄[语語文]"
    r"|韩[语語文]|拼音|歌[词詞]|单词|單詞|字母|缩写|語法|语法|拼写|时态|词性|名言|域名|用户名"
    r"|\b(?:english|chinese|translat\w*|mandarin|language|french|german|spanish|japanese|pinyin|lyrics)\b",
    re.I,
)
_MENTIONS_CODE = compile_on_use(
    r"代码|代碼|编程|程序|函数|脚本|正则|命令|算法|查询|查詢|数据库|資料庫|数组|变量|语句|网页|[Pp]ython|[Jj]ava|SQL|HTML|CSS|C\+\+|JSON"
    r"|[Ll]inux|API|\b(?:code|program\w*|function|script)\b",
    re.I,
)
_QUOTES_ENGLISH = compile_on_use(
    "[“\"'‘「《] ?[A-Za-z]{2,}|[:：\n] ?[A-Za-z]{3,30}\\s*$|[A-Za-z]{2,30}[ ,，'’]{1,3}[A-Za-z]{2,}"
)
_QUOTED_TITLE = compile_on_use(r"[\"“「《][^\"”」》\n]{1,60}[\"”」》]")
_EXERCISE = compile_on_use(
    r"_{2,}|\(\s*\)|\b[A-D][.)、] ?\w|\b(?:grammar|sentence|word|phrase|meaning|vocabulary|idiom)s?\b", re.I
)
_CODE_LIKE = compile_on_use(
    r"```|\bdef \w+\(|\bfunction \w+\(|^import \w+|\bSELECT\b.*\bFROM\b"
    r"|\b(?:INSERT|CREATE|DELETE|UPDATE)\b.*\b(?:INTO|TABLE|FROM|SET)\b|[;{}]\s*$|[=!]=|</?\w+>|\w\(\w*\)|\w\([\"']"
    r"|^[ \t]*(?:[Ss]et )?\w{1,40} = \S{1,40}[ \t]*$",
    re.M | re.S,
)
_CHINESE_FRAME = compile_on_use(r"\A\W*[\u4e00-\u9fff].*[\u4e00-\u9fff]\W*\Z|、", re.S)
_TITLE_WORDS = {"the", "of", "and", "to", "for", "with", "by", "from", "at", "or", "you", "your", "our"}
_SENTENCE_WORDS = ENGLISH_WORDS - _TITLE_WORDS | {
    "can", "will", "has", "we", "they", "he", "she", "his", "her", "should", "there", "if", "please", "here",
}  # fmt: skip


def answer_language(messages: tuple[Message, ...], share: float, shortest: int) -> tuple[Message, ...] | Drop:
    """Drop a conversation with an answer in English to a question in Chinese, or the other way round.

    Letters decide, without code and links: at least `share` of each text must be in its script, and the answer must
    have `shortest` letters (names, numbers, short terms have no language). English must have its function words (is,
    that, can), which titles, lists of names, identifiers and other languages in Latin letters lack. A question that
    mentions a language, translating or code stays, and so does one that quotes the other script, an exercise, an
    answer that explains words of the question, and an English list or quotation in a Chinese sentence. Defaults 0.8
    and 20. Why: the commonest complaint about a Llama chat model in Chinese is an English answer. Not in the default
    set.
    """
    prompt = ""
    for turn_number, message in enumerate(messages, start=1):
        if message.role in ("system", "user"):
            prompt = f"{prompt}\n{message.text}"
        if message.role != "assistant" or message.train is False or _MENTIONS_LANGUAGE.search(prompt):
            continue
        last = _last_question(messages[: turn_number - 1])
        question, answer = _dominant_script(last, share, 4), _dominant_script(message.text, share, shortest)
        if not question or not answer or question == answer:
            continue
        if question == "en" and count_char_kinds(last)[0] >= _MAX_HAN:  # a Chinese question on an English text
            continue
        is_code = bool(_MENTIONS_CODE.search(prompt) and _CODE_LIKE.search(message.text))
        if not is_code and not _is_about_language(last, message.text, question):
            return Drop("answer_language", f"turn {turn_number}: {question}, {answer}: {message.text.strip()[:30]}")
    return messages


def _is_about_language(question: str, answer: str, script: str) -> bool:
    """Whether a question in one script has a reason for an answer in the other."""
    if script == "zh":
        if _CHINESE_FRAME.search(answer):
            return True
        han, latin, *_ = count_char_kinds(question)
        quotes = _QUOTES_ENGLISH.search(question) and (latin * 10 >= han or len(question) <= _SHORT_QUESTION)
        return bool(quotes or (_CODE_LIKE.search(answer) and len(question) <= _SHORT_QUESTION))
    words = _WORD.findall(question)
    explained = {word.lower() for word in _WORD.findall(answer)} & {word.lower() for word in words}
    return len(words) < _MIN_ENGLISH_WORDS or len(explained) > 1 or bool(_EXERCISE.search(question))


def _last_question(messages: tuple[Message, ...]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def strip_quoted(text: str) -> str:
    """A text without code, links and short quotations, whose language is not that of the text."""
    return _QUOTED_TITLE.sub("", _CODE.sub("", text))


def _dominant_script(text: str, share: float, shortest: int) -> str:
    """`zh` or `en` if at least this share of the letters is in that script, otherwise an empty text."""
    han, latin, other, *_ = count_char_kinds(strip_quoted(text))
    letters = han + latin / 4 + other  # an English word has about four times the letters of a Chinese one
    if han + latin + other < shortest:
        return ""
    if han >= share * letters:
        return "zh"
    return "en" if latin / 4 >= share * letters and _is_english(text) else ""


def _is_english(text: str) -> bool:
    """Whether at least one word in twelve is an English function word, and one that sentences have and titles lack.

    Words are counted, not letters: names are long.
    """
    words = [word.lower() for word in _WORD.findall(strip_quoted(text))]
    in_sentences = sum(word in _SENTENCE_WORDS for word in words)
    return sum(word in ENGLISH_WORDS for word in words) * 12 >= max(1, len(words)) and in_sentences * 25 >= len(words)


def answer_length(messages: tuple[Message, ...], longest: int, shortest: int) -> tuple[Message, ...] | Drop:
    """Drop a conversation with an answer of more than `longest` or fewer than `shortest` characters.

    Reasoning and calls of tools do not count, nor do answers that are only read (`train`). Why: a small model, or one
    that sees few conversations, learns to end its answers from answers whose end it sees: of a model of 135M
    parameters that was trained on 119 short conversations 63 % of the answers end within 128 tokens, after 263 of all
    lengths 47 %. English needs about three times the characters of Chinese. Default 1 to 300. Not in the default set.
    """
    for turn_number, message in enumerate(messages, start=1):
        if message.role != "assistant" or message.train is False or message.tool_calls:
            continue
        length = len(message.text.strip())
        if length > longest or length < shortest:
            reason = "answer_too_long" if length > longest else "answer_too_short"
            return Drop(reason, f"turn {turn_number}: {length} characters")
    return messages
