"""Formats of conversations that are one text with tags, or a list of texts said in turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import collect_meta, find_own_id, find_unread_fields, strip_turn
from hanlin.data.formats.content.rendered import find_rendering, is_segments, parse_rendered, parse_segments
from hanlin.data.formats.content.roles import (
    ROLE_NAMES,
    SAID_FIELDS,
    SPEAKER_ROLES,
    find_nameless_roles,
    find_role_name,
    list_speakers,
    split_speakers,
)
from hanlin.data.formats.content.tool_lists import find_row_tools
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.questions import ANSWER_FIELDS, place_system
from hanlin.data.formats.traces.react import split_react_text
from hanlin.data.formats.turns import ParsedChat, alternate_roles
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_TAGGED = compile_on_use(r"\s*(?:<s>\s*)?(Human|Assistant|System)\s*[:：]", re.I)
_SENTENCES = compile_on_use(r"</s>\s*(?=<s>|\Z)")
_OPEN_TAG = compile_on_use(r"(?:\A|\n\n)\s*(Human|Assistant)\s*[:：]")


_RENDERED_FIELDS = ("text", "formatted_text", "formatted_chat", "conversation", "conversations", "messages", "dialogue")


def is_tagged(value: Any) -> bool:
    """Whether a row's `text` begins with the tag of a turn or is a question with its ReAct trace, or one of its texts
    begins with the marks of a chat template.
    """
    if not isinstance(value, dict):
        return False
    if _find_rendered(value):
        return True
    text = value.get("text")
    if isinstance(text, str) and (_TAGGED.match(text) or split_react_text(text) is not None):
        return True
    return bool(_find_lines_said(value)[1]) or bool(_find_names_said(value)[1])


def _find_lines_said(row: Mapping[str, Any]) -> tuple[str, tuple[Message, ...]]:
    r"""Find a dialogue that is one text, each turn on a line that begins with its role: the field and the turns.

    Example:
        {"dialogue": "患者：我头疼。\n医生：几天了？"} is a question and its answer.
    """
    field = next((name for name in SAID_FIELDS if isinstance(row.get(name), str)), "")
    turns: list[Message] = []
    for line in row[field].strip().split("\n") if field else ():
        tag = _ROLE_TAG.match(line)
        role = SPEAKER_ROLES.get((tag[1] or tag[2]).lower()) if tag else None
        if tag is not None and role is not None:
            turns.append(Message(role, strip_turn(line[tag.end() :])))
        elif turns:
            turns[-1] = Message(turns[-1].role, f"{turns[-1].text}\n{line}".strip())
        else:
            return "", ()
    return (field, tuple(turns)) if {"user", "assistant"} <= {turn.role for turn in turns} else ("", ())


def _find_names_said(row: Mapping[str, Any]) -> tuple[str, tuple[Message, ...] | Drop]:
    """Find such a dialogue of speakers whose names are no roles: the field, and the turns or why there are none."""
    for name in SAID_FIELDS if _ANSWERS.isdisjoint(row) else ():
        speakers = list_speakers(row.get(name)) if isinstance(row.get(name), str) else []
        if speakers:
            return name, _read_speakers(row[name], speakers)
    return "", ()


def _read_speakers(said: Any, speakers: Sequence[tuple[str, str]]) -> tuple[Message, ...] | Drop:
    """Read what speakers say whose names are no roles: two that have letters for names, the first of whom asks."""
    nameless = find_nameless_roles(speakers)
    if not nameless:
        names = dict.fromkeys(name for name, _ in speakers)
        return Drop("unknown_role", ", ".join(name for name in names if name.lower() not in ROLE_NAMES)[:80])
    turns = split_speakers(said, nameless)
    return tuple(Message(ROLE_NAMES[turn["role"]], strip_turn(turn["content"])) for turn in turns)


def _find_rendered(row: Mapping[str, Any]) -> str:
    """The field of a conversation that a template has rendered, empty without any."""
    texts = [name for name in _RENDERED_FIELDS if isinstance(row.get(name), str)]
    return next((name for name in texts if find_rendering(row[name])), "")


def read_tagged(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read one text of `<s>Human: ...</s><s>Assistant: ...</s>`, of paragraphs that begin with `Human:` etc., or of a
    rendered conversation.
    """
    rendered = _find_rendered(value) if isinstance(value, dict) else ""
    said_field: str = ""
    said: tuple[Message, ...] | Drop = ()
    if isinstance(value, dict) and not rendered:
        said_field, said = _find_lines_said(value)
        if not said_field and not isinstance(value.get("text"), str):
            said_field, said = _find_names_said(value)
    field = rendered or said_field or "text"
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        yield Drop("no_text")
        return
    trace = None if rendered else split_react_text(text)
    messages: tuple[Message, ...] | Drop
    if said:
        messages = said
    elif trace is not None:
        messages = alternate_roles(trace)
    else:
        messages = parse_rendered(text) if rendered else parse_tagged_turns(text)
    if isinstance(messages, Drop):
        yield messages
        return
    placed, system_field = place_system(value, messages)
    used = (field, *find_own_id(value), system_field, find_row_tools(value)[0])
    yield ParsedChat(placed, (), collect_meta(value, used), find_unread_fields(value, used))


