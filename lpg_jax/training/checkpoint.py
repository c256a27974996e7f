"""Checkpoints of a whole run state with orbax: asynchronous, atomic, the newest few kept."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one method; use as a context manager, which waits for the last one to be on disk."""

    def __init__(self, directory: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, tree: Any) -> None:
        """Starts to write `tree`; its arrays may be donated as soon as this returns."""
        self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, abstract: Any) -> Any | None:
        """The newest checkpoint, or None if there is none.

        Args:
          abstract: tree of ShapeDtypeStruct (`jax.eval_shape`); without it NamedTuples would come back as dicts.
        """
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        if step is None:
            return None
        placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_here()), abstract)
        return self._manager.restore(step, args=ocp.args.StandardRestore(placed))


def _here() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
