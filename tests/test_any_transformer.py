"""`flows.coupling` and `flows.autoregressive` with every transformer, and the keywords of flows."""

import hashlib
import inspect
import typing
from collections.abc import Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import TRANSFORMERS
from helpers import normal, randomize
from tensorflow_probability import distributions as tfd
from typing_extensions import Unpack

from tfp_flows import Flow, bases, bijectors, flows
from tfp_flows.flows.options import CouplingOptions, family

t = bijectors.transformers

STRUCTURES = {"autoregressive": flows.autoregressive, "coupling": flows.coupling}
MAKERS = {name: getattr(flows, name) for name in (*STRUCTURES, *flows.names())}


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_any_transformer_makes_a_density_in_any_structure(structure, name):
    make, transformer = STRUCTURES[structure], TRANSFORMERS[name]
    options = {"hidden_units": (8,), "dtype": "float64", "seed": 0}
    x = tf.constant(np.tanh(normal(4, 3, dtype="float64")))
    fresh = make(3, transformer, layers=1, **options)
    assert (fresh.name, fresh.event_shape, fresh.context_size) == (structure, (3,), None)
    np.testing.assert_allclose(fresh.log_prob(x), fresh.distribution.log_prob(x), atol=1e-3)
    flow = randomize(make(3, transformer, layers=2, context_size=2, **options))
    context = normal(4, 2, dtype="float64")
    bijector = flow.given(context).bijector
    z = bijector.inverse(x)
    log_det = bijector.inverse_log_det_jacobian(x, 1)
    log_prob = flow.log_prob(x, context=context)
    np.testing.assert_allclose(log_prob, flow.distribution.log_prob(z) + log_det, atol=1e-9)
    assert np.isfinite(log_prob).all() and (np.abs(log_prob - fresh.log_prob(x)) > 1e-6).all()
    np.testing.assert_allclose(bijector.forward(tf.identity(z)), x, atol=1e-7)


def test_named_families_are_their_transformers_in_a_structure():
    options = {"hidden_units": (8,), "layers": 3, "linear": "lu", "actnorm": True, "seed": 0}
    x = normal(5, 4)
    for named, general in (
        (flows.real_nvp, lambda **o: flows.coupling(4, t.Affine(), **o)),
        (flows.maf, lambda **o: flows.autoregressive(4, t.Affine(), **o)),
        (
            flows.umnn,
            lambda **o: flows.autoregressive(4, t.Inverse(t.UnconstrainedMonotonic(8)), **o),
        ),
    ):
        np.testing.assert_array_equal(
            named(4, **options).log_prob(x), general(**options).log_prob(x)
        )


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("inverted", [False, True])
def test_angles_have_a_torus_as_base_and_nothing_that_breaks_it(structure, inverted):
    make, circular = STRUCTURES[structure], t.CircularSpline(bins=4)
    circular = t.Inverse(circular) if inverted else circular
    flow = randomize(make(2, circular, layers=2, hidden_units=(8,), dtype="float64"))
    x = np.pi * np.tanh(normal(6, 2, dtype="float64"))
    np.testing.assert_allclose(flow.log_prob(x + 2 * np.pi), flow.log_prob(x), atol=1e-9)
    base = bases.torus(2)
    assert make(2, circular, base=base, hidden_units=(8,)).distribution is base
    for option in ({"linear": "lu"}, {"actnorm": True}, {"support": "positive"}):
        with pytest.raises(ValueError, match=f"must be left out for angles.*{next(iter(option))}="):
            make(2, circular, **option)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_is_no_transformer_is_an_error(structure):
    for wrong in ("affine", t.Affine, bijectors.Coupling):
        with pytest.raises(TypeError, match="`transformer` must be an instance of bij"):
            STRUCTURES[structure](2, wrong)
    with pytest.raises(TypeError, match=rf"{structure}\(\): missing a required.*'transformer'"):
        STRUCTURES[structure](2)


@pytest.mark.parametrize("name", MAKERS)
def test_every_keyword_is_in_signature_types_and_help(name):
    function = MAKERS[name]
    parameters = inspect.signature(function).parameters
    common = {
        "layers": int,
        "hidden_units": Sequence[int],
        "linear": str | None,
        "actnorm": bool,
        "context_size": int | None,
        "embedding": keras.layers.Layer | None,
        "context_shape": Sequence[int] | None,
        "base": tfd.Distribution | None,
        "support": str | Sequence[typing.Any] | None,
        "dtype": str,
        "seed": int | None,
        "name": str,
    }
    assert next(iter(parameters)) == "event_size"
    hints = typing.get_type_hints(function)
    assert hints == {n: p.annotation for n, p in parameters.items()} | {"return": Flow}
    assert common.items() <= hints.items()
    assert parameters["name"].default == name
    for keyword, parameter in parameters.items():
        assert keyword in function.__doc__
        if keyword not in ("event_size", "transformer"):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert parameter.default is not inspect.Parameter.empty
    assert inspect.getdoc(function).index("Args:") < inspect.getdoc(function).index("Source:")


