"""The table of stage kinds: the settings of each, what it makes, and which function does the work.

Owns no logic: a new kind is a settings class, a row here and a function. Functions are named as text, so that the
control plane never imports what they need; settings classes too, so that a list of the kinds loads no pydantic model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.config.settings.base import Settings

ARTIFACT_TYPES = (
    "files",
    "documents",
    "conversations",
    "preferences",
    "unpaired_preferences",
    "reference_logprobs",
    "tokenizer",
    "model",
    "adapter",
    "importance",
    "quality_model",
    "gguf",
    "quantized",
    "evaluation",
    "package",
)


@dataclass(frozen=True, slots=True)
class StageKind:
    """One kind of stage.

    Attributes:
        name: The name in recipes and on the command line.
        settings_class: Its settings, `module:class` below `hanlin.config.settings`.
        makes: The type of the artifact that it makes, or a function from its settings to that type.
        run: The work function, `module:function`.
        description: What it does: begins with a verb and fits one line of the command's help; a message.
        version: Raised by hand when equal settings give another result than before.
        heavy: Whether it imports torch.
        group: Whether it may run as a group of several processes.
        shows: The metrics that summarize it in one line; empty: all plain ones.
        lineage: Whether it needs the lineage of its inputs.
        resumes: Whether it goes on from what an interrupted run left in its folder; if not, the folder is emptied.
    """

    name: str
    settings_class: str
    makes: str | Callable[[Any], str]
    run: str
    description: str
    version: int = 1
    heavy: bool = False
    group: bool = False
    shows: tuple[str, ...] = ()
    lineage: bool = False
    resumes: bool = True

    @property
    def settings(self) -> type[Settings]:
        """The settings class, imported when it is first asked for."""
        module, _, name = self.settings_class.partition(":")
        return cast("type[Settings]", getattr(importlib.import_module(f"hanlin.config.settings.{module}"), name))

    def artifact_type(self, settings: Settings) -> str:
        """The type of the artifact that a stage with these settings makes."""
        return self.makes if isinstance(self.makes, str) else self.makes(settings)

    @property
    def summary(self) -> str:
        """What the kind does, in the user's language."""
        return tr(self.description)


def _model_or_adapter(settings: Any) -> str:
    return "model" if settings.lora is None else "adapter"


def _held(settings: Any) -> str:
    return str(settings.holds)


