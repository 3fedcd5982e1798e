"""Finding a stage's records and encoding them: the train split and the validation split."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from hanlin.chat.rendering.loss_rules import LossRules
from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.preference import AlignmentSettings, ReferenceLogprobs
from hanlin.config.settings.train import Sft
from hanlin.core.context import StageContext
from hanlin.core.discover import (
    VALIDATION_FILE,
    count_records,
    holds_pairs,
    read_unpaired_preferences,
    require_record_files,
)
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference, read_jsonl
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.describe import describe_encoding
from hanlin.train.dataset.encode import ChatEncoder, encode_documents
from hanlin.train.dataset.encoded import Encode, EncodedRecords, encode_records, open_encoded
from hanlin.train.dataset.mask_checks import MaskRules

Record = TypeVar("Record", Document, Conversation, Preference)
AnswerSettings = AlignmentSettings | ReferenceLogprobs
TRAIN, VALIDATION = "train", "validation"
"""The splits, and their folders in the scratch folder."""


class DatasetPreparer:
    """Encodes the records of a stage into its scratch folder and checks their loss masks.

    The processes of a group find the encoded records there: encoding comes before they start
    (`StageContext.prepare_only`). Each method returns one `EncodedRecords` for each split: of the train split, and of
    the validation split if it is wanted.

    Args:
        model_folder: The model, whose chat template is used unless another is named.
        paths: The data.
        scratch: The stage's scratch folder.
        context: Progress, cores, and whether this process only prepares.
        wants_validation: Whether the validation split is needed; None: it is taken if it is there.
    """

    def __init__(
        self,
        model_folder: Path,
        tokenizer: Tokenizer,
        paths: tuple[Path, ...],
        scratch: Path,
        context: StageContext,
        wants_validation: bool | None,
    ) -> None:
        self.tokenizer, self.template = tokenizer, find_template(tokenizer)
        self.renders_chats = False
        """Whether the data is rendered through the chat template."""
        self._model_folder, self._paths, self._scratch, self._context = model_folder, paths, scratch, context
        self._wants_validation = wants_validation

    def documents(self) -> list[EncodedRecords]:
        """Encode documents."""
        rules = MaskRules.for_documents(self.tokenizer)
        return self._encode_splits(Document, lambda batch: encode_documents(batch, self.tokenizer), rules)

    def conversations(self, settings: Sft) -> list[EncodedRecords]:
        """Encode conversations."""
        encoder, rules = self._chat_encoder(settings, settings.template, settings.train_on)
        return self._encode_splits(Conversation, encoder.conversations, rules)

    def preferences(self, settings: AnswerSettings) -> list[EncodedRecords]:
        """Encode preference pairs, each as a chosen and a rejected example."""
        encoder, rules = self._chat_encoder(settings)
        return self._encode_splits(Preference, encoder.preferences, rules, width=2)

    def unpaired_preferences(self, settings: AnswerSettings) -> list[EncodedRecords]:
        """Encode answers that are labeled good or bad; a preference pair counts as one of each."""
        encoder, rules = self._chat_encoder(settings)
        splits = []
        for split, files in self._split_files(UnpairedPreference.kind, Preference.kind).items():
            paired = {file: holds_pairs(file) for file in files}
            records = (record for file in files for record in read_unpaired_preferences(file, paired[file]))
            total = sum(count_records(file) * (2 if paired[file] else 1) for file in files)
            splits.append(self.encode(split, records, encoder.unpaired_preferences, total, rules))
        return splits

    def encode(
        self,
        name: str,
        records: Iterable[Any],
        encode: Encode,
        total: int,
        rules: MaskRules | None = None,
        width: int = 1,
    ) -> EncodedRecords:
        """Encode records into a folder of the scratch folder, or open what was encoded before the group started.

        Args:
            name: The folder.
            records: The records.
            encode: Makes token ids of them.
            total: How many there are.
            rules: What is checked of them; None: nothing.
            width: Examples of each record.
        """
        folder = self._scratch / name
        if "RANK" in os.environ and not self._context.prepare_only:  # a cluster may set it for the starter, too
            return open_encoded(folder)
        encoded = encode_records(
            records,
            encode,
            width=width,
            folder=folder,
            progress=self._context.progress,
            total=total,
            warm_up=self.tokenizer.enable_fast_encoder,
            processes=self._context.cores,
        )
        if rules is not None:
            rules.check(encoded)
        for sentence in describe_encoding(encoded):
            self._context.progress.log(sentence)
        return encoded

    def _chat_encoder(
        self,
        settings: Sft | AnswerSettings,
        template_name: str | None = None,
        train_on: Literal["all", "last"] = "all",
    ) -> tuple[ChatEncoder, MaskRules]:
        """Raises UserError if the model has no chat template and none is named."""
        self.renders_chats = True
        if template_name is not None:
            self.template = ChatTemplate.from_packaged(template_name, self.tokenizer)
        elif self.template is None:
            self.template = ChatTemplate.load(self._model_folder, self.tokenizer).to_portable()
        self.template = self.template.with_past_reasoning(settings.past_reasoning)
        reads = settings.reasoning == "read"
        encoder = ChatEncoder(
            self.template,
            settings.max_seq_length,
            settings.overlong,
            LossRules(train_on, "read" if reads else "learn"),
            settings.reasoning == "drop",
            settings.on_refused,
        )
        return encoder, MaskRules.for_chats(self.template, reads)

    def _encode_splits(
        self, record: type[Record], encode: Encode, rules: MaskRules, width: int = 1
    ) -> list[EncodedRecords]:
        splits = []
        for split, files in self._split_files(record.kind).items():
            records = (row for file in files for row in read_jsonl(file, record))
            splits.append(self.encode(split, records, encode, sum(map(count_records, files)), rules, width))
        return splits

    def _split_files(self, *kinds: str) -> dict[str, list[Path]]:
        """The files of each split. Raises UserError if there is no validation split and it is wanted."""
        files = {TRAIN: [file for path in self._paths for file in require_record_files(path, *kinds)]}
        validation = [path / VALIDATION_FILE for path in self._paths if (path / VALIDATION_FILE).is_file()]
        if self._wants_validation and not validation:
            raise UserError(
                tr("eval_steps is set, but the data has no {validation_file}", validation_file=VALIDATION_FILE),
                ", ".join(map(str, self._paths)),
                tr("set validation_fraction in the stage that makes the data"),
            )
        if validation and self._wants_validation is not False:
            files[VALIDATION] = validation
        return files
