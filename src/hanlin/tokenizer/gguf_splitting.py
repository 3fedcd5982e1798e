"""How llama.cpp splits text into words before byte-level BPE: its names of the rules (`tokenizer.ggml.pre`).

Source: `llama-vocab.cpp` of llama.cpp. Each rule is one regular expression, or several that split one after another.
If llama.cpp's own form of a rule gives other words than the expression of the model's tokenizer, the latter is here:
`tekken` knows combining marks, and `deepseek-llm` and `deepseek-coder` count wide spaces (U+2003, ...) as letters.
"""

from __future__ import annotations

from dataclasses import dataclass

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN_2 = rf"{_WORDS}|\p{{N}}|{_REST}"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SINGLE_DIGITS = r"\p{N}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ"
    "Ὗ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
"""Letters with case as DeepSeek LLM's own tokenizer lists them: Unicode has more of them by now."""
_IDEOGRAPHS = r"[一-龥\u0800-一가-\ud7ff]+"
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+\z",
    _IDEOGRAPHS,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, r"\p{N}")
_SEED_CODER = rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_MINICPM_5 = (r"\p{N}{1,3}", rf"{_WORDS}|\p{{N}}+|{_REST}")
_VIKING = (r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}")
_UNNAMED = (r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")
"""What llama.cpp does with a file that names no rule, or `default`."""


@dataclass(frozen=True, slots=True)
class SplittingRule:
    """How text becomes words: the patterns, whether a word that is a token is taken whole, whatever the merges say, and
    whether a begin token is set if the file does not say so.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


_RULES = {
    SplittingRule((LLAMA_3,), whole_words=True, adds_bos=True): (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
    ),
    SplittingRule((LLAMA_3,)): "smaug-bpe dbrx chatglm-bpe",
    SplittingRule((LLAMA_3,), whole_words=True): "glm4 glm5",
    SplittingRule((QWEN_2,)): "qwen2 stablelm2 deepseek-r1-qwen hunyuan megrez kormo solar-open grok-2",
    SplittingRule((GPT_2,)): "gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat a.x-4.0 mellum",
    SplittingRule((SINGLE_DIGITS, GPT_2)): "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    SplittingRule((_TEKKEN,), whole_words=True, adds_bos=True): "tekken",
    SplittingRule(_DEEPSEEK_3): "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    SplittingRule(_DEEPSEEK_LLM): "deepseek-llm",
    SplittingRule(_DEEPSEEK_CODER): "deepseek-coder",
    SplittingRule((_SEED_CODER,)): "seed-coder",
    SplittingRule(_MINICPM_5, whole_words=True): "minicpm5",
    SplittingRule(_VIKING): "viking",
    SplittingRule(_UNNAMED): "default",
}
SPLITTING_RULES = {name: rule for rule, names in _RULES.items() for name in names.split()}
"""The rules by llama.cpp's names. The first name of each is the one that is written."""
