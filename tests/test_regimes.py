"""Regimes: the published ones against their table, the rule for what is asked, and the one-line expressions."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.expression import COUNT_FIELDS, SAMPLE_FIELDS
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.picture import describe, picture
from omnimouse_jax.tokens.regimes import (
    EVALUATION,
    SUITES,
    TASKS,
    TRAINING,
    Regime,
    as_fractions,
    draw,
    expression,
    get,
    on_grid,
    parse,
    resolve,
    select,
    task_of,
)

RELEASED = Grid()
DOCS = Path(__file__).resolve().parents[1] / "docs" / "regimes.md"

# One line per regime: visible neurons, prefix, its full-population part, latents, frames, behaviour, neurons asked for.
# Stretches are start+length. "n" stands for three lines: 1024, 256 and 64. Neurons are asked for samples 30+30.
BLOCKS = {
    "no video, behaviour in": (
        24,
        """
        n     0+60   0  0+60   0+0   input   3072
        4096  15+10  0  0+60   0+0   input   3072
        4096  10+15  0  0+60   0+0   input   3072
        4096  0+25   0  0+60   0+0   input   3072
        n     15+10  0  0+60   0+0   input   3072
        n     10+15  0  0+60   0+0   input   3072
        n     0+25   0  0+60   0+0   input   3072
        n     15+45  10 0+60   0+0   input   3072
        n     10+50  15 0+60   0+0   input   3072
        n     0+60   25 0+60   0+0   input   3072
        """,
    ),
    "no video, behaviour asked": (
        13,
        """
        4096  0+60   0  0+60   0+0   target  0
        n     0+60   0  0+60   0+0   target  3072
        n     15+45  10 0+60   0+0   target  3072
        n     10+50  15 0+60   0+0   target  3072
        n     0+60   25 0+60   0+0   target  3072
        """,
    ),
    "last 10 frames": (
        21,
        """
        n     10+50  0  10+50  50+10 input   3072
        4096  15+10  0  0+50   50+10 input   3072
        4096  10+15  0  0+50   50+10 input   3072
        4096  0+25   0  0+50   50+10 input   3072
        n     15+10  0  0+50   50+10 input   3072
        n     10+15  0  0+50   50+10 input   3072
        n     0+25   0  0+50   50+10 input   3072
        n     15+45  10 10+50  50+10 input   3072
        n     10+50  15 10+50  50+10 input   3072
        """,
    ),
    "last 20 frames": (
        21,
        """
        n     20+40  0  20+40  40+20 input   3072
        4096  15+10  0  0+40   40+20 input   3072
        4096  10+15  0  0+40   40+20 input   3072
        4096  0+25   0  0+40   40+20 input   3072
        n     15+10  0  0+40   40+20 input   3072
        n     10+15  0  0+40   40+20 input   3072
        n     0+25   0  0+40   40+20 input   3072
        n     15+35  10 10+40  40+20 input   3072
        n     10+40  15 10+40  40+20 input   3072
        """,
    ),
    "last 30 frames": (
        21,
        """
        n     30+30  0  30+30  30+30 input   3072
        4096  15+10  0  0+30   30+30 input   3072
        4096  10+15  0  0+30   30+30 input   3072
        4096  0+25   0  0+30   30+30 input   3072
        n     15+10  0  0+30   30+30 input   3072
        n     10+15  0  0+30   30+30 input   3072
        n     0+25   0  0+30   30+30 input   3072
        n     15+25  10 10+30  30+30 input   3072
        n     10+30  15 10+30  30+30 input   3072
        """,
    ),
    "last 40 frames": (
        11,
        """
        n     30+20  0  30+20  20+40 input   3072
        4096  15+10  0  10+20  20+40 input   3072
        4096  10+15  0  10+20  20+40 input   3072
        n     15+10  0  10+20  20+40 input   3072
        n     10+15  0  10+20  20+40 input   3072
        """,
    ),
    "last 50 frames": (
        7,
        """
        n     30+10  0  30+10  10+50 input   3072
        4096  10+10  0  10+10  10+50 input   3072
        n     10+10  0  10+10  10+50 input   3072
        """,
    ),
    "all frames": (
        2,
        """
        0     0+0    0  0+0    0+60  input   3072
        0     0+0    0  0+0    0+60  hidden  3072
        """,
    ),
}
# Released test regimes: name, then as above ("all" = a missing field).
TEST = """
    video_behavior                          0    0+0    0  0+0    0+60  input   all
    video_only                              0    0+0    0  0+0    0+60  target  all
    responses_from_behavior                 0    0+0    0  0+0    0+0   input   all
    all_response_only                       all  0+60   0  0+60   0+0   target  0
    all_response_video                      all  0+60   0  0+60   0+60  target  0
    population_64_response                  64   30+30  0  30+30  0+0   target  3072
    population_64_response_behavior         64   30+30  0  30+30  0+0   input   3072
    population_64_response_video            64   30+30  0  30+30  0+60  target  3072
    population_64_response_video_behavior   64   30+30  0  30+30  0+60  input   3072
    population_1024_response                1024 30+30  0  30+30  0+0   target  3072
    population_1024_response_behavior       1024 30+30  0  30+30  0+0   input   3072
    population_1024_response_video          1024 30+30  0  30+30  0+60  target  3072
    population_1024_response_video_behavior 1024 30+30  0  30+30  0+60  input   3072
    causal_response_25                      all  0+25   0  0+60   0+0   target  all
    causal_response_25_behavior             all  0+25   0  0+60   0+0   input   all
    causal_response_25_video                all  0+25   0  0+30   0+60  target  all
    causal_response_25_video_behavior       all  0+25   0  0+30   0+60  input   all
    causal_response_10                      all  0+10   0  0+60   0+0   target  all
    causal_response_10_behavior             all  0+10   0  0+60   0+0   input   all
    causal_response_10_video                all  0+10   0  0+30   0+60  target  all
    causal_response_10_video_behavior       all  0+10   0  0+30   0+60  input   all
