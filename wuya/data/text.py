"""Words as people mean them: lower-case, content words apart from function words, a light stem.

Used where text is compared by meaning-bearing words: demo prompts need four of them, labelers look for shared ones.
"""

import re
from functools import lru_cache

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
STOP_WORDS = frozenset(
    """a about after again all also am an and any are aren't as at be because been before being but by can can't could
    couldn't did didn't do does doesn't doing don't down for from get gets getting go going gonna got had has have
    haven't having he he's her here hers him his how how's i i'd i'll i'm i've if in into is isn't it it's its just
    know lets let's like lol lot make me mean more most much my myself no nor not now of off oh ok okay on one only or
    other our out over own really right said say see she she's should so some such than that that's the their them
    then there there's these they they're thing things think this those though to too up us very was wasn't we we're
    we've well were what what's when where where's which who who's why will with won't would wouldn't yea yeah yes you
    you're you've your yours hello hey hi haha good im dont thats ive cant didnt doesnt youre whats u ya yep nope
    even still want way been kind pretty sure maybe something anything people tell time""".split()
)


def words(text: str) -> list[str]:
    """Lower-case words, in order."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=65_536)  # a corpus repeats a few thousand words
def stem(word: str) -> str:
    """Strip the commonest English endings: games meets game, stories story, hiking hike. Crude on purpose."""
    for ending, instead in (("ing", ""), ("ies", "i"), ("ied", "i"), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        return word[:-1]  # running -> runn -> run
    if len(word) > 3 and word[-1] == "y":
        return word[:-1] + "i"
    return word[:-1] if len(word) > 3 and word[-1] == "e" else word


def content_words(text: str) -> list[str]:
    """Stems of the words that carry meaning, in order, repeats kept."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS and len(word) > 2]
