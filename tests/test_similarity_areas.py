"""Alignment patterns across areas: gates, what four areas can tell, a chain of areas that is found, and where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.probe.similarity import alignment as A
from omnimouse_jax.probe.similarity.rsa import pearson

AREAS = ["AL", "LM", "RL", "V1"]


def chain(seed, noise, mice=4, conditions=40, neurons=25, repeats=4, drift=1.0):
    """Signals and responses by mouse of a chain of areas: each has part of the one before and something of its own.

    (signals: mouse -> 1 x K x N, responses: mouse -> R x K x N, labels of neurons); latent signals are the same in all mice, the
    neurons are not.
    """
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(conditions, 6))
    latents = {}
    for area in ("V1", "LM", "AL", "RL"):
        latents[area] = latent / latent.std()
        latent = latents[area] + drift * rng.normal(size=latent.shape)
    labels = np.repeat(AREAS, neurons)
    signals, responses = {}, {}
    for mouse in [f"m{k}" for k in range(mice)]:
        signal = np.concatenate([latents[a] @ rng.normal(size=(6, neurons)) / np.sqrt(6) for a in AREAS], axis=1)
        signals[mouse] = signal[None]
        responses[mouse] = signal + noise * rng.normal(size=(repeats, *signal.shape))
    return signals, responses, labels


def rdms(values, labels, n=20, draws=2):
    return {mouse: A.equalised(x, labels, AREAS, n, draws, 0) for mouse, x in values.items()}


def shuffled(signals, seed):
    """Nothing of the stimulus is left in the order of conditions."""
    rng = np.random.default_rng(seed)
    return {mouse: x[:, rng.permutation(x.shape[1])] for mouse, x in signals.items()}


def test_four_numbers_correlate_by_chance():
    """The Pearson correlation of two unrelated 4-vectors is uniform on [-1, 1]."""
    rng = np.random.default_rng(0)
    r = np.array([A.correlation(*rng.normal(size=(2, 4))) for _ in range(6000)])
    assert (r > 0.5).mean() == pytest.approx(0.25, abs=0.02)
    assert (r > 0.9).mean() == pytest.approx(0.05, abs=0.01)
    assert np.isnan(A.correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])))


def test_a_chain_of_areas_is_found_where_recordings_are_reliable():
    signals, responses, labels = chain(0, noise=0.5)
    mixed = np.random.default_rng(1).permutation(labels)
    models = {
        "true": rdms(signals, labels),
        "untrained": rdms(shuffled(signals, 2), labels),
        "pooled": rdms(signals, mixed),
    }
    found = A.alignment_patterns(rdms(responses, labels), models, AREAS, pearson)
    assert found["applicable"]
    assert found["areas"] == AREAS
    assert found["skipped"] == {}
    assert min(found["reliability"].values()) > 0.5
    true, untrained, pooled = (found["models"][name] for name in models)
    assert true["scores"]["profile"] > 0.95
    assert true["scores"]["pearson, off-diagonal"] > 0.9
    assert true["scores"]["difference, all"] < min(m["scores"]["difference, all"] for m in (untrained, pooled))
    assert true["wrong-area profile"] < 0.5
    assert true["orders"] == 24
    assert true["label permutation p"] == pytest.approx(1 / 24)  # the smallest that four areas allow: .042
    assert pooled["scores"]["profile"] < true["scores"]["profile"] - 0.3
    assert abs(np.mean(untrained["matrix"])) < 0.1
    assert found["brain-brain"]["profile"] > 0.95
    assert "not an upper bound" in found["brain-brain note"]


def test_true_and_wrong_areas_part_with_reliability_and_not_without():
    """Gate off: without reliability there is nothing to measure, and the gate says so."""
    separated = {}
    for noise in (0.5, 30.0):
        true, wrong, kept = [], [], []
        for seed in range(6):
            signals, responses, labels = chain(seed, noise, mice=3, conditions=30)
            brains, model = rdms(responses, labels, draws=1), {"true": rdms(signals, labels, draws=1)}
            found = A.alignment_patterns(brains, model, AREAS, pearson, least=-2)
            true.append(found["models"]["true"]["scores"]["profile"])
            wrong.append(found["models"]["true"]["wrong-area profile"])
            kept.append(A.alignment_patterns(brains, model, AREAS, pearson)["applicable"])
        larger = np.mean([t > w for t in true for w in wrong])  # area under the curve of true against wrong
        separated[noise] = larger, np.mean(true) - np.mean(wrong), np.mean(kept)
    assert separated[0.5][0] == 1
    assert separated[0.5][1] > 0.8
    assert separated[0.5][2] == 1
    assert separated[30.0][1] < 0.4
    assert separated[30.0][2] == 0


def test_noise_lowers_the_brain_brain_reference_below_the_true_model():
    profiles = []
    for seed in range(5):
        signals, responses, labels = chain(seed, noise=4.0)
        found = A.alignment_patterns(rdms(responses, labels), {"true": rdms(signals, labels)}, AREAS, pearson, least=-2)
        profiles.append((found["models"]["true"]["scores"]["profile"], found["brain-brain"]["profile"]))
    true, brain = np.mean(profiles, axis=0)
    assert true > brain


def test_areas_without_a_pattern_are_skipped_and_too_few_are_not_applicable():
    signals, responses, labels = chain(0, noise=0.5)
    rng = np.random.default_rng(0)
    drowned = {m: x + np.where(labels == "RL", 100.0, 0.0) * rng.normal(size=x.shape) for m, x in responses.items()}
    found = A.alignment_patterns(rdms(drowned, labels), {"true": rdms(signals, labels)}, AREAS, pearson)
    assert list(found["skipped"]) == ["RL"]
    assert found["areas"] == ["AL", "LM", "V1"]
    assert len(found["brain matrix"]) == 3
    noise = {m: 100 * rng.normal(size=x.shape) for m, x in responses.items()}
    nothing = A.alignment_patterns(rdms(noise, labels), {}, AREAS, pearson)
    assert not nothing["applicable"]
    assert nothing["reason"].startswith("not applicable: 0 areas < 3")


def test_correction_for_reliability_raises_what_noise_lowered():
    _, responses, labels = chain(0, noise=1.5)
    brains = rdms(responses, labels)
    own = {m: dict.fromkeys(AREAS, 0.64) for m in responses}
    found = A.alignment_patterns(brains, {}, AREAS, pearson, own=own)
    raw, corrected = np.array(found["brain matrix"]), np.array(found["brain matrix, corrected"])
    np.testing.assert_allclose(corrected, raw / 0.64)


@pytest.mark.parametrize(
    ("areas", "conditions", "told"),
    [
        ({"a": ["V1"] * 20, "b": ["V1"] * 20}, 30, "1 areas < 3"),
        (
            {"a": ["V1", "LM", "AL"] * 20, "b": ["V1", "LM", "AL"] * 2},
            30,
            "0 areas < 3 (in every mouse, with 5 neurons",
        ),
        ({"a": ["", ""], "b": ["", ""]}, 30, "0 areas < 3"),
        ({"a": ["V1", "LM", "AL"] * 20, "b": ["V1", "LM", "AL"] * 20}, 0, "no shared repeated stimuli (0 conditions"),
        ({"a": ["V1", "LM", "AL"] * 20}, 30, "1 mice"),
    ],
)
def test_gates_say_what_was_looked_for(areas, conditions, told):
    assert told in A.gate({mouse: np.array(names) for mouse, names in areas.items()}, conditions)[1]


def test_an_open_gate():
    names = np.array(["V1", "LM", "AL", "RL"] * 6)
    assert A.gate({"a": names, "b": names}, 30) == (AREAS, "")


def test_similarity_grows_with_the_number_of_neurons_so_it_is_equalised():
    _, responses, labels = chain(3, noise=1.0, neurons=60)
    few, many = (A.equalised(responses["m0"], labels, ["V1"], n, 4, 0)["V1"] for n in (8, 50))
    other = A.equalised(responses["m1"], labels, ["V1"], 50, 4, 0)["V1"]
    assert np.mean([pearson(a, b) for a, b in zip(many, other, strict=True)]) > np.mean(
        [pearson(a, b) for a, b in zip(few, other, strict=True)]
    )
    assert len(few) == 4
    assert not np.allclose(few[0], few[1])
