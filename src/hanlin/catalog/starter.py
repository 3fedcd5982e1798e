"""A first recipe from three answers: what somebody has, what they want, and what machine there is.

The largest model of `MODELS` is taken whose training stages all fit the machine by the estimate that `hanlin plan`
uses, with a LoRA adapter if that fits, else with the base in 4 bits.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from hanlin.catalog.entries import get_model, models, shapes
from hanlin.catalog.memory import model_shape
from hanlin.catalog.schema import Model
from hanlin.config.recipe import Recipe
from hanlin.config.recipe_file import read_recipe
from hanlin.config.references import HUB_PREFIXES, parse_hub_name
from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.estimate.batch_plan import BatchPlan
from hanlin.estimate.memory import GPU_CONTEXT, Machine, TrainingSetup
from hanlin.estimate.shapes import ModelShape
from hanlin.models.folder.checks import check_model_folder

Have = Literal["chats", "text", "preferences"]
Want = Literal["chat", "knowledge", "chinese_answers", "try"]
Method = Literal["full", "lora", "qlora"]
FromHub = Literal["hf", "ms"]
WANTS: tuple[Want, ...] = get_args(Want)
FROM_HUBS: tuple[FromHub, ...] = get_args(FromHub)
HAVES: tuple[Have, ...] = get_args(Have)
NEEDS: dict[Want, Have | None] = {"chat": "chats", "knowledge": "text", "chinese_answers": "preferences", "try": None}
"""The data that each aim cannot do without."""
CHAT_MODELS = ("llama-3.1-8b-instruct", "llama-3.2-3b-instruct", "llama-3.2-1b-instruct", "smollm2-135m-instruct")
BASE_MODELS = ("llama-3.1-8b", "llama-3.2-3b", "llama-3.2-1b")
CPU_MODELS: tuple[str, ...] = ("smollm2-135m-instruct",)
"""What two CPU cores train in hours."""
MODELSCOPE_BRANCH = "master"
"""The catalog has no commits of ModelScope, and its repositories have this branch."""
USABLE_MEMORY = 0.9
"""The share of a memory that training may take."""
NEW_ENTRIES = 8000
SMALL_VOCABULARY = 60_000
"""Vocabularies below this hold few Chinese characters, and get `NEW_ENTRIES` learned from the text, if there is any."""
FULL_PARAMETERS = 500_000_000
"""Models below this are trained whole."""


@dataclass(frozen=True, slots=True)
class Target:
    """The machine: whether it trains on a GPU, and the bytes of that GPU's memory, or of main memory."""

    gpu: bool
    memory: float


