"""surrogate: a flow with the structure of a joint distribution, to be fitted to its posterior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd
from typing_extensions import Unpack

from tfp_flows import flows
from tfp_flows.bijectors import LU, Coupling, Elementwise, Whitening
from tfp_flows.bijectors.transformers import Affine
from tfp_flows.distributions.conditional import Conditional
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.options import AutoregressiveOptions, CouplingOptions, Option
from tfp_flows.ops.internals import TransformedDistributionBase
from tfp_flows.vi.joints import Joint, check_joint, part_names, unflatten

__all__ = ["Surrogate", "SurrogateOptions", "check_flow", "posterior_flow", "surrogate"]

_GAUSSIANS = ("full_rank", "mean_field")
_LAYERS, _WIDTH = 4, 64  # By default; networks are as wide as there are columns, at least.


class SurrogateOptions(AutoregressiveOptions, CouplingOptions, total=False):
    """The keywords of flows, and those of some families."""

    bins: Annotated[int, Option(8, "number of bins of splines.")]
    bound: Annotated[float, Option(5.0, "end of the interval of splines.")]


class Surrogate(Conditional, TransformedDistributionBase):
    """A flow on R^D in the shape of a joint distribution: what `vi.surrogate` returns.

    With the flow's density `q` and the bijector `b` from vectors to values of the joint:

    log_prob: `log q(b⁻¹(x)) + log |det ∂b⁻¹/∂x|`, in nats; `-inf` outside the support
    sample: `b(z)` with `z ~ q`

    Draws are structures like those of the joint distribution: lists, dictionaries or named tuples.
    Costs and context are those of the flow.

    Args:
      flow: with events `(D,)`.
      bijector: from `(D,)` to the structure.
      names: of the tensors of a draw, in the order of `tf.nest.flatten`.
      sizes: how many of the D columns each of them has.
      validate_args: as in every `tfd.Distribution`.
      name: name of the distribution.

    Raises:
      ValueError: `log_prob` is given another structure; or as in `Flow`.
      TypeError: as in `Flow`.

    Example:
      >>> model = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0), tfd.Exponential(1.0)])
      >>> posterior = vi.surrogate(model, "mean_field")
      >>> loc, rate = posterior.sample(5)
      >>> posterior.log_prob([loc, rate])     # (5,)
    """

    default_names: ClassVar[set[str]] = {"surrogate"}

    def __init__(
        self,
        flow: Flow,
        bijector: tfb.Bijector,
        names: list[str],
        sizes: list[int],
        *,
        validate_args: bool = False,
        name: str = "surrogate",
    ):
        parameters = dict(locals())
        self.context_size = flow.context_size
        self.names = list(names)
        self.sizes = list(sizes)
        super().__init__(
            flow, bijector, validate_args=validate_args, parameters=parameters, name=name
        )

    @property
    def flow(self) -> Flow:
        """The flow on R^D, which `FlowModel` saves."""
        return self.distribution

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context as `context=` takes it, or None."""
        return self.flow.context_shape

    def given(self, context: Any | None) -> tfd.Distribution:
        """The distribution under a context, `(*batch, *context_shape)`, with that batch shape."""
        flow = self.flow.given(context)
        return self if flow is self.flow else self._over(flow)

    def __getitem__(self, slices: Any) -> tfd.Distribution:
        """Some of the batch that contexts make, as of any TFP distribution."""
        return self._over(self.flow[slices])

    def _over(self, flow: tfd.Distribution) -> Surrogate:
        return Surrogate(flow, self.bijector, self.names, self.sizes, name=self.name)

    def _batch_shape(self) -> tf.TensorShape:
        return self.flow.batch_shape

    def _batch_shape_tensor(self) -> tf.Tensor:
        return self.flow.batch_shape_tensor()

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: int | None = None) -> dict[str, Any]:
        return super()._parameter_properties(dtype, num_classes)

    def _call_sample_n(self, sample_shape: Any, seed: Any) -> Any:
        return self.bijector.forward(self.flow.sample(sample_shape, seed=seed))

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any) -> tuple[Any, tf.Tensor]:
        z, log_prob = self.flow.sample_and_log_prob(sample_shape, seed=seed)
        value = self.bijector.forward(z)
        return value, log_prob - self.bijector.forward_log_det_jacobian(z, 1)

    def _log_prob(self, value: Any) -> tf.Tensor:
        z = self.bijector.inverse(value)
        ndims = tf.nest.map_structure(lambda shape: shape.rank, self.event_shape)
        log_det = self.bijector.inverse_log_det_jacobian(value, ndims)
        # TFP's bijectors give NaN for what is outside of their range.
        outside = ~(tf.reduce_all(tf.math.is_finite(z), -1) & tf.math.is_finite(log_det))
        log_prob = self.flow.log_prob(tf.where(outside[..., tf.newaxis], tf.zeros_like(z), z))
        # A NaN stays one: 0 times it.
        parts = zip(tf.nest.flatten(value), tf.nest.flatten(ndims), strict=True)
        is_nan = [tf.reduce_any(tf.math.is_nan(x), range(-n, 0)) for x, n in parts]
        missing = tf.reduce_any(tf.stack(tf.nest.flatten(is_nan)), 0)
        nowhere = tf.where(missing, float("nan"), float("-inf"))
        return tf.where(outside, tf.cast(nowhere, log_prob.dtype), log_prob + log_det)


