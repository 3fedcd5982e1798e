"""Settings of the kind `probe`: how a model behaves in chats."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import ref, setting
from hanlin.config.settings.evaluate import ModelUnderTest


class BehaviorProbe(ModelUnderTest):
    """Prompts whose answers show a habit: the language, where an answer ends, repetition, refusals, the name."""

    model: str | None = ref(  # type: ignore[assignment]
        "model",
        "adapter",
        "gguf",
        "quantized",
        default=None,
        description="the model to ask: a model, adapter, GGUF files or quantized model; none if `address` is set",
    )
    address: str = setting(
        "",
        description="address of a server with OpenAI's chat API to ask instead; its key goes into HANLIN_API_KEY",
    )
    address_model: str = setting("", description="the server's model; empty: the first that it lists")
    probes: tuple[str, ...] = setting(
        (), description="probes of the package to ask; empty: all, or none beside `files`"
    )
    files: tuple[str, ...] = ref("files", default=(), description="files of prompts of your own (JSON)")
    languages: tuple[Literal["zh", "en"], ...] = setting(
        ("zh", "en"), description="languages of the prompts to ask", min_length=1
    )
    samples: int = setting(2, description="sampled answers to each prompt beside the greedy one", ge=0)
    temperature: float = setting(0.7, description="temperature of the sampled answers", gt=0)
    top_p: float = setting(0.9, description="nucleus of the sampled answers", gt=0, le=1)
    max_new_tokens: int = setting(256, description="maximum number of tokens of an answer", ge=1)
    system: str = setting("", description="system prompt for prompts that have none of their own")
    name: str = setting("", description="the name that the model should know; empty: it is not asked about")
    author: str = setting("", description="the maker that the model may name")
    thinking: bool | None = setting(
        None, description="turn thinking on or off in the chat template; none: as the template has it"
    )
    batch: int = setting(64, description="answers to generate at once, at most", affects_key=False, ge=1)
