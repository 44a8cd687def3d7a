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
