# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
"""Train the biLM with exact mean losses, carried states, perplexity and exact resumption."""

import math
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from ..model.modeling_elmo_pretraining import ElmoForPreTraining
from ..model.tokenization_elmo import ElmoTokenizer
from .optimizer import MuonAdamW, split_parameters
from .runs import TRAINER_STATE, last_checkpoint
from .windows import EpochOrder, PackedWindows, PreTrainingCollator, RowStreams


class ElmoPreTrainer(Trainer):
    """
    Class that trains `ElmoForPreTraining` on the datasets of `elmo_hf.pretraining.windows`.

    The loss is the mean over both directions of the mean over all words predicted in a step,
    however the words are distributed over processes and accumulated batches. With `RowStreams` the
    LSTM states are carried from window to window without their gradients, and checkpoints contain
    the states. Logs show the loss of each direction and the predicted words per second and
    direction, boundaries included; the time of evaluation and saving does not count.

    `evaluate` uses the full softmax and all words of an evaluation dataset. It returns `eval_loss`
    in nats, `eval_forward_perplexity`, `eval_backward_perplexity`, `eval_perplexity` (exp of the
    mean loss), `eval_unknown_rate` and `eval_words`.

    An interrupted checkpoint has no complete trainer_state.json; `last_checkpoint` of
    `elmo_hf.pretraining.runs` skips it.

    Four private methods of Trainer are overridden because it has no public equivalents:
    `_get_train_sampler`, `_save_checkpoint`, `_save_rng_state` and `_load_rng_state`.

    Args:
        model, args, train_dataset, eval_dataset, callbacks, ...: as for Trainer. The datasets are
            `PackedWindows` or, for training only, `RowStreams`.
        processing_class: the tokenizer, with its vocabulary.
        muon_learning_rate: if given, Muon with this rate trains the matrices, and AdamW with
            `args.learning_rate` the other weights; see `MuonAdamW`.

    Raises:
        FloatingPointError: the loss of a step is not a finite number. The message names the last
            complete checkpoint.
    """

    control: Any
    optimizer: Any

    def __init__(
        self,
        model: ElmoForPreTraining,
        args: TrainingArguments,
        *more: Any,
        processing_class: ElmoTokenizer,
        muon_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.muon_learning_rate = muon_learning_rate
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # every step uses all of them
        super().__init__(model, args, *more, processing_class=processing_class, **kwargs)
        directions = self.model.config.num_directions
        self.data_collator = self.collator = PreTrainingCollator(processing_class, directions)
        self.model_accepts_loss_kwargs = True  # `compute_loss` uses the number of items
        self._states: tuple[torch.Tensor, torch.Tensor] | None = None
        self._totals = torch.zeros(2, 2, dtype=torch.float64, device=self.args.device)
        self._since: float | None = None  # time of the last log, plus time that does not count

    # --- Training ---

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer that Trainer makes or, with `muon_learning_rate`, `MuonAdamW`."""
        if self.muon_learning_rate is None or self.optimizer is not None:
            return super().create_optimizer(model)
        matrices, others = split_parameters(self.model)
        decayed = self.get_decay_parameter_names(self.model)
        names = {weight: name for name, weight in self.model.named_parameters()}
        args, decay = self.args, self.args.weight_decay
        self.optimizer = MuonAdamW(
            matrices,
            [
                {"params": [w for w in others if names[w] in decayed], "weight_decay": decay},
                {"params": [w for w in others if names[w] not in decayed], "weight_decay": 0.0},
            ],
            muon={"lr": self.muon_learning_rate, "weight_decay": decay},
            adamw={
                "lr": args.learning_rate,
                "betas": (args.adam_beta1, args.adam_beta2),
                "eps": args.adam_epsilon,
                "fused": True,
            },
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        feed: Any = self.train_dataset if train_dataset is None else train_dataset
        return EpochOrder(feed, self.args.train_batch_size * self.args.world_size)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """Return a step's batches, and how many words each direction predicts in them, `(2,)`."""
        self._since = self._since or time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = sum(count_predictions(batch).to(device) for batch in batches)
        return batches, self.accelerator.reduce(counts)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of a batch after its backward pass, if it is a finite number."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            self._stop(f"the loss of step {self.state.global_step + 1} is {loss.item()}")
        return loss

    def _stop(self, reason: str) -> NoReturn:
        checkpoint = last_checkpoint(self.args.output_dir)
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint exists"
        raise FloatingPointError(
            f"{reason}; {kept}. Start a new run from it with --init_from and a lower learning "
            "rate, or look for odd text"
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Return this batch's share of the step's loss."""
        if isinstance(self.train_dataset, RowStreams):
            inputs = {**inputs, "states": self._states, "use_cache": True}
        outputs = model(**inputs)
        if isinstance(self.train_dataset, RowStreams):
            self._states = tuple(part.detach() for part in outputs.states)
        losses, counts = self._losses(outputs), count_predictions(inputs)
        self._add(losses, counts)
        totals = counts if num_items_in_batch is None else num_items_in_batch
        shares = losses * counts / totals.clamp(min=1)
        # DistributedDataParallel takes the mean over processes.
        loss = shares.sum() / (totals > 0).sum().clamp(min=1) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _losses(self, outputs: Any) -> torch.Tensor:
        forward, backward = outputs.forward_loss, outputs.backward_loss
        return torch.stack([forward, torch.zeros_like(forward) if backward is None else backward])

    def _add(self, losses: torch.Tensor, counts: torch.Tensor) -> None:
        self._totals += torch.stack([losses.detach().double() * counts, counts.double()])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does; in training, add both losses and words/s since the last log."""
        if "loss" in logs and self._since is not None:
            now, (sums, counts) = time.perf_counter(), self.accelerator.reduce(self._totals)
            for name, mean in _means(sums, counts).items():
                logs[f"{name}_loss"] = mean
            words = float(counts.sum() / (counts > 0).sum().clamp(min=1))
            logs["words_per_second"] = round(words / max(now - self._since, 1e-9), 1)
            self._totals.zero_()
            self._since = now
        super().log(logs, start_time)

    # --- Evaluation ---

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return this process's share of the windows; each window belongs to one process."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        feed = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(feed, PackedWindows):
            raise ValueError(
                f"eval_dataset is a {type(feed).__name__}; expected PackedWindows, which contain "
                "every word of the text"
            )
        share = feed.order()[self.args.process_index :: self.args.world_size]
        return DataLoader(
            Subset(feed, share.tolist()),
            batch_size=self.args.eval_batch_size,
            collate_fn=self.collator,
            num_workers=self.args.dataloader_num_workers,
        )

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Sum the losses of all words; `evaluate` calls this."""
        began = time.perf_counter()
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        sums, samples = torch.zeros(3, 2, dtype=torch.float64, device=self.args.device), 0
        for batch in dataloader:
            samples += len(batch["labels"])
            batch = self._prepare_inputs(batch)
            with self.accelerator.autocast():
                outputs = self.model(**batch, output_logits=False)
            counts = count_predictions(batch)
            words = self._count_words(batch["labels"])
            losses = self._losses(outputs).double() * counts
            sums += torch.stack([losses, counts.double(), words.double()])
            self.control = self.callback_handler.on_prediction_step(
                self.args, self.state, self.control
            )
        losses, counts, (words, unknown) = self.accelerator.reduce(sums).cpu()
        metrics = _perplexities(losses, counts)
        metrics["words"], metrics["unknown_rate"] = int(words), float(unknown / max(words, 1))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self._skip_time(began)
        return EvalLoopOutput(None, None, metrics, num_samples=samples)

    def _skip_time(self, began: float) -> None:
        if self._since is not None:
            self._since += time.perf_counter() - began

    def _count_words(self, labels: torch.Tensor) -> torch.Tensor:
        """Count the words other than boundaries, and those outside the vocabulary, `(2,)`."""
        unknown = (labels == self.collator.unknown).sum()
        no_words = torch.tensor([-100, self.collator.bos, self.collator.eos], device=labels.device)
        return torch.stack([torch.isin(labels, no_words, invert=True).sum(), unknown])

    # --- Checkpoints ---

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        began = time.perf_counter()
        for name, weight in self.model.named_parameters():
            if not weight.isfinite().all():
                self._stop(f"after step {self.state.global_step}, {name} has values not finite")
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if self.args.should_save:  # overwriting an old checkpoint makes it incomplete
            (folder / TRAINER_STATE).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        self._skip_time(began)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._states is not None:
            hidden, cell = (part.contiguous() for part in self._states)
            save_file({"hidden": hidden, "cell": cell}, self._states_file(output_dir))
        # After this the main process writes trainer_state.json: the checkpoint is complete.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and (file := self._states_file(checkpoint)).exists():
            states = load_file(file)
            hidden, cell = (states[name].to(self.args.device) for name in ("hidden", "cell"))
            self._states = hidden, cell

    def _states_file(self, folder: str) -> Path:
        return Path(folder, f"carried_states_{self.args.process_index}.safetensors")


def count_predictions(batch: dict[str, Any]) -> torch.Tensor:
    """Return how many words each direction predicts in a `PreTrainingCollator` batch, `(2,)`."""
    wanted, mask = batch["labels"] != -100, batch["attention_mask"].bool()
    forward = (mask[:, :-1, 0] & wanted[:, 1:]).sum()
    if mask.shape[-1] == 1:
        return torch.stack([forward, torch.zeros_like(forward)])
    return torch.stack([forward, (mask[:, 1:, 1] & wanted[:, :-1]).sum()])


def _means(losses: torch.Tensor, counts: torch.Tensor) -> dict[str, float]:
    """Return the mean loss of each direction that predicted any word."""
    pairs = zip(("forward", "backward"), losses.tolist(), counts.tolist(), strict=True)
    return {name: loss / count for name, loss, count in pairs if count}


def _perplexities(losses: torch.Tensor, counts: torch.Tensor) -> dict[str, float]:
    means = _means(losses, counts)
    loss = sum(means.values()) / max(len(means), 1)
    perplexities = {f"{name}_perplexity": math.exp(mean) for name, mean in means.items()}
    return {"loss": loss, **perplexities, "perplexity": math.exp(loss)}


__all__ = ["ElmoPreTrainer", "count_predictions"]
