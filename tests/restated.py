"""The released model without its video part, restated in PyTorch from its description, with every option of its blocks.

Written apart from our model, to check options that no saved output covers. Names of parameters are the released ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from omnimouse_jax.model.reference import constants, flatten, nest, save_state
from omnimouse_jax.model.reference_config import config_from_reference
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.step import Capacity, abstract_model

SESSIONS = {
    "a-1": {"n_neurons": 9, "animal_id": "a"},
    "a-2": {"n_neurons": 5, "animal_id": "a"},
    "b-1": {"n_neurons": 7, "animal_id": "b"},
}
REGIME: dict[str, Any] = {
    "n_visible_neurons": 4,
    "prefix_start_idx": 0,
    "prefix_len": None,
    "full_population_prefix_len": 0,
    "response_context_start_idx": 0,
    "max_response_context_samples": None,
    "max_n_reconstructed_neurons": 3,
    "n_visible_frames_start_idx": 0,
    "n_visible_frames": 0,
    "behavior_encoded": True,
    "behavior_reconstructed": False,
}


def write_triple(
    folder: Path, name: str, fields: dict[str, Any], sessions: dict[str, Any], regimes: dict[str, Any]
) -> Path:
    """Files like those of the check data, for random weights and inputs. Regimes show no video."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of(
        {k: {"animal": s["animal_id"], "n_neurons": s["n_neurons"]} for k, s in sessions.items()}
    )
    config = config_from_reference(fields, {k: s["animal_id"] for k, s in sessions.items()})
    g, session = config.grid, next(iter(sessions))
    shapes = {k: leaf.shape for k, leaf in flatten(abstract_model(config, Capacity.of(vocabulary))[1]).items()}
    # scales of norms are near 1, everything else near 0
    drawn = {k: (k.endswith("scale") + rng.normal(size=s) * 0.3).astype(np.float32) for k, s in shapes.items()}
    weights = save_state(config, nest(drawn), vocabulary) | constants(config)
    b, n = 2, fields["max_population_size"] or sessions[session]["n_neurons"]
    start = np.array([100.25, 164.5])[:, None]
    inputs = {
        "responses": rng.gamma(1.0, 1.0, (b, g.n_samples, sessions[session]["n_neurons"])).astype(np.float32),
        "screen": np.zeros((b, 1, g.n_frames, *config.screen), np.float32),
        "behavior": rng.normal(size=(b, config.n_channels, g.n_behavior)).astype(np.float32),
        "response_timestamps": start + np.arange(g.n_samples)[None] / g.response_rate,
        "screen_timestamps": start + np.arange(g.n_frames)[None] / g.video_rate,
        "neuron_ids": np.stack([rng.permutation(sessions[session]["n_neurons"])[:n] for _ in range(b)]),
    }
    arrays = {f"inputs/{key}": value for key, value in inputs.items()}
    cases = {}
    for case, changes in regimes.items():
        regime = {**REGIME, **changes}
        model = Restated(weights, fields, sessions)
        seen = model.run(session, inputs, regime)
        seen["loss"].backward()
        arrays |= {f"{case}/{key}": value for key, value in packed(seen).items()}
        grads = {key: w.grad.numpy() for key, w in model.weights.items() if w.grad is not None}
        arrays |= {
            f"{case}/grad/{key}": grads[key] for key in ("neuron_to_model_proj.weight", "decs.0.attention.wkv.weight")
        }
        cases[case] = {**regime, "grad_norms": {key: float(np.linalg.norm(grad)) for key, grad in grads.items()}}
    np.savez(folder / f"{name}.npz", **arrays)
    np.savez(folder / f"{name}.weights.npz", **weights)
    told = {"config": fields, "sessions": sessions, "session": session, "cases": cases}
    (folder / f"{name}.json").write_text(json.dumps(told))
    return folder / name


