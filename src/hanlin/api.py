"""The public Python API: thin functions and classes over the packages, fetched by `import hanlin` one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hanlin.config import recipe as _recipes
from hanlin.config.recipe_file import read_recipe
from hanlin.core.errors import UserError, did_you_mean, suggest_path
from hanlin.core.i18n import tr
from hanlin.core.records import ROLES, Conversation, Document, Message, Preference, UnpairedPreference
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.step import Step

if TYPE_CHECKING:
    from hanlin.chat.template import ChatTemplate
    from hanlin.data.formats.convert import ConversionStats
    from hanlin.inference.loading import LoadedEngine
    from hanlin.inference.protocol import GenerationRequest, SamplingParams
    from hanlin.tokenizer.tokenizer import Tokenizer

Record = Document | Conversation | Preference | UnpairedPreference
MAX_NEW_TOKENS = 512
"""The longest answer of an engine, in tokens, if a call sets no other limit."""


# --- recipes ----------------------------------------------------------------------------------------------------------


class Recipe(_recipes.Recipe):
    """A checked recipe: stages in an order in which each comes after what it reads.

    Made by `load` or `from_dict`. `name`, `seed`, `stages` (a mapping from names to stages) and `until(stage)` are what
    scripts use.
    """

    __slots__ = ()

    @classmethod
    def load(cls, path: str | Path, changes: str | Sequence[str] = ()) -> Recipe:
        """Read and check a recipe file.

        Args:
            path: A YAML file.
            changes: Settings to change, such as `sft.learning_rate=1e-4` or `seed=7`.

        Raises:
            UserError: The file is not a valid recipe; the error names file and line.
        """
        return cls._of(read_recipe(Path(path), [changes] if isinstance(changes, str) else changes))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Check a recipe that is written as a dictionary, with the keys of a recipe file.

        Args:
            data: `name`, `stages` and perhaps `seed`, `root`, `launch`, `report`. Relative paths start at `root`, by
                default the working folder. A `Path` is taken for what it names, stages only as text.

        Raises:
            UserError: The data is not a valid recipe; the error names the setting.

        Example:
            `Recipe.from_dict({"stages": {"chats": {"kind": "conversations", "sources": ["./chats.json"]}}})`
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("stages"), Mapping):
            hint = tr("a recipe is a mapping with `name` and `stages`")
            raise UserError(tr("not a recipe"), "Recipe.from_dict", hint)
        return cls._of(_recipes.build_recipe(_with_texts_for_paths(data), "Recipe.from_dict"))

    @classmethod
    def _of(cls, recipe: _recipes.Recipe) -> Recipe:
        return cls(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})


def _with_texts_for_paths(data: Any) -> Any:
    """Plain data in which each `Path` is the text that names a path in recipes."""
    if isinstance(data, Path):
        return str(data) if data.is_absolute() or data.parts[:1] in (("~",), ("..",)) else f"./{data}"
    if isinstance(data, Mapping):
        return {key: _with_texts_for_paths(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_with_texts_for_paths(value) for value in data]
    return data


def _check_recipe(recipe: Any) -> None:
    if not isinstance(recipe, _recipes.Recipe):
        hint = tr("make one with Recipe.load or Recipe.from_dict")
        raise UserError(tr("not a recipe"), type(recipe).__name__, hint)


class Plan(Sequence[Step]):
    """What each stage of a recipe would do. A sequence of steps; printing it shows a table.

    A step has `stage` (with `name`, `kind` and `settings`), `state` (`done`, `resume`, `run` or `stale`), `why` and
    `key`.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: Any) -> Any:
        return self._steps[index]

    def __repr__(self) -> str:
        headings = ("stage", "kind", "state", "key", "why")
        rows = [headings, *((s.stage.name, s.stage.kind.name, s.state, s.key[:8], s.why) for s in self._steps)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class RunResult:
    """What a run made.

    Attributes:
        artifacts: The folder of each stage's result, by the stage's name.
        metrics: What each stage measured, by the stage's name.
        figures: The figures that the recipe's `report` names.
        reached: Whether every target of the report is reached (true if there is none).
        report: The report, an HTML page.
    """

    artifacts: Mapping[str, Path]
    metrics: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Any]
    reached: bool
    report: Path


def plan(recipe: _recipes.Recipe, home: str | Path = ".") -> Plan:
    """Find out what each stage of a recipe would do, and why; nothing runs.

    Args:
        recipe: The recipe.
        home: The folder of `artifacts/` and `runs/`.

    Raises:
        UserError: An input of a stage is not there.
    """
    from hanlin.pipeline.plan import plan as make_plan

    _check_recipe(recipe)
    return Plan(make_plan(recipe, Store(Path(home))))


