"""Memory: a ring of arrays, with the newest rows in the place of the oldest."""

from __future__ import annotations

import numpy as np

from tfp_flows.ops.checks import positive_int

__all__ = ["Memory"]


class Memory:
    """The last `capacity` rows of some arrays, of which batches are drawn.

    Args:
      capacity: how many rows are kept.
      dtype: of all columns.
      **widths: the shape of one row of each array.

    Example:
      >>> memory = Memory(100, "float32", observations=(3,), rewards=())
      >>> memory.add(observations=np.zeros((2, 3)), rewards=np.ones(2))
    """

    def __init__(self, capacity: int, dtype: str, **widths: tuple[int, ...]):
        self.capacity = positive_int(capacity, "capacity")
        # Pages of zeros take memory when they are first written.
        self._arrays = {name: np.zeros((capacity, *w), dtype) for name, w in widths.items()}
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, **rows: np.ndarray) -> None:
        """Keep rows, an equal number of each array."""
        count = len(next(iter(rows.values())))
        places = np.arange(self._added, self._added + count) % self.capacity
        for name, array in self._arrays.items():
            array[places] = rows[name]
        self._added += count

    def draw(self, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A batch of rows, drawn with replacement."""
        places = rng.integers(len(self), size=size)
        return {name: array[places] for name, array in self._arrays.items()}

    def all(self) -> dict[str, np.ndarray]:
        """All rows, in the order in which they lie, which is that of time until it is full."""
        return {name: array[: len(self)] for name, array in self._arrays.items()}

    def clear(self) -> None:
        """Forget all rows."""
        self._added = 0

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` needs."""
        return {**self.all(), "added": np.array(self._added)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Hold the rows of a state.

        Raises:
          ValueError: the rows have other shapes, or are more than the capacity, or fewer than they
            would be in a memory of this capacity.
        """
        added = int(state["added"])
        for name, array in self._arrays.items():
            wanted = (min(added, self.capacity), *array.shape[1:])
            if state[name].shape != wanted:
                raise ValueError(
                    f"The checkpoint must hold {name!r} of shape {wanted}. "
                    f"Received: shape={state[name].shape}"
                )
        for name, array in self._arrays.items():
            array[: len(state[name])] = state[name]
        self._added = added
