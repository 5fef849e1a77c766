"""Autoregressive flows: one direction costs one call of every network."""

from __future__ import annotations

from tensorflow_probability import bijectors as tfb
from typing_extensions import Unpack

from tfp_flows.bijectors import MaskedAutoregressive
from tfp_flows.bijectors.transformers import Affine, RationalQuadraticSpline, Transformer
from tfp_flows.distributions.flow import Flow
from tfp_flows.flows.build import Builder
from tfp_flows.flows.options import AutoregressiveOptions, family

__all__ = ["autoregressive", "autoregressive_spline", "iaf", "maf"]


@family()
def autoregressive(
    event_size: int, transformer: Transformer, **options: Unpack[AutoregressiveOptions]
) -> Flow:
    """Autoregressive layers with any transformer: a column is transformed by those before it.

    In every layer, from base to data, `y_i = transformer(x_i; network(y_1, ..., y_{i-1}, context))`
    with the columns in their order, or in the reversed order in every other layer.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call. Both cost what the transformer does, too: for a cheap
    density, give `transformers.Inverse` of one that has no closed inverse.

    What `linear` names mixes columns before every layer besides; `actnorm` standardizes them.
    `passes` and `residual` are those of `MaskedAutoregressive`. With a transformer for angles
    (`CircularSpline`) columns are radians, networks read their sines and cosines, and the base is
    uniform on the torus; `linear`, `actnorm` and `support` would break the circle and must be left
    out.

    `transformer` is any `bijectors.transformers.Transformer`; the layers share it.

    Raises:
      ValueError: an option is not what it must be.
      TypeError: `transformer` is not a `Transformer`, or there is no such keyword.

    Source: George Papamakarios, Theo Pavlakou and Iain Murray, "Masked Autoregressive Flow for
    Density Estimation" (2017).

    Example:
      >>> spline = bijectors.transformers.QuadraticSpline(bins=6)
      >>> flow = flows.autoregressive(3, spline, layers=2)
      >>> flow.log_prob(np.zeros((5, 3)))     # (5,)
    """
    build = Builder(event_size, options, transformer)
    return build.flow(_autoregressive_layers(build, transformer, options))


@family()
def maf(event_size: int, **options: Unpack[AutoregressiveOptions]) -> Flow:
    """MAF: masked autoregressive flow, with affine layers.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call. Every other layer has the reversed order.

    Source: George Papamakarios, Theo Pavlakou and Iain Murray, "Masked Autoregressive Flow for
    Density Estimation" (2017).

    Example:
      >>> flow = flows.maf(3, layers=2)
    """
    return autoregressive(event_size, Affine(), **options)


@family()
def iaf(event_size: int, **options: Unpack[AutoregressiveOptions]) -> Flow:
    """IAF: inverse autoregressive flow, the mirror image of MAF.

    `sample` and `sample_and_log_prob` cost one network call a layer; `log_prob` goes through the
    columns one after another. For variational inference.

    Source: Durk Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow"
    (2016).

    Example:
      >>> x, log_prob = flows.iaf(3, layers=2).sample_and_log_prob(5)
    """
    build = Builder(event_size, options)
    layers = _autoregressive_layers(build, Affine(), options)
    return build.flow([tfb.Invert(layer) for layer in layers])


@family(layers=4)
def autoregressive_spline(
    event_size: int,
    *,
    bins: int = 8,
    bound: float = 5.0,
    **options: Unpack[AutoregressiveOptions],
) -> Flow:
    """Autoregressive neural spline flow.

    `log_prob` costs one network call a layer; `sample` goes through the columns one after another,
    with the arithmetic of about one call. `bins` and `bound` are those of
    `RationalQuadraticSpline`.

    Source: Conor Durkan, Artur Bekasov, Iain Murray and George Papamakarios, "Neural Spline Flows"
    (2019).

    Example:
      >>> flow = flows.autoregressive_spline(3, layers=2)
    """
    return autoregressive(event_size, RationalQuadraticSpline(bins=bins, bound=bound), **options)


def _autoregressive_layers(
    build: Builder, transformer: Transformer, options: AutoregressiveOptions
) -> list[MaskedAutoregressive]:
    """Autoregressive layers, every other one in reversed order."""
    return [
        MaskedAutoregressive(
            build.size,
            transformer,
            options["hidden_units"],
            order="reversed" if i % 2 else None,
            context_size=build.context_size,
            dtype=build.dtype,
            seed=build.next_seed(),
            passes=options["passes"],
            residual=options["residual"],
            activation=options["activation"],
        )
        for i in range(build.layers)
    ]