def run(
    recipe: _recipes.Recipe, home: str | Path = ".", on_event: Callable[[str, Step], None] | None = None
) -> RunResult:
    """Run every stage of a recipe that is not done; what an interrupted run has made is kept, and the rest resumes.

    Args:
        recipe: The recipe.
        home: The folder of `artifacts/` and `runs/`.
        on_event: Called with `skip`, `start` or `made`, and the step.

    Returns:
        Folders and metrics of all stages.

    Raises:
        UserError: A stage refuses its settings or its input.
    """
    from hanlin.pipeline.run import run as run_recipe
    from hanlin.web.pages.run_report import write_report

    _check_recipe(recipe)
    store = Store(Path(home))
    steps = run_recipe(recipe, store, on_event) if on_event is not None else run_recipe(recipe, store)
    report, page = write_report(recipe, steps, store)
    return RunResult(
        artifacts={step.stage.name: store.folder(step.stage.kind.name, step.key) for step in steps},
        metrics={step.stage.name: step.manifest.metrics if step.manifest else {} for step in steps},
        figures=report.figures,
        reached=report.reached,
        report=page,
    )


# --- data -------------------------------------------------------------------------------------------------------------


def read_records(path: str | Path, on_error: Literal["raise", "skip"] = "raise") -> Iterator[Record]:
    """Read the records of a file, or of a folder such as an artifact, in any format that the data stages read.

    Args:
        path: File or folder.
        on_error: Raise the error of a row that holds no record, or skip the row.

    Returns:
        Documents, conversations, preferences or unpaired preferences, one at a time.

    Raises:
        UserError: The path cannot be read, its format is unknown, or (with `raise`) a row holds no record.
    """
    from hanlin.data.report.preview import read_first_records

    if on_error not in ("raise", "skip"):
        raise UserError(tr("`on_error` is 'raise' or 'skip', not {value!r}", value=on_error))
    path = Path(path)
    if not os.path.exists(path):
        raise UserError(tr("no such file or folder"), path, suggest_path(path), "not_found")
    for record in read_first_records(path):
        if not isinstance(record, UserError):
            yield record
        elif on_error == "raise":
            raise record


def convert(paths: str | Path | Sequence[str | Path], to: str, out: str | Path) -> list[ConversionStats]:
    """Write the records of files in the format of another tool.

    Args:
        paths: Files, folders or globs, in any format that the data stages read.
        to: `messages`, `sharegpt`, `alpaca`, `firefly` or `dpo`.
        out: A new file, `.jsonl` or `.json`.

    Returns:
        For each file, how many rows were read, kept, and dropped by reason.

    Raises:
        UserError: The format is unknown, a file cannot be read, or `out` exists.
    """
    from hanlin.data.formats.convert import convert as convert_files

    sources = [str(source) for source in ([paths] if isinstance(paths, str | Path) else paths)]
    if not sources:
        raise UserError(tr("there are no files to convert"), None, tr("name at least one"))
    return convert_files(sources, to, Path(out))


# --- engines ----------------------------------------------------------------------------------------------------------


