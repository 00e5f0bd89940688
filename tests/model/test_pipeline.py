"""Pipelines: ours for tagging words, the stock ones for everything else."""

import itertools
import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    BertTokenizer,
    FillMaskPipeline,
    TokenClassificationPipeline,
    pipeline,
)

from elmo_hf import (
    ElmoConfig,
    ElmoFillMaskPipeline,
    ElmoForPreTraining,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenClassificationPipeline,
    ElmoTokenizer,
    fill_gaps,
)

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
NAMES = {0: "O", 1: "B-PER", 2: "I-PER"}
TEXT = "Ada Lovelace didn't sleep."
TOKENIZER = ElmoTokenizer()


class FixedTags(ElmoForTokenClassification):
    """Tags every word that begins with a capital letter, the first of them as the beginning."""

    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids, **kwargs)
        capital = (input_ids[..., 1] > ord("A")) & (input_ids[..., 1] <= ord("Z") + 1)
        begins = capital & ~capital.roll(1, 1)
        tags = begins.long() + 2 * (capital & ~begins)
        output.logits = torch.nn.functional.one_hot(tags, 3).float() * 9
        return output


def tagger(model_class=FixedTags, **kwargs):
    torch.manual_seed(0)
    model = model_class(ElmoConfig(**TINY, id2label=NAMES)).eval()
    return pipeline("token-classification", model=model, tokenizer=TOKENIZER, **kwargs)


def test_words_are_tagged_with_their_place_in_the_text():
    found = tagger(ignore_labels=[])(TEXT)
    assert [one["word"] for one in found] == ["Ada", "Lovelace", "did", "n't", "sleep", "."]
    assert [TEXT[one["start"] : one["end"]] for one in found] == [one["word"] for one in found]
    assert [one["entity"] for one in found] == ["B-PER", "I-PER", "O", "O", "O", "O"]
    assert [one["index"] for one in found] == [1, 2, 3, 4, 5, 6]
    assert found[0]["score"] > 0.99


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_every_strategy_groups_words_to_entities(strategy, recwarn):
    (found,) = tagger(aggregation_strategy=strategy)(TEXT)
    assert (found["entity_group"], found["word"]) == ("PER", "Ada Lovelace")
    assert TEXT[found["start"] : found["end"]] == "Ada Lovelace"
    assert not [w for w in recwarn if "real words" in str(w.message)]


def test_batches_and_split_words_give_the_same_as_one_text_alone():
    tag = tagger(ElmoForTokenClassification, aggregation_strategy="none", ignore_labels=[])
    texts = [TEXT, "Yes"]
    together = tag(texts, batch_size=2)
    for text, found in zip(texts, together, strict=True):
        for one, alone in zip(found, tag(text), strict=True):
            assert one["score"] == pytest.approx(alone["score"], abs=1e-5)
            assert one["start"] == alone["start"] and one["word"] == alone["word"]
    words = ["Ada", "Lovelace", "did", "n't", "sleep", "."]
    (split,) = tag([words], is_split_into_words=True)
    assert [one["word"] for one in split] == words
    joined = " ".join(words)
    assert [joined[one["start"] : one["end"]] for one in split] == words
    for one, alone in zip(split, tag(TEXT), strict=True):
        assert one["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_long_texts_are_read_in_overlapping_parts():
    tag = tagger(stride=2, aggregation_strategy="simple")
    tag.tokenizer = ElmoTokenizer(model_max_length=8)
    text = "rain fell and Ada Lovelace slept until Charles Babbage came home again"
    found = tag(text)
    assert [one["word"] for one in found] == ["Ada Lovelace", "Charles Babbage"]


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_a_crf_decodes_in_the_pipeline_and_scores_are_marginal_probabilities(strategy, tmp_path):
    torch.manual_seed(0)
    config = ElmoConfig(**TINY, id2label=NAMES, use_crf=True, tagging_scheme="BIO")
    model = ElmoForTokenClassification(config).eval()
    model.crf.transitions.data.normal_(std=0.5)
    model.classifier.weight.data.normal_(std=9)
    inputs = TOKENIZER(TEXT, return_tensors="pt")
    tags = model.decode(**inputs)[0, 1:-1]
    marginals = model.log_marginals(model(**inputs).logits, **inputs)[0, 1:-1].exp()
    expected = marginals.gather(1, tags[:, None])[:, 0].tolist()
    # The best tagging's tag is not always the word's likeliest: the case that is hard to get right.
    assert not torch.equal(tags, marginals.argmax(1)) and 0.2 < min(expected) < 0.6
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    options = {"aggregation_strategy": strategy, "ignore_labels": []}
    tag = pipeline("ner", model=str(tmp_path), **options)
    for found in (tag(TEXT), tag(["No", TEXT], batch_size=2)[1]):
        if strategy == "none":
            assert [one["entity"] for one in found] == [NAMES[one] for one in tags.tolist()]
            assert [one["score"] for one in found] == pytest.approx(expected, abs=1e-5)
        else:
            kinds = [NAMES[one][2:] or "O" for one in tags.tolist()]
            groups = [one["entity_group"] for one in found]
            assert [kind for kind, _ in itertools.groupby(kinds)] == [
                kind for kind, _ in itertools.groupby(groups)
            ]


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-PER E-PER O S-PER", ["Ada Lovelace", "Mary"]),
        ("B-PER I-PER E-PER S-PER", ["Ada Lovelace met", "Mary"]),
        ("S-PER S-PER S-PER S-PER", ["Ada", "Lovelace", "met", "Mary"]),
    ],
)
def test_entities_of_a_bioes_tagger_are_whole(tags, entities):
    names = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    model = ElmoForTokenClassification(ElmoConfig(**TINY, id2label=dict(enumerate(names))))
    ids = torch.tensor([0, *map(names.index, tags.split()), 0])
    logits = torch.nn.functional.one_hot(ids, len(names)).float()[None] * 9
    model.register_forward_hook(lambda *args: args[-1].__setitem__("logits", logits))
    found = pipeline("ner", model=model.eval(), tokenizer=TOKENIZER, aggregation_strategy="simple")(
        "Ada Lovelace met Mary"
    )
    assert [(one["word"], one["entity_group"]) for one in found] == [(e, "PER") for e in entities]


