"""transformers on a model folder: `AutoTokenizer` and its `apply_chat_template`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.chat.template_data import to_template_messages, to_template_tools
from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.parity.backends.base import ChatPrompt
from hanlin.tokenizer.file_names import GENERATION_FILE

_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")


class TransformersBackend:
    """What `apply_chat_template` of transformers gives for the files of a folder."""

    name = "transformers"

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._folder = folder
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # what it raises for files it cannot read is of every kind
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            what = tr("transformers cannot load this tokenizer: {reason}", reason=reason)
            raise UserError(what, folder) from error
        self._tokenizer.model_max_length = 10**9  # else it warns of long conversations
        self._marks = _GENERATION.search(self._tokenizer.chat_template or "") is not None

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        found: list[list[int] | str] = []
        for prompt in batch:
            try:
                found.append(self._apply(prompt.messages, prompt, add_generation_prompt=True)["input_ids"])
            except Exception as error:  # a template's own refusal, among others
                found.append(f"{type(error).__name__}: {error}")
        return found

    def render_conversation(
        self, messages: Sequence[Message], prompt: ChatPrompt
    ) -> tuple[list[int], bytes | None] | str:
        """Ids of a full conversation, and its assistant mask if the template marks it.

        `prompt` is the conversation without its answer; its tools and arguments are those of the whole.
        """
        try:
            full = self._apply(messages, prompt, return_assistant_tokens_mask=self._marks)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return full["input_ids"], bytes(full["assistant_masks"]) if self._marks else None

    def _apply(self, messages: Sequence[Message], prompt: ChatPrompt, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._tokenizer.apply_chat_template(
                to_template_messages(messages, prompt.reasoning_field),
                tools=to_template_tools(prompt.tools),
                return_dict=True,
                **prompt.template_arguments,
                **options,
            )

    def stop_ids(self) -> frozenset[int] | None:
        """The end ids that `generate` of transformers takes from the folder."""
        eos_ids = read_json(self._folder / GENERATION_FILE).get("eos_token_id")
        if eos_ids is None:
            eos_ids = self._tokenizer.eos_token_id
        return frozenset(eos_ids if isinstance(eos_ids, list) else [] if eos_ids is None else [eos_ids])

    def close(self) -> None:
        """Nothing is held."""