def has_segments(value: Any) -> bool:
    """Whether a row holds segments of one text with a flag each."""
    return isinstance(value, dict) and is_segments(value.get("segments"))


def read_segments(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read Axolotl's {segments: [{label, text}]}: what `label: true` marks is learned."""
    if not has_segments(value):
        yield Drop("other_format")
        return
    parsed = parse_segments(value["segments"])
    if isinstance(parsed, Drop):
        yield parsed
        return
    messages, is_question_flagged = parsed
    placed, system_field = place_system(value, messages)
    used = ("segments", *find_own_id(value), system_field, find_row_tools(value)[0])
    others = {f"segments.{name}": None for part in value["segments"] for name in part if name not in ("label", "text")}
    unread = (*find_unread_fields(value, used), *others, *(("segments.label",) if is_question_flagged else ()))
    yield ParsedChat(placed, (), collect_meta(value, used), unread)


def parse_tagged_turns(text: str) -> tuple[Message, ...] | Drop:
    """Parse such a text into messages; a Drop if there is text outside the tags."""
    messages = []
    if "<s>" in text:
        pieces = [piece for piece in _SENTENCES.split(text) if piece.strip()]
        for piece in pieces:
            match = _TAGGED.match(piece)
            if match is None or not piece.lstrip().startswith("<s>"):
                return Drop("unparsed_tags", piece.strip()[:40])
            content = piece[match.end() :]
            if "<s>" in content:
                return Drop("unparsed_tags", content[content.index("<s>") :][:40])
            messages.append(Message(ROLE_NAMES[match[1].lower()], strip_turn(content)))
    else:
        prefix, *pieces = _OPEN_TAG.split(text)
        if prefix.strip() or not pieces:
            return Drop("unparsed_tags", prefix.strip()[:40])
        for name, content in zip(pieces[::2], pieces[1::2], strict=True):
            messages.append(Message(ROLE_NAMES[name.lower()], strip_turn(content)))
    return tuple(messages)


_TAG = compile_on_use(r"(?:\A|\n)[ \t]*(Human|Assistant|User|System|用户|助手)[ \t]*[:：]", re.I)
_PLAIN_TAGS = ("human", "assistant")
_SENTENCE_MARKS = compile_on_use(r"</?s>")


def split_tagged_prompt(text: str) -> tuple[Message, ...] | None:
    """Parse `Human: ... Assistant: ...` into turns; None if the text does not begin with a tag.

    The tags of one text are either at the beginning of paragraphs or, in a text without blank lines before them, at the
    beginning of lines. A tag without text at the end, where the answer is to follow, is no turn. A text with a single
    tag that is also an ordinary word (`User:`) is none of this form.
    """
    text = _SENTENCE_MARKS.sub("\n\n", text)
    matches = list(_TAG.finditer(text))
    if not matches or text[: matches[0].start()].strip():
        return None
    if len(matches) == 1 and matches[0][1].lower() not in _PLAIN_TAGS:
        return None
    paragraphs = [match for match in matches[1:] if text[: match.start()].endswith("\n")]
    if paragraphs:
        matches = [matches[0], *paragraphs]
    ends = [*(match.start() for match in matches[1:]), len(text)]
    turns = []
    for match, end in zip(matches, ends, strict=True):
        turns.append(Message(ROLE_NAMES[match[1].lower()], strip_turn(text[match.end() : end])))
    if len(turns) > 1 and turns[-1].role == "assistant" and not turns[-1].text:
        turns.pop()
    return tuple(turns)


def are_tagged_turns(texts: Sequence[Any]) -> bool:
    """Whether texts are the turns of one conversation, `Human: ...` and `Assistant: ...`, the user first."""
    tags = [_TAG.match(text) if isinstance(text, str) else None for text in texts]
    names = [ROLE_NAMES[tag[1].lower()] if tag is not None else "" for tag in tags]
    return len(names) > 1 and names[-1] == "assistant" and "user" in names and "" not in names


_BLANK_BESIDE_HAN = compile_on_use(
    r"(?<=[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]) (?=\S)|(?<=\S) (?=[\u3000-\u303f\u3400-\u9fff\uff00-\uffef])"
)
_TEXT_LIST_FIELDS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
_DIALOGUE_IDS = frozenset(("dialog_id", "dialogue_id"))
"""Fields that say that a list `content` is what was said in turn (NaturalConv), not the lines of a document."""
_ONLY_FIELDS = frozenset({"id", "data"})
"""The fields of UltraChat: `data` beside others may be anything."""
_ROLE_TAG = compile_on_use(
    r"\s*(?:\*\*)?([A-Za-z]{1,9}|[\u4e00-\u9fff]{1,4})\s*[:：](?:\*\*)?"
    r"|\s*[\[【]([A-Za-z]{1,9}|[\u4e00-\u9fff]{1,4})[\]】]\s*[:：]?"
)


def _find_texts(value: Any) -> tuple[list[str], tuple[str, ...]] | None:
    """Find the list of texts, and the fields that it comes from.

    It is the row itself or a field of it, may be a list of pairs of question and answer, or made of a list of questions
    and one of their answers.
    """
    texts: Any = value
    fields: tuple[str, ...] = ()
    if isinstance(value, dict):
        names = ("data",) if value.keys() <= _ONLY_FIELDS else _TEXT_LIST_FIELDS
        names = (*names, "content") if not _DIALOGUE_IDS.isdisjoint(value) else names
        fields = tuple(name for name in names if isinstance(value.get(name), list) and value[name])[:1]
        if not fields:  # `Dialogue` of HPD
            capitals = {str(name).lower(): name for name in value if name != str(name).lower()}
            found = [capitals[name] for name in _TEXT_LIST_FIELDS if name in capitals]
            fields = tuple(name for name in found if isinstance(value[name], list) and value[name])[:1]
        if not fields and _is_dialogue_alone(value):
            fields = ("history",)
        texts = value[fields[0]] if fields else None
        said = _find_said(value)
        if said is not None:
            return said
        questions, answers = value.get("input"), value.get("output")
        if isinstance(questions, list) and isinstance(answers, list) and len(questions) == len(answers):
            texts, fields = (
                [text for pair in zip(questions, answers, strict=True) for text in pair],
                ("input", "output"),
            )
    if isinstance(texts, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in texts):
        texts = [text for pair in texts for text in pair]
    if isinstance(texts, list) and fields and all(map(_is_text_turn, texts)):
        texts = [turn["message"] for turn in texts]
    is_list = isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)
    return (texts, fields) if is_list else None


