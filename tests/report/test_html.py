"""Runs as web pages: what they say, and that a real browser shows them."""

import json
import re
import shutil
from html import unescape

import pytest

from ntp.judge.compare import Column, compare
from ntp.records.flame import Flame, drawings
from ntp.records.run import Failure
from ntp.report.html import comparison_page, page
from ntp.report.markdown import PICTURES, markdown
from ntp.report.sweep_charts import charts_of, family, pictures
from ntp.report.tables import tables_of
from ntp.report.text import csv
from ntp.report.web import _library

pytestmark = pytest.mark.long

CASES = ("simple-b8-s64-t1", "simple-b32-s64-t1", "simple-b8-s64-t2", "simple-b32-s64-t2")

LEVELS = (1.0, 0.99, 1.02, 1.006, 0.985)
"""The levels of five processes."""


def samples(ms):
    return [ms * 1_000_000 + i * 10_000 for i in range(30)]


@pytest.fixture(scope="module")
def sweep(make_measurement, make_run, make_observations, make_peaks):
    """Four cases and a part, with all that observers see."""
    whole = [
        make_measurement(
            case_id, samples(40 - 5 * number), LEVELS, minor_page_faults=600, observations=make_observations()
        )
        for number, case_id in enumerate(CASES)
    ]
    part = make_measurement("simple-b32-s64-t2-forward", [9_000_000] * 12, LEVELS)
    plain = make_measurement("simple-b32-s64-t2-glibc-free", samples(30), LEVELS)
    return make_run(*whole, part, plain=plain, peaks=make_peaks(2))


def test_the_answer_is_the_first_thing_said(sweep):
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page(sweep), flags=re.DOTALL)
    words = " ".join(unescape(text).split())
    assert words.index("Fastest: simple-b32-s64-t2") < words.index("In pictures") < words.index("The machine")
    assert words.index("In a plain process") < words.index("export MALLOC_") < words.index("In pictures")
    assert words.index("Noise: the steps of a process differ by") < words.index("The machine")


def test_the_same_run_gives_the_same_page(sweep):
    assert page(sweep) == page(sweep)


def test_nothing_is_fetched(sweep):
    text = page(sweep)
    assert len(text.encode()) < 3_000_000
    assert text.count(_library()) == 1
    text = text.replace(_library(), "")  # which has tags in its strings
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text)


def test_what_a_model_is_called_cannot_break_the_page(make_measurement, make_run):
    case = make_measurement().case
    workload = case.workload.model_copy(update={"model": "</script><b>&'\".py:make"})
    run = make_run(make_measurement(case.model_copy(update={"workload": workload})))
    text = page(run)
    assert "<b>" not in text
    # The library, the data and the charts of the page each end where they should.
    assert text.count("<script") == text.count("</script>")


def test_cases_lie_under_the_roofline(sweep):
    assert "<figcaption>Roofline</figcaption>" in page(sweep)
    assert "<figcaption>Roofline</figcaption>" not in page(sweep.model_copy(update={"peaks": None}))


def test_an_empty_run_and_one_that_failed(make_run):
    assert "Nothing was measured." in page(make_run())
    failed = page(make_run(failures=(Failure(case_id="simple-b8-s64-t1", message="it <died>", stderr_tail="a\nb"),)))
    assert "it &lt;died&gt;" in failed
    assert "<pre>a\nb</pre>" in failed


def test_charts_are_drawn_of_what_there_is_alone(make_measurement, make_run):
    run = make_run(make_measurement("simple-b8-s64-t1", minor_page_faults=0))
    assert list(charts_of(run, tables_of(run))) == ["throughput", "samples"]
    assert charts_of(make_run(), tables_of(make_run())) == {}


def test_the_same_charts_are_pictures_of_the_text(sweep):
    drawn = pictures(sweep)
    assert list(drawn) == [f"{name}.svg" for name in PICTURES]  # this sweep has them all
    assert all(svg.startswith('<svg role="img" aria-label="') for svg in drawn.values())
    assert "## In pictures" not in markdown(sweep)
    text = markdown(sweep, ["phases.svg", "flame.svg", "throughput.svg"])
    assert "## In pictures\n\n![Tokens a second](throughput.svg)\n\n![Phases of a step](phases.svg)\n\n" in text
    assert "flame.svg" not in text


def test_every_chart_says_what_it_shows(sweep):
    specs = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page(sweep))]
    assert len(specs) >= 6
    assert all(spec["description"].endswith(".") and len(spec["description"]) > 10 for spec in specs)


def test_a_family_is_what_a_case_is_besides_its_sizes(make_measurement):
    assert family(make_measurement("simple-b8-s64-t2-zipf:1-fused").case) == "simple-zipf:1-fused"


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()


WIDTHS = (1280, 390)

DRAWN = """
const done = arguments[0];
const wait = () => [...document.querySelectorAll("figure.at-once")].every((figure) => figure.querySelector("svg"))
  ? done(true) : setTimeout(wait, 50);
wait();
"""