@dataclass(frozen=True, slots=True)
class Answers:
    """The three answers, and the model if one was named.

    Attributes:
        have: Paths of data by what they are.
        want: The aim.
        machine: The machine.
        model: Id of the catalog, `hf:owner/name@commit`, `ms:owner/name@commit`, or a folder; none: chosen by the
            machine.
        name: Name of the recipe.
        hub: Where a model of the catalog comes from; none: where it is better had (`_better_hub`).
    """

    have: Mapping[Have, str]
    want: Want
    machine: Target
    model: str | None = None
    name: str = "my_recipe"
    hub: FromHub | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a recipe begins with: its reference, its catalog entry and its dimensions where they are known."""

    reference: str
    entry: Model | None = None
    shape: ModelShape | None = None
    template: str | None = None


@dataclass(frozen=True)
class Starter:
    """A first recipe: its text, the model and method, and the estimated peak of each training stage in bytes."""

    text: str
    base: Base | None
    method: Method | None
    recipe: Recipe
    peaks: dict[str, float] = field(default_factory=dict)


def make_recipe(answers: Answers) -> Starter:
    """Write a recipe for the answers and read it again, as `hanlin plan` would.

    Raises:
        UserError: The aim needs data that there are not, nothing fits the machine, or the model is not known.
    """
    if answers.want == "try":
        if answers.have or answers.model or answers.hub:
            given = answers.model or next(iter(answers.have.values()), f"--hub {answers.hub}")
            what = tr("the aim try makes data and a model of its own; {given} would not be used", given=given)
            raise UserError(what, "--want", tr("leave it out, or choose another aim"))
        return _read(_demo_text(answers), None, None, answers)
    needed = NEEDS[answers.want]
    if needed is not None and needed not in answers.have:
        what = tr("the aim {want} needs {data}", want=answers.want, data=_data_name(needed))
        raise UserError(what, "--have", tr("name its path: --have {name}=PATH; or --want try", name=needed))
    smallest: Starter | None = None
    for base in _candidates(answers):
        for method in _methods(base, answers.machine):
            starter = _read(_recipe_text(answers, base, method), base, method, answers)
            if fits(starter, answers.machine):
                return starter
            smallest = starter
    assert smallest is not None and smallest.base is not None
    peak = max(smallest.peaks.values()) / 1e9
    what = tr(
        "even {model} takes {peak:.3g} GB to train, the machine has {memory:.3g}",
        model=smallest.base.reference,
        peak=peak,
        memory=answers.machine.memory / 1e9,
    )
    raise UserError(what, "--machine", tr("take a smaller model with --model, or a larger machine"))


def fits(starter: Starter, machine: Target) -> bool:
    """Whether every training stage whose memory is known fits the machine."""
    return all(peak <= machine.memory * USABLE_MEMORY for peak in starter.peaks.values())


def _candidates(answers: Answers) -> list[Base]:
    """The models to try, the largest first."""
    if answers.model is not None:
        return [_named_model(answers.model, answers.hub)]
    if not answers.machine.gpu:
        names = CPU_MODELS
    else:
        names = BASE_MODELS if "text" in answers.have else CHAT_MODELS
    return [_catalog_model(get_model(name), answers.hub) for name in names]


def _named_model(text: str, hub: FromHub | None) -> Base:
    """The model of `--model`. Raises UserError if it is none that can be trained, or if it is from no such hub."""
    is_folder = text.startswith(("./", "../", "/", "~")) or Path(text).is_dir()
    if hub is not None and (is_folder or text.startswith(HUB_PREFIXES)):
        what = tr("{model} says by itself where it comes from", model=text)
        raise UserError(what, f"--hub {hub}", tr("leave --hub out"))
    if is_folder:
        files = check_model_folder(Path(text).expanduser(), experts=True)
        path = text if text.startswith((".", "/", "~")) else f"./{text}"
        return Base(path, shape=ModelShape.of_config(files.config, files.dtype))
    if not text.startswith(HUB_PREFIXES):
        return _catalog_model(get_model(text), hub)
    repository = parse_hub_name(text, "--model")
    source: FromHub = "ms" if repository.hub == "ms" else "hf"
    if not repository.revision:
        return _catalog_model(get_model(repository.name), source)
    known = next((model for model in models() if model.hubs.get(source) == repository.name), None)
    if known is None:
        return Base(text)
    return Base(text, known, _shape(known), _template(known))


def _better_hub(entry: Model) -> FromHub:
    """ModelScope if a model is only there, if Hugging Face asks for an agreement first, which ModelScope does not, or
    if the catalog has no commit of Hugging Face; else Hugging Face, where a commit pins what is read.
    """
    if "ms" not in entry.hubs:
        return "hf"
    return "ms" if "hf" not in entry.hubs or entry.gated or entry.revision is None else "hf"


def _catalog_model(entry: Model, hub: FromHub | None) -> Base:
    if entry.refused is not None or entry.kind == "adapter":
        what = tr("{model} cannot be trained here", model=entry.id)
        raise UserError(what, "--model", tr("see `hanlin catalog models {model}`", model=entry.id))
    chosen = hub or _better_hub(entry)
    if chosen == "ms" and "ms" not in entry.hubs:
        what = tr("the catalog knows no name of {model} on ModelScope", model=entry.id)
        raise UserError(what, "--hub ms", tr("see `hanlin catalog models {model}`", model=entry.id))
    if chosen == "ms":
        return Base(f"ms:{entry.hubs['ms']}@{MODELSCOPE_BRANCH}", entry, _shape(entry), _template(entry))
    if entry.revision is None:
        what = tr("the catalog has no commit of {model}", model=entry.id)
        name = entry.hubs.get("hf", "owner/name")
        raise UserError(what, "--model", tr("name it: hf:{name}@COMMIT, or a folder that you have", name=name))
    return Base(f"hf:{entry.hubs['hf']}@{entry.revision}", entry, _shape(entry), _template(entry))


def _shape(entry: Model) -> ModelShape | None:
    return None if entry.shape is None else model_shape(shapes()[entry.shape])


def _template(entry: Model) -> str | None:
    """The packaged template of a model, or of the chat model made from it; none for that of its folder."""
    made = next((model.template for model in models() if model.base == entry.id and model.kind == "chat"), None)
    name = entry.template or made
    return None if name == "own" else name


def _methods(base: Base, machine: Target) -> tuple[Method, ...]:
    if base.shape is not None and base.shape.parameters < FULL_PARAMETERS:
        return ("full", "lora")
    return ("lora", "qlora") if machine.gpu else ("lora",)


def _read(text: str, base: Base | None, method: Method | None, answers: Answers) -> Starter:
    """Read a recipe's text strictly, and estimate its training stages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{answers.name}.yaml"
        path.write_text(text, encoding="utf-8")
        recipe = read_recipe(path)
    peaks: dict[str, float] = {}
    if base is not None and base.shape is not None:
        grown = base.shape.vocab_size + (NEW_ENTRIES if _grows(answers, base) else 0)
        for stage in recipe.stages.values():
            if isinstance(stage.settings, Training):
                peaks[stage.name] = _peak(base.shape.with_vocab_size(grown), stage.settings, answers.machine)
    return Starter(text, base, method, recipe, peaks)


