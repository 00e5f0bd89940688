"""Convert weights from the original format and compare the vectors of "bank" in ten sentences.

Run it with `make demo`; it needs no network.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

import elmo_hf  # noqa: F401  (registers the model)
from elmo_hf.conversion.convert import convert, convert_back

TRAINED = Path(__file__).resolve().parent.parent / "checkpoints/elmo-small-en"
SENTENCES = {
    "river": [
        "We sat on the bank of the river and fished.",
        "The river burst its bank after the storm.",
        "They rowed to the far bank and pulled the boat ashore.",
        "Willows grew along the bank of the stream.",
        "The village lies on the left bank of the Danube.",
    ],
    "money": [
        "The bank lent him money for a house.",
        "She opened an account at the bank.",
        "The bank raised its interest rates again.",
        "He worked as a clerk in a bank in London.",
        "The central bank sold its gold.",
    ],
}


def original_checkpoint(folder: Path) -> Path:
    """Write the trained model of checkpoints/ in the original format, as bilm-tf would."""
    convert_back(TRAINED, folder / "original")
    return folder / "original"


def vectors_of(word: str, sentences: list[str], model, tokenizer) -> torch.Tensor:
    """Return the word's vector in each sentence and layer, `(layers, sentences, hidden_size)`."""
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    print(f"input_ids {tuple(inputs['input_ids'].shape)}: sentences, words, characters")
    print(f"hidden_states: {len(hidden_states)} layers of {tuple(hidden_states[0].shape)}\n")
    rows = range(len(sentences))
    places = [inputs.tokens(row).index(word) for row in rows]
    return torch.stack([layer[rows, places] for layer in hidden_states])


def print_similarities(vectors: torch.Tensor, senses: list[str]) -> None:
    """Print the mean cosine of vectors of the same sense and of different senses, per layer."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    same = torch.tensor([[a == b for b in senses] for a in senses])
    other = ~torch.eye(len(senses), dtype=torch.bool)
    print('"bank", mean cosine of pairs    same sense  two senses  nearest has the same sense')
    for number, layer in enumerate(cosines):
        nearest = layer.masked_fill(~other, -1).argmax(1)
        right = sum(senses[i] == senses[j] for i, j in enumerate(nearest))
        name = "characters alone" if number == 0 else f"biLSTM {number}"
        means = f"{layer[same & other].mean():10.3f}  {layer[~same].mean():10.3f}"
        score = "all are equal" if number == 0 else f"{right} of {len(senses)}"
        print(f"layer {number} ({name}):".ljust(30), means, f"  {score}")


def main() -> None:
    """Write original files, convert and verify them, load the result, and look at one word."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        original = original_checkpoint(Path(scratch))
        print("original files:", ", ".join(sorted(path.name for path in original.iterdir())))
        folder = Path(scratch) / "elmo"
        for difference in convert(original, folder)["verification"]["differences"]:
            print("verified", difference["name"], f"to {difference['largest']:.0e}")
        model = AutoModel.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        print(f"\n{type(model).__name__} with {model.num_parameters():,} parameters")
        sentences = [sentence for group in SENTENCES.values() for sentence in group]
        vectors = vectors_of("bank", sentences, model, tokenizer)
    for sense, group in SENTENCES.items():
        print(f"{sense}:", *group, sep="\n  ")
    print_similarities(vectors, [sense for sense, group in SENTENCES.items() for _ in group])
    print(
        "\nThe weights are those of checkpoints/elmo-small-en, trained with examples/pretrain.py."
        "\nFor published weights see python -m conversion.fetch --list; for your own files use"
        "\npython -m conversion.convert SOURCE OUTPUT. Then AutoModel.from_pretrained(OUTPUT)."
    )


if __name__ == "__main__":
    main()
