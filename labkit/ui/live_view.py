"""The widgets of a run under way: its progress, a button that stops it, and a chart that changes in place."""

import time
from typing import TYPE_CHECKING, Any, Final

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.display import display

from labkit.charts.chart import Interval
from labkit.markup import STYLE, escape
from labkit.ui.show import show

if TYPE_CHECKING:
    from labkit.ui.live_chart import Live

__all__ = ["LiveView"]

#: How long a browser may take to draw the figure before it is given another.
PATIENCE_SECONDS: Final = 15.0


class LiveView:
    """Draws a `Live`; all of it in the thread of the cell."""

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._medians: dict[tuple[str, str], tuple[int, Interval]] = {}
        self._drawn, self._samples, self._said = 0.0, -1, ""
        self._begun = time.monotonic()
        self.figure = self._made()
        self.stop = widgets.Button(description="Stop", icon="stop", tooltip="Ends after the sample under way")
        self.stop.on_click(self._stop)
        self.line = widgets.HTML()
        self._box = widgets.VBox([widgets.HBox([self.stop, self.line]), self.figure])

    def _made(self) -> go.FigureWidget:
        self._asked, self._drawn_there = time.monotonic(), False
        spec = self._live.chart(self._medians).spec()
        figure = go.FigureWidget({**spec, "layout": {**spec["layout"], "autosize": True}})
        figure.observe(self._hear, names="_js2py_layoutDelta")  # the browser sends it once it has drawn the figure
        return figure

    def _hear(self, _: Any) -> None:
        self._drawn_there = True

    def show(self) -> None:
        """Display it under the cell."""
        self._say(self._live.said())
        display(self._box)  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Say how far the run is; draw new samples, unless it was drawn a moment ago."""
        from labkit.ui.live_chart import REDRAW_SECONDS

        if not self._live.stopped:
            self._say(self._live.said())
        if not self._drawn_there and time.monotonic() - self._asked > PATIENCE_SECONDS:
            # anywidget gives a browser two seconds to set a widget up; one that took longer hears nothing any more.
            late, self.figure = self.figure, self._made()
            self._box.children = [self._box.children[0], self.figure]
            late.close()
            self._samples = len(self._live)
        if len(self._live) != self._samples and time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def finish(self) -> None:
        """Say how it ended, and put a chart that needs no kernel in the place of the one that grew.

        That one is gone with the kernel, and empty where the browser was too busy to set it up in time.
        """
        from labkit.ui.live_chart import spent

        word = "Stopped" if self._live.stopped else "Ended"
        samples = f"{len(self._live)} samples are drawn" if len(self._live) else "nothing was measured"
        self._say(f"{word} after {spent(self._begun)}; {samples}.")
        self.stop.disabled = True
        self._box.children = self._box.children[:1]
        self.figure.close()
        if len(self._live):
            show(self._live.chart(self._medians))

    def _stop(self, _: Any) -> None:
        self._live.stopped = True
        self.stop.disabled = True
        self._say("Stopping after the sample under way …")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.line.value = f'{STYLE}<div class="lk" role="status">{escape(text)}</div>'

    def _draw(self) -> None:
        self._drawn, self._samples = time.monotonic(), len(self._live)
        spec = self._live.chart(self._medians).spec()
        if fresh_arms := spec["data"][len(self.figure.data):]:
            self.figure.add_traces(fresh_arms)
        with self.figure.batch_update():
            there, wanted = self.figure.layout, spec["layout"]
            if (there.xaxis.type, there.yaxis.type) != (wanted["xaxis"]["type"], wanted["yaxis"]["type"]):
                # a second number of services, or values that lie far apart
                self.figure.update_layout(title=wanted["title"], xaxis=wanted["xaxis"], yaxis=wanted["yaxis"])
            for trace, fresh in zip(self.figure.data, spec["data"], strict=True):
                if len(trace.y or ()) != len(fresh["y"]) or list(trace.y) != fresh["y"]:
                    trace.x, trace.y, trace.mode = fresh["x"], fresh["y"], fresh["mode"]
                    if "error_y" in fresh:
                        trace.error_y.array = fresh["error_y"]["array"]
                        trace.error_y.arrayminus = fresh["error_y"]["arrayminus"]
