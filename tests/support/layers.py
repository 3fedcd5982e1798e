"""Which package may import which: the table of the layers, and how imports are read.

`MAY_IMPORT` holds, for each package, the prefixes that its files may import besides itself; a longer name overrules a
shorter one. `ORDER` holds, inside a package, groups from the lowest to the highest: a file or folder imports only what
is in its own group or below, and the graph of files has no cycle anywhere.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hanlin"

MAY_IMPORT: dict[str, str] = {
    "__main__": "cli core.errors",
    "core": "",
    "config": "core",
    "tokenizer": "core",
    "chat": "core tokenizer",
    "models.folder": "core",
    "models": "core config tokenizer chat",
    "demo": "core config",
    "data": "core config",
    "data.stages.mix": "core config chat",
    "data.report": "core config chat",
    "train": "core config tokenizer chat models",
    "inference": "core tokenizer chat models.folder",
    "inference.backends.transformers": "core tokenizer chat models",
    "parity": "core tokenizer chat inference.backends.llama_cpp",
    "evaluate": "core config tokenizer chat inference data.io data.formats data.dedup data.ledger models.folder",
    # a habit of a model is called what it is called in training data: the rules on answers are the detectors
    "evaluate.probes": "core config tokenizer chat inference data.filters data.text evaluate",
    "evaluate.comparison": "core config inference evaluate",
    "export": "core config tokenizer chat models inference parity",
    "pipeline": "core config models.folder",
    "estimate": "core config models.folder pipeline",
    "estimate.gguf_shape": "core config models.folder tokenizer.gguf_metadata",  # the one reader of those headers
    "catalog": "core config models.folder estimate",
    "serve.auth": "core config.yaml_text",  # a file of keys is YAML of others, and there is one bounded reader
    "serve": "core tokenizer chat models.folder inference",
    "cli": (
        "core config tokenizer chat models.folder data inference parity export evaluate pipeline estimate catalog "
        "serve web"
    ),
    "web": "core config pipeline serve",
    "web.pages": "core config pipeline",  # reports of runs, which need no server
    "web.chat": "core data.formats data.ledger serve web",
    "web.runs": "core config pipeline web",
    "web.data": "core config pipeline data chat tokenizer serve web",
    "web.recipes": "core config pipeline estimate serve web",
    "web.evaluation": "core config pipeline evaluate web",
    "web.start": "core pipeline serve web",
    "api": "core config tokenizer chat data inference pipeline web",
    "cli.commands.artifacts": "core pipeline train.callbacks.metrics_log",
}

ORDER: dict[str, list[str]] = {
    "core": [
        "version i18n limits",
        "errors",
        "names files",
        "text records progress process http signals hardware",
        "context discover resumable",
    ],
    "config": [
        "grades reasons",
        "settings",
        "budgets kinds references validation yaml_text",
        "recipe",
        "recipe_file schema settings_page",
    ],
    "tokenizer": [
        "file_names byte_alphabet prefix_space gguf_metadata gguf_splitting",
        "sentencepiece_encoder",
        "gguf_vocabulary proof",
        "generation_config sentencepiece tiktoken_encoder",
        "tokenizer",
        "train compression bpe_trainer",
        "extend",
        "trim report",
    ],
    "chat": [
        "reasoning",
        "turn_order template_data packaged",
        "rendering",
        "template",
        "tokenizer_files examples history token_counts call_form",
        "inspect",
    ],
    "models": [
        "folder safetensors patterns",
        "dtypes adapters embedding_rows new_rows sentencepiece_file",
        "load save",
        "adapter_tensors layerwise",
        "merge init_model extend_vocab train_tokenizer layouts",
        "surgery",
        "trim_vocab",
    ],
    "data": ["text ledger", "io filters dedup", "formats overlay", "ingest", "stages", "report"],
    "train": [
        "dataset init_adapter",
        "compute optim",
        "distributed load save",
        "objectives",
        "callbacks",
        "trainer",
        "run",
        "stages throughput",
    ],
    "inference": [
        "protocol decoder score_batch",
        "request_checks sampler registry chat_server completions",
        "tasks loading text_stream",
        "scheduler",
        "scheduler_engine",
        "backends",
    ],
    "parity": ["modelfile", "backends", "cases", "check"],
    "export": ["calibration quality quality_page gptq", "gguf hf model_card", "package"],
    "pipeline": [
        "manifest metric_names",
        "integrity step",
        "artifacts lineage hubs torchrun",
        "inputs",
        "plan worker_client requirements run_record",
        "run report worker",
    ],
    "pipeline.hubs": [
        "session record remote_file",
        "refusals selection hugging_face modelscope",
        "pull cache upload",
        "inputs",
    ],
    "catalog": ["schema", "entries answers", "memory check recipe_text", "starter page"],
    "serve": [
        "errors",
        "admission auth json_schema gbnf",
        "transport",
        "grammar_worker",
        "guided_decoding",
        "registry",
        "metrics loaded_model",
        "answer_stream middleware",
        "service",
        "api",
        "openapi",
        "app",
        "server",
    ],
    "web": [
        "links",
        "pages texts access bodies inside models",
        "frame",
        "guard chat runs",
        "data recipes evaluation",
        "start",
        "app",
        "server",
    ],
    "cli": ["output options help chat", "commands", "table", "main"],
}

HEAVY = frozenset({"torch", "transformers", "peft", "accelerate"})
HEAVY_ALLOWED = ("models", "train", "export", "inference.backends.transformers")
"""Where heavy packages may be imported at module level (`models.folder` may not)."""
WITHOUT_NUMPY = ("cli", "web", "pipeline", "estimate", "config", "core", "models.folder")


def module_of(file: Path) -> str:
    """The dotted name below `hanlin`; of a package's `__init__` the package's name."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES: dict[str, Path] = {module_of(file): file for file in sorted(SOURCE.rglob("*.py"))}


def _source_of(node: ast.ImportFrom, file: Path) -> str:
    """The module that `from ... import` reads, of a relative import too."""
    folder = file.parent.relative_to(SOURCE.parent).parts
    above = folder[: len(folder) - node.level + 1] if node.level else ()
    return ".".join([*above, *([node.module] if node.module else [])])


def imports_of(file: Path) -> tuple[set[str], set[str]]:
    """Modules of ours that a file imports anywhere, and outside packages that it imports at module level."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ours: set[str] = set()
    outside: set[str] = set()
    deferred = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test))
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{_source_of(node, file)}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "hanlin":
                # a public name of `hanlin` itself is fetched through `api`
                ours.add(rest if rest in FILES else rest.rpartition(".")[0] or "api")
            elif id(node) not in deferred:
                outside.add(top)
    return ours - {module_of(file)}, outside


GRAPH: dict[str, set[str]] = {module: imports_of(file)[0] for module, file in FILES.items()}


def covers(prefix: str, module: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def row_of(module: str) -> str | None:
    """The longest package of `MAY_IMPORT` that a module belongs to."""
    rows = [row for row in MAY_IMPORT if covers(row, module)]
    return max(rows, key=len, default=None)


def group_of(groups: list[str], name: str) -> int | None:
    return next((number for number, group in enumerate(groups) if name in group.split()), None)


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of two nodes or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found
