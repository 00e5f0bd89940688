"""Code shared by the training scripts: command line, errors, training, saving, model card."""

import argparse
import contextlib
import difflib
import importlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# oneDNN keeps a kernel for every shape, and each batch has another number of words. In bfloat16 the
# kernels of 1,024 shapes, its default, take gigabytes; with too few, each step makes them again.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

import elmo_hf
from elmo_hf.extras import require

# isort: split
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.constants import HF_HUB_OFFLINE
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, Trainer, set_seed
from transformers.trainer_utils import get_last_checkpoint

# --- Command line ---

COMMON = {"output_dir", "num_train_epochs", "max_steps", "learning_rate", "seed", "use_cpu", "bf16"}
COMMON |= {"per_device_train_batch_size", "resume_from_checkpoint"}


@dataclass
class ScriptArguments:
    """Class with the options of every script; `command` is the command line for the card."""

    command: str = field(default="", init=False)


@dataclass
class TaskArguments(ScriptArguments):
    """Class with the options of the scripts that train a head."""

    model: str = field(metadata={"help": "folder or Hub name of an ELMo checkpoint"}, kw_only=True)
    train: str | None = field(
        default=None, metadata={"help": "training data: a file, or a Hub dataset as NAME:SPLIT"}
    )
    dev: str | None = field(
        default=None, metadata={"help": "data to evaluate after each epoch; required with --train"}
    )
    test: str | None = field(default=None, metadata={"help": "data to evaluate at the end"})
    predict: str | None = field(
        default=None,
        metadata={"help": "data to label; without --train, --model is a trained model"},
    )
    predictions: str | None = field(
        default=None,
        metadata={"help": "file to write the labelled data to; default: one in --output_dir"},
    )
    lstm_dim: int = field(
        default=200, metadata={"help": "size of each direction of the task's biLSTM; 0: no biLSTM"}
    )
    train_bilm: bool = field(
        default=False, metadata={"help": "train the biLM too, not only the head"}
    )
    layers: list[int] | None = field(
        default=None,
        metadata={"help": "layers to mix; layer 0 has no context; default: all"},
    )
    concat_layers: list[int] | None = field(
        default=None, metadata={"help": "layers to concatenate to the mix; default: none"}
    )
    output_embeddings: bool = field(
        default=False,
        metadata={"help": "add a layer: each word's row of the language model's softmax"},
    )


class ScriptParser(HfArgumentParser):
    """
    Class that parses a script's own options and those of TrainingArguments.

    `--help` shows the script's own options and the most common ones of Trainer, `--help-all` all.
    """

    def __init__(self, own: type, training: type, defaults: dict[str, Any], doc: str) -> None:
        own._argument_group_name = "options of this script"
        super().__init__(
            [own, training],
            description=doc,
            usage="%(prog)s [options]",
            formatter_class=_HelpFormatter,
        )
        self._optionals.title = "options of Trainer, the most common ones"
        self._action_groups.append(self._action_groups.pop(1))  # after the script's own
        self.add_argument("--help-all", action="help", help="show all options of Trainer too")
        # Without an accelerator, pinned memory only causes a warning.
        self.set_defaults(dataloader_pin_memory=torch.accelerator.is_available(), **defaults)
        own_names = own.__dataclass_fields__
        self.short = {"help", "help_all", *own_names, *COMMON, *defaults}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, after hiding most of Trainer's options from --help."""
        if "--help-all" not in (sys.argv if args is None else args):
            for action in self._actions:
                if action.dest not in self.short:
                    action.help = argparse.SUPPRESS
        return super().parse_known_args(args, namespace)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Class that marks required options and omits empty defaults and second spellings."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        values = "" if action.nargs == 0 else self._format_args(action, action.dest.upper())
        names = [name for name in action.option_strings if "-" not in name.strip("-")]
        return f"{', '.join(names or action.option_strings)} {values}".strip()

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required:
            return f"{action.help} (required)"
        if action.const is False:
            return f"the opposite of --{action.dest}"
        if action.default in (None, [], "{}"):
            return action.help
        return super()._get_help_string(action)


