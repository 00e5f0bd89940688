"""A tiny model to pre-train, and the losses of a training."""

TINY = {
    "cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3,
    "num_highway_layers": 1,
}  # fmt: skip


def losses(trainer):
    """Of each step."""
    return {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}