@pytest.mark.parametrize("name", MAKERS)
def test_a_wrong_keyword_is_named_with_the_nearest_and_all_that_are_known(name):
    event = (2, t.Affine()) if name in STRUCTURES else (2,)
    message = (
        rf"^{name}\(\) takes no keyword `layer`; did you mean `layers`\? It takes event_size, "
    )
    with pytest.raises(TypeError, match=message + r".*, seed, .* Received: layer=3$"):
        MAKERS[name](*event, layer=3)
    with pytest.raises(TypeError, match=rf"^{name}\(\) takes no keyword `zzz`\. It takes "):
        MAKERS[name](*event, zzz=None)
    with pytest.raises(TypeError, match=rf"^{name}\(\): too many positional arguments"):
        MAKERS[name](*event, 4)
    if name in flows.names():
        with pytest.raises(TypeError, match=rf"^{name}\(\) takes no keyword `layer`"):
            flows.get(name, 2, layer=3)


@pytest.mark.parametrize("option", [{"seed": "a"}, {"seed": -1}, {"seed": 1.5}, {"linear": []}])
def test_a_wrong_seed_or_linear_is_named(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        flows.real_nvp(2, layers=1, hidden_units=(4,), **option)


def test_options_of_one_structure_are_not_those_of_another():
    for make, wrong in ((flows.real_nvp, "passes"), (flows.maf, "dropout"), (flows.nice, "bins")):
        with pytest.raises(TypeError, match=f"takes no keyword `{wrong}`"):
            make(2, **{wrong: 1})


def test_a_flow_may_have_a_name():
    assert flows.maf(2, layers=1, name="posterior").name == "posterior"


def test_a_family_of_ones_own_takes_ten_lines():
    @family(layers=3)
    def cubic_flow(event_size: int, *, bins: int = 5, **options: Unpack[CouplingOptions]) -> Flow:
        """Couplings with cubic splines."""
        return flows.coupling(event_size, t.CubicSpline(bins=bins), **options)

    flow = cubic_flow(2, hidden_units=(8,))
    layers = flow.bijector.bijectors
    assert (flow.name, len(layers), layers[0].transformer.bins) == ("cubic_flow", 3, 5)
    assert inspect.signature(cubic_flow).parameters["layers"].default == 3
    assert "dropout: rate" in cubic_flow.__doc__
    with pytest.raises(TypeError, match=r"family\(\) takes no keyword `depth`"):
        family(depth=3)(cubic_flow.__wrapped__)


# Of the families before `coupling` and `autoregressive` were public: the shapes of variables, and
# their values with seed 0, are what saved weights and published results rest on. `residual` starts
# with units that bend since then.
DIGESTS = {
    "autoregressive_spline": "a96ecc9efdac",
    "bernstein": "adbbbd59a7e7",
    "bnaf": "65d760e1d741",
    "circular_spline": "20415206ab48",
    "elementwise_spline": "f6457542bb70",
    "flow_plus_plus": "b9ad1a5e01d5",
    "iaf": "6e9f20b4c410",
    "maf": "6e9f20b4c410",
    "naf": "fb3d740b1f3c",
    "neural_spline": "06275f58702f",
    "nice": "e62d3b5c73f5",
    "planar": "99a8da4b1078",
    "radial": "de1006e3d120",
    "real_nvp": "69dfeac35e10",
    "residual": "f93cd4c63ef5",
    "sum_of_squares": "76be77d4ab8a",
    "sylvester": "e3613ad0500e",
    "umnn": "8ab1fab69ee0",
}


def digest(flow: Flow) -> str:
    found = hashlib.sha256()
    for variable in flow.variables:
        found.update(repr(tuple(variable.shape)).encode())
        rounded = np.round(variable.numpy().astype("float64"), 3) + 0.0  # no minus zero
        found.update(rounded.tobytes())
    for layer in flow.bijector.bijectors:
        if isinstance(layer, bijectors.Coupling):
            found.update(layer.mask.tobytes())
    return found.hexdigest()[:12]


@pytest.mark.parametrize("name", DIGESTS)
def test_a_seed_gives_the_weights_it_always_gave(name):
    flow = flows.get(name, 4, layers=3, hidden_units=(8,), context_size=2, seed=0)
    assert digest(flow) == DIGESTS[name]
