"""The tokenizer of a folder: encode text, decode ids at once or as a stream, and save its files.

Text never becomes special tokens. Conversations are `chat/template`.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_bytes, write_sorted_json, write_text
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_ADDED_TOKENS, MAX_TOKEN_CHARACTERS, MAX_VOCABULARY
from hanlin.core.text import check_path_encoding, check_text
from hanlin.tokenizer.byte_alphabet import BYTE_TOKEN_PATTERN, CHAR_TO_BYTE, SENTENCEPIECE_SPACE
from hanlin.tokenizer.file_names import CONFIG_FILE, GENERATION_FILE, SENTENCEPIECE_FILE, TEMPLATE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.gguf_metadata import is_gguf_file
from hanlin.tokenizer.gguf_vocabulary import read_gguf_tokenizer
from hanlin.tokenizer.prefix_space import (
    PrefixSpace,
    detect_prefix_space,
    flatten_steps,
    read_pipeline_rules,
    without_prefix_space,
)
from hanlin.tokenizer.proof.check import check_growth, check_tokenizer_file
from hanlin.tokenizer.sentencepiece import convert_sentencepiece

if TYPE_CHECKING:
    from hanlin.tokenizer.sentencepiece_encoder import SentencePieceEncoder
    from hanlin.tokenizer.tiktoken_encoder import TiktokenEncoder


_LOG = logging.getLogger(__name__)
SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
PAD_TOKEN_CANDIDATES = (
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<unk>",
)
_SHORT_TEXT, _MAX_CACHED_TEXTS = 16, 10_000
"""Texts of at most so many characters are encoded once: what a template writes between special tokens, above all."""


class Tokenizer:
    """A tokenizer of the `tokenizers` library with the names of its special tokens.

    `encode` takes every text as plain text: a typed `<|eot_id|>` becomes the ids of its characters. Special tokens are
    set by id, by the chat template. `decode` is defined as the output of `stream_decoder`, so an answer reads the same
    while it is generated and afterwards.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any],
        folder: Path,
        exact_encoder: SentencePieceEncoder | None = None,
    ) -> None:
        self.backend = backend
        self._exact_encoder = exact_encoder
        self.config = dict(config)
        self.folder = folder
        self._short_text_cache: dict[tuple[str, bool], list[int]] = {}
        self._fast_encoder: TiktokenEncoder | None = None
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()

    @classmethod
    def load(cls, folder: str | Path, *, accept_other_ids: bool = False) -> Tokenizer:
        """Read `tokenizer.json` and `tokenizer_config.json` of a folder; a lone SentencePiece model is converted.

        The tokenizer of a GGUF file is read from its metadata.

        Args:
            folder: The folder or the file.
            accept_other_ids: Take a SentencePiece model whose own ids differ from those of a fast tokenizer, with a
                warning that says how often: for counting tokens, never for a model.

        Raises:
            UserError: There is no tokenizer, or a file is not what its name says.
        """
        folder = Path(folder)
        if is_gguf_file(folder):
            from_file = read_gguf_tokenizer(folder)
            return cls(from_file.backend, from_file.config, folder, from_file.encoder)
        check_path_encoding(folder)
        config = _read_config(folder)
        file = folder / TOKENIZER_FILE
        if file.is_file():
            check_tokenizer_file(file)
            try:
                backend = tokenizers.Tokenizer.from_file(str(file))
                backend.encode("", add_special_tokens=True)  # rules that name tokens that are not there fail here
            except BaseException as error:  # the library raises plain Exception; a panic of its Rust is not even one
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                hint = tr("copy the tokenizer again from its source")
                raise UserError(
                    tr("not a tokenizer of the tokenizers library: {error}", error=error),
                    file,
                    hint,
                ) from error
            check_growth(read_pipeline_rules(backend)["normalizer"], file)
            if getattr(backend.model, "dropout", None):  # of merges, at random: no text would have ids of its own
                backend.model.dropout = None
                _LOG.warning("%s: %s", file, tr("it leaves out merges at random (dropout), which is turned off"))
        elif (folder / SENTENCEPIECE_FILE).is_file():
            backend = convert_sentencepiece(folder, config, accept_other_ids=accept_other_ids)
        else:
            hint = tr("name a model or tokenizer folder with tokenizer.json (or a SentencePiece tokenizer.model) in it")
            code = None if folder.exists() else "not_found"
            raise UserError(tr("there is no tokenizer here"), folder, hint, code)
        _add_missing_special_tokens(backend, config)
        return cls(backend, config, folder)

    def encode(self, text: str, *, continuation: bool = False) -> list[int]:
        """Token ids of plain text: no special token is recognized, none is added.

        With `continuation` the text follows other text, so that a SentencePiece tokenizer adds no space before it.
        """
        if len(text) > _SHORT_TEXT:
            return self._encode(text, continuation)
        cached = self._short_text_cache.get((text, continuation))
        if cached is None:
            cached = self._short_text_cache[text, continuation] = self._encode(text, continuation)
            if len(self._short_text_cache) > _MAX_CACHED_TEXTS:
                self._short_text_cache.clear()
        return cached[:]

    def enable_fast_encoder(self) -> None:
        """Prepare to encode much text: use tiktoken from now on if it is proven to give the same ids.

        The proof takes a second for a vocabulary of a hundred thousand tokens.
        """
        from hanlin.tokenizer.tiktoken_encoder import TiktokenEncoder  # what it imports is for much text alone

        if self._fast_encoder is None and self.prefix_space == "none":
            self._fast_encoder = TiktokenEncoder.from_tokenizer(self.backend, CHAR_TO_BYTE)

    @property
    def uses_fast_encoder(self) -> bool:
        """Whether `enable_fast_encoder` was called and its proof succeeded."""
        return self._fast_encoder is not None

    def _encode(self, text: str, continuation: bool) -> list[int]:
        if self._exact_encoder is not None:
            check_text(text)
            return self._exact_encoder.encode(text, continuation)
        if self._fast_encoder is not None and (cached := self._fast_encoder.encode(text)) is not None:
            return cached
        backend = self._backend_without_prefix_space if continuation else self.backend
        try:  # of one text a batch: it is spared the places of tokens in the text
            return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except TypeError:  # what the library says of text that is no Unicode
            check_text(text)
            raise

    def encode_batch(self, texts: Sequence[str], *, continuation: bool = False) -> list[list[int]]:
        """`encode` of each text; the library uses every core for it, unless another encoder is in use."""
        if self._exact_encoder is not None:
            return [self._encode(text, continuation) for text in texts]
        if self._fast_encoder is not None:
            cached = [ids for text in texts if (ids := self._fast_encoder.encode(text)) is not None]
            if len(cached) == len(texts):
                return cached
        backend = self._backend_without_prefix_space if continuation else self.backend
        try:
            return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError:
            for index, text in enumerate(texts, start=1):
                check_text(text, tr("text {index}", index=index))
            raise

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids, special tokens left out; invalid UTF-8 becomes U+FFFD."""
        stream = self.stream_decoder(skip_special)
        return "".join([*map(stream.put, ids), stream.end()])

    def stream_decoder(self, skip_special: bool = True, continues_text: bool = False) -> StreamDecoder:
        return StreamDecoder(self, skip_special, continues_text)

    def token_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def added_tokens(self) -> dict[str, tokenizers.AddedToken]:
        """Tokens outside the model's own vocabulary, or matched before it, by content."""
        return {token.content: token for token in self.backend.get_added_tokens_decoder().values()}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are never text: the tokens that the tokenizer marks as special."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @property
    def bos_id(self) -> int | None:
        return self._special_token_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._special_token_id("eos_token")

    @cached_property
    def pad_id(self) -> int | None:
        """The padding token, never one that ends a text: if `pad_token` is the end of text, an unused token is
        taken.
        """
        for token in (self.config.get("pad_token"), *PAD_TOKEN_CANDIDATES):
            token_id = self.token_id(token) if token else None
            if token_id is not None and token_id not in (self.eos_id, self.bos_id):
                return token_id
        return None

    @cached_property
    def prefix_space(self) -> PrefixSpace:
        """Where a space is added before text, see `detect_prefix_space`."""
        return detect_prefix_space(read_pipeline_rules(self.backend))

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer's own rule adds its begin token before a text."""
        if self.bos_id is None:
            return False
        return self.backend.encode("", add_special_tokens=True).ids[:1] == [self.bos_id]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; empty for an id without a token."""
        cached = self._bytes.get(token_id)
        if cached is None:
            token = self.backend.id_to_token(token_id)
            cached = self._bytes[token_id] = b"" if token is None else self._token_to_bytes(token)
        return cached

    def save(self, folder: Path) -> None:
        """Write every file of the tokenizer, with its chat template and generation settings if it has them.

        A warning is logged if pieces share a score (see `GgufTokenizer`): `tokenizer.json` then gives other ids.
        """
        if self._exact_encoder is not None:
            what = tr(
                "{file_name} gives other ids than this GGUF file: its pieces share scores", file_name=TOKENIZER_FILE
            )
            _LOG.warning("%s: %s", self.folder, what)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TOKENIZER_FILE, self.backend.to_str(pretty=True))
        write_sorted_json(folder / CONFIG_FILE, self.build_config())
        target = folder.resolve()
        for name in (TEMPLATE_FILE, GENERATION_FILE):
            source = self.folder / name
            if source.is_file() and self.folder.resolve() != target:
                write_bytes(folder / name, source.read_bytes())
        inline = self.config.get("chat_template")
        if isinstance(inline, str) and not (folder / TEMPLATE_FILE).is_file():
            write_text(folder / TEMPLATE_FILE, inline)

    def build_config(self) -> dict[str, Any]:
        """The content of `tokenizer_config.json` with which transformers reads `tokenizer.json` unchanged.

        The class is the generic one: transformers 5 rebuilds the rules of a `LlamaTokenizer` by itself and then adds no
        space after special tokens, where the file (and Llama 2's training) does.
        """
        special_tokens = {name: self.config[name] for name in SPECIAL_TOKEN_NAMES if self.config.get(name)}
        if self.pad_id is not None:
            special_tokens["pad_token"] = self.backend.id_to_token(self.pad_id)
        limit = self.config.get("model_max_length", 10**30)
        return {
            **special_tokens,
            "clean_up_tokenization_spaces": False,
            "model_max_length": limit,
            "padding_side": "right",
            "tokenizer_class": "PreTrainedTokenizerFast",
        }

    def _special_token_id(self, name: str) -> int | None:
        token = self.config.get(name)
        return self.token_id(token) if token else None

    @cached_property
    def _backend_without_prefix_space(self) -> tokenizers.Tokenizer:
        """The same tokenizer without the space that SentencePiece adds before a text."""
        return self.backend if self.prefix_space == "none" else without_prefix_space(self.backend)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return {}

    @cached_property
    def decoder_steps(self) -> tuple[str, ...]:
        """The kinds of steps of the decoder, by the library's names."""
        return tuple(step["type"] for step in flatten_steps(read_pipeline_rules(self.backend)["decoder"], "decoders"))

    @cached_property
    def strips_leading_space(self) -> bool:
        """Whether decoding removes the space that encoding adds before a text."""
        return "Strip" in self.decoder_steps or ("Metaspace" in self.decoder_steps and self.prefix_space != "none")

    def _token_to_bytes(self, token: str) -> bytes:
        if "ByteLevel" in self.decoder_steps:
            values = [CHAR_TO_BYTE.get(letter) for letter in token]
            return token.encode() if None in values else bytes(value for value in values if value is not None)
        if "ByteFallback" in self.decoder_steps or "Metaspace" in self.decoder_steps:
            byte = BYTE_TOKEN_PATTERN.fullmatch(token) if "ByteFallback" in self.decoder_steps else None
            return bytes([int(byte[1], 16)]) if byte else token.replace(SENTENCEPIECE_SPACE, " ").encode()
        steps = ", ".join(self.decoder_steps) or "-"
        raise UserError(
            tr("the tokenizer decodes by rules that are not known here: {steps}", steps=steps),
            self.folder,
            tr("supported: byte-level BPE and SentencePiece BPE"),
        )


class StreamDecoder:
    """Decodes ids as they come. A character is returned only when it is complete; `end` returns the rest.

    With `continues_text`, the ids go on from other text, so that a space before the first word is kept.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True, continues_text: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer.strips_leading_space and not continues_text

    def put(self, token_id: int) -> str:
        return "" if token_id in self._skipped else self._text(self._tokenizer.token_bytes(token_id))

    def end(self) -> str:
        return self._text(b"", final=True)

    def _text(self, data: bytes, final: bool = False) -> str:
        text = self._utf8.decode(data, final)
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


def _token_content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    if content is not None and not (isinstance(content, str) and len(content) <= MAX_TOKEN_CHARACTERS):
        raise ValueError(content)
    return content


def _read_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` with special tokens as text, completed from `special_tokens_map.json`.

    Raises:
        UserError: It is not JSON, or a token is no text.
    """
    config = read_json(folder / CONFIG_FILE)
    elsewhere = read_json(folder / "special_tokens_map.json")
    try:
        for name in SPECIAL_TOKEN_NAMES:
            config[name] = _token_content(config.get(name)) or _token_content(elsewhere.get(name))
        listed = config.get("added_tokens_decoder") or {}
        if not isinstance(listed, Mapping) or len(listed) > MAX_ADDED_TOKENS:
            raise ValueError(listed)
        for token_id, row in listed.items():
            _token_content(row)
            if not 0 <= int(token_id) <= MAX_VOCABULARY:
                raise ValueError(token_id)
    except ValueError as error:
        what = tr("a special token is no text, has more than {limit:,} characters or no id", limit=MAX_TOKEN_CHARACTERS)
        raise UserError(what, folder / CONFIG_FILE, tr("copy the tokenizer again from its source")) from error
    return config


def _add_missing_special_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the tokens that only `tokenizer_config.json` knows, each with its id there."""
    listed = config.get("added_tokens_decoder") or {}
    for token_id, row in sorted(listed.items(), key=lambda item: int(item[0])):
        content = _token_content(row)
        if content is None or backend.token_to_id(content) is not None:
            continue
        row = row if isinstance(row, Mapping) else {}
        flags = {name: bool(row.get(name)) for name in ("lstrip", "rstrip", "normalized", "single_word")}
        token = tokenizers.AddedToken(content, special=bool(row.get("special")), **flags)
        backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
        if backend.token_to_id(content) != int(token_id):
            raise UserError(
                tr(
                    "{content!r} has id {token_id} in {config_file} but cannot have it in {tokenizer_file}",
                    content=content,
                    token_id=token_id,
                    config_file=CONFIG_FILE,
                    tokenizer_file=TOKENIZER_FILE,
                ),
                None,
                tr("save the tokenizer again with the library it came from"),
            )
    for name in SPECIAL_TOKEN_NAMES:
        token_text = config.get(name)
        if token_text and backend.token_to_id(token_text) is not None:
            backend.add_special_tokens([tokenizers.AddedToken(token_text, special=True, normalized=False)])
