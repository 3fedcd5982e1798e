"""Hanlin's engines as a model of lm-evaluation-harness, so that its own tasks score every kind of model alike.

    from hanlin.evaluate.harness.model import HanlinLM
    lm_eval.simple_evaluate(HanlinLM("finished:Q8_0"), tasks=["arc_easy"])

Or on its command line, after this module was imported: `--model hanlin --model_args path=finished:Q8_0`. Needs the
package lm_eval (the extra `lm-eval`). Source of the interface: lm_eval 0.4.13, `api/model.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.evaluate.harness.answers import AnswerStore, Keep
from hanlin.evaluate.tasks.generation import plain_stop_ids, write_answers
from hanlin.evaluate.tasks.respond import check_number
from hanlin.inference.loading import LoadedEngine, load_engine, parse_model_spec
from hanlin.inference.protocol import SamplingParams, Score

MAX_NEW_TOKENS = 256
"""Of an answer, if its task does not say: lm-evaluation-harness's default."""
IGNORED_OPTIONS = ("batch_size", "max_batch_size")
"""Options that lm-evaluation-harness hands to every model; an engine finds its own batches."""

_LIMIT_OPTIONS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the longest answer; the first that is there counts."""
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_READ_OPTIONS = (*_LIMIT_OPTIONS, *_PENALTIES, "until", "do_sample", "temperature", "top_p", "top_k", "min_p")
_NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "early_stopping": (None, False),
    "length_penalty": (None, 1),
    "use_cache": (None, True, False),
}
"""Options of transformers, with the values that change no answer."""


@register_model("hanlin")
class HanlinLM(TemplateLM):  # type: ignore[misc]
    """A model folder, an adapter with its base, a GGUF file or a quantized folder.

    Args:
        path: As `hanlin evaluate --model` takes it, `folder:Q8_0` for one of several GGUF files. An adapter's folder
            names its base itself.
        engine: Name of the engine, or `auto`.
        dtype: Number format of the weights.
        loaded: An engine that is open already, instead of `path`.
        store: Where answers are kept; by default nowhere.
        device: Of the transformers engine: `cpu`, `cuda`, ...
        **options: `batch_size` and `max_batch_size`, which lm-evaluation-harness always hands over, count for nothing.

    Attributes:
        truncated: Requests that lost their beginning because they are longer than the context.

    Raises:
        UserError: There is no model, or an option is unknown.
    """

    def __init__(
        self,
        path: str = "",
        engine: str = "auto",
        dtype: str = "float32",
        loaded: LoadedEngine | None = None,
        store: AnswerStore | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_options(options, ("path", "engine", "dtype", "device"))
        if loaded is None:
            folder, file = parse_model_spec(path)
            others: dict[str, Any] = {"device": device} if device else {}
            loaded = load_engine(folder, file, engine, dtype=dtype, **others)
        self.loaded = loaded
        self.truncated = 0
        self._store = store or AnswerStore()
        self._conversations: dict[str, tuple[int, ...]] = {}

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        tokenizer = self.loaded.tokenizer
        end = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
        if end is None:
            raise UserError(tr("the tokenizer has no token to begin a text with"), tokenizer.folder)
        return end

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a continuation without a context."""
        begin = self.loaded.tokenizer.bos_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer in caches of requests."""
        return str(Path(self.loaded.location.folder).resolve()).replace("/", "__")

    @property
    def max_length(self) -> int:
        """The most ids that the model runs for a score, as for lm-evaluation-harness's `hf` model."""
        return self.loaded.engine.max_scored_length - 1

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text, with the begin token if the tokenizer adds one and it does not stand there already.

        A conversation that `apply_chat_template` made keeps its special tokens; in any other text they stay text.
        """
        if string in self._conversations:
            return list(self._conversations[string])
        tokenizer = self.loaded.tokenizer
        adds = tokenizer.adds_bos if add_special_tokens is None else add_special_tokens and tokenizer.adds_bos
        ids = tokenizer.encode(string)
        begin = tokenizer.bos_id
        return [begin, *ids] if adds and begin is not None and ids[:1] != [begin] else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Of a conversation exactly the ids that it is served with, then the answer; of a text as in the base class."""
        if context in self._conversations:
            answer = self.loaded.tokenizer.encode(continuation, continuation=True)
            return list(self._conversations[context]), answer
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        return context_ids, continuation_ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score the continuation of each context: its log probability, and whether greedy decoding gives it."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        def work(chunk: Sequence[tuple[Any, Sequence[int], Sequence[int]]], keep: Keep) -> None:
            def on_score(index: int, score: Score) -> None:
                check_number(score, None)
                keep(index, [score.logprob, score.greedy])

            self.loaded.engine.score([self._fit(context, scored) for _, context, scored in chunk], on_score)

        return [(float(logprob), bool(greedy)) for logprob, greedy in self._store.ask("scores", requests, work)]

    def _fit(self, context: Sequence[int], scored: Sequence[int]) -> tuple[list[int], list[int]]:
        """A pair without the beginning that does not fit: `max_length` ids, and the last, which is not run."""
        whole = [*context, *scored]
        kept = whole[-(self.max_length + 1) :]
        self.truncated += len(kept) < len(whole)
        split = max(1, len(kept) - len(scored))
        return kept[:split], kept[split:]

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = True) -> list[float]:
        """The log likelihood of each whole text, in the windows of lm-evaluation-harness's `hf` model."""
        texts = [text for (text,) in (request.args for request in requests)]

        def work(chunk: Sequence[str], keep: Keep) -> None:
            windows = [
                (index, make_disjoint_window(window))
                for index, text in enumerate(chunk)
                for window in get_rolling_token_windows(
                    self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
                )
            ]
            totals = [0.0] * len(chunk)
            scores = self.loaded.engine.score([pair for _, pair in windows])
            for (index, _), score in zip(windows, scores, strict=True):
                check_number(score, None)
                totals[index] += score.logprob
            for index, total in enumerate(totals):
                keep(index, total)

        return [float(total) for total in self._store.ask("texts", texts, work)]

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = True) -> list[str]:
        """Generate an answer to each context, up to the first of its texts that end one.

        A request that a task repeats is sampled with another seed each time.

        Raises:
            UserError: A task wants answers that are as long as the model's context.
        """
        asked: list[tuple[str, Mapping[str, Any], int]] = []
        repeats: dict[int, int] = {}
        context_length = self.loaded.engine.context_length
        for request in requests:
            context, options = request.args
            repeats[id(request)] = repeat = repeats.get(id(request), -1) + 1
            check_room(read_sampling(options), context_length)
            asked.append((context, options, repeat))
        stops = plain_stop_ids(self.loaded)

        def work(chunk: Sequence[tuple[str, Mapping[str, Any], int]], keep: Keep) -> None:
            groups: dict[SamplingParams, list[int]] = {}
            for index, (_, options, repeat) in enumerate(chunk):
                groups.setdefault(read_sampling(options, repeat), []).append(index)
            for sampling, indices in groups.items():
                room = context_length - sampling.max_new_tokens
                prompts = []
                for index in indices:
                    ids = self.tok_encode(chunk[index][0])
                    self.truncated += len(ids) > room
                    prompts.append((index, ids[-room:]))
                untils = {index: read_until(chunk[index][1]) for index in indices}
                write_answers(
                    self.loaded,
                    prompts,
                    self._stop_ids(chunk[indices[0]][0], stops),
                    sampling,
                    lambda index, text, untils=untils: find_first(text, untils[index]),  # type: ignore[misc]
                    lambda index, text, finish, tokens: keep(index, text),
                    in_rounds=any(untils.values()),
                )

        return [str(text) for text in self._store.ask("answers", asked, work, size=16)]

    def _stop_ids(self, context: str, stops: tuple[int, ...]) -> tuple[int, ...]:
        if context not in self._conversations:
            return stops
        return tuple(dict.fromkeys((*stops, *self.loaded.load_template().stop_ids)))

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text through the model's own template; its ids are kept, with their special tokens.

        Without a generation prompt the last turn is the beginning of the answer, which is continued.
        """
        template = self.loaded.load_template()
        turns = [Message(turn["role"], turn["content"]) for turn in chat_history]  # type: ignore[arg-type]
        begun = "" if add_generation_prompt else turns.pop().text
        ids = [*template.render(turns, prompt=True).ids]
        if begun:
            ids += self.loaded.tokenizer.encode(begun, continuation=True)
        text = self.loaded.tokenizer.decode(ids, skip_special=False)
        self._conversations[text] = tuple(ids)
        return text

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template, for the record."""
        return self.loaded.load_template().source if chat_template else ""


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise UserError for an option of a model that nobody knows."""
    for name in options:
        if name not in IGNORED_OPTIONS:
            raise UserError(tr("there is no option '{name}'", name=name), "--model_args", did_you_mean(name, known))


def check_room(sampling: SamplingParams, context_length: int) -> None:
    """Raise UserError if an answer as long as a task wants it leaves no room for the question."""
    if sampling.max_new_tokens >= context_length:
        what = tr(
            "a task wants answers of {tokens} tokens, but the context holds {context_length} with the question",
            tokens=sampling.max_new_tokens,
            context_length=context_length,
        )
        raise UserError(what, "max_new_tokens", tr("set `max_new_tokens` to less"))


def read_until(options: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer."""
    until = options.get("until") or []
    return [text for text in ([until] if isinstance(until, str) else list(until)) if text]