"""
VALIDATION = """
    video_behavior                          0    0+0    0  0+0    0+60  input   4096
    stimulus_driven                         0    0+0    0  0+0    0+60  hidden  4096
    causal_response_behavior                4096 0+25   0  0+60   0+0   input   4096
    causal_response_video_behavior          4096 0+25   0  0+30   30+30 input   4096
    all_response_only                       4096 0+60   0  0+60   0+0   target  0
    population_1024_response_behavior       1024 0+60   0  0+60   0+0   input   3072
    population_1024_response_video_behavior 1024 30+30  0  30+30  30+30 input   3072
    invpopcaus_response_video_behavior      1024 10+40  15 10+40  40+20 input   3072
"""


def rows(text: str) -> list[tuple]:
    """The thirteen fields of every line, in the order of Regime's fields."""
    found = []
    for line in text.strip().splitlines():
        visible, prefix, full, latents, frames, behavior, asked = line.split()
        asked_n = None if asked == "all" else int(asked)
        suffix = (0, 0) if asked_n == 0 else (30, 30)
        for n in (1024, 256, 64) if visible == "n" else (None if visible == "all" else int(visible),):
            (start, length), (context, n_context), (frame, n_frames) = (
                map(int, stretch.split("+")) for stretch in (prefix, latents, frames)
            )
            role = (behavior == "input", behavior == "target")
            found.append(
                (n, start, length, int(full), context, n_context, asked_n, *suffix, frame, n_frames, *role),
            )
    return found


def fields(regime: Regime) -> tuple:
    return dataclasses.astuple(regime)[:13]


def outcome(regime: Regime, grid: Grid, n: int):
    """The layout, or the kind of refusal."""
    try:
        return resolve(regime, grid, n)
    except UserError as error:
        return error.way_out


ALL = (*TRAINING, *EVALUATION.values())


# --- the published regimes ------------------------------------------------------------------------------------------


