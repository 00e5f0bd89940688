"""What the tokenizer's tests share: texts, and rows of character ids as numerics 2.1 has them."""

TEXTS = ["The cat didn't sit, Dr. Smith.", "Hi", "", "naïve  日本 😀\tx<S>y <S> <PAD> end"]
LISTS = [["The", "New York", " "], [], ["a<S>b", "<S>", "<PAD>", "", "\ud800bad"], ["x"] * 9]
VOCABULARY = ["<S>", "</S>", "<UNK>", "the", "cat", "\u3000", "the", "<PAD>"]
# ELMoForManyLangs: original ids + 1, its <eow> begins a word.
CHARACTERS = {"a": 1, "b": 2, "今": 3, "\u3000": 9}
CHARACTERS |= {"<S>": 4, "</S>": 5, "<OOV>": 6, "<PADC>": 7, "<EOW>": 8, "<BOW>": 11}


def row(word, width=50):
    """What numerics 2.1 says, word by word."""
    boundary = {"<S>": [257], "</S>": [258]}.get(word)
    letters = boundary or [byte + 1 for byte in word.encode("utf-8", "ignore")[: width - 2]]
    return ([259, *letters, 260] + [261] * width)[:width]


def rows(words, width=50):
    return [row(word, width) for word in words]
