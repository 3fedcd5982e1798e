"""Any `llama-server` as the engine of a GGUF file: a native or GPU build, or one that runs elsewhere.

Sources: `tools/server/README.md` of llama.cpp (`/completion`, `/props`, `/tokenize`).

Differences from the embedded engine: the server ends answers at its own end tokens as well as at the request's; seeds
give other answers; presence and frequency penalties count the prompt too; no log probabilities and no scores.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.backends.http.client import (
    HttpEngine,
    PostJson,
    StreamEvent,
    api_key_from_env,
    as_count,
    fetch_from_any,
    first_model,
)
from hanlin.inference.backends.http.process import ServerProcess, free_port, program_path
from hanlin.inference.backends.http.replicas import ReplicaPool
from hanlin.inference.protocol import FinishReason, GenerationRequest, PromptScore, PromptScoreRequest, Score
from hanlin.models.folder.gguf import find_gguf_files

_FINISH: dict[str, FinishReason] = {"limit": "length", "eos": "stop", "word": "stop"}
_HEALTH = "/health"
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
_WITH_TYPICAL_P = ["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"]
"""The orders of `inference.sampler`; llama.cpp's own is the second for every request."""


class LlamaServer(HttpEngine):
    """A GGUF file in one or several `llama-server`s.

    `at`: programs to start (each gets the file) or addresses of running ones. `context_length`: of one request.
    `parallel`: how many sequences share a step. `arguments` go to a program that is started as they are.
    """

    def __init__(
        self,
        path: Path,
        *,
        at: Sequence[str] = ("llama-server",),
        context_length: int | None = None,
        parallel: int = 16,
        threads: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        programs: list[ServerProcess] = []
        key = api_key_from_env()
        addresses = [server for server in at if "://" in server]
        started = [server for server in at if "://" not in server]
        if started:
            if addresses:
                what = tr("name either programs or addresses of llama-server")
                raise UserError(what, hint=" ".join(at))
            key = secrets.token_urlsafe(16)
            addresses = [f"http://127.0.0.1:{free_port()}" for _ in started]
        replicas = ReplicaPool(addresses, _HEALTH, is_healthy=not started, key=key)
        try:
            for server, replica in zip(started, replicas.all, strict=False):
                port = replica.address.rpartition(":")[2]
                command = [
                    program_path(server),
                    "--model",
                    str(_single_gguf_file(path)),
                    "--host",
                    "127.0.0.1",
                    "--port",
                    port,
                ]
                context = parallel * context_length if context_length else 0
                command += ["--parallel", str(parallel), "--ctx-size", str(context)]
                command += ["--threads", str(threads)] if threads else []
                programs.append(ServerProcess([*command, *arguments], {"LLAMA_API_KEY": key}, replica))
            for program in programs:
                program.wait_until_healthy(_HEALTH)
            properties = fetch_from_any(replicas, "/props")
            model = first_model(replicas)
        except BaseException:
            replicas.close()
            for program in programs:
                program.close()
            raise
        settings, meta = properties.get("default_generation_settings"), model.get("meta")
        of_one = as_count(settings.get("n_ctx")) if isinstance(settings, dict) else 0
        entries = as_count(meta.get("n_vocab")) if isinstance(meta, dict) else 0
        super().__init__(
            LlamaServerDialect(of_one),
            replicas,
            context_length=min(of_one, context_length or of_one),
            vocabulary=entries or 2**31,
            programs=programs,
        )


class LlamaServerDialect:
    """See `Dialect`."""

    name = "llama_server"
    health = _HEALTH
    completion_path = "/completion"

    def __init__(self, context: int) -> None:
        self._context_length = context

    def request_body(self, request: GenerationRequest, max_new_tokens: int) -> dict[str, Any]:
        sampling = request.sampling
        if sampling.top_logprobs is not None:
            raise UserError(tr("llama-server gives no log probabilities here"))
        if sampling.min_tokens:
            raise UserError(tr("llama-server has no min_tokens"))
        body: dict[str, Any] = {
            "prompt": list(request.prompt_ids),
            "stream": True,
            "return_tokens": True,
            "cache_prompt": True,
            "n_predict": max_new_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": self._context_length if sampling.repeat_last_n < 0 else sampling.repeat_last_n,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "typical_p": sampling.typical_p,
            "samplers": _WITH_TYPICAL_P if sampling.typical_p < 1 else _SAMPLERS,
            "ignore_eos": not request.stop_ids,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.logit_bias:
            body["logit_bias"] = [list(pair) for pair in sampling.logit_bias]
        if request.constraint is not None:
            body |= _constraint_fields(request.constraint.spec)
        return body

    def parse_event(self, event: dict[str, Any], state: dict[str, int], post: PostJson) -> StreamEvent:
        if event.get("stop"):
            cached = (event.get("timings") or {}).get("cache_n")
            finish_reason = _FINISH.get(str(event.get("stop_type")), "stop")
            return StreamEvent(finish_reason=finish_reason, cached_tokens=cached if isinstance(cached, int) else None)
        ids = list(event.get("tokens") or ())
        count = int(event.get("tokens_predicted") or 0)
        if ids and count - state.get("count", 0) > 1:
            # while a character was half written the server sent nothing, and now the last of its ids alone
            spelled = {"content": event["content"], "add_special": False, "parse_special": False}
            ids = post("/tokenize", spelled)["tokens"]
        state["count"] = count
        return StreamEvent(ids)

    def score(self, prefix: Sequence[int], continuation: Sequence[int], post: PostJson) -> Score:
        raise _no_scores()

    def score_prompt(self, request: PromptScoreRequest, post: PostJson) -> PromptScore:
        raise _no_scores()


def _no_scores() -> UserError:
    return UserError(tr("llama-server cannot score a given text"), hint=tr("use the engine llama_cpp"))


def _constraint_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that constrain an answer as `Constraint.spec` says.

    Raises:
        UserError: For what llama-server cannot do.
    """
    if "json" in spec:
        return {"json_schema": spec["json"]}
    if "choice" in spec:
        literals = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in spec["choice"])
        return {"grammar": f"root ::= {literals}"}
    if "grammar" in spec and "::=" in spec["grammar"]:
        return {"grammar": spec["grammar"]}
    raise UserError(tr("llama-server takes JSON schemas, choices and GBNF grammars only"))


def _single_gguf_file(path: Path) -> Path:
    files = find_gguf_files(path)
    if len(files) != 1:
        raise UserError(tr("name one GGUF file"), path)
    return files[0]
