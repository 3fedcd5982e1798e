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
        en="the model to measure: a model, adapter, GGUF files or quantized model",
        zh="要测量的模型：模型、适配器、GGUF 文件或量化模型",
    )
    file: str = setting(
        "",
        en="the GGUF file to use, by its type (`Q8_0`) or name; empty: the only one, or the largest",
        zh="使用哪个 GGUF 文件，填类型（如 `Q8_0`）或文件名；为空则用唯一的或最大的那个",
    )
    engine: EngineName = setting(
        "auto",
        en="the engine that runs the model; auto: llama.cpp for GGUF, transformers otherwise",
        zh="运行模型的引擎；auto：GGUF 用 llama.cpp，其余用 transformers",
    )
    dtype: Dtype = setting(
        "float32",
        en="number format of the weights in transformers; auto, and always for a quantized model: as stored",
        zh="transformers 中权重的数值格式；auto 及量化模型一律使用存储的格式",
    )


class _QuestionEvaluation(ModelUnderTest):
    """An evaluation by questions that may have been in the training data."""

    contamination: tuple[str, ...] = ref(
        "documents",
        "conversations",
        "preferences",
        "unpaired_preferences",
        default=(),
        en="data stages with `decontaminate`: a score without the questions found in their data is given too",
        zh="设置了 decontaminate 的数据阶段：另外给出剔除其数据所含题目之后的成绩",
    )


class Evaluate(_QuestionEvaluation):
    """Greedy answers to held-out questions, compared with all answers that count as right."""

    questions: str = ref("files", en="a JSON Lines file of questions", zh="问题文件（JSON Lines）")
    compare_with: str | None = ref(
        "evaluation",
        default=None,
        en="an earlier evaluation on the same questions: the fraction of equal answers is reported",
        zh="在同一批问题上的另一次评测：报告两次回答相同的比例",
    )
    max_new_tokens: int = setting(128, en="maximum number of tokens of an answer", zh="回答的最大词元数", ge=1)
    limit: int | None = setting(None, en="ask only this many questions, from the first", zh="只问前若干个问题", ge=1)
    batch: int = setting(
        64, en="answers to generate at once, at most", zh="最多同时生成的回答数", affects_key=False, ge=1
    )


class Perplexity(ModelUnderTest):
    """Perplexity on held-out text, on the answers of held-out conversations, or on chosen answers of held-out pairs.

    It is given per token, and per character, which is comparable across vocabularies.
    """

    data: str = ref(
        "documents",
        "conversations",
        "preferences",
        en="documents, conversations or preferences with a validation split",
        zh="含验证集的文档、对话或偏好对",
    )
    window: int | None = setting(
        None,
        en="window length in tokens; none: 1024, or the model's context length if that is shorter",
        zh="窗口长度（词元数）；不填则为 1024，模型上下文更短时取其长度",
        ge=16,
    )
    overlap: int = setting(
        256,
        en="tokens of the previous window that a window repeats as context only; at most half of it",
        zh="窗口与前一窗口重叠的词元数，只作上文，不重复计分；至多为窗口的一半",
        ge=0,
    )
    max_characters: int | None = setting(
        400_000,
        en="characters to measure in each language at most, in the order of the file; none: all",
        zh="每种语言最多测量的字符数，按文件顺序；不填则全部测量",
        ge=1,
    )


class Exam(_QuestionEvaluation):
    """A multiple-choice exam from local CSV files; the answer is the most likely of the four letters."""

    exam: Literal["cmmlu", "ceval", "mmlu"] = setting(en="the exam", zh="考试名称")
    folder: str = ref(
        "files",
        en="the exam's folder, which holds dev/ and test/ (or val/)",
        zh="考试数据所在的文件夹，内含 dev/ 与 test/（或 val/）",
    )
    profile: Literal["paper", "lm_eval"] = setting(
        "paper",
        en="prompt format: that of the exam's authors, or that of lm-evaluation-harness",
        zh="提示格式：考试作者的格式，或 lm-evaluation-harness 的格式",
    )
    split: Literal["auto", "dev", "val", "test"] = setting(
        "auto", en="the split to ask; auto: val for C-Eval (its test split has no answers), otherwise test",
        zh="使用哪个划分；auto：C-Eval 用 val（其 test 没有答案），其余用 test",
    )  # fmt: skip
    shots: int = setting(
        5, en="few-shot examples from dev before each question", zh="每题之前的示例题数（取自 dev）", ge=0
    )
    limit: int | None = setting(
        None,
        en="questions of each subject at most, sampled with the seed",
        zh="每科最多的题数，按随机种子抽取",
        ge=1,
    )
    subjects: tuple[str, ...] = setting((), en="only these subjects; empty: all", zh="只考这些科目；为空则考全部科目")
    groups: dict[str, tuple[str, ...]] = setting(
        {},
        en="named groups of subjects to average over; a subject may be in several",
        zh="分组求平均：组名及其科目；一个科目可属于多个组",
    )
