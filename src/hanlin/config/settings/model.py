"""Settings of the kinds that make or change a model's weights (initialization, vocabulary, merging), and of LoRA."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import MAX_WEIGHT, Settings, ref, setting
from hanlin.core.i18n import tr

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WholeModule = Literal["embed_tokens", "lm_head", "norm"]
PROJECTIONS: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
INTERMEDIATE_MULTIPLE = 256


class LoraSettings(Settings):
    """A LoRA adapter (Hu et al. 2021, arXiv:2106.09685): W + scale · B A, of which only A and B are trained."""

    rank: int = setting(16, "rank of the adapter matrices", ge=1)
    alpha: float = setting(
        32.0,
        "scale of the adapter: alpha/rank, or alpha/√rank with rslora",
        gt=0,
    )
    dropout: float = setting(0.0, "dropout on the adapter's inputs during training", ge=0, lt=1)
    targets: tuple[Projection, ...] = setting(PROJECTIONS, "linear layers that get an adapter", min_length=1)
    router: bool = setting(
        True,
        "in a model of experts, an adapter for the router of each block with adapted experts too; without it, the "
        "router stays as it is and the balance loss cannot change it",
        unless_default=True,
    )
    rslora: bool = setting(
        False,
        "scale by alpha/√rank (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)",
    )
    dora: bool = setting(
        False,
        "train direction and magnitude separately (DoRA, Liu et al. 2024, arXiv:2402.09353)",
    )
    loraplus_lr_ratio: float = setting(
        1.0,
        "learning rate of B relative to A (LoRA+, Hayou et al. 2024, arXiv:2402.12354; 16 is a good start)",
        ge=1,
        unless_default=True,
    )
    init: Literal["zero", "pissa", "pissa_fast"] = setting(
        "zero",
        "initialization: zero (B is zero); pissa: the largest singular values and vectors of the base, subtracted from "
        "it (PiSSA, Meng et al. 2024, arXiv:2404.02948); pissa_fast: the same by a fast, approximate decomposition. "
        "The saved adapter fits the original base, at twice the rank",
        unless_default=True,
    )
    quantization: Literal["nf4", "int8"] | None = setting(
        None,
        "quantize the frozen base during training: nf4 (QLoRA, 4 bits with double quantization; Dettmers et al. 2023, "
        "arXiv:2305.14314) or int8; needs `pip install hanlin[qlora]`",
        unless_default=True,
    )
    modules_to_save: tuple[WholeModule, ...] = setting(
        (),
        "modules that are trained and saved in full besides the adapter: embed_tokens, lm_head, norm (all norms); with "
        "tied embeddings either of the first two means both",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for names in (self.targets, self.modules_to_save):
            if len(set(names)) != len(names):
                raise ValueError(tr("a module is listed twice"))
        return self

    @model_validator(mode="after")
    def _pissa_is_plain(self) -> Self:
        if self.init != "zero" and (self.dora or self.dropout):
            raise ValueError(tr("PiSSA needs dropout 0 and no DoRA"))
        if self.quantization is not None and (self.dora or self.init != "zero"):
            raise ValueError(tr("a quantized base supports neither PiSSA nor DoRA"))
        return self


class InitModel(Settings):
    """A Llama model with random weights, for a given tokenizer."""

    tokenizer: str = ref("tokenizer", description="the tokenizer of the model")
    license: str = setting(
        "",
        "license of the tokenizer, recorded in everything made from it",
        unless_default=True,
    )
    template: str | None = setting(
        None,
        "name of a packaged chat template, or a Jinja file; none: the one in the tokenizer's folder",
        resource="template",
    )
    hidden_size: int = setting(512, "width of the hidden states", ge=8)
    layers: int = setting(8, "number of decoder layers", ge=1)
    heads: int = setting(8, "number of attention heads", ge=1)
    key_value_heads: int | None = setting(
        None,
        "number of key-value heads, a divisor of heads; none: as many as heads",
        ge=1,
    )
    intermediate_size: int | None = setting(
        None,
        "width of the feed-forward layers; none: 8/3 of hidden_size, rounded up to a multiple of 256",
        ge=1,
    )
    context_length: int = setting(2048, "context length in tokens", ge=8)
    rope_theta: float = setting(10_000.0, "base of the rotary position embeddings", gt=1)
    initializer_range: float = setting(
        0.02,
        "standard deviation of the random weights; narrow models learn faster with about 1/√hidden_size",
        gt=0,
        le=1,
    )
    tie_embeddings: bool = setting(False, "share one matrix between input embeddings and output head")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "number format of the saved weights")
    vocabulary_multiple: int = setting(1, "pad the embedding rows to a multiple of this number", ge=1, le=4096)

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                tr("hidden_size must be an even multiple of heads"),
            )
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(tr("key_value_heads must divide heads"))
        return self

    @property
    def feed_forward(self) -> int:
        """`intermediate_size`, or the rule of the first Llama (Touvron et al. 2023, arXiv:2302.13971, section 2.2).

        The multiple of 256 is also the block of llama.cpp's K-quants.
        """
        if self.intermediate_size is not None:
            return self.intermediate_size
        return -(-8 * self.hidden_size // (3 * INTERMEDIATE_MULTIPLE)) * INTERMEDIATE_MULTIPLE


DISTILL_TOKENS = 120_000
"""Tokens that `init: distilled` reads if nothing is said."""


class ExtendVocabulary(Settings):
    """Add entries learned from text to a model's vocabulary, and resize its embeddings and output head."""

    model: str = ref("model", description="the model to extend")
    text: tuple[str, ...] = ref("documents", description="documents to learn the new entries from", min_length=1)
    weights: tuple[float, ...] = setting(
        (),
        "a weight for each source of `text`, in their order: text of weight 3 counts as if it were there three times",
        unless_default=True,
    )
    new_entries: int = setting(8000, "number of entries to add at most", ge=1, le=1_000_000)
    words: tuple[str, ...] = setting(
        (),
        "your own Chinese words, of 2 to 32 characters: they become entries before others are learned",
        unless_default=True,
    )
    words_file: str | None = ref(
        "files",
        default=None,
        description="more of your own words: a UTF-8 file with one on each line",
    )
    init: Literal["mean", "weighted", "omp", "average_of_similar", "distilled"] = setting(
        "distilled",
        "rows that new entries begin with. mean: the mean of their pieces' rows; weighted: rare pieces weigh more; "
        "average_of_similar: the mean of old entries with similar neighbors in the text (as WECHSEL, Minixhofer et al. "
        "2022, arXiv:2112.06598); omp: a sparse combination of such entries (orthogonal matching pursuit, "
        "arXiv:2506.06607); distilled: rows fitted to what the model does with the pieces when it reads a part of the "
        "text (as Token Distillation, Dobler et al. 2025, arXiv:2505.20133)",
    )
    distill_tokens: int = setting(
        DISTILL_TOKENS,
        "tokens of the text that the model reads for `init: distilled`; fewer take less time and leave worse rows",
        ge=1,
        unless_default=True,
    )

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights and len(self.weights) != len(self.text):
            raise ValueError(
                tr("{weights} weights for {sources} sources of text", weights=len(self.weights), sources=len(self.text))
            )
        if any(not 0.01 <= weight <= 1000 for weight in self.weights):
            raise ValueError(tr("weights must be between 0.01 and 1000"))
        return self

    @model_validator(mode="after")
    def _check_distill_tokens(self) -> Self:
        if self.distill_tokens != DISTILL_TOKENS and self.init != "distilled":
            raise ValueError(tr("distill_tokens is for init: distilled; init is {init}", init=self.init))
        return self


