"""Requests in the form of editors, agents and chat pages: fields and headers of their published sources, own texts."""

from __future__ import annotations

from typing import Any

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages?beta=true"
BEARER = {"authorization": "Bearer none"}
CACHED = {"cache_control": {"type": "ephemeral"}}
READ_SCHEMA: Any = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "文件的路径"},
        "行": {"type": ["array", "null"], "items": {"type": "integer"}},
        "mode": {"anyOf": [{"enum": ["文本", "hex"]}, {"type": "null"}], "default": None},
    },
    "required": ["path"],
    "additionalProperties": False,
}
READ = {"name": "read_file", "description": "读文件", "parameters": READ_SCHEMA}
TOOL = {"type": "function", "function": READ}
NEUTRAL: dict[str, Any] = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
WITH_TOOL: dict[str, Any] = {"tools": [TOOL], "stream_options": {"include_usage": True}}
LOOSE_TOOL = {"type": "function", "function": {**READ, "strict": False}}
SYSTEM = {"role": "system", "content": "你在编辑器里工作。"}
QUESTION = {"role": "user", "content": "读一下 a.py"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a.py"}'}}
HISTORY: list[dict[str, Any]] = [
    SYSTEM,
    QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
]
OLLAMA_HISTORY: list[dict[str, Any]] = [
    SYSTEM,
    QUESTION,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "function": {"name": "read_file", "arguments": {"path": "a.py"}}}],
        "thinking": None,
    },
    {"role": "tool", "tool_name": "read_file", "content": "print(1)"},
]

