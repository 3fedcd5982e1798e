"""What is dangerous is done in one place: printing text of others, and making clients of other servers."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hanlin"

PRINTS = {
    "__main__.py": "why no command can be imported, where nothing else can be",
    "cli/output.py": "the one place: `echo` and `echo_data`",
    "cli/help.py": "pages of help, which hold no text of others",
    "cli/main.py": "the version; tracebacks, made printable",
    "cli/commands/tokens.py": "tokens as `chat.inspect.visible` shows them",
    "core/process.py": "what a function gave, for the parent process",
    "core/progress.py": "progress, made printable",
    "serve/server.py": "the lines of the server, made printable",
    "parity/backends/llama_cpp_server.py": "an address, for the parent process",
    "train/throughput.py": "figures, for the parent process",
    "inference/backends/process/error_output.py": "what an engine's process says, made printable",
}
"""Files that may write to standard output or error, and why."""

CLIENT_LIBRARIES = {"http.client", "urllib.request", "requests", "httpx", "httpx2", "httpcore2", "aiohttp", "urllib3"}
CLIENTS = {"core/http/client.py", "pipeline/hubs/session.py", "pipeline/hubs/upload.py"}
"""The last two make none: the one sends through `hub_client` and names its errors, the other takes cookies off
redirects that ModelScope's library follows.
"""


@functools.cache
def files() -> list[tuple[str, ast.Module]]:
    """Every file of the package, by its name below it."""
    named = ((file.relative_to(SOURCE).as_posix(), file) for file in sorted(SOURCE.rglob("*.py")))
    return [(name, ast.parse(file.read_text(encoding="utf-8"))) for name, file in named]


def prints(tree: ast.Module) -> bool:
    """Whether a file calls `print`, `typer.echo`, `typer.secho`, a console, or writes to standard output or error."""
    to_file = ("print", "typer.echo", "typer.secho", "click.echo", "Console", "sys.stdout.write", "sys.stderr.write")
    return not calls(tree).isdisjoint(to_file)


def test_text_reaches_the_terminal_in_one_place() -> None:
    """Use `hanlin.cli.output.echo`, or `printable` of `core.text` before a new way to print is added here."""
    assert {name for name, tree in files() if prints(tree)} <= PRINTS.keys()


JSON_PARSERS = {
    "core/files.py": "the one place: `parse_json` and `parse_json_object`",
    "core/http/client.py": "answers of servers, bounded and caught there",
    "core/process.py": "what a bounded child gave",
    "data/io": "rows of data, with their own limits, places and repairs",
    "data/formats": "values inside rows, each with its own fallback",
    "data/ingest": "shards that this run has written",
    "serve": "bodies and calls, each answered by name; pipes of the server's own processes",
    "inference/chat_server.py": "events of servers, caught there",
    "inference/backends/http/client.py": "events of servers, caught there",
    "pipeline/worker.py": "the pipe of a run's own process",
    "pipeline/worker_client.py": "the pipe of a run's own process",
    "estimate/machine.py": "the pipe of its own process",
    "train/throughput.py": "the pipe of its own process",
    "parity/backends/ollama.py": "the output of its own program",
    "models/adapters.py": "a copy of what was read",
    "train/dataset/encoded.py": "counts inside a file that this run has written",
    "export/gguf/vocab.py": "what the tokenizers library gave",
    "tokenizer": "what the tokenizers library gave, and a file in a bounded child",
    "web/runs/curves.py": "the metrics of a run, 100,000 rows at once; a row that is none is passed over",
}
"""Files and folders that may call `json.load` and `json.loads`, and why."""


def test_json_of_others_is_parsed_in_one_place() -> None:
    """Use `hanlin.core.files.parse_json`: depth, long numbers and halves of characters are its errors too."""
    found = {name for name, tree in files() if calls(tree) & {"json.load", "json.loads"}}
    assert {name for name in found if not any(covers(place, name) for place in JSON_PARSERS)} == set()


def test_yaml_is_loaded_in_one_place() -> None:
    """Use `hanlin.config.yaml_text.load_yaml`: anchors, depth, keys and numbers are bounded."""
    loaders = {"yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.load_all", "yaml.safe_load_all", "yaml.compose"}
    assert {name for name, tree in files() if calls(tree) & loaders} == set()


def covers(place: str, name: str) -> bool:
    return name == place or name.startswith(f"{place}/")


def calls(tree: ast.Module) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_clients_of_other_servers_are_made_in_one_place() -> None:
    """Use `hanlin.core.http.client.ServerClient`: it bounds answers, follows no redirect and takes no proxy unasked."""
    found = set()
    for name, tree in files():
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if CLIENT_LIBRARIES & set(modules):
                found.add(name)
    assert found == CLIENTS


def test_accelerators_are_asked_for_in_one_place() -> None:
    """Use `hanlin.core.hardware.devices.best_device`: torch from PyPI names CUDA on machines without a GPU too, unless
    it is asked whether there is one.
    """
    found = set()
    for name, tree in files():
        texts = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if {"torch.accelerator.current_accelerator", "torch.cuda"} & texts:
            found.add(name)
    assert found == {"core/hardware/devices.py"}
