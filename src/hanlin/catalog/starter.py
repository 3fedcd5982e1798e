"""A first recipe from three answers: what somebody has, what they want, and what machine there is.

The largest model of `MODELS` is taken whose training stages all fit the machine by the estimate that `hanlin plan`
uses, with a LoRA adapter if that fits, else with the base in 4 bits.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hanlin.catalog.answers import (
    MODELSCOPE_BRANCH,
    NEEDS,
    NEW_ENTRIES,
    Answers,
    Base,
    FromHub,
    Have,
    Method,
    TargetMachine,
    extends_vocabulary,
)
from hanlin.catalog.entries import get_model, models, shapes
from hanlin.catalog.memory import model_shape
from hanlin.catalog.recipe_text import write_demo_text, write_recipe_text
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

CHAT_MODELS = ("llama-3.1-8b-instruct", "llama-3.2-3b-instruct", "llama-3.2-1b-instruct", "smollm2-135m-instruct")
BASE_MODELS = ("llama-3.1-8b", "llama-3.2-3b", "llama-3.2-1b")
CPU_MODELS: tuple[str, ...] = ("smollm2-135m-instruct",)
"""What two CPU cores train in hours."""
USABLE_MEMORY = 0.9
"""The share of a memory that training may take."""
FULL_PARAMETERS = 500_000_000
"""Models below this are trained whole."""


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
        return _read(write_demo_text(answers), None, None, answers)
    needed = NEEDS[answers.want]
    if needed is not None and needed not in answers.have:
        what = tr("the aim {want} needs {data}", want=answers.want, data=_data_name(needed))
        raise UserError(what, "--have", tr("name its path: --have {name}=PATH; or --want try", name=needed))
    smallest: Starter | None = None
    for base in _candidates(answers):
        for method in _methods(base, answers.machine):
            starter = _read(write_recipe_text(answers, base, method), base, method, answers)
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


def fits(starter: Starter, machine: TargetMachine) -> bool:
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
        path = text if text.startswith(("./", "../", "/", "~")) else f"./{text}"
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


def _methods(base: Base, machine: TargetMachine) -> tuple[Method, ...]:
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
        grown = base.shape.vocab_size + (NEW_ENTRIES if extends_vocabulary(answers, base) else 0)
        for stage in recipe.stages.values():
            if isinstance(stage.settings, Training):
                peaks[stage.name] = _peak(base.shape.with_vocab_size(grown), stage.settings, answers.machine)
    return Starter(text, base, method, recipe, peaks)


def _peak(shape: ModelShape, settings: Training, machine: TargetMachine) -> float:
    device = Machine("bfloat16" if machine.gpu else "float32", machine.gpu)
    setup = TrainingSetup(shape, settings, BatchPlan.of(settings, None), device)
    return setup.memory().peak + (GPU_CONTEXT if machine.gpu else 0.0)


def _data_name(have: Have) -> str:
    names = {"chats": tr("conversations"), "text": tr("text"), "preferences": tr("preferences")}
    return names[have]
