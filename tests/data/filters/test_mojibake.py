"""Wrongly decoded text is repaired if no byte was lost, and otherwise reported as lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.data.filters.mojibake import GuessedText, guess_lost_bytes, mojibake, repair
from hanlin.data.ledger import Drop
from hanlin.data.text.script import load_converter
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]

TEXT = "春天来了，院子里的花都开了。他说：“我们一起去看看吧！”——《翰林院》"


def misread(text: str, page: str, lossy: bool = False) -> str:
    """UTF-8 read byte by byte as a Western code page; bytes that it leaves undefined stay or are dropped."""
    out = []
    for byte in text.encode("utf-8"):
        try:
            out.append(bytes([byte]).decode(page))
        except UnicodeDecodeError:
            out.append("" if lossy else chr(byte))
    return "".join(out)


@pytest.mark.parametrize("page", ["latin-1", "cp1252", "cp1254"])
def test_utf8_decoded_as_a_western_page_is_repaired(page: str) -> None:
    assert repair(misread(TEXT, page)) == (TEXT, 0)


def test_utf8_decoded_as_gbk_is_repaired_if_no_byte_was_lost() -> None:
    text = "你好世界" * 3
    assert repair(text.encode("utf-8").decode("gb18030")) == (text, 0)


@pytest.mark.parametrize("page", ["cp1252", "cp1254"])
def test_lost_bytes_are_counted_not_guessed(page: str) -> None:
    damaged = misread(TEXT * 3, page, lossy=True)
    _, lost = repair(damaged)
    assert lost > 0.05 * len(damaged)


def test_gbk_mojibake_with_lost_bytes_is_not_repaired() -> None:
    _, lost = repair(("他说：春天来了，花开了。" * 9).encode("utf-8").decode("gbk", "replace"))
    assert lost > 50


def test_marks_of_lossy_decoding_count_as_lost() -> None:
    assert repair("前面锟斤拷锟斤拷后面")[1] == 6
    assert repair("UTF-8 锟斤拷锟斤拷锟斤拷锟斤拷 后面")[1] == 12


def test_a_short_text_that_explains_such_marks_stays() -> None:
    text = "锟斤拷是怎么来的？UTF-8 解码时认不出的字节，再按 GBK 读出，就成了锟斤拷。"
    assert repair(text) == (text, 0)


def test_mojibake_inside_a_right_text_is_repaired() -> None:
    assert repair("她的未婚夫 fiancÃ© 来了。") == ("她的未婚夫 fiancé 来了。", 0)


LONG = (
    "清晨的集市里人声很高，卖豆腐的老人把担子放在桥边，一边擦汗一边同熟人说话。孩子们围着糖画摊子，谁也不肯先走，"
    "只等那只龙做好。到了中午，雨下了起来，人们才慢慢散去，桥上只剩下几把没有收的伞。"
)


@pytest.mark.parametrize("length", [40, len(LONG)])
@pytest.mark.parametrize("read_as", ["big5", "cp950", "big5hkscs", "euc_jp", "euc_kr", "cp949", "shift_jis"])
@pytest.mark.parametrize("written_as", ["gb18030", "utf-8"])
def test_text_decoded_as_another_east_asian_encoding_counts_as_lost(written_as: str, read_as: str, length: int) -> None:
    damaged = LONG[:length].encode(written_as).decode(read_as, "ignore")
    assert mojibake(damaged, 0.005) == Drop("mojibake", f"{len(damaged)} of {len(damaged)} characters")


@pytest.mark.parametrize(
    "words",
    [
        "削 剡 铣 刨 磨 锛 凿",
        "冬夜 秋夜 春夜 不眠之夜",
        "行礼 敬礼 施礼 有礼 致敬",
        "és elkészült könnyű néhány előtt több",
    ],
)
def test_short_lists_of_words_are_not_wrongly_decoded(words: str) -> None:
    assert repair(words) == (words, 0)


@pytest.mark.parametrize("read_as", ["gbk", "gb18030", "cp949", "shift_jis"])
def test_big5_decoded_as_another_encoding_counts_as_lost(read_as: str) -> None:
    damaged = load_converter("traditional")(LONG).encode("big5", "ignore").decode(read_as, "ignore")
    assert repair(damaged)[1] > 0.5 * len(damaged)


@pytest.mark.parametrize("written_as", ["gbk", "big5hkscs"])
def test_gbk_and_big5_decoded_as_latin_1_are_repaired(written_as: str) -> None:
    text = load_converter("traditional")(LONG) if written_as == "big5hkscs" else LONG
    assert repair(text.encode(written_as).decode("latin-1")) == (text, 0)


@pytest.mark.parametrize("read_as", ["latin-1", "gb18030"])
def test_what_was_decoded_wrongly_twice_is_repaired_twice(read_as: str) -> None:
    once = TEXT.encode("utf-8").decode("latin-1")
    assert repair(once.encode("utf-8").decode(read_as)) == (TEXT, 0)


def test_a_damaged_part_of_a_long_page_is_found() -> None:
    damaged = LONG.encode("gb18030").decode("big5", "ignore")
    page = "\n".join([LONG] * 6 + [damaged * 5] + [LONG] * 6)
    _, lost = repair(page)
    assert 3 * len(damaged) < lost < 6 * len(damaged)


RARE = (
    "蒹葭苍苍，白露为霜。溯洄从之，道阻且跻。",
    "饕餮、貔貅、麒麟、狻猊、狴犴、睚眦、螭吻、蒲牢、囚牛、嘲风、赑屃、椒图",
    "嫘祖、颛顼、帝喾、皋陶、伯益、妲己、褒姒、芈月、蔺相如、司马穰苴、鬼谷子、尉缭",
    "莎车县、墨竹工卡县、噶尔县、和硕县、皮山县、察布查尔锡伯自治县、积石山保安族东乡族撒拉族自治县、濮阳、亳州、歙县、郫都",
    "紫云英、鱼腥草、夏枯草、益母草、车前草、金银花、板蓝根、薏苡仁、砂仁、豆蔻、桔梗、柴胡、麻黄、防风、羌活、藁本",
    "啟禀殿下，嶺南瘴癘，瓊崖鯨浪，鬱鬱蔥蔥，龜裂鼉鳴，鸞翔鳳翥。",
    "牛肉 500 克\n洋葱 2 颗\n老抽 15 毫升\n淀粉 10 克\n香菜 3 根\n花椒 5 克",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "День был ясный, и дети долго играли у реки, пока не стемнело.",
    "아침 시장은 사람들로 붐볐고 아이들은 다리 옆에서 놀았다.",
    "Los niños jugaron allí hasta que oscureció; después volvió la lluvia y nadie se quedó aquí.",
    "Die Kinder spielten früh über dem Fluß, während die Bäume grünten; später hörten wir schöne Töne.",
)


@pytest.mark.parametrize("text", RARE)
@pytest.mark.parametrize("times", [1, 5])
def test_rare_characters_and_other_languages_are_left_alone(text: str, times: int) -> None:
    assert repair(text * times) == (text * times, 0)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Le café déjà vu: «à propos», naïve É…",
        "按下代表“à”的按键；“etelä”意为“南”；“a essayé”（尝试过）",
        "Tomáš Berdych, São Tomé, NÃO",
        "Ελληνικά και ρωσικά: привет",
        "魑魅魍魉，饕餮貔貅，龘靐齉爩",
        "Plain English.",
        "",
    ],
)
def test_right_text_is_left_alone(text: str) -> None:
    assert repair(text) == (text, 0)


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1))
def test_any_chinese_text_decoded_as_latin_1_is_repaired(text: str) -> None:
    assert repair(misread(text, "latin-1"))[0] == text


# --- guesses ----------------------------------------------------------------------------------------------------------


def test_a_guess_takes_the_likeliest_character_of_the_text() -> None:
    text = "模型的中文能力，是中国的模型里最好的。这个模型用中文训练，中文说得很好，人们都用它写中文。"
    found = guess_lost_bytes(misread(text, "cp1254", lossy=True))
    assert found.guessed > 0 and sum(a == b for a, b in zip(found.text, text, strict=True)) >= 0.9 * len(text)
    assert found.meta["mojibake_guessed"] == found.guessed


def test_what_has_no_likely_character_stays_a_hole() -> None:
    found = guess_lost_bytes(misread("春天的花都开了𝟎一起去看。" * 3, "cp1254", lossy=True))
    assert found.holes == found.text.count("□") == found.meta["mojibake_holes"] == 3


@pytest.mark.parametrize("text", [TEXT, "Le café déjà vu: «à propos», naïve É…", "Plain English.", ""])
def test_right_text_is_not_changed_by_guessing(text: str) -> None:
    assert guess_lost_bytes(text) == GuessedText(text, 0, 0)


@pytest.mark.parametrize("page", ["latin-1", "cp1252", "cp1254"])
def test_what_can_be_repaired_is_not_guessed(page: str) -> None:
    assert guess_lost_bytes(misread(TEXT, page)) == GuessedText(TEXT, 0, 0)


def test_right_parts_of_a_damaged_text_stay_as_they_are() -> None:
    right = "他说：“café 在街角。”"
    assert guess_lost_bytes(right + misread("模型的中文描述" * 3, "cp1254", lossy=True)).text.startswith(right)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_no_text_makes_a_guess_fail(text: str) -> None:
    found = guess_lost_bytes(text)
    assert found.guessed >= 0 and found.holes >= 0


@pytest.mark.parametrize("name", ["002_8b0e4e6911a638d5.txt", "003_1646357b19719e38.txt"])
def test_the_damaged_pages_are_found_and_mostly_guessed_right(shared_data: Path, name: str) -> None:
    folder = shared_data.parent / "reference" / "seeds"
    if not (folder / name).is_file():
        pytest.skip("the damaged pages are not here")
    damaged = (folder / name).read_text(encoding="utf-8")
    original = (folder / f"{name[:3]}_clean.md").read_text(encoding="utf-8")
    _, lost = repair(damaged)
    assert lost > 0.3 * len(damaged)
    found = guess_lost_bytes(damaged)
    right = total = 0
    for after, line in zip(found.text.splitlines(), original.splitlines(), strict=True):
        places = [place for place, char in enumerate(line) if "\u4e00" <= char <= "\u9fff"]
        total += len(places)
        right += sum(after[place : place + 1] == line[place] for place in places) if len(after) == len(line) else 0
    assert right > 0.8 * total, (right, total)


def test_damaged_documents_are_dropped_or_kept_with_a_mark_by_choice(put: Put, run: Run) -> None:
    text = "春天来了，院子里的花都开了。他说我们中国人都喜欢看花，一起去看看中间的那一树吧。"
    path = put("a.jsonl", [{"text": misread(text, "cp1254", lossy=True)}, {"text": text + "好"}])
    made = run(Corpus, path, validation_fraction=0)
    assert made.ledger["dropped"] == {"mojibake": 1}
    made = run(Corpus, path, validation_fraction=0, lost_characters="guess", dedup="exact")
    first, second = made.kept
    assert first["meta"]["mojibake_guessed"] > 0 and "院子里的花" in first["text"] and "meta" not in second
    chat = {"prompt": misread("这个中文字是什么描述？" * 3, "cp1254", lossy=True), "response": "好"}
    made = run(Conversations, put("b.jsonl", [chat]), validation_fraction=0, lost_characters="guess")
    assert made.kept[0]["meta"]["mojibake_guessed"] > 0


def test_the_choice_changes_no_key_of_an_older_recipe() -> None:
    from hanlin.config.settings.base import key_settings

    assert "lost_characters" not in key_settings(Corpus(sources="./a"))
    assert key_settings(Corpus(sources="./a", lost_characters="guess"))["lost_characters"] == "guess"


def test_short_words_of_common_characters_are_right_whatever_their_bytes_happen_to_be() -> None:
    amounts = (
        *("辣椒 = 2g", "陈醋 = 10g", "胡椒 = 5g", "鸡精 = 2g", "料酒 = 15g", "豆瓣酱 = 2g", "芝麻油 = 5g"),
        *("蚝油 = 15g", "花椒（酱色） = 10g", "老抽酱油 = 10g", "进阶配料 = 5g", "淀粉（用以勾芡） = 15g"),
    )
    text = "\n".join(f"  - {amount}" for amount in amounts)
    assert repair(text) == (text, 0)


def test_degrees_and_squares_in_english_are_no_characters() -> None:
    """Their UTF-8 bytes, and their GBK bytes too, look like those of characters."""
    text = (
        "The angle is 60°, since cos 60° = 1/2 and a² + b² – c² = ab; at 39° 50′ N it is 30° less, and a² – b² = 9. "
        * 4
    )
    assert mojibake(text, 0.0) == text


@pytest.mark.parametrize("char", ["呵", "嗯", "█"])
def test_one_character_again_and_again_is_another_rule_s(char: str) -> None:
    assert mojibake(char * 80, 0.0) == char * 80


@pytest.mark.parametrize("start", [0, 5, 10, 14])
@pytest.mark.parametrize("read_as", ["euc_jp", "euc_kr", "gbk", "gb18030", "shift_jis"])
def test_forty_characters_of_big5_decoded_with_losses_count_as_lost(read_as: str, start: int) -> None:
    text = "這家公司去年的收入比前年增加了一成，員工說老闆很高興，今年打算在台中和高雄再開兩家分店，並且給每個人加薪"
    damaged = text[start : start + 40].encode("big5").decode(read_as, "ignore")
    assert isinstance(mojibake(damaged, 0.005), Drop)


@pytest.mark.parametrize("read_as", ["euc_jp", "gbk"])
@pytest.mark.parametrize(
    "text",
    [
        "公司1999年成立，2016年4月在台中開店，營業額1200萬元，年增15.3%。",
        "電話:0472-3312702，地址：台中市中山路１號，傳真同號，歡迎來信索取目錄。",
    ],
)
def test_big5_with_many_numbers_decoded_with_losses_counts_as_lost(read_as: str, text: str) -> None:
    assert isinstance(mojibake(text.encode("big5").decode(read_as, "ignore"), 0.005), Drop)


def test_big5_of_which_windows_1252_lost_one_first_byte_is_not_taken_for_complete() -> None:
    text = load_converter("traditional")(LONG)
    whole, lossy = text + "公衆多得很。", (text + "公衆多得很。").encode("big5hkscs").decode("cp1252", "ignore")
    assert mojibake(whole.encode("big5hkscs").decode("latin-1"), 0.005) == whole
    assert isinstance(mojibake(lossy, 0.005), Drop)


@pytest.mark.parametrize(
    "text",
    [
        "`use`文で導入した`Ordering`列挙型の列挙子を返します。`match`式を使用しており、`guess`と`secret`を比較します。",
        "荣耀Magic、小米Note、魅族Pro、锤子Nut、诺基亚Lumia、索尼Xperia、摩托罗拉Edge",
        "D:\\鲈鱼\\鳜鱼\\鲫鱼\\鳊鱼\\鲢鱼\\鳙鱼",
        "琥珀^翡翠^玛瑙^珊瑚^珍珠^玳瑁^砗磲",
        "蕨类Pteris\\苔藓Bryum\\藻类Chara\\地衣Usnea\\蓝藻Nostoc",
        "@张翀 @欧阳翾abc @司徒翊 @慕容珏xyz @上官睿",
        "硫酸H₂SO₄、硝酸HNO₃、磷酸H₃PO₄、氢氟酸HF、次氯酸HClO、醋酸CH₃COOH",
        "（づ｡◕‿‿◕｡）づ *｡٩(ˊᗜˋ*)و✧*｡ (๑•̀ㅂ•́)و✧ ヾ(◍°∇°◍)ﾉﾞ",
    ],
)
def test_names_code_formulas_and_faces_have_no_lone_halves(text: str) -> None:
    assert mojibake(text, 0.005) == text


@pytest.mark.parametrize(
    "post",
    [
        "球衣穿起的[挖鼻屎][害羞]",
        "[鼓掌][鼓掌][鼓掌]我中意里个[酷]",
        "回复@绿茵冰雨:[握手]谢谢朋友的鼓励!",
        "哦呵呵呵呵呵呵呵~@腹黑的杨梦颖呢",
        "严惩凶手[愤怒][愤怒][愤怒][愤怒][愤怒]",
        "[泪]阿里的呀~~吾阿想起~~~",
    ],
)
def test_emoticons_and_names_in_short_posts_are_no_halves_of_characters(post: str) -> None:
    assert mojibake(post, 0.005) == post