def find_first(text: str, until: Sequence[str]) -> int | None:
    """Where the first text that ends an answer begins; None if there is none."""
    return min((place for stop in until if (place := text.find(stop)) >= 0), default=None)


def read_sampling(options: Mapping[str, Any], repeat: int = 0) -> SamplingParams:
    """The sampling that a task asks for.

    Answers are greedy unless it says `do_sample`, or a temperature above 0 and nothing of `do_sample`, as
    lm-evaluation-harness has it (0.4.13, `models/utils.py`, `normalize_gen_kwargs`).

    Raises:
        UserError: An option is not known here: left out, it would give other answers than were asked for.
    """
    for name, value in options.items():
        if name not in _READ_OPTIONS and value not in _NEUTRAL_OPTIONS.get(name, (None,)):
            what = tr("a task asks for answers with `{name}: {value}`, which is not supported", name=name, value=value)
            raise UserError(what, "generation_kwargs", did_you_mean(name, _READ_OPTIONS))
    limits = [options[name] for name in _LIMIT_OPTIONS if options.get(name) is not None]
    temperature = options.get("temperature")
    chosen: dict[str, Any] = {"max_new_tokens": int(limits[0]) if limits else MAX_NEW_TOKENS}
    chosen |= {name: float(options[name]) for name in _PENALTIES if options.get(name) is not None}
    do_sample = options.get("do_sample")
    if not (bool(temperature) if do_sample is None else do_sample):
        return SamplingParams(**chosen)
    return SamplingParams(
        **chosen,
        temperature=1.0 if temperature is None else float(temperature),
        top_p=float(options.get("top_p", 1.0)),
        top_k=max(0, int(options.get("top_k") or 0)),
        min_p=float(options.get("min_p") or 0.0),
        seed=42 + repeat,
    )
