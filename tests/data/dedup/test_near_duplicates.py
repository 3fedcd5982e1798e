"""Duplicates: the first text stays, near duplicates are found by MinHash, and nothing depends on chance."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hanlin.config.settings.data import Dedup
from hanlin.data.dedup.cluster import find_exact_duplicates, find_near_duplicates
from hanlin.data.dedup.keys import compute_dedup_key, compute_exact_key
from hanlin.data.dedup.minhash import (
    choose_bands,
    compute_signatures,
    extract_letters,
    hash_text_ngrams,
    jaccard_similarity,
)

DEDUP = Dedup()
RANDOM = random.Random(7)


def text(length: int) -> str:
    return "".join(chr(RANDOM.randrange(0x4E00, 0x9FA5)) for _ in range(length))


def found(texts: list[str], dedup: Dedup = DEDUP, seed: int = 42) -> list[int]:
    return find_near_duplicates(
        compute_signatures(texts, dedup, seed), dedup, np.zeros(len(texts), dtype=bool)
    ).tolist()


def test_equal_texts_have_equal_keys_whatever_blanks_and_case() -> None:
    assert compute_exact_key("春 天\nABC") == compute_exact_key("春天abc") != compute_exact_key("春天abd")
    assert compute_exact_key("1+1") != compute_exact_key("1-1")


def test_of_equal_keys_the_first_is_the_original() -> None:
    keys = np.frombuffer(b"".join(map(compute_exact_key, ["甲", "乙", "甲", "甲", "乙"])), dtype="<u8").reshape(-1, 2)
    assert find_exact_duplicates(keys).tolist() == [-1, -1, 0, 0, 1]


def test_a_near_duplicate_is_found_and_the_first_text_stays() -> None:
    base = text(400)
    assert found([base, text(400), base[:200] + "改" + base[200:], base[5:]]) == [-1, -1, 0, 0]


def test_punctuation_width_and_case_do_not_hide_a_duplicate() -> None:
    base = text(100)
    loud = "，".join(base[start : start + 10] for start in range(0, 100, 10)) + "！ＡＢＣ"
    assert found([base + "abc", loud]) == [-1, 0]


def test_a_text_similar_only_to_a_dropped_one_is_kept() -> None:
    base = text(300)
    middle, far = base[30:], base[60:]
    strict = Dedup(threshold=0.85)
    assert found([base, middle, far], strict) == [-1, 0, -1]


def test_different_texts_are_kept() -> None:
    assert found([text(200) for _ in range(200)]) == [-1] * 200


def test_short_texts_are_compared_whole() -> None:
    assert found(["春天", "春天", "夏天", "！", "？"]) == [-1, 0, -1, -1, -1]


def test_the_same_seed_gives_the_same_signatures() -> None:
    texts = [text(50) for _ in range(5)]
    assert (compute_signatures(texts, DEDUP, 1) == compute_signatures(texts, DEDUP, 1)).all()
    assert (compute_signatures(texts, DEDUP, 1) != compute_signatures(texts, DEDUP, 2)).any()


def test_a_signature_does_not_depend_on_its_neighbors() -> None:
    texts = [text(50) for _ in range(5)]
    assert (compute_signatures(texts, DEDUP, 1)[3:4] == compute_signatures(texts[3:4], DEDUP, 1)).all()


@pytest.mark.parametrize("across", [True, False])
def test_signatures_of_a_batch_equal_signatures_of_each_text(across: bool) -> None:
    dedup = Dedup(across_scripts=across)
    texts = ["".join(map(chr, range(0x4E00, 0x9FA5)))]  # longer than a batch
    texts += ["", "！", "春", "春天来", "\U00020000", "說明書說明", "，", "春天来了", "春天来了！你好", *texts]
    alone = [compute_signatures([each], dedup, 1)[0] for each in texts]
    assert (compute_signatures(texts, dedup, 1) == alone).all()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_texts_at_the_threshold_agree_in_a_band(threshold: float) -> None:
    bands, rows = choose_bands(threshold, 128)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_letters_leave_out_punctuation_and_blanks() -> None:
    assert "".join(map(chr, extract_letters("Ａ b，Ｃ！春 天３"))) == "abc春天3"


def test_many_near_duplicates_of_one_text_stay_cheap() -> None:
    base = text(300)
    texts = [base[:n] + "改" + base[n:] for n in range(300)] * 5
    assert sum(place < 0 for place in found(texts)) == 1


def test_width_and_script_do_not_make_another_text() -> None:
    assert compute_dedup_key("說：ＡＢＣ！", True) == compute_dedup_key("说:abc!", True)
    assert (
        compute_dedup_key("說：ＡＢＣ！", False)
        == compute_dedup_key("說:abc!", False)
        != compute_dedup_key("说:abc!", False)
    )
    assert compute_dedup_key("x²", True) != compute_dedup_key("x2", True)


def test_a_text_in_the_other_script_is_a_near_duplicate_unless_scripts_are_kept_apart() -> None:
    simple, traditional = "春天的时候学士们坐在树下读书谈论文章", "春天的時候學士們坐在樹下讀書談論文章"
    assert found([simple, traditional]) == [-1, 0]
    assert found([simple, traditional], Dedup(across_scripts=False)) == [-1, -1]


def test_near_the_threshold_the_ngrams_decide_and_not_chance() -> None:
    pairs = []
    for length in range(14, 26):  # so many characters replaced at the end give similarities around the threshold
        base = text(120)
        pairs += [base, base[:-length] + text(length)]
    places = find_near_duplicates(
        compute_signatures(pairs, DEDUP, 1), DEDUP, np.zeros(len(pairs), dtype=bool), pairs.__getitem__
    )
    for place in range(0, len(pairs), 2):
        one, other = (np.unique(hash_text_ngrams(pairs[place + n], DEDUP)) for n in (0, 1))
        assert (places[place + 1] == place) == (jaccard_similarity(one, other) >= DEDUP.threshold), place


def test_a_chain_of_similar_texts_keeps_its_first_alone() -> None:
    base = text(300)
    links = [base, base[30:], base[60:], base[90:], text(300)]
    assert found(links, Dedup(threshold=0.85)) == [-1, 0, -1, 2, -1]
    assert found(links, Dedup(threshold=0.85, clustering="connected_components")) == [-1, 0, 0, 0, -1]


def test_two_chains_that_a_later_text_joins_are_one() -> None:
    base = text(300)
    links = [base[:240], base[60:], base[30:270]]
    assert found(links, Dedup(threshold=0.75, clustering="connected_components")) == [-1, 0, 0]


def test_texts_of_ascii_alone_equal_those_in_full_width() -> None:
    assert compute_dedup_key("ＨＥＬＬＯ，ｗｏｒｌｄ！", True) == compute_dedup_key("hello, world!", True)


def test_keys_tell_apart_what_no_table_folds() -> None:
    assert compute_dedup_key("Straße\u3000一", True) == compute_dedup_key("STRASSE一", True)
    different = ["x\ufffey", "xy", "x\uffffy", "x\ud800y", "x\U00020000y", "x\U0001f600y", "x\x00y", "x\x00\x02\x00y"]
    assert len({compute_dedup_key(text, True) for text in different}) == len(different)
