"""What the words of the page mean."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def definitions(result: Mapping[str, Any]) -> str:
    s = result["provenance"]["settings"]
    words = [
        (
            "Condition",
            f"A time bin of {s['bin_s']:g} s of a stimulus that was shown twice or more; a picture shorter than that is one.",
        ),
        (
            "Crossnobis",
            f"Squared distance of two conditions, across repeats, so that noise does not add to it; precision: {s['noise']}, from "
            "repeats. Negative by chance where they do not differ; never clipped. A prediction has no noise: its plain distance.",
        ),
        (
            "Correlation distance",
            "1 less the correlation of two average patterns, neurons z-scored. Noise makes it larger.",
        ),
        (
            "Untrained",
            "The first run's architecture with fresh parameters: what such a model shows without having learnt.",
        ),
        (
            "Corrected",
            "For noise in the recording: mean similarity of RDMs of half of the repeats to the model's, divided by the root of the "
            "similarity of the halves. Above 1 by chance; none where halves are not alike.",
        ),
        (
            "Partial",
            "What is left of the similarity once RDMs of pixels (mean frame), contrast (spread over pixels) and motion energy "
            "(squared change in 4 x 8 tiles) are regressed out of both.",
        ),
        (
            "Interval",
            f"Of a session: stretches of {s['block_s']:g} s of a stimulus are drawn again, pairs of copies left out. Of a mean: "
            "animals are drawn again. None for fewer than 3.",
        ),
        (
            "p",
            f"Share of {s['permutations']} orders of whole stretches (so that what is alike because it is near in time stays "
            "together) in which the RDMs are at least as alike; the largest of the sessions.",
        ),
        (
            "Predictivity",
            "Of a condition: correlation over neurons of recorded and predicted pattern, neurons z-scored.",
        ),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in words)
    return f'<h2>Definitions</h2><dl class="words">{listed}</dl>'