def test_training_regimes_are_the_published_table():
    for count, block in BLOCKS.values():
        assert len(rows(block)) == count
    table = [row for _, block in BLOCKS.values() for row in rows(block)]
    assert len(TRAINING) == len(table) == 120
    assert Counter(map(fields, TRAINING)) == Counter(table)
    assert {regime.weight for regime in TRAINING} == {1.0}
    assert len({regime.name for regime in TRAINING}) == 120


def test_training_figures():
    layouts = [resolve(regime, RELEASED, 4096) for regime in TRAINING]
    tower = [len(layout.latents(640, 256)) + len(layout.video(128)) for layout in layouts]
    assert tower == [4096] * 120
    assert len({(layout.latent_windows, layout.video_steps) for layout in layouts}) == 14
    shapes = {
        (len(lay.response_tokens()), len(lay.latents(640, 256)), len(lay.video(128)), len(lay.queries()), lay.behavior)
        for lay in layouts
    }
    assert len(shapes) == 104
    assert Counter(len(layout.queries()) for layout in layouts) == {18_432: 119, 0: 1}
    assert all(row["tower_tokens"] == 4096 and not row["problem"] for row in describe(TRAINING, RELEASED, 4096))


@pytest.mark.parametrize(("suite", "table"), [("test", TEST), ("validation", VALIDATION)])
def test_evaluation_regimes_are_the_published_ones(suite, table):
    names = [line.split()[0] for line in table.strip().splitlines()]
    text = "\n".join(line.split(maxsplit=1)[1] for line in table.strip().splitlines())
    expected = dict(zip(names, rows(text), strict=True))
    assert {regime.name.split("/")[-1]: fields(regime) for regime in SUITES[suite]} == expected


def test_additional_evaluation_regimes():
    found = {regime.name: fields(regime) for regime in SUITES["test_additional"]}
    expected = {"test_additional/video_behavior": rows("0 0+0 0 0+0 0+60 input all")[0]}
    for word, frames in (("", "0+0"), ("_video", "0+60")):
        for n in (16, 32, 64, 128, 256, 512, 1024, 2048):
            row = rows(f"{n} 30+30 0 30+30 {frames} input 3072")[0]
            expected[f"test_additional/population_{n}_response{word}_behavior"] = row
        for start, length in ((0, 25), (5, 20), (10, 15), (15, 10)):
            row = rows(f"all {start}+{length} 0 0+60 {frames} input all")[0]
            expected[f"test_additional/causal_response_{length}{word}_behavior"] = row
    assert found == expected


def test_every_evaluation_regime_has_a_task_and_a_name():
    assert sum(map(len, TASKS.values())) == len(EVALUATION) == sum(map(len, SUITES.values())) - 120
    assert [task_of(regime) for regime in SUITES["tasks"]] == [regime.name for regime in SUITES["tasks"]]
    assert task_of(get("responses[:, 0:25] -> responses[:, 30:60]")) == "forecast"
    assert task_of(get("responses[:0.5] -> responses[-0.5:]")) == "population"
    for name, regime in EVALUATION.items():
        assert get(name) is regime


@pytest.mark.parametrize("n", [2, 10, 37, 4096, 9000])
def test_tasks_fit_any_recording(n):
    for regime in SUITES["tasks"]:
        resolve(regime, RELEASED, n)
    for regime in TRAINING:
        resolve(as_fractions(regime), RELEASED, n)


def test_fractions_are_the_same_regimes_in_a_full_block():
    for regime in TRAINING:
        assert resolve(as_fractions(regime), RELEASED, 4096) == resolve(regime, RELEASED, 4096)


@pytest.mark.parametrize("n", range(2, 40))
def test_complementary_shares_cover_every_neuron_once(n):
    for visible, asked in ((0.5, 0.5), (0.3, 0.7), (0.25, 0.75)):
        layout = resolve(Regime(visible, max_n_reconstructed_neurons=asked, suffix_start_idx=30), RELEASED, n)
        assert layout.targets[0].first_neuron == layout.n_visible >= 1
        assert layout.targets[-1].last_neuron == n


