"""Stored vectors are those of the embedder, in order, in every format, and damage is noticed."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.storage import open_vectors, write_vectors
from elmo_hf.storage.files import new_file
from elmo_hf.storage.shards import ShardFile

FORMATS = ["", ".hdf5", ".npz", ".parquet"]
INTERRUPTED = "the process was killed here"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(path, embedder, sentences, **options):
    return write_vectors(path, embedder, sentences, sentences_per_shard=16, **options)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("layers", ["average", "all", 0])
def test_vectors_and_words_are_read_by_index(tmp_path, embedder_of, sentences, ending, layers):
    embedder = embedder_of(layers=layers)
    expected = list(embedder.embed(sentences))
    words = [sentence.split() for sentence in sentences]
    with write(tmp_path / f"vectors{ending}", embedder, words) as vectors:
        assert len(vectors) == len(sentences) and vectors.info["dimension"] == 16
        for index, (found, one) in enumerate(zip(vectors, expected, strict=True)):
            assert found.dtype == np.float32 and found.shape == one.shape
            np.testing.assert_allclose(found, one, atol=1e-6, rtol=0)
            assert vectors.words(index) == words[index]
        np.testing.assert_array_equal(vectors[-1], vectors[np.int64(49)])
        for beyond in (50, -51):
            with pytest.raises(IndexError, match="has 50 sentences"):
                vectors[beyond]
        again = pickle.loads(pickle.dumps(vectors))
        np.testing.assert_array_equal(again[7], vectors[7])
        loader = DataLoader(vectors, batch_size=None, num_workers=2)
        for found, one in zip(loader, vectors, strict=True):
            np.testing.assert_array_equal(found, one)
    with pytest.raises(ValueError, match="is closed"):
        vectors[0]


@pytest.mark.parametrize("ending", FORMATS)
def test_pooled_vectors_are_those_of_encode(tmp_path, embedder_of, sentences, ending):
    embedder = embedder_of(layers=[2, 0], pooling="max")
    stored = write(tmp_path / f"v{ending}", embedder, sentences, pooling="max", dtype="float16")
    found = np.stack(list(stored))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, embedder.encode(sentences), atol=1e-3)


def test_texts_are_split_by_the_tokenizer(tmp_path, embedder_of):
    text = 'I don\'t: "<S>" \ud7ff.'
    vectors = write(tmp_path / "v", embedder_of(), [text, "A"])
    assert vectors.words(0)[:4] == ["I", "do", "n't", ":"]
    np.testing.assert_allclose(vectors[0], next(embedder_of().embed([text])), atol=1e-6)
    odd = ["two words", "", "über"]
    assert write(tmp_path / "words", embedder_of(), [odd]).words(0) == odd
    bare = write(tmp_path / "bare", embedder_of(), [text], words=False)
    with pytest.raises(ValueError, match="has no words of sentence 0"):
        bare.words(0)


def test_old_code_reads_the_hdf5_file(tmp_path, embedder_of):
    lines = ["The first one .", "A / second one .", ""]
    words = [line.split() for line in lines]
    write(tmp_path / "v.hdf5", embedder_of(layers="all"), words)
    with h5py.File(tmp_path / "v.hdf5") as file:
        index = json.loads(file["sentence_to_index"][0])
        assert index == {"The first one .": "0", "A / second one .": "1", "": "2"}
        assert file[index["A / second one ."]].shape == (3, 5, 16)
    write(tmp_path / "keys.hdf5", embedder_of(), words[:2], sentence_keys=True)
    write(tmp_path / "bare.hdf5", embedder_of(), words, forget_sentences=True)
    with h5py.File(tmp_path / "keys.hdf5") as keys, h5py.File(tmp_path / "bare.hdf5") as bare:
        np.testing.assert_array_equal(keys["A / second one ."], bare["1"])
        assert sorted(bare) == ["0", "1", "2"]
    with pytest.raises(ValueError, match="does not name its datasets 0, 1"):
        open_vectors(tmp_path / "keys.hdf5")
    with pytest.raises(ValueError, match="sentence 1 is there twice: 'a'"):
        write(tmp_path / "twice.hdf5", embedder_of(), [["a"], ["a"]], sentence_keys=True)
    assert not (tmp_path / "twice.hdf5").exists()


def test_parquet_and_text_are_read_by_other_programs(tmp_path, embedder_of):
    write(tmp_path / "v.parquet", embedder_of(), ["One two", "three"])
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["text"] for row in table] == ["One two", "three"]
    assert table[0]["words"] == ["One", "two"] and len(table[0]["vector"][1]) == 16
    assert write(tmp_path / "v.txt", embedder_of(layers="all"), ["One two", "", "three"]) is None
    lines = (tmp_path / "v.txt").read_text().split("\n")
    assert [line.split(" ")[0] for line in lines] == ["One", "two", "", "", "three", "", ""]
    assert {len(line.split(" ")) for line in lines} == {1, 49}
    with pytest.raises(ValueError, match="'a b' has white space"):
        write(tmp_path / "w.txt", embedder_of(), [["a b"]])


# --- The same bytes ---


def test_bytes_do_not_depend_on_workers_threads_parts_or_interruptions(
    tmp_path, embedder_of, sentences
):
    write(tmp_path / "one", embedder_of(workers=1), sentences)
    expected = contents(tmp_path / "one")
    assert len(expected) == 5
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for workers in (2, 3):
            write(tmp_path / f"{workers}", embedder_of(workers=workers), sentences)
            assert contents(tmp_path / f"{workers}") == expected
    finally:
        torch.set_num_threads(threads)

    def stop_at(sentences_done):
        done = []

        def progress(count, words):
            done.extend([words] * count)
            if len(done) > sentences_done:
                raise KeyboardInterrupt(INTERRUPTED)

        return progress

    for stop in (40, 20, 3):
        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt, match=INTERRUPTED):
            write(folder, embedder_of(workers=2), sentences, progress=stop_at(stop))
        assert len(contents(folder) if folder.exists() else ()) == stop // 16
        if stop >= 16:
            with pytest.raises(ValueError, match=r"is unfinished.*: all after shard"):
                open_vectors(folder)
        write(folder, embedder_of(workers=1), sentences, resume=True)
        assert contents(folder) == expected


def test_parts_join_to_one_run(tmp_path, embedder_of, sentences):
    write(tmp_path / "one", embedder_of(), sentences)
    joined = tmp_path / "joined"
    assert write(joined, embedder_of(), sentences, part=(2, 3)) is None
    with pytest.raises(ValueError, match=r"is unfinished.*: shards 0, 1;"):
        open_vectors(joined)
    with pytest.raises(FileExistsError, match="resume"):
        write(joined, embedder_of(), sentences, part=(2, 3))
    assert write(joined, embedder_of(), sentences, part=(0, 3)) is None
    assert len(write(joined, embedder_of(), sentences, part=(1, 3))) == 50
    assert contents(joined) == contents(tmp_path / "one")
    # Parts that were written on separate disks are copied together.
    (joined / "index.json").unlink()
    with open_vectors(joined) as vectors:
        assert len(vectors) == 50


def test_parts_without_a_shard_leave_the_folder_to_the_others(tmp_path, embedder_of, sentences):
    for part in (3, 1, 0, 2):  # three sentences are one shard, which belongs to part 0
        found = write(tmp_path / "v", embedder_of(), sentences[:3], part=(part, 4), resume=True)
        assert (found is None) == (part in (3, 1))
    assert len(found) == 3


def test_parts_of_different_texts_are_not_joined(tmp_path, embedder_of, sentences):
    other = [*sentences[:-1], "Another end ."]
    write(tmp_path / "v", embedder_of(), sentences, part=(3, 4))
    with pytest.raises(ValueError, match=r"part-00003\.safetensors was made from other sent"):
        write(tmp_path / "v", embedder_of(), other, part=(0, 4), resume=True)
    with pytest.raises(ValueError, match=r"part-00003\.safetensors lies after the end of"):
        write(tmp_path / "v", embedder_of(), sentences[:20], part=(1, 4), resume=True)


def test_a_finished_file_removes_its_own_leftovers_only(tmp_path):
    own, other, mine = (
        tmp_path / f".v{middle}.tmp" for middle in (f".{'0' * 32}", f".hdf5.{'0' * 32}", ".mine")
    )
    for path in (own, other, mine):
        path.touch()
    with new_file(tmp_path / "v") as path:
        path.touch()
    assert not own.exists() and other.exists() and mine.exists()


# --- What does not fit, and damage ---


def test_a_resume_with_something_else_is_refused(tmp_path, embedder_of, sentences):
    write(tmp_path / "v", embedder_of(), sentences)
    before = contents(tmp_path / "v")

    def resume(sentences=sentences, layers="average", size=16, embedder=None, **options):
        write_vectors(
            tmp_path / "v",
            embedder or embedder_of(layers=layers),
            sentences,
            resume=True,
            sentences_per_shard=size,
            **options,
        )

    other = ElmoModel(ElmoConfig(filters=[[1, 8]], projection_dim=8, cell_dim=16)).eval()
    changed = [*sentences[:20], "Another .", *sentences[21:]]
    for complaint, options in [
        ("another model", {"embedder": ElmoEmbedder(other, ElmoTokenizer())}),
        ("layers 'average', now 'top'", {"layers": "top"}),
        ("dtype 'float32', now 'float16'", {"dtype": "float16"}),
        ("pooling 'none', now 'mean'", {"pooling": "mean"}),
        ("sentences_per_shard 16, now 8", {"size": 8}),
        ("part-00001.safetensors was made from other sentences 16 to 31", {"sentences": changed}),
        ("part-00003.safetensors was made from other sent", {"sentences": [*sentences, "More"]}),
        ("part-00001.safetensors was made from other sent", {"sentences": sentences[:32]}),
    ]:
        with pytest.raises(ValueError, match=complaint):
            resume(**options)
        assert contents(tmp_path / "v") == before
    resume()
    with pytest.raises(FileExistsError, match=r"exists already; continue it with resume=True"):
        write(tmp_path / "v", embedder_of(), sentences)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float32, float16"),
        ({"part": (3, 3)}, "part is"),
        ({"sentences_per_shard": 1000}, "sentences_per_shard is 1000; expected a multiple"),
        ({"format": "csv"}, "format is 'csv'"),
        ({"sentence_keys": True}, "sentence_keys is for HDF5"),
        ({"sentences": []}, "the input has no sentences"),
        ({"sentences": "A text ."}, "sentences is one string"),
        ({"sentences": ["A text .", 7]}, "sentence 1"),
    ],
)
def test_wrong_arguments_leave_nothing(tmp_path, embedder_of, options, complaint):
    options = {"sentences": ["A text ."], **options}
    with pytest.raises(ValueError, match=complaint):
        write_vectors(tmp_path / "v", embedder_of(window=64), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sentences, complaint",
    [
        (["a", "a/b ."], "sentence 1 cannot be a name in HDF5"),
        (["a/b .", "a"], "sentence 1 cannot be a name in HDF5"),
        (["/"], "sentence 0 cannot be a name in HDF5"),
        (["a", "a"], "sentence 1 is there twice"),
    ],
)
def test_sentences_that_cannot_be_names_are_named(tmp_path, embedder_of, sentences, complaint):
    words = [sentence.split() for sentence in sentences]
    with pytest.raises(ValueError, match=complaint):
        write_vectors(tmp_path / "v.hdf5", embedder_of(), words, sentence_keys=True)
    assert list(tmp_path.iterdir()) == []


def test_words_that_a_format_cannot_hold_are_refused_or_left_out(tmp_path, embedder_of):
    with pytest.raises(ValueError, match="sentence 1 has a lone surrogate, which Parquet cannot"):
        write_vectors(tmp_path / "v.parquet", embedder_of(), [["a"], ["\ud800"]])
    found = write_vectors(tmp_path / "v.hdf5", embedder_of(), [["a b", ""], ["c", "d"]])
    assert found.words(1) == ["c", "d"]
    with pytest.raises(ValueError, match="has no words of sentence 0"):
        found.words(0)
    for ending in (".npz", ".txt", ".parquet"):
        with pytest.raises(ValueError, match="sentence_keys is for HDF5"):
            write_vectors(tmp_path / f"w{ending}", embedder_of(), ["a"], sentence_keys=True)


def test_values_too_large_for_float16_are_refused(tmp_path, embedder_of, monkeypatch):
    def embed(self, sentences, **options):
        return (np.full((len(words), 16), 1e6, np.float32) for words in sentences)

    monkeypatch.setattr(ElmoEmbedder, "embed", embed)
    with pytest.raises(ValueError, match=r"1000000\.0 is too large for float16; store float32"):
        write(tmp_path / "v", embedder_of(), ["A"], dtype="float16")
    assert not (tmp_path / "v").exists()


def test_single_files_neither_resume_nor_overwrite(tmp_path, embedder_of):
    with pytest.raises(ValueError, match="resume and part need a folder"):
        write(tmp_path / "v.npz", embedder_of(), ["A"], part=(0, 2))
    with pytest.raises(ValueError, match=r"v\.hdf6 ends in \.hdf6; expected a name without"):
        write(tmp_path / "v.hdf6", embedder_of(), ["A"])
    for ending in [*FORMATS[1:], ".txt"]:
        (tmp_path / f"v{ending}").write_text("mine")
        with pytest.raises(FileExistsError, match="exists already"):
            write(tmp_path / f"v{ending}", embedder_of(), ["A"])
        with pytest.raises(ValueError, match="the input has no sentences"):
            write(tmp_path / f"empty{ending}", embedder_of(), [])
    assert {path.stem for path in tmp_path.iterdir()} == {"v"}


def test_a_full_disk_is_one_error_and_nothing_looks_finished(tmp_path, embedder_of, sentences):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for ending in [*FORMATS, ".txt"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises((OSError, RuntimeError)) as error:
                write(tmp_path / f"v{ending}", embedder_of(layers="all"), sentences)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(tmp_path / "v") in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 kB; mounting it needs rights that not every machine gives."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_what_fits_on_a_full_disk_is_kept_and_continued(
    tiny_disk, tmp_path, embedder_of, sentences
):
    many = sentences * 10
    for ending in [*FORMATS[1:], ".txt"]:
        with pytest.raises(OSError, match=rf"No space left on device: '{tiny_disk}/v{ending}'"):
            write(tiny_disk / f"v{ending}", embedder_of(layers="all"), many)
    assert list(tiny_disk.iterdir()) == []
    with pytest.raises(OSError, match=r"No space left on device: .*part-0000"):
        write(tiny_disk / "v", embedder_of(layers="all"), many)
    with pytest.raises(ValueError, match="is unfinished"):
        open_vectors(tiny_disk / "v")
    shutil.copytree(tiny_disk / "v", tmp_path / "v")  # to a larger disk
    assert len(contents(tmp_path / "v")) > 1
    write(tmp_path / "v", embedder_of(layers="all"), many, resume=True)
    write(tmp_path / "whole", embedder_of(layers="all"), many)
    assert contents(tmp_path / "v") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_on_older_cpus():
    test = test_bytes_do_not_depend_on_workers_threads_parts_or_interruptions.__name__
    older = {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
    command = [sys.executable, "-m", "pytest", "-q", f"{__file__}::{test}"]
    subprocess.run(command, env={**os.environ, **older}, check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_fails_before_anything_is_computed(tmp_path, embedder_of):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write(tmp_path / "v", embedder_of(), ["A"])


@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_files_are_refused(tmp_path, embedder_of, sentences, ending):
    write(tmp_path / f"v{ending}", embedder_of(), sentences)
    path = tmp_path / f"v{ending}"
    file = path / "part-00002.safetensors" if not ending else path
    whole = file.read_bytes()
    for content in (whole[:-40], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"v{ending}"):
            open_vectors(path)
        if not ending:
            with pytest.raises(ValueError, match="damaged, cut off"):
                ShardFile(file)
    for wrong in (tmp_path / "gone", tmp_path / "notes"):
        (tmp_path / "notes").write_text("These are notes")
        with pytest.raises((ValueError, FileNotFoundError), match=wrong.name):
            open_vectors(wrong)
    if not ending:
        shutil.rmtree(path)
        path.mkdir()
        with pytest.raises(ValueError, match="is unfinished"):
            open_vectors(path)