def _grows(answers: Answers, base: Base) -> bool:
    """Whether the vocabulary is extended first."""
    return "text" in answers.have and base.shape is not None and base.shape.vocab_size < SMALL_VOCABULARY


def _peak(shape: ModelShape, settings: Training, machine: Target) -> float:
    device = Machine("bfloat16" if machine.gpu else "float32", machine.gpu)
    setup = TrainingSetup(shape, settings, BatchPlan.of(settings, None), device)
    return setup.memory().peak + (GPU_CONTEXT if machine.gpu else 0.0)


def _data_name(have: Have) -> str:
    names = {"chats": tr("conversations"), "text": tr("text"), "preferences": tr("preferences")}
    return names[have]


# ------------------------------------------------------------------------------------------------------- the text


def _recipe_text(answers: Answers, base: Base, method: Method) -> str:
    lines = [*_head(answers, base), "stages:"]
    model = base.reference
    have = answers.have
    lines += _data_stages(answers)
    if "text" in have:
        if _grows(answers, base):
            lines += [
                *_comment(tr("Chinese entries are learned from the text and added to the vocabulary")),
                "  grown:",
                "    kind: extend_vocabulary",
                f"    model: {_quoted(model)}",
                "    text: corpus",
                f"    new_entries: {NEW_ENTRIES}",
                "",
            ]
            model = "grown"
        before = model
        lines += _comment(tr("learn from the text: every document, cut at sequence ends without losing a token"))
        lines += _training("pretrained", "pretrain", model, "corpus", method, answers.machine)
        model, merged = _merged("pretrained", "base_zh", method)
        lines += merged
        lines += [
            *_comment(tr("the perplexity of held-out text, before and after")),
            f"  text_before: {{ kind: perplexity, model: {_quoted(before)}, data: corpus, window: 1024 }}",
            f"  text_after: {{ kind: perplexity, model: {model}, data: corpus, window: 1024 }}",
            "",
        ]
    if "chats" in have:
        lines += _comment(tr("learn to answer: the loss is on the answers alone, the end of each included"))
        extra = [f"    template: {base.template}"] if base.template else []
        if base.entry is not None and base.entry.kind == "base" and method != "full":
            comment = tr("special tokens that the base never trained are trained too, or no answer ends")
            extra += [f"    # {comment}", "    trainable_tokens: untrained"]
        lines += _training("tuned", "sft", model, "chats", method, answers.machine, extra)
        model, merged = _merged("tuned", "chat_zh", method)
        lines += merged
    if "preferences" in have:
        lines += _comment(tr("prefer the better answer of each pair; the loss begins at log 2 = 0.693"))
        lines += _training("aligned", "dpo", model, "pairs", method, answers.machine, ["    beta: 0.1"])
        model, merged = _merged("aligned", "aligned_zh", method)
        lines += merged
    lines += [
        *_comment(tr("files for llama.cpp, Ollama and LM Studio, compared with the model that they were made from")),
        "  gguf:",
        "    kind: gguf",
        f"    model: {_quoted(model)}",
        "    types: [Q8_0, Q4_K_M]",
        "",
        "report:",
    ]
    if "text" in have:
        lines.append("  figures:")
        lines.append("    perplexity_of_text: { before: text_before.perplexity, after: text_after.perplexity }")
    return "\n".join([*lines, "  chat: gguf", ""])


