"""A loss that turns NaN or infinite: what stops, what is kept, and which layer is named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import normal
from training import CONTEXT, CONTEXTS, DATA, compiled, same, standard, train, weights

from tfp_flows import Flow, bijectors
from tfp_flows.model import guard

tfd, tfb = tfp.distributions, tfp.bijectors
transformers = bijectors.transformers


LIMIT = 0.15


@tf.custom_gradient
def nan_gradient_above_the_limit(x):
    return tf.identity(x), lambda upstream: tf.where(x > LIMIT, np.nan, upstream)


class Fragile(bijectors.Bijector):
    """A trained scale that makes NaN, in the value or in the gradient alone, above a limit."""

    def __init__(self, gradient_only=False, name="fragile"):
        parameters = dict(locals())
        self.gradient_only = gradient_only
        self.log_scale = tf.Variable(0.0, name="log_scale")
        super().__init__(
            forward_min_event_ndims=1, dtype=tf.float32, parameters=parameters, name=name
        )

    def _safe(self):
        log_scale = tf.convert_to_tensor(self.log_scale)
        if self.gradient_only:
            return nan_gradient_above_the_limit(log_scale)
        return tf.where(log_scale > LIMIT, np.nan, log_scale)

    def _forward_and_log_det(self, x):
        return x * tf.exp(self._safe()), 2 * self._safe() + tf.zeros_like(x[..., 0])

    def _inverse_and_log_det(self, y):
        return y * tf.exp(-self._safe()), -2 * self._safe() + tf.zeros_like(y[..., 0])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_that_turns_nan_stops_training_and_keeps_the_best_weights(
    gradient_only, jit_compile
):
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,), name="innocent", seed=0)
    flow = Flow(standard(), tfb.Chain([coupling, Fragile(gradient_only)]))
    model = compiled(flow, keras.optimizers.SGD(0.001), jit_compile=jit_compile)
    best = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if np.isfinite(logs["loss"]):
                best[logs["val_loss"]] = weights(self.model)

    message = (
        "not the gradient of 'fragile/log_scale:0' in bijector 'fragile'"
        if gradient_only
        else "The first layer to give a NaN is bijector 2 of 2 from the data, 'fragile'"
    )
    data = 3 * normal(64, 2)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        history = train(model, data, epochs=20, validation_data=(data,), callbacks=[Watch()])
    text = str(caught[0].message)
    assert text.startswith("Training stopped at batch ")
    assert 1 < len(history["loss"]) < 20
    assert np.isnan(history["loss"][-1])
    kept = model.evaluate(data, verbose=0)
    if gradient_only:  # The steps before it have made the weights better.
        assert "The best finite weights are kept, those of the last step" in text
        assert kept < min(best)
    else:
        assert "The best finite weights are kept, those of the end of epoch" in text
        assert same(weights(model), best[min(best)])
        assert kept == pytest.approx(min(best), abs=1e-6)


def test_the_best_weights_are_those_of_the_best_validation(model):
    stop = guard.StopOnNonFinite(lambda: "Why.", lambda: 0.0)
    stop.set_model(model)
    stop.on_train_begin()
    stop.on_train_batch_begin(0)
    model.stop_training = False
    logs = [
        {"loss": -9.0},
        {"loss": 3.0, "val_loss": 1.0},
        {"loss": -8.0},
        {"loss": 2.0, "val_loss": 2.0},
    ]
    for epoch, log in enumerate(logs):
        model.set_weights([np.full_like(w, epoch + 1.0) for w in model.initial])
        stop.on_epoch_end(epoch, log)
    with pytest.warns(RuntimeWarning, match=r"at batch 7: .* Why\. The best finite weights"):
        stop.on_train_batch_end(7, {"loss": np.inf})
    assert model.stop_training
    assert all((w == 2.0).all() for w in weights(model))


def test_nan_in_the_first_epoch_leaves_finite_weights():
    flow = Flow(standard(), Fragile())
    flow.bijector.log_scale.assign(0.3)
    model = compiled(flow)
    with pytest.warns(RuntimeWarning, match="The last finite weights are kept"):
        history = train(model)
    assert len(history["loss"]) == 1
    assert flow.bijector.log_scale == 0.3


def test_of_a_step_with_one_bad_gradient_no_weight_is_changed():
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,), seed=0)
    fragile = Fragile(gradient_only=True)
    model = compiled(Flow(standard(), tfb.Chain([coupling, fragile])))
    before = weights(model)
    assert np.isfinite(model.train_step(DATA)["loss"])
    assert not same(weights(model), before)
    fragile.log_scale.assign(0.3)
    before = weights(model)
    assert np.isnan(model.train_step(DATA)["loss"])
    assert same(weights(model), before)


def test_the_base_and_the_log_determinant_can_be_the_culprit():
    outside = Flow(
        tfd.Independent(tfd.Uniform([0.0, 0.0], tf.Variable([1.0, 1.0])), 1), tfb.Scale(1.0)
    )
    with pytest.warns(RuntimeWarning, match="an infinite value is the base distribution, 'Ind"):
        train(compiled(outside))
    squashed = bijectors.BimodalSoftsign(scale=tf.Variable(2.0))
    coupling = bijectors.Coupling(2, transformers.Affine(), (8,))
    with pytest.warns(RuntimeWarning, match="'bimodal_softsign', in its log-determinant"):
        train(compiled(Flow(standard(), tfb.Chain([squashed, coupling]))))
    # Of TFP's own classes: all is well with the data, but not once they are shifted.
    wide = bijectors.BimodalSoftsign(scale=20.0)
    chain = tfb.Chain([tfb.Shift(tf.Variable([100.0, 0.0])), wide])
    plain = tfd.TransformedDistribution(standard(), chain)
    with pytest.warns(RuntimeWarning, match="bijector 2 of 2 from the data, 'bimodal_softsign'"):
        train(compiled(plain))
    # With context.
    steps = [bijectors.Coupling(2, transformers.Affine(), (8,), context_size=CONTEXT), squashed]
    with pytest.warns(RuntimeWarning, match="bijector 2 of 2 from the data, 'bimodal_softsign'"):
        train(compiled(Flow(standard(), tfb.Chain(steps))), CONTEXTS, DATA)


def test_the_search_for_the_culprit_ends_on_endless_data():
    first = [DATA[:4], DATA[:4], np.full([4, 2], np.nan, "float32")]

    def generator():
        while True:
            yield first.pop(0) if first else DATA[:4]  # the NaN comes once, and never again

    dataset = tf.data.Dataset.from_generator(
        generator, output_signature=tf.TensorSpec([4, 2], tf.float32)
    )
    with pytest.warns(RuntimeWarning, match="batch 2: .* could not be found again"):
        shift = tfb.Shift(tf.Variable([0.0, 0.0]))
        train(compiled(Flow(standard(), shift)), dataset, steps_per_epoch=10, batch_size=None)


def test_terminate_on_nan_does_not_get_in_the_way():
    flow = Flow(standard(), Fragile())
    flow.bijector.log_scale.assign(0.3)
    with pytest.warns(RuntimeWarning, match="'fragile'"):
        train(compiled(flow), callbacks=[keras.callbacks.TerminateOnNaN()])