def shown(browser, path, text, width):
    path.write_text(text, encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(path.as_uri())
    assert browser.execute_async_script(DRAWN)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def case_ids(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#steps tbody')].filter(body => !body.hidden)"
        ".map(body => body.querySelector('code').textContent)"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_the_sweep(browser, sweep, tmp_path, width):
    shown(browser, tmp_path / "report.html", page(sweep), width)
    assert case_ids(browser) == list(CASES)
    click = (
        "[...document.querySelectorAll('#steps th button')].find(button => button.textContent == arguments[0]).click()"
    )
    browser.execute_script(click, "step time")
    assert case_ids(browser) == list(CASES)  # the longest first
    browser.execute_script(click, "step time")
    assert case_ids(browser) == list(reversed(CASES))
    browser.execute_script(click, "case")
    browser.execute_script(
        "const filter = document.getElementById('filter'); filter.value = 'B32 t2';"
        "filter.dispatchEvent(new Event('input'))"
    )
    assert case_ids(browser) == ["simple-b32-s64-t2"]
    browser.execute_script("document.querySelector('tbody:not([hidden]) button.open').click()")
    browser.execute_async_script(
        "const done = arguments[0]; const wait = () => document.querySelector('.opened:not([hidden]) svg')"
        " ? done(true) : setTimeout(wait, 50); wait()"
    )
    opened = browser.execute_script("return document.querySelector('.opened:not([hidden])').textContent")
    assert "Warm-up" in opened
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("clipboard", ["navigator.clipboard", "document.execCommand"])
def test_what_is_copied_is_the_csv(browser, make_measurement, make_run, tmp_path, clipboard):
    case = make_measurement().case
    model = "=\"</script>&'\u00e4.py:make"
    case = case.model_copy(update={"workload": case.workload.model_copy(update={"model": model})})
    run = make_run(make_measurement(case))
    shown(browser, tmp_path / "report.html", page(run), 1280)
    copied = browser.execute_async_script(
        """
        const done = arguments[1];
        const there = arguments[0] === "navigator.clipboard";
        const writeText = async (text) => there ? done(text) : Promise.reject(new Error("none"));
        Object.defineProperty(navigator, "clipboard", { value: { writeText } });
        document.execCommand = () => done(document.activeElement.value);
        document.getElementById("copy").click();
        """,
        clipboard,
    )
    assert copied == csv(run)
    assert '"\'=""</script>&\'\u00e4.py:make"' in copied


FLAME = """<svg xmlns="http://www.w3.org/2000/svg" onload="document.documentElement.dataset.ran = 'yes'">
<text>train_step</text></svg>"""


def profiled(make_measurement, make_run, make_observations, svg="flame.svg"):
    observations = make_observations(flame=Flame(svg=svg, samples=3, rate_hz=100))
    return make_run(make_measurement("simple-b8-s64-t1", samples(3), observations=observations))


def test_a_case_alone_is_open_with_its_flame_graph(browser, make_measurement, make_run, make_observations, tmp_path):
    run = profiled(make_measurement, make_run, make_observations)
    shown(browser, tmp_path / "profile.html", page(run, {"flame.svg": FLAME}), 1280)
    assert browser.execute_script("return !document.querySelector('.opened').hidden")
    browser.switch_to.frame(browser.find_element("css selector", "iframe.flame"))
    assert browser.find_element("css selector", "text").text == "train_step"
    assert browser.execute_script("return document.documentElement.dataset.ran") == "yes"
    browser.switch_to.default_content()


def test_flame_graphs_are_read_from_the_runs_own_folder(make_measurement, make_run, make_observations, tmp_path):
    (tmp_path / "flame.svg").write_text(FLAME)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/link.svg").symlink_to(tmp_path / "flame.svg")

    def read(svg, folder=tmp_path):
        run = profiled(make_measurement, make_run, make_observations, svg)
        return drawings((measurement.observations.flame for measurement in run.measurements), folder)

    assert read("flame.svg") == {"flame.svg": FLAME}
    assert read("gone.svg") == read("../flame.svg", tmp_path / "deeper") == read(None) == {}
    assert read("link.svg", tmp_path / "deeper") == read(str(tmp_path / "flame.svg")) == {}
    assert drawings([None], tmp_path) == {}
    assert '<iframe class="flame"' not in page(profiled(make_measurement, make_run, make_observations))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_a_comparison(browser, sweep, tmp_path, width):
    single = [
        measurement.model_copy(update={"processes": measurement.processes[:1]}) for measurement in sweep.measurements
    ]
    comparison = compare([Column.of(name, single) for name in ("one", "two", "three")])
    text = comparison_page(comparison, ("ntp", "compare"))
    assert "two against one: in 5 of 5 cases no difference can be told: a single process has no interval." in text
    shown(browser, tmp_path / "comparison.html", text, width)


def test_a_comparison_of_nothing_is_a_page_too(make_measurement):
    nothing = compare([Column.of("one", ()), Column.of("two", (make_measurement(),))])
    assert "no case in common" in comparison_page(nothing, ("ntp",))