def surrogate(
    joint: Joint, flow: str | Flow = "iaf", **options: Unpack[SurrogateOptions]
) -> Surrogate:
    """A trainable distribution with the structure of a joint distribution, for its posterior.

    Parts of the joint that are not pinned become columns of R^D: positive parts, intervals,
    Cholesky factors and ordered vectors by the bijectors that TFP chooses for them
    (`experimental_default_event_space_bijector`), proportions by `bijectors.Support`. The flow
    there ends in `bijectors.Whitening`, which `vi.fit` sets before it trains. Fresh, it is a
    standard normal within 1e-3.

    Save `FlowModel(posterior.flow)`, load it, and give its `distribution` as `flow`: the surrogate
    is the same again. The model itself is code, which is never saved.

    Args:
      joint: a `tfd.JointDistribution` of any kind, with the data pinned by `experimental_pin`, of
        continuous parts of one floating dtype. Mixtures take the bijector of their components,
        which must have one support in common.
      flow: `"mean_field"` or `"full_rank"` for a Gaussian with independent or with correlated
        columns; a family by its name in `flows.names()`; or a `Flow` with events (D,). For
        sampling, which `vi.fit` does, "iaf" and couplings are cheap.
      **options: those of the family, by default with 4 `layers` and two `hidden_units` as wide as
        there are columns, at least 64. With `context_size` or `embedding` the posterior is
        amortized: it is one for every context. The dtype is that of the joint.

    Raises:
      TypeError: `joint` is no joint distribution, or the family does not take an option.
      ValueError: a part of `joint` is discrete or on a sphere, or has another dtype or a batch
        shape; `flow` is unknown or has other events; a `support` or a `dtype` is given, which the
        joint says.

    Source: Alp Kucukelbir et al., "Automatic Differentiation Variational Inference" (2017).

    Example:
      >>> @tfd.JointDistributionCoroutineAutoBatched
      ... def model():
      ...     scale = yield tfd.HalfNormal(1.0, name="scale")
      ...     yield tfd.Sample(tfd.Normal(0.0, scale), 3, name="y")
      >>> posterior = vi.surrogate(model.experimental_pin(y=[0.5, -1.0, 2.0]), "neural_spline")
      >>> posterior.sample(5, seed=0).scale     # (5,)
    """
    dtype = check_joint(joint)
    for name in ("support", "dtype"):
        if name in options:
            raise ValueError(
                f"`{name}` must be left out: the joint distribution says it. "
                f"Received: {name}={options[name]!r}"
            )
    bijector, sizes = unflatten(joint, dtype)
    made = _flow(flow, sum(sizes), dtype, options)
    return Surrogate(made, bijector, part_names(joint), sizes)


