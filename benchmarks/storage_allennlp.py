"""Write vectors as AllenNLP's `embed_file` does: batches of 64 in the order of the file, to HDF5.

python storage_allennlp.py MODEL_FOLDER TEXT OUT.hdf5 THREADS
"""

import json
import sys
import time
from pathlib import Path

import h5py
import speed_allennlp
import torch

BATCH_SIZE = 64


def main() -> None:
    folder, text, output, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    sentences = [line.split() for line in Path(text).read_text().splitlines()]
    forward, _ = speed_allennlp.load(folder, "float32")
    begin = time.perf_counter()
    with torch.no_grad(), h5py.File(output, "w") as file:
        for start in range(0, len(sentences), BATCH_SIZE):
            batch = sentences[start : start + BATCH_SIZE]
            layers, _ = forward(batch)
            for number, words in enumerate(batch):
                file.create_dataset(
                    str(start + number), data=layers[-1][number, 1 : len(words) + 1].numpy()
                )
    seconds = time.perf_counter() - begin
    print(json.dumps({"allennlp_words_per_second": round(sum(map(len, sentences)) / seconds)}))


if __name__ == "__main__":
    main()
