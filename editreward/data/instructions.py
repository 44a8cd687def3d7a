"""One instruction as different people, editors and spreadsheets write it down: to train and to test with."""

from random import Random

BREAKS = ("\n", "\r\n", "\u2028")
BLANKS = ("\u00a0", "  ", "\t", "\u3000", "\u202f")
STARTS = ("\ufeff", " ", "\u00a0", "\r\n")
ENDS = (" ", "\n", "\r\n", "\u00a0", "\u2028", "\r\n\r\n")
STOPS = (".", "。")


def with_other_blanks(text: str, rng: Random) -> str:
    """Something before or after the text, other blanks between its words: nothing that a reader would see."""
    start, end = rng.choice(("", *STARTS)), rng.choice(ENDS)
    words = text.split(" ")
    between = [rng.choice((" ", " ", *BLANKS)) for _ in words[1:]]
    return start + "".join(part for pair in zip(words, [*between, ""], strict=True) for part in pair) + end


def with_line_break(text: str, rng: Random) -> str:
    """A line break in place of one blank; the text as it is where there is none."""
    places = [place for place, character in enumerate(text) if character == " "]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + rng.choice(BREAKS) + text[place + 1 :]


def with_other_form(text: str, rng: Random) -> str:
    """The full stop added or taken away, or the first letter in the other case."""
    if text[:1].swapcase() != text[:1] and rng.random() < 0.5:
        return text[:1].swapcase() + text[1:]
    if text.endswith(STOPS):
        return text[:-1]
    return text + ("。" if any("\u3400" <= character <= "\u9fff" for character in text) else ".")


def varied_instruction(text: str, rng: Random) -> str:
    """The instruction in one of the three ways, or in several."""
    ways = [way for way in (with_other_form, with_line_break, with_other_blanks) if rng.random() < 0.5]
    for way in ways or [rng.choice((with_other_form, with_line_break, with_other_blanks))]:
        text = way(text, rng)
    return text


def with_remark(text: str, remark: str, rng: Random | None = None) -> str:
    """The instruction and a remark that asks for nothing after it; with `rng`, at times before it."""
    return f"{remark} {text}" if rng is not None and rng.random() < 0.3 else f"{text} {remark}"


def random_remark(language: str, rng: Random) -> str:
    """A sentence that says nothing of the image, to train with; `bench robustness` has others.

    Args:
        language: "zh"; any other is taken for English.
    """
    who, does, when = (rng.choice(parts.split("|")) for parts in REMARKS["zh" if language == "zh" else "en"])
    return f"{when},{who}{does}。" if language == "zh" else f"{who} {does} {when}."


REMARKS: dict[str, tuple[str, str, str]] = {
    "en": (
        "My sister|The baker|Our teacher|A friend of mine|The old dog|Everybody|I|The neighbours|The postman|Her uncle"
        "|The whole team|You|The museum|This office",
        "likes coffee|sang loudly|went to the market|will call back|lost the keys|wrote a long letter|slept well"
        "|was very kind|asks for patience|wants good marks|talked about the weather|had soup for lunch"
        "|thanks you for the help|needs it soon|did a great job|should be proud",
        "yesterday|in the evening|on Mondays|again|as always|for a week|before the holidays|without a reason"
        "|after the concert|at last|in any case|this time",
    ),
    "zh": (
        "我姐姐|面包师傅|我们老师|一个朋友|那只老狗|大家|我|邻居们|邮递员|她叔叔|全队|你|博物馆的人|这个办公室",
        "很喜欢咖啡|大声唱歌|去了市场|会回电话|丢了钥匙|写了一封长信|睡得很好|非常和气|请多多包涵|想得高分|聊了天气"
        "|午饭喝了汤|谢谢你的帮助|很着急|做得很好|应该骄傲",
        "昨天|晚上|星期一|又一次|像往常一样|整整一周|放假以前|无缘无故|音乐会以后|终于|无论如何|这一次",
    ),
}
"""Who, does what, and when."""
