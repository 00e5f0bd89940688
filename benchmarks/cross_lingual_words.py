"""Find seeds of an English-Portuguese dictionary, and read the list of words that tests it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

LIST = Path(__file__).with_name("english_portuguese.tsv")
MIN_LETTERS = 4  # shorter words are often spelled alike by chance: "a", "as", "do", "come"
MIN_STEM = 2
MIN_LETTERS_SHORT = 6  # of words whose ending has one or two letters
# Endings of Portuguese words and of their English relatives: nação, nation; cidade, city.
ENDINGS = [
    ("ções", "tions"),
    ("ção", "tion"),
    ("são", "sion"),
    ("dades", "ties"),
    ("dade", "ty"),
    ("mente", "ly"),
    ("amente", "ly"),
    ("amente", "ely"),
    ("osos", "ous"),
    ("oso", "ous"),
    ("osa", "ous"),
    ("ância", "ance"),
    ("ência", "ence"),
    ("ico", "ic"),
    ("ica", "ic"),
    ("ico", "ical"),
    ("ica", "ical"),
    ("ivo", "ive"),
    ("iva", "ive"),
    ("ário", "ary"),
    ("ória", "ory"),
    ("ório", "ory"),
    ("ável", "able"),
    ("ível", "ible"),
    ("mento", "ment"),
    ("mentos", "ments"),
    ("ente", "ent"),
    ("ante", "ant"),
    ("entes", "ents"),
    ("antes", "ants"),
    ("ismo", "ism"),
    ("ista", "ist"),
    ("ura", "ure"),
    ("ude", "ude"),
    ("ores", "ors"),
    ("ia", "y"),
    ("io", "y"),
    ("ido", "id"),
    ("o", ""),
    ("a", ""),
    ("e", ""),
    ("o", "e"),
    ("a", "e"),
    ("os", "s"),
    ("as", "s"),
    ("", ""),
]


def read_list(file: Path = LIST) -> dict[str, set[str]]:
    """Return the Portuguese translations of each English word of the test list."""
    found: dict[str, set[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            english, portuguese = line.split("\t")
            found.setdefault(english, set()).add(portuguese)
    return found


def invert(dictionary: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the dictionary in the other direction."""
    found: dict[str, set[str]] = {}
    for word, translations in dictionary.items():
        for one in translations:
            found.setdefault(one, set()).add(word)
    return found


def find_names(sentences: Iterable[Sequence[str]]) -> set[str]:
    """Return, in lower case, the words that mostly begin with a capital inside of sentences."""
    seen, capital = Counter[str](), Counter[str]()
    for words in sentences:
        for word in words[1:]:
            seen[word.lower()] += 1
            capital[word.lower()] += word[:1].isupper()
    return {word for word, count in capital.items() if 2 * count > seen[word]}


def find_identical(
    portuguese: Iterable[str], english: Iterable[str], names: set[str]
) -> list[tuple[str, str]]:
    """Return words that both texts have: long ones, names, numerals and punctuation."""
    english = {*english}
    return [
        (word, word)
        for word in portuguese
        if word in english
        and (
            len(word) >= MIN_LETTERS
            or (len(word) > 1 and word in names)
            or not any(map(str.isalpha, word))
        )
    ]


def find_relatives(portuguese: Iterable[str], english: Iterable[str]) -> list[tuple[str, str]]:
    """
    Return words that are spelled alike except for their endings, such as nação and nation.

    Of several relatives of a word, the first one is taken: pass frequent words first.
    """
    table: dict[str, str] = {}
    for word in english:
        if word.isalpha() and len(word) >= MIN_LETTERS:
            table.setdefault(_simplify(word), word)
    found = []
    for word in portuguese:
        if word.isalpha() and len(word) >= MIN_LETTERS:
            made = (
                table.get(_simplify(word[: len(word) - len(ending)] + other))
                for ending, other in ENDINGS
                if word.endswith(ending)
                and len(word) - len(ending) >= MIN_STEM
                and (len(ending) > 2 or len(word) >= MIN_LETTERS_SHORT)
            )
            if relative := next(filter(None, made), None):
                found.append((word, relative))
    return found


def _simplify(word: str) -> str:
    """Remove what spells the same sound otherwise: accents, double letters, ph, th and y."""
    plain = unicodedata.normalize("NFD", word)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    for letters, other in (("ph", "f"), ("th", "t"), ("y", "i")):
        plain = plain.replace(letters, other)
    return re.sub(r"(.)\1", r"\1", plain)