class TrimVocabulary(Settings):
    """Keep only the vocabulary entries that your texts need, and cut the embeddings and the output head to them."""

    model: str = ref("model", description="the model to trim")
    text: tuple[str, ...] = ref(
        "documents",
        "conversations",
        "preferences",
        "unpaired_preferences",
        "files",
        description="texts that must keep their tokens: documents, chats (as the model's template renders them), "
        "or folders of .txt and .jsonl files; validation splits are read too",
        min_length=1,
    )
    min_count: int = setting(
        1,
        "keep an entry that occurs at least so often in the texts; from 2 on, texts with rarer entries get more tokens",
        ge=1,
    )


class Merge(Settings):
    """Merge adapters into their base; what was written is reloaded and compared."""

    adapter: tuple[str, ...] = ref(
        "adapter", description="the adapter, which names its base; several are merged in this order", min_length=1
    )
    model: str | None = ref(
        "model", default=None, description="the base; none: the one that the adapter names by a path"
    )
    weights: tuple[float, ...] | None = setting(
        None,
        "a factor on the change of each adapter, every one measured from the base; none: each adapter changes what the "
        "one before it made",
        unless_default=True,
    )
    dtype: Literal["base", "float32", "bfloat16", "float16"] = setting(
        "base",
        "number format of the merged weights; base: that of the base",
    )
    quantization: Literal["nf4", "int8"] | None = setting(
        None,
        "how the base was quantized when the adapter was trained (QLoRA): how far the merged model is from the adapter "
        "over that base is measured too",
        unless_default=True,
    )
    check: Literal["logits", "weights"] = setting(
        "logits",
        "logits: compare logits with those of the adapter in PEFT, block by block; several adapters need memory for "
        "the model in float32; weights: compute a sample of the weights a second time",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.adapter):
            raise ValueError(tr("weights needs one number for each adapter"))
        if self.weights is not None and not any(self.weights):
            raise ValueError(tr("with weights of 0 alone nothing is merged"))
        if any(abs(weight) > MAX_WEIGHT for weight in self.weights or ()):
            raise ValueError(tr("weights must be between -{limit:g} and {limit:g}", limit=MAX_WEIGHT))
        is_plain = len(self.adapter) == 1 and self.weights is None and self.check == "logits"
        if self.quantization is not None and not is_plain:
            raise ValueError(tr("quantization is measured for one adapter without weights, with check: logits"))
        return self
