"""Files of models: compared before they are loaded, and bounded."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_flows import serialization
from tfp_flows.model.architecture import describe
from tfp_flows.model.saved_whole import SavedWhole
from tfp_flows.model.trainer import MaximumLikelihood
from tfp_flows.model.variables import kept_on_error
from tfp_flows.ops.internals import layers_of

__all__ = ["SavableModel"]

_STRUCTURE = "structure"  # Its name in files of weights.
_STRUCTURE_VERSION = 3  # To be raised when `_structure` comes to list other things.
_ARCHITECTURE = "classes and arguments"
_SMALL = 2**26  # Bytes in a file, numbers in a model: what is always allowed.
_MOST_COMPRESSED = 100


class SavableModel(SavedWhole, MaximumLikelihood):
    """A `MaximumLikelihood` that is saved with its architecture and its fixed structure.

    A subclass has `distribution` and `conditioners`, and `get_config` and `from_config`.
    """

    _is_from_config = False  # Until its weights are loaded.
    _refusal: str | None = None  # Of the structure that was compared last.

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._structure_state = _StructureState(self)  # For `tf.train.Checkpoint`.

    def load_weights(
        self, filepath: str | os.PathLike[str], skip_mismatch: bool = False, **options: Any
    ) -> None:
        """Read what `save_weights` wrote, the optimizer's state too if the model is compiled.

        With `skip_mismatch` a difference is a warning, and weights whose shape fits are loaded.

        Raises:
          ValueError: the weights are of another architecture, as other classes, bounds, bases or
            activations make it, or of other masks, orders or permutations, as another seed makes
            them; or the file is damaged. The weights are then as before.
          FileNotFoundError: there is no such file.
        """
        self._is_from_config = False  # The file need not be that of the config.
        self.build_optimizer()  # Keras leaves out an optimizer that has no variables yet.
        state = [*self.variables, *(self.optimizer.variables if self.compiled else ())]
        self._refusal = None
        with kept_on_error(state):
            try:
                super().load_weights(filepath, skip_mismatch=skip_mismatch, **options)
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                raise
            except (OSError, KeyError, RuntimeError) as error:  # Of HDF5, by where it is damaged.
                raise ValueError(
                    f"{os.fspath(filepath)!r} is no file of weights, or it is damaged: {error}"
                ) from error

    def save_own_variables(self, store: Any) -> None:
        """Add the fixed structure to the weights of the model itself, as hashes of its parts."""
        super().save_own_variables(store)
        if hashes := self.structure_hashes():
            store[_STRUCTURE] = np.array([list(part) for part in hashes], "uint8")

    def load_own_variables(self, store: Any) -> None:
        """Compare the fixed structure, if the file has it, and load the model's own weights.

        Raises:
          ValueError: the structure is another one.
        """
        values = {name: store[name] for name in list(store.keys())}  # It has no `items`.
        saved = values.pop(_STRUCTURE, None)  # Older files have none.
        if saved is not None:
            self._refusal = None
            hashes = [bytes(row) for row in np.asarray(saved, "uint8")]
            try:
                # What was built from the config in the same file need not be compared with that.
                self.check_structure(hashes, whole=not self._is_from_config)
            except ValueError as error:
                self._refusal = str(error)
                raise
        elif self._refusal and not values:
            # Within another model Keras comes twice, finds nothing, and would forget the error.
            raise ValueError(self._refusal)
        self._is_from_config = False
        super().load_own_variables(values)

    def _structure(self) -> dict[str, Any]:
        """What is fixed in every part that has something fixed, and in the whole, by its name."""
        modules = (self.distribution, *self.distribution.submodules)
        layers = (layer for conditioner in self.conditioners for layer in layers_of(conditioner))
        found = [(part, _structure_of(part)) for part in (*modules, *layers)]
        fixed = {f"{i}: {part.name}": fixed for i, (part, fixed) in enumerate(found) if fixed}
        # Last, for the message about a mask says more.
        whole = {_ARCHITECTURE: describe(self.distribution)}
        return {**fixed, f"{len(found)}: {self.distribution.name}": whole}

    def structure_hashes(self) -> list[bytes]:
        """What tells the fixed structure of one model from that of another, for every part."""
        return [_hash(fixed) for fixed in self._structure().values()]

    def check_structure(self, saved: list[bytes], *, whole: bool = True) -> None:
        """Raise a ValueError unless these are the model's own `structure_hashes`.

        Without `whole`, classes and arguments are not compared.
        """
        # By the last byte versions are compared: what another one wrote says nothing.
        if any(digest[-1] != _STRUCTURE_VERSION for digest in saved):
            return
        structure = self._structure()
        if len(saved) != len(structure):
            raise ValueError(
                f"The weights must be of a model with {len(structure) - 1} parts that have masks, "
                f"orders or permutations. Received: weights of one with {len(saved) - 1}"
            )
        for (name, fixed), digest in zip(structure.items(), saved, strict=True):
            if digest != _hash(fixed) and (whole or _ARCHITECTURE not in fixed):
                seed = "" if _ARCHITECTURE in fixed else ", as the same seed makes it"
                raise ValueError(
                    f"The weights must be of a model with the same {' and '.join(fixed)} in "
                    f"{name.partition(': ')[2]!r}{seed}. Received: weights of another, which would "
                    "give another density"
                )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_numbers: int | None = None) -> SavableModel:
        """Load what `save` wrote; like `keras.saving.load_model`, with plainer errors.

        A file cannot make the memory overflow: before variables are made, their number is compared
        with the size of the file.

        Args:
          path: a `.keras` file.
          max_numbers: how many numbers the model may allocate while it is built; by default, as
            many as the file has bytes, which is four times what it needs, and at least 2²⁶.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is truncated, damaged, compressed beyond reason, holds something
            else than a FlowModel, or describes one that needs more than `max_numbers`.
        """
        path = Path(path)
        if path.is_dir():
            raise FileNotFoundError(
                f"{str(path)!r} is a folder: `keras.saving.load_model` reads what was saved with "
                "zipped=False."
            )
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(map(_checked_size, archive.infolist()))
                config = json.loads(archive.read("config.json"))
                with archive.open("model.weights.h5") as weights:
                    _check_weights(weights, size)
            name = config["registered_name"] or config["class_name"]
            saved = keras.saving.get_registered_object(name)
            if not (isinstance(saved, type) and issubclass(saved, cls)):
                raise ValueError(f"it holds a {name}.")  # Keras would build whatever it is.
            with serialization.allocation_limit(max_numbers or max(size, _SMALL)):
                return keras.saving.load_model(path)
        except Exception as error:  # What a damaged file raises depends on where it is damaged.
            raise ValueError(f"{str(path)!r} is not a saved FlowModel: {error}") from error


class _StructureState(tf.train.experimental.PythonState):
    """The fixed structure in a `tf.train.Checkpoint`, which is compared when it is restored."""

    def __init__(self, model: SavableModel) -> None:
        self._model = model

    def serialize(self) -> str:
        return b"".join(self._model.structure_hashes()).hex()

    def deserialize(self, string_value: bytes | str) -> None:
        text = string_value if isinstance(string_value, str) else string_value.decode()
        saved = bytes.fromhex(text)
        self._model.check_structure([saved[i : i + 16] for i in range(0, len(saved), 16)])


def _structure_of(part: Any) -> Mapping[str, Any]:
    """What the part says is fixed in it. TFP's permutation cannot say, and may be random too."""
    if isinstance(part, tfb.Permute):
        return {"permutation": part.permutation}
    return getattr(part, "fixed_structure", {})


def _hash(fixed: Mapping[str, Any]) -> bytes:
    text = json.dumps(
        {
            name: value if name == _ARCHITECTURE else np.asarray(value).tolist()
            for name, value in fixed.items()
        }
    )
    return hashlib.sha256(text.encode()).digest()[:15] + bytes([_STRUCTURE_VERSION])


def _checked_size(entry: zipfile.ZipInfo) -> int:
    """The size of an entry of an archive; a ValueError if little would unpack to very much."""
    if entry.file_size > max(_SMALL, _MOST_COMPRESSED * entry.compress_size):
        raise ValueError(
            f"{entry.filename!r} would unpack from {entry.compress_size:,} to "
            f"{entry.file_size:,} bytes."
        )
    return entry.file_size


def _check_weights(file: Any, size: int) -> None:
    """Raise a ValueError if the arrays of a file of weights are much larger than the file."""
    total = 0

    def add(_: str, item: Any) -> None:
        nonlocal total
        total += item.nbytes if isinstance(item, h5py.Dataset) else 0

    with h5py.File(file, "r") as weights:
        weights.visititems(add)
    if total > max(_SMALL, _MOST_COMPRESSED * size):
        raise ValueError(f"{size:,} bytes would unpack to weights of {total:,} bytes.")
