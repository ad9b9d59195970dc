"""What a learner sees: JupyterLab in a real browser. Needs chromium (apt install chromium) and root for the lab."""

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout


def run_all(page: Page, url: str) -> None:
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook", timeout=200_000)
    # Of what JupyterLab is asked to run before it is connected to a kernel it drops all, or all but the last cell.
    kernels = url.partition("/lab/")[0] + "/api/kernels?" + urlsplit(url).query
    for _ in range(120):
        answer = page.request.get(kernels)          # an error while one begins
        found = answer.json() if answer.ok else ()
        if any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in found):
            break
        page.wait_for_timeout(500)
    asked = "() => /[*\\d]/.test(document.querySelector('.jp-CodeCell .jp-InputPrompt')?.innerText)"
    for _ in range(20):
        with contextlib.suppress(PlaywrightTimeout):
            for item in ("Run", "Run All Cells"):
                page.get_by_role("menuitem", name=item, exact=True).click(timeout=3_000)
            page.wait_for_function(asked, timeout=3_000)
            return
        page.keyboard.press("Escape")
    raise AssertionError("JupyterLab runs no cell")


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go, for whoever wants to look at them."""
    return Path(os.environ.get("LABKIT_SCREENSHOTS", tmp_path))


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.usefixtures("daemon")
def test_the_cards_of_lesson_03_can_be_clicked(jupyter: str, page: Page, shots: Path) -> None:
    run_all(page, jupyter.format("03_enable_ebpf.ipynb"))
    page.wait_for_selector(".lk-step", timeout=400_000)
    cards = page.locator(".lk-step")
    assert cards.count() >= 3
    cards.first.scroll_into_view_if_needed()
    page.screenshot(path=str(shots / "cards.png"))
    assert cards.first.locator(".lk-title").first.inner_text().startswith("1.")
    cards.first.get_by_role("button", name="Predict").click()
    cards.first.locator("details[open]").wait_for(timeout=400_000)
    # A cell below has run the steps: the cards show it without a click.
    page.get_by_text(f"{cards.count()} of {cards.count()} steps").wait_for(timeout=400_000)
    page.screenshot(path=str(shots / "done.png"))
    breaks = "() => getComputedStyle(document.querySelector('.jp-RenderedText pre')).wordBreak"
    assert page.evaluate(breaks) == "normal", "printed text breaks between words, where the window is narrow"


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.usefixtures("daemon")
def test_the_chart_of_a_measurement_grows_while_it_runs_and_the_button_ends_it(
    jupyter: str, page: Page, shots: Path, tmp_path: Path
) -> None:
    notebook = tmp_path / "notebooks" / "04_benchmark.ipynb"
    assert "rounds = 5" in notebook.read_text()
    # A run that supports a claim is refused on a busy machine, as this one is while other tests run.
    notebook.write_text(notebook.read_text().replace("rounds = 5", "rounds = 4"))
    run_all(page, jupyter.format("04_benchmark.ipynb"))
    cell = page.locator(".jp-CodeCell", has_text="ui.live(")
    dots = cell.locator(".js-plotly-plot .point")
    dots.nth(3).wait_for(state="attached", timeout=400_000)
    prompt = cell.locator(".jp-InputPrompt")
    assert "*" in prompt.inner_text(), "it was drawn after the run"
    dots.nth(dots.count() + 1).wait_for(state="attached", timeout=200_000)
    assert "*" in prompt.inner_text(), "it grew after the run"
    cell.scroll_into_view_if_needed()
    assert "samples" in cell.locator("[role=status]").inner_text()
    page.screenshot(path=str(shots / "live.png"))
    cell.get_by_role("button", name="Stop").click()
    cell.get_by_text("Stopped after").wait_for(timeout=200_000)
    page.screenshot(path=str(shots / "stopped.png"))
