"""Documents and preference answers as the token ids and loss masks of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hanlin.chat.special_tokens import MASK_BYTE
from hanlin.chat.template import ChatTemplate, TokenizedExample
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.tokenizer.tokenizer import Tokenizer


def render_documents(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[TokenizedExample]:
    """Begin token, text and end token of each text. All but the begin token carries loss, the end token too.

    A text without a token gives an empty example.
    """
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
    """Render turns that end with the user or a tool, and an answer to them; only this answer carries loss.

    Raises:
        UserError: As `ChatTemplate.render` does, with the record's id, and if the template writes the turns otherwise
            before an answer than in a prompt.
    """
    prompt = template.render(turns, prompt=True, where=record_id).ids
    rendered = template.render((*turns, answer), where=record_id)
    if rendered.ids[: len(prompt)] != prompt:
        raise UserError(tr("the prompt is rendered differently before an answer"), record_id)
    return TokenizedExample(rendered.ids, bytes(len(prompt)) + rendered.loss_mask[len(prompt) :])