_TABLE = (
    StageKind("demo_world", "demo:DemoWorld", "files", "hanlin.demo.world:run",
              "write the small data set of the quickstart",
              shows=("characters", "exchanges", "pairs", "validation_questions")),
    StageKind("corpus", "data:Corpus", "documents", "hanlin.data.stages.corpus:run",
              "read, clean and deduplicate text", version=17,
              shows=("rows_in", "rows_kept", "rows_validation", "characters", "dropped", "unread_fields",
                     "read_languages")),
    StageKind("conversations", "data:Conversations", "conversations", "hanlin.data.stages.conversations:run",
              "read and check conversations of any format", version=19,
              shows=("rows_in", "rows_kept", "rows_validation", "dropped", "unread_fields",
                     "read_languages")),
    StageKind("preferences", "data:Preferences", "preferences", "hanlin.data.stages.preferences:run",
              "read and check preference pairs of any format", version=18,
              shows=("rows_in", "rows_kept", "rows_validation", "dropped", "unread_fields",
                     "read_languages")),
    StageKind("unpaired_preferences", "data:UnpairedPreferences", "unpaired_preferences",
              "hanlin.data.stages.unpaired_preferences:run",
              "read and check single answers labeled good or bad", version=18,
              shows=("rows_in", "rows_kept", "rows_validation", "dropped", "unread_fields",
                     "read_languages")),
    StageKind("quality_model", "quality:QualityModel", "quality_model", "hanlin.data.stages.quality_model:run",
              "learn to tell your good texts from bad ones",
              shows=("good", "bad", "precision", "recall")),
    StageKind("mix", "mix:Mix", lambda settings: str(settings.records), "hanlin.data.stages.mix:run",
              "mix sources by tokens: shares, temperature, budget",
              shows=("rows_written", "tokens", "dropped", "sources.*.share")),
    StageKind("train_tokenizer", "tokenizer:TrainTokenizer", "tokenizer", "hanlin.models.train_tokenizer:run",
              "train a byte-level BPE tokenizer", resumes=False, shows=("entries", "characters_per_token")),
    StageKind("init_model", "model:InitModel", "model", "hanlin.models.init_model:run",
              "make a Llama model with random weights", heavy=True,
              resumes=False, shows=("parameters", "vocabulary_entries")),
    StageKind("extend_vocabulary", "model:ExtendVocabulary", "model", "hanlin.models.extend_vocab:run",
              "add Chinese entries to a model's vocabulary", heavy=True, version=5,
              resumes=False, shows=("entries", "characters_per_token.before", "characters_per_token.after")),
    StageKind("extend_context", "surgery.context:ExtendContext", "model", "hanlin.models.surgery.context:run",
              "extend a model's context by scaled rotary positions", heavy=True, version=2,
              resumes=False, shows=("context_length", "method", "factor", "rope_theta", "short_text.kl")),
    StageKind("expand_blocks", "surgery.blocks:ExpandBlocks", "model", "hanlin.models.surgery.blocks:run",
              "add decoder blocks that begin as the identity", heavy=True,
              resumes=False, shows=("blocks", "parameters", "max_abs_difference")),
    StageKind("upcycle_experts", "surgery.experts:UpcycleExperts", "model", "hanlin.models.surgery.experts:run",
              "make a sparse model of experts from a dense one", heavy=True,
              resumes=False,
              shows=("experts", "experts_per_token", "parameters.after", "parameters.active", "max_abs_difference")),
    StageKind("trim_vocabulary", "model:TrimVocabulary", "model", "hanlin.models.trim_vocab:run",
              "keep only the vocabulary entries that your texts need", version=2, heavy=True,
              resumes=False, shows=("entries", "saved_bytes", "saved_share")),
    StageKind("pretrain", "train:Pretrain", _model_or_adapter, "hanlin.train.stages:pretrain",
              "train on plain text", heavy=True, group=True,
              version=2, shows=("loss", "validation_loss", "steps", "target_tokens", "tokens_per_second")),
    StageKind("sft", "train:Sft", _model_or_adapter, "hanlin.train.stages:sft",
              "fine-tune on conversations", heavy=True, group=True,
              version=3, shows=("loss", "validation_loss", "steps", "target_tokens", "tokens_per_second")),
    StageKind("reference_logprobs", "preference:ReferenceLogprobs", "reference_logprobs",
              "hanlin.train.stages:reference_logprobs",
              "compute reference log-probabilities for dpo and kto",
              heavy=True, group=True, version=2,
              shows=("records", "seconds")),
    StageKind("dpo", "preference:Dpo", _model_or_adapter, "hanlin.train.stages:dpo",
              "align with preference pairs (DPO, IPO)", heavy=True, group=True,
              version=3, shows=("preference_loss", "validation_loss", "accuracy", "margin", "steps")),
    StageKind("orpo", "preference:Orpo", _model_or_adapter, "hanlin.train.stages:orpo",
              "fine-tune and align on preference pairs at once", heavy=True, group=True,
              version=3, shows=("loss", "preference_loss", "validation_loss", "accuracy", "margin", "steps")),
    StageKind("simpo", "preference:Simpo", _model_or_adapter, "hanlin.train.stages:simpo",
              "align with preference pairs, without a reference model",
              heavy=True, group=True,
              version=3, shows=("preference_loss", "validation_loss", "accuracy", "margin", "steps")),
    StageKind("kto", "preference:Kto", _model_or_adapter, "hanlin.train.stages:kto",
              "align with single answers labeled good or bad", heavy=True, group=True,
              version=3,
              shows=("preference_loss", "validation_loss", "accuracy", "margin", "reference_point", "steps")),
    StageKind("merge", "model:Merge", "model", "hanlin.models.merge:run",
              "merge adapters into their base and verify it", version=3, heavy=True,
              resumes=False, shows=("adapter_tensors", "max_abs_difference", "greedy_agreement")),
    StageKind("import_gguf", "surgery.import_gguf:ImportGguf", "model", "hanlin.export.gguf.import_gguf:run",
              "make a model folder from a GGUF file", heavy=True, version=2,
              resumes=False, shows=("type", "bits_per_weight", "dtype", "kl", "same_top_token", "parity.mismatches")),
    StageKind("fuse_models", "surgery.fuse:FuseModels", "model", "hanlin.models.surgery.fuse:run",
              "fuse models by weights or changes (TIES, DARE, SLERP)", heavy=True,
              resumes=False, shows=("method", "models", "parameters", "checked_tensors", "max_error")),
    StageKind("import_checkpoint", "surgery.import_checkpoint:ImportCheckpoint", _held,
              "hanlin.models.layouts.import_checkpoint:run",
              "read Meta's checkpoints and pickled weights", heavy=True, version=2,
              resumes=False, shows=("layout", "files", "dtype", "tensors_verified")),
    StageKind("export_checkpoint", "surgery.export_checkpoint:ExportCheckpoint", "files",
              "hanlin.models.layouts.export_checkpoint:run",
              "write a model in Meta's original layout", heavy=True,
              resumes=False, shows=("files", "tensors", "dtype")),
    StageKind("imatrix", "export:Imatrix", "importance", "hanlin.export.gguf.imatrix:run",
              "measure an importance matrix on your own data", heavy=True,
              shows=("tokens", "rows", "entries")),
    StageKind("gguf", "export:Gguf", "gguf", "hanlin.export.gguf.export:run",
              "write quantized GGUF files and verify them", version=5, heavy=True,
              shows=("picked", "*.kl", "*.bits_per_weight", "*.same_top_token", "*.fallback_tensors",
                     "parity.mismatches")),
    StageKind("quantized_model", "export:QuantizedModel", "quantized", "hanlin.export.hf:run",
              "write a 4- or 8-bit model for transformers and vLLM",
              heavy=True, shows=("*.kl", "*.bits_per_weight", "*.same_answers", "parity.mismatches")),
    StageKind("package", "export:Package", "package", "hanlin.export.package:run",
              "package a model for Ollama, LM Studio, vLLM and others",
              heavy=True, lineage=True, shows=("target", "files", "bytes", "parity.mismatches")),
    StageKind("evaluate", "evaluate:Evaluate", "evaluation", "hanlin.evaluate.stage:run",
              "ask tasks or questions and score the answers", version=6, heavy=True, lineage=True,
              shows=("questions", "scores", "submission", "exact_match", "chinese_answer_share", "stop_rate",
                     "greedy_agreement", "unread_fields")),
    StageKind("perplexity", "evaluate:Perplexity", "evaluation", "hanlin.evaluate.perplexity:run",
              "measure perplexity on held-out text", heavy=True,
              shows=("perplexity", "bits_per_character", "tokens")),
    StageKind("long_context", "evaluate:LongContext", "evaluation", "hanlin.evaluate.long_context:run",
              "find passkeys, measure perplexity by position", heavy=True,
              shows=("longest", "passkey.found", "passkey.by_length")),
    StageKind("probe", "probe:BehaviorProbe", "evaluation", "hanlin.evaluate.probes.stage:run",
              "probe how a model behaves in chats", heavy=True, version=3,
              shows=("answers", "greedy.answers_in_chinese.share", "greedy.stops.share", "greedy.repeats.share",
                     "greedy.arithmetic.share")),
    StageKind("compare", "probe:Compare", "evaluation", "hanlin.evaluate.comparison.stage:run",
              "compare the results of models over the same questions", lineage=True,
              shows=("models", "tasks", "gains", "losses")),
)  # fmt: skip

KINDS: dict[str, StageKind] = {kind.name: kind for kind in _TABLE}


def get_kind(name: str, where: str | None = None) -> StageKind:
    """The stage kind of a name. Raises UserError, with a suggestion, if there is none."""
    if name not in KINDS:
        raise UserError(tr("no stage kind '{name}'", name=name), where, did_you_mean(name, KINDS))
    return KINDS[name]
