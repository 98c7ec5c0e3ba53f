"""The time grid of a window: rates, lengths and how wide a token is. Everything in integers on one common tick."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

from omnimouse_jax.errors import UserError

_AT_LEAST_ONE = (
    *("response_rate", "video_rate", "behavior_rate", "n_samples", "n_frames", "n_behavior"),
    *("response_width", "response_stride", "latent_width", "latent_stride", "video_kernel", "video_stride"),
)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Rates in Hz, lengths in samples of their own modality. Defaults are the released model's (2 s blocks)."""

    response_rate: int = 30
    video_rate: int = 30
    behavior_rate: int = 20
    n_samples: int = 60  # S, response samples in a window
    n_frames: int = 60  # F
    n_behavior: int = 40  # T
    response_width: int = 10  # samples in a response token
    response_stride: int = 5  # samples between response tokens, and samples that one query predicts
    latent_width: int = 10  # response samples under one window of latents
    latent_stride: int = 10
    query_lookback: int = 0  # response samples by which a query's window starts earlier
    interpolation_buffer: int = 5  # samples after a context that are not scored (resampled neighbours leak)
    skip_samples: int = 5  # a target may not start before this sample
    video_kernel: int = 6  # frames under one video feature
    video_stride: int = 2
    video_padding: int = 2
    behavior_width: int = 0  # behaviour samples in a token, and that one query predicts; 0: the whole window in one

    def __post_init__(self) -> None:
        wrong = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) < 0]
        wrong += [name for name in _AT_LEAST_ONE if getattr(self, name) < 1 and name not in wrong]
        if wrong:
            raise UserError(f"grid: {wrong[0]} is {getattr(self, wrong[0])}", way_out="use a positive number")
        if self.behavior_width and self.n_behavior % self.behavior_width:
            raise UserError(
                f"grid: behavior_width {self.behavior_width} does not divide n_behavior {self.n_behavior}",
                way_out="choose a divisor, or 0 for one token per channel",
            )

    @property
    def seconds(self) -> float:
        """Duration of a window: that of its longest modality."""
        return self.n_ticks / self.ticks_per_second

    @cached_property
    def ticks_per_second(self) -> int:
        """The coarsest integer clock on which every sample time of every modality falls exactly."""
        return math.lcm(self.response_rate, self.video_rate, self.behavior_rate)

    @property
    def ticks_per_sample(self) -> int:
        return self.ticks_per_second // self.response_rate

    @property
    def ticks_per_frame(self) -> int:
        return self.ticks_per_second // self.video_rate

    @property
    def n_ticks(self) -> int:
        """Ticks in a window, all modalities included."""
        behavior = self.n_behavior * (self.ticks_per_second // self.behavior_rate)
        return max(self.n_samples * self.ticks_per_sample, self.n_frames * self.ticks_per_frame, behavior)

    @property
    def behavior_samples(self) -> int:
        """Samples in one behaviour token."""
        return self.behavior_width or self.n_behavior

    @property
    def n_behavior_steps(self) -> int:
        """Behaviour tokens per channel."""
        return self.n_behavior // self.behavior_samples

    @property
    def n_latent_windows(self) -> int:
        return (self.n_samples - self.latent_width) // self.latent_stride + 1

    @property
    def n_video_steps(self) -> int:
        """Time steps of video features when every frame is visible."""
        return (self.n_frames + 2 * self.video_padding - self.video_kernel) // self.video_stride + 1

    def response_steps(self, n_samples: int) -> int:
        """Response tokens per neuron that a stretch of `n_samples` gives."""
        return max(0, (n_samples - self.response_width) // self.response_stride + 1)