_ANSWERS = frozenset((*ANSWER_FIELDS, "messages", "chosen", "rejected"))


def _is_dialogue_alone(row: Mapping[str, Any]) -> bool:
    """Whether a row has a whole dialogue as its history, each text with its role, and no answer beside it."""
    texts = row.get("history")
    if not isinstance(texts, list) or len(texts) < 2 or not _ANSWERS.isdisjoint(row):
        return False
    tags = [_ROLE_TAG.match(text) if isinstance(text, str) else None for text in texts]
    roles = [SPEAKER_ROLES.get((tag[1] or tag[2]).lower()) if tag else None for tag in tags]
    return None not in roles and roles[-1] == "assistant"


_CONTEXTS = ("context", "dialog_history", "input", "dialog", "dialogue", "utterances")
_NEXT = ("target", "response", "output", "answer", "completion")


def _find_said(row: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]] | None:
    """Find the texts said in turn, and the answer to the last: {context: [question, answer, question], target}."""
    context = next((name for name in _CONTEXTS if isinstance(row.get(name), list) and row[name]), "")
    answer = next((name for name in _NEXT if isinstance(row.get(name), str)), "")
    if not context or not answer or not all(isinstance(text, str) and text.strip() for text in row[context]):
        return None
    return ([*row[context], row[answer]], (context, answer)) if len(row[context]) % 2 else None


def _is_text_turn(turn: Any) -> bool:
    """Whether a turn has a text under `message` and no role (KdConv)."""
    return isinstance(turn, dict) and isinstance(turn.get("message"), str) and not find_role_name(turn)


def _read_said(texts: Sequence[str]) -> tuple[Message, ...] | Drop:
    """Make messages of texts said in turn: by the role before the colon if all have one, else the user begins.

    Names of speakers that are no roles are unknown roles: who of them answers is for the user to say.
    """
    messages = []
    for text in texts:
        tag = _ROLE_TAG.match(text)
        role = SPEAKER_ROLES.get((tag[1] or tag[2]).lower()) if tag else None
        if tag is None or role is None:
            speakers = list_speakers(list(texts))
            return _read_speakers(list(texts), speakers) if speakers else alternate_roles(texts)
        messages.append(Message(role, strip_turn(text[tag.end() :])))
    return tuple(messages)


def is_dialogue(value: Any) -> bool:
    """Whether a row is a list of texts, or a list of questions and one of their answers."""
    return _find_texts(value) is not None


def read_dialogue(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read LCCC and KdConv: a list of texts said in turn; also {input: [questions], output: [answers]}.

    Words separated by blanks are joined: blanks beside Chinese go.
    """
    found = _find_texts(value)
    if found is None:
        yield Drop("other_format")
        return
    texts, fields = found
    if len(texts) < 2:
        yield Drop("no_answer")
        return
    blanks = sum(text.count(" ") for text in texts)
    if blanks * 6 > sum(map(len, texts)):
        texts = [_BLANK_BESIDE_HAN.sub("", text) for text in texts]
    row = value if isinstance(value, dict) else {}
    said = _read_said(texts)
    if isinstance(said, Drop):
        yield said
        return
    messages, system_field = place_system(row, said)
    used = (*find_own_id(row), *fields, system_field, find_row_tools(row)[0])
    unread = (*find_unread_fields(row, used), *find_unread_turn_fields(row[fields[0]] if fields else ()))
    yield ParsedChat(messages, (), collect_meta(row, used), unread)