def packed(seen: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for key, value in seen.items():
        if key.startswith("mask"):
            arrays |= {key: np.packbits(value, axis=-1), f"{key}_shape": np.array(value.shape)}
        else:
            arrays[key] = value.detach().numpy()
    return arrays


@dataclasses.dataclass
class Tokens:
    """Vectors (B, L, D); the start and end of each in exact seconds; its rotary time."""

    x: torch.Tensor
    spans: list[tuple[Fraction, Fraction]]
    times: np.ndarray

    def and_then(self, other: Tokens | None) -> Tokens:
        if other is None:
            return self
        return Tokens(
            torch.cat([self.x, other.x], 1), self.spans + other.spans, np.concatenate([self.times, other.times])
        )


class Restated:
    def __init__(self, weights: dict[str, np.ndarray], fields: dict[str, Any], sessions: dict[str, Any]):
        self.weights = {
            k: torch.tensor(v, requires_grad=v.dtype == np.float32 and k not in ("behavior_timestamps",))
            for k, v in weights.items()
        }
        self.f, self.sessions = fields, sessions

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, name: str, x: torch.Tensor, wanted: bool) -> torch.Tensor:
        if not wanted:
            return x
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + self.f["norm_eps"]) * self.weights[f"{name}.weight"]

    def turned(self, x: torch.Tensor, times: np.ndarray) -> torch.Tensor:
        angle = torch.tensor((times[:, None] * self.weights["rotary_emb.inv_freq"].numpy()[None]).astype(np.float32))
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))  # (B, H, L, pairs)
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).reshape(x.shape)

    def block(
        self, name: str, q: Tokens, context: Tokens | None, see: np.ndarray | None, kv_heads: int, positions: bool
    ):
        f = self.f
        heads, pre, post = f["num_heads"], f["use_pre_norm"], f["use_post_norm"]
        b, n, d = q.x.shape
        size = d // heads
        x = self.norm(f"{name}.attn_pre_norm", q.x, pre)
        if context is None:
            stacked, keys = self.linear(f"{name}.attention.wqkv", x), q
            parts = stacked.split([heads * size, kv_heads * size, kv_heads * size], -1)
        else:
            keys = context
            normed = self.norm(f"{name}.attn_pre_norm_context", context.x, pre)
            parts = (self.linear(f"{name}.attention.wq", x), *self.linear(f"{name}.attention.wkv", normed).chunk(2, -1))
        q_, k, v = (part.reshape(b, part.shape[1], -1, size).transpose(1, 2) for part in parts)
        if f["use_qk_norm"]:
            q_, k = (y / torch.sqrt((y**2).mean(-1, keepdim=True) + f["norm_eps"]) for y in (q_, k))
        if positions:
            q_, k = self.turned(q_, q.times), self.turned(k, keys.times)
        k, v = (y.repeat_interleave(heads // kv_heads, dim=1) for y in (k, v))
        scores = q_ @ k.transpose(-1, -2) / math.sqrt(size)
        if see is not None:
            scores = scores.masked_fill(~torch.tensor(see), -math.inf)
        seen = torch.nan_to_num(torch.softmax(scores, -1)) @ v
        update = self.linear(f"{name}.attention.wo", seen.transpose(1, 2).reshape(b, n, -1))
        x = q.x + self.norm(f"{name}.attn_post_norm", update, post)
        y = self.norm(f"{name}.ffn_pre_norm", x, pre)
        active = {"silu": F.silu, "gelu": F.gelu}[f["ffn_activation"]]
        y = active(self.linear(f"{name}.feed_forward.up_proj", y)) * self.linear(f"{name}.feed_forward.gate_proj", y)
        y = self.linear(f"{name}.feed_forward.down_proj", y)
        return dataclasses.replace(q, x=x + self.norm(f"{name}.ffn_post_norm", y, post))

    def run(self, session: str, inputs: dict[str, np.ndarray], regime: dict[str, Any]) -> dict[str, Any]:
        f, w, d = self.f, self.weights, self.f["d_model"]
        rate, stride, width = f["num_samples_per_s"], f["response_stride_samples"], f["response_window_size_samples"]
        samples = f["num_samples_per_block"]
        ids = torch.tensor(inputs["neuron_ids"])
        b, n = ids.shape
        whole = Fraction(f["num_behavior_samples_per_block"], f["num_behavior_samples_per_s"])

        meta = self.linear("sess_to_model_proj", w[f"sess_params.{session}._session_embedding"]).expand(b, d)
        animals = {s["animal_id"] for s in self.sessions.values()}
        if f["always_use_animal_embeddings"] or len(animals) < len(self.sessions):
            animal = w[f"animal_params._animal_embeddings.{self.sessions[session]['animal_id']}"]
            meta = meta + self.linear("animal_to_model_proj", animal)
        if f["add_exp_time_embedding"]:
            second = torch.tensor(np.floor(inputs["response_timestamps"][:, 0]).astype(int))
            table = w["exp_time_embedding.positional_embeddings"].detach()
            meta = meta + self.linear("exp_time_to_model_proj", table[second])
        added = meta[:, None] if f["add_meta_to_embeddings"] else 0
        neurons = (
            self.linear("neuron_to_model_proj", w[f"sess_params.{session}._neuron_embeddings.weight"][ids]) + added
        )
        channels = w["behavior_channel_embeddings"].expand(b, -1, -1) + added

        x = torch.gather(torch.tensor(inputs["responses"]), 2, ids[:, None].expand(b, samples, n))
        context = None
        shown = regime["n_visible_neurons"]
        if shown:
            length = regime["prefix_len"]
            part = x[:, :length, :shown].transpose(1, 2).reshape(-1, 1, length)
            kernel, bias = (w[f"response_featx._feature_proj.{which}"] for which in ("weight", "bias"))
            tokens = F.conv1d(part, kernel, bias, stride=stride).reshape(b, shown, d, -1)
            tokens = tokens.permute(0, 3, 1, 2) + neurons[:, None, :shown]
            spans, times = self.repeated([Fraction(stride * t, rate) for t in range(tokens.shape[1])], width, shown)
            context = Tokens(tokens.reshape(b, -1, d), spans, times)
        n_channels = channels.shape[1]
        behavior = torch.tensor(inputs["behavior"])
        of_behavior = ([(Fraction(0), whole)] * n_channels, np.zeros(n_channels))
        if regime["behavior_encoded"]:
            tokens = Tokens(self.linear("behavior_featx", behavior) + channels, *of_behavior)
            context = tokens if context is None else context.and_then(tokens)

        per, n_global = f["num_response_latent_groups"], f["num_global_latents"]
        table = w["response_latent_embedding._latent_embeddings.weight"]
        step, wide = f["response_latent_window_stride_samples"], f["response_latent_window_size_samples"]
        starts = range(0, samples - wide + 1, step)
        starts = [s for s in starts if s < regime["max_response_context_samples"]]
        vectors = torch.cat([table[:per]] * len(starts) + [table[per:]]).expand(b, -1, -1)
        missing = w["missing_modality_embeddings"]
        absent = [not shown, True, not regime["behavior_encoded"]]
        vectors = vectors + sum(missing[i] for i in range(3) if absent[i])
        if f["add_meta_to_latents"]:
            vectors = vectors + meta[:, None]
        spans = [(Fraction(s, rate), Fraction(s + wide, rate)) for s in starts for _ in range(per)]
        seconds = np.repeat(np.arange(len(starts), dtype=np.float32) * np.float32(step / rate), per)
        latents = Tokens(
            vectors,
            spans + [(Fraction(0), Fraction(samples, rate))] * n_global,
            np.append(seconds.astype(np.float64), np.zeros(n_global)),
        )

        out: dict[str, Any] = {}
        heads = f["num_heads"]
        if context is not None:
            out["mask_enc"] = overlap(latents.spans, context.spans)
            latents = self.block("enc", latents, context, out["mask_enc"], heads, True)
        out["latents_after_encoder"] = latents.x
        out["mask_latent"] = overlap(latents.spans, latents.spans)
        hidden = latents
        for i, local in enumerate(self.local_layers()):
            see = out["mask_latent"] if local else None
            positions = local or not f["use_global_nope"]
            hidden = self.block(f"proc.{i}", hidden, None, see, f["num_kv_heads"] or heads, positions)
        out["hidden"] = hidden.x

        asked, first, last = regime["max_n_reconstructed_neurons"], regime["suffix_start_idx"], samples
        queries, steps = None, (last - first) // stride
        if asked:
            starts_s = [Fraction(first + stride * t, rate) for t in range(steps)]
            spans, times = self.repeated(starts_s, width, asked, Fraction(f["response_query_lookback_samples"], rate))
            queries = Tokens(neurons[:, n - asked :].repeat(1, steps, 1), spans, times)
        if regime["behavior_reconstructed"]:
            of_channels = Tokens(channels, *of_behavior)
            queries = of_channels if queries is None else queries.and_then(of_channels)
        assert queries is not None
        out["mask_dec"] = overlap(queries.spans, hidden.spans)
        answers = self.block("decs.0", queries, hidden, out["mask_dec"], heads, True).x
        loss = torch.zeros(())
        if asked:
            biases = w[f"sess_params.{session}._neuron_biases"][ids[:, n - asked :]].repeat(1, steps, 1)
            logits = self.linear("response_readout_proj", answers[:, : steps * asked]) + biases
            predicted = F.softplus(logits, beta=f["softplus_beta"]).reshape(b, -1)
            target = x[:, first : first + steps * stride, n - asked :]
            labels = target.reshape(b, steps, stride, asked).permute(0, 1, 3, 2).reshape(b, -1)
            element = predicted - labels * torch.log(predicted + f["response_poisson_loss_eps"])
            out["response_preds"], out["response_labels"] = predicted, labels
            out["response_loss"] = clipped(element, f["response_loss_clamp_value"]).mean()
            loss = loss + out["response_loss"]
        if regime["behavior_reconstructed"]:
            readout = w["behavior_readout_proj"].expand(n_channels, -1, -1)
            predicted = torch.einsum("bcd,csd->bcs", answers[:, -n_channels:], readout)
            out["behavior_preds"] = predicted
            out["behavior_loss"] = clipped((predicted - behavior) ** 2, f["behavior_loss_clamp_value"]).mean()
            loss = loss + f["behavior_loss_factor"] * out["behavior_loss"]
        return {**out, "loss": loss}

    def repeated(
        self, starts: list[Fraction], width: int, n: int, back: Fraction = Fraction(0)
    ) -> tuple[list, np.ndarray]:
        """Spans and times of tokens that begin at `starts`, `n` neurons at each."""
        length = Fraction(width, self.f["num_samples_per_s"])
        spans = [(start - back, start + length) for start in starts for _ in range(n)]
        return spans, np.repeat([float(start) for start in starts], n)

    def local_layers(self) -> list[bool]:
        n_local, n_global = self.f["local_to_global_ratio"] or (1, 0)
        cycle = [True] * n_local + [False] * n_global
        depth = self.f["num_self_attends_per_block"]
        return [True] * (depth % len(cycle)) + cycle * (depth // len(cycle))


def clipped(element: torch.Tensor, limit: float | None) -> torch.Tensor:
    return element if limit is None else element.clamp(-limit, limit)


def overlap(queries: list[tuple[Fraction, Fraction]], keys: list[tuple[Fraction, Fraction]]) -> np.ndarray:
    return np.array([[not (k1 <= q0 or k0 >= q1) for k0, k1 in keys] for q0, q1 in queries])
