"""Conversations that a chat template has rendered into one text already, with its tags and special tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from hanlin.core.records import Message, Role
from hanlin.data.formats.base import strip_turn
from hanlin.data.formats.content.roles import ROLE_NAMES
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a template marks turns.

    Attributes:
        name: Its usual name.
        opening: Matches the mark before a turn; its group is the role.
        closing: Matches the marks after a turn.
        has_bare_system: Whether the text before the first turn is the system text.
    """

    name: str
    opening: re.Pattern[str]
    closing: re.Pattern[str]
    has_bare_system: bool = False


_TURN_TOKENS = {"106": "user", "107": "assistant", "102": "user", "103": "assistant", "chatbot": "assistant"}
"""Roles that templates name by a token of their own: those of Baichuan and Command R."""
_RENDERINGS = (
    Rendering("ChatML", compile_on_use(r"<\|im_start\|> ?(\w+)[ \t]*(?:\n|\Z)"), compile_on_use(r"<\|im_end\|>")),
    Rendering(
        "Llama 3",
        compile_on_use(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
        compile_on_use(r"<\|(?:eot_id|eom_id)\|>"),
    ),
    Rendering("Gemma", compile_on_use(r"<start_of_turn>(\w+)(?:\n|\Z)"), compile_on_use(r"<end_of_turn>")),
    Rendering(
        "Zephyr", compile_on_use(r"<\|(system|user|assistant|observation)\|>"), compile_on_use(r"</s>|<\|end\|>")
    ),
    Rendering("DeepSeek", compile_on_use(r"<｜(User|Assistant)｜>"), compile_on_use(r"<｜end▁of▁sentence｜>"), True),
    Rendering("Vicuna", compile_on_use(r"(?:\A|(?<=\s)|(?<=</s>))(USER|ASSISTANT): ?"), compile_on_use(r"</s>"), True),
    Rendering("TeleChat", compile_on_use(r"<_(user|bot|system)>"), compile_on_use(r"<_end>")),
    Rendering("MiniCPM", compile_on_use(r"<(用户|AI)>"), compile_on_use(r"</s>")),
    Rendering("Baichuan", compile_on_use(r"<reserved_(10[2367])>"), compile_on_use(r"</s>"), True),
    Rendering("InternLM", compile_on_use(r"<\|(User|Bot|System)\|>[:：]"), compile_on_use(r"<eo[ah]>")),
    Rendering(
        "InternLM2", compile_on_use(r"\[UNUSED_TOKEN_146\](\w+)[ \t]*\n"), compile_on_use(r"\[UNUSED_TOKEN_145\]")
    ),
    Rendering(
        "Command R",
        compile_on_use(r"<\|START_OF_TURN_TOKEN\|><\|(USER|CHATBOT|SYSTEM)_TOKEN\|>"),
        compile_on_use(r"<\|END_OF_TURN_TOKEN\|>"),
    ),
    Rendering("BlueLM", compile_on_use(r"\[\|(Human|AI|System)\|\][:：]"), compile_on_use(r"</s>")),
    Rendering("Baize", compile_on_use(r"\[\|(Human|AI)\|\](?![:：])"), compile_on_use(r"</s>"), True),
    Rendering("OIG", compile_on_use(r"(?:\A|(?<=\n))<(human|bot)>[:：]"), compile_on_use(r"</s>")),
    Rendering("Skywork", compile_on_use(r"\[(USER|BOT)\]"), compile_on_use(r"\[SEP\]|</s>")),
    Rendering("Llama 4", compile_on_use(r"<\|header_start\|>(\w+)<\|header_end\|>"), compile_on_use(r"<\|eo[tm]\|>")),
    Rendering("Kimi", compile_on_use(r"<\|im_(\w+)\|>\w*<\|im_middle\|>"), compile_on_use(r"<\|im_end\|>")),
    Rendering("Seed", compile_on_use(r"<seed:bos>(\w+)[ \t]*\n"), compile_on_use(r"<seed:eos>")),
    Rendering("Guanaco", compile_on_use(r"###\s*(Human|Assistant|System)\s*[:：]"), compile_on_use(r"(?!)")),
)
_BEGIN = compile_on_use(
    r"(?:\s*(?:<s>|<bos>|<｜begin▁of▁sentence｜>|<\|begin_of_text\|>|<\|endoftext\|>|\[gMASK\]|<sop>))*\s*"
)
_END = compile_on_use(r"(?:\s*(?:</s>|<eos>|<\|endoftext\|>|<\|end_of_text\|>))*\s*\Z")
_EOS = compile_on_use(r"</s>")
_LLAMA_DATES = compile_on_use(r"Cutting Knowledge Date: [^\n]*\n(?:Today Date: [^\n]*\n?)?\s*")
"""What the template of Llama 3.1 writes before a system text."""

_INST = compile_on_use(r"(?:\s*<s>)?\s*\[INST\](.*?)\[/INST\](.*?)(?=(?:\s*<s>)?\s*\[INST\]|\Z)", re.S)
_SYS = compile_on_use(r"\s*<<SYS>>(.*?)<</SYS>>", re.S)
_ALPACA_INTRO = compile_on_use(r"Below is an instruction that describes a task[^\n]*(?:\n(?!#)[^\n]+)*\s*(?=###)")
_ALPACA = compile_on_use(r"(?:\A|\n)###\s*(Instruction|Input|Response)\s*[:：]")
_BAIZE_INTRO = "The conversation between human and AI assistant."
_FIRST = ("<", "#", "[", "B", "A chat between", _BAIZE_INTRO)
_FIRST_CHARS = ("<", "#", "[", "I")


def find_rendering(text: str) -> str:
    """The usual name of the template that rendered a text, by the marks that it begins with; empty if there is none."""
    head = text[_BEGIN.match(text).end() :] if text[:1] in ("<", "[", " ", "\n") else text  # type: ignore[union-attr]
    if not head.startswith(_FIRST) and head is text:
        return ""
    if head.startswith("[INST]"):
        return "Llama 2" if "[/INST]" in head else ""
    if head.startswith(("### Instruction:", "###Instruction:")) or _ALPACA_INTRO.match(head):
        return "Alpaca" if "Response" in head else ""
    if head.startswith("A chat between a curious "):
        return "Vicuna" if " ASSISTANT:" in head else ""
    if head.startswith(_BAIZE_INTRO):
        return "Baize" if "[|Human|]" in head else ""
    if text.startswith("<｜begin▁of▁sentence｜>"):
        return "DeepSeek" if "<｜User｜>" in head else ""
    return next((rendering.name for rendering in _RENDERINGS if rendering.opening.match(head)), "")


def is_rendered(text: str) -> bool:
    """Whether a text is a conversation that a template has rendered; the headings of some may be those of an answer."""
    return find_rendering(text) not in ("", "Alpaca", "Guanaco")


def find_rendered_field(row: Any) -> tuple[str, str] | None:
    """The first field of a row that holds a rendered conversation, and the name of its template; None without any."""
    items = row.items() if isinstance(row, dict) else ()
    return next(
        ((str(field), name) for field, text in items if isinstance(text, str) and (name := find_rendering(text))), None
    )


def parse_rendered(text: str) -> tuple[Message, ...] | Drop:
    r"""Parse a text that `find_rendering` names into its turns.

    The begin and end tokens, the dates that Llama 3.1 writes, Alpaca's introduction and a prompt for an answer that
    does not come belong to the template. A Drop if anything else is outside the turns, or a role is not known.

    Example:
        "<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n乙<|im_end|>" gives a turn of the user and an answer.
    """
    name = find_rendering(text)
    body = _END.sub("", text[_BEGIN.match(text).end() :])  # type: ignore[union-attr]
    if name == "Llama 2":
        return _parse_inst(text)
    if name == "Alpaca":
        return _parse_alpaca(body)
    rendering = next(rendering for rendering in _RENDERINGS if rendering.name == name)
    prefix, *pieces = rendering.opening.split(body)
    messages: list[Message] = []
    if rendering.has_bare_system and prefix.strip() not in ("", _BAIZE_INTRO):
        messages.append(Message("system", strip_turn(prefix)))
    for role_name, piece in zip(pieces[::2], pieces[1::2], strict=True):
        content, *outside = rendering.closing.split(piece)
        if any(part.strip() for part in outside):
            return Drop("unparsed_tags", "".join(outside).strip()[:40])
        role_name = _TURN_TOKENS.get(role_name.lower(), role_name)
        role = ROLE_NAMES.get(role_name.lower())
        if role is None:
            return Drop("unknown_role", role_name)
        if role == "system" and name == "Llama 3":
            content = _LLAMA_DATES.sub("", content.lstrip(), count=1)
            if not content.strip():
                continue
        messages.append(Message(role, strip_turn(content)))
    return _without_open_answer(messages)


def _parse_inst(text: str) -> tuple[Message, ...] | Drop:
    """Parse `<s>[INST] <<SYS>>system<</SYS>> question [/INST] answer </s>` of Llama 2 and Mistral."""
    messages: list[Message] = []
    end = 0
    for match in _INST.finditer(text):
        if text[end : match.start()].strip():
            break
        end = match.end()
        question, answer = match[1], _END.sub("", match[2])
        system = _SYS.match(question) if not messages else None
        if system is not None:
            if system[1].strip():
                messages.append(Message("system", strip_turn(system[1])))
            question = question[system.end() :]
        messages += [Message("user", strip_turn(question)), Message("assistant", strip_turn(answer))]
    outside = text[end:].strip()
    if outside or "[/INST]" in messages[-1].text:
        return Drop("unparsed_tags", outside[:40])
    return _without_open_answer(messages)


def _parse_alpaca(text: str) -> tuple[Message, ...] | Drop:
    """Parse `### Instruction:`, `### Input:` and `### Response:`; an input joins its instruction."""
    prefix, *pieces = _ALPACA.split(_ALPACA_INTRO.sub("", text, count=1))
    if prefix.strip():
        return Drop("unparsed_tags", prefix.strip()[:40])
    messages: list[Message] = []
    for name, piece in zip(pieces[::2], pieces[1::2], strict=True):
        content = strip_turn(piece)
        if name != "Input":
            messages.append(Message("user" if name == "Instruction" else "assistant", content))
        elif not messages or messages[-1].role != "user":
            return Drop("unparsed_tags", f"### {name}:")
        elif content:
            messages[-1] = Message("user", f"{messages[-1].text}\n{content}")
    return _without_open_answer(messages)


def _without_open_answer(messages: list[Message]) -> tuple[Message, ...]:
    """The turns without the prompt for an answer, or the mark of a question, that does not come."""
    last: Role | None = messages[-1].role if len(messages) > 1 else None
    return tuple(messages[:-1] if last in ("assistant", "user") and not messages[-1].text else messages)


def read_rendered_prompt(messages: tuple[Message, ...]) -> tuple[Message, ...] | Drop:
    """Replace a first question that is a rendered prompt by its turns; other conversations are returned as they are."""
    index = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    if index == len(messages) or messages[index].role != "user" or messages[index].text[:1] not in _FIRST_CHARS:
        return messages
    name = find_rendering(messages[index].text)
    if name == "Alpaca" or messages[index].text.startswith(("### Instruction", "###Instruction")):
        return _strip_headings(messages, index)
    if name in ("", "Guanaco"):  # headings like these may be a question
        asked = _PLAIN_PROMPT.match(messages[index].text)
        if asked is None:
            return messages
        question = "\n".join(strip_turn(part) for part in asked.groups() if part and part.strip())
        return (*messages[:index], replace(messages[index], text=question), *messages[index + 1 :])
    turns = parse_rendered(messages[index].text)
    if isinstance(turns, Drop):
        return turns
    closing = next((rendering.closing for rendering in _RENDERINGS if rendering.name == name), _EOS)
    answers = (_strip_closing(message, closing) for message in messages[index + 1 :])
    return (*messages[:index], *turns, *answers)


def _strip_closing(message: Message, closing: re.Pattern[str]) -> Message:
    """An answer behind a rendered prompt without the mark that closes it."""
    if message.role != "assistant":
        return message
    *_, last = [None, *closing.finditer(message.text)]
    if last is None or not last[0] or message.text[last.end() :].strip():
        return message
    return replace(message, text=message.text[: last.start()].rstrip())


_RESPONSE_HEADING = compile_on_use(r"\A(?:\s*###\s*Response\s*[:：])+\s*")
_PLAIN_PROMPT = compile_on_use(r"\AInstruction: (.*?)(?:\nInput: (.*?))?\n+Answer:\s*\Z", re.S)
"""A prompt of ChatGLM-Tuning."""
_INSTRUCTION_HEADING = compile_on_use(r"\A\s*###\s*Instruction\s*[:：]\s*")


def _strip_headings(messages: tuple[Message, ...], index: int) -> tuple[Message, ...]:
    """A question and its answer without the headings of Alpaca's template, if both begin with theirs."""
    asked, answers = messages[index], messages[index + 1 :]
    if len(answers) != 1 or not _RESPONSE_HEADING.match(answers[0].text):
        return messages
    question = replace(asked, text=_INSTRUCTION_HEADING.sub("", asked.text))
    return (*messages[:index], question, replace(answers[0], text=_RESPONSE_HEADING.sub("", answers[0].text)))


# --- segments with a flag each ----------------------------------------------------------------------------------------

_TOKENS = compile_on_use(
    r"</?s>|<bos>|<eos>|<\|(?:begin_of_text|end_of_text|endoftext|eot_id|im_end)\|>|<｜(?:begin|end)▁of▁sentence｜>"
)
_OTHER_MARKS = compile_on_use(r"<\|[\w▁]+\|>|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>")
_ASKED_TAG = compile_on_use(r"\A\s*(?:User|Human|Question|Q|用户|问题|问)[ \t]*[:：]\s*", re.I)
_ANSWER_TAG = compile_on_use(r"(?:\A|\s)(?:Assistant|Answer|Bot|AI|A|助手|回答|答)[ \t]*[:：]\s*\Z", re.I)


def is_segments(value: Any) -> bool:
    """Whether a list holds segments of text with a flag each that says whether it is learned (Axolotl)."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(part, dict) and isinstance(part.get("text"), str) and isinstance(part.get("label"), bool | int)
            for part in value
        )
    )


def parse_segments(segments: Sequence[Mapping[str, Any]]) -> tuple[tuple[Message, ...], bool] | Drop:
    """Parse segments of a text, each with a flag, into turns.

    A text that a chat template has rendered is parsed as such, and each answer takes the flag of its segments. In any
    other text the learned segments are the answers and the rest the questions, without the tokens of begin and end.

    Args:
        segments: As `is_segments` recognizes them.

    Returns:
        The turns, and whether a text that is no answer is flagged to be learned, which nothing obeys; a Drop if half of
        an answer is flagged.

    Example:
        [{"label": False, "text": "<s>甲"}, {"label": True, "text": "乙</s>"}] gives a question and its answer.
    """
    if any(segment["label"] not in (0, 1) for segment in segments):
        return Drop("loss_weight", "segments.label")
    text = "".join(segment["text"] for segment in segments)
    if not find_rendering(text):
        return _alternate_segments(segments)
    turns = parse_rendered(text)
    if isinstance(turns, Drop):
        return turns
    flags = b"".join(bytes([bool(segment["label"])]) * len(segment["text"]) for segment in segments)
    flagged: list[Message] = []
    end, is_question_flagged = 0, False
    for turn in turns:
        begin = text.find(turn.text, end)
        found = set(flags[begin : begin + len(turn.text)]) if begin >= 0 else set()
        end = begin + len(turn.text) if begin >= 0 else end
        if turn.role != "assistant":
            is_question_flagged = is_question_flagged or 1 in found
        elif len(found) > 1:
            return Drop("loss_weight", f"segments: {turn.text}"[:80])
        flagged.append(replace(turn, train=found == {1}) if turn.role == "assistant" and found else turn)
    return tuple(flagged), is_question_flagged


def _alternate_segments(segments: Sequence[Mapping[str, Any]]) -> tuple[tuple[Message, ...], bool] | Drop:
    messages: list[Message] = []
    for label, group in groupby(segments, key=lambda segment: bool(segment["label"])):
        text = _TOKENS.sub("", "".join(segment["text"] for segment in group))
        if (mark := _OTHER_MARKS.search(text)) is not None:
            return Drop("unparsed_tags", mark[0])
        if not label:
            text = _ANSWER_TAG.sub("", _ASKED_TAG.sub("", text))
        if text.strip():
            messages.append(Message("assistant" if label else "user", strip_turn(text), train=label or None))
    if not any(message.role == "user" for message in messages):
        return Drop("no_question")
    return tuple(messages), False
