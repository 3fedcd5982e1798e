"""LoRA adapters through PEFT: attach one to a model, count its parameters, save it and load it again.

An adapter folder records which base model it was trained on, and loading fails unless every tensor of it is used.
Training an adapter is in `hanlin.train`, adding it to the base weights in `hanlin.models.merge`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftModelForCausalLM,
    TrainableTokensConfig,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.core.files import write_sorted_json
from hanlin.core.i18n import join_list, tr
from hanlin.models.folder.adapter import (
    AdapterFiles,
    build_base_record,
    check_adapter_folder,
    name_tensors,
    read_token_ids,
    relative_base_path,
)
from hanlin.models.folder.checks import ModelFiles, check_model_folder
from hanlin.models.folder.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_RECORD
from hanlin.models.patterns import check_patterns
from hanlin.models.safetensors import save_safetensors
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)
MAX_RENAMED_TOKENS = 0.01
"""Share of a base's tokens that an adapter's tokenizer may call otherwise: Llama 3 has 0.2 % that are reserved."""
EXPERT_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""The projections that each expert of a model of experts has."""
_PEFT_INIT = {"zero": True, "pissa": "pissa", "pissa_fast": "pissa_niter_16"}


class ParameterCount(NamedTuple):
    """Number of parameters of a model: those with gradients, and all."""

    trainable: int
    total: int


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the trainable and all parameters of a model."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes))


def attach_lora(
    model: PreTrainedModel,
    lora: LoraSettings,
    seed: int,
    token_ids: Sequence[int] = (),
    layers: Sequence[int] | None = None,
) -> PeftModel:
    """Attach a new LoRA adapter to a model; the output of the model does not change yet.

    B is zero, or, with PiSSA, the initial product B A is subtracted from the base weights. Of a model of experts, gate
    and up of all experts of a block are one tensor, and down another; each expert has its own A and B. Everything
    trained is float32; if `lora.modules_to_save` is set over a base of lower precision, run the model under autocast.

    Args:
        model: The base model, on the CPU: A is drawn there, so attach before the model is moved.
        lora: Rank, alpha, target modules, initialization.
        seed: Decides A, and nothing else does.
        token_ids: Token ids whose rows in the embeddings and in the output head are trained as well.
        layers: Indices of the blocks that get an adapter; None: all.

    Returns:
        The model in training mode; only the adapter and the rows of `token_ids` are trainable.

    Raises:
        UserError: DoRA over a weight with a row of zeros.
    """
    names = set(lora.modules_to_save)
    has_experts = bool(getattr(model.config, "num_local_experts", 0))
    targets: list[str] = [name for name in lora.targets if not has_experts or name not in EXPERT_PROJECTIONS]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        target_parameters=_expert_parameters(lora, layers) if has_experts else None,
        layers_to_transform=None if layers is None else list(layers),
        init_lora_weights=_PEFT_INIT[lora.init],  # type: ignore[arg-type]
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        modules_to_save=list(lora.modules_to_save) or None,
        trainable_token_indices=_vocab_matrices(model, token_ids) if token_ids else None,
        ensure_weight_tying=bool(model.config.tie_word_embeddings and names & {"embed_tokens", "lm_head"}),
    )
    with torch.random.fork_rng(devices=[]), _suppress_library_warnings():
        torch.manual_seed(seed)
        adapted = PeftModelForCausalLM(model, config)
    _train_in_float32(adapted)
    if zero := [name for name, row in adapted.named_parameters() if ".lora_magnitude" in name and not row.all()]:
        layer = zero[0].removeprefix("base_model.model.").partition(".lora_magnitude")[0]
        what = tr("DoRA divides by the length of each row, and rows of {name} are zero", name=layer)
        raise UserError(what, "lora.dora", tr("set dora: false, as new blocks of `expand_blocks` need"))
    return adapted.train()


def _expert_parameters(lora: LoraSettings, layers: Sequence[int] | None) -> list[str] | None:
    """The names of the parameters of experts and routers that get an adapter, as PEFT matches them: by their ends."""
    names = ["mlp.experts.gate_up_proj"] if {"gate_proj", "up_proj"} & set(lora.targets) else []
    names += ["mlp.experts.down_proj"] if "down_proj" in lora.targets else []
    names += ["mlp.gate.weight"] if names and lora.router else []
    if layers is not None:  # `layers_to_transform` holds for modules alone
        names = [f"layers.{layer}.{name}" for layer in layers for name in names]
    return names or None


