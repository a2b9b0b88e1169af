"""Pictures made of panels with curves (matplotlib, from the extra `train`)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cnclip.printable import printable
from cnclip.training.report_style import Theme

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

DASHED = (0, (3, 2.5))
Points = Sequence[tuple[int, float]]
Panel = Callable[["Axes", Theme], bool]
"""Draws into the axes; false where it has nothing to draw."""


def draw_panels(
    title: str,
    panels: Sequence[Panel],
    theme: Theme,
    *,
    columns: int,
    inches: tuple[float, float],
    span: tuple[float, float],
    unit: str = "step",
) -> bytes:
    """A PNG (130 dots per inch) of the panels in rows of `columns`, under a title from outside.

    span: the first and the last of what is counted from left to right, `unit` by name. A panel without
    anything to draw says so.

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
        figure = _figure(_drawable(printable(title), fonts), inches)
        grid = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat)
        for axes, panel in zip(grid, panels, strict=False):
            _finish(axes, theme, panel(axes, theme), span, unit)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        figure.savefig(buffer, format="png", facecolor=theme.card)
    return buffer.getvalue()


def line(axes: Axes, points: Points, colour: str, label: str = "", marker: str = "", **style: Any) -> None:
    """A curve; a single point gets a marker, as it would be none otherwise."""
    marker = marker or ("o" if len(points) == 1 else "")
    steps, values = zip(*points, strict=True)
    options: dict[str, Any] = {"linewidth": 2.0, "markersize": 4.5, **style}
    axes.plot(steps, values, color=colour, label=label, marker=marker, **options)


def head(axes: Axes, title: str, remark: str) -> None:
    """What a panel shows, and a remark below it."""
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=40)
    axes.annotate(remark, (0, 1), (0, 27), xycoords="axes fraction", textcoords="offset points", fontsize=8.5)


def _figure(title: str, inches: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=inches, dpi=130, layout=layout)
    FigureCanvasAgg(figure)
    heading = figure.suptitle(title, x=0.012, ha="left")
    heading.set(fontsize=15, fontweight="bold", parse_math=False)
    return figure


def _finish(axes: Axes, theme: Theme, drawn: bool, span: tuple[float, float], unit: str) -> None:
    """What all panels share: a light grid, steps or rounds below, the legend between title and curves."""
    from matplotlib.ticker import MaxNLocator

    axes.texts[0].set_color(theme.faint)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=theme.line, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    margin = 0.012 * (span[1] - span[0])
    axes.set_xlim(span[0] - margin, span[1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel(unit)
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
