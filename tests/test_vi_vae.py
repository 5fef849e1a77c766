"""FlowVAE, against a linear model whose log p(x) is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import flows, vi

tfd = tfp.distributions
WEIGHTS = np.array([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, 2.0, 0.3]], "float32")
EXACT = tfd.MultivariateNormalTriL(
    tf.zeros(4), tf.linalg.cholesky(WEIGHTS.T @ WEIGHTS + np.eye(4, dtype="float32"))
)


def encoder():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh")])


def decoder():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])


def linear(**options):
    """x = Wz + noise, with deviations of 1."""
    vae = vi.FlowVAE(encoder(), decoder(), 2, likelihood="normal", **options)
    vae.decoder.layers[0].kernel.assign(WEIGHTS)
    return vae


def test_weighted_estimates_are_those_of_the_closed_form():
    x = EXACT.sample(20, seed=0)
    vae = linear()
    few, many = (vae.log_prob(x, draws=n, seed=1) for n in (1, 20_000))
    np.testing.assert_allclose(many, EXACT.log_prob(x), atol=0.15)
    assert few.mean() < many.mean() - 0.5
    np.testing.assert_array_equal(
        vae.log_prob(x, draws=5, seed=1), vae.log_prob(x, draws=5, seed=1)
    )


def test_training_finds_the_posterior_and_its_elbo_the_evidence():
    x = EXACT.sample(2000, seed=0).numpy()
    vae = linear(posterior="mean_field", seed=0)
    vae.decoder.trainable = False
    vae.log_deviation.trainable = False
    vae.compile(keras.optimizers.Adam(0.01))
    vae.fit(x, batch_size=100, epochs=12, verbose=0)
    found = vae.evaluate(x, verbose=0, return_dict=True)
    evidence = float(tf.reduce_mean(EXACT.log_prob(x)))
    # Given x, z has correlated columns: of these, independent ones fall short by 0.02 nats.
    assert -0.05 < found["loss"] + evidence < 0.3
    np.testing.assert_allclose(found["loss"], found["reconstruction"] + found["kl"], rtol=1e-5)


@pytest.mark.parametrize("prior", [False, True])
def test_a_saved_autoencoder_is_the_same(prior, tmp_path):
    x = (EXACT.sample(16, seed=0).numpy() > 0).astype("float32")
    learned = flows.real_nvp(2, layers=2, hidden_units=(4,), seed=0) if prior else None
    free = 0.0 if prior else 0.5  # Which would keep the prior from training at first.
    vae = vi.FlowVAE(encoder(), decoder(), 2, prior=learned, free_bits=free, annealing_steps=3)
    vae.compile("adam")
    parts = [vae.encoder, vae.decoder, vae.posterior_model, *([vae.prior_model] if prior else [])]
    before = [part.get_weights() for part in parts]
    vae.fit(x, epochs=3, verbose=0)
    for part, old in zip(parts, before, strict=True):
        pairs = zip(part.get_weights(), old, strict=True)
        assert any(np.any(new != weight) for new, weight in pairs), part.name
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(loaded.log_prob(x, draws=3), vae.log_prob(x, draws=3))
    np.testing.assert_array_equal(loaded.sample(5, seed=0), vae.sample(5, seed=0))
    assert (loaded.free_bits, loaded.annealing_steps) == (free, 3)
    assert np.isin(vae.sample(5, seed=0), [0.0, 1.0]).all()
    mean = vae.sample(5, seed=0, mean=True).numpy()
    assert ((mean > 0) & (mean < 1)).all()
    for model in (vae, loaded):  # Compiled alike, with the same state of Adam.
        model.fit(x, epochs=2, shuffle=False, verbose=0)
    for weight, other in zip(vae.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_data_and_networks_of_any_dtype(likelihood, dtype):
    x = EXACT.sample(32, seed=0).numpy() > 0
    flow = flows.iaf(2, layers=1, hidden_units=(4,), context_size=4, dtype=dtype, seed=0)
    for network in ("float32", "float64"):
        parts = [
            keras.Sequential([keras.Input((rows,)), keras.layers.Dense(4, dtype=network)])
            for rows in (4, 2)
        ]
        vae = vi.FlowVAE(*parts, 2, flow, likelihood=likelihood, seed=0)
        vae.compile("adam")
        vae.fit(x.astype("int64"), verbose=0)
        expected = vae.log_prob(x.astype("float32"), draws=3)
        assert expected.dtype == dtype
        assert vae.log_prob(x[:0]).shape == (0,)
        for data in (x, x.astype("uint8"), x.astype("float64")):
            np.testing.assert_allclose(vae.log_prob(data, draws=3), expected, rtol=1e-5)


def test_grey_values_are_no_shares():
    vae = vi.FlowVAE(encoder(), decoder(), 2, "mean_field", seed=0)
    vae.compile("adam")
    x = np.full((8, 4), 255, "uint8")
    for call in (vae.fit, vae.evaluate):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`x` must hold shares"):
            call(x, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`x` must hold shares"):
        vae.log_prob(x)
    for shares in (x / 255, x / 255 + 1e-6):  # Rounding is no mistake.
        assert np.isfinite(vae.fit(shares, verbose=0).history["loss"]).all()


def test_an_autoencoder_that_cannot_be_saved_leaves_the_older_file(tmp_path):
    path = tmp_path / "vae.keras"
    linear(seed=0).save(path)
    before = path.read_bytes()
    vae = vi.FlowVAE(encoder(), decoder(), 2, likelihood=lambda z: tfd.Normal(z, 1.0))
    with pytest.raises(TypeError, match="`likelihood` holds"):
        vae.save(path)
    with pytest.raises(ValueError, match=r"must end in '\.keras'"):
        linear(seed=0).save(tmp_path / "vae.h5")
    assert path.read_bytes() == before


def test_free_bits_and_annealing_take_weight_from_the_divergence():
    x = EXACT.sample(64, seed=0).numpy()

    def first_loss(**options):
        vae = linear(seed=0, **options)
        vae.compile(keras.optimizers.SGD(0.0))
        found = vae.fit(x, batch_size=64, verbose=0).history
        return {name: values[0] for name, values in found.items()}

    plain, annealed = first_loss(), first_loss(annealing_steps=4)
    np.testing.assert_allclose(plain["loss"], plain["reconstruction"] + plain["kl"], rtol=1e-5)
    expected = annealed["reconstruction"] + annealed["kl"] / 4
    np.testing.assert_allclose(annealed["loss"], expected, rtol=1e-5)
    free = first_loss(free_bits=50.0)
    np.testing.assert_allclose(free["loss"], free["reconstruction"] + 50.0, rtol=1e-5)


@keras.saving.register_keras_serializable("test_vi_vae")
def poisson(output):
    return tfd.Independent(tfd.Poisson(log_rate=output), 1)


def test_a_likelihood_of_ones_own():
    vae = vi.FlowVAE(encoder(), decoder(), 2, likelihood=poisson)
    x = np.ones([3, 4], "float32")
    assert np.isfinite(vae.log_prob(x, draws=4)).all()
    again = vi.FlowVAE.from_config(vae.get_config())
    assert again.likelihood is poisson
    wrong = vi.FlowVAE(encoder(), decoder(), 2, likelihood=lambda o: tfd.Normal(o, 1.0))
    with pytest.raises(ValueError, match=r"wrap it in tfd\.Independent"):
        wrong.log_prob(x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder": 3}, TypeError, "`encoder` must be a Keras 3 layer"),
        ({"decoder": keras.layers.Dense(4)}, ValueError, "`decoder` must be built"),
        ({"latent_size": 0}, ValueError, "`latent_size` must be a positive integer"),
        ({"posterior": "ia"}, ValueError, "`flow` must be a Flow or one of"),
        ({"posterior": flows.maf(2)}, ValueError, r"`posterior` must have.*context_size=8"),
        ({"prior": flows.maf(3)}, ValueError, r"`prior` must have events of shape \(2,\)"),
        ({"prior": tfd.Normal(0.0, 1.0)}, TypeError, "`prior` must be a Flow"),
        ({"likelihood": "poisson"}, ValueError, "`likelihood` must be"),
        ({"free_bits": -1.0}, ValueError, "`free_bits` must be 0 or more"),
        ({"annealing_steps": 2.7}, ValueError, "`annealing_steps` must be a positive integer"),
    ],
)
def test_bad_arguments_are_one_clear_error(options, error, message):
    given = {"encoder": encoder(), "decoder": decoder(), "latent_size": 2, **options}
    with pytest.raises(error, match=message):
        vi.FlowVAE(**given)


def test_a_loss_metrics_and_weights_of_rows_are_refused():
    encoder = keras.Sequential([keras.Input([6]), keras.layers.Dense(8)])
    decoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(6)])
    vae = vi.FlowVAE(encoder, decoder, 2, posterior="real_nvp", seed=0)
    for loss in ("mse", lambda y, x: 0.0):
        with pytest.raises(ValueError, match="`loss` must be None: it is -ELBO"):
            vae.compile("adam", loss=loss)
    with pytest.raises(ValueError, match="`metrics` must be None"):
        vae.compile("adam", metrics=["mae"])
    vae.compile("adam")
    x = np.eye(6, dtype="float32")
    for method in (vae.fit, vae.evaluate):
        with pytest.raises(ValueError, match="takes data `x` alone"):
            method(x, sample_weight=np.zeros(6))


def test_a_dataset_of_unknown_length_is_its_rows_alone():
    x = EXACT.sample(1200, seed=0).numpy()
    vae = linear(seed=0)
    vae.compile(keras.optimizers.SGD(0.0))
    batches = [(rows,) for rows in np.split(x, 3)]
    data = tf.data.Dataset.from_generator(
        lambda: batches, output_signature=(tf.TensorSpec((400, 4)),)
    )
    expected = vae.evaluate(x, batch_size=400, return_dict=True, verbose=0)
    # By other draws; of four batches, of which one is none, it were three quarters.
    found = vae.evaluate(data, return_dict=True, verbose=0)
    assert found == pytest.approx(expected, rel=0.1)
    assert vae.fit(data, verbose=0).history["loss"][0] == pytest.approx(expected["loss"], rel=0.1)
