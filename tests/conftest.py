"""Settings that all tests share, made before TensorFlow is imported, and fixtures of many files."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# To make machine code fast takes XLA three quarters of its time, and most of it runs once here.
# A TensorFlow that does not know one of these options stops.
if importlib.metadata.version("tensorflow").startswith("2.21."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_parallel_codegen_split_count=1",
    )

import pytest


def pytest_collection_modifyitems(items):
    """What takes long comes first: at the end, workers share what is left in small parts."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """Traced functions are full of circles, and freed memory stays with the process unless told."""
    yield
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # A C library of another kind.
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(autouse=True)
def seed():
    """What draws without a seed, as shuffling does, draws the same whatever ran before."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared():
    """One compiled model for all tests that only look at how training runs."""
    from training import DATA, compiled, weights

    model = compiled()
    model.adapt(DATA)
    model.initial = weights(model)
    model.fit(DATA[:16], batch_size=16, verbose=0)
    return model


@pytest.fixture
def model(shared):
    """The same model, as new."""
    shared.set_weights(shared.initial)
    for variable in shared.optimizer.variables:
        variable.assign(0 * variable)
    shared.optimizer.learning_rate = 0.01
    return shared


@pytest.fixture
def policy(request):
    """Keras' dtype policy of the parameter's name, for one test."""
    import keras

    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with a table, for the command."""
    from command_line import make_table

    folder = tmp_path_factory.mktemp("cli")
    make_table().to_csv(folder / "people.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def fitted(folder):
    """A folder with a flow of two columns, fitted for two epochs."""
    from command_line import fit

    return fit(folder, "fitted", "--columns", "height,weight")


@pytest.fixture(scope="module")
def plain():
    """A compiled model of two columns, not adapted."""
    from small_flows import affine_model

    made = affine_model()
    made.compile("adam")
    return made


@pytest.fixture(scope="module")
def conditional():
    """The same given three columns."""
    from small_flows import affine_model

    made = affine_model(context_size=3)
    made.compile("adam")
    return made


@pytest.fixture(scope="module")
def faithful():
    """A small model that is adapted to the table `datasets.faithful`, and the table."""
    from tfp_flows import FlowModel, datasets, flows

    x, _ = datasets.faithful()
    model = FlowModel(flows.real_nvp(2, layers=2, hidden_units=(8,), seed=0))
    model.adapt(x)
    return model, x


@pytest.fixture
def line():
    """A flow of one column."""
    from tensorflow_probability import distributions as tfd

    from tfp_flows import Flow, bijectors

    return Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 1), bijectors.BimodalSoftsign())
