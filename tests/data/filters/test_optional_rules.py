"""Rules outside the default set, on text that they must change or drop and on text that they must leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hanlin.config.settings.rules import ALL_TEXT_RULES, CHOSEN_TEXT_RULES, TURN_RULES
from hanlin.core.records import Message, ToolCall
from hanlin.data.filters.pii import is_id_card_number, passes_luhn
from hanlin.data.filters.responses import answer_language, answer_length, truncated_answers
from hanlin.data.filters.rules import RULE_FUNCTIONS
from hanlin.data.ledger import Drop
from hanlin.data.text.language_id import identify_language
from waiting import hang_limit

SPRING = "春天的时候，翰林院里开满了花。学士们坐在树下读书，谈论古今的文章，也写下自己的诗句。"


def apply(name: str, text: str, **parameters: str | float) -> str | Drop:
    result = RULE_FUNCTIONS[name](text, **{**ALL_TEXT_RULES[name], **parameters})
    return result


# --- personal data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("请打13812345678找我", "请打[手机号]找我"),
        ("电话：+86 138-1234-5678。", "电话：[手机号]。"),
        ("身份证11010519491231002X，", "身份证[身份证号]，"),
        ("卡号 6222 0212 3456 7890 128", "卡号 [银行卡号]"),
        ("写信到 li.ming@qq.com 即可", "写信到 [电子邮箱] 即可"),
        ("Write to li.ming@163.com today.", "Write to [e-mail] today."),
        ("服务器在180.106.80.10上", "服务器在[网络地址]上"),
        ("网卡 00:1A:2B:3C:4D:5E 与 240e:3a1:4c8f::1", "网卡 [网络地址] 与 [网络地址]"),
        ("加QQ：474565302聊", "加QQ：[QQ号]聊"),
        ("QQ群 474565302", "QQ群 [QQ号]"),
        ("微信号：xiaolin961，欢迎", "微信号：[微信号]，欢迎"),
        ("微信: seventhday_85", "微信: [微信号]"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert apply("personal_data", text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "圆周率是3.14159265358979323846，共有13800000000人次参观的说法不对：1,380,000,0000。",
        "订单号202311151234567890已发货，编号13812345678901。",
        "身份证号码由18位组成，例如110105194912310021这样校验位不对的就是假号。",
        "卡号6222021234567890129通不过校验。",
        "示例地址 user@example.com，克隆 git@github.com:owner/name.git，装饰器 @app.route。",
        "本机是127.0.0.1，内网是192.168.1.10，见第3.1.4.2节，驱动版本 10.20.30.40。",
        "请登录报名系统（http://180.106.80.10:8082/login）打印准考证。",
        "微信：WeChat 是一款聊天软件，QQ是另一款，QQ2010版很旧。",
        "时间 12:30:45，比分 3:2，序列 1:2:3。",
        "营业时间 2023-11-15 09:00 至 2024-01-01，客服 400-820-8820。",
    ],
)
def test_other_numbers_and_names_stay(text: str) -> None:
    assert apply("personal_data", text) == text


def test_personal_data_can_drop_and_be_limited() -> None:
    assert apply("personal_data", "请打13812345678", action="drop") == Drop("personal_data", "mobile")
    assert apply("personal_data", "请打13812345678", of="email qq") == "请打13812345678"


def test_a_mail_address_is_not_taken_for_the_phone_number_in_it() -> None:
    assert apply("personal_data", "写到13812345678@163.com") == "写到[电子邮箱]"


def test_check_digits() -> None:
    assert is_id_card_number("11010519491231002X") and not is_id_card_number("110105194912310021")
    assert not is_id_card_number("11010519491331002X")
    assert passes_luhn("4111111111111111") and not passes_luhn("4111111111111112")


# --- languages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (SPRING, "zh-Hans"),
        ("显著的著作，乾隆皇帝与土著，着急地看着。", "zh-Hans"),
        ("春天的時候，翰林院裡開滿了花，學士們坐在樹下讀書。", "zh-Hant"),
        ("國際間的關係十分重要，這是我們的共識。", "zh-Hant"),
        ("佢哋琴日喺屋企食飯，我話你知啲嘢好正，唔該晒。", "yue"),
        ("你而家喺邊度呀？我哋一齊去飲茶啦，啲點心好好食㗎。", "yue"),
        ("The library stands in the east of the town.", "en"),
        ("AWESOME BATHROOM TILE DESIGN IDEAS, 3 BEDROOM, 2 BATH", "en"),
        ("Le chat est sur la table et il ne veut pas descendre de là.", "other"),
        ("Ich wohne in der Stadt, und das ist gut so.", "other"),
        ("こんにちは、きょうはいいてんきですね。公園へ行きましょう。", "other"),
        ("Сегодня хорошая погода.", "other"),
        ("3.14 + 2", "none"),
        ("用 Python 写一个 HTTP 服务器，再用 curl 测试。", "zh-Hans"),
        ("东京都知事选举の结果", "zh-Hans"),
        ("明日の天気について、専門家は雨と発表。", "other"),
        ("子曰：学而时习之，不亦说乎？有朋自远方来，不亦乐乎？", "zh-Hans"),
        ("學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？", "zh-Hant"),
        ("The word 龙 is often translated as dragon, but the two are not the same animal.", "en"),
    ],
)
def test_the_language_of_a_text(text: str, named: str) -> None:
    assert identify_language(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "老豆话今晚唔返嚟食饭，叫我哋唔使等佢。",
        "嗰班细路成日喺公园度踢波，唔肯返屋企。",
        "佢细佬瞓着咗未呀？",
        "琴日我同家姐行街，买埋啲生果先至返去。",
        "個師傅整緊部冷氣，陣間就得。",
        "呢間餐廳啲嘢幾好食，不過等位等得耐，下次唔會再嚟。",
        "我地尋日去左行山，食埋飯先走，好攰但係好開心。",
    ],
)
def test_cantonese_is_told_in_either_script_and_in_any_spelling(text: str) -> None:
    assert identify_language(text) == "yue"


@pytest.mark.parametrize(
    "text",
    [
        "仲裁庭认为，被告应当承担掩埋垃圾的费用，原告要赶紧返还定金。",
        "唔，让我想想，他昨天到底说了什么？",
        "把被子拿出来晒一晒，太阳下山以前再收回去。",
        "兩國關係日趨緊張，外交部門係指派專人處理。",
        "他姓乜，是广西人，个子很高，唱歌也好听。",
        "粤语里的“嘅”相当于普通话里的“的”，“唔”就是“不”。",
        "问君能有几多愁？恰似一江春水向东流。",
        "喇叭响了，咪表上还剩下十分钟，我们靓丽的新车就停在左边。",
    ],
)
def test_mandarin_is_not_told_as_cantonese(text: str) -> None:
    assert identify_language(text) in ("zh-Hans", "zh-Hant")


CODE = "def add(first_number, second_number):\n    return first_number + second_number\n\nprint(add(17, 25))\n" * 4


@pytest.mark.parametrize(
    "text",
    [
        f"下面的函数把两个数相加：\n```python\n{CODE}```\n运行以后会打印结果。",
        f"下面的函数把两个数相加：\n{CODE}运行以后会打印结果。",
        "下载地址：https://files.example.org/archives/releases/2024/installer-x86_64-linux.tar.gz 下完记得校验。",
        "配置写在 /usr/local/share/example-application/configuration/defaults/settings.local.yaml 里，改完重启。",
        "比分：Kingsbridge Wanderers 2-2 Northampton Athletic，Christopher Ellington 补时扳平。",
        "参演：Margaret Fairweather、Jonathan Blackwood、Elizabeth Summerfield、Christopher Ashdown 等人。",
    ],
)
def test_code_addresses_and_names_do_not_make_a_chinese_text_english(text: str) -> None:
    assert identify_language(text) == "zh-Hans"


def test_unwanted_languages_are_dropped_and_short_texts_stay() -> None:
    yue = "佢哋琴日喺屋企食飯，我話你知啲嘢好正，唔該晒。"
    assert apply("language", yue, keep="zh-Hans en") == Drop("unwanted_language", "yue")
    assert apply("language", yue) == yue
    assert apply("language", "係咁先啦", keep="zh-Hans") == "係咁先啦"


def test_little_chinese_is_dropped_and_terms_in_chinese_stay() -> None:
    assert apply("chinese_share", "登录 Home About Products News Contact Careers Support Download") == Drop(
        "little_chinese", "share 0.14"
    )
    mixed = "用 PyTorch 训练 Llama 模型时，先设置 CUDA_VISIBLE_DEVICES，再启动 torchrun。"
    assert apply("chinese_share", mixed) == mixed


# --- scanned books and Markdown --------------------------------------------------------------------------------------


def page(text: str, width: int) -> str:
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))


NOVEL = (
    "话说天下大势分久必合合久必分周末七国分争并入于秦及秦灭之后楚汉分争又并入于汉汉朝自高祖斩白蛇而起义一统天下后来光武中兴"
    "传至献帝遂分为三国推其致乱之由殆始于桓灵二帝桓帝禁锢善类崇信宦官及桓帝崩灵帝即位大将军窦武太傅陈蕃共相辅佐时有宦官曹节等弄权"
    "窦武陈蕃谋诛之机事不密反为所害中涓自此愈横"
)


def test_lines_broken_by_the_page_are_joined_and_page_numbers_removed() -> None:
    broken = page(NOVEL, 24)
    lines = broken.split("\n")
    scanned = "\n".join([*lines[:3], "· 12 ·", *lines[3:5], "第 13 页", *lines[5:]]) + "。"
    assert apply("ocr_debris", scanned) == NOVEL + "。"


def test_spaced_characters_are_joined_and_names_are_not() -> None:
    assert apply("ocr_debris", "翰 林 院 里 开 满 了 花 ， 学 士 们 读 书") == "翰林院里开满了花，学士们读书"
    names = "与会者：王 明 李小红 张 伟 欧阳文 赵 芳 刘建国"
    assert apply("ocr_debris", names) == names


def test_a_scan_with_many_ocr_errors_is_dropped() -> None:
    stained = (
        SPRING.replace("春天的", "春|天的")
        .replace("开满", "开丨满")
        .replace("读书，", "读书，。")
        .replace("文章", "文l章")
    )
    assert apply("ocr_debris", stained) == Drop("ocr_debris", "4 OCR errors in 38 characters")


@pytest.mark.parametrize(
    "text",
    [
        "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡\n春眠不觉晓\n处处闻啼鸟",
        "购物清单\n1. 苹果与香蕉各三斤\n2. 牛奶两箱\n3. 面粉\n4. 鸡蛋三十个\n5. 盐",
        "“你来了？”\n“来了。”\n“坐。”\n“好。”\n" + SPRING,
        "A股和B股，3月5日，12 页纸，x轴与y轴，n是整数。\n\n" + SPRING,
        "\n".join(f"第{n}场：{place}街道文化活动中心二楼会议室门前广场" for n, place in enumerate("东西南北中上下")),
        "def f(x):\n    return {'a': x}\n\n| 项 | 值 |\n|---|---|\n| 甲 | 1 |",
    ],
)
def test_verse_lists_dialogue_and_tables_keep_their_lines(text: str) -> None:
    assert apply("ocr_debris", text) == text


def test_images_menus_and_comments_of_markdown_are_removed() -> None:
    text = (
        "---\ntitle: 春\ndate: 2023-01-01\n---\n# 春天\n\n[![build](https://ci/x.svg)](https://ci/x)\n"
        "[首页](/) | [关于](/about) | [登录](/login)\n<!-- 广告 -->花开了，见[百科](https://example.org/a_b)。![图](a.png)\n"
    )
    assert apply("markdown", text) == "# 春天\n\n花开了，见百科。\n"


def test_code_headings_lists_and_single_links_of_lists_stay() -> None:
    text = "## 写法\n\n- 用 `[文字](https://a.b)` 写链接\n\n```md\n![图](a.png)\n```\n\n数组 a[0](x) 与 [1](注)"
    assert apply("markdown", text) == text
    assert apply("markdown", "- [春天](/spring)\n") == "- 春天\n"


def test_a_text_of_links_alone_is_dropped() -> None:
    assert apply("markdown", "[a](/a) | [b](/b)\n") == Drop("no_text", "links alone")


# --- answers --------------------------------------------------------------------------------------------------------


def chat(question: str, answer: str) -> tuple[Message, ...]:
    return Message("user", question), Message("assistant", answer)


def apply_turn_rule(name: str, *turns: Message, **parameters: int) -> tuple[Message, ...] | Drop:
    rules: dict[str, Callable[..., tuple[Message, ...] | Drop]] = {
        "truncated_answers": truncated_answers,
        "answer_language": answer_language,
        "answer_length": answer_length,
    }
    return rules[name](turns, **{**TURN_RULES[name], **parameters})


@pytest.mark.parametrize(
    "answer",
    [
        "爵士乐的乐器有萨克斯、小号、",
        "写法如下：\n```python\nfor row in rows:\n    print(row,",
        "Practice every day, because it is one of the",
        "翰林院在唐代设立。"
        + "后来历代都沿用了这个名称并且不断扩大它的职权范围以至于成为朝廷的文书中枢而其中的学士们也",
    ],
)
def test_a_truncated_answer_is_dropped(answer: str) -> None:
    dropped = apply_turn_rule("truncated_answers", *chat("讲讲", answer))
    assert isinstance(dropped, Drop) and dropped.reason == "truncated_answer"


@pytest.mark.parametrize(
    "answer",
    [
        "李白",
        "3.14",
        "床前明月光\n疑是地上霜",
        "可选的有：\n1. 苹果\n2. 牛奶配上一片刚刚烤好的全麦面包和一小碟蜂蜜再加上几颗新鲜的草莓与蓝莓当作早餐",
        "写法如下：\n```python\nprint(1)\n```",
        "他说：“好。”",
        "多谢关注 #春天的翰林院",
        "Roses are red,\nViolets are blue",
        "答案是 x = 2",
        "祝好\n小翰",
        "嗯嗯，今天有点累，晚上不想出门了，",
        "家里还有面条和青菜。先把水烧开，再把面条放进去煮，最后放一点盐和青菜，吃完记得把锅碗都洗干净放回柜子里别留到明天了",
        "谢谢您的来信。我们会尽快答复。\n\n此致，",
        "可以试试多喝水。多吃蔬菜水果，不要熬夜。祝健康。，",
        "这种响声很常见。随着年龄增大会慢慢消失，是不用担心的，",
        "先去医院检查。注意休息，保持心情舒畅。祝您早日战胜病魔，",
        "A. 藏书由学士们校订。书成之后要进呈，不得带出院外\n"
        "B. 学士轮流值夜。夜里没有人来。"
        "值夜的人要把当天起草的诏书抄录一份放进柜子里收好并在第二天早上交给来接班的另一位学士并记在簿上",
        "Dear Ann,\n\nThe garden is in bloom. Come and see it. The tea is ready.\n\nYours truly,",
        "安装的方法见下面的网页。第一步是下载。第二步是解压。其余的请看 https://example.com/read/this/page/for/more",
        "写法：\n```\nprint(1)\n```\n```\n就这样。",
        "先算半径。把各项的数值代入之后逐步化简并四舍五入到小数点后两位可以得到这个圆球的体积约为 35.32 立方厘米",
        "多喝热水。按时吃药。早点休息。平时要注意饮食清淡并且保持心情舒畅，同时还要多留意天气的变化和衣服的增减以及室内的通风",
        "多喝热水。按时吃药。早点休息。这种病只要按照医生说的去做并且坚持上三个月左右的时间，一般来说都是可以完全治好而且不会再犯的",
        "White clouds above me\nThe river below my feet\nA small boat drifts in",
        "1. Ask what they need\n2. Offer help with a chore they are struggling with",
        "Present: is, are\nPast: was, were\nFuture: will be",
        "some tea to drink with",
        "def swap(a, b):\n    return b, a",
        "paper, pencil, ruler, at, to",
    ],
)
def test_an_answer_without_final_punctuation_is_not_always_truncated(answer: str) -> None:
    turns = chat("讲讲", answer)
    assert apply_turn_rule("truncated_answers", *turns) == turns


def test_an_answer_outside_the_length_that_is_wanted_is_dropped_with_its_length() -> None:
    turns = chat("讲讲", "翰林院在唐代设立。")
    assert apply_turn_rule("answer_length", *turns, longest=9, shortest=9) == turns
    assert apply_turn_rule("answer_length", *turns, longest=8) == Drop("answer_too_long", "turn 2: 9 characters")
    assert apply_turn_rule("answer_length", *turns, shortest=10) == Drop("answer_too_short", "turn 2: 9 characters")
    only_read = (turns[0], Message("assistant", "好" * 400, train=False), *turns)
    assert apply_turn_rule("answer_length", *only_read) == only_read
    calls = (turns[0], Message("assistant", "", tool_calls=(ToolCall("clock", {}),)), *turns)
    assert apply_turn_rule("answer_length", *calls) == calls


def test_a_program_in_english_is_an_answer_in_chinese() -> None:
    for code in ("name = input('What is your name? ')\nprint(name)", 'print("""\nThis is the first line\n""")'):
        turns = chat("写一段程序，问出用户的名字并打印出来。", f"{code}\nprint('It is good to see you here today')")
        assert apply_turn_rule("answer_language", *turns) == turns


def test_an_answer_in_the_other_language_is_dropped() -> None:
    wrong = chat("请介绍一下唐代的翰林院。", "The Hanlin Academy was founded in the Tang dynasty by the emperor.")
    assert apply_turn_rule("answer_language", *wrong) == Drop(
        "answer_language", "turn 2: zh, en: The Hanlin Academy was founded"
    )
    other = chat("What was the Hanlin Academy about?", "翰林院是唐代设立的官署，学士们在那里起草诏书，也陪皇帝读书。")
    assert apply_turn_rule("answer_language", *other) == Drop(
        "answer_language", "turn 2: en, zh: 翰林院是唐代设立的官署，学士们在那里起草诏书，也陪皇帝读书。"
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("请把“春天来了”翻译成英文。", "Spring has come, and the flowers are out everywhere."),
        ("把错字改过来。\nThe flwers are hree", "The flowers are here, and we will see them again in the morning."),
        (
            "推荐几首老歌。",
            '1. "Moon of the River" by Anna Lee\n2. "The Hills and the Sea" by Tom Ray\n3. "Song for You" by May',
        ),
        (
            "Fill in: The cat ____ on the mat. A. sit B. sits",
            "选 B。主语 The cat 是单数，所以动词 sit 要加上 s，意思是猫坐在垫子上。",
        ),
        ("查出去年所有的订单。", "SELECT id FROM orders WHERE year = 2020 AND total > 100 ORDER BY id"),
        ("写一个求和的函数", "def add(first, second): return first + second  # adds two numbers together"),
        ("Translate into Chinese: spring is here", "春天来了，到处都开满了花，学士们坐在树下读书写字。"),
        ("“flavor”和“satisfied”合起来是什么？", "A creative combination of the two words is flavorsatisfied."),
        ("Hi", "你好！我是小翰，很高兴认识你，请问有什么可以帮你的吗？"),
        ("PyTorch 是什么？", "PyTorch 是一个深度学习框架，由 Meta 开发，支持 CUDA、ROCm 与 MPS。"),
        ("谁写了《哈姆雷特》？", "William Shakespeare"),
        (
            "怎样问用户的名字？",
            "用“ask [What is your name?] and wait, then say (join [Hello to you and ] (answer)) for 2 seconds”块。",
        ),
        (
            "有哪些相近的块？",
            "Turn This Way for Seconds、Set the Power、When Button is Pressed、When Distance is less than、Distance",
        ),
        (
            "写伪代码，在列表里找一个数。",
            "Search in list:\nSet found = False\nWhile index is less than the length of the list\n    found = True",
        ),
        ("给小组取几个名字。", "Mechatron Titans, Robo Dynamics, Circuit Masters, Gear Foxes, Voltage Wolves"),
        ("摆一个国际象棋的残局。", "rnbqkbnr/pp1ppppp/8/2p5/4P3/5N2/PPPP1PPP/RNBQKB1R b KQkq"),
        (
            "s:So/Beam/Type = Flat\ndv:So/Beam/Values = 1 2 3 4 keV",
            "这是一份射线谱的配置，第一行写明谱的类型，第二行给出各点的数值。",
        ),
    ],
)
def test_an_answer_in_the_language_that_was_asked_for_stays(question: str, answer: str) -> None:
    turns = chat(question, answer)
    assert apply_turn_rule("answer_language", *turns) == turns


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "a",
        "a@",
        "x@a.",
        "[",
        "![",
        "<!--",
        "a:",
        "ab:",
        "1.",
        "`",
        "中 ",
        "VX:a",
        "- ",
        "QQ",
        "---\n- a: b\n",
        " ",
    ],
)
@hang_limit()
def test_no_text_takes_a_rule_long(text: str) -> None:
    """A pattern that goes back over what it read would take minutes for these."""
    for name in CHOSEN_TEXT_RULES:
        apply(name, text * 10_000)
    for name in ("truncated_answers", "answer_language"):
        apply_turn_rule(name, *chat("讲讲春天", text * 10_000))