def attach_trainable_tokens(model: PreTrainedModel, token_ids: Sequence[int]) -> PeftModel:
    """Make only the rows of `token_ids` trainable, in the embeddings and in the output head."""
    config = TrainableTokensConfig(
        task_type="CAUSAL_LM", target_modules=list(_vocab_matrices(model, token_ids)), token_indices=list(token_ids)
    )
    with _suppress_library_warnings():
        adapted = PeftModelForCausalLM(model, config)
    _train_in_float32(adapted)
    return adapted.train()


def get_initial_lora_weights(model: PeftModel) -> dict[str, torch.Tensor] | None:
    """Return A and B of a new adapter by name, on the CPU, if its base had them subtracted (PiSSA), else None."""
    if not str(model.peft_config["default"].init_lora_weights).startswith("pissa"):  # type: ignore[attr-defined]
        return None
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items() if ".lora_" in name}


def get_trainable_tokens_layer(module: nn.Module) -> TrainableTokensLayer | None:
    """Return the PEFT layer that holds the trained rows of an embedding or output head, or None if it has none."""
    if isinstance(module, TrainableTokensWrapper):
        module = module.token_adapter
    return module if isinstance(module, TrainableTokensLayer) else None


def _vocab_matrices(model: PreTrainedModel, token_ids: Sequence[int]) -> dict[str, list[int]]:
    """Map the embeddings and the output head to the rows to train; a tied model has one matrix."""
    names = ("embed_tokens",) if model.config.tie_word_embeddings else ("embed_tokens", "lm_head")
    return {name: list(token_ids) for name in names}


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    base: Path,
    state: Mapping[str, torch.Tensor] | None = None,
    initial: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `adapter_config.json`, `adapter_model.safetensors` and `base.json` (a fingerprint of the base).

    Args:
        model: The model with the adapter `default`.
        folder: Where to write; it is made.
        base: Folder of the base model; written relative to `folder`, so that both may be moved together.
        state: Weights to save instead of the model's own, if they were gathered from several processes.
        initial: Result of `get_initial_lora_weights`. With PiSSA the base in memory had B0 A0 subtracted; the saved
            adapter is B A - B0 A0 instead, so that it fits the base as it is on disk.

    Raises:
        RuntimeError: A tensor is empty or not finite; nothing is saved then.
    """
    tensors = get_peft_model_state_dict(
        model, state_dict=None if state is None else dict(state), save_embedding_layers=False
    )
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in sorted(tensors.items())}
    for name, tensor in tensors.items():
        if tensor.numel() == 0 or not torch.isfinite(tensor).all():
            raise RuntimeError(f"{name} is empty or holds numbers that are not finite")
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": relative_base_path(base, folder), "inference_mode": True}
    if initial is not None:
        tensors = _subtract_initial(tensors, initial)
        config |= {"init_lora_weights": True, "r": 2 * config["r"]}
        config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    modules = config["modules_to_save"]
    if modules:  # PEFT adds the full name of tied embeddings to the list that it was given
        config["modules_to_save"] = [name for name in modules if name != "model.embed_tokens" or len(modules) == 1]
    record = build_base_record(check_model_folder(base, experts=True))

    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(tensors, folder / ADAPTER_WEIGHTS)
    write_sorted_json(folder / BASE_RECORD, record)
    write_sorted_json(folder / ADAPTER_CONFIG, {name: _to_json(value) for name, value in config.items()})


def _subtract_initial(
    tensors: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return B A - B0 A0 as one adapter of twice the rank: [B, -B0] [A; A0].

    Source: Meng et al. 2024 (PiSSA), arXiv:2404.02948, appendix C.
    """
    combined = dict(tensors)
    for name, before in initial.items():
        is_lora_b = ".lora_B." in name
        parts = [tensors[name], -before if is_lora_b else before]
        combined[name] = torch.cat(parts, dim=1 if is_lora_b else 0).contiguous()
    return combined


