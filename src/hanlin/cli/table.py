"""The table of commands: sections of the help, a line for each command, and the module in which it is.

A command is imported when it is called for, so that help comes at once. Kinds of stages take their line from the table
of kinds (`config/kinds`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hanlin.cli.help import HelpGroup
from hanlin.config.kinds import KINDS
from hanlin.core.i18n import tr


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: its name, one imperative line, and its module below `hanlin.cli.commands` (none: a kind of stage)."""

    name: str
    summary: str
    module: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Commands that the help lists together, under a title."""

    title: str
    entries: tuple[Entry, ...]


def sections() -> tuple[Section, ...]:
    """Every command, in the order in which the help lists them."""
    return (
        Section(
            tr("Start"),
            (
                Entry("catalog", tr("List models, data sets and tools with their faults"), "start.catalog"),
                Entry("recipe", tr("Write a first recipe, or copy a shipped one"), "start.recipe"),
                Entry("docs", tr("Print a page of the documentation, without a network"), "agents.docs"),
                Entry("mcp", tr("Let a coding agent look, over MCP"), "agents.mcp"),
            ),
        ),
        Section(
            tr("Pipeline"),
            (
                Entry("plan", tr("Show what each stage would do, and why"), "plan"),
                Entry("run", tr("Run a recipe, or resume an interrupted run"), "run"),
                Entry("status", tr("Show the progress of a recipe"), "run"),
                Entry("report", tr("Write the report of a recipe again"), "run"),
                Entry("lineage", tr("Show what an artifact was made from"), "artifacts"),
                Entry("verify", tr("Check that artifacts are as they were made"), "artifacts"),
            ),
        ),
        Section(
            tr("Data"),
            (
                *_kinds("data", "quality", "mix"),
                Entry("data", tr("Inspect, convert and report on data files"), "data.app"),
                *_kinds("demo"),
            ),
        ),
        Section(
            tr("Train"),
            (
                *_kinds("tokenizer", "model", "surgery", "train", "preference"),
                Entry(
                    "tensorboard",
                    tr("Write a training run's metrics for TensorBoard"),
                    "artifacts",
                ),
            ),
        ),
        Section(
            tr("Export"),
            (
                Entry(
                    "quantize",
                    tr("Write GGUF files, or pick the smallest that passes"),
                    "quantize",
                ),
                *_kinds("export"),
                Entry("package", _summary("package"), "package"),
                Entry(
                    "upload",
                    tr("Upload a folder to Hugging Face or ModelScope"),
                    "hubs.upload",
                ),
            ),
        ),
        Section(
            tr("Hubs"),
            (
                Entry("pull", tr("Fetch a model or data set, pinned and verified"), "hubs.pull"),
                Entry("cache", tr("List or delete what was fetched from hubs"), "hubs.cache"),
            ),
        ),
        Section(
            tr("Evaluate"),
            (
                *_kinds("evaluate", "probe"),
                Entry("compare", _summary("compare"), "evaluation.compare"),
                Entry("generate", tr("Answer every question of a file"), "generate"),
            ),
        ),
        Section(
            tr("Serve"),
            (
                Entry("ui", tr("Open the page: chat and pipeline in a browser"), "serving.ui"),
                Entry("chat", tr("Chat with a model in the terminal"), "chat"),
                Entry(
                    "serve",
                    tr("Serve models with OpenAI's and Ollama's APIs"),
                    "serving.serve",
                ),
            ),
        ),
        Section(
            tr("Inspect"),
            (
                Entry("doctor", tr("Check what this machine has and lacks"), "doctor.app"),
                Entry(
                    "kinds",
                    tr("List the kinds of stages, or the settings of one"),
                    "kinds",
                ),
                Entry("schema", tr("Print the JSON schema of recipes"), "kinds"),
                Entry("template", tr("Compare chat templates across programs"), "template"),
                Entry(
                    "tokens",
                    tr("Show token ids and which of them are learned"),
                    "tokens",
                ),
                Entry("vocab", tr("Compare tokenizers on texts, and say what they cost"), "vocab.app"),
            ),
        ),
    )


_OWN_COMMANDS = frozenset({"compare", "package"})
"""Kinds whose command is more than a stage alone; they have an entry of their own."""


def _kinds(*modules: str) -> Iterator[Entry]:
    """The kinds whose settings are in these modules of `config/settings`: a new kind gets its command by its row."""
    for kind in KINDS.values():
        module = kind.settings_class.partition(":")[0].partition(".")[0]  # or the folder of one
        if module in modules and kind.name not in _OWN_COMMANDS:
            yield Entry(kind.name.replace("_", "-"), _summary(kind.name))


def _summary(kind: str) -> str:
    text = KINDS[kind].summary
    return text[:1].upper() + text[1:]


def entries() -> dict[str, Entry]:
    """Every command by its name."""
    return {entry.name: entry for section in sections() for entry in section.entries}


class RootGroup(HelpGroup):
    """The command `hanlin`: commands in sections, each imported when it is called for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(entries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = entries().get(cmd_name)
        if entry is None:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _load(entry)
        return self.commands[cmd_name]

    def command_rows(self, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        for section in sections():
            yield section.title, [(entry.name, entry.summary) for entry in section.entries]


def _load(entry: Entry) -> Any:
    """Import a command. Its help begins with its line of the table."""
    from typer.main import get_command

    if entry.module:
        module = importlib.import_module(f"hanlin.cli.commands.{entry.module}")
        loaded = get_command(module.app)
        command = getattr(loaded, "commands", {}).get(entry.name, loaded)
    else:
        from hanlin.cli.commands.single_stage import stage_command

        command = stage_command(KINDS[entry.name.replace("-", "_")])
    command.name = entry.name
    command.help = f"{entry.summary}\n\n{command.help}" if command.help else entry.summary
    return command
