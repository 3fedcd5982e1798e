"""Settings of the kinds that make or change a model's weights (birth, vocabulary, merging), and of LoRA adapters."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import say

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WholeModule = Literal["embed_tokens", "lm_head", "norm"]
PROJECTIONS: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
INTERMEDIATE_MULTIPLE = 256


class LoraSettings(Settings):
    """A low-rank adapter (Hu et al. 2021, LoRA, arXiv:2106.09685): W + scale · B A, only A and B are trained."""

    rank: int = setting(16, "rank of the adapter matrices", "适配器矩阵的秩", ge=1)
    alpha: float = setting(
        32.0,
        "scale of the adapter: alpha/rank, or alpha/√rank with rslora",
        "缩放：alpha/rank；rslora 时为 alpha/√rank",
        gt=0,
    )
    dropout: float = setting(
        0.0, "share of the adapter's inputs that is dropped in training", "适配器输入的丢弃率", ge=0, lt=1
    )
    targets: tuple[Projection, ...] = setting(
        PROJECTIONS, "projections that get an adapter", "加适配器的投影层", min_length=1
    )
    rslora: bool = setting(
        False, "scale by alpha/√rank (Kalajdzievski 2023, arXiv:2312.03732)", "按 alpha/√rank 缩放（rsLoRA）"
    )
    dora: bool = setting(
        False, "learn direction and magnitude apart (Liu et al. 2024, arXiv:2402.09353)", "方向与幅度分开学习（DoRA）"
    )
    loraplus_lr_ratio: float = setting(
        1.0,
        "how much faster B learns than A (LoRA+, Hayou et al. 2024, arXiv:2402.12354; 16 is a good start)",
        "B 与 A 的学习率之比（LoRA+；可从 16 开始）",
        ge=1,
        unless_default=True,
    )
    init: Literal["zero", "pissa", "pissa_fast"] = setting(
        "zero",
        "where the adapter starts: B zero; or the base's greatest singular values, taken out of it (PiSSA, Meng et al. "
        "2024, arXiv:2404.02948), by a whole decomposition or a fast, nearly equal one. What is saved fits the base as "
        "it was, at twice the rank",
        "适配器的初值：B 为零；或取底座最大的奇异值并从底座中减去（PiSSA），用完整分解或近似的快速分解。"
        "保存的适配器仍配原底座，秩加倍",
        unless_default=True,
    )
    quantization: Literal["nf4", "int8"] | None = setting(
        None,
        "the frozen base is kept in 4 bits (QLoRA: NF4, its constants quantized too; Dettmers et al. 2023, "
        "arXiv:2305.14314) or 8 while the adapter is trained; needs `pip install hanlin[qlora]`",
        "训练适配器时冻结的底座以 4 比特（QLoRA：NF4 双重量化）或 8 比特存放；需 pip install hanlin[qlora]",
        unless_default=True,
    )
    modules_to_save: tuple[WholeModule, ...] = setting(
        (),
        "modules trained and saved whole beside the adapter: embed_tokens, lm_head, norm (every norm); "
        "of a model with tied embeddings either of the first two means both",
        "完整训练并保存的模块：embed_tokens、lm_head、norm（全部归一化层）；词嵌入绑定的模型，前两者任选其一即为两者",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for names in (self.targets, self.modules_to_save):
            if len(set(names)) != len(names):
                raise ValueError(say("a module is named twice", "有模块重复"))
        return self

    @model_validator(mode="after")
    def _pissa_is_plain(self) -> Self:
        if self.init != "zero" and (self.dora or self.dropout):
            raise ValueError(say("PiSSA needs dropout 0 and no DoRA", "PiSSA 要求 dropout 为 0 且不用 DoRA"))
        if self.quantization is not None and (self.dora or self.init != "zero"):
            raise ValueError(say("a packed base takes neither PiSSA nor DoRA", "低比特底座不支持 PiSSA 与 DoRA"))
        return self


class InitModel(Settings):
    """A Llama model with random weights, of the size of these settings, over a tokenizer."""

    tokenizer: str = ref("tokenizer", en="the tokenizer whose entries get embeddings", zh="分词器")
    license: str = setting(
        "", "license of the tokenizer, carried along", "分词器的许可证，会一路带上", unless_default=True
    )
    template: str | None = setting(
        None,
        "chat template by name; none: the one that the tokenizer folder brings",
        "对话模板名；不填则用分词器目录自带的模板",
        resource="template",
    )
    hidden_size: int = setting(512, "width of the residual stream", "隐藏维度", ge=8)
    layers: int = setting(8, "decoder blocks", "解码层数", ge=1)
    heads: int = setting(8, "attention heads", "注意力头数", ge=1)
    key_value_heads: int | None = setting(
        None,
        "key-value heads, a divisor of heads; none: as many as heads",
        "键值头数，须整除 heads；不填则等于 heads",
        ge=1,
    )
    intermediate_size: int | None = setting(
        None,
        "width of the feed-forward layers; none: 8/3 of hidden_size, rounded up to a multiple of 256",
        "前馈层宽度；不填则取 hidden_size 的 8/3 并向上取整到 256 的倍数",
        ge=1,
    )
    context_length: int = setting(2048, "positions the model is made for", "上下文长度", ge=8)
    rope_theta: float = setting(10_000.0, "base of the rotary position frequencies", "旋转位置编码的基数", gt=1)
    initializer_range: float = setting(
        0.02,
        "standard deviation of the random weights; a narrow model learns sooner from about 1/√hidden_size",
        "随机权重的标准差；较窄的模型取约 1/√hidden_size 学得更快",
        gt=0,
        le=1,
    )
    tie_embeddings: bool = setting(
        False, "input embeddings and output head are one matrix", "输入嵌入与输出头共用一个矩阵"
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "number format of the saved weights", "保存权重的数值格式"
    )
    vocabulary_multiple: int = setting(
        1, "pad the embedding rows to a multiple of this", "嵌入行数补齐到该数的倍数", ge=1, le=4096
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                say("hidden_size must be an even multiple of heads", "hidden_size 须为 heads 的偶数倍"),
            )
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(say("key_value_heads must divide heads", "key_value_heads 须整除 heads"))
        return self

    @property
    def feed_forward(self) -> int:
        """`intermediate_size`, or the rule of the first Llama (Touvron et al. 2023, arXiv:2302.13971, section 2.2).

        The multiple of 256 is also the block of llama.cpp's K-quants.
        """
        if self.intermediate_size is not None:
            return self.intermediate_size
        return -(-8 * self.hidden_size // (3 * INTERMEDIATE_MULTIPLE)) * INTERMEDIATE_MULTIPLE


class ExtendVocabulary(Settings):
    """Entries learned from text are added to a model's vocabulary; its embeddings and output head grow by their rows."""

    model: str = ref("model", en="the model to extend", zh="要扩展的模型")
    text: str = ref("documents", en="documents that the new entries are learned from", zh="用来学习新词条的文档")
    new_entries: int = setting(8000, "how many entries are added at most", "最多增加的词条数", ge=1)


class Merge(Settings):
    """An adapter is added into its base, and what was written is read again and compared."""

    adapter: str = ref("adapter", en="the adapter; it knows its base", zh="适配器（其底座由其自身记录）")
    dtype: Literal["base", "float32", "bfloat16", "float16"] = setting(
        "base", "number format of the merged weights; base: the base's own", "合并后权重的数值格式；base 表示与底座相同"
    )