def parse_arguments(
    own: type,
    defaults: dict[str, Any],
    argv: Sequence[str] | None = None,
    packages: Sequence[str] = ("accelerate",),
    extra: str = "train",
    training: str = "transformers.TrainingArguments",
) -> tuple[Any, Any]:
    """
    Parse a script's command line.

    Args:
        own: dataclass of the script's own options; its module's docstring is shown by `--help`.
        defaults: the script's defaults for options of Trainer.
        packages: packages that the script needs beyond elmo_hf's own requirements.
        extra: the extra of elmo_hf that installs them.
        training: the class of Trainer's options; not imported if `--help` is given.

    Returns:
        The script's own options, and those of Trainer.
    """
    argv = sys.argv[1:] if argv is None else argv
    script = sys.modules[own.__module__]
    parser = ScriptParser(own, transformers.TrainingArguments, defaults, script.__doc__)
    found = parser.parse_args(argv)
    trains = getattr(found, "train", True)
    if trains and not found.output_dir:
        parser.error("--output_dir is required: a folder for the trained model")
    extra_options = [] if trains else ["--eval_strategy", "no"]
    extra_options += [] if found.output_dir else ["--output_dir", "."]
    with one_line_errors():
        for package in packages:
            require(package, extra)
        module, _, name = training.rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        parser = ScriptParser(own, kind, defaults, script.__doc__)
        options, trainer_options = parser.parse_args_into_dataclasses([*argv, *extra_options])
    options.command = shlex.join(["python", f"examples/{Path(script.__file__).name}", *argv])
    return options, trainer_options


# --- Errors ---


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line, not a traceback, on errors that the user can fix."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {describe(error)}") from None


