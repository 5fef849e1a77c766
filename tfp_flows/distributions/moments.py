"""AffineMoments: what TFP knows of the moments of a transformed distribution, where it is right."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.ops.capabilities import is_affine
from tfp_flows.ops.internals import TransformedDistributionBase

__all__ = ["AffineMoments"]


class AffineMoments(TransformedDistributionBase):
    """Mean, mode and spread of flows over affine bijectors; entropy over bases with a density.

    TFP takes every bijector with a constant determinant for affine, which networks can be without.

    Raises:
      NotImplementedError: a bijector is not known to be affine, or events of the base have fewer
        dimensions than columns.
    """

    def _mean(self) -> tf.Tensor:
        self._check_affine("mean")
        return super()._mean()

    def _mode(self) -> tf.Tensor:
        self._check_affine("mode")
        return super()._mode()

    def _stddev(self) -> tf.Tensor:
        self._check_affine("stddev")
        return super()._stddev()

    def _covariance(self) -> tf.Tensor:
        self._check_affine("covariance")
        return super()._covariance()

    def _entropy(self) -> tf.Tensor:
        base = self.distribution
        _, tangents = base.experimental_local_measure(base.sample(seed=0), backward_compat=True)
        if not isinstance(tangents, tfp.experimental.tangent_spaces.FullSpace):
            raise NotImplementedError(
                "`entropy` is not known where the events of the base have fewer dimensions than "
                f"columns: estimate it from samples. Received: distribution={base!r}"
            )
        return super()._entropy()

    def _check_affine(self, name: str) -> None:
        if not all(map(is_affine, flatten_chain(self.bijector))):
            raise NotImplementedError(
                f"`{name}` is known of flows over affine bijectors only: estimate it from samples. "
                f"Received: bijector={self.bijector!r}"
            )