def _flow(flow: str | Flow, size: int, dtype: tf.DType, options: SurrogateOptions) -> Flow:
    if isinstance(flow, Flow):
        if options:
            raise ValueError(
                f"Options must be left out with a finished `flow`. Received: {sorted(options)}"
            )
        if flow.event_shape != (size,) or flow.dtype != dtype:
            raise ValueError(
                f"`flow` must have events of shape ({size},) and dtype {dtype.name}. "
                f"Received: event_shape={flow.event_shape}, dtype={flow.dtype.name}"
            )
        return flow
    return posterior_flow(flow, size, dtype, options)


def posterior_flow(name: str, size: int, dtype: tf.DType, options: SurrogateOptions) -> Flow:
    """A fresh flow on R^D by its name, which ends in `Whitening`.

    Raises:
      ValueError: no flow has this name.
      TypeError: it does not take an option.
    """
    known = (*_GAUSSIANS, *flows.names())
    if name not in known:
        raise ValueError(f"`flow` must be a Flow or one of {sorted(known)}. Received: {name!r}")
    if name in _GAUSSIANS:
        return _gaussian(name, size, dtype, options)
    defaults = {"layers": _LAYERS, "hidden_units": (max(_WIDTH, size),) * 2}
    made = flows.get(name, size, **{**defaults, **options, "dtype": dtype.name})
    return made.copy(bijector=tfb.Chain([Whitening(size, dtype), made.bijector]))


def check_flow(flow: Any, name: str, size: int, context_size: int | None) -> None:
    """Raise an error that names it unless it is a flow with such events and context."""
    if not isinstance(flow, Flow):
        raise TypeError(f"`{name}` must be a Flow. Received: {name}={flow!r}")
    if flow.event_shape != (size,) or flow.context_size != context_size:
        raise ValueError(
            f"`{name}` must have events of shape ({size},) and context_size={context_size}. "
            f"Received: event_shape={flow.event_shape}, context_size={flow.context_size}"
        )


def _gaussian(name: str, size: int, dtype: tf.DType, options: SurrogateOptions) -> Flow:
    if unknown := options.keys() - {"context_size", "hidden_units", "seed"}:
        raise TypeError(
            f"{name!r} takes the options `context_size`, `hidden_units` and `seed` alone. "
            f"Received: {sorted(unknown)}"
        )
    context_size, seed = options.get("context_size"), options.get("seed")
    hidden_units = options.get("hidden_units", (_WIDTH,) * 2)
    given = {"context_size": context_size, "dtype": dtype, "seed": seed}
    if name == "full_rank":
        layer = LU(size, conditioner=hidden_units, **given)
    else:
        layer = Elementwise(size, Affine(), dtype)
        if context_size is not None:
            layer = Coupling(size, Affine(), hidden_units, mask=[False] * size, **given)
    base = tfd.MultivariateNormalDiag(tf.zeros([size], dtype), tf.ones([size], dtype))
    last = Whitening(size, dtype, diagonal=name == "mean_field")
    return Flow(base, tfb.Chain([last, layer]), name=name)


@tfd.RegisterKL(Surrogate, Surrogate)
@tfd.RegisterKL(Surrogate, TransformedDistributionBase)
@tfd.RegisterKL(TransformedDistributionBase, Surrogate)
def _kl(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    """That of the flows, if both have one shape: TFP compares bijectors that it makes anew."""
    if not (isinstance(a, Surrogate) and isinstance(b, Surrogate) and a.bijector is b.bijector):
        raise NotImplementedError(
            "`kl_divergence` is known of surrogates that share their bijector only: estimate it "
            f"from samples. Received: {a!r} and {b!r}"
        )
    return tfd.kl_divergence(a.flow, b.flow, name=name)
