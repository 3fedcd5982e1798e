"""Settings of the evaluation kinds: tasks and questions, perplexity on held-out text, long contexts."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Any, Literal

from pydantic import field_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.errors import did_you_mean
from hanlin.core.i18n import tr

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16"]
EngineName = Literal["auto", "transformers", "llama_cpp"]


TASK_GROUPS = {
    "clue": ("afqmc", "cmnli", "ocnli", "cluewsc", "chid", "c3", "cmrc2018", "tnews"),
    "fewclue": ("bustm", "chid", "eprstmt", "tnews", "fewclue_wsc"),
    "longbench_zh": ("longbench_multifieldqa_zh", "longbench_passage_retrieval_zh"),
}
"""Names that stand for several tasks."""
OWN_QUESTIONS = "own_questions"
"""The task of a file of one's own questions, which is named by its file."""


@functools.cache
def task_names() -> tuple[str, ...]:
    """Names of the tasks that come with Hanlin and of their groups.

    The task files are read as text: a misspelled name is told before the data is hashed, and planning imports no
    evaluation.
    """
    folder = resources.files("hanlin.evaluate") / "tasks" / "files"
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")]
    names = [name for text in texts for name in re.findall(r"^([^\W_][\w.-]*):", text, re.MULTILINE)]
    return tuple(sorted({*names, *TASK_GROUPS} - {OWN_QUESTIONS}))


def contamination_ref() -> Any:
    """The setting `contamination` of kinds that score questions: data stages that looked for these in their data."""
    return ref(
        "documents",
        "conversations",
        "preferences",
        "unpaired_preferences",
        default=(),
        description="data stages with `decontaminate`: scores without the questions found in their data are given too",
    )


class _EngineSettings(Settings):
    """The engine that runs the model to measure."""

    file: str = setting(
        "",
        description="the GGUF file to use, by its type (`Q8_0`) or name; empty: the only one, or the largest",
    )
    engine: EngineName = setting(
        "auto",
        description="the engine that runs the model; auto: llama.cpp for GGUF, transformers otherwise",
    )
    dtype: Dtype = setting(
        "float32",
        description="number format of the weights in transformers; auto, and always for a quantized model: as stored",
    )
    precision: Precision = setting(
        "auto",
        description="number format that weights in float32 are multiplied in; bfloat16: faster where the processor has "
        "it, and rounded; auto: float32, for equal scores everywhere",
        unless_default=True,
    )


class ModelUnderTest(_EngineSettings):
    """The model to measure, and the engine that runs it."""

    model: str = ref(
        "model",
        "adapter",
        "gguf",
        "quantized",
        description="the model to measure: a model, adapter, GGUF files or quantized model",
    )


