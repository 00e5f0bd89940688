"""Pre-train a small BERT by masked words, on the very words of benchmarks/subword_control.py.

    python benchmarks/masked_control.py FOLDER --num_train_epochs 1 --learning_rate 1e-3

FOLDER holds the text and the pieces that benchmarks/subword_control.py wrote. The model is
transformers' `ElectraForMaskedLM`, a BERT whose table of pieces is narrower than its layers. It is
trained by transformers' Trainer and `DataCollatorForLanguageModeling`, without dropout as the
biLMs are. Its table has at most as many parameters as the character encoder, and six layers have
as many as the LSTMs. The other options are those of TrainingArguments, and the same command resumes
an interrupted run.
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
from torch import nn

from elmo_hf.analysis.sources import Words

# isort: split
from tokenizers.processors import TemplateProcessing
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DataCollatorForLanguageModeling,
    ElectraConfig,
    ElectraForMaskedLM,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import MaskedLMOutput

LONGEST = 512  # pieces of the longest sentence
WINDOW = 256  # pieces of a training example
MASK, PADDING = "[MASK]", "[PAD]"
WIDTHS = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
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


def make_config(pieces: int, layers: int, room: int) -> ElectraConfig:
    """Return the configuration whose table of pieces has at most `room` parameters."""
    width = (room - WIDTHS["hidden_size"]) // (pieces + LONGEST + 3 + WIDTHS["hidden_size"])
    return ElectraConfig(
        vocab_size=pieces,
        embedding_size=max(1, width),
        num_hidden_layers=layers,
        max_position_embeddings=LONGEST,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **WIDTHS,
    )


def count_parameters(config: ElectraConfig) -> dict[str, int]:
    """Return the number of parameters of the table and of the layers, without the softmax."""
    with torch.device("meta"):
        model = ElectraForMaskedLM(config).electra
    layers = sum(weight.numel() for weight in model.encoder.parameters())
    return {
        "input": sum(weight.numel() for weight in model.parameters()) - layers,
        "layers": layers,
    }


class MaskedBert(ElectraForMaskedLM):
    """Class whose loss needs the logits of the masked pieces only, which saves half of the time."""

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> MaskedLMOutput:
        hidden = self.electra(input_ids, attention_mask).last_hidden_state
        masked = labels.ne(-100)
        logits = self.generator_lm_head(self.generator_predictions(hidden[masked]))
        return MaskedLMOutput(loss=nn.functional.cross_entropy(logits.float(), labels[masked]))


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
    encoder = subword_control.encoder_config(subword_control.CONFIG | json.loads(given.config))
    room = subword_control.count_parameters(encoder)["input"]
    config = make_config(len(tokenizer), given.layers, room)
    counts = (f"{name} {number:,}" for name, number in count_parameters(config).items())
    print(f"BERT: parameters: {', '.join(counts)}", flush=True)
    trainer = Trainer(
        MaskedBert(config),
        training,
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
    model: ElectraForMaskedLM, tokenizer: PreTrainedTokenizerFast, sentences: Iterable[Words]
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
        scores = torch.cat([*_score_rows(model, tokenizer.pad_token_id, rows, targets)])
        pieces = [sum(owner is not None for owner in one.word_ids(0)) for one in encodings]
        for encoding, part in zip(encodings, scores.split(pieces), strict=True):
            unknown = tokenizer.unk_token_id in encoding["input_ids"]
            yield float(part.double().sum()), unknown


def _score_rows(
    model: ElectraForMaskedLM,
    padding: int,
    rows: list[torch.Tensor],
    targets: list[tuple[int, int]],
) -> Iterator[torch.Tensor]:
    """Yield the log-probabilities of one target, a place and an id, in each row."""
    for start in range(0, len(rows), ROWS):
        ids = pad_sequence(rows[start : start + ROWS], batch_first=True, padding_value=padding)
        places, wanted = torch.tensor(targets[start : start + ROWS]).unbind(1)
        hidden = model.electra(ids, attention_mask=ids.ne(padding)).last_hidden_state
        chosen = hidden[torch.arange(len(ids)), places]  # (rows, hidden_size)
        logits = model.generator_lm_head(model.generator_predictions(chosen))
        yield logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]


def parse_arguments(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, TrainingArguments]:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="All other options are those of transformers' TrainingArguments.",
    )
    parser.add_argument("folder", type=Path, help="folder of benchmarks/subword_control.py")
    parser.add_argument("--layers", type=int, default=6)
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
