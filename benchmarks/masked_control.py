"""Pre-train a small BERT by masked words, on the very words of benchmarks/subword_control.py.

    python benchmarks/masked_control.py FOLDER --num_train_epochs 1 --learning_rate 1e-3

FOLDER holds the text and the pieces that benchmarks/subword_control.py wrote. The model is
transformers' `ModernBertForMaskedLM`, with as many parameters as the biLM has without its softmax:
the table of pieces, which is also the softmax, and six layers of width 256. It is trained by
transformers' Trainer and `DataCollatorForLanguageModeling`, with Muon for its matrices and without
dropout, as the biLMs are. The other options are those of TrainingArguments, and the same command
resumes an interrupted run.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np
import subword_control
import torch

from elmo_hf.analysis.sources import Words
from elmo_hf.pretraining.optimizer import MuonAdamW

# isort: split
from tokenizers.processors import TemplateProcessing
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DataCollatorForLanguageModeling,
    HfArgumentParser,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

LONGEST = 512  # pieces of the longest sentence
WINDOW = 256  # pieces of a training example
MASK, PADDING = "[MASK]", "[PAD]"
WIDTH, HEADS = 256, 4
NEAR = 32  # pieces that every second layer sees
RECIPE = {
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "save_steps": 500,
    "save_total_limit": 1,
    "logging_steps": 25,
    "prediction_loss_only": True,
}
ROWS = 256  # masked copies of sentences in a batch


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the pieces, with the marks that a masked language model needs."""
    bos, eos, unknown = subword_control.SPECIALS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=subword_control.load_splitter(folder),
        cls_token=bos,
        sep_token=eos,
        unk_token=unknown,
        mask_token=MASK,
        pad_token=PADDING,
        model_max_length=LONGEST,
        split_special_tokens=True,  # "a<S>b" stays one word
    )
    marks = [(mark, tokenizer.convert_tokens_to_ids(mark)) for mark in (bos, eos)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=marks
    )
    return tokenizer


