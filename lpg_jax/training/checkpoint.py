"""Checkpoints of a whole run state with orbax: asynchronous, atomic, verified, the newest few kept.

The bytes of all leaves lie end to end in one array of bytes, with the layout and a digest beside it. So a checkpoint
knows of no devices; a flipped byte, which orbax would read without a word in the data of a large array, is found; and
what cannot be read is one error, where orbax reading many arrays at once leaves the others complaining on stderr.

WORKDIR/METHOD/checkpoints/STEP          one checkpoint
WORKDIR/METHOD/checkpoints/STEP.damaged  one that could not be read
"""

import hashlib
import shutil
import warnings
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

_DATA, _LAYOUT = "data", "layout"  # orbax items
_PIECE = 2**28  # bytes: compression knows no chunk above 2 GB


class Checkpoints:
    """The checkpoints of one method; a context manager, which waits at its end for the last one to be on disk.

    With `jax.distributed` every process makes one on the same (shared) directory and calls the same methods in the
    same order; process 0 writes.

    | on disk | `restore` |
    |---|---|
    | nothing, or only saves that a kill cut off | None |
    | the newest is whole | the newest |
    | the newest lacks files, or they are cut, empty or changed | warning; moved to STEP.damaged; the next older one |
    | the newest holds arrays of other names, shapes or dtypes | the same |
    | none can be read | a warning each, then None |

    Args:
      directory: made if absent.
      keep: how many of the newest stay, >= 1; an older one goes when a newer one is whole on disk.

    Example:
      >>> with Checkpoints(Path("runs/mine/checkpoints"), keep=2) as checkpoints:  # doctest: +SKIP
      ...     checkpoints.save(100, state)
      ...     step, state = checkpoints.restore(jax.eval_shape(lambda: state))
    """

    def __init__(self, directory: Path, keep: int):
        self._directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def save(self, step: int, tree: Any) -> None:
        """Starts to write `tree`; its arrays may be donated as soon as this returns.

        A step that is there already is left alone: a resumed run would write the same bits.

        Args:
          step: number of updates; names the checkpoint.
          tree: of arrays and typed PRNG keys; over several processes every leaf must be replicated.

        Raises:
          OSError: the save before, which was still under way, cannot be written.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        leaves = jax.tree.map(_data, tree)
        data = _pack(leaves)
        layout = {"leaves": _kinds(leaves), "sha256": _sha256(data)}
        items = {_DATA: ocp.args.StandardSave(_pieces(data)), _LAYOUT: ocp.args.JsonSave(layout)}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          OSError: it cannot be written; those before it stay.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # tensorstore's come as ValueError, of other threads as anything
            raise OSError(
                f"{self._directory}: the last checkpoint cannot be written ({_line(error)}); free some space, and the "
                "same command resumes from the one before"
            ) from error

    def restore(self, abstract: Any, sharding: jax.sharding.Sharding | None = None) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read; see the table above for damaged ones.

        Args:
          abstract: tree of ShapeDtypeStruct (`jax.eval_shape`) like the one that was saved.
          sharding: where every leaf is placed; None: on the first local device.

        Returns:
          (step, tree), or None.

        Raises:
          MemoryError: host memory ran out; nothing is moved.
        """
        self.wait()
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        words = jax.tree.map(_data, abstract)
        for step in sorted(self._manager.all_steps(), reverse=True):
            data, reason = self._read(step, _kinds(words))
            if _all_processes(reason is None):
                return step, jax.tree.map(partial(_place, sharding=sharding), _unpack(data, words), abstract)
            self._set_aside(step, reason or "another process could not read it")
        return None

    def _read(self, step: int, kinds: list[list[str]]) -> tuple[np.ndarray, str | None]:
        """The verified bytes of a checkpoint of these leaves, or why there are none."""
        try:
            empty = [file for file in (self._directory / str(step)).rglob("*") if _is_empty(file)]
            if empty:  # what a crash of the machine leaves behind, whether orbax reads that file or not
                raise ValueError(f"{empty[0].name} is empty")
            layout = self._manager.restore(step, args=ocp.args.Composite(**{_LAYOUT: ocp.args.JsonRestore()}))[_LAYOUT]
            if apart := [pair for pair in zip_longest(layout["leaves"], kinds) if pair[0] != pair[1]]:
                raise ValueError(
                    "it holds {}, this run {}".format(*(" ".join(kind or ["no more"]) for kind in apart[0]))
                )
            found = self._manager.restore(step, args=ocp.args.Composite(**{_DATA: ocp.args.StandardRestore()}))[_DATA]
            data = np.concatenate([found[str(index)] for index in range(len(found))])
            if _sha256(data) != layout["sha256"]:
                raise ValueError("its bytes are not those that were saved")
            return data, None
        except MemoryError:
            raise
        except Exception as error:  # orbax and tensorstore raise whatever the damaged bytes lead them to
            return np.empty(0, np.uint8), _line(error)

    def _set_aside(self, step: int, reason: str) -> None:
        """Moves a checkpoint out of orbax's sight."""
        damaged, target = self._directory / str(step), self._directory / f"{step}.damaged"
        fate = f"moved to {target.name}"
        if jax.process_index() == 0:
            try:
                shutil.rmtree(target, ignore_errors=True)
                damaged.rename(target)
            except OSError as error:
                fate = f"cannot be moved: {error.strerror}"
        _all_processes(True)  # nobody looks before it is moved
        self._manager.reload()
        warnings.warn(f"{damaged}: checkpoint skipped, {fate} ({reason})", stacklevel=3)


def _data(leaf: Any) -> Any:
    """A leaf, or the shape and dtype of one; of a typed key its raw words."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    words = jax.random.key_data
    return jax.eval_shape(words, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else words(leaf)


def _kinds(tree: Any) -> list[list[str]]:
    """[name, dtype and shape] of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(path), f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"] for path, leaf in leaves]


def _pack(tree: Any) -> np.ndarray:
    """A copy of all bytes, end to end: views would change once the leaves are donated."""
    return np.concatenate([np.zeros(0, np.uint8), *(_bytes(np.asarray(leaf)) for leaf in jax.tree.leaves(tree))])


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _unpack(data: np.ndarray, like: Any) -> Any:
    """The tree of arrays that `_pack` made `data` of."""
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves])
    parts = zip(np.split(data, ends[:-1]), leaves, strict=True)
    return jax.tree.unflatten(tree, [part.view(leaf.dtype).reshape(leaf.shape) for part, leaf in parts])


def _pieces(data: np.ndarray) -> dict[str, np.ndarray]:
    return {str(index): data[start : start + _PIECE] for index, start in enumerate(range(0, data.size, _PIECE))}


def _place(array: np.ndarray, like: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    placed = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(placed, impl=_impl(like))
    return placed


def _impl(like: Any) -> str:
    """The PRNG of an abstract key; jax tells it of real and of traced keys only."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)
    return found[0]


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _sha256(data: np.ndarray) -> str:
    return hashlib.sha256(data.data).hexdigest()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    short = text if len(text) <= 200 else f"{text[:90]} ... {text[-100:]}"  # tensorstore ends with the cause
    return f"{type(error).__name__}: {short}"


def _all_processes(flag: bool) -> bool:
    """Whether the flag is set in every process; each waits for all."""
    return flag if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.array(flag))))
