"""GaussianMixture: a mixture of normals with full covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_flows.distributions.conditional import NotReparameterized
from tfp_flows.distributions.edges import without_density, without_infinite
from tfp_flows.ops.checks import check_events, floating, positive_int
from tfp_flows.ops.limits import claim

__all__ = ["GaussianMixture"]


class GaussianMixture(NotReparameterized):
    """A mixture of normals with full covariances, which are weights and no arguments.

    `p(x) = Σ_k w_k N(x; μ_k, L_k L_kᵀ)`. `set_parameters` gives it what another program has fitted,
    and training goes on from there. Before, all components are the same standard normal, and no
    gradient would part them. Draws are not reparametrized.

    Shapes: events `(event_size,)`; weights are logits `(components,)`, means
    `(components, event_size)`, and triangles `L` `(components, event_size, event_size)`, of whose
    diagonal the logarithm is kept.

    Args:
      event_size: number of columns.
      components: how many normals.
      dtype: floating dtype of events.
      name: name of the distribution.

    Raises:
      ValueError: a size is not a positive integer, or `dtype` neither float32 nor float64.

    Source: Arthur Dempster, Nan Laird and Donald Rubin, "Maximum Likelihood from Incomplete Data
    via the EM Algorithm" (1977), by which such mixtures are fitted.

    Example:
      >>> mixture = distributions.GaussianMixture(2, components=2)
      >>> mixture.set_parameters([0.4, 0.6], [[0.0, 0.0], [3.0, 3.0]], [np.eye(2)] * 2)
      >>> mixture.log_prob([0.0, 0.0])
    """

    def __init__(
        self,
        event_size: int,
        components: int,
        *,
        dtype: str | tf.DType = "float32",
        name: str = "GaussianMixture",
    ):
        parameters = dict(locals())
        self.event_size = positive_int(event_size, "event_size")
        self.components = positive_int(components, "components")
        dtype = floating(dtype)
        matrices = [components, event_size, event_size]
        claim(*matrices)
        self._logits = tf.Variable(tf.zeros([components], dtype), name="logits")
        self._means = tf.Variable(tf.zeros([components, event_size], dtype), name="means")
        # Below the diagonal the triangle as it is, on it the logarithm.
        self._triangles = tf.Variable(tf.zeros(matrices, dtype), name="triangles")
        super().__init__(dtype=dtype, parameters=parameters, name=name)

    @classmethod
    def _parameter_properties(
        cls, dtype: tf.DType | None, num_classes: int | None = None
    ) -> dict[str, Any]:
        return {}

    def set_parameters(self, weights: Any, means: Any, covariances: Any) -> None:
        """Take weights `(K,)`, means `(K, D)` and covariances `(K, D, D)`.

        Raises:
          ValueError: they have other shapes, weights are not positive, or a covariance is not
            symmetric and positive definite.
        """
        k, size = self.components, self.event_size
        values = {
            name: np.asarray(value, "float64")
            for name, value in (
                ("weights", weights),
                ("means", means),
                ("covariances", covariances),
            )
        }
        shapes = {"weights": (k,), "means": (k, size), "covariances": (k, size, size)}
        for name, value in values.items():
            if value.shape != shapes[name] or not np.isfinite(value).all():
                raise ValueError(
                    f"`{name}` must be finite and have shape {shapes[name]}. "
                    f"Received: shape={value.shape}"
                )
        if (values["weights"] <= 0).any():
            raise ValueError(f"`weights` must be positive. Received: weights={weights!r}")
        covariances = values["covariances"]
        try:
            triangles = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError as error:
            raise ValueError("`covariances` must be positive definite.") from error
        skew = np.abs(covariances - np.swapaxes(covariances, -1, -2))
        if (skew > 1e-6 * np.abs(covariances).max(axis=(-2, -1), keepdims=True)).any():
            raise ValueError("`covariances` must be symmetric.")
        diagonal = np.arange(size)
        triangles[:, diagonal, diagonal] = np.log(triangles[:, diagonal, diagonal])
        self._logits.assign(np.log(values["weights"]))
        self._means.assign(values["means"])
        self._triangles.assign(triangles)

    def mixture(self) -> tfd.MixtureSameFamily:
        """The same as one of TFP's own distributions."""
        diagonal = tf.exp(tf.linalg.diag_part(self._triangles))
        triangles = tf.linalg.set_diag(tf.linalg.band_part(self._triangles, -1, 0), diagonal)
        return tfd.MixtureSameFamily(
            tfd.Categorical(logits=self._logits),
            tfd.MultivariateNormalTriL(self._means, triangles),
        )

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        check_events(self, value)
        value, infinite, far_out = without_infinite(value, 1)
        return without_density(self.mixture().log_prob(value), infinite, far_out)

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        return self.mixture().sample(n, seed=seed)

    def _mean(self) -> tf.Tensor:
        return self.mixture().mean()

    def _covariance(self) -> tf.Tensor:
        return self.mixture().covariance()

    def _variance(self) -> tf.Tensor:
        return self.mixture().variance()

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self.event_size])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self.event_size])

    def _default_event_space_bijector(self) -> tfb.Bijector:
        return tfb.Identity()