def load_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, *, trainable: bool = False, name: str = "default"
) -> PeftModel:
    """Attach the adapter of a folder to a model.

    Args:
        model: The base model, or one that has other adapters already.
        folder: The adapter folder.
        trainable: Whether the adapter gets gradients (in float32) and the model is in training mode.
        name: Under which name PEFT knows the adapter.

    Raises:
        UserError: Tensors of the adapter are missing, unused, or do not fit this base.
    """
    files = check_adapter_folder(folder)
    check_patterns(files.config, [layer for layer, _ in model.named_modules()], folder / ADAPTER_CONFIG)
    with _suppress_library_warnings():
        try:
            config = PeftConfig.from_pretrained(str(folder))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            what = tr("PEFT cannot read it: {problem}", problem=str(error).partition("\n")[0])
            raise UserError(what, folder / ADAPTER_CONFIG, tr("copy or download it again")) from error
    if not isinstance(config, LoraConfig):
        raise RuntimeError(f"{folder}: PEFT reads a {type(config).__name__}")
    warn_of_unknown_settings(files)
    config.inference_mode = not trainable
    weights = _load_weights(folder)
    with torch.random.fork_rng(devices=[]), _suppress_library_warnings():
        try:
            if isinstance(model, PeftModel):
                adapted = model
                adapted.add_adapter(name, config)
            else:
                adapted = PeftModelForCausalLM(model, config, adapter_name=name)
            if trainable:
                _train_in_float32(adapted)
            outcome: Any = set_peft_model_state_dict(adapted, weights, adapter_name=name)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
            what = tr("the adapter does not fit this base model: {problem}", problem=_misfit(model, config, weights))
            raise UserError(what, folder, _wrong_base_hint()) from error
    _check_all_set(adapted, outcome, files, name, _wrong_base_hint())
    return adapted.train(trainable)


def warn_of_unknown_settings(files: AdapterFiles) -> None:
    """Log the settings of an adapter that this version of PEFT does not know, and so leaves out, if they are set."""
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    names = [name for name, value in files.config.items() if value and name not in known]
    if names:
        what = tr("settings that PEFT does not know have no effect: {names}", names=join_list(sorted(names)))
        _LOG.warning("%s: %s", files.folder / ADAPTER_CONFIG, what)


def _load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter folder, by the names that `check_adapter_folder` gives them."""
    tensors = load_file(str(folder / ADAPTER_WEIGHTS))
    return {name: tensors[key] for key, name in name_tensors(tensors).items()}


def set_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Give a new adapter the weights of the adapter in a folder, to go on training it.

    Rows of the vocabulary that the new adapter trains and the folder's does not stay as they are.

    Args:
        model: A model with the new adapter `default`, made with the settings of the folder's.
        folder: The adapter folder, which passed `hanlin.train.init_adapter.check_init_adapter`.

    Raises:
        UserError: Tensors are missing, unused, or of another shape.
    """
    files = check_adapter_folder(folder)
    weights = _load_weights(folder)
    current = get_peft_model_state_dict(model, save_embedding_layers=False)
    hint = tr("set lora, trainable_tokens, train_last_layers and train_blocks as they were for this adapter")
    if of_base := [name for name in weights if name not in current]:  # PEFT would write them into the base
        raise misplaced_tensors_error(files, of_base, [], hint)
    rows = {token_id: index for index, token_id in enumerate(read_token_ids(model.peft_config["default"].to_dict()))}
    index = torch.tensor([rows[token_id] for token_id in read_token_ids(files.config)], dtype=torch.long)
    for name, tensor in weights.items():
        if name.endswith(".trainable_tokens_delta") and name in current:
            before = current[name].detach().cpu()
            weights[name] = before.index_copy(0, index, tensor.to(before.dtype))
    with _suppress_library_warnings():
        try:
            outcome: Any = set_peft_model_state_dict(model, weights)
        except (RuntimeError, ValueError, KeyError) as error:
            config = cast(LoraConfig, model.peft_config["default"])
            what = tr("the adapter does not fit this base model: {problem}", problem=_misfit(model, config, weights))
            raise UserError(what, folder, hint) from error
    _check_all_set(model, outcome, files, "default", hint)