class Evaluate(_EngineSettings):
    """Tasks (exams, reading, mathematics, questions of your own) under scoring profiles, or greedy answers to a file of
    held-out questions.
    """

    model: str | None = ref(
        "model",
        "adapter",
        "gguf",
        "quantized",
        default=None,
        description="the model to measure: a model, adapter, GGUF files or quantized model; or set `address`",
    )
    tasks: tuple[str, ...] = setting(
        (),
        description="tasks to ask: names (cmmlu, mmlu, arc_easy, ...), or task files and files of your own questions "
        "in `data`",
    )
    lm_eval_tasks: tuple[str, ...] = setting(
        (),
        description="instead of `tasks`: tasks, groups and tags of lm-evaluation-harness, asked by its own task files; "
        "or task files of its form in `data`, which are programs",
        unless_default=True,
    )
    data: str | None = ref("files", default=None, description="the folder of the tasks' files")
    profiles: tuple[str, ...] = setting(
        (),
        description="scoring profiles, each asked where a task has it; empty: the first of each task",
    )
    chat: bool | None = setting(
        None,
        description="ask through the chat template; none: of tasks only your own questions",
    )
    thinking: bool | None = setting(
        None, description="turn the template's thinking on or off; none: as it is by itself"
    )
    method: Literal["auto", "generate"] = setting(
        "auto",
        description="auto: as the profile; generate: let a chat model write the letter of a choice, and extract it",
    )
    shots: int | None = setting(None, description="worked examples before each question; none: the profile's", ge=0)
    split: Literal["", "dev", "val", "test"] = setting(
        "", description="part of an exam to ask; empty: the task's; without answers, a submission file is made"
    )
    subjects: tuple[str, ...] = setting((), description="only these subjects of the tasks; empty: all")
    format_control: bool = setting(
        False,
        description="ask each task once more without worked examples and once more with examples of random answers: "
        "what the format of the answer alone is worth",
        unless_default=True,
    )
    shuffle_choices: bool = setting(False, description="shuffle the choices of each question, with the seed")
    address: str = setting("", description="ask a server of OpenAI's API instead of a model")
    served_model: str = setting("", description="name of the model at the address; empty: the first it lists")
    questions: str | None = ref(
        "files", default=None, description="a file of questions and their answers, in any of the usual forms"
    )
    compare_with: str | None = ref(
        "evaluation",
        default=None,
        description="an earlier evaluation on the same questions: the fraction of equal answers is reported",
    )
    max_new_tokens: int | None = setting(
        None, description="maximum number of tokens of an answer; none: 128, of tasks the profile's", ge=1
    )
    limit: int | None = setting(
        None,
        description="ask only this many questions: of a file the first, of each subject of a task a sample",
        ge=1,
    )
    contamination: tuple[str, ...] = contamination_ref()
    batch: int = setting(64, description="answers to generate at once, at most", affects_key=False, ge=1)

    @field_validator("tasks")
    @classmethod
    def _are_known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Names with a dot are files of the data folder, which is not looked into here."""
        for name in (part.strip() for text in tasks for part in text.split(",")):
            if name and "." not in name and name not in task_names():
                what = tr("there is no task '{name}'", name=name)
                raise ValueError(f"{what} ({did_you_mean(name, task_names())})")
        return tasks


class Perplexity(ModelUnderTest):
    """Perplexity on held-out text, on the answers of held-out conversations, or on chosen answers of held-out pairs.

    It is given per token, and per character, which is comparable across vocabularies.
    """

    precision: Precision = setting(
        "auto",
        description="number format that weights in float32 are multiplied in; auto: bfloat16 where the processor is "
        "faster by it (perplexity moves by less than 0.1 %), else float32",
        unless_default=True,
    )
    data: str = ref(
        "documents",
        "conversations",
        "preferences",
        description="documents, conversations or preferences with a validation split",
    )
    window: int | None = setting(
        None,
        description="window length in tokens; none: 1024, or the model's context length if that is shorter",
        ge=16,
    )
    overlap: int = setting(
        256,
        description="tokens of the previous window that a window repeats as context only; at most half of it",
        ge=0,
    )
    max_characters: int | None = setting(
        400_000,
        description="characters to measure in each language at most, in the order of the file; none: all",
        ge=1,
    )


class LongContext(ModelUnderTest):
    """Whether a model finds a passkey in long texts, and its perplexity by position."""

    lengths: tuple[int, ...] = setting(
        (),
        description="lengths of the texts in tokens; empty: 512, 1,024, 2,048 and so on up to the model's context",
    )
    depths: int = setting(5, description="depths at which a key is hidden, from the beginning to the end", ge=1, le=101)
    samples: int = setting(2, description="keys for each length and depth", ge=1)
    language: Literal["zh", "en"] = setting("zh", description="language of the text around the key")
    data: str | None = ref(
        "documents",
        default=None,
        description="documents whose perplexity is measured by position, those of the validation split; none: only "
        "passkeys",
    )
    max_documents: int = setting(8, description="documents to measure at most, the longest ones", ge=1)