class Engine:
    """A loaded model with its tokenizer and chat template. Made by `load_engine`; a context manager that closes it.

    Attributes:
        tokenizer: Text to token ids and back.
        context_length: The most tokens of one request, prompt and answer together.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._template: ChatTemplate | None = None
        self._closed = False
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.context_length: int = loaded.engine.context_length

    @property
    def template(self) -> ChatTemplate:
        """The model's chat template.

        Raises:
            UserError: The model has none.
        """
        if self._template is None:
            self._template = self._loaded.load_template()
        return self._template

    def chat(self, messages: Sequence[Message | Mapping[str, Any]], **sampling: Any) -> str:
        """Answer a conversation.

        Args:
            messages: Turns that end with the user's or a tool's: `Message`s, or dictionaries as OpenAI's API has them,
                with `role` and `content`.
            sampling: `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`, `presence_penalty`,
                `frequency_penalty`, `seed` or `max_new_tokens`; by default those of the model's generation settings,
                and 512 new tokens.

        Returns:
            The answer.

        Raises:
            UserError: The turns are out of order, the prompt does not fit the context, or a value is out of range.
        """
        return self._generate(self._chat_request(messages, sampling))

    def stream(self, messages: Sequence[Message | Mapping[str, Any]], **sampling: Any) -> Iterator[str]:
        """Answer a conversation piece by piece; arguments and errors as in `chat`.

        Closing the iterator ends the answer.
        """
        from contextlib import closing

        from hanlin.inference.text_stream import TextStream

        request = self._chat_request(messages, sampling)
        with closing(TextStream(self._loaded.engine, self.tokenizer, request)) as stream:
            for piece in stream:
                yield piece.text

    def complete(self, prompt: str, **sampling: Any) -> str:
        """Continue a text without the chat template; sampling and errors as in `chat`.

        The prompt begins with the model's begin-of-text token if its tokenizer adds one.
        """
        from hanlin.inference.protocol import GenerationRequest
        from hanlin.tokenizer.generation_config import read_eos_token_ids

        self._check_open()
        if not isinstance(prompt, str):
            raise UserError(tr("a prompt is a text, not {value!r}", value=prompt))
        bos = self.tokenizer.bos_id if self.tokenizer.adds_bos else None
        ids = [*([] if bos is None else [bos]), *self.tokenizer.encode(prompt)]
        eos = self.tokenizer.eos_id
        ends = {*read_eos_token_ids(self._loaded.location.settings_folder), *(() if eos is None else (eos,))}
        return self._generate(GenerationRequest(tuple(ids), tuple(sorted(ends)), self._sampling_params(sampling)))

    def close(self) -> None:
        """Free the model. Closing twice does no harm; nothing is answered after it."""
        self._closed = True
        self._loaded.engine.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UserError(tr("the engine is closed"), None, tr("load it again"))

    def _generate(self, request: GenerationRequest) -> str:
        (completion,) = self._loaded.engine.generate([request])
        return self.tokenizer.decode(completion.ids)

    def _chat_request(
        self, messages: Sequence[Message | Mapping[str, Any]], sampling: Mapping[str, Any]
    ) -> GenerationRequest:
        from hanlin.inference.protocol import GenerationRequest

        self._check_open()
        if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
            raise UserError(tr("not a list of messages: {value!r}", value=messages), None, _message_hint())
        prompt = self.template.render([_message_of(message) for message in messages], prompt=True)
        return GenerationRequest(tuple(prompt.ids), self.template.stop_ids, self._sampling_params(sampling))

    def _sampling_params(self, sampling: Mapping[str, Any]) -> SamplingParams:
        from hanlin.inference.protocol import SamplingParams
        from hanlin.tokenizer.generation_config import read_sampling_params

        known = {field.name for field in fields(SamplingParams)}
        for name in sampling:
            if name not in known:
                what = tr("there is no sampling parameter '{name}'", name=name)
                raise UserError(what, None, did_you_mean(name, known))
        defaults = {"max_new_tokens": MAX_NEW_TOKENS, **read_sampling_params(self._loaded.location.settings_folder)}
        return replace(SamplingParams(), **{**defaults, **sampling})


def load_engine(path: str | Path, engine: str = "auto", **options: Any) -> Engine:
    """Load a model for generation.

    Args:
        path: A model folder, an adapter, a GGUF file, or a folder of GGUF files (`folder:Q8_0` chooses one).
        engine: `transformers`, `llama_cpp`, `llama_server` or `vllm`; `auto` chooses by the files.
        options: Options of the engine, such as `dtype`, `device`, `context_length` or `threads`.

    Raises:
        UserError: There is no model, or the engine cannot run it.
    """
    from hanlin.inference import loading

    return Engine(loading.load_engine(*loading.parse_model_spec(path), engine, **options))


def _message_hint() -> str:
    return tr('write {"role": "user", "content": "..."}')


def _message_of(message: Message | Mapping[str, Any]) -> Message:
    """A message from a dictionary as OpenAI's API has it, with its reasoning, its calls of tools and their ids."""
    if isinstance(message, Message):
        return message
    from hanlin.chat.reasoning import REASONING_FIELDS, assistant_message
    from hanlin.data.formats.content.calls import read_calls
    from hanlin.data.ledger import Drop

    row = message if isinstance(message, Mapping) else {}
    role, text = row.get("role"), row.get("content", row.get("text"))
    calls = read_calls([row["tool_calls"]]) if role == "assistant" and row.get("tool_calls") else ()
    if calls and text is None:
        text = ""
    if role not in ROLES or not isinstance(text, str) or isinstance(calls, Drop):
        raise UserError(tr("not a message: {value!r}", value=message), None, _message_hint())
    if role == "assistant":
        reasoning = next((row[name] for name in REASONING_FIELDS if row.get(name) and isinstance(row[name], str)), "")
        return assistant_message(text, calls, reasoning)
    return Message(role, text, name=str(row.get("name") or ""), tool_call_id=str(row.get("tool_call_id") or ""))
