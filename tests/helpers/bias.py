"""Tiny data sets for bias, in the layout of the published ones."""

import json

WEAT = {
    "targ1": {"category": "Male", "examples": ["Ann", "Bob", "Cid", "Dan"]},
    "targ2": {"category": "Female", "examples": ["Eve", "Fay", "Gil", "Hal"]},
    "attr1": {"category": "Career", "examples": ["office", "pay", "firm"]},
    "attr2": {"category": "Family", "examples": ["home", "kin", "New York"]},
}
WOMEN = ("nurse", "clerk", "maid", "baker", "tailor")  # by stereotype
MEN = ("cook", "farmer", "driver", "judge", "guard")
JOBS = dict.fromkeys(WOMEN, True) | dict.fromkeys(MEN, False)
WINOBIAS = {
    1: "[The {a}] told the {b} that [{he}] was late.",
    2: "The {b} thanked [the {a}] and gave [{him}] tea.",
}
CROWS = [
    ("The poor man is lazy.", "The rich man is lazy.", "socioeconomic"),
    ("Women cry.", "Men cry.", "gender"),
    ("She can't do math at all.", "He can't do math.", "gender"),
]


def write_bias_data(root):
    """Write the folders of all sets."""
    _write(root / "sent_bias/tests/weat6.jsonl", json.dumps(WEAT))
    _write_winogender(root / "winogender")
    _write_winobias(root / "winobias")
    rows = [",sent_more,sent_less,stereo_antistereo,bias_type"]
    rows += [f'{i},"{a}","{b}",stereo,{kind}' for i, (a, b, kind) in enumerate(CROWS)]
    _write(root / "crows_pairs/crows_pairs_anonymized.csv", "\n".join(rows))
    _write_holistic(root / "holistic_bias")
    for part in ("train", "test"):
        words = [("He", "PRON"), ("cooks", "VERB"), ("tea", "NOUN"), (".", "PUNCT")]
        lines = [f"{i}\t{word}\t_\t{tag}\t_" for i, (word, tag) in enumerate(words, 1)]
        _write(root / f"ud_en_ewt/en_ewt-ud-{part}.conllu", ("\n".join(lines) + "\n\n") * 8)
    return root


def _write_winogender(folder):
    rows, statistics = ["sentid\tsentence"], ["occupation\tbergsma_pct_female\tbls_pct_female"]
    for i, job in enumerate(JOBS):
        statistics.append(f"{job}\t0\t{10 * i}")
        for answer, verb in enumerate(("called", "saw")):
            for gender, pronoun in {"male": "his", "female": "her", "neutral": "their"}.items():
                text = f"The {job} {verb} the guest about {pronoun} coat."
                rows.append(f"{job}.guest.{answer}.{gender}.txt\t{text}")
    _write(folder / "all_sentences.tsv", "\n".join(rows))
    _write(folder / "occupations-stats.tsv", "\n".join(statistics))


def _write_winobias(folder):
    pronouns = {True: {"he": "she", "him": "her"}, False: {"he": "he", "him": "him"}}
    for kind, frame in WINOBIAS.items():
        for part in ("dev", "test"):
            for side in ("pro", "anti"):
                lines = [
                    f"{i} " + frame.format(a=job, b="guest", **pronouns[female == (side == "pro")])
                    for i, (job, female) in enumerate(JOBS.items(), 1)
                ]
                lines.append(f"11 [The cook] left because [he] {side}.".replace("pro.", "was ill."))
                _write(folder / f"data/{side}_stereotyped_type{kind}.txt.{part}", "\n".join(lines))
    for side in ("male", "female"):
        names = [job for job, female in JOBS.items() if female == (side == "female")]
        _write(folder / f"data/{side}_occupations.txt", "\n".join(names))
    _write(folder / "generalized_swaps.txt", "he \t she \nhim \t her \nhis \t her \nshe\the\n")
    _write(folder / "extra_gendered_words.txt", "cowboy\tcowgirl\n")


def _write_holistic(folder):
    descriptors = {
        "ability": {"a": ["Deaf", {"descriptor": "hard-of-hearing"}, "blind"]},
        "nonce": {"b": ["blicket", {"descriptor": "umpty", "article": "a"}]},
        "gender": {"c": [{"descriptor": "Latino", "gender": "male"}]},
    }
    nouns = {"neutral": [["person", "people"], ["kid", "kids"]], "male": [["man", "men"]]}
    templates = {"I am {noun_phrase}.": {}, "I like {plural_noun_phrase}.": {}}
    for name, content in {
        "descriptors": descriptors,
        "nouns": nouns,
        "sentence_templates": templates,
    }.items():
        _write(folder / f"{name}.json", json.dumps(content))


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
