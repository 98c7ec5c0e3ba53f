"""The page's charts as PNG and SVG files for papers and slides, by matplotlib (the `plot` extra)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.pages.marks import number
from omnimouse_jax.scaling.analysis import Study, Task
from omnimouse_jax.scaling.charts import Chart
from omnimouse_jax.scaling.charts_compute import compute_chart, rate_chart
from omnimouse_jax.scaling.charts_curves import animal_charts, curve_charts, session_charts
from omnimouse_jax.scaling.charts_plane import plane_chart
from omnimouse_jax.scaling.charts_residuals import axis_charts, residual_charts
from omnimouse_jax.scaling.charts_worth import Forest, doubling_forest, next_forest
from omnimouse_jax.scaling.svg import colour
from omnimouse_jax.scaling.svg_forest import forest_range
from omnimouse_jax.scaling.words import digits_for

MARKERS = ("o", "s", "^", "D", "v", "h")  # the page's markers, in matplotlib's names
STYLES: dict[str, Any] = {
    "beyond": (0, (5, 3)),
    "straight": (0, (1, 2)),
    "level-beyond": (0, (4, 3)),
    "optimal-beyond": (0, (4, 2)),
}
WIDTHS = {"level": 1.0, "level-beyond": 0.9, "cost": 0.6, "optimal": 2.2, "optimal-beyond": 2.0, "path": 0.9}
#: kind of mark: area, filled, alpha
MARKS = {"run": (8, False, 0.8), "mean": (20, True, 1.0), "out": (16, False, 1.0), "absent": (20, True, 1.0)}
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
    """Every figure of the page as PNG and SVG. UserError if matplotlib is not installed."""
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
        for name, charts in _charts(study):
            columns = min(len(charts), 3)
            lines = -(-len(charts) // columns)
            single = len(charts) == 1
            figure = Figure(figsize=(4.4, 3.2) if single else (2.6 * columns, 2.1 * lines), dpi=200)
            FigureCanvasAgg(figure)
            for i, chart in enumerate(charts):
                _draw(figure.add_subplot(lines, columns, i + 1), chart, single)
            written += _save(figure, folder / name)
        for forest in (doubling_forest(study), next_forest(study)):
            if forest.rows and (forest.key != "next-step" or not study.outside):
                figure = Figure(figsize=(5.6, 0.8 + 0.55 * len({r.task for r in forest.rows})), dpi=200)
                FigureCanvasAgg(figure)
                _forest(figure.add_subplot(), forest)
                written += _save(figure, folder / forest.key)
    return written


def _charts(study: Study) -> Iterator[tuple[str, tuple[Chart, ...]]]:
    """File name and charts of every figure."""
    for task in study.tasks:
        yield from ((f"{task.key}-{name}", charts) for name, charts in _of_task(study, task) if charts)
    rates = rate_chart(study)
    if rates is not None:
        yield "learning-rates", (rates,)


def _of_task(study: Study, task: Task) -> Iterator[tuple[str, tuple[Chart, ...]]]:
    for chart, axis in zip(curve_charts(study, task), ("data", "size"), strict=True):
        yield f"by-{axis}", (chart,)
    for name, one in (("by-compute", compute_chart(study, task)), ("plane", plane_chart(study, task))):
        yield name, (one,) if one is not None else ()
    yield "residuals", residual_charts(study, task)
    yield "data-axes", axis_charts(study, task)
    yield "sessions", session_charts(study, task) if not task.stated else ()
    yield "animals", animal_charts(study, task)


def _save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _draw(ax: Any, chart: Chart, legend: bool) -> None:
    for series in chart.series:
        ink = colour(series.hue, series.rank, series.ranks, "light")
        shape = MARKERS[series.rank % len(MARKERS)]
        for band in series.bands:
            ax.fill_between(band.x, band.low, band.high, color=ink, alpha=0.16 if band.inside else 0.07, linewidth=0)
            if not band.inside:
                for edge in (band.low, band.high):
                    ax.plot(band.x, edge, color=ink, linestyle=(0, (2, 3)), linewidth=0.6)
        for line in series.lines:
            ax.plot(
                line.x, line.y, color=ink, linestyle=STYLES.get(line.style, "-"), linewidth=WIDTHS.get(line.style, 1.3)
            )
        labelled = False
        for kind, (area, filled, alpha) in MARKS.items():
            marks = [m for m in series.marks if m.kind == kind]
            if marks:
                x, y = [m.x for m in marks], [m.y for m in marks]
                label = series.name if not labelled and kind != "run" else None
                labelled = labelled or label is not None
                look: dict[str, Any] = (
                    {"color": ink} if kind == "absent" else {"facecolor": ink if filled else "white", "edgecolor": ink}
                )
                ax.scatter(
                    x, y, s=area * (1 if legend else 0.6), marker="x" if kind == "absent" else shape, linewidth=0.7, alpha=alpha,
                    label=label, zorder=3 if kind == "run" else 4, **look,
                )  # fmt: skip
        if not labelled and (series.lines or series.marks):
            style = next((x.style for x in series.lines if not x.style.endswith("beyond")), "mean")
            marks_only = (
                {"marker": shape, "linestyle": "none"} if not series.lines else {"linestyle": STYLES.get(style, "-")}
            )
            ax.plot([], [], color=ink, label=series.name, linewidth=WIDTHS.get(style, 1.3), **marks_only)
        for text in series.labels:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
            ax.text(text.x, text.y, text.text, fontsize=6.5, ha="center", va="center", color="0.25", bbox=box)
    for value, name in chart.rules:
        ax.axhline(value, color="black", linestyle=(0, (1, 2)), linewidth=0.9)
        ax.annotate(name, (chart.x_range[0], value), (3, 3), textcoords="offset points", fontsize=8)
    if chart.data_end is not None:
        ax.axvline(chart.data_end, color="0.7", linestyle=(0, (2, 3)), linewidth=0.8)
    for axis, log, limits, ticks in (
        ("x", chart.x_log, chart.x_range, chart.x_ticks),
        ("y", chart.y_log, chart.y_range, chart.y_ticks),
    ):
        if log:
            getattr(ax, f"set_{axis}scale")("log")
        getattr(ax, f"set_{axis}lim")(*limits)
        getattr(ax, f"set_{axis}ticks")([v for v, _ in ticks], [name for _, name in ticks])
        getattr(ax, f"set_{axis}ticks")([], minor=True)
    ax.grid(axis="y", color="0.92", linewidth=0.7)
    ax.set_axisbelow(True)
    if not legend:
        ax.set_title(chart.title, fontsize=8)
        ax.tick_params(labelsize=7)
        return
    ax.set_xlabel(chart.x_name + (" (log scale)" if chart.x_log else ""))
    ax.set_ylabel(chart.y_name + (" (log scale)" if chart.y_log else ""))
    handles, labels = ax.get_legend_handles_labels()
    beside = max(len(label) for label in labels) <= 16  # long names would leave no room for the chart
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    if not beside:
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
    ax.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, handletextpad=0.3, **place)


def _forest(ax: Any, forest: Forest) -> None:
    tasks = list(dict.fromkeys(row.task for row in forest.rows))
    for row in forest.rows:
        data = row.axis == "data"
        y = -tasks.index(row.task) + (0.16 if data else -0.16)
        ink = colour("data" if data else "size", 2, 4, "light")
        for interval, width, alpha in ((row.new, 1.0, 0.9), (row.these, 4.0, 0.5)):
            if interval is not None:
                ends = [interval.low, interval.high]
                ax.plot(ends, [y, y], color=ink, linewidth=width, alpha=alpha, solid_capstyle="butt")
        ax.plot([row.estimate], [y], color=ink, marker="o" if data else "s", markersize=5, linestyle="none")
        told = number(row.estimate, digits_for(row.these), signed=True)
        ax.annotate(told, (row.estimate, y), (0, 5), textcoords="offset points", fontsize=7, ha="center")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks([-i for i in range(len(tasks))], tasks)
    ax.set_ylim(-len(tasks) + 0.4, 0.6)
    ax.set_xlim(*forest_range(forest))
    ax.set_xlabel(f"{forest.x_name} (circles: data, squares: parameters)")