def read_trained_rows(folder: Path) -> list[int]:
    """Return the ids of the vocabulary rows that the adapter in a folder trains, in ascending order."""
    return sorted(read_token_ids(check_adapter_folder(folder).config))


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer was saved beside an adapter."""
    return any((folder / name).is_file() for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE))


def load_adapter_tokenizer(folder: Path, base: ModelFiles) -> Tokenizer:
    """Load the tokenizer saved beside an adapter, or that of its base.

    Raises:
        UserError: It has more entries than the base has rows, or it is that of another model.
    """
    tokenizer = Tokenizer.load(folder if has_tokenizer(folder) else base.folder)
    if len(tokenizer) > base.vocabulary_rows:
        raise UserError(
            tr(
                "the adapter's tokenizer has {count} entries, its base only {vocabulary_rows} rows",
                count=len(tokenizer),
                vocabulary_rows=base.vocabulary_rows,
            ),
            folder,
            tr("extend the vocabulary of the base first, then train on the result"),
        )
    if has_tokenizer(folder) and has_tokenizer(base.folder):
        _check_same_tokens(tokenizer, folder, base)
    return tokenizer


def _check_same_tokens(tokenizer: Tokenizer, folder: Path, base: ModelFiles) -> None:
    """Raise UserError if an adapter's tokenizer is that of another model than its base: it was trained on that one.

    Tokens may be added, and some be renamed (reserved ones, for a chat template). If the adapter brings its own
    embeddings, they may all be others.
    """
    whole = [path.rpartition(".")[2] for path in check_adapter_folder(folder).config.get("modules_to_save") or ()]
    if "embed_tokens" in whole:
        return
    entries = Tokenizer.load(base.folder, accept_other_ids=True).backend.get_vocab(with_added_tokens=True)
    other = sum(tokenizer.backend.id_to_token(token_id) != entry for entry, token_id in entries.items())
    if other > MAX_RENAMED_TOKENS * len(entries):
        what = tr(
            "the adapter was trained on another base than {name}: {other:,} of {count:,} tokens of their tokenizers "
            "differ",
            name=base.folder.name,
            other=other,
            count=len(entries),
        )
        raise UserError(what, folder, tr("name the base it was trained on, or train it again"))


def _check_all_set(adapted: PeftModel, outcome: Any, files: AdapterFiles, name: str, hint: str) -> None:
    """Raise UserError unless every tensor of an adapter was used and every one that the model needs was there.

    Args:
        adapted: The model with the adapter.
        outcome: What PEFT said of setting its weights.
        files: The adapter's files.
        name: Under which name PEFT knows the adapter.
        hint: What to do otherwise.
    """
    unused = list(outcome.unexpected_keys)
    parts = (".lora_", ".modules_to_save.", ".trainable_tokens_delta.")
    parameters = {name for name, _ in adapted.named_parameters()}  # tied matrices have one name here
    missing = [
        key
        for key in outcome.missing_keys
        if key in parameters and f".{name}." in f"{key}." and any(part in key for part in parts)
    ]
    if unused or missing:
        raise misplaced_tensors_error(files, unused, missing, hint)


def misplaced_tensors_error(files: AdapterFiles, unused: list[str], missing: list[str], hint: str) -> UserError:
    """The error for an adapter with tensors that its base has no place for, or without some that it needs.

    Args:
        files: The adapter.
        unused: Names of its tensors that belong nowhere.
        missing: Names of what it lacks.
        hint: What to do.
    """
    what = tr(
        "{unused} of the adapter's {total} tensors do not exist in the model, and {missing} tensors that "
        "it needs are missing ({names})",
        unused=len(unused),
        total=len(files.tensors),
        missing=len(missing),
        names=join_list([*unused, *missing][:3]),
    )
    return UserError(what, files.folder / ADAPTER_WEIGHTS, hint)


def _misfit(model: nn.Module, config: LoraConfig, weights: Mapping[str, torch.Tensor]) -> str:
    """How an adapter's tensors differ from those of the base that they change, in words of ours."""
    layers = {
        name.removesuffix(".weight").removesuffix(".base_layer").removeprefix("base_model.model."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    for key, tensor in sorted(weights.items()):
        name, _, matrix = key.removeprefix("base_model.model.").partition(".lora_")
        side = {"A.weight": 1, "B.weight": 0}.get(matrix)
        if side is None:
            continue
        if name not in layers:
            return tr("the model has no layer {name}", name=name)
        size, expected = tensor.shape[side], layers[name].shape[side]
        if size != expected and layers[name].is_floating_point():  # quantized weights are packed into bytes
            return tr(
                "{name} is made for a width of {size}, but the model's is {expected}",
                name=name,
                size=size,
                expected=expected,
            )
    targets = join_list(sorted(map(str, config.target_modules or ())))
    return tr("its tensors are not those of its rank {rank} and its layers {targets}", rank=config.r, targets=targets)


def _train_in_float32(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _to_json(value: Any) -> Any:
    """Convert a PEFT setting to JSON data that is always the same: sets are sorted."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return json.loads(json.dumps(value, default=str))


def _wrong_base_hint() -> str:
    return tr("was it trained on another base model?")


@contextmanager
def _suppress_library_warnings() -> Iterator[None]:
    """Silence warnings of transformers meant for PEFT's developers, and of PEFT about keys newer than it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Unexpected keyword arguments", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*no implementation exists to tie.*", category=UserWarning)
        # PEFT's own pattern for an older adapter of experts, which it looks for among modules; it is a parameter
        unmatched = r".*_pattern keys did not match.*gate_up_proj"
        warnings.filterwarnings("ignore", message=unmatched, category=RuntimeWarning)
        yield