# --- what a regime means --------------------------------------------------------------------------------------------


def random_regime(rng: np.random.Generator, grid: Grid, n: int, missing: float = 0.3) -> Regime:
    """Any fields at all, some missing, some beyond the window; a refused draw is drawn again."""
    while True:
        reach = {"n_visible_frames_start_idx": grid.n_frames, "n_visible_frames": grid.n_frames + 3}
        draws: dict = {field: int(rng.integers(reach.get(field, grid.n_samples + 3))) for field in SAMPLE_FIELDS}
        draws |= {field: int(rng.integers(n + 3)) for field in COUNT_FIELDS}
        draws |= {field: None for field in draws if rng.random() < missing}
        encoded = bool(rng.random() < 0.5)
        try:
            return Regime(**draws, behavior_encoded=encoded, behavior_reconstructed=not encoded and rng.random() < 0.5)
        except UserError:
            continue


def test_what_is_asked_follows_from_what_is_shown():
    """Asked: the last neurons in the suffix, after the full prefix and, if visible, after the prefix (+ buffer)."""
    rng = np.random.default_rng(0)
    grid = dataclasses.replace(
        RELEASED, n_samples=24, n_frames=24, n_behavior=16, response_width=1, response_stride=1, interpolation_buffer=3
    )
    checked = 0
    for _ in range(1200):
        n = int(rng.integers(1, 7))
        r = random_regime(rng, grid, n)
        layout = outcome(r, grid, n)
        if isinstance(layout, str):
            continue
        neuron, sample = np.mgrid[:n, : grid.n_samples]
        shown, asked = np.zeros((n, grid.n_samples), int), np.zeros((n, grid.n_samples), int)
        for marks, rectangles in ((shown, layout.context), (asked, layout.targets)):
            for a in rectangles:
                marks[a.first_neuron : a.last_neuron, a.first_sample : a.last_sample] += 1
        assert max(shown.max(), asked.max(), (shown + asked).max()) <= 1
        # Independent of how the rule is written down: sets of (neuron, sample) instead of rectangles.
        context_first = r.response_context_start_idx or 0
        context_last = grid.n_samples
        if r.max_response_context_samples is not None:
            context_last = min(context_last, context_first + r.max_response_context_samples)
        first = context_first if r.prefix_start_idx is None else r.prefix_start_idx
        last = context_last if r.prefix_len is None else min(context_last, first + r.prefix_len)
        first, last = min(first, grid.n_samples), max(min(first, grid.n_samples), last)
        visible = n if r.n_visible_neurons is None else min(n, r.n_visible_neurons)
        full = 0 if r.n_visible_neurons is None else min(r.full_population_prefix_len or 0, last - first)
        if visible == 0:
            last, full = first, 0
        in_time = (sample >= first) & (sample < last)
        expected = in_time & (sample >= first + full) & (neuron < visible)
        if visible < n:
            expected |= in_time & (sample < first + full)
        np.testing.assert_array_equal(shown == 1, expected)
        wanted = n if r.max_n_reconstructed_neurons is None else r.max_n_reconstructed_neurons
        start = grid.skip_samples if r.suffix_start_idx is None else r.suffix_start_idx
        length = grid.n_samples if r.suffix_len is None else r.suffix_len
        expected = (neuron >= n - wanted) & (sample >= start) & (sample < start + length)
        if last > first:
            expected &= (neuron >= visible) | (sample >= last + grid.interpolation_buffer)
        if full:
            expected &= sample >= first + full + grid.interpolation_buffer
        np.testing.assert_array_equal(asked == 1, expected)
        checked += 1
    assert checked > 200


