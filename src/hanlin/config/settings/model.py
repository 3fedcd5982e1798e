"""Settings of the kinds that make or change a model's weights (initialization, vocabulary, merging), and of LoRA."""

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
    """A LoRA adapter (Hu et al. 2021, arXiv:2106.09685): W + scale · B A, of which only A and B are trained."""

    rank: int = setting(16, "rank of the adapter matrices", "适配器矩阵的秩", ge=1)
    alpha: float = setting(
        32.0,
        "scale of the adapter: alpha/rank, or alpha/√rank with rslora",
        "缩放系数：alpha/rank；启用 rslora 时为 alpha/√rank",
        gt=0,
    )
    dropout: float = setting(
        0.0, "dropout on the adapter's inputs during training", "训练时适配器输入的 dropout 比例", ge=0, lt=1
    )
    targets: tuple[Projection, ...] = setting(
        PROJECTIONS, "linear layers that get an adapter", "加适配器的线性层", min_length=1
    )
    rslora: bool = setting(
        False,
        "scale by alpha/√rank (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)",
        "按 alpha/√rank 缩放（rsLoRA，Kalajdzievski 2023，arXiv:2312.03732）",
    )
    dora: bool = setting(
        False,
        "train direction and magnitude separately (DoRA, Liu et al. 2024, arXiv:2402.09353)",
        "方向与幅度分开训练（DoRA，Liu 等 2024，arXiv:2402.09353）",
    )
    loraplus_lr_ratio: float = setting(
        1.0,
        "learning rate of B relative to A (LoRA+, Hayou et al. 2024, arXiv:2402.12354; 16 is a good start)",
        "B 与 A 的学习率之比（LoRA+，Hayou 等 2024，arXiv:2402.12354；可从 16 开始尝试）",
        ge=1,
        unless_default=True,
    )
    init: Literal["zero", "pissa", "pissa_fast"] = setting(
        "zero",
        "initialization: zero (B is zero); pissa: the largest singular values and vectors of the base, subtracted from "
        "it (PiSSA, Meng et al. 2024, arXiv:2404.02948); pissa_fast: the same by a fast, approximate decomposition. "
        "The saved adapter fits the original base, at twice the rank",
        "初始化方式：zero（B 为零）；pissa：取底座最大的奇异值与奇异向量，并从底座中减去（PiSSA，Meng 等 2024，"
        "arXiv:2404.02948）；pissa_fast：同上，用快速的近似分解。保存的适配器适用于原底座，秩为两倍",
        unless_default=True,
    )
    quantization: Literal["nf4", "int8"] | None = setting(
        None,
        "quantize the frozen base during training: nf4 (QLoRA, 4 bits with double quantization; Dettmers et al. 2023, "
        "arXiv:2305.14314) or int8; needs `pip install hanlin[qlora]`",
        "训练时冻结的底座所用的量化：nf4（QLoRA，4 位双重量化；Dettmers 等 2023，arXiv:2305.14314）或 int8；"
        "需 pip install hanlin[qlora]",
        unless_default=True,
    )
    modules_to_save: tuple[WholeModule, ...] = setting(
        (),
        "modules that are trained and saved in full besides the adapter: embed_tokens, lm_head, norm (all norms); with "
        "tied embeddings either of the first two means both",
        "适配器之外完整训练并保存的模块：embed_tokens、lm_head、norm（所有归一化层）；词嵌入与输出头共享时，"
        "写前两者之一即包括两者",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for names in (self.targets, self.modules_to_save):
            if len(set(names)) != len(names):
                raise ValueError(say("a module is listed twice", "模块重复"))
        return self

    @model_validator(mode="after")
    def _pissa_is_plain(self) -> Self:
        if self.init != "zero" and (self.dora or self.dropout):
            raise ValueError(say("PiSSA needs dropout 0 and no DoRA", "PiSSA 要求 dropout 为 0 且不用 DoRA"))
        if self.quantization is not None and (self.dora or self.init != "zero"):
            raise ValueError(say("a quantized base supports neither PiSSA nor DoRA", "量化的底座不支持 PiSSA 与 DoRA"))
        return self


class InitModel(Settings):
    """A Llama model with random weights, for a given tokenizer."""

    tokenizer: str = ref("tokenizer", en="the tokenizer of the model", zh="模型使用的分词器")
    license: str = setting(
        "",
        "license of the tokenizer, recorded in everything made from it",
        "分词器的许可证，会记入由它产生的所有产物",
        unless_default=True,
    )
    template: str | None = setting(
        None,
        "name of a packaged chat template; none: the one in the tokenizer's folder",
        "内置对话模板的名称；不填则用分词器目录自带的模板",
        resource="template",
    )
    hidden_size: int = setting(512, "width of the hidden states", "隐藏层维度", ge=8)
    layers: int = setting(8, "number of decoder layers", "解码层数", ge=1)
    heads: int = setting(8, "number of attention heads", "注意力头数", ge=1)
    key_value_heads: int | None = setting(
        None,
        "number of key-value heads, a divisor of heads; none: as many as heads",
        "键值（KV）头数，须能整除 heads；不填则等于 heads",
        ge=1,
    )
    intermediate_size: int | None = setting(
        None,
        "width of the feed-forward layers; none: 8/3 of hidden_size, rounded up to a multiple of 256",
        "前馈层宽度；不填则取 hidden_size 的 8/3 并向上取整到 256 的倍数",
        ge=1,
    )
    context_length: int = setting(2048, "context length in tokens", "上下文长度（词元数）", ge=8)
    rope_theta: float = setting(10_000.0, "base of the rotary position embeddings", "旋转位置编码（RoPE）的基数", gt=1)
    initializer_range: float = setting(
        0.02,
        "standard deviation of the random weights; narrow models learn faster with about 1/√hidden_size",
        "随机权重的标准差；隐藏层较窄的模型取约 1/√hidden_size 学得更快",
        gt=0,
        le=1,
    )
    tie_embeddings: bool = setting(
        False, "share one matrix between input embeddings and output head", "输入嵌入与输出头共享同一个矩阵"
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "number format of the saved weights", "保存权重的数值格式"
    )
    vocabulary_multiple: int = setting(
        1, "pad the embedding rows to a multiple of this number", "把嵌入的行数补齐到该数的倍数", ge=1, le=4096
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
    """Add entries learned from text to a model's vocabulary, and resize its embeddings and output head."""

    model: str = ref("model", en="the model to extend", zh="要扩展的模型")
    text: str = ref("documents", en="documents to learn the new entries from", zh="用于学习新词条的文档")
    new_entries: int = setting(8000, "number of entries to add at most", "最多增加的词条数", ge=1)


class Merge(Settings):
    """Merge an adapter into its base; what was written is reloaded and compared."""

    adapter: str = ref("adapter", en="the adapter, which names its base", zh="适配器（其中记有底座的位置）")
    dtype: Literal["base", "float32", "bfloat16", "float16"] = setting(
        "base",
        "number format of the merged weights; base: that of the base",
        "合并后权重的数值格式；base 表示与底座相同",
    )
