"""The stage `probe`: how a model behaves in chats, greedily and sampled, in Chinese and English."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.config.settings.probe import BehaviorProbe
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.resumable import Row, process_in_chunks, write_rows
from hanlin.evaluate.probes.answering import Ask, EngineResponder, Responder, ServerResponder
from hanlin.evaluate.probes.checks import Answer, Case, check_answer
from hanlin.evaluate.probes.figures import summarize
from hanlin.evaluate.probes.prompt_files import ProbePrompt, PromptSet, choose_probes, messages_of
from hanlin.inference.chat_server import ChatServer, api_key
from hanlin.inference.loading import load_engine
from hanlin.inference.protocol import SamplingParams

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class _Item:
    """One answer to draw: sample 0 is the greedy one."""

    probe: PromptSet
    prompt: ProbePrompt
    sample: int
    ask: Ask

    @property
    def id(self) -> str:
        return f"{self.probe.name}/{self.prompt.id}"


def run(settings: BehaviorProbe, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Ask every prompt and write `answers.jsonl`; return the figures that `figures.summarize` describes.

    Raises:
        UserError: Neither or both of `model` and `address` are set, a file of prompts is wrong, the model has no chat
            template, or the server cannot be reached or breaks off; what was answered is kept for the next run.
    """
    probes = choose_probes(settings.probes, inputs.paths("files"), settings.languages)
    items = plan_items(settings, probes, context.seed)
    responder = open_responder(settings, inputs)
    try:

        def answer_chunk(chunk: Sequence[_Item]) -> list[Row]:
            answers = responder.answer([item.ask for item in chunk])
            return [_row(item, answer, settings) for item, answer in zip(chunk, answers, strict=True)]

        rows = process_in_chunks(
            items, responder.chunk_size, context.scratch_folder(out), answer_chunk, context.progress, unit=tr("answers")
        )
        name = responder.name
    finally:
        responder.close()
    write_rows(out / ANSWERS, rows)
    tokens = [row["tokens"] for row in rows if row["tokens"] is not None]
    return {
        "engine": name,
        "prompts": sum(len(probe.prompts) for probe in probes),
        "answers": len(rows),
        "tokens_per_answer": sum(tokens) / len(tokens) if tokens else None,
        **summarize(rows),
        "probes": {
            probe.name: {"version": probe.version, "prompts": len(probe.prompts), "sha256": probe.sha256}
            for probe in probes
        },
    }


def open_responder(settings: BehaviorProbe, inputs: Inputs) -> Responder:
    """The model of the settings, loaded, or the server at their address."""
    path = inputs.optional_path("model")
    if (path is None) == (not settings.address):
        raise UserError(tr("name a model or an address, one of the two"), "model")
    if path is None:
        server = ChatServer(settings.address, settings.address_model, settings.max_new_tokens, api_key())
        return ServerResponder(server, settings.thinking)
    loaded = load_engine(
        path, settings.file, settings.engine, batch=settings.batch, dtype=settings.dtype, precision=settings.precision
    )
    try:
        return EngineResponder(loaded, settings.thinking, settings.batch)
    except BaseException:
        loaded.engine.close()
        raise


def plan_items(settings: BehaviorProbe, probes: Sequence[PromptSet], seed: int) -> list[_Item]:
    """The answers to draw: all greedy ones first, then the samples, each with a seed of its own."""
    penalty = settings.repetition_penalty
    greedy = SamplingParams(max_new_tokens=settings.max_new_tokens, repetition_penalty=penalty)
    items = []
    for sample in range(settings.samples + 1):
        for probe in probes:
            for prompt in probe.prompts:
                name = f"{probe.name}/{prompt.id}"
                sampling = greedy if sample == 0 else SamplingParams(
                    temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_new_tokens,
                    repetition_penalty=penalty, seed=seed_of(seed, name, sample),
                )  # fmt: skip
                items.append(_Item(probe, prompt, sample, Ask(name, messages_of(prompt, settings.system), sampling)))
    return items


def seed_of(seed: int, name: str, sample: int) -> int:
    """The seed of one sample, of 32 bits: it depends on the prompt and not on which others are asked."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name} {sample}".encode()).digest()[:4], "little")


def _row(item: _Item, answer: Answer, settings: BehaviorProbe) -> Row:
    prompt = item.prompt
    case = Case(prompt.prompt, prompt.language, prompt.expect.given(), settings.name, settings.author)
    figures = tuple(name for name in item.probe.figures if name not in prompt.skip)
    return {
        "id": item.id,
        "probe": item.probe.name,
        "language": prompt.language,
        "mode": "sampled" if item.sample else "greedy",
        "sample": item.sample,
        "seed": item.ask.sampling.seed,
        "messages": [{"role": message.role, "content": message.text} for message in item.ask.messages],
        "expect": prompt.expect.given(),
        "answer": answer.text,
        "reasoning": answer.reasoning,
        "finish": answer.finish,
        "tokens": answer.tokens,
        "counts": check_answer(answer, case, figures),
    }