def make_config(pieces: int, layers: int, parameters: int) -> ModernBertConfig:
    """Return a configuration with about so many parameters, for `load_tokenizer`'s pieces."""
    of_layer = (parameters - pieces * WIDTH) // layers - 4 * WIDTH**2
    return ModernBertConfig(
        vocab_size=pieces,
        hidden_size=WIDTH,
        intermediate_size=max(1, of_layer // (3 * WIDTH * 8)) * 8,
        num_attention_heads=HEADS,
        num_hidden_layers=layers,
        max_position_embeddings=LONGEST,
        local_attention=NEAR,
        global_attn_every_n_layers=2,
        sparse_prediction=True,  # logits of the masked pieces only
        **dict.fromkeys(["bos_token_id", "cls_token_id"], 0),
        **dict.fromkeys(["eos_token_id", "sep_token_id"], 1),
        pad_token_id=pieces - 2,
    )


def count_parameters(config: ModernBertConfig) -> int:
    """Return the number of parameters without the head, whose softmax is the table of pieces."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in ModernBertForMaskedLM(config).model.parameters())


def make_optimizer(
    model: ModernBertForMaskedLM, training: TrainingArguments, muon_learning_rate: float
) -> MuonAdamW:
    """Return Muon for the matrices of the layers, and AdamW for all else."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    taken = {*map(id, matrices)}
    others = [weight for weight in model.parameters() if id(weight) not in taken]
    return MuonAdamW(
        matrices,
        [{"params": others}],
        {"lr": muon_learning_rate, "weight_decay": training.weight_decay},
        {
            "lr": training.learning_rate,
            "weight_decay": training.weight_decay,
            "betas": (training.adam_beta1, training.adam_beta2),
            "fused": True,
        },
    )


def read_windows(tokenizer: PreTrainedTokenizerFast, file: Path) -> list[dict]:
    """Return the text as windows of pieces; what remains at the end is left out."""
    with file.open(encoding="utf-8") as lines:
        sentences = [line.split() for line in lines if line.strip()]
    ids = tokenizer(sentences, is_split_into_words=True, truncation=True)["input_ids"]
    joined = np.fromiter(itertools.chain.from_iterable(ids), np.int64)
    usable = len(joined) // WINDOW * WINDOW
    return [{"input_ids": window} for window in joined[:usable].reshape(-1, WINDOW)]


def train(given: argparse.Namespace, training: TrainingArguments) -> None:
    """Train the model, or what remains to train, and save it in the folder."""
    set_seed(training.seed)
    tokenizer = load_tokenizer(given.folder)
    bilm = subword_control.encoder_config(subword_control.CONFIG | json.loads(given.config))
    parameters = sum(subword_control.count_parameters(bilm).values())
    model = ModernBertForMaskedLM(make_config(len(tokenizer), given.layers, parameters))
    counts = f"{count_parameters(model.config):,} parameters, the biLM has {parameters:,}"
    print(f"BERT: {counts}", flush=True)
    trainer = Trainer(
        model,
        training,
        optimizers=(make_optimizer(model, training, given.muon_learning_rate), None),
        data_collator=DataCollatorForLanguageModeling(tokenizer),
        train_dataset=read_windows(tokenizer, given.folder / "characters-train.txt"),
        eval_dataset=read_windows(tokenizer, given.folder / "characters-valid.txt"),
        processing_class=tokenizer,
    )
    started = any(Path(training.output_dir).glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=started or None)
    print(f"loss of masked pieces in held-out text: {trainer.evaluate()['eval_loss']:.3f}")
    trainer.save_model()
    trainer.save_state()


@torch.inference_mode()
def score_sentences(
    model: ModernBertForMaskedLM, tokenizer: PreTrainedTokenizerFast, sentences: Iterable[Words]
) -> Iterator[tuple[float, bool]]:
    """
    Yield the pseudo-log-likelihood of each sentence, and whether a piece of it is unknown.

    Each piece is predicted with itself and the later pieces of its word masked, the variant
    "within word, left to right" of Kauf and Ivanova 2023 (https://aclanthology.org/2023.acl-short.80).
    """
    numbered = iter(sentences)
    while block := [*itertools.islice(numbered, ROWS)]:
        encodings = [tokenizer([*words], is_split_into_words=True) for words in block]
        rows, targets = [], []
        for encoding in encodings:
            owners, ids = encoding.word_ids(0), torch.tensor(encoding["input_ids"])
            for place, owner in enumerate(owners):
                if owner is not None:
                    later = [i for i, one in enumerate(owners) if one == owner and i >= place]
                    rows.append(ids.index_fill(0, torch.tensor(later), tokenizer.mask_token_id))
                    targets.append((place, int(ids[place])))
        scores = torch.empty(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # little padding
        for start in range(0, len(rows), ROWS):
            chosen = order[start : start + ROWS]
            scores[chosen] = _score_rows(
                model,
                tokenizer.pad_token_id,
                [rows[i] for i in chosen],
                [targets[i] for i in chosen],
            )
        pieces = [sum(owner is not None for owner in one.word_ids(0)) for one in encodings]
        for encoding, part in zip(encodings, scores.split(pieces), strict=True):
            unknown = tokenizer.unk_token_id in encoding["input_ids"]
            yield float(part.double().sum()), unknown


def _score_rows(
    model: ModernBertForMaskedLM,
    padding: int,
    rows: list[torch.Tensor],
    targets: list[tuple[int, int]],
) -> torch.Tensor:
    """Return the log-probability of one target, a place and an id, in each row."""
    ids = pad_sequence(rows, batch_first=True, padding_value=padding)
    places, wanted = torch.tensor(targets).unbind(1)
    hidden = model.model(ids, attention_mask=ids.ne(padding)).last_hidden_state
    chosen = hidden[torch.arange(len(ids)), places]  # (rows, hidden_size)
    logits = model.decoder(model.head(chosen))
    return logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]


def parse_arguments(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, TrainingArguments]:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="All other options are those of transformers' TrainingArguments.",
    )
    parser.add_argument("folder", type=Path, help="folder of benchmarks/subword_control.py")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--muon_learning_rate", type=float, default=0.02)
    parser.add_argument("--config", default="{}", help="the --config of subword_control.py")
    given, more = parser.parse_known_args(arguments)
    recipe = [part for name, value in RECIPE.items() for part in (f"--{name}", str(value))]
    output = ["--output_dir", str(given.folder / subword_control.MASKED)]
    (training,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(
        [*recipe, *output, *more]
    )
    return given, training


def main(arguments: Sequence[str] | None = None) -> int:
    given, training = parse_arguments(arguments)
    if not (given.folder / "settings.json").is_file():
        print(
            f"error: {given.folder} has no text; write it with python benchmarks/"
            f"subword_control.py characters {given.folder} --text FILES --valid FILES",
            file=sys.stderr,
        )
        return 1
    train(given, training)
    return 0


if __name__ == "__main__":
    sys.exit(main())
