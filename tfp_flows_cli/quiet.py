"""TensorFlow without its chatter: its C++ libraries write to file descriptor 2 as they start."""

from __future__ import annotations

import os
import sys
import tempfile

__all__ = ["load_tensorflow"]


def load_tensorflow() -> None:
    """Import TensorFlow, the messages of which are hidden whatever TF_CPP_MIN_LOG_LEVEL is.

    It takes seconds: commands call this when all that can be checked without is checked.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden:
        kept = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # Looks for GPUs now, while messages are hidden.
            import tfp_flows  # noqa: F401
        finally:
            os.dup2(kept, 2)
            os.close(kept)