def test_other_models_get_the_stock_pipeline(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n")
    tiny = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 6}
    bert = BertForTokenClassification(BertConfig(num_hidden_layers=1, **tiny))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    tag = pipeline("token-classification", model=bert, tokenizer=tokenizer)
    assert type(tag) is TokenClassificationPipeline and len(tag("hello hello")) == 2
    elmo = tagger(ElmoForTokenClassification)
    assert type(elmo) is ElmoTokenClassificationPipeline
    elmo.save_pretrained(tmp_path / "saved")
    assert "custom_pipelines" not in (tmp_path / "saved/config.json").read_text()


def test_gaps_are_filled_whatever_their_sign(tmp_path):
    torch.manual_seed(0)
    words = ["<S>", "</S>", "<UNK>", "the", "river", "bank", "."]
    tokenizer = ElmoTokenizer(lm_vocab=words)
    ElmoForPreTraining(ElmoConfig(**TINY, lm_vocab_size=len(words))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fill = pipeline("fill-mask", model=str(tmp_path), top_k=2, batch_size=2)
    assert type(fill) is ElmoFillMaskPipeline
    (gap,) = fill_gaps(fill.model, tokenizer, "the ___.", top=2)
    expected = [
        {
            "score": math.exp(one.both),
            "token": words.index(one.word),
            "token_str": one.word,
            "sequence": f"the {one.word}.",
            "forward": one.forward,
            "backward": one.backward,
        }
        for one in gap.candidates
    ]
    assert fill("the ___.") == fill("the [MASK].") == expected
    first, second = fill(["the <mask>.", "___ ___"], top_k=1)
    assert first == expected[:1]
    assert [gap[0]["sequence"] for gap in second] == [
        f"{second[0][0]['token_str']} ___",
        f"___ {second[1][0]['token_str']}",
    ]
    found = fill("the ___.", targets=["bank", "river"])
    assert sum(one["score"] for one in found) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"lacks \['brook'\]"):
        fill("the ___.", targets="brook")
    with pytest.raises(ValueError, match="has no gap; write ___"):
        fill(f"the {tokenizer.mask_token}.")
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()


def test_a_model_of_one_direction_fills_from_the_left():
    words = ["<S>", "</S>", "<UNK>", "the", "river"]
    model = ElmoForPreTraining(ElmoConfig(**TINY, lm_vocab_size=len(words), bidirectional=False))
    tokenizer = ElmoTokenizer(lm_vocab=words)
    best, _ = pipeline("fill-mask", model=model.eval(), tokenizer=tokenizer)("the ___")
    assert best["backward"] is None and best["score"] == pytest.approx(math.exp(best["forward"]))


def test_other_models_fill_masks_as_before(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n")
    tiny = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 6}
    BertForMaskedLM(BertConfig(num_hidden_layers=1, **tiny)).save_pretrained(tmp_path)
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    fill = pipeline("fill-mask", model=str(tmp_path))
    assert type(fill) is FillMaskPipeline and len(fill("hello [MASK]")) == 5


def test_bert_auto_classes_name_the_right_one():
    config = ElmoConfig(**TINY, lm_vocab_size=5)
    for auto_class in (AutoModelForMaskedLM, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="Load it with AutoModelForPreTraining"):
            auto_class.from_config(config)


def test_the_stock_pipelines_take_elmo(tmp_path):
    torch.manual_seed(0)
    labels = {"contradiction": 0, "neutral": 1, "entailment": 2}
    config = ElmoConfig(**TINY, label2id=labels, id2label={i: name for name, i in labels.items()})
    ElmoForSequenceClassification(config).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    folder = str(tmp_path)
    features = pipeline("feature-extraction", model=folder)(TEXT, return_tensors=True)
    inputs = TOKENIZER(TEXT, return_tensors="pt")
    expected = ElmoModel.from_pretrained(folder)(**inputs).last_hidden_state
    torch.testing.assert_close(features, expected)
    classify = pipeline("text-classification", model=folder, top_k=None)
    (alone,) = classify(TEXT)
    batch = classify([TEXT, "Yes"], batch_size=2)[0]
    assert sum(one["score"] for one in alone) == pytest.approx(1)
    assert [one["label"] for one in alone] == [one["label"] for one in batch]
    pair = classify({"text": TEXT, "text_pair": "She slept."})
    assert len(pair) == 3
    zero_shot = pipeline("zero-shot-classification", model=folder)
    found = zero_shot(TEXT, candidate_labels=["people", "weather"])
    assert sum(found["scores"]) == pytest.approx(1)
    assert sorted(found["labels"]) == ["people", "weather"]