def test_missing_fields_mean_all():
    layout = resolve(
        Regime(max_n_reconstructed_neurons=0, behavior_encoded=False, behavior_reconstructed=True), RELEASED, 7
    )
    assert layout == resolve(dataclasses.replace(EVALUATION["all_response_video"]), RELEASED, 7)
    assert layout.behavior == "target"
    assert layout.video_steps == (0, 30)
    assert layout.latent_windows == tuple(range(6))
    later = resolve(
        Regime(4, response_context_start_idx=20, suffix_start_idx=30, max_n_reconstructed_neurons=2), RELEASED, 9
    )
    assert later.context[0].first_sample == 20
    assert later.latent_windows == (2, 3, 4, 5)


def test_a_layout_is_a_static_argument():
    a, b = (resolve(TRAINING[5], RELEASED, 4096) for _ in range(2))
    assert a == b
    assert hash(a) == hash(b)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"behavior_encoded": True, "behavior_reconstructed": True}, "behavior_reconstructed"),
        ({"n_visible_neurons": 0, "prefix_len": 10}, "n_visible_neurons"),
        ({"n_visible_neurons": 4, "prefix_len": 0}, "prefix_len"),
        ({"n_visible_neurons": 4, "prefix_len": 10, "full_population_prefix_len": 15}, "full_population_prefix_len"),
        ({"prefix_start_idx": 5, "response_context_start_idx": 10}, "response_context_start_idx"),
        ({"prefix_len": 40, "max_response_context_samples": 30}, "max_response_context_samples"),
        ({"n_visible_neurons": 1.5}, "n_visible_neurons"),
        ({"suffix_start_idx": -1}, "suffix_start_idx"),
        ({"weight": 0.0}, "weight"),
    ],
)
def test_contradictions_are_refused_by_field(bad, told):
    with pytest.raises(UserError, match=told) as error:
        Regime(**bad, name="mine")
    assert "'mine'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("video -> responses[:, 0:30]", "suffix_start_idx 0"),
        ("video -> responses[:, 30:57]", "suffix_len"),
        ("responses[:4, 0:12] -> responses[-4:, 30:60]", "prefix_len"),
        ("responses[:, 0:12] + responses[:4, 12:60] -> responses[-4:, 30:60]", "full_population_prefix_len"),
        ("responses[:, 30:60] -> responses[:, 30:60]", "max_n_reconstructed_neurons"),
        ("responses[:, 0:40] + responses[:4, 40:60] -> responses[-4:, 30:45]", "suffix_len"),
        ("video[0:1] -> responses", "n_visible_frames"),
        ("video -> nothing", "asks for nothing"),
    ],
)
def test_regimes_that_do_not_fit_are_refused_by_field(text, told):
    with pytest.raises(UserError, match=told) as error:
        resolve(get(text), RELEASED, 20)
    assert text in str(error.value)
    assert error.value.way_out


# --- expressions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4096, 8000, 50])
def test_expressions_read_back_as_the_same_layout(n):
    for grid in (RELEASED, Grid(16, 16, 16, 32, 32, 32), Grid(n_samples=120, n_frames=120, n_behavior=80)):
        for regime in ALL:
            assert outcome(parse(expression(regime)), grid, n) == outcome(regime, grid, n), regime


