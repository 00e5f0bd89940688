"""Store a pre-trained checkpoint at half its size, in a folder that can be shared.

    python examples/pack.py RUN/checkpoint-1000 OUTPUT [--text held-out.txt]

The weights are stored in bfloat16. `from_pretrained` converts them to float32, the dtype in
config.json, unless another one is requested. --text prints the perplexity before and after.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from training_script import check_model, one_line_errors

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.scoring import perplexity, score_sentences
from elmo_hf.text_files import read_lines


def pack(source, output):
    """Write the folder completely or not at all."""
    if output.exists():
        raise ValueError(f"{output} exists already; name a new folder, or remove it first")
    check_model(str(source), "SOURCE")
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    tokenizer = ElmoTokenizer.from_pretrained(source)
    ElmoForPreTraining.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    config = json.loads((part / "config.json").read_text())
    config["dtype"] = "float32"
    (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    part.rename(output)


def measure(folder, text):
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    model = ElmoForPreTraining.from_pretrained(folder).eval()
    sentences = [line.strip() for line in read_lines(text) if line.strip()]
    return perplexity(score_sentences(model, tokenizer, sentences)).mean


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="checkpoint of examples/pretrain.py")
    parser.add_argument("output", type=Path, help="folder to write; it must be new")
    parser.add_argument("--text", type=Path, help="held-out text, one sentence per line")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        if arguments.text and not arguments.text.is_file():
            raise ValueError(f"--text {arguments.text}: there is no such file")
        pack(arguments.source, arguments.output)
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{arguments.output}: {size / 1e6:.1f} MB")
    if arguments.text:
        before, after = (
            measure(folder, arguments.text) for folder in (arguments.source, arguments.output)
        )
        print(f"perplexity {before:.3f} before, {after:.3f} after")


if __name__ == "__main__":
    main()
