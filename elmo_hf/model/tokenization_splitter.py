# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Word splitters: rules that split raw text into words, as a model's training text was split.

"treebank": words of the Penn Treebank ("do n't", "she 's", punctuation apart), with two conventions
of UD English EWT, the treebank that benchmarks/word_boundaries.py measures against: a hyphen or
slash between words is a word ("long - term", but prefixes stay attached: "non-profit"), and so is
the last period of a text, even after an abbreviation ("until 5 p.m ."). The training text of this
project's own checkpoints was split by these rules.

"billion-words": words of the 1 Billion Word Benchmark (Chelba et al. 2013), the training text of
the published English ELMo, by the rules of the benchmark's scripts/tokenizer.perl: "long-term" is
one word, an apostrophe between letters begins a word ("Don 't", "she 's", "O 'Brien"), each sign is
a word ("5 : 30", "AT & T"), and a period stays on abbreviations ("in the U.S.") and before a
lowercase word. The benchmark also replaced quotation marks, apostrophes and dashes by the ASCII
ones, which no splitter does.

"whitespace": words are separated by white space.

A splitter removes white space only: the joined words of a text are the text without white space.
Quotation marks and brackets stay as typed.

Each splitter is one regular expression, stored in tokenizer.json, whose matches are the words. A
sequence of pre-tokenizers would copy every word in each step, which costs more than the rules. The
first rule matches most words; the other rules are chosen by a word's first character and the sign
after it. Every rule consumes what it reads or reads a bounded number of characters, so that the
time is linear in the length of the text.
"""

import functools

from tokenizers import Regex, pre_tokenizers


def word_splitter(name: str) -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer called `name`: "treebank", "billion-words" or "whitespace".

    Raises:
        ValueError: the name is unknown.
    """
    if name == "whitespace":
        return pre_tokenizers.WhitespaceSplit()
    if name not in WORDS:
        raise ValueError(
            f"word_splitter is {name!r}; expected 'treebank', 'billion-words' or 'whitespace'. If "
            "your text is split already, pass lists of words and is_split_into_words=True"
        )
    # Inverted: the text between two matches is removed, which is only white space.
    return pre_tokenizers.Split(Regex(WORDS[name]), behavior="removed", invert=True)


