"""How often our checks of IFEval agree with the authors' (lm-evaluation-harness's copy), over answers of every kind.

    pip install lm-eval nltk langdetect immutabledict, and NLTK's data `punkt_tab`
    python bench/ifeval.py DATA_FOLDER [SEED] [--show]

For each prompt of `ifeval_input_data.jsonl` an answer is made up that follows some of its instructions, just misses
others and holds what splits sentences and words in doubt: abbreviations, lists, quotes, numbers, code, other languages.
Both are asked about every instruction of it, strictly and loosely. `--show` prints what is told differently. The
authors' check of letters draws a letter at random where a prompt asks for `#` or `!`.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from typing import Any

from command_line import existing_folder, non_negative_int, read_json_lines, run_main

from hanlin.evaluate.tasks.ifeval import follows

SENTENCES = (
    "The weekend is a good time to rest.",
    "Dr. Smith met Mr. Lee at 3.30 p.m. in Washington, D.C., and they talked.",
    'She asked, "Why not?" He laughed!',
    "It costs $1,299.50, i.e. more than I have",
    "Is that so? Yes.",
    "e.g. apples, pears, etc. are fruits.",
    "NASA and the EU work together; IBM does not.",
    "1. First, boil the water.",
    "Visit www.example.com. It's free!",
    "I don't know...maybe later.",
    "Well-known co-operation isn't hard",
    "The U.S. economy grew by 2.5% in 2023.",
    "What a day!!!",
    "Ph.D. students read A LOT (really).",
)
FOREIGN = {
    "hi": "यह एक छोटी सी कहानी है जो बच्चों के लिए लिखी गई है।",
    "kn": "ಇದು ಒಂದು ಸಣ್ಣ ಕಥೆ ಮತ್ತು ಎಲ್ಲರಿಗೂ ಇಷ್ಟವಾಗುತ್ತದೆ.",
    "mr": "ही एक छोटी गोष्ट आहे आणि ती सर्वांना आवडते.",
    "vi": "Đây là một câu chuyện ngắn về những người bạn của tôi.",
    "ko": "이것은 친구들에 대한 짧은 이야기입니다.",
    "sw": "Hii ni hadithi fupi ya watoto na wazazi wao katika kijiji.",
    "de": "Das ist eine kurze Geschichte über meine Freunde und ihre Arbeit.",
    "pa": "ਇਹ ਇੱਕ ਛੋਟੀ ਜਿਹੀ ਕਹਾਣੀ ਹੈ ਜੋ ਸਭ ਨੂੰ ਪਸੰਦ ਹੈ।",
    "fa": "این یک داستان کوتاه درباره دوستان من است که می‌گویم.",
    "ru": "Это короткая история о моих друзьях и их работе.",
    "bg": "Това е кратка история за моите приятели и тяхната работа.",
    "pt": "Esta é uma história curta sobre os meus amigos e não é verdade.",
    "gu": "આ એક નાની વાર્તા છે જે બધાને ગમે છે.",
    "te": "ఇది నా స్నేహితుల గురించి ఒక చిన్న కథ.",
    "it": "Questa è una breve storia sui miei amici e sul loro lavoro.",
    "ar": "هذه قصة قصيرة عن أصدقائي وعملهم في المدينة.",
    "ta": "இது என் நண்பர்களைப் பற்றிய ஒரு சிறிய கதை.",
    "fi": "Tämä on lyhyt tarina ystävistäni ja heidän työstään.",
    "ur": "یہ میرے دوستوں کے بارے میں ایک چھوٹی سی کہانی ہے۔",
    "th": "นี่คือเรื่องสั้นเกี่ยวกับเพื่อนของฉัน",
    "ne": "यो मेरा साथीहरूको बारेमा एउटा छोटो कथा हो।",
    "bn": "এটি আমার বন্ধুদের সম্পর্কে একটি ছোট গল্প।",
    "es": "Esta es una historia corta sobre mis amigos y su trabajo.",
    "fr": "C'est une petite histoire sur mes amis et leur travail.",
    "zh": "这是一个关于我的朋友们的小故事。",
}
"""A sentence of each language that the prompts ask for, and of three more."""


def make_answer(names: list[str], values: list[dict[str, Any]], prompt: str, rng: random.Random) -> str:
    """An answer that tries to follow each instruction two times in three, by a rule of its own."""
    text = " ".join(rng.choices(SENTENCES, k=rng.choice((1, 3, 6, 12, 40))))
    if rng.random() < 0.3:
        parts = [" ".join(rng.choices(SENTENCES, k=2)) for _ in range(rng.randrange(2, 7))]
        text = rng.choice(("\n\n", "\n", "\n***\n", "\n\n***\n\n", "\n- ", "\n* ")).join(parts)
    for name, given in zip(names, values, strict=True):
        if rng.random() > 0.66:
            continue

        def count(key: str, given: dict[str, Any] = given) -> int:
            return max(0, int(given.get(key) or 1) + rng.choice((-1, 0, 0, 1)))

        kind = name.partition(":")[2]
        if kind == "response_language":
            code = given["language"] if rng.random() < 0.7 else rng.choice(list(FOREIGN))
            text = " ".join([FOREIGN[code]] * rng.randrange(1, 4)) + rng.choice(("", "", " OK!", "\n\n" + SENTENCES[0]))
        elif kind == "number_sentences":
            text = " ".join(rng.choices(SENTENCES, k=max(1, count("num_sentences"))))
        elif kind == "number_words":
            words = " ".join(rng.choices(SENTENCES, k=int(given["num_words"]) // 5 + 3)).split()
            text = " ".join(words[: max(1, count("num_words"))])
        elif kind == "number_paragraphs":
            text = rng.choice(("\n***\n", "\n\n***\n\n", " *** ")).join([text[:300]] * max(1, count("num_paragraphs")))
        elif kind == "nth_paragraph_first_word":
            parts = [SENTENCES[0]] * max(1, count("num_paragraphs"))
            place = min(len(parts), int(given["nth_paragraph"])) - 1
            quote = rng.choice(("", '"', "'", "**"))
            parts[place] = f"{quote}{given['first_word'].title()}{rng.choice((',', '!', quote, '-like', ''))} it is."
            text = rng.choice(("\n\n", "\n\n", "\n\n\n")).join(parts)
        elif kind == "number_bullet_lists":
            bullet = rng.choice(("* ", "- ", "  * ", "*", "-", "• "))
            text = text[:200] + "\n" + "\n".join(f"{bullet}item {row}" for row in range(count("num_bullets")))
        elif kind == "number_highlighted_sections":
            mark = rng.choice(("*", "**", "***"))
            text += " ".join(f" {mark}part {row}{mark}" for row in range(count("num_highlights")))
        elif kind == "multiple_sections":
            marker = given["section_spliter"]
            text = "\n".join(f"{marker}{rng.choice((' ', ''))}{row + 1}\nText." for row in range(count("num_sections")))
        elif kind == "number_placeholders":
            text += " ".join(f" [name {row}]" for row in range(count("num_placeholders")))
        elif kind == "postscript":
            marker = rng.choice((given["postscript_marker"], "p.s.", "P. S.", "PS:", "P.P.S"))
            text += f"\n\n{marker} Do not forget."
        elif kind == "title":
            text = rng.choice(("<<A title>>\n", "<<>>\n", "<< >>", "<title>\n", "<<a\nb>>\n")) + text
        elif kind == "json_format":
            body = rng.choice(
                ('{"a": [1, 2]}', "[1, 2,]", "{'a': 1}", '"text"', "12", '{"a": NaN}', '{"a": 1, "a": 2}')
            )
            fence = rng.choice(("", "```", "```json\n", "```JSON\n"))
            text = fence + body + ("\n```" if fence else "")
        elif kind == "two_responses":
            text = rng.choice(("******", "\n******\n", "\n\n*****\n\n", "\n*******\n")).join(
                [text[:200], rng.choice((text[:200], "Another answer."))] + ["Third."] * rng.choice((0, 0, 0, 1))
            )
        elif kind == "repeat_prompt":
            text = rng.choice(("", "\n", "Sure! ")) + (given.get("prompt_to_repeat") or prompt) + "\n\n" + text
        elif kind == "end_checker":
            text += " " + given["end_phrase"] + rng.choice(("", '"', ".", "\n", " "))
        elif kind == "quotation":
            text = rng.choice(('"{}"', '"{}', "“{}”", ' "{}"\n', "'{}'")).format(text)
        elif kind in ("existence", "forbidden_words", "frequency"):
            words = given.get("keywords") or given.get("forbidden_words") or [given.get("keyword")]
            words = [rng.choice((word, word.upper(), word + "s", "un" + word)) for word in words]
            text += " " + " ".join(words * (count("frequency") if kind == "frequency" else 1))
        elif kind == "letter_frequency":
            text = text[:100] + " " + str(given["letter"]) * count("let_frequency")
        elif kind == "constrained_response":
            text = rng.choice(("My answer is yes.", "my answer is no.", "My answer is maybe. Or not.", "Yes."))
        elif kind == "english_capital":
            text = rng.choice((text.upper(), text.upper() + " a", FOREIGN["ru"].upper(), "123"))
        elif kind == "english_lowercase":
            text = rng.choice((text.lower(), text.lower() + " A", FOREIGN["fr"].lower(), "123"))
        elif kind == "capital_word_frequency":
            text += " " + " ".join(
                rng.choices(("NASA", "IT'S", "U.S.", "GO-GO", "A", "X2"), k=count("capital_frequency"))
            )
        elif kind == "no_comma":
            text = text.replace(",", rng.choice(("", "", "，")))
    if rng.random() < 0.15:
        text = rng.choice(("Sure! Here it is:\n\n{}", "{}\n\nI hope this helps!", "**{}**", "\n{}\n")).format(text)
    return text


def main() -> None:
    """Print how many of the instructions are told alike, and those that are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=existing_folder, help="a folder that holds ifeval_input_data.jsonl")
    parser.add_argument("seed", type=non_negative_int, nargs="?", default=0)
    parser.add_argument("--show", action="store_true", help="print what both tell differently")
    arguments = parser.parse_args()
    files = sorted(arguments.data.rglob("ifeval_input_data.jsonl"))
    if not files:
        parser.error(f"{arguments.data} holds no ifeval_input_data.jsonl")
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0
    fields = ("key", "prompt", "instruction_id_list", "kwargs")
    rows = [row for file in files for row in read_json_lines(file, fields)]
    rng = random.Random(arguments.seed)
    total: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    followed: Counter[str] = Counter()
    for row in rows:
        names, prompt = row["instruction_id_list"], row["prompt"]
        values = [{key: value for key, value in given.items() if value is not None} for given in row["kwargs"]]
        answer = make_answer(names, values, prompt, rng)
        theirs_in = utils.InputExample(row["key"], names, prompt, row["kwargs"])
        for loose in (False, True):
            ask = utils.test_instruction_following_loose if loose else utils.test_instruction_following_strict
            theirs = ask(theirs_in, answer).follow_instruction_list
            for name, given, their in zip(names, values, theirs, strict=True):
                our = follows(name, given, prompt, answer, loose)
                total[name] += 1
                followed[name] += bool(their)
                equal[name] += our == bool(their)
                if our != bool(their) and arguments.show:
                    print(f"{name} {given} loose={loose}: ours {our}, theirs {bool(their)}: {answer[-300:]!r}")
    for name in sorted(total):
        print(f"{name:52} {equal[name]:4} of {total[name]:4} alike, {followed[name]:4} followed")
    count, same = sum(total.values()), sum(equal.values())
    print(f"{len(rows)} answers: {same} of {count} checks alike ({100 * same / count:.1f} %)")


if __name__ == "__main__":
    run_main(main)
