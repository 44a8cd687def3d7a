"""Numbers as text."""


def percent(probability: float) -> str:
    """A probability as text: whole percents, which say 0% and 100% of nothing but what is certain."""
    text = f"{probability:.0%}"
    if text == "100%" and probability < 1:
        return ">99%"
    return "<1%" if text == "0%" and probability > 0 else text
