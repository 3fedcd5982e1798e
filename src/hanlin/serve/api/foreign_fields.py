"""Request fields of other servers that are not implemented here, each with the values that ask for nothing.

A request with any other value is rejected by name, because ignoring the field would give another answer than was asked
for. Fields that change no answer (`user`, `metadata`, `cache_prompt`, ...) are not listed: they are ignored.

Sources: vLLM's OpenAI-compatible server (`SamplingParams`, chat and completion extras), llama.cpp's `llama-server`
(`/completion`, `/v1/chat/completions`), SGLang's and TGI's extras, OpenAI's reference, Ollama's `api/types.go`.
"""

from __future__ import annotations

from typing import Any

_NAMES_OF_LIMITS = ("max_new_tokens", "max_gen_len", "max_tokens_to_sample", "maxOutputTokens", "max_length")
"""What others call the longest answer: ignored, a client would wait for an answer as long as the context."""

FOREIGN_SAMPLING_FIELDS: dict[str, tuple[Any, ...]] = {
    # where a body does not have them
    **dict.fromkeys((*_NAMES_OF_LIMITS, "max_completion_tokens", "max_output_tokens", "min_new_tokens"), (None,)),
    "stop_sequences": (None, []),
    # vLLM
    "guided_whitespace_pattern": (None,),
    "structural_tag": (None,),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "truncate_prompt_tokens": (None,),
    "prompt_logprobs": (None, 0, False),
    "use_beam_search": (None, False),
    "best_of": (None, 1),
    "length_penalty": (None, 1),
    "early_stopping": (None, False),
    "thinking_token_budget": (None, -1),
    "return_token_ids": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "prompt_embeds": (None,),
    "kv_transfer_params": (None,),
    "logits_processors": (None, []),
    "vllm_xargs": (None, {}),
    # llama.cpp
    "mirostat": (None, 0),
    "dry_multiplier": (None, 0),
    "xtc_probability": (None, 0),
    "dynatemp_range": (None, 0),
    "top_n_sigma": (None, -1, 0),
    "tfs_z": (None, 1),
    "adaptive_target": (None, -1),
    "n_probs": (None, 0),
    "penalize_nl": (None, True),
    "penalty_prompt": (None,),
    "samplers": (None, []),
    "grammar_lazy": (None, False),
    "n_indent": (None, 0),
    "t_max_predict_ms": (None, 0, -1),
    "n_discard": (None, 0),
    "image_data": (None, []),
    "input_prefix": (None, ""),
    "input_suffix": (None, ""),
    "input_extra": (None, []),
    # SGLang, TGI and others
    "no_stop_trim": (None, False),
    "stop_regex": (None, [], ""),
    "custom_logit_processor": (None,),
    "custom_params": (None, {}),
    "do_sample": (None, True),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1),
    "penalty_alpha": (None, 0),
    "num_beams": (None, 1),
    "top_a": (None, 0),
    "watermark": (None, False),
    "truncate": (None, False),
}
"""For every API that takes sampling fields beside the prompt."""

FOREIGN_CHAT_FIELDS: dict[str, tuple[Any, ...]] = {
    "chat_template": (None, ""),
    "documents": (None, []),
    "tool_prompt": (None, ""),
    "echo": (None, False),
    "mm_processor_kwargs": (None, {}),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
    # DashScope, Dify, xAI, OpenRouter and Mistral
    "enable_search": (None, False),
    "web_search": (None, False),
    "search_parameters": (None,),
    "plugins": (None, []),
    "transforms": (None, []),
    "models": (None, []),
    "random_seed": (None,),
    "safe_prompt": (None, False),
    "suffix": (None, ""),
    "prompt": (None, ""),
    "input": (None, ""),
    "instructions": (None, ""),
    "system": (None, ""),
}
"""For chat completions."""

FIELDS_OF_OTHER_APIS: dict[str, tuple[Any, ...]] = {
    # what the model reads
    **dict.fromkeys(("messages", "input", "history", "context", "images"), (None, "", [])),
    **dict.fromkeys(("prompt", "suffix", "instructions", "system", "system_prompt", "template"), (None, "", [])),
    "previous_response_id": (None,),
    "raw": (None, False),
    "echo": (None, False),
    "truncation": (None, "disabled"),
    # what it may call, and what it must write
    **dict.fromkeys(("tools", "functions"), (None, [])),
    **dict.fromkeys(("tool_choice", "function_call"), (None, "none", "auto")),
    "parallel_tool_calls": (None, True),
    "response_format": (None, {"type": "text"}),
    "text": (None, {}, {"format": {"type": "text"}}),
    "format": (None, ""),
    "output_format": (None,),
    "output_config": (None, {}),
    # how it writes, and what of it is told
    "options": (None, {}),
    "num_predict": (None, -1, -2),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "think": (None,),
    "thinking": (None,),
    "reasoning": (None, {}),
}
"""Fields of one API of this server that another of its APIs does not have, or calls otherwise: a client that takes one
for the other would get another answer than it asked for.
"""

FOREIGN_THINKING_FIELDS: dict[str, tuple[Any, ...]] = {
    "chat_template_kwargs": (None, {}),
    "enable_thinking": (None,),
    "reasoning_effort": (None,),
}
"""For the APIs that have their own field for thinking: these are of chat completions."""

FOREIGN_OLLAMA_FIELDS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "repeat_last_n",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "num_predict",
            "num_ctx",
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            *_NAMES_OF_LIMITS,
            "seed",
            "stop",
            "response_format",
            "tool_choice",
            "grammar",
            "json_schema",
            "logit_bias",
        ),
        (None,),
    ),
    "shift": (None, False),
    "n": (None, 1),
    **FOREIGN_THINKING_FIELDS,
}
"""For Ollama's chat and generation: options have their place in `options`, the rest is not Ollama's."""

FOREIGN_OLLAMA_OPTIONS: dict[str, tuple[Any, ...]] = {
    "mirostat": (None, 0),
    "tfs_z": (None, 1),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"), (None,)),
    **dict.fromkeys((*_NAMES_OF_LIMITS, "min_new_tokens"), (None,)),
    "stop_sequences": (None, []),
    **dict.fromkeys(("repetition_penalty", "logit_bias", "grammar", "json_schema", "format"), (None,)),
    "min_tokens": (None, 0),
    "ignore_eos": (None, False),
    "stop_token_ids": (None, []),
    "n": (None, 1),
    "dry_multiplier": (None, 0),
    "xtc_probability": (None, 0),
}
"""For Ollama's `options`. `mirostat_tau` and `mirostat_eta` mean nothing without `mirostat`."""
