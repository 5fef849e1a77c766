"""Files that earlier versions wrote load as the densities that they were."""

from pathlib import Path

import numpy as np
import pytest

from tfp_flows import FlowModel

FILES = Path(__file__).parent / "files"


@pytest.mark.parametrize("path", sorted(FILES.glob("*.keras")), ids=lambda path: path.stem)
def test_an_older_file_gives_the_same_weights_and_densities(path):
    model = FlowModel.load(path)
    known = np.load(path.with_suffix(".npz"))
    for i, weight in enumerate(model.get_weights()):
        assert np.array_equal(weight, known[f"weight_{i}"])
    assert f"weight_{len(model.get_weights())}" not in known
    context = [known["context"]] if "context" in known else []
    found = model.log_prob(known["x"], *context)
    # Rounding differs between processors; on one, the difference is 0.
    assert np.allclose(found, known["log_prob"], rtol=0, atol=2e-5)
