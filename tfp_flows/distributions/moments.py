"""Moments: what TFP knows of a transformed distribution, where it is right; and modes."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions.chain import flatten_chain
from tfp_flows.distributions.modes import find_mode
from tfp_flows.ops.capabilities import is_affine
from tfp_flows.ops.checks import positive_int
from tfp_flows.ops.internals import TransformedDistributionBase, is_injective
from tfp_flows.ops.seeds import check_seed

__all__ = ["Moments"]


class Moments(TransformedDistributionBase):
    """Mean and spread of flows over affine bijectors; entropy over bases with a density; modes.

    TFP takes every bijector with a constant determinant for affine, which networks can be without.

    Raises:
      NotImplementedError: a bijector is not known to be affine, or events of the base have fewer
        dimensions than columns.
    """

    def _mean(self) -> tf.Tensor:
        self._check_affine("mean")
        return super()._mean()

    def mode(
        self, context: Any | None = None, *, starts: int = 32, seed: int = 0, name: str = "mode"
    ) -> tf.Tensor:
        """The densest event, `(D,)`, or `(*batch, D)` given context: the MAP of a posterior.

        Of affine flows it is the image of the base's mode. Of others it is found by ascent from
        draws, in the space of the base: of several maxima the highest one that was found. It is
        that of the density of the data, in their units, and moves where these are bent, as modes
        do. The ascent runs outside of graphs.

        Args:
          context: `(*batch, *context_shape)`, if the flow needs context.
          starts: how many draws it starts from.
          seed: of these.
          name: of the operations.

        Raises:
          ValueError: an event nearby is still denser by 1e-3 nats after 10 rounds, as where the
            density has no maximum; an argument is out of range; or as in `given`.
          NotImplementedError: events are no vectors, or the bijector is not injective.

        Example:
          >>> flow = Flow(tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Exp())
          >>> float(np.round(flow.mode()[0], 3))     # 0.368
        """
        flow: Any = self
        flow = flow.given(context)
        positive_int(starts, "starts")
        if not tf.executing_eagerly():
            raise ValueError("`mode` must be called outside of a `tf.function`.")
        seed = check_seed(seed) or 0
        if all(map(is_affine, flatten_chain(flow.bijector))):
            with contextlib.suppress(NotImplementedError):  # By mixtures, which are climbed.
                found = super(Moments, flow).mode(name=name)
                if np.isfinite(found).all() and np.isfinite(flow.log_prob(found)).all():
                    return found
        if flow.event_shape.rank != 1 or not is_injective(flow.bijector):
            raise NotImplementedError(
                "`mode` needs vectors as events, and injective bijectors. "
                f"Received: event_shape={flow.event_shape}, bijector={flow.bijector!r}"
            )
        with tf.name_scope(name):
            return find_mode(flow, starts, seed)

    def _stddev(self) -> tf.Tensor:
        self._check_affine("stddev")
        try:
            return super()._stddev()
        except NotImplementedError:  # TFP knows it of scalar bijectors, and more of covariances.
            return tf.sqrt(tf.linalg.diag_part(self._covariance()))

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
