"""vLLM as the engine of a model folder: started in its own environment, several times if wanted, or already running.

Sources: vLLM's OpenAI-compatible server (`/v1/completions` with token ids, its extra parameters `stop_token_ids`,
`return_token_ids`, `prompt_logprobs`, `structured_outputs`) and `vllm serve --help`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.hardware.devices import VISIBLE_GPUS, visible_gpus
from hanlin.core.i18n import tr
from hanlin.inference.backends.http.client import (
    HttpEngine,
    PostJson,
    StreamEvent,
    api_key_from_env,
    as_count,
    first_model,
)
from hanlin.inference.backends.http.process import ServerProcess, free_port, program_path
from hanlin.inference.backends.http.replicas import ReplicaPool
from hanlin.inference.protocol import (
    FinishReason,
    GenerationRequest,
    PromptScore,
    PromptScoreRequest,
    Score,
    TokenLogprobs,
)
from hanlin.models.folder.layout import CONFIG

PROGRAM_VARIABLE = "HANLIN_VLLM"
_HEALTH = "/health"
_COMPLETIONS = "/v1/completions"
_NAME = "hanlin"


class VllmEngine(HttpEngine):
    """A model folder in one or several vLLMs.

    `at`: programs to start or addresses of running ones; none: the program that HANLIN_VLLM names, else `vllm`.
    `replicas`: how many of each program are started; on a machine with GPUs each gets as many of its own as
    `tensor_parallel` times `pipeline_parallel`. `adapters`: LoRA folders by the name that requests know them by.
    `arguments` go to `vllm serve` as they are.
    """

    def __init__(
        self,
        path: Path,
        *,
        at: Sequence[str] = (),
        replicas: int = 1,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        context_length: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        arguments: Sequence[str] = (),
        batch: int | None = None,
    ) -> None:
        servers = list(at) or [os.environ.get(PROGRAM_VARIABLE) or "vllm"]
        addresses = [server for server in servers if "://" in server]
        started = [server for server in servers if "://" not in server] * replicas
        if started and addresses:
            raise UserError(tr("name either programs or addresses of vLLM"))
        key = api_key_from_env()
        if started:
            key = secrets.token_urlsafe(16)
            addresses = [f"http://127.0.0.1:{free_port()}" for _ in started]
        options = ["--served-model-name", _NAME, "--disable-uvicorn-access-log"]
        for option, value in (
            ("--tensor-parallel-size", tensor_parallel),
            ("--pipeline-parallel-size", pipeline_parallel),
            ("--max-model-len", context_length or 1),
            ("--max-num-seqs", batch or 1),
        ):
            options += [option, str(value)] if value > 1 else []
        if adapters:
            options += ["--enable-lora", "--max-lora-rank", str(_max_lora_rank(adapters)), "--lora-modules"]
            options += [f"{name}={folder.resolve()}" for name, folder in adapters.items()]
        pool = ReplicaPool(addresses, _HEALTH, is_healthy=not started, key=key)
        programs: list[ServerProcess] = []
        try:
            devices = tensor_parallel * pipeline_parallel
            for index, (server, replica) in enumerate(zip(started, pool.all, strict=False)):
                command = [program_path(server), "serve", str(path.resolve()), "--host", "127.0.0.1"]
                command += ["--port", replica.address.rpartition(":")[2], *options, *arguments]
                environment = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
                if len(started) > 1:
                    environment |= _device_environment(index, devices)
                programs.append(ServerProcess(command, environment, replica))
            for program in programs:
                program.wait_until_healthy(_HEALTH)
            model = first_model(pool)
        except BaseException:
            pool.close()
            for program in programs:
                program.close()
            raise
        config = parse_json((path / CONFIG).read_text(encoding="utf-8"))
        max_length = as_count(model.get("max_model_len")) or int(config["max_position_embeddings"])
        super().__init__(
            VllmDialect(str(model.get("id", _NAME))),
            pool,
            context_length=min(max_length, context_length or max_length),
            vocabulary=int(config["vocab_size"]),
            programs=programs,
        )

    @property
    def max_scored_length(self) -> int:
        """VLLM writes a token behind whatever it scores and refuses a prompt that leaves no place for it."""
        return self.context_length - 1


class VllmDialect:
    """See `Dialect`."""

    name = "vllm"
    health = _HEALTH
    completion_path = _COMPLETIONS

    def __init__(self, model: str) -> None:
        self._model = model

    def request_body(self, request: GenerationRequest, max_new_tokens: int) -> dict[str, Any]:
        sampling = request.sampling
        if sampling.typical_p < 1 or sampling.repeat_last_n != -1:
            raise UserError(tr("vLLM has neither typical_p nor repeat_last_n"))
        body: dict[str, Any] = {
            "model": request.adapter or self._model,
            "prompt": list(request.prompt_ids),
            "stream": True,
            "return_token_ids": True,
            "add_special_tokens": False,
            "skip_special_tokens": False,
            "max_tokens": max_new_tokens,
            "stop_token_ids": list(request.stop_ids),
            # the request says where an answer ends; only a grammar needs vLLM's own end to be able to stop
            "ignore_eos": request.constraint is None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "min_tokens": min(sampling.min_tokens, max_new_tokens),
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.logit_bias:
            body["logit_bias"] = {str(token_id): bias for token_id, bias in sampling.logit_bias}
        if sampling.top_logprobs is not None:
            body |= {"logprobs": sampling.top_logprobs, "return_tokens_as_token_ids": True}
        if request.constraint is not None:
            body["structured_outputs"] = dict(request.constraint.spec)
        return body

    def parse_event(self, event: dict[str, Any], state: dict[str, int], post: PostJson) -> StreamEvent:
        if not event.get("choices"):
            return StreamEvent()
        choice = event["choices"][0]
        finish_reason: FinishReason | None = {"stop": "stop", "length": "length", None: None}.get(
            choice["finish_reason"], "cancelled"
        )  # type: ignore[assignment]
        ids = list(choice.get("token_ids") or ())
        return StreamEvent(ids, _parse_logprobs(choice["logprobs"]) if choice.get("logprobs") else (), finish_reason)

    def score(self, prefix: Sequence[int], continuation: Sequence[int], post: PostJson) -> Score:
        body = {
            "model": self._model,
            "prompt": [*prefix, *continuation],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 1,
            "add_special_tokens": False,
        }
        rows = post(_COMPLETIONS, body)["choices"][0]["prompt_logprobs"][len(prefix) :]
        rows = [row[str(token_id)] for row, token_id in zip(rows, continuation, strict=True)]
        return Score(sum(row["logprob"] for row in rows), all(row["rank"] == 1 for row in rows))

    def score_prompt(self, request: PromptScoreRequest, post: PostJson) -> PromptScore:
        body = {
            "model": request.adapter or self._model,
            "prompt": list(request.ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": request.top_logprobs,
            "logprobs": max(1, request.top_logprobs),
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
            "ignore_eos": True,
        }
        choice = post(_COMPLETIONS, body)["choices"][0]
        scored = [
            _parse_prompt_row(row, token_id, request.top_logprobs)
            for row, token_id in zip(choice["prompt_logprobs"][1:], request.ids[1:], strict=True)
        ]
        (following,) = _parse_logprobs(choice["logprobs"])
        next_id, _ = following.top[0]
        top = following.top[: request.top_logprobs]
        return PromptScore(tuple(scored), next_id, TokenLogprobs(following.logprob, top))


def _parse_prompt_row(row: Mapping[str, Any], token_id: int, count: int) -> TokenLogprobs:
    """A place of `prompt_logprobs`: by id the log probability and rank of the likeliest tokens and of the prompt's."""
    likely = sorted((entry["rank"], int(other), float(entry["logprob"])) for other, entry in row.items())
    top = tuple((other, logprob) for rank, other, logprob in likely if rank <= count)
    return TokenLogprobs(float(row[str(token_id)]["logprob"]), top)