@contextlib.contextmanager
def writing_errors(folder: str) -> Iterator[None]:
    """End the program with one line if writing fails or a loss is not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise SystemExit(f"error: {error}") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise SystemExit(
            f"error: could not write to {folder}: {describe(error)}\nmake room, or name another "
            "folder with --output_dir; earlier complete checkpoints there are intact"
        ) from None


def describe(error: Exception) -> str:
    """Return the message of an error, without the error number of the operating system."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def check_model(name: str, option: str = "--model") -> None:
    """
    Check that a model exists, before the data are read.

    Raises:
        ValueError: the name is neither a model's folder nor a model on the Hub.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{option} {name} has no config.json; expected a model's folder")
        return
    beside = [path.parent.name for path in folder.parent.glob("*/config.json")]
    if near := difflib.get_close_matches(folder.name, beside, n=1):
        near_folder = folder.with_name(near[0])
        raise ValueError(f"{option} {name}: no such folder; did you mean {near_folder}?")
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        if HF_HUB_OFFLINE:
            hub = "and the Hugging Face Hub was not searched because HF_HUB_OFFLINE is set"
        else:
            hub = f"and no model on the Hugging Face Hub: {str(error).splitlines()[0]}"
        raise ValueError(f"{option} {name}: no such folder; {hub}") from None


def trained_labels(name: str, architecture: str) -> list[str]:
    """
    Return the labels of a trained head, in the order of their ids.

    Raises:
        ValueError: the model has no such head.
    """
    config = AutoConfig.from_pretrained(name)
    if architecture not in (config.architectures or []):
        raise ValueError(
            f"--model {name} is not a trained {architecture}; train one with --train, --dev and "
            "--output_dir"
        )
    return [config.id2label[i] for i in range(config.num_labels)]


# --- Training ---


@dataclass
class Job:
    """
    Class that describes what `run` does.

    Args:
        trainer: a Trainer; without a train_dataset nothing is trained.
        task: the model card's pipeline tag.
        usage: lines of Python that show how to use the trained model.
        data: lines about the data for the model card.
        test: examples to evaluate at the end.
        evaluate: returns metrics that Trainer does not compute.
        predict: writes the predictions and returns their file.
        library: the library that opens the model, for the model card.
    """

    trainer: Trainer
    task: str
    usage: list[str]
    data: list[str]
    test: Any = None
    evaluate: Callable[[], dict[str, float]] | None = None
    predict: Callable[[], Path] | None = None
    library: str = "transformers"


def prepare(arguments: TaskArguments, training: transformers.TrainingArguments) -> None:
    """
    Check that the options are consistent and that the model exists; set the seed.

    Raises:
        ValueError: an option or the model is missing.
    """
    training.remove_unused_columns = False  # the collators read the columns of text
    set_seed(training.seed)
    if not (arguments.train or arguments.dev or arguments.test or arguments.predict):
        raise ValueError("nothing to do; use --train, or --test or --predict with a trained model")
    if arguments.train and not arguments.dev:
        raise ValueError("--train needs --dev, the data to evaluate")
    if arguments.predictions and not Path(arguments.predictions).parent.is_dir():
        raise ValueError(f"--predictions {arguments.predictions}: there is no such folder")
    if getattr(training, "train_sampling_strategy", "") == "group_by_length":
        raise ValueError("--train_sampling_strategy group_by_length needs token ids; leave it out")
    training.resume_from_checkpoint = find_checkpoint(training)
    check_model(arguments.model)


def find_checkpoint(training: transformers.TrainingArguments) -> str | None:
    """Return what --resume_from_checkpoint names; True: the last one. ValueError: none is there."""
    given = str(training.resume_from_checkpoint or "")
    if given.lower() in ("", "false"):
        return None
    found, output = given, training.output_dir
    if given.lower() == "true":
        found = get_last_checkpoint(output) if Path(output).is_dir() else None
    if not (found and Path(found, "trainer_state.json").is_file()):
        raise ValueError(
            f"--resume_from_checkpoint {given}: there is no checkpoint; start without this option"
        )
    return found


def make_model(head: Any, arguments: TaskArguments, **settings: Any) -> Any:
    """Load a trained model with a head; with --train, add a new head with these settings."""
    if not arguments.train:
        return head.from_pretrained(arguments.model)
    if arguments.output_embeddings:
        settings["output_embedding_layer"] = True
    model = head.from_pretrained(
        arguments.model,
        classifier_lstm_dim=arguments.lstm_dim,
        mix_layers=arguments.layers,
        concat_layers=arguments.concat_layers,
        **settings,
    )
    model.elmo.requires_grad_(arguments.train_bilm)
    return model


def make_tokenizer(arguments: TaskArguments, **settings: Any) -> Any:
    """Load the tokenizer of the model that `make_model` returns."""
    if arguments.train and arguments.output_embeddings:
        settings["use_word_ids"] = True
    return AutoTokenizer.from_pretrained(arguments.model, **settings)


def name_labels(names: Sequence[str]) -> dict[str, dict]:
    """Return the settings of a head with these labels."""
    ids = {name: i for i, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": ids}


def read_data(
    arguments: TaskArguments, read: Callable[[str], list[Any]]
) -> tuple[dict[str, list[Any]], list[str]]:
    """
    Read the examples of --train, --dev and --test.

    Returns:
        The examples of each option, and lines about them for the model card.
    """
    sources = {name: getattr(arguments, name) for name in ("train", "dev", "test")}
    data = {name: read(source) for name, source in sources.items() if source}
    return data, [f"{name}: `{sources[name]}`, {len(data[name]):,} examples" for name in data]


def run_script(
    own: type,
    defaults: dict[str, Any],
    make_job: Callable[[Any, Any], Job],
    argv: Sequence[str] | None,
    *packages: Any,
) -> dict[str, float]:
    """Parse the command line, make the job and run it; arguments as for `parse_arguments`."""
    arguments, training = parse_arguments(own, defaults, argv, *packages)
    with one_line_errors():
        job = make_job(arguments, training)
    return run(job, arguments)


def run(job: Job, arguments: ScriptArguments) -> dict[str, float]:
    """
    Train, save, evaluate, write the model card and predict, as far as the options ask for it.

    Returns:
        The metrics of the final weights.
    """
    trainer, trained = job.trainer, job.trainer.train_dataset is not None
    folder, is_first = trainer.args.output_dir, trainer.is_world_process_zero()
    with writing_errors(folder):
        if trained:
            trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
            save_model(trainer)
        metrics = evaluate(job, trained)
        if trained and is_first:
            write_card(job, arguments, metrics)
        if job.predict:
            print(f"predictions: {job.predict()}")
    if trained and is_first:
        print(f"\nThe model is in {folder}. To use it:", *job.usage, sep="\n")
    return metrics


def evaluate(job: Job, save: bool) -> dict[str, float]:
    """Return and log the metrics of the evaluation and test data; with `save`, save them."""
    trainer, metrics = job.trainer, {}
    for name, data in (("eval", trainer.eval_dataset), ("test", job.test)):
        if data is not None:
            metrics[name] = trainer.evaluate(data, metric_key_prefix=name)
    if job.evaluate:
        metrics["eval"] = job.evaluate()
    for name, found in metrics.items():
        trainer.log_metrics(name, found)
        if save:
            trainer.save_metrics(name, found)
    return {name: value for found in metrics.values() for name, value in found.items()}


def save_model(trainer: Trainer) -> None:
    """Save the model into the output folder, completely or not at all."""
    folder = Path(trainer.args.output_dir)
    part = folder / "unfinished"
    if trainer.args.should_save:
        shutil.rmtree(part, ignore_errors=True)
    trainer.save_model(str(part), _internal_call=True)
    if trainer.args.should_save:
        for file in sorted(part.iterdir()):
            if file.is_dir():
                shutil.rmtree(folder / file.name, ignore_errors=True)
            file.replace(folder / file.name)
        part.rmdir()


# --- Model card ---

CARD = """
# {name}

