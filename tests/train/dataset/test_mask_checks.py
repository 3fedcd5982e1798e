"""What must hold of every example before step 0: each rule, broken, stops the run with the record's id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hanlin.chat.packaged import packaged_names
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset import mask_checks
from hanlin.train.dataset.encode import ChatEncoder, encode_documents
from hanlin.train.dataset.encoded import EncodedRecord, EncodedRecords, Example
from hanlin.train.dataset.mask_checks import MaskRules
from training_data import SENTENCES, conversation, document, many, preference

Ids = list[int]
GOOD = many(conversation, 6)


@pytest.fixture
def tokenizer(template: ChatTemplate) -> Tokenizer:
    return template.tokenizer


@pytest.fixture
def parts(template: ChatTemplate) -> tuple[Ids, Ids]:
    """The prompt of a small conversation, and its answer with the stop token."""
    turns = (Message("user", "你叫什么？"), Message("assistant", "小翰"))
    prompt = template.render(turns[:1], prompt=True).ids
    return prompt, template.render(turns).ids[len(prompt) :]


@pytest.fixture
def among_others(encoded: Callable, template: ChatTemplate) -> Callable[[Ids, Sequence[int]], EncodedRecords]:
    """An example of our own between good ones, called `broken`."""

    def of(ids: Ids, learn: Sequence[int]) -> EncodedRecords:
        broken = Conversation((), "broken")

        def encode(records: Sequence[Conversation]) -> list[EncodedRecord]:
            good = ChatEncoder(template, 400, "error")
            given = EncodedRecord((Example(ids, bytes(learn)),))
            return [given if row is broken else next(good.conversations([row])) for row in records]

        return encoded([*GOOD[:3], broken, *GOOD[3:]], encode)

    return of


def refused(template: ChatTemplate, store: EncodedRecords) -> str:
    with pytest.raises(UserError) as caught:
        MaskRules.for_chats(template).check(store)
    assert caught.value.where == "broken" and caught.value.hint
    return caught.value.what


def test_what_the_renderer_makes_keeps_the_contract(
    among_others: Callable, template: ChatTemplate, parts: tuple
) -> None:
    prompt, answer = parts
    MaskRules.for_chats(template).check(among_others(prompt + answer, [0] * len(prompt) + [1] * len(answer)))


def test_an_example_must_learn_something(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    store = among_others(prompt + answer, [0] * len(prompt + answer))
    assert "none of its tokens is a target" in refused(template, store)


def test_an_example_without_tokens_learns_nothing(among_others: Callable, template: ChatTemplate) -> None:
    assert "none of its tokens is a target" in refused(template, among_others([], []))


def test_every_answer_learns_its_stop_token(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    learn = [0] * len(prompt) + [1] * (len(answer) - 1) + [0]
    assert "no stop token as its last target" in refused(template, among_others(prompt + answer, learn))
    cut = answer[:-1]
    assert "no stop token as its last target" in refused(
        template, among_others(prompt + cut, [0] * len(prompt) + [1] * len(cut))
    )


def test_no_token_of_a_prompt_is_a_target(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    early = [0] * (len(prompt) - 2) + [1] * (len(answer) + 2)
    assert "of a prompt is a target" in refused(template, among_others(prompt + answer, early))


def test_an_answer_is_a_target_from_its_start(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    late = [0] * (len(prompt) + 1) + [1] * (len(answer) - 1)
    assert "of a prompt is a target" in refused(template, among_others(prompt + answer, late))


def test_the_turn_after_an_answer_is_no_target(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    ids = prompt + answer + prompt[1:] + answer
    learn = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
    assert "follows an answer is a target" in refused(template, among_others(ids, learn))


def test_the_first_token_is_no_target(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    learn = [1] + [0] * (len(prompt) - 1) + [1] * len(answer)
    assert "first token is a target" in refused(template, among_others(prompt + answer, learn))


@pytest.mark.parametrize("place", [1, 5])
def test_a_second_begin_token_is_refused(
    among_others: Callable, template: ChatTemplate, parts: tuple, place: int
) -> None:
    prompt, answer = parts
    twice = [*prompt[:place], prompt[0], *prompt[place:]]
    store = among_others(twice + answer, [0] * len(twice) + [1] * len(answer))
    assert "where none belongs" in refused(template, store)


def test_a_missing_begin_token_is_refused(among_others: Callable, template: ChatTemplate, parts: tuple) -> None:
    prompt, answer = parts
    store = among_others(prompt[1:] + answer, [0] * (len(prompt) - 1) + [1] * len(answer))
    assert "does not start with the begin token" in refused(template, store)


def test_the_broken_record_is_found_in_any_block(
    among_others: Callable, template: ChatTemplate, parts: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = parts
    store = among_others(prompt + answer, [0] * len(prompt + answer))
    for tokens in (1, 60, 150):
        monkeypatch.setattr(mask_checks, "BLOCK_TOKENS", tokens)
        refused(template, store)


def test_the_two_examples_of_a_pair_have_one_record(encoded: Callable, template: ChatTemplate) -> None:
    records = many(preference, 4)

    def encode(batch: Sequence) -> list[EncodedRecord]:
        found = list(ChatEncoder(template, 200, "drop").preferences(batch))
        chosen, rejected = found[2].examples
        found[2] = EncodedRecord((chosen, Example(rejected.ids, bytes(len(rejected.ids)))))
        return found

    with pytest.raises(UserError) as caught:
        MaskRules.for_chats(template).check(encoded(records, encode, width=2))
    assert caught.value.where == "pair-2"


# ------------------------------------------------------------------------------------------- every packaged template


@pytest.fixture(scope="module", params=packaged_names())
def any_template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    folder = tmp_path_factory.mktemp(request.param.replace(".", "_"))
    train_tokenizer(list(SENTENCES), vocab_size=320, template=request.param, out=folder)
    return ChatTemplate.load(folder)


def test_every_packaged_template_keeps_its_contract(any_template: ChatTemplate, encoded: Callable) -> None:
    rules = MaskRules.for_chats(any_template)
    odd = (" 你好 ", "a\n\nb", "[INST]", "Assistant:\n", "<|eot_id|></s>", "\u3000", "1. 。", "```\nx\n```")
    chats = [
        Conversation(
            tuple(m for text in odd[: 1 + n] for m in (Message("user", text + "?"), Message("assistant", text + "!"))),
            f"odd-{n}",
        )
        for n in range(len(odd))
    ]
    encoder = ChatEncoder(any_template, 4000, "error")
    rules.check(encoded([*GOOD, *chats], encoder.conversations))
    rules.check(encoded(many(preference, 5), encoder.preferences, width=2))
    assert rules.bos_id is not None and rules.prompt_endings


def test_calls_of_tools_keep_the_contract(tmp_path: Path, encoded: Callable) -> None:
    train_tokenizer(list(SENTENCES), vocab_size=320, template="llama3.1", out=tmp_path / "t")
    template = ChatTemplate.load(tmp_path / "t")
    call = Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "北京"}),))
    turns = (Message("user", "天气？"), call, Message("tool", "晴", name="weather"), Message("assistant", "晴天。"))
    MaskRules.for_chats(template).check(
        encoded([Conversation(turns, "t")], ChatEncoder(template, 4000, "error").conversations)
    )


@pytest.mark.parametrize("change", ["missing", "doubled"])
def test_llama_2_begins_every_exchange_exactly_once(tmp_path: Path, encoded: Callable, change: str) -> None:
    train_tokenizer(list(SENTENCES), vocab_size=320, template="llama2", out=tmp_path / "t")
    template = ChatTemplate.load(tmp_path / "t")
    bos = template.tokenizer.bos_id
    assert bos is not None
    turns = tuple(Message(role, "好") for _ in range(2) for role in ("user", "assistant"))
    whole = template.render(turns)
    place = [number for number, id in enumerate(whole.ids) if id == bos][1]
    ids, learn = list(whole.ids), list(whole.loss_mask)
    if change == "missing":
        del ids[place], learn[place]
    else:
        ids.insert(place, bos)
        learn.insert(place, False)
    store = encoded([Conversation(turns, "c")], lambda batch: [EncodedRecord((Example(ids, bytes(learn)),))])
    with pytest.raises(UserError, match="begin token is missing within" if change == "missing" else "none belongs"):
        MaskRules.for_chats(template).check(store)


# ---------------------------------------------------------------------------------------------------------- documents


def test_documents_keep_their_contract(encoded: Callable, tokenizer: Tokenizer) -> None:
    MaskRules.for_documents(tokenizer).check(
        encoded(many(document, 9), lambda batch: encode_documents(batch, tokenizer))
    )


@pytest.mark.parametrize(("cut", "what"), [(slice(1, None), "does not start"), (slice(0, -1), "no stop token")])
def test_a_document_without_its_ends_is_refused(encoded: Callable, tokenizer: Tokenizer, cut: slice, what: str) -> None:
    def encode(batch: Sequence[Document]) -> list[EncodedRecord]:
        (example,) = next(encode_documents(batch, tokenizer)).examples
        return [EncodedRecord((Example(example.ids[cut], example.loss_mask[cut]),))]

    with pytest.raises(UserError, match=what) as caught:
        MaskRules.for_documents(tokenizer).check(encoded([document(3)], encode))
    assert caught.value.where == "text-3"
