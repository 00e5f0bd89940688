r"""Embed the lines of a text file with several processes or machines, by Ray Data.

    python examples/embed_with_ray.py checkpoints/elmo-small-en text.txt vectors --workers 2

writes Parquet files with the columns id (number of the line), text, and vector: a list with a
vector per word. On a cluster, run it on the head node; OUTPUT and the model must then be folders
that all nodes see. For more text than fits in memory, store it as Parquet with the columns id and
text, and read it with `ray.data.read_parquet`.
"""

import argparse
import os

import pyarrow
import ray
import ray.data

from elmo_hf import ElmoEmbedder
from elmo_hf.text_files import read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("text", help="text file with one sentence per line")
    parser.add_argument("output", help="new folder for the Parquet files")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--layers", default="average", help="average, top, all or mix")
    options = parser.parse_args()
    settings = {"model": os.path.abspath(options.model), "layers": options.layers}
    ElmoEmbedder(**settings)  # a wrong argument fails here, not in a worker
    lines = [*read_lines(options.text)]
    ray.init(ignore_reinit_error=True)
    table = pyarrow.table({"id": range(len(lines)), "text": lines})
    blocks = [table.slice(start, 1024) for start in range(0, len(table), 1024)]
    vectors = ray.data.from_arrow(blocks).map_batches(
        ElmoEmbedder,
        fn_constructor_kwargs=settings,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_cpus=0.9,  # leaves room for the tasks that write
        batch_size=1024,
        batch_format="pyarrow",  # other programs can read the Parquet files
    )
    vectors.write_parquet(os.path.abspath(options.output), ray_remote_args={"num_cpus": 0.1})
    ray.shutdown()


if __name__ == "__main__":
    main()
