"""Settings of the evaluation kinds: answers to questions, perplexity on held-out text, multiple-choice exams."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "transformers", "llama_cpp"]


class ModelUnderTest(Settings):
    """The model to measure, and the engine that runs it."""

    model: str = ref(
        "model",
        "adapter",
        "gguf",
        "quantized",
        description="the model to measure: a model, adapter, GGUF files or quantized model",
    )
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


class _QuestionEvaluation(ModelUnderTest):
    """An evaluation by questions that may have been in the training data."""

    contamination: tuple[str, ...] = ref(
        "documents",
        "conversations",
        "preferences",
        "unpaired_preferences",
        default=(),
        description="data stages with `decontaminate`: a score without the questions found in their data is given too",
    )


class Evaluate(_QuestionEvaluation):
    """Greedy answers to held-out questions, compared with all answers that count as right."""

    questions: str = ref("files", description="a file of questions and their answers, in any of the usual forms")
    compare_with: str | None = ref(
        "evaluation",
        default=None,
        description="an earlier evaluation on the same questions: the fraction of equal answers is reported",
    )
    max_new_tokens: int = setting(128, description="maximum number of tokens of an answer", ge=1)
    limit: int | None = setting(None, description="ask only this many questions, from the first", ge=1)
    batch: int = setting(64, description="answers to generate at once, at most", affects_key=False, ge=1)


class Perplexity(ModelUnderTest):
    """Perplexity on held-out text, on the answers of held-out conversations, or on chosen answers of held-out pairs.

    It is given per token, and per character, which is comparable across vocabularies.
    """

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


class Exam(_QuestionEvaluation):
    """A multiple-choice exam from local CSV files; the answer is the most likely of the four letters."""

    exam: Literal["cmmlu", "ceval", "mmlu"] = setting(description="the exam")
    folder: str = ref(
        "files",
        description="the exam's folder, which holds dev/ and test/ (or val/)",
    )
    profile: Literal["paper", "lm_eval"] = setting(
        "paper",
        description="prompt format: that of the exam's authors, or that of lm-evaluation-harness",
    )
    split: Literal["auto", "dev", "val", "test"] = setting(
        "auto",
        description="the split to ask; auto: val for C-Eval, otherwise test; without answers, submission.json is made",
    )
    shots: int = setting(5, description="few-shot examples from dev before each question", ge=0)
    limit: int | None = setting(
        None,
        description="questions of each subject at most, sampled with the seed",
        ge=1,
    )
    subjects: tuple[str, ...] = setting((), description="only these subjects; empty: all")
    groups: dict[str, tuple[str, ...]] = setting(
        {},
        description="named groups of subjects to average over; a subject may be in several",
    )