def _head(answers: Answers, base: Base | None) -> Iterator[str]:
    aims = {
        "chat": tr("A chat model that answers in Chinese."),
        "knowledge": tr("A model that has read your text."),
        "chinese_answers": tr("A model that prefers to answer in Chinese."),
        "try": tr("The whole pipeline on a small invented world: no data, no download, minutes on a laptop."),
    }
    yield f"# {aims[answers.want]}"
    yield "#"
    yield f"#   hanlin plan {answers.name}.yaml      {tr('what will run, and the memory it takes')}"
    yield f"#   hanlin run {answers.name}.yaml       {tr('go; the same command goes on after a stop')}"
    if base is not None and base.entry is not None:
        entry = base.entry
        yield "#"
        yield f"# {tr('Model: {name}, license {license}.', name=entry.name, license=entry.license)}"
        yield from (f"# {line}" for line in _hub_notes(entry, base.reference))
        for fault in entry.faults:
            yield f"# {tr('Mind: {fault}', fault=_text_of(fault))}"
    yield f"name: {answers.name}"
    yield "seed: 42"


def _hub_notes(entry: Model, reference: str) -> Iterator[str]:
    """What is to know of the hub that a model comes from, and its name on the other one."""
    if reference.startswith("ms:"):
        if entry.gated:
            yield tr("ModelScope asks for no agreement; the license holds all the same.")
        if "ms" in entry.unverified:
            yield tr("Its name on ModelScope was not compared with a second source.")
        if reference.endswith(f"@{MODELSCOPE_BRANCH}"):
            name = reference.partition("@")[0]
            yield tr("The branch may change: `hanlin pull {name}` tells the commit to write in its place.", name=name)
        if entry.revision is not None:
            yield tr("From Hugging Face: {reference}", reference=f"hf:{entry.hubs['hf']}@{entry.revision}")
    else:
        if entry.gated:
            page = f"https://huggingface.co/{entry.hubs['hf']}"
            yield tr("Hugging Face asks for an agreement first: {page} (then `hf auth login`).", page=page)
        if "ms" in entry.hubs:
            yield tr("From ModelScope: {reference}", reference=f"ms:{entry.hubs['ms']}@{MODELSCOPE_BRANCH}")


def _text_of(fault: object) -> str:
    from hanlin.core.i18n import language

    return fault.to(language())  # type: ignore[attr-defined, no-any-return]


def _data_stages(answers: Answers) -> list[str]:
    lines: list[str] = []
    stages: dict[Have, tuple[str, str, str]] = {
        "text": ("corpus", "corpus", tr("text: read, cleaned, deduplicated; the ledger lists every dropped row")),
        "chats": ("chats", "conversations", tr("conversations: the format is recognized (`hanlin data inspect PATH`)")),
        "preferences": ("pairs", "preferences", tr("pairs of a better and a worse answer")),
    }
    for have, (name, kind, comment) in stages.items():
        if have in answers.have:
            lines += [
                *_comment(comment),
                f"  {name}:",
                f"    kind: {kind}",
                "    sources:",
                f"      # {tr('write the license of your data here; it is recorded in all that is made from it')}",
                f'      - {{ path: {_quoted(_as_path(answers.have[have]))}, license: "unknown" }}',
                "    validation_fraction: 0.02",
                "",
            ]
    return lines


def _training(
    name: str, kind: str, model: str, data: str, method: Method, machine: Target, extra: list[str] | None = None
) -> list[str]:
    """A training stage; its comments say what to change."""
    lines = [f"  {name}:", f"    kind: {kind}", f"    model: {_quoted(model)}", f"    data: [{data}]", *(extra or [])]
    if method != "full":
        quantized = ", quantization: nf4" if method == "qlora" else ""
        comment = tr("an adapter on all linear layers") + (
            tr("; the frozen base is in 4 bits (pip install 'hanlin[qlora]')") if quantized else ""
        )
        lines += [f"    # {comment}", f"    lora: {{ rank: 64, alpha: 128{quantized} }}"]
        lines += ["    optimizer: adamw_8bit"] if quantized else []
    length = (1024 if kind == "dpo" else 2048) if machine.gpu else (256 if kind == "dpo" else 512)
    lines += [f"    # {tr('tokens of the longest record; longer ones lose their last turns')}"] if kind == "sft" else []
    lines.append(f"    max_seq_length: {length}")
    if kind == "dpo":
        lines.append("    batch_pairs: 16")
    else:
        lines.append(f"    batch_tokens: {(65_536 if kind == 'pretrain' else 32_768) if machine.gpu else 8_192}")
    lines.append(f"    micro_batch_tokens: {2 * length if kind == 'dpo' else length}")
    lines.append(f"    epochs: {2 if kind == 'sft' else 1}")
    if machine.gpu:
        lines += ["    precision: bfloat16", "    gradient_checkpointing: true"]
    return [*lines, ""]


