"""What many tests use."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import tensorflow as tf


def normal(*shape: int, seed: int = 0, dtype: str = "float32", scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def randomize(module: tf.Module, seed: int = 0, stddev: float = 0.3) -> tf.Module:
    """Give all variables random values: fresh flows are the identity, where much goes unseen."""
    for i, variable in enumerate(module.trainable_variables):
        noise = tf.random.stateless_normal(variable.shape, [seed, i], stddev=stddev)
        variable.assign_add(tf.cast(noise, variable.dtype))
    return module


def mend(name: str, what: str) -> str:
    """What an assertion about a private name says when it fails."""
    return f"{what}: mend `{name}` in tfp_flows/ops/internals.py"


def run_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own and in another folder."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done
