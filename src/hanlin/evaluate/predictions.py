"""Batch prediction: answer every line or record of a file and write the answers to another, resuming a killed run."""

from __future__ import annotations

import hashlib
import json
import shutil
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hanlin.chat.history import truncate
from hanlin.chat.template import ChatTemplate
from hanlin.config.reasons import describe_reason
from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, write_text
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.records import Message
from hanlin.core.resumable import Row, process_in_chunks
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.tool_lists import find_row_tools, read_tools
from hanlin.data.formats.history import read_history
from hanlin.data.formats.questions import join_question, place_system
from hanlin.data.formats.turns import ParsedChat, prepend_system
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.lines import Row as FileRow
from hanlin.data.io.sources import find_files
from hanlin.data.ledger import Drop
from hanlin.inference.loading import (
    LoadedEngine,
    ModelLocation,
    find_model,
    list_model_files,
    load_engine,
    parse_model_spec,
)
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params
from hanlin.tokenizer.tokenizer import Tokenizer

SEED = 42
_CHUNK_SIZE = 64
_ID_FIELDS = ("id", "_id", "uid", "uuid", "qid", "question_id", "conversation_id")
_QUESTIONS = ("instruction", "prompt", "question", "query", "input", "text", "问题")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt at `line` (from 1) of a file; `text` is the last user message, `id` that of the row, if it has one."""

    line: int
    text: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str | int | None = None


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """How a file is answered.

    Attributes:
        system: A system message for prompts that have none.
        raw: Whether the model continues each text as it is, without its chat template.
        cut: Whether the end of a prompt that is too long is cut off; otherwise it is an error.
        max_new_tokens: The longest answer.
        sampling: Sampling parameters; those that are not set follow the model's generation settings.
        engine: The inference engine.
        options: Its options.
    """

    system: str = ""
    raw: bool = False
    cut: bool = False
    max_new_tokens: int = 400
    sampling: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


def predict(model: str | Path, data: Path, out: Path, settings: PredictSettings, progress: Progress) -> dict[str, Any]:
    """Write to `out` (`.json`: one list; `.jsonl`) an answer for each prompt of `data`, in order; return the counts.

    An answer has the `id` of its row; that of a row without one is the place of the prompt, from 1.

    What a try has made lies in `OUT.partial/`; the same call goes on from there and ends with the same bytes: a random
    choice depends on the seed and the prompt's place. Raises UserError for files that cannot be read or are there
    already, for an unfinished try with other settings, and for prompts that are too long.
    """
    if out.suffix not in (".json", ".jsonl"):
        raise UserError(tr("the name must end with .json or .jsonl"), out)
    if out.exists():
        raise UserError(tr("already exists"), out, tr("name a new file"), "exists")
    if not out.absolute().parent.is_dir():
        raise UserError(tr("there is no such folder"), out.absolute().parent, code="not_found")
    if settings.raw and settings.system:
        raise UserError(tr("{name} has no place beside {field}", name="--system", field="--raw"), "--system")
    prompts = read_prompts(data, settings.system)
    if settings.raw:
        _check_texts(prompts)
    path, choice = parse_model_spec(model)
    location = find_model(path, choice)
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(exist_ok=True)
    try:
        with FileLock(partial / "lock", timeout=0):
            _check_same_inputs(partial, _inputs_hash(location, prompts, settings))
            loaded = load_engine(path, choice, settings.engine, **settings.options)
            try:
                rows = _generate_answers(loaded, prompts, settings, partial, progress)
            finally:
                loaded.engine.close()
            _write_answers(out, rows)
            shutil.rmtree(partial)
    except Timeout as error:
        raise UserError(tr("another process is writing this file"), out) from error
    stopped = sum(row["finish"] == "stop" for row in rows)
    return {"prompts": len(rows), "stopped": stopped, "tokens": sum(row["tokens"] for row in rows)}


# --- prompts ------------------------------------------------------------------------------------------------------


def read_prompts(data: Path, system: str = "") -> list[Prompt]:
    """Each line of a `.txt` file, or each record of another file, in any format that `conversations` reads: answers
    after the last question are left out, and records may lack them.

    `system` is put before what has no system text. Raises UserError, with file and line, for what holds no question.
    """
    settings = {"format": "text_lines"} if Path(data.name.removesuffix(".gz")).suffix in (".txt", ".text") else {}
    prompts: list[Prompt] = []
    for file in find_files([str(data)], settings).files:
        with InputFile(file.path) as input_file:
            for row in read_rows(file, detect_layout(file), input_file):
                chats = list(_parse_prompts(row))
                dropped = next((item for item in chats if isinstance(item, Drop)), None)
                if dropped is not None or not chats:
                    reason = describe_reason(dropped.reason if dropped else "no_question")
                    detail = f" ({dropped.detail})" if dropped and dropped.detail else ""
                    raise UserError(reason + detail, f"{file.path}:{row.line}")
                for chat in chats:
                    assert isinstance(chat, ParsedChat)
                    messages = prepend_system(system, chat.messages)
                    prompts.append(Prompt(row.line, messages[-1].text, messages, chat.tools, _find_id(row.value)))
    if not prompts:
        raise UserError(tr("there is no question in this file"), data)
    return prompts


def _find_id(row: Any) -> str | int | None:
    """The id that a row gives itself; None if it has none."""
    ids = (row.get(name) for name in _ID_FIELDS) if isinstance(row, Mapping) else ()
    return next((i for i in ids if isinstance(i, str | int) and not isinstance(i, bool) and str(i).strip()), None)


def _check_texts(prompts: Sequence[Prompt]) -> None:
    """Raise UserError for a prompt that is more than a text to continue: its other turns would be lost."""
    for prompt in prompts:
        if len(prompt.messages) > 1 or prompt.tools:
            what = tr("a conversation of {count} turns is no text to continue", count=len(prompt.messages))
            raise UserError(what, tr("line {line}", line=prompt.line), tr("leave out --raw"))


def _parse_prompts(row: FileRow) -> Iterator[ParsedChat | Drop]:
    """What a row asks: its conversation up to the last question."""
    value = row.value
    if isinstance(value, Drop):
        yield value
        return
    if isinstance(value, str):
        yield ParsedChat((Message("user", value.strip()),))
        return
    chat_format = next((chat_format for chat_format in CHAT_FORMATS if chat_format.recognize(value)), None)
    items = list(chat_format.read(value)) if chat_format is not None else []
    if not items or any(isinstance(item, Drop) and item.reason == "no_answer" for item in items):
        items = [_parse_single_question(value)]
    for item in items:
        if isinstance(item, Drop):
            yield item
            continue
        turns = item.messages
        while turns and turns[-1].role == "assistant":
            turns = turns[:-1]
        ends_with_question = bool(turns) and turns[-1].role in ("user", "tool") and bool(turns[-1].text.strip())
        yield replace(item, messages=turns) if ends_with_question else Drop("no_question")


def _parse_single_question(value: Any) -> ParsedChat | Drop:
    """A record without an answer: its question, with the system text, the turns before it and the tools."""
    if not isinstance(value, Mapping):
        return Drop("other_format", type(value).__name__)
    name = next((name for name in _QUESTIONS if isinstance(value.get(name), str) and value[name].strip()), None)
    if name is None:
        return Drop("no_question", ", ".join(map(str, list(value)[:8])))
    history = read_history(value)
    if isinstance(history, Drop):
        return history
    messages, _ = place_system(value, (*history, Message("user", join_question(value, name))))
    _, listed = find_row_tools(value)
    tools = read_tools(listed) if listed else ()
    return tools if isinstance(tools, Drop) else ParsedChat(messages, tools)


# --- answers ------------------------------------------------------------------------------------------------------


def _generate_answers(
    model: LoadedEngine, prompts: Sequence[Prompt], settings: PredictSettings, scratch: Path, progress: Progress
) -> list[Row]:
    defaults = read_sampling_params(model.location.settings_folder)
    base = SamplingParams(**{**defaults, **settings.sampling, "max_new_tokens": settings.max_new_tokens})
    seed = SEED if base.seed is None else base.seed
    template = None if settings.raw else model.load_template()
    stops = _stop_ids(model) if template is None else template.stop_ids
    context_length = model.engine.context_length
    encoded_prompts = [
        _encode_prompt(prompt, model.tokenizer, template, settings, context_length) for prompt in prompts
    ]
    indices = range(len(prompts))

    def answer_chunk(chunk: Sequence[int]) -> list[Row]:
        requests = [
            GenerationRequest(encoded_prompts[index][0], stops, replace(base, seed=(seed + index) % 2**32))
            for index in chunk
        ]
        chunk_progress = _ChunkProgress(progress, chunk[0], len(prompts))
        completions = model.engine.generate(requests, chunk_progress)
        return [
            {
                "id": index + 1 if prompts[index].id is None else prompts[index].id,
                "Input": prompts[index].text,
                "Output": model.tokenizer.decode(completion.ids),
                "finish": completion.finish_reason,
                "tokens": len(completion.ids),
                **({"cut": encoded_prompts[index][1]} if encoded_prompts[index][1] else {}),
            }
            for index, completion in zip(chunk, completions, strict=True)
        ]

    return process_in_chunks(indices, _CHUNK_SIZE, scratch, answer_chunk, progress, unit=tr("answers"))


def _stop_ids(model: LoadedEngine) -> tuple[int, ...]:
    """The ids that end a text without a chat template: the tokenizer's and the generation settings'."""
    ends = (model.tokenizer.eos_id, *read_eos_token_ids(model.location.settings_folder))
    return tuple(dict.fromkeys(end for end in ends if isinstance(end, int)))


class _ChunkProgress(Progress):
    """Reports the progress of one chunk as that of the whole file."""

    def __init__(self, progress: Progress, finished: int, total: int) -> None:
        super().__init__(quiet=True)
        self._progress, self._finished, self._total = progress, finished, total

    def update(self, done: float, total: float, unit: str, force: bool = False, **figures: float) -> None:
        self._progress.update(self._finished + done, self._total, tr("answers"), False, **figures)


def _encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer, template: ChatTemplate | None, settings: PredictSettings, context_length: int
) -> tuple[tuple[int, ...], int]:
    """The prompt as ids, and how many characters of its end were cut off."""
    budget = context_length - min(settings.max_new_tokens, context_length // 2)
    if template is None:
        ids = _encode_text(prompt.text, tokenizer)
    else:
        try:
            ids = tuple(template.render(prompt.messages, prompt.tools, prompt=True).ids)
        except UserError as error:
            raise UserError(error.what, tr("line {line}", line=prompt.line), error.hint) from error
    if len(ids) <= budget:
        return ids, 0
    if settings.cut and template is None:
        sizes = range(1, len(prompt.text))
        fits = bisect_left(sizes, True, key=lambda size: len(_encode_text(prompt.text[:size], tokenizer)) > budget)
        return _encode_text(prompt.text[:fits], tokenizer), len(prompt.text) - fits
    if settings.cut and template is not None and not prompt.tools:
        fitted = truncate(prompt.messages, template, budget, cut=True)
        return fitted.ids, fitted.cut
    what = tr(
        "the prompt is {count} tokens long, but only {budget} fit beside the answer", count=len(ids), budget=budget
    )
    hint = tr("--truncate shortens it; --max-new-tokens leaves more room")
    raise UserError(what, tr("line {line}", line=prompt.line), hint)


def _encode_text(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of a text to continue, with the begin token if the tokenizer adds one."""
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    return (*begin, *tokenizer.encode(text))


# --- files --------------------------------------------------------------------------------------------------------


def _inputs_hash(location: ModelLocation, prompts: Sequence[Prompt], settings: PredictSettings) -> str:
    """Hash of all that the answers depend on: two runs with the same hash may share their finished parts."""
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in list_model_files(location)]
    row = [str(location.weights.resolve()), states, [asdict(prompt) for prompt in prompts], asdict(settings)]
    # a path may be no UTF-8, and half a character in a prompt is refused by name when it is rendered
    text = json.dumps(row, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_same_inputs(partial: Path, inputs_hash: str) -> None:
    """Raise UserError if the answers in `partial` are of a run with other inputs."""
    file = partial / "mark"
    is_started = any(partial.glob("rows-*.jsonl"))
    if is_started and (not file.is_file() or file.read_text(encoding="utf-8") != inputs_hash):
        what = tr("an unfinished run with another model, data or settings is here")
        raise UserError(what, partial, tr("delete it, or name another --out"))
    write_text(file, inputs_hash)


def _write_answers(out: Path, rows: Sequence[Row]) -> None:
    with open_atomic(out) as file:
        if out.suffix == ".json":
            file.write(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