def find_splitter(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> str | None:
    """Return the name of this pre-tokenizer, None if `word_splitter` cannot make it."""
    if pre_tokenizer is None:
        return None
    state = pre_tokenizer.__getstate__()
    return next((name for name in (*WORDS, "whitespace") if splitter_state(name) == state), None)


@functools.cache
def splitter_state(name: str) -> bytes:
    return bytes(word_splitter(name).__getstate__())


def one_of(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


def any_case(pattern: str) -> str:
    return f"(?i:{pattern})"


def listed(*lines: str) -> str:
    """Match any word of `lines`; words are grouped by first letter, so that one group is tried."""
    groups: dict[str, list[str]] = {}
    for word in " ".join(lines).split():
        groups.setdefault(word[0], []).append(word[1:])
    return one_of(*(first + one_of(*rests) for first, rests in groups.items()))


def before(pattern: str) -> str:
    return f"(?={pattern})"


# In Oniguruma `{2,}+` is not a possessive quantifier; an atomic group has that meaning.
def run_of(pattern: str, least: int = 2) -> str:
    return f"(?>{pattern}{{{least},}})"


APOSTROPHE = "['’]"
# Soft hyphen and zero-width (non-)joiner: not letters, but part of words.
INVISIBLE = r"\u00ad\u200c\u200d"
LETTERS = r"\p{L}[\p{L}\p{M}\d]*+"
RUN = rf"\w[\w{INVISIBLE}]*+"
WORD_END = r"(?!\w)"
TEXT_END = r"[\"'”’»)\]}]*+\s*+\z"

# --- Contractions: do n't, she 's, can not, gon na --------------------------------------------

FUSED_ENDING = "|".join(
    (
        *("[dDsS][nN][tT]", "[aA][rR][eE][nN][tT]", "[eE][rR][eE][nN][tT]", "[aA][vV][eE][nN][tT]"),
        *(r"\b[dDcCwW][oOaA][nN][tT]", "[nN][nN][oO][tT]"),
        *("[nN][nN][aA]", "[tTuU][tT][aA]", "[mM][mM][eE]"),
    )
)
FUSED_WORD_HEAD = any_case(
    one_of(
        rf"can(?=not{WORD_END})",
        rf"(?:gon|wan)(?=na{WORD_END})",
        rf"(?:got|out)(?=ta{WORD_END})",
        rf"(?:gim|lem)(?=me{WORD_END})",
        rf"(?:did|does|is|was|are|were|have|has|had|could|would|should)(?=nt{WORD_END})",
    )
)
# "dont", "cant" and "wont" are also words of English or French, but not after a subject.
FUSED_BEHIND_SUBJECT = r"(?<=\b[Ii] |\b[Ww]e |\b[Yy]ou |\b[Tt]hey |\b[Hh]e |\b[Ii]t )" + any_case(
    rf"(?:do|ca|wo)(?=nt{WORD_END})"
)
# An article may be attached: "I'ma", "isn'ta".
CONTRACTION_END = r"(?=[aA]?(?!\w))"
NOT_CLITIC = rf"[nN]{APOSTROPHE}[tT]{CONTRACTION_END}"
CLITIC_LETTERS = one_of(
    any_case("(?:[sd]|re|ve|ll)") + WORD_END,
    f"[mM]{CONTRACTION_END}",
)
# Typed text also has accents for apostrophes; they count as such only before a single s.
CLITIC = one_of(APOSTROPHE + CLITIC_LETTERS, rf"[`´][sS]{WORD_END}")
# A clitic follows a word, or is separate in split text; otherwise 's begins a quotation.
ATTACHED_CLITIC = rf"(?:(?<=[\w.])|(?<!\S)(?=\S{{2,3}}(?!\S))){CLITIC}"
SHORT_FORM = (
    rf"(?<!\w){APOSTROPHE}"
    + one_of(any_case("(?:em|til|tis|twas|cause|n'?)"), r"\d\ds?")
    + WORD_END
)
WORD_BEFORE_NOT = rf"(?=\w++{APOSTROPHE}[tT])\w+(?={NOT_CLITIC})"
WORD_BEFORE_CLITIC = rf"\w++(?<!\d)(?={CLITIC})"

# --- Words ------------------------------------------------------------------------------------

# The character class is checked first because it is faster.
NOT_FUSED = f"(?:(?<![tTaAeE])|(?<!{FUSED_ENDING}))"
# No other rule can apply: no fused ending, and no sign after the word that could be part of it.
PLAIN_WORD = rf"{LETTERS}{NOT_FUSED}(?![.'’`´*/$_{INVISIBLE}]|[-@&:+~%#][\w/#+])"
# The period is not part of the word: end of text, a word too long to abbreviate, or an ellipsis.
WORD_BEFORE_PERIOD = rf"{LETTERS}{NOT_FUSED}(?=\.\z|\.\s(?<=\p{{L}}{{8}}\.\s)|\.\.\.++(?![\w@]))"
WORD_BEFORE_STOP = rf"{LETTERS}{NOT_FUSED}(?=\.[^\w@.])"
WORD_BEFORE_QUOTE = rf"\w++(?={APOSTROPHE}(?!\w))"
# Shi'ite, O'Connell, d***ed, AK47's, v2.0.
WORD = (
    RUN
    + rf"(?:(?:{APOSTROPHE}(?!{CLITIC_LETTERS}|\d)|(?<=\p{{L}})\*++(?=\p{{L}})){RUN})*+"
    + rf"(?:(?<=\d)(?:{APOSTROPHE}[sS]{WORD_END}|(?:\.\d++)++))?"
)
# Plain text marks emphasis by underscores.
UNDERLINED_WORD = r"_(?=\p{L})|[^\W_]++(?=_++(?!\w))"
PREFIX = any_case(
    listed(
        "anti arch bi co counter cross e ex extra hyper inter intra macro meta micro mid mini mis",
        "mono multi neo non over post pre pro proto pseudo psycho quasi re semi socio sub super",
        "trans tri ultra un uni",
    )
)
PREFIXED_WORD = rf"(?<![-\w]){PREFIX}-(?=\w){RUN}(?![.@]\w)"
SLASHED_WORD = rf"(?:[wW]/(?:out|[oO])?|[bB]/[cC]|[nN]/[aA]|[lL]/[cC]){WORD_END}"
AMPERSAND_WORD = rf"(?:\p{{Lu}}{{1,3}}&\p{{Lu}}{{1,3}}|\p{{Ll}}&\p{{Ll}}){WORD_END}"

# --- Abbreviations: Dr., U.S., p.m., J. -------------------------------------------------------

ABBREVIATED = listed(
    "Mrs? Ms Drs? Prof Rev Hon Fr Sr Jr Esq Messrs Mme Mlle",
    "Gen Col Maj Capt Cmdr Cpl Lt Sgt Pvt Adm Gov Sens? Reps? Pres Supt",
    "Inc Corp Cos? Ltd Bros Assn Dept Univ Mfg Intl INC CORP CO LTD",
    "Ste? Sts Mt Ft Ave Blvd Rd Hwy Pkwy Apt Bldg",
    "Jan Feb Mar Apr Jun Jul Aug Sept? Oct Nov Dec Mon Tues? Wed Thurs? Thur Fri Sat Sun",
    "Ala Ariz Calif Colo Conn Fla Ga Kan Ky La Md Mich Minn Mont Neb Nev Okla Pa Penn Tenn Tex",
    "Va Vt Wis Wyo Que Ont",
    "Vs vs Etc etc al Cf cf Approx approx Est est Figs? figs? Vols? vols? Esp esp Ext ext Eg eg",
    "Ie ie Attn attn Arrv arrv pp ca lbs? oz yrs mins hrs Conf Sec Ph\\.D Ph",
)
# The period of an ellipsis or at the end of the text is not part of the abbreviation.
ABBREVIATION_PERIOD = rf"\.(?!\.\.|{TEXT_END})"
ABBREVIATION = one_of(ABBREVIATED + ABBREVIATION_PERIOD, r"[Nn]os?\.(?=\s?\d)")
INITIALS = rf"\p{{L}}(?:\.\p{{L}}{WORD_END})++(?:{ABBREVIATION_PERIOD})?"
INITIAL = r"(?!I)\p{Lu}\.(?=\s?\p{Lu}|,)"

# --- Addresses and names of files -------------------------------------------------------------

# 63 and 64 are the limits of the mail and domain name standards; they bound backtracking.
LABEL = r"(?>[\w-]{1,63})"
FILE_LABEL = r"(?>[\w#%~-]{1,63})"
PATH = r"/(?:\S*[\w/#=&~+-])?"
LINK = any_case(r"(?:(?:https?|ftp)://|www\.)") + r"\S*[\w/#=&~+-]"
MAIL = rf"(?:mailto:)?(?>[\w.+%-]{{1,64}})@(?=\p{{L}}){LABEL}(?:\.{LABEL}){{0,8}}"
NET_ENDING = any_case(r"(?:com|org|net|edu|gov|mil|info|biz)(?:\.[a-z]{2})?|(?:co|ac)\.[a-z]{2}")
FILE_ENDING = any_case(
    listed("docx? xlsx? pptx? pdf txt rtf html? jpe?g gif png zip exe url csv json xml js py")
)
DOMAIN = rf"{LABEL}(?:\.{LABEL}){{0,8}}\.{NET_ENDING}{WORD_END}(?:{PATH})?"
FILE = rf"{FILE_LABEL}(?:\.{FILE_LABEL}){{0,8}}\.{FILE_ENDING}{WORD_END}"
BARE_ENDING = rf"(?<!\w)\.{one_of(NET_ENDING, FILE_ENDING)}{WORD_END}"
# comp.sources.unix, os.path.join
DOTTED_NAME = rf"(?>\p{{L}}[\w-]{{1,63}})(?:\.(?>\p{{Ll}}[\w-]{{1,63}})){{2,8}}{WORD_END}"
MENTION = r"(?<!\w)@(?=\p{L})\w++"
HASHTAG = r"(?<!\w)#(?=\p{L})\w++"

# --- Numbers ----------------------------------------------------------------------------------

DATE = one_of(r"\d{1,2}/\d{1,2}/\d{2,4}", r"\d{1,2}-\d{1,2}-\d{2,4}", r"\d{4}-\d\d-\d\d")
MONTH_AND_DAY = r"(?:0?[1-9]|1[0-2])/[0-3]\d(?![\w/])"
PHONE = one_of(r"(?:\d-)?(?:\d{3}[-/])?\d{3}-\d{4}", r"x?\d-\d{4}", r"\d{5}-\d{4}")
DIGITS = r"\d++(?:[.,:]\d++)*+"
UNIT = one_of(
    any_case(listed(r"am pm a\.m p\.m k kb kg km m mb mm b bn cm f ft gb hh hrs? hz lbs? p")),
    r"\p{L}{3,}",
)
# 5 pm, 20 minutes; not 3rd, 1980s, 330i.
NUMBER_BEFORE_UNIT = rf"{DIGITS}(?={UNIT}{WORD_END})"
NUMBER = rf"{DIGITS}(?:\w++|{APOSTROPHE}[sS]{WORD_END})?"
DECIMAL = r"(?<!\w)\.\d++"
DIAL_PREFIX = r"(?<!\w)\+\d++"
DOLLARS = r"(?:US|HK|AU|NZ|CA|[ACSU])\$"

# --- Signs ------------------------------------------------------------------------------------

# Signs that begin no emoticon and no repetition.
SINGLE_SIGN = r"[,.](?=\s|\z)|[\"“”(),\[\]/$%?!-](?=[\s\p{L}]|\z)"
FACE = one_of(
    r">?[:;=]['’]?-?[()](?![()])",
    r"(?<!\w)[:;=]-?[DPpOo/\\3](?!\w)",
    r"(?<!\w)\(-?[:;=]",
    r"(?<!\w)<3++(?!\w)",
    r"\^_++\^",
    "-_++-",
)
RULER = run_of("[-=*~#+|<>]", least=4)
REPEATED = one_of(
    *(run_of(sign) for sign in ("[.…]", "-", r"\*", "=", r"\+", "#", r"\$", "<", ">")),
    r"\.[!?]++",
    r"[!?]++(?:\.(?!\.))?",
    *("''", "‘’", "’’", "``", ",,"),
    *("<-", "[-=]>", "[<>]="),
)
SKIN_OR_STYLE = r"[\ufe0f\x{1f3fb}-\x{1f3ff}\x{e0020}-\x{e007f}]*+"
PICTURE = rf"\p{{Extended_Pictographic}}{SKIN_OR_STYLE}"
EMOJI = one_of(rf"{PICTURE}(?:\u200d{PICTURE})*+", r"[\x{1f1e6}-\x{1f1ff}]{2}")
ANY_SIGN = r"\S\p{M}*+"

# --- All together, by the first character and the sign after the word --------------------------

FROM_LETTER = one_of(
    WORD_BEFORE_PERIOD,
    before(r"\w++\.") + one_of(ABBREVIATION, INITIALS, INITIAL, WORD_BEFORE_STOP),
    before(r"\w++['’`´]")
    + one_of(WORD_BEFORE_QUOTE, WORD_BEFORE_NOT, NOT_CLITIC, WORD_BEFORE_CLITIC),
    before(rf"\w++(?<={FUSED_ENDING})") + one_of(FUSED_WORD_HEAD, FUSED_BEHIND_SUBJECT),
    before(r"\w++\.{1,3}[\w@]") + one_of(LINK, MAIL, DOMAIN, FILE, DOTTED_NAME),
    before(any_case("(?:https?|ftp|mailto):")) + one_of(LINK, MAIL),
    before(r"\w++-") + one_of(PREFIXED_WORD, PHONE + WORD_END),
    before(r"(?>[\w-]{1,63})[.@#%~+][\w-]") + one_of(MAIL, DOMAIN, FILE),
    before(r"\w++[/&$]") + one_of(SLASHED_WORD, AMPERSAND_WORD, DOLLARS),
    r"[Cc]\+\+",
    UNDERLINED_WORD,
    WORD,
)
FROM_DIGIT = one_of(
    before(r"(?>[\w.%~-]{1,64})(?:@|(?<=\p{L}))") + one_of(MAIL, DOMAIN, FILE),
    before(r"\d++[-/]") + one_of(DATE + WORD_END, MONTH_AND_DAY, PHONE + WORD_END),
    NUMBER_BEFORE_UNIT,
    NUMBER,
)
TREEBANK_WORD = r"(?!\s)" + one_of(
    PLAIN_WORD,
    SINGLE_SIGN,
    r"(?=\p{L})" + FROM_LETTER,
    r"(?=\d)" + FROM_DIGIT,
    r"(?=['’`´])" + one_of(ATTACHED_CLITIC, SHORT_FORM, r".(?=\p{L})"),
    *(UNDERLINED_WORD, WORD),
    *(DECIMAL, BARE_ENDING, DIAL_PREFIX, MENTION, HASHTAG),
    *(FACE, RULER, REPEATED, EMOJI, ANY_SIGN),
)

# --- Words of the 1 Billion Word Benchmark ------------------------------------------------------

ANY_APOSTROPHE = "['’‘`]"
UNIT = rf"[\p{{Alnum}}\p{{M}}{INVISIBLE}-]"
# A comma between digits, and an apostrophe as in 5'a, but not in 1990's.
INSIDE_NUMBER = rf"(?<=\p{{N}})(?:,(?=\p{{N}})|{ANY_APOSTROPHE}(?!s)(?=\p{{Alpha}}))"
INNER_PERIOD = r"\.(?=[\p{Alnum}-])"
UNDOTTED = rf"(?:{UNIT}|{INSIDE_NUMBER})"
BODY = rf"(?:{UNDOTTED}|{INNER_PERIOD})++"
BODY_END = r"(?![\p{Alnum}.-])"
TITLED = listed(
    "Adj Adm Adv Asst Bart Bldg Brig Bros Capt Cmdr Col Comdr Con Corp Cpl DR Drs? Ens Gen",
    "Gov Hon Hr Hosp Insp Lt MM MR MRS MS Maj Messrs Mlle Mme Mrs? Ms Msgr Op Ord Pfc Ph Prof Pvt",
    "Reps? Res Rev Rt Nos Nr Sens? Sfc Sgt Sr St Supt Surg vs? rev",
)
NUMBERED = listed("No Art pp")
WITH_PERIOD = one_of(
    # U.S., p.m., example.com.: letters, and a period inside.
    rf"(?=[\p{{N}}\p{{M}}.-]*+\p{{Alpha}}){UNDOTTED}*+{INNER_PERIOD}{BODY}\.{BODY_END}",
    rf"(?:[A-Z]|{TITLED})\.{BODY_END}",
    rf"{NUMBERED}\.(?=\s\d)",
)
BEFORE_LOWERCASE = r"(?:\.(?=\s\p{Lower}))?"
# A second apostrophe, one letter later, does not begin a word: I 'd've, rock 'n'roll.
CLITIC_BODY = (
    rf"(?:(?<=\p{{Alpha}}){ANY_APOSTROPHE}(?=\p{{Alpha}})|(?<=\p{{N}}){ANY_APOSTROPHE}(?=s))"
    rf"(?:\p{{Alpha}}{ANY_APOSTROPHE}(?=\p{{Alpha}}))?{BODY}{BEFORE_LOWERCASE}"
)
BILLION_WORDS_WORD = r"(?!\s)" + one_of(
    *(WITH_PERIOD, BODY + BEFORE_LOWERCASE, CLITIC_BODY),
    *(run_of(r"\."), "''", "``", "’’", "‘‘", EMOJI, ANY_SIGN),
)

WORDS = {"treebank": TREEBANK_WORD, "billion-words": BILLION_WORDS_WORD}

__all__ = ["find_splitter", "word_splitter"]
