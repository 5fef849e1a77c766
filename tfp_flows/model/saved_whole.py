"""Files that are written whole or not at all: what cuts a save leaves an older file as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras

from tfp_flows import serialization
from tfp_flows.ops.files import atomic_write, path_of
from tfp_flows.ops.internals import BuiltModel, weights_file

__all__ = ["SavedWhole", "check_folder"]

_PARTS = {"metadata.json", "config.json", "model.weights.h5", "assets"}


class SavedWhole(BuiltModel):
    """A Keras model whose files take the place of older ones when they are whole.

    It comes back compiled as it was, though its `compile` is its own.
    """

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        serialization.check_keras(config, TypeError, "The compile config")
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        serialization.check_keras(config, ValueError, "The compile config")
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.build_optimizer()  # For its state to be loaded.

    def save(
        self,
        filepath: str | os.PathLike[str],
        overwrite: bool = True,
        zipped: bool | None = None,
    ) -> None:
        """Write architecture, weights and optimizer state to a `.keras` file.

        The file takes the place of an older one when it is whole: what cuts a save leaves that.

        Args:
          filepath: a path that ends in `.keras`; of a folder, with `zipped=False`, another one.
          overwrite: whether to replace an older file.
          zipped: `False` for a folder with the parts of the file in it.

        Raises:
          TypeError: `filepath` is no path, or a part is of a class that loading would refuse; the
            message says where it is.
          ValueError: `filepath` ends in something else, or is a folder with other things in it.
          FileExistsError: the file exists, and `overwrite` is false.
          OSError: the file cannot be written.
        """
        path = path_of(filepath)
        if not path.startswith("hf://") and path.endswith(".keras") == (zipped is False):
            raise ValueError(
                "`filepath` must end in '.keras', or in another way with zipped=False, for a "
                "folder; see `save_weights` for the weights alone and `export` for a SavedModel. "
                f"Received: filepath={path!r}"
            )
        keras.saving.serialize_keras_object(self)  # A refusal must not cost an older file.
        self.build_optimizer()  # As it will be when the file is loaded.
        if "://" in path:
            super().save(path, overwrite=overwrite, zipped=zipped)
            return
        check_folder(path, _PARTS)
        with atomic_write(path, overwrite=overwrite) as part:
            super().save(part, zipped=zipped)

    def save_weights(
        self,
        filepath: str | os.PathLike[str],
        overwrite: bool = True,
        max_shard_size: float | None = None,
    ) -> None:
        """Write the weights, and the optimizer's state, to a `.weights.h5` file, whole or not.

        The file is made in memory first. With `max_shard_size` (in GB) the weights are spread over
        files, each of which is whole; those HDF5 writes to the disk, and where that is full, it may
        end the process.

        Raises:
          TypeError: `filepath` is no path.
          ValueError: `filepath` does not end in `.weights.h5`.
          FileExistsError: the file exists, and `overwrite` is false.
          OSError: the file cannot be written.
        """
        path = path_of(filepath)
        if max_shard_size is None and not path.endswith(".weights.h5"):
            raise ValueError(f"`filepath` must end in '.weights.h5'. Received: filepath={path!r}")
        self.build_optimizer()
        if "://" in path:
            super().save_weights(path, overwrite=overwrite, max_shard_size=max_shard_size)
        elif max_shard_size is None:
            with atomic_write(path, overwrite=overwrite) as part:
                part.write_bytes(weights_file(self))
        else:
            self._save_shards(Path(path), overwrite, max_shard_size)

    def _save_shards(self, path: Path, overwrite: bool, max_shard_size: float) -> None:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{str(path)!r} exists, and `overwrite` is false.")
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder:
            super().save_weights(Path(folder, path.name), max_shard_size=max_shard_size)
            # The index that names the others comes last.
            for shard in sorted(Path(folder).iterdir(), key=lambda file: file.suffix == ".json"):
                with atomic_write(path.with_name(shard.name)) as part:
                    os.replace(shard, part)


def check_folder(path: str | os.PathLike[str], parts: Iterable[str]) -> None:
    """Raise a ValueError if `path` is a folder with other things in it than what is written there.

    It will be replaced as a whole.
    """
    others = sorted(set(os.listdir(path)) - set(parts)) if os.path.isdir(path) else []
    if others:
        raise ValueError(
            "`filepath` must be new, or an older model to be replaced. Received: "
            f"filepath={os.fspath(path)!r}, a folder that has {others[0]!r} in it"
        )
