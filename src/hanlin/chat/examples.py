"""A document or a preference as the token ids that training sees.

Owns the ends of documents and which answer of a pair is learned. Does not own turns (`chat_template`) or what is refused
(`train/objectives`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hanlin.chat.special_tokens import MASK_BYTE
from hanlin.chat.template import ChatTemplate, TokenizedExample
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Message
from hanlin.tokenizer.tokenizer import Tokenizer


def render_documents(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[TokenizedExample]:
    """Begin token, text, end token of each text; everything after the begin token is learned, the end of the text too.
    A text without a token has no ids."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for ids in tokenizer.encode_batch(texts):
        if ids:
            yield TokenizedExample(
                begin + ids + end, MASK_BYTE[False] * len(begin) + MASK_BYTE[True] * (len(ids) + len(end))
            )
        else:
            yield TokenizedExample([], b"")


def render_answer(
    turns: Sequence[Message], answer: Message, template: ChatTemplate, record_id: str
) -> TokenizedExample:
    """Turns that end with the user or a tool, and an answer to them: of the whole, this answer alone is learned.

    Raises UserError with the record's id where `ChatTemplate.render` does, and when the template writes the turns
    otherwise before an answer than in a prompt.
    """
    prompt = template.render(turns, prompt=True, where=record_id).ids
    rendered = template.render((*turns, answer), where=record_id)
    if rendered.ids[: len(prompt)] != prompt:
        raise UserError(say("the prompt is written otherwise before an answer", "提示在回答前的写法不一致"), record_id)
    return TokenizedExample(rendered.ids, bytes(len(prompt)) + rendered.loss_mask[len(prompt) :])
