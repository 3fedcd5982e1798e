"""The tokenizer beside Meta's checkpoints, as a folder with `tokenizer.json`: SentencePiece (Llama 2) or ranks of
tiktoken (Llama 3), both in a file called `tokenizer.model` that names no special tokens.

Source of the special tokens: `tokenizer.py` of github.com/meta-llama/llama3 and `llama3/tokenizer.py` of
github.com/meta-llama/llama-models (3.1 and later).
"""

from __future__ import annotations

import base64
import binascii
import shutil
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from hanlin.core.errors import UserError
from hanlin.core.files import check_file_size, write_json, write_text
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_SENTENCEPIECE_BYTES, MAX_TOKEN_CHARACTERS, MAX_VOCABULARY
from hanlin.tokenizer.byte_alphabet import BYTE_TO_CHAR
from hanlin.tokenizer.file_names import CONFIG_FILE, SENTENCEPIECE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.gguf_splitting import LLAMA_3
from hanlin.tokenizer.tokenizer import Tokenizer

_SPECIAL_TOKENS = 256
_BEGIN, _END = "<|begin_of_text|>", "<|end_of_text|>"
_RESERVED = "<|reserved_special_token_{}|>"
_FIRST_SPECIAL_TOKENS = (
    *(_BEGIN, _END, *(_RESERVED.format(index) for index in range(4)), "<|start_header_id|>", "<|end_header_id|>"),
    *(_RESERVED.format(4), "<|eot_id|>"),
)
"""Llama 3; further ones are reserved."""
_LATER_SPECIAL_TOKENS = (
    *(_BEGIN, _END, _RESERVED.format(0), _RESERVED.format(1), "<|finetune_right_pad_id|>", _RESERVED.format(2)),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
)
"""Llama 3.1 and later; the same ids for what both have."""


def load_meta_tokenizer(folder: Path, scratch: Path, *, later: bool) -> Tokenizer:
    """Load the tokenizer of a checkpoint's folder.

    Args:
        folder: The folder; a `tokenizer.json` there is taken as it is.
        scratch: A folder for what is made of the file.
        later: Whether the model is a Llama 3.1 or later, which names more special tokens.

    Raises:
        UserError: There is none, or it is neither SentencePiece nor tiktoken.
    """
    file = folder / SENTENCEPIECE_FILE
    if (folder / TOKENIZER_FILE).is_file() or not file.is_file():
        return Tokenizer.load(folder)
    check_file_size(file, MAX_SENTENCEPIECE_BYTES)
    scratch.mkdir(parents=True, exist_ok=True)
    data = file.read_bytes()
    if is_tiktoken(data):
        convert_tiktoken(file, scratch, _LATER_SPECIAL_TOKENS if later else _FIRST_SPECIAL_TOKENS)
    else:
        shutil.copyfile(file, scratch / SENTENCEPIECE_FILE)
        if (folder / CONFIG_FILE).is_file():
            shutil.copyfile(folder / CONFIG_FILE, scratch / CONFIG_FILE)
        else:
            special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            config = {**special, "add_bos_token": True, "tokenizer_class": "LlamaTokenizer"}
            write_json(scratch / CONFIG_FILE, config)
    return Tokenizer.load(scratch)


def is_tiktoken(data: bytes) -> bool:
    """Whether a `tokenizer.model` holds ranks of tiktoken: a token in base64 and its rank on each line."""
    token, _, rank = data[:4096].partition(b"\n")[0].partition(b" ")
    try:
        return rank.strip().isdigit() and bool(base64.b64decode(token, validate=True))
    except binascii.Error:
        return False


def convert_tiktoken(file: Path, out: Path, special_tokens: tuple[str, ...]) -> None:
    """Write the tokenizer of a file of ranks as `tokenizer.json` and `tokenizer_config.json`.

    tiktoken joins the pair of neighbors whose union has the lowest rank. A list of merges says the same if each token
    is the union of every pair of tokens that it can be cut into, in the order of ranks.

    Args:
        file: Lines of a token in base64 and its rank.
        out: A folder.
        special_tokens: The first of the 256 ids after the ranks; the others are reserved.

    Raises:
        UserError: A line is broken, or the ranks are no permutation.
    """
    ranks = _read_ranks(file)
    size = len(ranks)
    names = {token: "".join(BYTE_TO_CHAR[byte] for byte in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        pairs = ((token[:index], token[index:]) for index in range(1, len(token)))
        found = [(ranks[left], ranks[right], left, right) for left, right in pairs if left in ranks and right in ranks]
        merges += [(names[left], names[right]) for _, _, left, right in sorted(found)]
    backend = tokenizers.Tokenizer(
        models.BPE({names[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    reserved = sum("reserved" in token for token in special_tokens)
    more = (_RESERVED.format(reserved + index) for index in range(_SPECIAL_TOKENS - len(special_tokens)))
    specials = [*special_tokens, *more]
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in specials])
    backend.post_processor = processors.TemplateProcessing(
        single=[_BEGIN, "$A"], pair=[_BEGIN, "$A", _BEGIN, "$B:1"], special_tokens=[(_BEGIN, size)]
    )
    write_text(out / TOKENIZER_FILE, backend.to_str())
    config = {"bos_token": _BEGIN, "eos_token": _END, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(out / CONFIG_FILE, config)


def _read_ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    try:
        for line in filter(None, file.read_bytes().splitlines()):  # tiktoken passes over empty lines too
            token, _, rank = line.partition(b" ")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
            if len(ranks) > MAX_VOCABULARY or len(token) > MAX_TOKEN_CHARACTERS:
                raise ValueError(rank)
    except ValueError as error:
        raise _broken(file) from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise _broken(file)
    return ranks


def _broken(file: Path) -> UserError:
    return UserError(tr("the list of tokens and their ranks is broken"), file, tr("copy or download it again"))