def test_any_regime_reads_back_as_the_same_layout():
    rng = np.random.default_rng(1)
    grid = dataclasses.replace(RELEASED, response_width=1, response_stride=1)
    for _ in range(700):
        regime = random_regime(rng, grid, 12)
        again = parse(str(regime), grid)
        assert outcome(again, grid, 12) == outcome(regime, grid, 12), regime
        assert str(again) == str(regime)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        (
            "responses[:1024, 30:60] + video + behavior -> responses[-3072:, 30:60]",
            Regime(1024, 30, 30, max_n_reconstructed_neurons=3072, suffix_start_idx=30, suffix_len=30),
        ),
        (
            "responses[:, 0:25] + video[0:60] -> responses[:, 30:60]",
            Regime(prefix_len=25, suffix_start_idx=30, suffix_len=30, behavior_encoded=False),
        ),
        (
            "responses + video -> behavior",
            Regime(max_n_reconstructed_neurons=0, behavior_encoded=False, behavior_reconstructed=True),
        ),
        (
            "responses[:, 0:15] + responses[:256, 15:60] + behavior -> responses[-3072:, 30:60]",
            Regime(256, 0, 60, 15, n_visible_frames=0, max_n_reconstructed_neurons=3072, suffix_start_idx=30),
        ),
        (
            "responses[:0.5] + video + behavior -> responses[-0.5:]",
            Regime(0.5, max_n_reconstructed_neurons=0.5, suffix_start_idx=5),
        ),
        ("video + behaviour -> responses[:, 1s:2s]", get("video + behavior -> responses[:, 30:60]")),
        ("video[1s:] -> responses[:, -30:]", get("video[30:60] -> responses[:, 30:60]")),
        ("video->responses [ : ,30 : 60 ]", get("video -> responses[:, 30:60]")),
        ("responses[:9] + latents[10:60] -> behavior", get("responses[:9, 10:60] + latents[10:60] -> behavior")),
        ("video -> responses[:, :30]", get("video -> responses[:, 5:30]")),
    ],
)
def test_expressions_mean_what_they_say(text, same_as):
    assert resolve(parse(text), RELEASED, 4096) == resolve(same_as, RELEASED, 4096)


def test_times_in_seconds_count_on_the_grid():
    grid = Grid(16, 16, 16, 32, 32, 32)
    assert fields(parse("video[0s:1s] -> responses[:, 1s:]", grid)) == fields(parse("video[0:16] -> responses[:, 16:]"))


