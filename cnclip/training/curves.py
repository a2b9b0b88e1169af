"""The curves of a run as one picture (matplotlib, from the extra `train`)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cnclip.printable import printable
from cnclip.training.history import DIRECTIONS, History
from cnclip.training.report_style import LIGHT, Theme
from cnclip.training.step_times import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SANS = ("Inter", "Noto Sans", "Arial", "Liberation Sans", "DejaVu Sans")
_CHINESE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *(
        "WenQuanYi Zen Hei",
        "Microsoft YaHei",
        "PingFang SC",
        "Hiragino Sans GB",
        "SimHei",
        "Arial Unicode MS",
    ),
)

_DASHED = (0, (3, 2.5))
Points = Sequence[tuple[int, float]]


def draw_curves(history: History, theme: Theme = LIGHT) -> bytes:
    """A PNG (1690 x 1066 pixels) of recall, loss, in-batch accuracy, learning rate, speed and step times.

    A panel without numbers says so.

    Raises: ImportError if matplotlib is missing.
    """
    import matplotlib

    fonts = _fonts()
    style: dict[Any, Any] = {
        "font.family": fonts,
        "font.size": 9,
        "text.color": theme.ink,
        "axes.edgecolor": theme.line,
        "axes.facecolor": theme.card,
        "axes.labelcolor": theme.faint,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "legend.labelcolor": theme.ink,
        "axes.unicode_minus": False,
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context(style):
        _figure(history, theme, fonts).savefig(buffer, format="png", facecolor=theme.card)
    return buffer.getvalue()


def _figure(history: History, theme: Theme, fonts: Sequence[str]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(13, 8.2), dpi=130, layout=layout)
    FigureCanvasAgg(figure)
    title = figure.suptitle(_drawable(printable(history.name), fonts), x=0.012, ha="left")
    title.set(fontsize=15, fontweight="bold", parse_math=False)
    panels: list[Callable[[Axes, History, Theme], bool]] = [_recall, _loss, _in_batch, _rate, _speed, _stages]
    for axes, panel in zip(figure.subplots(2, 3).flat, panels, strict=True):
        _finish(axes, history, theme, panel(axes, history, theme))
    return figure


def _recall(axes: Axes, history: History, theme: Theme) -> bool:
    _head(axes, "Mean recall over the full gallery, %", "Mean of R@1, R@5 and R@10 on the validation split")
    drawn = False
    for (direction, label), colour in zip(DIRECTIONS.items(), theme.series, strict=False):
        points = [(scores.step, scores.get("mean_recall", direction)) for scores in history.valid]
        known = [(step, 100 * value) for step, value in points if value is not None]
        if known:
            _line(axes, known, colour, label, marker="o")
            drawn = True
        start = history.start.get("mean_recall", direction) if history.start else None
        if start is not None:
            axes.axhline(100 * start, color=colour, linestyle=_DASHED, linewidth=1.1, alpha=0.8)
    if drawn and history.start:
        axes.plot([], [], color=theme.faint, linestyle=_DASHED, linewidth=1.1, label="Start")
    return drawn


def _loss(axes: Axes, history: History, theme: Theme) -> bool:
    _head(axes, "Loss", "Training: each log line and their moving mean; validation: in batches")
    points = history.column("loss")
    if points:
        _noisy_line(axes, points, theme.series[0], "Training")
    valid = [(scores.step, scores.loss) for scores in history.valid if scores.loss is not None]
    if valid:
        _line(axes, valid, theme.series[2], "Validation", marker="o")
    return bool(points or valid)


def _in_batch(axes: Axes, history: History, theme: Theme) -> bool:
    _head(
        axes,
        "In-batch accuracy, %",
        "Within one training batch: the smaller the batch, the higher. No recall",
    )
    drawn = False
    names = {"t2i_acc": "Text to image", "i2t_acc": "Image to text"}
    for (name, label), colour in zip(names.items(), theme.series, strict=False):
        points = [(step, 100 * value) for step, value in history.column(name)]
        if points:
            _noisy_line(axes, points, colour, label)
            drawn = True
    return drawn


def _rate(axes: Axes, history: History, theme: Theme) -> bool:
    _head(axes, "Learning rate", "Of the weights without a factor of their own")
    points = history.column("lr")
    if points:
        _line(axes, points, theme.series[0])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return bool(points)


def _speed(axes: Axes, history: History, theme: Theme) -> bool:
    _head(axes, "Samples per second", "All processes together, without validation and checkpoints")
    points = history.column("samples_per_s")
    if points:
        _line(axes, points, theme.series[0])
        axes.set_ylim(0, 1.15 * max(value for _, value in points) or 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
    return bool(points)


def _stages(axes: Axes, history: History, theme: Theme) -> bool:
    _head(axes, "Seconds per step", "What the time of a step is spent on")
    rows = [(step, [values.get(f"{stage}_s", 0.0) for stage in STAGES]) for step, values in history.train]
    steps = [step for step, seconds in rows if any(seconds)]
    stacked = list(zip(*(seconds for _, seconds in rows if any(seconds)), strict=True))
    if len(steps) == 1:  # an area needs two ends
        steps, stacked = [0, *steps], [(*seconds, *seconds) for seconds in stacked]
    if steps:
        axes.stackplot(steps, *stacked, labels=STAGES, colors=theme.series, alpha=0.85, linewidth=0)
    return bool(steps)


def _line(axes: Axes, points: Points, colour: str, label: str = "", marker: str = "", **style: Any) -> None:
    marker = marker or ("o" if len(points) == 1 else "")
    steps, values = zip(*points, strict=True)
    options: dict[str, Any] = {"linewidth": 2.0, "markersize": 4.5, **style}
    axes.plot(steps, values, color=colour, label=label, marker=marker, **options)


def _noisy_line(axes: Axes, points: Points, colour: str, label: str) -> None:
    """Faintly as it is, and its moving mean."""
    _line(axes, points, colour, linewidth=0.9, alpha=0.35)
    means = _smooth([value for _, value in points])
    _line(axes, list(zip((step for step, _ in points), means, strict=True)), colour, label)


def _head(axes: Axes, title: str, remark: str) -> None:
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=40)
    axes.annotate(remark, (0, 1), (0, 27), xycoords="axes fraction", textcoords="offset points", fontsize=8.5)


def _finish(axes: Axes, history: History, theme: Theme, drawn: bool) -> None:
    """What all panels share: a light grid, steps below, the legend between title and curves."""
    from matplotlib.ticker import MaxNLocator

    axes.texts[0].set_color(theme.faint)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=theme.line, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    last = max(1, history.steps)
    axes.set_xlim(-0.012 * last, 1.012 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("step")
    if not drawn:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=theme.faint)
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(
            *(axes.get_legend_handles_labels()),
            loc="lower left",
            bbox_to_anchor=(-0.015, 1.0),
            ncols=5,
            frameon=False,
            fontsize=8.5,
            handlelength=1.1,
            columnspacing=0.9,
            handletextpad=0.5,
            borderaxespad=0.2,
        )


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean of each value and its neighbours, a tenth of the curve together; at the ends those there are."""
    reach = len(values) // 20
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [fmean(window) for window in windows]


def _fonts() -> list[str]:
    """A sans-serif font and one with Chinese, of those that this machine has."""
    from matplotlib import font_manager

    installed = set(font_manager.fontManager.get_font_names())
    chosen = [next((name for name in names if name in installed), "") for names in (_SANS, _CHINESE)]
    return [*filter(None, chosen), "DejaVu Sans"]  # matplotlib brings this one along


def _drawable(text: str, fonts: Sequence[str]) -> str:
    """`text` with a box for what none of the fonts can draw."""
    from matplotlib import font_manager

    faces = [font_manager.get_font(font_manager.findfont(name)) for name in fonts]
    return "".join(c if any(face.get_char_index(ord(c)) for face in faces) else "□" for c in text)
