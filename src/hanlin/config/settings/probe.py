"""Settings of the kinds `probe`, how a model behaves in chats, and `compare`, results beside each other."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.evaluate import ModelUnderTest, contamination_ref


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
    repetition_penalty: float = setting(
        1.0,
        description="repetition penalty of all answers, the greedy ones too; that with which the model is to be served",
        unless_default=True,
        ge=0.5,
        le=2,
    )
    max_new_tokens: int = setting(256, description="maximum number of tokens of an answer", ge=1)
    system: str = setting("", description="system prompt for prompts that have none of their own")
    name: str = setting("", description="the name that the model should know; empty: it is not asked about")
    author: str = setting("", description="the maker that the model may name")
    thinking: bool | None = setting(
        None, description="turn thinking on or off in the chat template; none: as the template has it"
    )
    batch: int = setting(64, description="answers to generate at once, at most", affects_key=False, ge=1)


class Judge(Settings):
    """A model that says which of two open answers is better, each pair in both orders."""

    address: str = setting(
        ..., description="address of a server with OpenAI's chat API; its key goes into HANLIN_API_KEY", min_length=1
    )
    model: str = setting("", description="the server's model; empty: the first that it lists")
    questions: int = setting(50, description="open questions to judge at most, from the first", ge=1)
    max_new_tokens: int = setting(512, description="maximum number of tokens of a judgment", ge=16)


class Compare(Settings):
    """Results of any number of models over the same questions; the first model is what the others are compared with."""

    results: tuple[str, ...] = ref(
        "evaluation",
        description="results to compare: evaluations, probes, perplexities of one or more models",
        min_length=1,
    )
    names: tuple[str, ...] = setting(
        (), description="the model of each result, in order; equal names mean the same model; empty: as the results say"
    )
    contamination: tuple[str, ...] = contamination_ref()
    common: bool = setting(
        False, description="compare the questions that all models were asked, instead of refusing different ones"
    )
    resamples: int = setting(5000, description="draws of the paired bootstrap", ge=100)
    judge: Judge | None = setting(None, description="have a model judge the open answers; none: nobody does")