@pytest.mark.parametrize(
    ("text", "part", "at"),
    [
        ("responses[:1024 30:60] -> behavior", ":1024 30:60", 11),
        ("video + resposnes -> behavior", "resposnes", 9),
        ("video + video -> behavior", "video", 9),
        ("video -> behavior + video", "video", 21),
        ("video[30:10] -> behavior", "30:10", 7),
        ("video[1:2, 3:4] -> behavior", "video[1:2, 3:4]", 1),
        ("responses[5:10] -> behavior", "5:10", 11),
        ("responses[:2.5] -> behavior", "2.5", 12),
        ("responses[:, 0:2.5] -> behavior", "2.5", 16),
        ("responses[:, 0:15] + responses[:256, 20:60] -> responses", "responses[:256, 20:60]", 22),
        ("responses[:9, 0:15] + responses[:, 15:60] -> behavior", "responses[:, 15:60]", 23),
        ("video -> responses[:64]", ":64", 20),
        ("video -> responses[-64:, 30:60, 2]", "responses[-64:, 30:60, 2]", 10),
        ("behavior[0:20] -> responses", "behavior[0:20]", 1),
        ("video[0:60 -> responses", "video[0:60", 1),
        ("video -> behavior -> responses", "video -> behavior -> responses", 1),
        ("video + behavior + responses", "video + behavior + responses", 1),
        ("video -> responses[:, :5]", ":5", 23),
    ],
)
def test_a_bad_expression_is_told_where_it_is_wrong(text, part, at):
    with pytest.raises(UserError) as error:
        get(text)
    message = str(error.value)
    assert f"at character {at}, {part!r}:" in message
    assert "\n" not in message
    resolve(parse(error.value.way_out.removeprefix("a valid one: ")), RELEASED, 4096)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("populaton", "population"),
        ("video_behaviour", "video_behavior"),
        ("causal_response_25_vidoe", "causal_response_25_video"),
        ("train_video10_populaton_64", "train_video10_population_64"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(wrong, near):
    with pytest.raises(UserError, match=f"'{near}'"):
        get(wrong)


def test_names_of_one_suite_may_leave_it_out():
    assert get("stimulus_driven") is EVALUATION["validation/stimulus_driven"]
    assert get(" video_only ") is EVALUATION["video_only"]
    assert get("train_video60_only") in TRAINING


def test_select_takes_suites_names_and_expressions_once_each():
    text = "video -> responses[:, 30:60]"
    assert select(["tasks", "population", text, text]) == (*SUITES["tasks"], parse(text))


# --- other grids, drawing, looking ----------------------------------------------------------------------------------


def test_regimes_move_to_other_grids():
    assert all(on_grid(regime, RELEASED) is regime for regime in ALL)
    double = Grid(60, 60, 40, 120, 120, 80)
    half = resolve(on_grid(EVALUATION["causal_response_25"], double), double, 9)
    assert (half.context[0].last_sample, half.targets[0].first_sample, half.targets[0].last_sample) == (50, 60, 120)
    for grid in (Grid(16, 16, 16, 32, 32, 32), Grid(15, 15, 15, 30, 30, 30), double, Grid(10, 10, 10, 40, 40, 40)):
        for regime in (*map(as_fractions, TRAINING[::3]), *SUITES["tasks"], *SUITES["test"]):
            moved = on_grid(regime, grid)
            layout = resolve(moved, grid, 4096)
            assert bool(layout.context) == (regime.n_visible_neurons != 0)
            assert (layout.video_steps == (0, 0)) == (regime.n_visible_frames == 0)


def test_draws_are_pure_and_follow_the_weights():
    some = tuple(
        dataclasses.replace(regime, weight=w) for regime, w in zip(TRAINING[:4], (1.0, 2.0, 4.0, 1.0), strict=True)
    )
    steps = range(4000)
    drawn = [draw(7, step, some) for step in steps]
    assert [draw(7, step, some) for step in reversed(steps)] == drawn[::-1]
    assert [draw(8, step, some) for step in steps] != drawn
    counts = Counter(some.index(regime) for regime in drawn)
    for i, regime in enumerate(some):
        p = regime.weight / 8
        assert abs(counts[i] - p * 4000) < 4 * np.sqrt(4000 * p * (1 - p))
    assert {draw(0, step, TRAINING) for step in range(2000)} == set(TRAINING)


def test_describe_says_which_regimes_do_not_fit():
    good, bad = describe([EVALUATION["population"], EVALUATION["population_1024_response"]], RELEASED, 300)
    assert good["queries"] == 150 * 6
    assert good["encoder_tokens"] == 150 * 5 + 5
    assert good["problem"] == ""
    assert bad["queries"] is None
    assert "0.5" in bad["problem"]


def test_a_picture_shows_every_sample():
    text = picture(
        get("responses[:, 10:25] + responses[:8, 25:60] + video[40:60] -> responses[-8:, 30:60]"), RELEASED, 20
    )
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines()[1:-1])
    assert lines["neurons 0-7"] == "." * 10 + "#" * 50
    assert lines["neurons 8-11"] == "." * 10 + "#" * 15 + "." * 35
    assert lines["neurons 12-19"] == "." * 10 + "#" * 15 + "." * 5 + "?" * 30
    assert lines["video"] == "." * 40 + "#" * 20
    assert lines["behavior"] == "." * 60
    assert lines["latents"] == "=" * 60
    long = picture(SUITES["tasks"][0], Grid(n_samples=240, n_frames=240, n_behavior=160), 20)
    assert max(map(len, long.splitlines())) < 90


def test_pictures_and_expressions_of_the_docs_are_true():
    text = DOCS.read_text()
    blocks = re.findall(r"<!-- picture: (.+?), (\d+) neurons -->\n```text\n(.*?)\n```", text, re.S)
    assert len(blocks) >= 5
    for regime, n, drawn in blocks:
        assert drawn == picture(get(regime), RELEASED, int(n)), f"docs/regimes.md: picture of {regime}"
    quoted = re.findall(r"`([^`\n]*->[^`\n]*)`", text)
    assert len(quoted) >= 5
    for line in quoted:
        resolve(parse(line), RELEASED, 8000)


def test_the_python_of_the_docs_runs():
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    scope: dict = {}
    exec(code, scope)
    assert scope["layout"].n_visible == 150
    assert len(scope["rows"]) == len(SUITES["test"])
