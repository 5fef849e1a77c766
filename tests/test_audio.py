"""Sound: mel spectrograms, WaveGlow, waves of any length, and files."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import normal, randomize
from tensorflow_probability import distributions as tfd

from tfp_flows import Flow, FlowModel, audio, bijectors, distributions, flows, networks, testing

SMALL = {"mels": 5, "hop": 16, "flows": 5, "width": 8, "layers": 2, "seed": 0}


def tone(hertz, seconds=1.0, rate=8000):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype("float32")


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    ("rate", "window", "mels", "low"), [(8000, 512, 40, 0), (22050, 1024, 80, 60)]
)
def test_filters_are_those_of_librosa(scale, rate, window, mels, low):
    filters = pytest.importorskip("librosa").filters
    expected = filters.mel(sr=rate, n_fft=window, n_mels=mels, fmin=low, htk=scale == "htk")
    found = audio.mel_filters(mels, rate=rate, window=window, scale=scale, low=low)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_spectrograms_are_those_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    wave = normal(8192)
    window = signal.get_window("hann", 512)
    _, _, spectrum = signal.stft(
        np.pad(wave, (192, 192), "reflect"),
        window=window,
        noverlap=384,
        nperseg=512,
        boundary=None,
        padded=False,
    )
    filters = audio.mel_filters(40, rate=8000, window=512)
    expected = np.log(np.maximum(1e-5, filters @ np.abs(spectrum * window.sum()))).T
    found = audio.log_mel(wave, rate=8000, hop=128, mels=40)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_tone_is_loud_in_its_band():
    wave = np.stack([tone(300.0), tone(2000.0)])[:, :7936]
    found = audio.log_mel(wave.astype("float64"), rate=8000, hop=256, mels=30)
    assert found.shape == (2, 31, 30) and found.dtype == tf.float64
    filters = audio.mel_filters(30, rate=8000, window=1024)
    for row, hertz in zip(found, (300.0, 2000.0), strict=True):
        assert np.argmax(np.mean(row, 0)) == np.argmax(filters[:, round(hertz * 1024 / 8000)])
    silence = audio.log_mel(np.zeros(2048, "float32"), rate=8000, hop=256, mels=30)
    np.testing.assert_allclose(silence, np.log(1e-5), rtol=1e-5)


def test_frames_stand_where_their_samples_do():
    wave = np.zeros(4096, "float32")
    wave[1024:1280] = normal(256)  # Frame 4 of 16, at hop 256.
    loud = np.mean(audio.log_mel(wave, rate=8000, hop=256, mels=20), 1)
    assert np.argmax(loud) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hop": 100}, "a multiple of hop=100"),
        ({"hop": 512}, "2048 or more"),
        ({"mels": 500}, "holds none"),
        ({"scale": "bark"}, "`scale` must be one of"),
        ({"low": 5000.0}, "`low` and `high`"),
        ({"floor": 0.0}, "`floor`"),
        ({"floor": np.inf}, "`floor`"),
    ],
)
def test_wrong_arguments_of_spectrograms_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        audio.log_mel(
            np.zeros(1024, "float32"), **{"rate": 8000, "hop": 128, "mels": 10, **options}
        )


@pytest.mark.parametrize(("mels", "dtype"), [(5, "float64"), (None, "float32")])
def test_waveglow_obeys_all_laws(mels, dtype):
    flow = randomize(flows.waveglow(64, dtype=dtype, **{**SMALL, "mels": mels}), stddev=0.05)
    context = None if mels is None else normal(6, 4, 5).astype(dtype)
    testing.check_flow(flow, normal(6, 64, 1).astype(dtype), context)
    exits = [part for part in flow.submodules if isinstance(part, bijectors.MultiScale)]
    assert [exit.kept for exit in exits] == [6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 40}, "`samples` must be a multiple of `hop`"),
        ({"group": 3}, "`hop` must be a multiple of `group`"),
        ({"group": 1}, "`group` must be 2 or more"),
        ({"flows": 0}, "`flows`"),
    ],
)
def test_wrong_sizes_of_waves_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        flows.waveglow(**{"samples": 64, **SMALL, **options})


def test_waves_of_any_length_by_the_same_weights():
    flow = randomize(flows.waveglow(64, **SMALL), stddev=0.05)
    spectrogram = normal(2, 9, 5)
    long = audio.synthesize(flow, spectrogram, seed=1)
    assert long.shape == (2, 144)
    again = audio.synthesize(
        FlowModel(distributions.Dequantized(flow, 2.0**-15)), spectrogram, seed=1
    )
    np.testing.assert_array_equal(again, long)
    short = audio.synthesize(flow, spectrogram[:, :4], seed=3)
    expected = flow.sample(context=spectrogram[:, :4], seed=3)[..., 0]
    np.testing.assert_allclose(short, expected, atol=1e-5)
    quiet = audio.synthesize(flow, spectrogram, temperature=0.0)
    np.testing.assert_array_equal(quiet, audio.synthesize(flow, spectrogram, temperature=0.0))
    with pytest.raises(ValueError, match=r"shape \(..., frames, 5\)"):
        audio.synthesize(flow, normal(2, 9, 4))
    with pytest.raises(ValueError, match=r"shape \(..., frames, 5\).*\(0, 5\)"):
        audio.synthesize(flow, normal(0, 5))
    with pytest.raises(ValueError, match="one of waves given spectrograms"):
        audio.synthesize(flows.real_nvp(2), spectrogram)


def test_spectrograms_are_standardized_before_training(tmp_path):
    flow = flows.waveglow(64, **SMALL)
    model = FlowModel(distributions.Dequantized(flow, 2.0**-15, seed=0))
    wave = np.round(0.1 * normal(64, 64, 1) * 2**15) / 2**15
    spectrogram = 5 * normal(64, 4, 5) - 8
    model.adapt(spectrogram, wave)
    (stretch,) = [m.layer for m in flow.submodules if isinstance(m, networks.Embedding)]
    np.testing.assert_allclose(stretch.shift, spectrogram.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(stretch.scale, spectrogram.std((0, 1)), rtol=1e-5)
    z = flow.given(spectrogram).bijector.inverse(wave.astype("float32"))
    assert abs(np.std(z) - 1) < 0.1
    model.compile(keras.optimizers.Adam(1e-3))
    losses = model.fit(spectrogram, wave, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "wave.keras")
    loaded = FlowModel.load(tmp_path / "wave.keras")
    found, expected = (m.log_prob(wave[:3], spectrogram[:3]) for m in (loaded, model))
    np.testing.assert_array_equal(found, expected)


def test_a_wavenet_sees_as_far_as_it_says():
    layer = networks.WaveNet(4, layers=3, seed=0)
    x = normal(1, 41, 2)
    other = x.copy()
    other[0, 20] += 1.0
    seen = np.flatnonzero(np.any(layer(other) != layer(x), axis=(0, 2)))
    assert (seen.min(), seen.max()) == (20 - 7, 20 + 7)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_files_are_read_as_they_were_written(ending, tmp_path):
    pytest.importorskip("soundfile")
    wave = np.round(tone(440.0) * 2**14) / 2**15
    audio.write(tmp_path / f"a.{ending}", wave, rate=8000)
    found, rate = audio.read(tmp_path / f"a.{ending}")
    assert rate == 8000
    np.testing.assert_allclose(found, wave, atol=2.0**-15)
    audio.write(tmp_path / "b.wav", 3 * wave, rate=8000)
    assert np.abs(audio.read(tmp_path / "b.wav")[0]).max() <= 1.0
    with pytest.raises(ValueError, match="Received: 1 NaN"):
        audio.write(tmp_path / "c.wav", [0.0, np.nan], rate=8000)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"pip install 'tfp_flows\[audio\]'"):
        audio.write("a.wav", [0.0], rate=8000)


def test_any_flow_of_waves_can_be_of_another_length():
    flow = flows.waveglow(32, **{**SMALL, "mels": None})
    zeros = tf.zeros((48, 1))
    base = tfd.Independent(tfd.Normal(zeros, 1.0), 2)
    x = normal(3, 48, 1)
    z = Flow(base, flow.bijector).bijector.inverse(x)
    np.testing.assert_allclose(flow.bijector.forward(tf.identity(z)), x, atol=1e-4)