{what}, trained with elmo_hf {version}.

- Starting point: {base}
- Licence: not stated yet. State it here and as `license:` at the top; it depends on the data and
  on the licence of the starting point.

## Use

```python
{usage}
```

## Data

{data}

## Results

{metrics}

## Command

```bash
{command}
```

Intended use, limits and biases are not described yet.
"""


def write_card(job: Job, arguments: ScriptArguments, metrics: dict[str, float]) -> None:
    """Write the model card README.md into the output folder; with --push_to_hub, push it."""
    folder = Path(job.trainer.args.output_dir)
    base = getattr(arguments, "model", None) or getattr(arguments, "init_from", None)
    model = job.trainer.model
    size = sum(parameter.numel() for parameter in model.parameters())
    header = ModelCardData(
        library_name=job.library,
        pipeline_tag=job.task,
        tags=["elmo"],
        base_model=None if base is None or Path(base).exists() else base,
    )
    text = CARD.format(
        name=folder.resolve().name,
        what=f"{type(model).__name__} ({size:,} parameters)",
        version=elmo_hf.__version__,
        base="new weights" if base is None else f"`{base}`",
        usage="\n".join(job.usage),
        data="\n".join(f"- {line}" for line in job.data),
        metrics=_metrics_table(metrics),
        command=arguments.command,
    )
    card = ModelCard(f"---\n{header.to_yaml()}\n---\n{text}")
    if job.trainer.args.push_to_hub:
        job.trainer.push_to_hub(commit_message="End of training")  # writes a card of its own
    card.save(folder / "README.md")
    if job.trainer.args.push_to_hub:
        card.push_to_hub(job.trainer.hub_model_id)


def _metrics_table(metrics: dict[str, float]) -> str:
    rows = [
        f"| {name} | {value:.4g} |"
        for name, value in metrics.items()
        if isinstance(value, int | float) and not name.endswith(("_runtime", "_per_second"))
    ]
    return "\n".join(["| metric | value |", "| --- | ---: |", *rows]) if rows else "Not evaluated."
