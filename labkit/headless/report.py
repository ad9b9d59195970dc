"""One page that opens offline: every chart, table and check of a run, plotly's script inlined once."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from labkit import __version__
from labkit.charts import PLOTLY
from labkit.headless.collect import outputs, text_of
from labkit.markup import STYLE, escape

__all__ = ["Page", "render"]

_HEAD: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>labkit report</title>"""

_PAGE_STYLE: Final = """<style>
:root{--jp-content-font-color1:#1b1f24;--jp-content-font-color2:#57606a;--jp-layout-color1:#fff;
--jp-layout-color2:#f3f5f7;--jp-border-color2:#d0d7de}
@media(prefers-color-scheme:dark){:root{--jp-content-font-color1:#e6e9ec;--jp-content-font-color2:#a0a8b0;
--jp-layout-color1:#16191d;--jp-layout-color2:#22272d;--jp-border-color2:#3a424a}
.lk{--ok:#57c77a!important;--bad:#ff8b80!important;--accent:#6cb6ff!important;--warm:#e0a84a!important}}
body{margin:0;background:var(--jp-layout-color1);color:var(--jp-content-font-color1);
font:15px/1.5 system-ui,sans-serif}main{max-width:64rem;margin:0 auto;padding:1rem}
nav ul{columns:2;padding:0;list-style:none}nav a{color:inherit}section{border-top:1px solid var(--jp-border-color2)}
h3{margin:1.2em 0 .3em;font-size:1rem}figure{margin:.5em 0 1em}
pre{overflow-x:auto}.plotly-graph{min-height:440px}
</style>"""

# A notebook's charts are drawn in a grey that both themes can bear; here the theme is known.
_DRAW: Final = """<script>
const ink=matchMedia('(prefers-color-scheme:dark)').matches?'#c9d1d9':'#3d434b';
for(const node of document.querySelectorAll('.plotly-graph')){
 const spec=JSON.parse(document.getElementById(node.dataset.spec).textContent);
 for(const words of [spec.layout,...(spec.layout.annotations||[])]) words.font={...words.font,color:ink};
 Plotly.newPlot(node,spec.data,spec.layout,{responsive:true,displaylogo:false});}
</script>"""


@dataclass(frozen=True)
class Page:
    """One executed notebook."""

    name: str
    seconds: float
    ok: bool
    notebook: dict[str, Any]


def render(pages: Sequence[Page], *, seconds: float) -> str:
    """Return the report as one HTML document.

    Args:
        pages: executed notebooks, in order.
        seconds: how long the run took.
    """
    sections = [part for page in pages for part in _section(page)]
    charts = sum(part.count('class="plotly-graph"') for part in sections)
    ok = all(page.ok for page in pages)
    verdict = "all ran to their end" if ok else "stopped at a failing cell"
    intro = (
        f"<h1>labkit report</h1><p>{datetime.now():%Y-%m-%d %H:%M}, labkit {__version__}, Linux "
        f"{escape(platform.release())}, Python {platform.python_version()}. {len(pages)} "
        f"notebook{'s' * (len(pages) != 1)} in {seconds:.0f} s: {verdict}. {charts} charts.</p>"
    )
    toc = "".join(
        f'<li><a href="#{escape(page.name)}">{escape(_title(page))}</a> '
        f"{'✓' if page.ok else '✗ failed'} <small>{page.seconds:.0f} s</small></li>"
        for page in pages
    )
    body = f"<main>{intro}<nav><ul>{toc}</ul></nav>{''.join(sections)}</main>"
    return f"{_HEAD}{STYLE}{_PAGE_STYLE}</head><body>{body}{_script(charts)}</body></html>"


def _script(charts: int) -> str:
    if not charts:
        return ""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>{_DRAW}"


def _section(page: Page) -> Iterator[str]:
    yield f'<section id="{escape(page.name)}"><h2>{escape(_title(page))}</h2>'
    last = None
    for index, (heading, bundle) in enumerate(outputs(page.notebook)):
        shown = _shown(bundle, f"{page.name}-{index}")
        if shown and heading and heading != last and heading != _title(page):
            yield f"<h3>{escape(heading)}</h3>"
            last = heading
        yield shown
    for cell in page.notebook["cells"]:
        for output in (o for o in cell.get("outputs", []) if o["output_type"] == "error"):
            yield f"<h3>Stopped here</h3><pre>{escape(text_of(cell['source']))}</pre>"
            yield f"<pre>{escape(output['ename'])}: {escape(output['evalue'])}</pre>"
    yield "</section>"


def _shown(bundle: dict[str, Any], id: str) -> str:
    if figure := bundle.get(PLOTLY):
        # "</" would end the script element that the figure travels in.
        spec = json.dumps({"data": figure["data"], "layout": figure["layout"]}).replace("</", "<\\/")
        name = text_of(bundle.get("text/plain", "")).partition("\n")[0]
        return (
            f'<figure><div class="plotly-graph" data-spec="{escape(id)}" role="img" aria-label="{escape(name)}"></div>'
            f'<script type="application/json" id="{escape(id)}">{spec}</script></figure>'
        )
    html = text_of(bundle.get("text/html", ""))
    # Only what labkit drew: it is escaped there, and it is readable without Jupyter's style sheets.
    return html.removeprefix(STYLE) if html.startswith(STYLE) else ""


def _title(page: Page) -> str:
    # Of one that failed papermill's own words are the first cell.
    sources = (text_of(cell["source"]) for cell in page.notebook["cells"])
    return next((text.splitlines()[0].lstrip("# ") for text in sources if text.startswith("# ")), page.name)