def _parse_logprobs(logprobs: Mapping[str, Any]) -> list[TokenLogprobs]:
    parsed = []
    for index, logprob in enumerate(logprobs["token_logprobs"]):
        top = (logprobs["top_logprobs"] or [])[index] if logprobs.get("top_logprobs") else {}
        pairs = [(int(name.removeprefix("token_id:")), value) for name, value in (top or {}).items()]
        parsed.append(TokenLogprobs(logprob, tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))))
    return parsed


def _max_lora_rank(adapters: Mapping[str, Path]) -> int:
    """The highest rank among adapters, up to the next that vLLM knows."""
    ranks = [
        parse_json((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] for folder in adapters.values()
    ]
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= max(ranks))


def _device_environment(index: int, count: int) -> dict[str, str]:
    """The GPUs of one of several vLLMs: the next `count` of those that may be used; nothing without a GPU."""
    visible_devices = visible_gpus()
    if not visible_devices:
        return {}
    devices = visible_devices[index * count : (index + 1) * count]
    if len(devices) < count:
        what = tr(
            "{count} GPUs are too few for replica {replica}: each replica needs {needed}",
            count=len(visible_devices),
            replica=index + 1,
            needed=count,
        )
        raise UserError(what, "replicas")
    return {VISIBLE_GPUS: ",".join(devices)}
