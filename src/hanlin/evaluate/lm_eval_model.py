"""Hanlin's engines as a model of lm-evaluation-harness, so that its own tasks score every kind of model alike.

    from hanlin.evaluate.lm_eval_model import HanlinLM
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

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine, load_engine, parse_model_spec
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.tokenizer.generation_config import read_eos_token_ids

_MAX_NEW_TOKENS = 256  # lm-evaluation-harness's default


@register_model("hanlin")
class HanlinLM(TemplateLM):  # type: ignore[misc]
    """A model folder, adapter, GGUF file or quantized folder.

    Args:
        path: As `hanlin evaluate --model` takes it, `folder:Q8_0` for one of several GGUF files.
        engine: Name of the engine, or `auto`.
        dtype: Number format of the weights.
        loaded: An engine that is open already, instead of `path`.
        **options: lm-evaluation-harness's own (`batch_size`, `device`, ...); not needed here.
    """

    def __init__(
        self,
        path: str = "",
        engine: str = "auto",
        dtype: str = "float32",
        loaded: LoadedEngine | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if loaded is None:
            folder, file = parse_model_spec(path)
            loaded = load_engine(folder, file, engine, dtype=dtype)
        self.loaded = loaded

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        tokenizer = self.loaded.tokenizer
        found = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
        if found is None:
            raise UserError(tr("the tokenizer has no token to begin a text with"), tokenizer.folder)
        return found

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
        """The most tokens of a request."""
        return self.loaded.engine.context_length

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text, with the begin token if the tokenizer adds one and it does not stand there already."""
        tokenizer = self.loaded.tokenizer
        adds = tokenizer.adds_bos if add_special_tokens is None else add_special_tokens and tokenizer.adds_bos
        ids = tokenizer.encode(string)
        begin = tokenizer.bos_id
        return [begin, *ids] if adds and begin is not None and ids[:1] != [begin] else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = []
        for _, context, continuation in requests:
            whole = [*context, *continuation][-self.max_length :]  # what is too long loses its beginning
            split = max(1, len(whole) - len(continuation))
            pairs.append((whole[:split], whole[split:]))
        return [(score.logprob, score.greedy) for score in self.loaded.engine.score(pairs)]

    def loglikelihood_rolling(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[float]:
        """The log likelihood of each whole text, in the windows of lm-evaluation-harness's `hf` model, each one token
        shorter, which is what an engine's context holds.
        """
        totals = []
        for (text,) in (request.args for request in requests):
            ids = self.tok_encode(text)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length - 1, context_len=1)
            pairs = [make_disjoint_window(window) for window in windows]
            totals.append(sum(score.logprob for score in self.loaded.engine.score(pairs)))
        return totals

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate an answer to each context, up to the first of its texts that end one."""
        tokenizer, engine = self.loaded.tokenizer, self.loaded.engine
        ends = (tokenizer.eos_id, *read_eos_token_ids(self.loaded.location.folder))
        stops = tuple(dict.fromkeys(end for end in ends if isinstance(end, int)))
        prepared, untils = [], []
        for context, options in (request.args for request in requests):
            sampling = _sampling(options)
            until = options.get("until") or []
            room = self.max_length - sampling.max_new_tokens
            ids = self.tok_encode(context)[-max(1, room) :]
            prepared.append(GenerationRequest(tuple(ids), stops, sampling))
            untils.append([until] if isinstance(until, str) else list(until))
        answers = []
        for completion, until in zip(engine.generate(prepared, Progress(quiet=True)), untils, strict=True):
            text = tokenizer.decode(completion.ids)
            for stop in until:
                text = text.split(stop)[0] if stop else text
            answers.append(text)
        return answers

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text through the model's own template."""
        template = self.loaded.load_template()
        turns = [Message(turn["role"], turn["content"]) for turn in chat_history]  # type: ignore[arg-type]
        return tokenizer_text(template.render(turns, prompt=add_generation_prompt).ids, self.loaded)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the template, for the record."""
        return self.loaded.load_template().source if chat_template else ""


def tokenizer_text(ids: Sequence[int], loaded: LoadedEngine) -> str:
    """Ids as text with their special tokens."""
    return loaded.tokenizer.decode(ids, skip_special=False)


def _sampling(options: Mapping[str, Any]) -> SamplingParams:
    """The sampling that a task asks for: greedy unless it says `do_sample`."""
    count = int(options.get("max_gen_toks", options.get("max_new_tokens", _MAX_NEW_TOKENS)))
    if not options.get("do_sample"):
        return SamplingParams(max_new_tokens=count)
    return SamplingParams(
        max_new_tokens=count,
        temperature=float(options.get("temperature", 1.0)),
        top_p=float(options.get("top_p", 1.0)),
        top_k=int(options.get("top_k", 0)),
        seed=42,
    )
