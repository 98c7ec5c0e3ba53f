"""The page's charts as PNG and SVG files for papers and slides, by matplotlib (the `plot` extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.pages.marks import number
from omnimouse_jax.scaling.analysis import Study
from omnimouse_jax.scaling.charts import Chart, curve_charts, forest_rows
from omnimouse_jax.scaling.svg import colour

MARKERS = ("o", "s", "^", "D", "v", "h")  # the page's markers, in matplotlib's names
STYLES = {"mean": "-", "fit": "-", "beyond": (0, (5, 3)), "straight": (0, (1, 2))}
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "omnimouse_jax",
    "axes.unicode_minus": True,
    "figure.constrained_layout.use": True,
}


def write_figures(study: Study, folder: Path) -> list[Path]:
    """Two figures per task and one overview, each as PNG and SVG. UserError if matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "report: matplotlib is not installed, so no PNG and SVG figures were written",
            way_out="pip install 'omnimouse-jax[plot]'",
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(RC):
        for task in study.tasks:
            for chart, axis in zip(curve_charts(study, task), ("data", "size"), strict=True):
                figure = Figure(figsize=(4.4, 3.2), dpi=200)
                FigureCanvasAgg(figure)
                _draw(figure.add_subplot(), chart)
                written += _save(figure, folder / f"{task.key}-by-{axis}")
        if forest_rows(study):
            figure = Figure(figsize=(5.6, 0.8 + 0.55 * len(study.tasks)), dpi=200)
            FigureCanvasAgg(figure)
            _forest(figure.add_subplot(), study)
            written += _save(figure, folder / "gain-per-doubling")
    return written


def _save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _draw(ax: Any, chart: Chart) -> None:
    for series in chart.series:
        ink = colour(series.hue, series.rank, series.ranks, "light")
        shape = MARKERS[series.rank % len(MARKERS)]
        for band in series.bands:
            ax.fill_between(band.x, band.low, band.high, color=ink, alpha=0.16 if band.inside else 0.07, linewidth=0)
        for line in series.lines:
            ax.plot(line.x, line.y, color=ink, linestyle=STYLES[line.style], linewidth=1.3)
        for kind, size, fill in (("run", 9, "white"), ("mean", 20, ink)):
            marks = [m for m in series.marks if m.kind == kind]
            label = series.name if kind == "mean" else None
            ax.scatter(
                [m.x for m in marks], [m.y for m in marks], s=size, marker=shape, facecolor=fill, edgecolor=ink,
                linewidth=0.7, label=label, zorder=3 if kind == "run" else 4,
            )  # fmt: skip
    for value, name in chart.rules:
        ax.axhline(value, color="black", linestyle=(0, (1, 2)), linewidth=0.9)
        ax.annotate(name, (chart.x_range[0], value), (3, 3), textcoords="offset points", fontsize=8)
    if any(line.style == "beyond" for s in chart.series for line in s.lines):
        ax.axvline(chart.data_end, color="0.7", linestyle=(0, (2, 3)), linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlim(*chart.x_range)
    ax.set_ylim(*chart.y_range)
    ax.set_xticks([x for x, _ in chart.x_ticks], [name for _, name in chart.x_ticks])
    ax.set_xticks([], minor=True)
    ax.set_yticks(chart.y_ticks)
    ax.grid(axis="y", color="0.92", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.set_xlabel(f"{chart.x_name} (log scale)")
    ax.set_ylabel(chart.y_name)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles[::-1], labels[::-1], frameon=False, fontsize=8, handletextpad=0.3, loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip


def _forest(ax: Any, study: Study) -> None:
    rows = forest_rows(study)
    tasks = list(dict.fromkeys(row.task for row in rows))
    for row in rows:
        data = row.what == "data"
        y = -tasks.index(row.task) + (0.16 if data else -0.16)
        ink = colour("data" if data else "size", 2, 4, "light")
        for interval, width, alpha in ((row.sessions, 1.0, 0.9), (row.seeds, 4.0, 0.5)):
            if interval is not None:
                ax.plot(
                    [interval.low, interval.high],
                    [y, y],
                    color=ink,
                    linewidth=width,
                    alpha=alpha,
                    solid_capstyle="butt",
                )
        ax.plot([row.estimate], [y], color=ink, marker="o" if data else "s", markersize=5, linestyle="none")
        ax.annotate(
            number(row.estimate, signed=True),
            (row.estimate, y),
            (0, 5),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks([-i for i in range(len(tasks))], tasks)
    ax.set_ylim(-len(tasks) + 0.4, 0.6)
    ax.set_xlabel("change of score per doubling (circles: data, squares: core parameters)")
