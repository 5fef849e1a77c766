"""The entry point of the command `tfp-flows`: `tfp_flows.cli`, without TensorFlow's chatter.

TensorFlow's C++ libraries write start-up messages to file descriptor 2, whatever Python has set,
and importing any part of `tfp_flows` imports TensorFlow: so this stands outside the package. Set
TF_CPP_MIN_LOG_LEVEL to see the messages.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def main() -> None:
    """Run `tfp_flows.cli.main`."""
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    with _hidden_messages() if quiet else contextlib.nullcontext():
        import tensorflow as tf

        tf.config.list_physical_devices()  # Looks for GPUs now, while messages are hidden.
        from tfp_flows import cli
    cli.main()


@contextlib.contextmanager
def _hidden_messages() -> Iterator[None]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden:
        kept = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    main()
