"""python -m omnimouse_brainscore score ASSEMBLY.npz TARGET.npz --region VISp | tree DECLARED.json SCORE.json ..."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser("omnimouse_brainscore", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    score = steps.add_parser("score", help="score predictions of a run on a mouse's recordings")
    score.add_argument("assembly", type=Path, help="omnimouse-jax benchmark brainscore export")
    score.add_argument("target", type=Path, help="omnimouse-jax benchmark brainscore target")
    score.add_argument("--region", required=True, help="mouse area, such as VISp")
    score.add_argument("--metric", default="ridge", help="ridge (default) or pls")
    score.add_argument("--out", type=Path, help="also write the score as JSON")
    tree = steps.add_parser("tree", help="average scores by Brain-Score's rule")
    tree.add_argument("declared", type=Path, help='JSON: {"name": {"VISp": ["benchmark", ...], ...}}')
    tree.add_argument("score", nargs="*", type=Path, help="JSON files of `score --out`")
    arguments = parser.parse_args()
    from omnimouse_brainscore.files import Refused

    try:
        return _tree(arguments) if arguments.step == "tree" else _score(arguments)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 2


def _score(arguments: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")  # of libraries that are pinned to versions of 2022
    from omnimouse_brainscore.benchmark import mouse_benchmark, scored
    from omnimouse_brainscore.files import Refused, read
    from omnimouse_brainscore.model import Mouse

    model, recording = Mouse(read(arguments.assembly, "prediction")), read(arguments.target, "recording")
    if (mine := model.visual_degrees()) != (shown := recording.meta["visual_degrees"]):
        raise Refused(
            f"predictions are for a screen of {mine} degrees, the target's is {shown}: export with the same --degrees"
        )
    benchmark = mouse_benchmark(recording, arguments.region, arguments.metric)
    found = scored(benchmark, model, arguments.region)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    return 0


def _tree(arguments: argparse.Namespace) -> int:
    from omnimouse_brainscore.files import Refused
    from omnimouse_brainscore.tree import lines, tree

    declared = json.loads(arguments.declared.read_text())
    if len(declared) != 1:
        raise Refused(f"file {arguments.declared}: {len(declared)} roots; a tree has one")
    scores = {}
    for path in arguments.score:
        found = json.loads(path.read_text())
        scores[found["benchmark"]] = found["score"]
    (name,) = declared
    print("\n".join(lines(tree(name, declared[name], scores))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
