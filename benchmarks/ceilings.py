"""How far off each ceiling estimator is, by number of repeats and signal share: two calibrations where the truth is known.

    python benchmarks/ceilings.py [--out docs/scores] [--seeds 10] [--mice 6]

1. Planted: skewed non-negative signals that are smooth in time (six clips of 10 s at 30 Hz), and noise of the recordings' kind:
   log-normal, its variance growing with the rate, correlated over an eighth of a second, with a gain that varies from
   trial to trial; the share of signal in the variance of single responses is set. Truth: from the signal that was planted and the
   noise as it fell.
2. Synthetic mice (docs/synthetic.md) with 20 showings of each test clip, of which the first 2 to 20 are used; responses scanned at
   8 Hz and interpolated to 30 Hz, and scanned at 30 Hz. Truth: correlation of the same samples with the law's expected response
   given the screen.

Prints both tables as docs/scores.md has them and draws DIR/planted.svg and DIR/mice.svg. About 4 minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import signal

from omnimouse_jax.evaluate.ceilings import AVERAGE, ESTIMATORS, SHARE, RepeatedStimuli, ceiling_of
from omnimouse_jax.evaluate.metrics import RepeatSums, correlation_to_average, single_trial_correlation
from omnimouse_jax.files import write_atomically
from omnimouse_jax.pages.plot import Axis, Plot
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.synthetic import make_recording, resolve
from omnimouse_jax.recordings.synthetic.mouse import draw_mouse
from omnimouse_jax.recordings.synthetic.neurons import stimulus_drive, stimulus_rate, unit_scale

REPEATS = (2, 3, 4, 6, 10, 20)
SHARES = (0.02, 0.1, 0.3, 0.6)
CLIPS, BINS, NEURONS = 6, 300, 100
SCANS = {"8 Hz, interpolated": 8.0, "30 Hz": 30.0}
#: What intervals are checked with, and how many resamples they have.
COVERED, RESAMPLES = "CC_max, single trial", 200


class Planted(NamedTuple):
    """One drawing: what was planted, groups x neurons, and responses, repeats x groups x neurons."""

    mean: np.ndarray
    responses: np.ndarray

    def share(self) -> np.ndarray:
        """Of signal in the variance of single responses, per neuron: planted signal, noise as it fell in all repeats."""
        signal_power = self.mean.var(0)
        return signal_power / (signal_power + ((self.responses - self.mean) ** 2).mean((0, 1)))


def smooth(rng: np.random.Generator, shape: tuple[int, ...], samples: float) -> np.ndarray:
    """Unit-variance noise along axis -2 with a time constant."""
    keep = np.exp(-1 / samples)
    white = rng.standard_normal((*shape[:-2], shape[-2] + 60, shape[-1]))
    return signal.lfilter([np.sqrt(1 - keep**2)], [1, -keep], white, axis=-2)[..., 60:, :]


def plant(seed: int, share: float, repeats: int, neurons: int = NEURONS, trial_gain: float = 0.3) -> Planted:
    """Log-normal responses about a skewed mean, so noisy that the mean has `share` of their variance."""
    rng = np.random.default_rng([seed, round(1000 * share)])
    mean = np.exp(smooth(rng, (CLIPS, BINS, neurons), 5.0) * 0.8)
    # noise = gain of the trial, and events that are smooth over some four samples; both have mean 1
    gain = np.exp(trial_gain * rng.standard_normal((repeats, CLIPS, 1, 1)) - trial_gain**2 / 2)
    latent = smooth(rng, (repeats, CLIPS, BINS, neurons), 4.0)
    power = mean.reshape(-1, neurons).var(0)
    wanted = power * (1 - share) / share
    second = (mean**2).reshape(-1, neurons).mean(0)
    spread = np.exp(trial_gain**2)
    # var(mean * gain * x) about the mean: second moment * (spread * (1 + v) - 1) = wanted
    v = np.maximum((wanted / second + 1) / spread - 1, 1e-3)
    sigma = np.sqrt(np.log1p(v))
    responses = mean * gain * np.exp(sigma * latent - sigma**2 / 2)
    return Planted(mean.reshape(-1, neurons), responses.reshape(repeats, -1, neurons))


def sums_of(responses: np.ndarray, predicted: np.ndarray | None = None) -> RepeatSums:
    """repeats x groups x neurons, in blocks of a clip."""
    repeats, groups, neurons = responses.shape
    sums = RepeatSums(groups, neurons, np.arange(groups) // BINS, repeats)
    for k in range(repeats):
        guess = np.zeros_like(responses[k]) if predicted is None else predicted
        sums.update(np.arange(groups), k, np.arange(neurons), guess, responses[k], np.ones(guess.shape, bool))
    return sums


def truth_of(bounds: str, share: np.ndarray, repeats: float) -> np.ndarray:
    """The ceiling that an estimator is after, for a share of signal in single responses."""
    if bounds == SHARE:
        return share
    return np.sqrt(share / (share + (1 - share) / repeats)) if bounds == AVERAGE else np.sqrt(share)


def planted_table(seeds: int) -> dict[tuple[str, float, int], tuple[float, float, float]]:
    """(estimator, share, repeats) -> bias of the mean over neurons, its deviation over seeds, deviation over neurons."""
    out = {}
    for share in SHARES:
        found: dict[tuple[str, int], list[np.ndarray]] = {}
        for seed in range(seeds):
            drawn = plant(seed, share, max(REPEATS))
            true = drawn.share()
            for repeats in REPEATS:
                total = sums_of(drawn.responses[:repeats]).moments().total()
                for estimator in ESTIMATORS:
                    off = estimator.of(total) - truth_of(estimator.bounds, true, repeats)
                    found.setdefault((estimator.name, repeats), []).append(off)
        for (name, repeats), errors in found.items():
            means = np.array([e.mean() for e in errors])
            out[name, share, repeats] = (means.mean(), means.std(ddof=1), float(np.mean([e.std() for e in errors])))
    return out


def coverage(seeds: int, share: float, repeats: int) -> float:
    """Share of drawings whose interval (over clips and neurons) holds the true mean over neurons."""
    estimator = next(e for e in ESTIMATORS if e.name == COVERED)
    held = 0
    for seed in range(seeds):
        drawn = plant(1000 + seed, share, repeats, neurons=40)
        true = truth_of(estimator.bounds, drawn.share(), repeats).mean()
        moments = sums_of(drawn.responses).moments()
        found = ceiling_of(estimator, moments, "clips", repeats, CLIPS, RESAMPLES, seed, at_least=2)
        held += found.low <= true <= found.high
    return held / seeds


def mouse_table(mice: int) -> dict[tuple[str, str, int], tuple[float, float, float]]:
    """(estimator, scans, repeats) -> bias of the mean over neurons, its deviation over mice, mean truth."""
    out = {}
    for name, rate in SCANS.items():
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for index in range(mice):
            changes = {"n_animals": mice, "test_clips": 5, "test_repeats": max(REPEATS), "scan_rates": (rate,)}
            recording, expected = with_law(resolve("demo", changes), index)
            for repeats in REPEATS:
                total = mouse_sums(recording, expected, repeats).moments(repeats).total()
                single, average = single_trial_correlation(total), correlation_to_average(total)
                for estimator in ESTIMATORS:
                    true = (
                        average if estimator.bounds == AVERAGE else single**2 if estimator.bounds == SHARE else single
                    )
                    estimated = float(np.nan_to_num(estimator.of(total)).mean())
                    found.setdefault((estimator.name, repeats), []).append((estimated - true.mean(), true.mean()))
        for (estimator_name, repeats), errors in found.items():
            off, true = np.array(errors).T
            out[estimator_name, name, repeats] = (off.mean(), off.std(ddof=1), true.mean())
    return out


def with_law(spec, index: int) -> tuple[Recording, np.ndarray]:
    """A mouse and what its law expects at each of its samples, given the screen."""
    mouse = draw_mouse(spec, index)
    drive = stimulus_drive(mouse.view(), mouse.neurons)
    drive *= unit_scale(drive, mouse.ticks >= 0)
    return make_recording(spec, index), mouse.microscope.observe(stimulus_rate(mouse.neurons, drive))


def mouse_sums(recording: Recording, expected: np.ndarray, repeats: int) -> RepeatSums:
    """The first showings of each test clip. The first half second is left out: it knows what was on before."""
    stimuli = RepeatedStimuli.of(recording.trials, recording.trials.stimulus, ["test"], recording.responses.rate)
    times = recording.responses.segment_start[0] + np.arange(len(expected)) / recording.responses.rate
    trial, group = stimuli.locate(times)
    known = np.maximum(trial, 0)
    showing = np.where(group >= 0, stimuli.showing[known], -1)
    group = np.where((showing < repeats) & (times - stimuli.start[known] > 0.5), group, -1)
    sums = RepeatSums(stimuli.n_groups, expected.shape[1], stimuli.blocks()[0], repeats)
    values, everyone = np.asarray(recording.responses.values), np.arange(expected.shape[1])
    for number in np.unique(trial[group >= 0]):
        of = (trial == number) & (group >= 0)
        known_mask = np.ones((int(of.sum()), expected.shape[1]), bool)
        sums.update(
            group[of], int(stimuli.showing[number]), everyone, expected[of], values[of].astype(np.float64), known_mask
        )
    return sums


STYLE = """<style>text{font:12px system-ui,sans-serif;fill:#30343a}.name,.title{font-size:13px}.title{font-weight:600}
path{fill:none;stroke:#30343a}.grid{stroke:#dfe2e6}.axis{stroke:#9aa0a8}.zero-line{stroke:#30343a;stroke-width:1.2}
.line{stroke-width:1.8}.mark{stroke:none}
.s0{stroke:#0b57a4}.s1{stroke:#b3541e;stroke-dasharray:7 3}.s2{stroke:#3c7a3c;stroke-dasharray:2 3}
.s3{stroke:#7a3c8f;stroke-dasharray:9 3 2 3}.s4{stroke:#8a6d00;stroke-dasharray:4 2}.s5{stroke:#1b8a8a;stroke-dasharray:12 3}
.s6{stroke:#c0304a;stroke-dasharray:1 2}
@media(prefers-color-scheme:dark){text{fill:#d6dae0}path{stroke:#d6dae0}.grid{stroke:#343a42}.zero-line{stroke:#d6dae0}
.s0{stroke:#7db8f0}.s1{stroke:#f0a070}.s2{stroke:#8fce8f}.s3{stroke:#c79be0}.s4{stroke:#e0c050}.s5{stroke:#60d0d0}.s6{stroke:#f08098}}
</style>"""


def figure(title: str, panels: dict[str, dict[str, list[tuple[int, float]]]], low: float, high: float) -> str:
    """Bias against repeats, one panel per condition, one line per estimator; stands alone, light and dark."""
    width, height, columns = 330, 250, 2
    rows = -(-len(panels) // columns)
    out = []
    for k, (name, lines) in enumerate(panels.items()):
        x = Axis.logarithmic(REPEATS, "repeats")
        y = Axis(
            low, high, "estimate less truth", tuple((t, f"{t:+.1f}") for t in np.arange(low, high + 0.05, 0.2).round(1))
        )
        plot = Plot(name, x, y, width, height, (58, 12, 26, 42))
        plot.line([REPEATS[0], REPEATS[-1]], [0.0, 0.0], "zero-line")
        for number, points in enumerate(lines.values()):
            plot.line(*zip(*points, strict=True), f"s{number}")
        svg = plot.svg().replace("<svg ", f'<svg x="{k % columns * width}" y="{24 + k // columns * height}" ', 1)
        svg = svg.replace("<svg x", f'<svg width="{width}" height="{height}" x', 1)
        out.append(svg.replace("</title>", f'</title><text class="title" x="58" y="16">{name}</text>', 1))
    names = list(next(iter(panels.values())))
    legend = []
    top = 24 + rows * height
    for number, name in enumerate(names):
        x, y = 20 + number % 2 * width, top + 18 + number // 2 * 20
        legend.append(f'<path class="line s{number}" d="M{x} {y - 4}h34"/><text x="{x + 42}" y="{y}">{name}</text>')
    total = top + 20 * (-(-len(names) // 2)) + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {total}" role="img" aria-label="{title}">'
        f'{STYLE}<text class="title" x="20" y="16">{title}</text>{"".join(out)}{"".join(legend)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/scores"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--mice", type=int, default=6)
    arguments = parser.parse_args()
    names = [e.name for e in ESTIMATORS]

    planted = planted_table(arguments.seeds)
    print("Planted: estimate less truth, mean over neurons (deviation over drawings)\n")
    print("| estimator | signal share |" + "".join(f" {r} |" for r in REPEATS))
    print("|---|---|" + "---|" * len(REPEATS))
    for name in names:
        for share in SHARES:
            cells = (planted[name, share, r] for r in REPEATS)
            print(f"| {name} | {share:g} |" + "".join(f" {bias:+.3f} ({sd:.3f}) |" for bias, sd, _ in cells))
    print("\nPlanted: deviation over neurons\n")
    print("| estimator | signal share |" + "".join(f" {r} |" for r in REPEATS))
    print("|---|---|" + "---|" * len(REPEATS))
    for name in names[:2]:
        for share in SHARES:
            print(f"| {name} | {share:g} |" + "".join(f" {planted[name, share, r][2]:.3f} |" for r in REPEATS))
    print(f"\nCoverage of the 95% interval of {COVERED} ({4 * arguments.seeds} drawings of 40 neurons)\n")
    print("| signal share | 4 repeats | 10 repeats |\n|---|---|---|")
    for share in SHARES[1:]:
        cells = [coverage(4 * arguments.seeds, share, r) for r in (4, 10)]
        print(f"| {share:g} | {100 * cells[0]:.0f}% | {100 * cells[1]:.0f}% |")
    panels = {
        f"signal is {100 * share:g}% of the variance": {
            n: [(r, planted[n, share, r][0]) for r in REPEATS] for n in names
        }
        for share in SHARES
    }
    write_atomically(arguments.out / "planted.svg", figure("Planted signals", panels, -0.4, 0.6))

    mice = mouse_table(arguments.mice)
    print("\nSynthetic mice: estimate less what the law's expectation reaches (deviation over mice)\n")
    print("| estimator | scans | truth at 10 |" + "".join(f" {r} |" for r in REPEATS))
    print("|---|---|---|" + "---|" * len(REPEATS))
    for name in names:
        for scans in SCANS:
            cells = (mice[name, scans, r] for r in REPEATS)
            told = "".join(f" {bias:+.3f} ({sd:.3f}) |" for bias, sd, _ in cells)
            print(f"| {name} | {scans} | {mice[name, scans, 10][2]:.3f} |{told}")
    panels = {f"scanned at {s}": {n: [(r, mice[n, s, r][0]) for r in REPEATS] for n in names} for s in SCANS}
    write_atomically(arguments.out / "mice.svg", figure("Synthetic mice", panels, -0.4, 0.4))


if __name__ == "__main__":
    main()