SHAPES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "Continue, chat": (
        CHAT,
        {**BEARER, "api-key": "none", "x-api-key": "none"},
        {
            "messages": [
                SYSTEM,
                {"role": "user", "content": [{"type": "text", "text": "读一下 a.py"}]},
                {"role": "assistant", "content": " ", "tool_calls": [CALL]},
                {"role": "tool", "content": "print(1)", "tool_call_id": "call_1"},
            ],
            "max_tokens": 8,
            "temperature": 0.2,
            "top_p": None,
            "frequency_penalty": None,
            "presence_penalty": None,
            "stop": None,
            "stream_options": {"include_usage": True},
            "parallel_tool_calls": False,
            "tools": [LOOSE_TOOL],
        },
    ),
    "Continue, an edit with a prediction": (
        CHAT,
        BEARER,
        {
            "messages": [{"role": "user", "content": "改名"}],
            "max_tokens": 8,
            "stop": ["\n\n\n", "```"],
            "prediction": {"type": "content", "content": "def f():\n    pass\n"},
        },
    ),
    "Continue, Ollama": (
        "/api/chat",
        {},
        {
            "messages": [SYSTEM, QUESTION],
            "options": {"num_predict": 8, "stop": ["</s>"], "num_ctx": 8192, "temperature": 0.1, "use_mmap": True},
            "keep_alive": 1800,
            "tools": [TOOL],
        },
    ),
    "Continue, completion of raw text": (
        "/api/generate",
        {},
        {
            "prompt": "def f(",
            "raw": True,
            "options": {"num_predict": 8, "stop": "\n\n", "num_ctx": 8192},
            "keep_alive": 1800,
        },
    ),
    "Cline": (
        CHAT,
        {**BEARER, "x-stainless-lang": "js", "user-agent": "OpenAI/JS 4.96.0"},
        {
            "messages": [
                SYSTEM,
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "<task>\n读\n</task>"}, {"type": "text", "text": "# 时间"}],
                },
                {"role": "assistant", "content": "好。", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
                {"role": "user", "content": [{"type": "text", "text": "# 时间"}]},
            ],
            "temperature": 0,
            "max_tokens": 8,
            "reasoning_effort": "medium",
            **WITH_TOOL,
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        },
    ),
    "Cline, Ollama": (
        "/api/chat",
        BEARER,
        {"messages": [SYSTEM, QUESTION], "options": {"num_ctx": 32768, "num_predict": 8}},
    ),
    "Cline, Anthropic": (
        MESSAGES,
        {"x-api-key": "none", "anthropic-version": "2023-06-01", "anthropic-beta": "prompt-caching-2024-07-31"},
        {
            "max_tokens": 8,
            "temperature": 0,
            "system": [{"type": "text", "text": "你在编辑器里工作。", **CACHED}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "读一下 a.py", **CACHED}]}],
            "tools": [{"name": "read_file", "description": "读文件", "input_schema": READ_SCHEMA}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
    ),
    "Dify": (
        CHAT,
        {**BEARER, "content-type": "application/json"},
        {
            "messages": [SYSTEM, {"role": "user", "content": "你好", "name": "小王"}],
            "temperature": 0.7,
            **NEUTRAL,
            "max_tokens": 8,
            "response_format": {"type": "text"},
            "stop": ["\nObservation"],
            "tools": [TOOL],
            "tool_choice": "auto",
            "user": "6a7b",
            "stream_options": {"include_usage": True},
        },
    ),
    "Dify, thinking off in every way that it knows": (
        CHAT,
        BEARER,
        {
            "messages": [{"role": "user", "content": "ping"}],
            "max_tokens": 5,
            "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
            "thinking": {"type": "disabled"},
            "enable_thinking": False,
            "reasoning_format": "auto",
            "web_search": False,
        },
    ),
    "Cherry Studio": (
        CHAT,
        {**BEARER, "http-referer": "https://cherry-ai.com", "x-title": "Cherry Studio"},
        {
            "messages": [{**SYSTEM, "role": "developer"}, QUESTION],
            "temperature": 1,
            "top_p": 1,
            "max_tokens": 8,
            **WITH_TOOL,
            "service_tier": "auto",
            "verbosity": "low",
            "thinking_budget": 4096,
            "incremental_output": True,
        },
    ),
    "Cherry Studio, Responses": (
        RESPONSES,
        BEARER,
        {
            "input": [
                {"role": "developer", "content": "你是助手。"},
                {"role": "user", "content": [{"type": "input_text", "text": "你好"}]},
                {"role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "你好。"}]},
                {"role": "user", "content": [{"type": "input_text", "text": "在吗"}]},
            ],
            "temperature": 1,
            "max_output_tokens": 8,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "text": {"verbosity": "high"},
            "include": ["reasoning.encrypted_content"],
            "service_tier": "auto",
            "store": False,
        },
    ),
    "NextChat": (
        CHAT,
        {**BEARER, "accept": "application/json", "x-requested-with": "XMLHttpRequest"},
        {
            "messages": [
                {"role": "system", "content": "\n你是助手。\n"},
                {"role": "assistant", "content": "有什么可以帮你的吗"},
                {"role": "user", "content": "你好"},
            ],
            "temperature": 0.5,
            **NEUTRAL,
            "max_completion_tokens": 8,
            "tools": [TOOL],
        },
    ),
    "LobeChat": (
        CHAT,
        {**BEARER, "accept": "*/*", "x-stainless-runtime": "node"},
        {
            "messages": [*HISTORY, {"role": "user", "content": "再来"}],
            "max_tokens": 8,
            "temperature": 1,
            **NEUTRAL,
            **WITH_TOOL,
            "user": "user_2a",
            "enabledSearch": False,
        },
    ),
    "LobeChat, Ollama": (
        "/api/chat",
        {"user-agent": "ollama-js/0.5.16"},
        {
            "messages": [{"content": "你好", "role": "user"}],
            "options": {
                "frequency_penalty": 0,
                "presence_penalty": 0,
                "temperature": 0.5,
                "top_p": 1,
                "num_predict": 8,
            },
            "tools": [TOOL],
        },
    ),
    "Open WebUI": (
        CHAT,
        {
            **BEARER,
            "x-openwebui-user-name": "%E5%B0%8F%E7%8E%8B",
            "x-openwebui-user-id": "1",
        },
        {
            "messages": [SYSTEM, QUESTION, {"role": "assistant", "content": "好", "tool_calls": []}, QUESTION],
            "max_tokens": 8,
            "seed": 0,
            "stop": ["###"],
            "logit_bias": {},
            "reasoning_effort": "low",
            **WITH_TOOL,
            "metadata": {"variables": {}},
        },
    ),
    "Open WebUI, Ollama": (
        "/api/chat",
        {"x-openwebui-user-name": "%E5%B0%8F%E7%8E%8B"},
        {
            "messages": [SYSTEM, {**QUESTION, "images": []}],
            "options": {
                "mirostat": 0,
                "mirostat_eta": 0.1,
                "mirostat_tau": 5,
                "num_keep": 24,
                "num_batch": 512,
                "num_thread": 2,
                "num_gpu": 0,
                "repeat_last_n": 64,
                "repeat_penalty": 1.1,
                "top_k": 40,
                "min_p": 0,
                "use_mmap": True,
                "use_mlock": False,
                "num_ctx": 2048,
                "num_predict": 8,
            },
            "keep_alive": "5m",
            "format": None,
            "think": None,
            "tools": [],
            "metadata": {},
        },
    ),
    "Codex": (
        RESPONSES,
        {
            **BEARER,
            "accept": "text/event-stream",
            "originator": "codex_cli_rs",
            "version": "0.98.0",
            "session_id": "019a",
            "conversation_id": "019a",
            "x-codex-beta-features": "steer",
            "x-codex-turn-metadata": "{}",
            "openai-beta": "responses=experimental",
        },
        {
            "instructions": "You are a coding agent.",
            "input": [
                {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions/>"}]},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "读一下 a.py"}]},
                {"type": "reasoning", "summary": [], "content": None, "encrypted_content": ""},
                {
                    "type": "message",
                    "role": "assistant",
                    "phase": "commentary",
                    "content": [{"type": "output_text", "text": "好。"}],
                },
                {
                    "type": "function_call",
                    "name": "exec_command",
                    "arguments": '{"cmd":"cat a.py"}',
                    "call_id": "call_1",
                },
                {"type": "function_call_output", "call_id": "call_1", "output": "print(1)"},
            ],
            "tools": [
                {
                    "type": "function",
                    "name": "exec_command",
                    "description": "Runs a command.",
                    "strict": False,
                    "parameters": {
                        "type": "object",
                        "properties": {"cmd": {"type": "string"}, "yield_time_ms": {"type": "number"}},
                        "required": ["cmd"],
                        "additionalProperties": False,
                    },
                }
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "high", "summary": "auto"},
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "019a",
            "text": {"verbosity": "low"},
            "service_tier": "priority",
            "client_metadata": {"x-codex-installation-id": "1"},
            "max_output_tokens": 8,
        },
    ),
    "Claude Code": (
        MESSAGES,
        {
            "authorization": "Bearer none",
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,redact-thinking-2026-02-12",
            "x-app": "cli",
            "user-agent": "claude-cli/2.1.162 (external, cli)",
            "x-claude-code-session-id": "123e4567",
            "x-stainless-retry-count": "0",
        },
        {
            "max_tokens": 8,
            "metadata": {"user_id": '{"device_id":"a","account_uuid":"","session_id":"1"}'},
            "thinking": {"type": "enabled", "budget_tokens": 31999, "display": "omitted"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "high"},
            "betas": ["claude-code-20250219"],
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.162.553; cc_entrypoint=cli;"},
                {
                    "type": "text",
                    "text": "You work in a terminal.",
                    "cache_control": {"type": "ephemeral", "ttl": "1h"},
                },
            ],
            "tools": [{"name": "Read", "description": "读文件", "input_schema": READ_SCHEMA, **CACHED}],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "<system-reminder/>"}, {"type": "text", "text": "读"}],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "", "signature": "hanlin"},
                        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a.py"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_1",
                            "content": [{"type": "text", "text": "print(1)"}],
                            **CACHED,
                        }
                    ],
                },
            ],
        },
    ),
    "VS Code, Copilot with an Ollama provider": (
        CHAT,
        {
            **BEARER,
            "x-request-id": "1",
            "x-interaction-type": "conversation-agent",
            "openai-intent": "conversation-agent",
            "x-github-api-version": "2025-05-01",
            "x-vscode-user-agent-library-version": "electron-fetch",
        },
        {
            "messages": [
                {**SYSTEM, "copilot_cache_control": {"type": "ephemeral"}},
                {"role": "user", "content": [{"type": "text", "text": "读一下 a.py"}], "name": "user"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [CALL],
                    "cot_id": "1",
                    "cot_summary": "想",
                    "copilot_cache_control": {"type": "ephemeral"},
                },
                {"role": "tool", "content": [{"type": "text", "text": "print(1)"}], "tool_call_id": "call_1"},
            ],
            "temperature": 0.1,
            "top_p": 1,
            "n": 1,
            "max_completion_tokens": 8,
            **WITH_TOOL,
            "tool_choice": "auto",
            "intent": False,
            "snippy": {"enabled": False},
            "state": "enabled",
        },
    ),
    "LiteLLM": (
        CHAT,
        {**BEARER, "x-stainless-lang": "python"},
        {
            "messages": [*HISTORY, {"role": "user", "content": [{"type": "text", "text": "再来", **CACHED}]}],
            "max_tokens": 8,
            "user": "u",
            "metadata": {"trace": "1"},
            "store": False,
            "reasoning_effort": "low",
            "service_tier": "flex",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "parallel_tool_calls": True,
            "modalities": ["text"],
            "tools": [TOOL],
            "functions": None,
            "stream_options": {"include_usage": True},
        },
    ),
    "LiteLLM, Ollama": (
        "/api/chat",
        {},
        {
            "messages": OLLAMA_HISTORY,
            "options": {"num_predict": 8, "temperature": 0.1, "stop": ["x"]},
            "tools": [TOOL],
            "keep_alive": "-1",
        },
    ),
    "Zed": (
        CHAT,
        BEARER,
        {
            "messages": [
                SYSTEM,
                {"role": "user", "content": [{"type": "text", "text": "读"}, {"type": "text", "text": "a.py"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "要读文件"},
                {"role": "tool", "content": [{"type": "text", "text": "print(1)"}], "tool_call_id": "call_1"},
            ],
            "stream_options": {"include_usage": True},
            "max_completion_tokens": 8,
            "stop": [],
            "temperature": 1.0,
            "parallel_tool_calls": False,
            "prompt_cache_key": "thread",
            "reasoning_effort": "high",
            "tools": [TOOL],
        },
    ),
    "Zed, Ollama": (
        "/api/chat",
        {},
        {
            "messages": OLLAMA_HISTORY,
            "keep_alive": -1,
            "options": {"num_ctx": 8192, "num_predict": 8, "stop": [], "temperature": 1.0, "top_p": None},
            "tools": [TOOL],
            "think": False,
        },
    ),
}
