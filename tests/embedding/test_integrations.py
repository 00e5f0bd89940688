"""PEFT and sentence-transformers take ELMo as they take every other model."""

import pytest
import torch

from elmo_hf import (
    ElmoConfig,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
SENTENCES = ["rain fell", "the river does not stop"]
TOKENIZER = ElmoTokenizer()
LSTM_MAPS = ["input_map", "recurrent_map", "output_map"]


def tagger():
    torch.manual_seed(0)
    return ElmoForTokenClassification(ElmoConfig(**TINY, num_labels=3, use_crf=True)).eval()


def tune(model, **labels):
    """Take one large step with whatever is trainable; return the names."""
    model.train()
    model(**TOKENIZER(SENTENCES, padding=True, return_tensors="pt"), **labels).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(parameter.grad is not None for parameter in trained.values())
    for parameter in trained.values():
        parameter.data -= parameter.grad
    model.eval()
    return trained.keys()


def logits(model):
    with torch.no_grad():
        return model(**TOKENIZER(SENTENCES, padding=True, return_tensors="pt")).logits


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_on_the_lstms_trains_saves_loads_and_merges(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        task_type=peft.TaskType.TOKEN_CLS,
        r=2,
        target_modules=LSTM_MAPS,
        modules_to_save=["scalar_mix", "classifier", "crf"],
    )
    model = peft.get_peft_model(tagger(), config)
    torch.testing.assert_close(logits(model), logits(tagger()))  # B of the adapters is zero
    trained = tune(model, labels=torch.tensor([[-100, 1, 2, -100, -100, -100, -100], [1] * 7]))
    for part in (*LSTM_MAPS, "scalar_mix", "crf"):
        assert any(part in name for name in trained)
    tuned = logits(model)
    assert not torch.allclose(tuned, logits(tagger()), atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(tagger(), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), tuned)
    merged = model.merge_and_unload()
    assert type(merged) is ElmoForTokenClassification
    torch.testing.assert_close(logits(merged), tuned)
    merged.save_pretrained(tmp_path / "merged")
    loaded = ElmoForTokenClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded), tuned)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_lora_on_the_head_leaves_the_biLM_frozen():
    peft = pytest.importorskip("peft")
    head = ElmoForSequenceClassification(ElmoConfig(**TINY, num_labels=3))
    config = peft.LoraConfig(r=2, target_modules=["classifier"], modules_to_save=["scalar_mix"])
    trained = tune(peft.get_peft_model(head, config), labels=torch.tensor([0, 2]))
    assert len(trained) == 4 and not any(".elmo." in name for name in trained)


@pytest.mark.slow
def test_sentence_transformers_encode_train_save_and_load(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    datasets = pytest.importorskip("datasets")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**TINY, dropout=0)).save_pretrained(tmp_path / "elmo")
    TOKENIZER.save_pretrained(tmp_path / "elmo")
    model = library.SentenceTransformer(str(tmp_path / "elmo"), device="cpu")

    inputs = TOKENIZER(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        top = ElmoModel.from_pretrained(tmp_path / "elmo")(**inputs).last_hidden_state
    weights = inputs.attention_mask[..., None]
    expected = (top * weights).sum(1) / weights.sum(1)
    torch.testing.assert_close(model.encode(SENTENCES, convert_to_tensor=True), expected)
    alone = model.encode(SENTENCES[:1], convert_to_tensor=True)
    torch.testing.assert_close(alone, expected[:1])

    pairs = {"anchor": ["rain fell", "a hill", "Ada slept", "no"]}
    pairs["positive"] = ["it rained", "a mountain", "she slept", "never"]
    data = datasets.Dataset.from_dict(pairs)
    loss = MultipleNegativesRankingLoss(model)
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        num_train_epochs=40,
        learning_rate=0.02,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        eval_strategy="no",
    )
    trainer = library.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data, loss=loss
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 2

    model.save_pretrained(str(tmp_path / "saved"))
    again = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(
        again.encode(SENTENCES, convert_to_tensor=True),
        model.encode(SENTENCES, convert_to_tensor=True),
    )
