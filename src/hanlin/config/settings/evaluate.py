"""Settings of the three measurements: answers to questions, perplexity of held-out text, multiple-choice exams."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["auto", "transformers", "llama_cpp"]


class Measurement(Settings):
    """What is measured, and in which engine."""

    model: str = ref(
        "model",
        "adapter",
        "gguf",
        "quantized",
        en="the model, adapter, GGUF files or model in few bits that is measured",
        zh="要测量的模型、适配器、GGUF 文件或低比特模型",
    )
    file: str = setting(
        "",
        en="which GGUF file, by its type (`Q8_0`) or name; empty: the only one, or the largest",
        zh="用哪个 GGUF 文件，写类型（`Q8_0`）或文件名；空：唯一的或最大的那个",
    )
    engine: EngineName = setting(
        "auto",
        en="what runs the model; auto: llama.cpp for GGUF, transformers otherwise",
        zh="用什么运行模型；auto：GGUF 用 llama.cpp，其余用 transformers",
    )
    dtype: Dtype = setting(
        "float32",
        en="number format of the weights in transformers; auto, and always for a model in few bits: as they are stored",
        zh="transformers 中权重的数值格式；auto 以及低比特模型：按存储的格式",
    )


class _Asked(Measurement):
    """A measurement by questions, which the training data may have held."""

    contamination: tuple[str, ...] = ref(
        "documents",
        "conversations",
        "preferences",
        "unpaired_preferences",
        default=(),
        en="data stages with `decontaminate`: the score is also given without the questions that they hold",
        zh="设有 decontaminate 的数据阶段：另外给出去掉其所含题目之后的成绩",
    )


class Evaluate(_Asked):
    """Greedy answers to held-out questions, judged against every answer that counts as right."""

    questions: str = ref("files", en="a JSON Lines file of questions", zh="问题文件（JSON Lines）")
    compare_with: str | None = ref(
        "evaluation",
        default=None,
        en="an earlier evaluation of the same questions: the share of equal answers is reported",
        zh="同一批问题的另一次评测：报告两者回答相同的比例",
    )
    max_new_tokens: int = setting(
        128, en="an answer is cut after this many tokens", zh="回答达到这么多词元即截断", ge=1
    )
    limit: int | None = setting(None, en="ask only the first so many questions", zh="只问前若干个问题", ge=1)
    batch: int = setting(
        64, en="how many answers are generated at once at most", zh="最多同时生成多少个回答", affects_key=False, ge=1
    )


class Perplexity(Measurement):
    """How well a model predicts held-out text, or the answers of held-out conversations and the preferred of pairs.

    By token and, comparably across vocabularies, by character.
    """

    data: str = ref(
        "documents",
        "conversations",
        "preferences",
        en="documents, conversations or preferences with a validation split",
        zh="含留出部分的文档、对话或偏好对",
    )
    window: int | None = setting(
        None,
        en="tokens the model sees at once; null: 1024, or the model's context where that is shorter",
        zh="模型一次看到的词元数；null：1024，模型上下文更短时取其长度",
        ge=16,
    )
    overlap: int = setting(
        256,
        en="how many tokens of a window repeat the one before, as context that is not counted again; at most half",
        zh="窗口开头有多少词元与前一窗口重复，只作上文，不重复计分；至多一半",
        ge=0,
    )
    max_characters: int | None = setting(
        400_000,
        en="measure at most this many characters of each language, in the order of the file; null: all",
        zh="每种语言最多测这么多字符，按文件顺序；null：全部",
        ge=1,
    )


class Exam(_Asked):
    """A multiple-choice exam from local CSV files; the answer is the likeliest of the four letters."""

    exam: Literal["cmmlu", "ceval", "mmlu"] = setting(en="which exam", zh="哪一种考试")
    folder: str = ref(
        "files",
        en="the exam's folder, with dev/ and test/ (or val/) in it",
        zh="考试文件夹，内含 dev/ 与 test/（或 val/）",
    )
    profile: Literal["paper", "lm_eval"] = setting(
        "paper",
        en="how questions are put: as the exam's own authors do, or as lm-evaluation-harness does",
        zh="提问格式：按考试作者的写法，或按 lm-evaluation-harness 的写法",
    )
    split: Literal["auto", "dev", "val", "test"] = setting(
        "auto", en="which part is asked; auto: val for C-Eval (its test has no answers), otherwise test",
        zh="考哪一部分；auto：C-Eval 用 val（其 test 无答案），其余用 test",
    )  # fmt: skip
    shots: int = setting(5, en="worked examples from dev before each question", zh="每题之前给几道 dev 例题", ge=0)
    limit: int | None = setting(
        None,
        en="ask at most this many questions of each subject, drawn by the seed",
        zh="每科最多几题，按种子抽取",
        ge=1,
    )
    subjects: tuple[str, ...] = setting((), en="only these subjects; empty: all", zh="只考这些科目；空：全部")
    groups: dict[str, tuple[str, ...]] = setting(
        {},
        en="named groups of subjects to average; a subject may be in several",
        zh="按组平均：组名与科目；一个科目可属于多个组",
    )
