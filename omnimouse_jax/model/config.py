"""Every choice that defines a model, as plain hashable data, and the released sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS
from omnimouse_jax.tokens.grid import Grid

HIERA_ORDERS = ("reference", "spatial")
TOUCHING = ("out", "in")
ACTIVATIONS = ("silu", "gelu")
RESPONSE_LOSSES = ("poisson", "gaussian")
COMPUTE_DTYPES = ("float32", "bfloat16")
ATTENTION = ("auto", "plain", "blocks", "blocks_unlooped", "cudnn", "splash", "splash_interpreted")
REMAT = ("none", "layer", "cycle")
_AT_LEAST_ONE = (
    *("d_embedding", "d_model", "n_heads", "n_layers", "ffn_multiple", "latents_per_window", "global_latents"),
    *("screen", "hiera_dim", "hiera_heads", "hiera_stages", "hiera_q_stride", "hiera_mask_unit"),
    *("hiera_kernel", "hiera_stride"),
)
_POSITIVE = (
    *("ffn_multiplier", "decoder_ffn_multiplier", "hiera_mlp_ratio", "softplus_beta", "norm_eps", "poisson_eps"),
    *("max_recording_seconds", "screen_std"),
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Defaults are the released 1M model's (arXiv 2604.18827). Contradictions are refused at construction."""

    grid: Grid = dataclasses.field(default_factory=Grid)
    screen: tuple[int, int] = (36, 64)  # height, width in pixels
    screen_mean: float = 113.0  # grey levels; (value - mean) / std is done on the device
    screen_std: float = 59.0
    behavior_channels: tuple[str, ...] = BEHAVIOR_CHANNELS
    max_neurons: int | None = 4096  # neurons in play per training window; None: all

    # Identity
    d_embedding: int = 256  # width of the tables
    animal_embeddings: bool = True
    meta_to_embeddings: bool = True  # session + animal (+ time) added to neuron and behaviour-channel vectors
    meta_to_latents: bool = True
    meta_to_video: bool = False
    neuron_weights: bool = False  # a neuron's vector also scales its responses on the way in and weighs its readout
    experiment_time: bool = False  # a fixed sinusoid of the second within the recording joins the meta vector
    max_recording_seconds: float = 18_000.0  # rows of the released sinusoid table; no limit here

    # Perceiver
    d_model: int = 256
    n_heads: int = 4
    n_kv_heads: int | None = None  # grouped keys and values, in the tower only; None: n_heads
    n_layers: int = 2
    local_to_global: tuple[int, int] = (1, 1)  # layers of each kind in a cycle; the remainder comes first, local
    ffn_multiplier: float = 2.67
    decoder_ffn_multiplier: float = 4.0
    ffn_multiple: int = 128  # hidden widths are rounded up to a multiple of this, in the video blocks too
    ffn_activation: str = "silu"
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: bool = True
    norm_eps: float = 1e-5
    global_positions: bool = True  # False: global layers see no positions
    latents_per_window: int = 640
    global_latents: int = 256
    touching: str = "out"  # intervals that only share an end point: "out" or "in"

    # How it is computed: what a model is does not depend on it
    compute_dtype: str = "float32"  # parameters, norms, softmax and predictions stay float32
    attention: str = "auto"  # the best for the device; or one of model/attention.py by name
    scan_layers: bool = True  # the tower's layers as a loop: compiled once per kind of layer, at any depth
    remat: str = (
        "none"  # computed again in the backward pass instead of kept: nothing, each "layer", or "cycle" of the tower
    )

    # Readouts and losses
    response_loss: str = "poisson"  # or "gaussian", for signals of either sign: no softplus, half the squared error
    softplus_beta: float = 0.1
    per_channel_behavior_readout: bool = True
    poisson_eps: float = 1e-5
    response_loss_clip: float | None = 100.0
    behavior_loss_clip: float | None = 10.0
    behavior_loss_weight: float = 0.1

    # Video
    hiera_dim: int = 128
    hiera_heads: int = 2
    hiera_stages: tuple[int, ...] = (2, 2)
    hiera_q_pool: int = 1  # stages that begin with pooling
    hiera_q_stride: tuple[int, int, int] = (1, 2, 2)
    hiera_mask_unit: tuple[int, int, int] = (1, 8, 8)
    hiera_kernel: tuple[int, int] = (7, 7)  # rows, columns; frames are the grid's
    hiera_stride: tuple[int, int] = (2, 2)
    hiera_padding: tuple[int, int] = (1, 3)
    hiera_mlp_ratio: float = 2.67
    hiera_order: str = "reference"
    drop_path: float = 0.25  # stochastic depth of the last video block, linear over depth; training only

    def __post_init__(self) -> None:
        _one_of("hiera_order", self.hiera_order, HIERA_ORDERS)
        _one_of("touching", self.touching, TOUCHING)
        _one_of("response_loss", self.response_loss, RESPONSE_LOSSES)
        _one_of("ffn_activation", self.ffn_activation, ACTIVATIONS)
        _one_of("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        _one_of("attention", self.attention, ATTENTION)
        _one_of("remat", self.remat, REMAT)
        for name in (*_AT_LEAST_ONE, *_POSITIVE):
            value = getattr(self, name)
            least = min(value, default=0) if isinstance(value, tuple) else value
            if least <= 0:
                _refuse(f"{name} is {value}", "use a positive number")
        for name in ("max_neurons", "response_loss_clip", "behavior_loss_clip"):
            if (limit := getattr(self, name)) is not None and limit <= 0:
                _refuse(f"{name} is {limit}", "use a positive number, or None for no limit")
        for name in ("screen", "hiera_padding"):
            if len(getattr(self, name)) != 2:
                _refuse(f"{name} is {getattr(self, name)}", "give two numbers, for height and width")
        if min(self.hiera_padding) < 0:
            _refuse(f"hiera_padding is {self.hiera_padding}", "use 0 or more")
        _divides("n_heads", self.n_heads, "d_model", self.d_model)
        if self.experiment_time and self.d_embedding % 2:
            _refuse(
                f"experiment_time needs pairs of sine and cosine, and d_embedding is {self.d_embedding}",
                "make it even",
            )
        if self.d_head % 2:
            _refuse(f"a head is {self.d_head} wide, and rotary positions need pairs", "change d_model or n_heads")
        _divides("n_kv_heads", self.kv_heads, "n_heads", self.n_heads)
        cycle = sum(self.local_to_global)
        if min(self.local_to_global) < 0 or cycle < 1 or (0 not in self.local_to_global and cycle > self.n_layers):
            _refuse(
                f"local_to_global {self.local_to_global} makes a cycle that does not fit in {self.n_layers} layers",
                "their sum must be between 1 and n_layers",
            )
        if len(set(self.behavior_channels)) != len(self.behavior_channels) or not self.behavior_channels:
            _refuse(
                f"behavior_channels {self.behavior_channels} must be distinct and not empty", "name each channel once"
            )
        if not 0 <= self.drop_path < 1:
            _refuse(f"drop_path {self.drop_path} is not a probability below 1", "the released value is 0.25")
        self._check_video()

    def _check_video(self) -> None:
        if len(self.hiera_stages) not in (1, 2) or self.hiera_q_pool != len(self.hiera_stages) - 1:
            _refuse(
                f"hiera_stages {self.hiera_stages} with hiera_q_pool {self.hiera_q_pool}",
                "one stage without pooling, or two stages with pooling between them, are supported",
            )
        if self.hiera_q_stride[0] != 1 or self.hiera_mask_unit[0] != 1:
            _refuse("hiera_q_stride and hiera_mask_unit must not span frames", "make their first number 1")
        _divides("hiera_heads", self.hiera_heads, "hiera_dim", self.hiera_dim)
        rows, columns = self.patch_grid
        if rows < 1 or columns < 1:
            _refuse(f"screen {self.screen} is smaller than hiera_kernel {self.hiera_kernel}", "use a larger screen")
        stride, unit = self.hiera_q_stride[1:], self.hiera_mask_unit[1:]
        for what, tokens, pool in (("rows", rows, stride[0]), ("columns", columns, stride[1])):
            if len(self.hiera_stages) > 1 and tokens % pool:
                _refuse(
                    f"screen {self.screen} gives {rows} x {columns} patches, and {what} do not divide by {pool}",
                    "change screen, hiera_stride or hiera_padding",
                )
        if any(u % s for u, s in zip(unit, stride, strict=True)):
            _refuse(f"hiera_mask_unit {unit} does not divide by hiera_q_stride {stride}", "use (1, 8, 8) and (1, 2, 2)")
        if self.hiera_order == "spatial" and (rows % unit[0] or columns % unit[1]):
            _refuse(
                f"screen {self.screen} gives {rows} x {columns} patches, not whole windows of {unit[0]} x {unit[1]}",
                "change screen, hiera_stride, hiera_padding or hiera_mask_unit",
            )
        if self.hiera_order == "reference" and (self.grid.n_video_steps * rows * columns) % math.prod(unit):
            _refuse(
                f"{self.grid.n_video_steps} x {rows} x {columns} patches are not whole runs of {math.prod(unit)}",
                "change screen or hiera_mask_unit",
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ModelConfig:
        """From fields as JSON has them: lists for tuples, integers for floats, the grid as a mapping.

        Raises UserError for a field that does not exist.
        """
        types = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(types))
        if unknown:
            _refuse(f"there is no field {unknown[0]}", f"fields are {', '.join(types)}")

        def typed(name: str, value: Any) -> Any:
            if name == "grid" and isinstance(value, Mapping):
                return Grid(**value)
            if isinstance(value, list):
                return tuple(value)
            whole = isinstance(value, int) and not isinstance(value, bool)
            return float(value) if whole and types[name].startswith("float") else value

        return cls(**{name: typed(name, value) for name, value in values.items()})

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    def ffn_width(self, d: int, multiplier: float) -> int:
        """Hidden width of a gated feed-forward layer on `d` channels."""
        return int(self.ffn_multiple * ((d * multiplier + self.ffn_multiple - 1) // self.ffn_multiple))

    @property
    def kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def n_channels(self) -> int:
        """Behaviour channels."""
        return len(self.behavior_channels)

    @property
    def tower_plan(self) -> tuple[int, int, int, int]:
        """(local layers first, cycles, local layers in each, global layers in each): the remainder of whole cycles is local."""
        n_local, n_global = self.local_to_global
        if not n_local or not n_global:  # one kind only
            n_local, n_global = int(bool(n_local)), int(bool(n_global))
        cycles, first = divmod(self.n_layers, n_local + n_global)
        return first, cycles, n_local, n_global

    @property
    def layer_is_local(self) -> tuple[bool, ...]:
        """Which tower layers attend within windows, in order."""
        n_first, n_cycles, n_local, n_global = self.tower_plan
        return (True,) * n_first + ((True,) * n_local + (False,) * n_global) * n_cycles

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches before pooling."""
        return tuple(  # type: ignore[return-value]
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                self.screen, self.hiera_padding, self.hiera_kernel, self.hiera_stride, strict=True
            )
        )

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Rows and columns of video features."""
        rows, columns = self.patch_grid
        if len(self.hiera_stages) == 1:
            return rows, columns
        return rows // self.hiera_q_stride[1], columns // self.hiera_q_stride[2]

    @property
    def features_per_step(self) -> int:
        """Video features in one time step."""
        return math.prod(self.feature_grid)

    @property
    def rotary_seconds(self) -> float:
        """The longest rotary period: the duration of the longest modality."""
        g = self.grid
        return max(g.n_samples / g.response_rate, g.n_frames / g.video_rate, g.n_behavior / g.behavior_rate)


def _refuse(what: str, way_out: str) -> None:
    raise UserError(f"model config: {what}", way_out=way_out)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        _refuse(f"{name} is {value!r}", f"use one of {', '.join(map(repr, allowed))}")


def _divides(name: str, part: int, whole_name: str, whole: int) -> None:
    if part < 1 or whole % part:
        _refuse(f"{name} {part} does not divide {whole_name} {whole}", "choose a divisor")


def _released(d_model: int, n_heads: int, n_layers: int, n_local: int, hiera_stages: tuple[int, int]) -> ModelConfig:
    return ModelConfig(
        d_model=d_model,
        n_heads=n_heads,
        n_layers=n_layers,
        local_to_global=(n_local, 1),
        hiera_stages=hiera_stages,
    )


#: Names count the self-attention tower only. `tiny` is for two CPU cores: a screen of 16 x 32 and few tokens.
SIZES: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        screen=(16, 32),
        max_neurons=128,
        d_embedding=32,
        d_model=64,
        n_heads=2,
        n_layers=2,
        ffn_multiple=16,
        latents_per_window=32,
        global_latents=16,
        hiera_dim=32,
        hiera_stages=(1, 1),
        hiera_mask_unit=(1, 4, 8),
        hiera_stride=(4, 4),
        hiera_padding=(2, 2),
        hiera_order="spatial",
        drop_path=0.1,
    ),
    "1M": _released(256, 4, 2, 1, (2, 2)),
    "5M": _released(256, 4, 6, 5, (2, 2)),
    "20M": _released(512, 8, 6, 5, (2, 8)),
    "80M": _released(768, 12, 12, 5, (2, 8)),
    "300M": _released(1024, 16, 24, 5, (2, 8)),
}