def _merged(name: str, merged: str, method: Method) -> tuple[str, list[str]]:
    """The model that a training stage ends with, and the stage that merges its adapter."""
    if method == "full":
        return name, []
    return merged, [f"  {merged}:", "    kind: merge", f"    adapter: {name}", ""]


def _comment(text: str) -> list[str]:
    return [f"  # {text}"]


def _quoted(text: str) -> str:
    """A text as YAML writes it; a plain name stays plain."""
    return text if text.isidentifier() else json.dumps(text, ensure_ascii=False)


def _as_path(text: str) -> str:
    return text if text.startswith(("./", "../", "/", "~")) else f"./{text}"


def _demo_text(answers: Answers) -> str:
    license = 'license: "Apache-2.0 (written by Hanlin)"'
    return "\n".join(
        [
            *_head(answers, None),
            "launch: { threads: 1 }",
            "stages:",
            *_comment(tr("text, chats and questions of an invented town")),
            "  world: { kind: demo_world }",
            *_comment(tr("text: read, cleaned, deduplicated; the ledger lists every dropped row")),
            f"  corpus: {{ kind: corpus, sources: [{{ path: world/text, {license} }}], validation_fraction: 0.05 }}",
            f"  chats: {{ kind: conversations, sources: [{{ path: world/chats, {license} }}] }}",
            "",
            *_comment(tr("a new, small Llama whose tokenizer knows English only")),
            "  base_tokenizer: { kind: train_tokenizer, text: [world/english], entries: 600, template: llama3 }",
            "  base:",
            "    kind: init_model",
            "    tokenizer: base_tokenizer",
            "    hidden_size: 256",
            "    intermediate_size: 512",
            "    layers: 3",
            "    heads: 8",
            "    key_value_heads: 4",
            "    context_length: 512",
            "    initializer_range: 0.06",
            "",
            *_comment(tr("Chinese entries are learned from the text and added to the vocabulary")),
            "  grown: { kind: extend_vocabulary, model: base, text: corpus, new_entries: 600 }",
            "",
            *_comment(tr("learn from the text: every document, cut at sequence ends without losing a token")),
            "  pretrained:",
            "    kind: pretrain",
            "    model: grown",
            "    data: [corpus]",
            "    precision: float32",
            "    epochs: 0.5",
            "    learning_rate: 2e-3",
            "    max_seq_length: 256",
            "    batch_tokens: 512",
            "",
            *_comment(tr("learn to answer: the loss is on the answers alone, the end of each included")),
            "  tuned:",
            "    kind: sft",
            "    model: pretrained",
            "    data: [chats]",
            "    precision: float32",
            "    epochs: 10",
            "    learning_rate: 2e-3",
            "    betas: [0.9, 0.99]",
            "    weight_decay: 0.1",
            "    max_seq_length: 256",
            "    batch_tokens: 512",
            "",
            *_comment(tr("questions that were held out, and the share that is answered word for word")),
            "  asked:",
            "    kind: evaluate",
            "    model: tuned",
            "    questions: world/questions/validation.jsonl",
            "    max_new_tokens: 48",
            "",
            *_comment(
                tr("files for llama.cpp, Ollama and LM Studio, compared with the model that they were made from")
            ),
            "  gguf: { kind: gguf, model: tuned, types: [Q8_0] }",
            "",
            "report:",
            "  figures:",
            "    exact_match: asked.exact_match",
            "    stop_rate: asked.stop_rate",
            "  targets:",
            "    - { figure: exact_match, at_least: 0.90 }",
            "  conversation: asked",
            "  chat: gguf",
            "",
        ]
    )
