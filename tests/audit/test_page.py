"""The page of the label report: what the file holds, and what a reader sees and does in a real browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignprune.audit import decisions, page
from alignprune.errors import ExistingFile, MissingFile, TypeMistake, ValueMistake

pd = pytest.importorskip("pandas", reason="the extra of the label report is not installed")
pillow = pytest.importorskip("PIL.Image", reason="the extra of the label report is not installed")
for library in ("jinja2", "altair", "vl_convert"):
    pytest.importorskip(library, reason="the extra of the label report is not installed")

ATTACK = "</script><script>window.hit = 1</script>"
CLASSES = ("cat", ATTACK, "=1+1", "\"'<img src=x onerror='window.hit = 1'>\u2028&amp;")
SIZE, EPOCHS = 130, 4


def table() -> Any:
    """A report on 130 samples: no two have the same p_wrong, and their order is not that of the index."""
    k = np.arange(SIZE)
    p = ((k * 37) % SIZE + 0.5) / SIZE
    given = np.array(CLASSES, dtype=object)[k % 4]
    suggested = np.array(CLASSES, dtype=object)[(k // 4) % 4]
    given[5] = suggested[9] = None
    return pd.DataFrame(
        {
            "index": k,
            "id": [f"-id,{i:03d}\"'\n<b>" for i in k],
            "given_label": given,
            "predicted_label": suggested,
            "is_label_issue": p > 0.5,
            "label_score": 1 - p,
            "p_wrong": p,
            "first_flagged_epoch": pd.array(np.where(p > 0.5, 3, pd.NA), dtype="Int64"),
            "times_trained": k % 7,
            "times_held_out": k % 3,
            "mean_loss": np.where(k % 10 == 0, np.nan, np.sin(k)),
            "held_out_loss": np.full(SIZE, np.nan),
        }
    )


def summary(report: Any, classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """What is counted over the table, with a warning that is an attack."""
    issues = report[report["is_label_issue"] & (report["given_label"] != report["predicted_label"])]
    pairs = issues.groupby(["given_label", "predicted_label"])["p_wrong"].agg(["size", "sum"]).reset_index()
    return {
        "name": f"data {ATTACK}",
        "num_samples": len(report),
        "num_label_issues": int(report["is_label_issue"].sum()),
        "noise_rate": {"estimate": 0.41, "low": 0.38, "high": 0.45, "reason": None},
        "classes": [
            {"name": name, "size": 30, "issues": 15, "left_out_share": 0.25, "noise_rate": 0.4} for name in classes
        ],
        "flips": [
            {"given": one, "suggested": other, "count": int(count), "expected": float(expected)}
            for one, other, count, expected in pairs.itertuples(index=False)
        ],
        "warnings": [f"look at {ATTACK}"],
        "accuracy": {"value": 0.5, "on": "holdout", "labels": "given labels, some of them wrong"},
        "run": {"method": "robust", "epochs": EPOCHS, "model": ATTACK, "seed": 0, "date": "2026-11-26", "version": "1"},
    }


def picture(index: int) -> page.Image:
    return page.Image(pillow.new("RGB", (300, 150), (index, 99, 200)))


def trajectories(report: Any, rows: int = 2000) -> page.Trajectories:
    """The loss of sample i is i + 0.5 in the first epoch, missing in the second, and falls to 1 and 0.25."""
    at = page.shown(report, rows)
    losses = np.stack([at + 0.5, np.full(len(at), np.nan), np.ones(len(at)), np.full(len(at), 0.25)])
    return page.Trajectories(losses.astype(np.float16), np.ones((EPOCHS, 4), dtype=np.float32))


class Parts(HTMLParser):
    """The embedded JSON of a page, and all that its markup refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str | None] = []
        self.scripts = 0
        self.json = ""
        self.text = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        self.scripts += tag == "script"
        self._in = "json" if ("type", "application/json") in attributes else tag

    def handle_data(self, data: str) -> None:
        if self._in == "json":
            self.json += data
        elif self._in not in ("script", "style"):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


def parts(path: Path) -> Parts:
    return Parts(path.read_text("utf-8"))


def embedded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(parts(path).json)
    return content


# -- the file -----------------------------------------------------------------------------------------------


def test_the_file_refers_to_nothing_outside_and_no_text_of_the_data_becomes_markup(tmp_path: Path) -> None:
    report = table()
    page.write(tmp_path / "a.html", report, summary(report), show=lambda _: page.Text(ATTACK))
    read = parts(tmp_path / "a.html")
    assert read.references == ["#review"]
    assert read.scripts == 3  # the data, Vega and the page's own
    assert read.text.count(ATTACK) >= 6  # title, heading, model, warning, class, flips
    assert json.loads(read.json)["samples"][0] == {"kind": "text", "text": ATTACK, "size": len(ATTACK)}


def test_a_page_of_a_large_table_holds_the_most_suspicious_rows_and_counts_all(tmp_path: Path) -> None:
    size = 100_000
    draw = np.random.default_rng(0)
    p = draw.random(size)
    report = pd.DataFrame(
        {
            "index": draw.permutation(size),
            "id": [f"{k}" for k in range(size)],
            "given_label": "cat",
            "predicted_label": "=1+1",
            "is_label_issue": p > 0.9,
            "label_score": 1 - p,
            "p_wrong": p,
        }
    )
    page.write(tmp_path / "a.html", report, summary(report), rows=50)
    content = embedded(tmp_path / "a.html")
    worst = np.sort(p)[::-1][:50]
    assert content["rows"]["p_wrong"] == worst.tolist()
    assert content["rows"]["index"] == page.shown(report, 50).tolist()
    assert content["total"] == size
    for step in (0, 1, 250, 999, 1000):
        above = p[p >= step / 1000]
        assert content["above"]["samples"][step] == len(above)
        assert content["above"]["issues"][step] == (above > 0.9).sum()
        assert content["above"]["expected"][step] == pytest.approx(above.sum(), abs=0.06)
    assert [one["count"] for one in content["histogram"]] == np.histogram(p, np.linspace(0, 1, 51))[0].tolist()
    assert (tmp_path / "a.html").stat().st_size < 1.5e6


def test_rows_come_by_suspicion_and_those_without_an_estimate_last() -> None:
    report = pd.DataFrame(
        {
            "index": [4, 3, 2, 1, 0],
            "p_wrong": [0.5, float("nan"), 0.5, 0.9, 0.5],
            "label_score": [0.2, 0.0, 0.1, 0.3, 0.2],
        }
    )
    assert page.shown(report).tolist() == [1, 2, 0, 4, 3]
    assert page.shown(report, 2).tolist() == [1, 2]


def test_decisions_made_on_the_page_are_of_this_data_set_in_whatever_order_the_table_is(tmp_path: Path) -> None:
    report = table()
    page.write(tmp_path / "a.html", report.sort_values("p_wrong"), summary(report))
    given = [None if isinstance(label, float) else label for label in report["given_label"]]
    assert embedded(tmp_path / "a.html")["fingerprint"] == decisions.fingerprint(report["id"], given)


def test_images_of_any_kind_are_made_small_in_their_proportions(tmp_path: Path) -> None:
    report = table()
    images = [pillow.new(mode, (300, 150)) for mode in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I", "F")]
    images.append(pillow.fromarray(np.zeros((150, 300), dtype=np.uint16)))
    at = page.shown(report, len(images)).tolist()
    page.write(
        tmp_path / "a.html",
        report,
        summary(report),
        show=lambda index: page.Image(images[at.index(index)]) if index in at else picture(index),
        rows=len(images),
    )
    samples = embedded(tmp_path / "a.html")["samples"]
    assert [sample["size"] for sample in samples] == [[300, 150]] * len(images)
    uris = [sample["uri"].removeprefix("data:image/webp;base64,") for sample in samples]
    assert {pillow.open(io.BytesIO(base64.b64decode(uri))).size for uri in uris} == {(128, 64)}


def test_deep_greys_keep_their_steps(tmp_path: Path) -> None:
    report = table()
    deep = np.linspace(1000, 60000, 32 * 32).reshape(32, 32).astype(np.uint16)
    page.write(tmp_path / "a.html", report, summary(report), show=lambda _: page.Image(pillow.fromarray(deep)), rows=1)
    uri = embedded(tmp_path / "a.html")["samples"][0]["uri"]
    seen = np.asarray(pillow.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L"), dtype=float)
    np.testing.assert_allclose(seen, np.linspace(0, 255, 1024).reshape(32, 32), atol=16)


def test_two_thousand_photographs_stay_below_15_megabytes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, which brings photographs, is not there")
    photographs = datasets.load_sample_images().images
    report = table()

    def crop(index: int) -> page.Image:
        row, column = 7 * (index % 30), 9 * (index % 40)
        return page.Image(pillow.fromarray(photographs[index % 2][row : row + 200, column : column + 200]))

    page.write(tmp_path / "with.html", report, summary(report), show=crop, rows=20)
    content = embedded(tmp_path / "with.html")
    examples = sum(len(one) for one in content["examples"].values())
    page.write(tmp_path / "without.html", report, summary(report), rows=20)
    bare = (tmp_path / "without.html").stat().st_size
    each = ((tmp_path / "with.html").stat().st_size - bare) / (20 + examples)
    assert bare + 2400 * each < 15e6  # 2,000 rows and at most 400 examples


def test_an_image_that_cannot_be_read_is_counted_and_named(tmp_path: Path) -> None:
    report = table()
    worst = int(page.shown(report, 1)[0])

    def show(index: int) -> page.Image:
        return page.Image(b"no image") if index == worst else picture(index)

    with pytest.warns(UserWarning, match=f"1 images could not be read .* samples {worst}"):
        page.write(tmp_path / "a.html", report, summary(report), show=show)
    kinds = [sample["kind"] for sample in embedded(tmp_path / "a.html")["samples"]]
    assert kinds == ["unreadable"] + ["image"] * (SIZE - 1)


def test_examples_of_a_class_are_samples_that_the_run_trusts(tmp_path: Path) -> None:
    report = table()
    page.write(tmp_path / "a.html", report, summary(report), show=picture, rows=10)
    content = embedded(tmp_path / "a.html")
    of_page = {*content["rows"]["given_label"], *content["rows"]["predicted_label"]} - {None}
    assert set(content["examples"]) == of_page
    by_id = report.set_index("id")
    for name, some in content["examples"].items():
        chosen = by_id.loc[[one["id"] for one in some]]
        assert 1 <= len(chosen) <= 4
        assert not chosen["is_label_issue"].any()
        assert (chosen["given_label"] == name).all()


def test_long_texts_and_many_values_are_cut_and_say_so(tmp_path: Path) -> None:
    report = table()
    page.write(tmp_path / "a.html", report, summary(report), show=lambda _: page.Text("x" * 5000), rows=1)
    assert embedded(tmp_path / "a.html")["samples"] == [{"kind": "text", "text": "x" * 4000, "size": 5000}]
    values = page.Values([f"v{k}" for k in range(99)], [float("inf"), *range(98)])
    page.write(tmp_path / "b.html", report, summary(report), show=lambda _: values, rows=1)
    (sample,) = embedded(tmp_path / "b.html")["samples"]
    assert sample["numbers"] == [None, *range(63)]
    assert sample["names"][-1] == "v63"
    assert sample["size"] == 99


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: page.Image(np.zeros((8, 8, 3), np.uint8)), TypeMistake, "image is ndarray.*PIL.Image.fromarray"),
        (lambda: page.Image("pictures/1.png"), TypeMistake, "image is str, expected an image of Pillow, or the bytes"),
        (lambda: page.Text(None), TypeMistake, "text=None is NoneType, expected str"),
        (lambda: page.Values(["width"], [1.5, 2.0]), ValueMistake, "1 and 2, expected as many of each"),
    ],
)
def test_a_sample_that_could_not_be_shown_is_refused_where_it_is_made(
    make: Callable[[], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


def test_nothing_is_written_over_and_nothing_is_written_in_part(tmp_path: Path) -> None:
    report = table()
    (tmp_path / "a.html").write_text("mine")
    with pytest.raises(ExistingFile, match="is there, expected a new file"):
        page.write(tmp_path / "a.html", report, summary(report))
    assert (tmp_path / "a.html").read_text() == "mine"
    with pytest.raises(MissingFile, match="is in no folder"):
        page.write(tmp_path / "no" / "a.html", report, summary(report))

    def fails(index: int) -> page.Image:
        raise KeyError(index)

    with pytest.raises(KeyError):
        page.write(tmp_path / "b.html", report, summary(report), show=fails)
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]


def test_what_does_not_fit_together_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    report, path = table(), tmp_path / "a.html"
    whole = summary(report)
    with pytest.raises(ValueMistake, match="table has no p_wrong"):
        page.write(path, report.drop(columns="p_wrong"), whole)
    with pytest.raises(ValueMistake, match="table has 129 rows, expected 130"):
        page.write(path, report.iloc[1:], whole)
    for index in (report["index"] - 1, report["index"] // 2, report["index"].astype(str)):
        with pytest.raises(ValueMistake, match="index holds a place twice or what is none.*of the 130 samples"):
            page.write(path, report.assign(index=index), whole)
    with pytest.raises(ValueMistake, match="predicted_label holds 'dog', expected one of the 4 classes"):
        page.write(path, report.assign(predicted_label="dog"), whole)
    with pytest.raises(ValueMistake, match="rows=0 is out of range"):
        page.write(path, report, whole, rows=0)
    with pytest.raises(ValueMistake, match=r"losses has the shape \[4, 130\], expected \[4, 7\]"):
        page.write(path, report, whole, trajectories=trajectories(report), rows=7)
    curves = trajectories(report)
    with pytest.raises(ValueMistake, match=r"class_means has the shape \[3, 4\], expected \[4, 4\]"):
        page.write(path, report, whole, trajectories=page.Trajectories(curves.losses, curves.class_means[1:]))
    with pytest.raises(TypeMistake, match="sample=3 is int, expected"):
        page.write(path, report, whole, show=lambda _: 3)  # type: ignore[arg-type, return-value]
    assert list(tmp_path.iterdir()) == []


# -- in a browser -------------------------------------------------------------------------------------------


class Reader:
    """Somebody at a page in Chromium."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self) -> None:
        self.driver.get(self.url)
        self.driver.find_element("css selector", "html[data-ready]")

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def indices(self) -> list[int]:
        """The samples of the rows that are drawn, from top to bottom."""
        found = self.js("return [...document.querySelectorAll('#body tr[data-index]')].map((r) => r.dataset.index)")
        return [int(index) for index in found]

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def click(self, css: str) -> None:
        # Away from the bar at the bottom: the driver scrolls an element to the very edge.
        self.js("arguments[0].scrollIntoView({block: 'center'})", self.one(css))
        self.one(css).click()

    def choose(self, name: str, text: str) -> None:
        from selenium.webdriver.support.ui import Select

        menu = Select(self.one(f"#{name}"))
        menu.select_by_index(next(k for k, one in enumerate(menu.options) if one.get_property("text").startswith(text)))

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, what: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 10, 0.02).until(lambda _: what())

    def download(self, button: str, folder: Path, name: str) -> Path:
        # A path of its own for each file: Chromium would number a second one of the same name.
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        self.click(button)
        self.until((folder / name).exists)
        return folder / name


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, control = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or control is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(control))
    started.implicitly_wait(10)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    report = table()
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write(path, report, summary(report), show=picture, trajectories=trajectories(report))
    return path.as_uri()


@pytest.fixture
def reader(driver: Any, url: str) -> Iterator[Reader]:
    wide(driver)
    reader = Reader(driver, url)
    reader.open()
    yield reader
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []
    assert reader.js("return window.hit") is None
    reader.js("localStorage.clear()")


def wide(driver: Any, width: int = 1440, height: int = 1000) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def by_suspicion() -> list[int]:
    return [int(index) for index in np.argsort(-table()["p_wrong"].to_numpy())]


def test_the_page_asks_nobody_for_anything_and_shows_texts_as_they_are(reader: Reader) -> None:
    reader.driver.get_log("performance")
    reader.open()
    sent = [json.loads(line["message"])["message"] for line in reader.driver.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {one.split(":")[0] for one in asked} <= {"file", "data", "blob"}
    assert reader.one("h1").text == f"data {ATTACK}"
    assert reader.driver.title.startswith(f"data {ATTACK}")
    assert any(ATTACK in one.text for one in reader.all("#body .labels"))
    names = [one.get_property("text") for one in reader.all("#given option")]
    assert {name.rsplit(" (", 1)[0] for name in names} == {"all", *CLASSES, "(no label)"}


def test_the_most_suspicious_come_first_and_only_a_page_of_rows_is_drawn(reader: Reader) -> None:
    expected = by_suspicion()
    assert reader.indices() == expected[:50]
    assert reader.one("#page").text == "Page 1 of 3"
    assert reader.one("#holds").text == "This page holds all 130 samples."
    reader.click("#next")
    reader.click("#next")
    assert reader.indices() == expected[100:]
    assert not reader.one("#next").is_enabled()
    reader.click("#previous")
    assert reader.indices() == expected[50:100]


def test_rows_are_sorted_by_any_column_with_what_is_missing_last(reader: Reader) -> None:
    reader.click("th[data-sort=p_wrong] button")
    assert reader.indices() == by_suspicion()[::-1][:50]
    assert reader.one("th[data-sort=p_wrong]").get_attribute("aria-sort") == "ascending"
    reader.choose("sort", "mean_loss")
    loss = table()["mean_loss"]
    assert reader.indices() == loss.sort_values().index[:50].tolist()
    reader.choose("order", "highest")
    assert reader.indices() == loss.sort_values(ascending=False).index[:50].tolist()
    reader.click("#next")
    reader.click("#next")
    assert {index % 10 for index in reader.indices()[-13:]} == {0}
    reader.click("#reset")
    assert reader.indices() == by_suspicion()[:50]


def test_rows_are_filtered_by_class_by_pair_and_by_id(reader: Reader) -> None:
    report = table().iloc[by_suspicion()]
    of_cat = report[report["given_label"] == "cat"]
    reader.choose("given", "cat")
    assert reader.indices() == of_cat["index"].tolist()
    pair = of_cat[of_cat["predicted_label"] == ATTACK]
    reader.choose("suggested", ATTACK)
    assert reader.indices() == pair["index"].tolist()
    assert reader.one("#count").text == f"{len(pair)} of the 130 rows on this page"
    reader.click("#reset")
    reader.one("#search").send_keys("ID,01")
    assert sorted(reader.indices()) == list(range(10, 20))
    reader.one("#search").send_keys("zzz")
    assert reader.indices() == []
    assert "No row of this page is like that" in reader.one("#body").text


def test_a_cell_of_the_heat_map_and_a_line_of_the_lists_choose_their_samples(reader: Reader) -> None:
    report = table().iloc[by_suspicion()]
    for css, given, suggested in [
        ('#flips path[aria-label^="suggested: cat; given: =1+1;"]', "=1+1", "cat"),
        ("button[data-given='cat'][data-suggested='=1+1']", "cat", "=1+1"),
        ("#classes button[data-given='=1+1']", "=1+1", None),
    ]:
        reader.click(css)
        chosen = report[report["given_label"] == given]
        if suggested is not None:
            chosen = chosen[chosen["predicted_label"] == suggested]
        assert reader.indices() == chosen["index"].tolist()


def test_the_threshold_says_what_lies_above_it_and_hides_what_lies_below(reader: Reader) -> None:
    p = table()["p_wrong"].to_numpy()
    reader.js(
        "const s = document.getElementById('threshold'); s.value = '0.75';"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    above = p[p >= 0.75]
    words = reader.one("#above").text
    assert words.startswith(f"{len(above)} of all 130 samples lie there or above, about {round(above.sum())} of them")
    assert reader.one("#threshold-value").text == "0.750"
    assert reader.indices() == by_suspicion()[: len(above)]


def test_a_row_shows_how_its_loss_moved_beside_the_means_of_its_classes(reader: Reader) -> None:
    index = by_suspicion()[1]
    row = reader.one(f"tr[data-index='{index}']")
    spark = row.find_element("css selector", "svg.spark")
    assert spark.get_attribute("aria-label") == f"Loss from {index + 0.5:g} to 0.25"
    assert len(spark.find_elements("css selector", "path.given")) == 1
    # The second epoch was not seen: the line is broken there.
    assert spark.find_element("css selector", "path.sample").get_attribute("d").count("M") == 2
    reader.click(f"tr[data-index='{index}'] .labels")
    reader.until(lambda: reader.one("#curves").get_attribute("aria-label").startswith("Losses of -id"))
    assert reader.all("#curves svg path")


def test_keys_decide_and_move_on_and_the_first_only_chooses_a_row(reader: Reader) -> None:
    report, order = table(), by_suspicion()
    can_relabel = [
        index
        for index in order
        if isinstance(report["predicted_label"][index], str)
        and report["predicted_label"][index] != report["given_label"][index]
    ]
    reader.press("k")
    assert reader.one("#decided").text == "0"
    assert reader.js("return document.activeElement.dataset.index") == str(order[0])
    reader.press("k", "d")
    assert reader.one("#decided-note").text == "1 keep, 0 relabel, 1 drop"
    assert reader.js("return document.activeElement.dataset.index") == str(order[2])
    while reader.js("return document.activeElement.dataset.index") != str(can_relabel[2]):
        reader.press("j")
    reader.press("r")
    assert reader.one("#decided-note").text == "1 keep, 1 relabel, 1 drop"
    became = reader.one(f"tr[data-index='{can_relabel[2]}'] .became").get_property("textContent")
    assert became == f"→ {report['predicted_label'][can_relabel[2]]}"
    reader.press("u", "u")
    assert reader.one("#decided-note").text == "1 keep, 0 relabel, 0 drop"
    assert reader.js("return document.activeElement.dataset.index") == str(order[1])
    reader.press("\ue015")  # arrow down
    assert reader.js("return document.activeElement.dataset.index") == str(order[2])
    reader.press("\ue013")  # arrow up
    assert reader.js("return document.activeElement.dataset.index") == str(order[1])
    assert "keep" in reader.one(".keys").text


def test_keys_typed_into_the_search_decide_nothing(reader: Reader) -> None:
    reader.press("j", "/", "k", "d", "r")
    assert reader.one("#search").get_property("value") == "kdr"
    assert reader.one("#decided").text == "0"


def test_decisions_survive_a_reload_and_are_read_by_the_library(reader: Reader, tmp_path: Path) -> None:
    report, order = table(), by_suspicion()
    labels = torch.tensor([CLASSES.index(name) if isinstance(name, str) else -100 for name in report["given_label"]])
    reader.press("j", "k", "d", "l")
    assert reader.js("return document.activeElement.id") == "label"
    other = next(name for name in ("=1+1", "cat") if name != report["given_label"][order[2]])
    reader.choose("label", other)
    reader.click(f"tr[data-index='{order[3]}'] [data-decision=drop]")
    assert reader.one("#decided").text == "4"
    reader.open()
    assert reader.one("#decided").text == "4"
    pressed = "tr[data-index='{}'] [data-decision={}][aria-pressed=true]"
    for index, decision in zip(order, ("keep", "drop", "relabel", "drop"), strict=False):
        assert len(reader.all(pressed.format(index, decision))) == 1

    read = decisions.load(reader.download("#save", tmp_path, "decisions.csv"))
    decided, kept = read.apply(labels, CLASSES, report["id"].tolist())
    expected = labels.clone()
    expected[order[2]] = CLASSES.index(other)
    assert torch.equal(decided, expected)
    assert kept.tolist() == [k for k in range(SIZE) if k not in (order[1], order[3])]
    reader.choose("status", "drop")
    assert reader.indices() == [order[1], order[3]]


def test_a_browser_that_keeps_nothing_says_so(reader: Reader) -> None:
    refuse = """
        window.kept = Storage.prototype.setItem;
        Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"""
    reader.press("j", "k")
    assert "does not keep" not in reader.one("#decided-note").text
    reader.js(refuse)
    reader.press("d")
    assert reader.one("#decided-note").text.startswith("1 keep, 0 relabel, 1 drop. This browser does not keep them")
    assert reader.one("#save").is_enabled()
    reader.js("Storage.prototype.setItem = window.kept")
    reader.press("u")
    assert reader.one("#decided-note").text == "1 keep, 0 relabel, 0 drop"


def test_decisions_on_samples_that_a_later_page_does_not_hold_are_kept_and_counted(
    reader: Reader, tmp_path: Path
) -> None:
    report, order = table(), by_suspicion()
    reader.press("j", "d", "k", "d")
    page.write(tmp_path / "later.html", report, summary(report), rows=2)
    later = Reader(reader.driver, (tmp_path / "later.html").as_uri())
    later.open()
    assert later.one("#decided").text == "3"
    assert later.one("#decided-note").text == "1 keep, 0 relabel, 2 drop; 1 on samples that this page does not hold"
    read = decisions.load(later.download("#save", tmp_path, "decisions.csv"))
    assert [(row.index, row.decision) for row in read.rows] == sorted(
        zip(order[:3], ("drop", "keep", "drop"), strict=True)
    )


def test_the_classes_are_sorted_by_the_number_that_is_chosen(driver: Any, tmp_path: Path) -> None:
    report = table()
    about = summary(report)
    for one, share in zip(about["classes"], (0.3, 0.1, 0.25, 0.2), strict=True):
        one["left_out_share"] = share
    page.write(tmp_path / "a.html", report, about, rows=1)
    reader = Reader(driver, (tmp_path / "a.html").as_uri())
    reader.open()
    shares = "return [...document.querySelectorAll('#classes tbody tr')].map((r) => r.lastElementChild.textContent)"
    reader.click("#classes th:last-child button")
    assert reader.js(shares) == ["30.0%", "25.0%", "20.0%", "10.0%"]
    reader.click("#classes th:last-child button")
    assert reader.js(shares) == ["10.0%", "20.0%", "25.0%", "30.0%"]


def test_a_class_without_samples_has_no_shares_and_comes_last(driver: Any, tmp_path: Path) -> None:
    report = table()
    about = summary(report)
    about["classes"][1] |= {"size": 0, "issues": 0, "noise_rate": None, "left_out_share": None}
    for one, share in zip((about["classes"][k] for k in (0, 2, 3)), (0.3, 0.0, 0.2), strict=True):
        one["left_out_share"] = share
    page.write(tmp_path / "a.html", report, about, rows=1)
    reader = Reader(driver, (tmp_path / "a.html").as_uri())
    reader.open()
    shares = "return [...document.querySelectorAll('#classes tbody tr')].map((r) => r.lastElementChild.textContent)"
    reader.click("#classes th:last-child button")
    assert reader.js(shares) == ["30.0%", "20.0%", "0.0%", "–"]
    reader.click("#classes th:last-child button")
    assert reader.js(shares) == ["0.0%", "20.0%", "30.0%", "–"]


def test_the_selection_is_saved_with_the_columns_and_values_of_the_table(reader: Reader, tmp_path: Path) -> None:
    report = table()
    reader.choose("given", "=1+1")
    path = reader.download("#download", tmp_path, "selection.csv")
    chosen = report.iloc[by_suspicion()]
    chosen = chosen[chosen["given_label"] == "=1+1"].reset_index(drop=True)
    read = pd.read_csv(path, dtype={"first_flagged_epoch": "Int64"})
    texts = ("id", "given_label", "predicted_label")
    assert all(str(cell).startswith("'-") for cell in read["id"])
    for name in texts:
        read[name] = [decisions.from_cell(cell) if isinstance(cell, str) else None for cell in read[name]]
        chosen[name] = [cell if isinstance(cell, str) else None for cell in chosen[name]]
    assert list(read.columns) == list(report.columns)
    pd.testing.assert_frame_equal(read, chosen, check_dtype=False, rtol=0, atol=0)


def test_light_and_dark_follow_the_system_and_the_button_and_can_be_read(reader: Reader) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        seen[scheme] = colours(reader)
    assert seen["light"] != seen["dark"]
    for one in seen.values():
        for back in ("ground", "surface", "tint"):
            assert all(contrast(one[name], one[back]) >= 4.5 for name in ("ink", "muted", "accent"))
        assert contrast(one["accent"], one["on-accent"]) >= 4.5
    reader.until(lambda: reader.one("#theme").text == "Light")
    reader.click("#theme")
    assert colours(reader) == seen["light"]
    reader.open()
    assert colours(reader) == seen["light"]
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def colours(reader: Reader) -> dict[str, tuple[int, ...]]:
    """The named colours of the page as they are drawn, red, green and blue."""
    names = ("ground", "surface", "tint", "ink", "muted", "accent", "on-accent")
    code = """
        const one = document.body.appendChild(document.createElement("i"));
        const found = arguments[0].map((name) => {
            one.style.color = `var(--${name})`;
            return getComputedStyle(one).color;
        });
        one.remove();
        return found;"""
    found = reader.js(code, list(names))
    return {
        name: tuple(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(", "))
        for name, colour in zip(names, found, strict=True)
    }


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The contrast ratio of WCAG 2.1."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_on_a_small_screen_nothing_is_cut_off_and_a_sample_opens_and_closes(reader: Reader) -> None:
    wide(reader.driver, 390, 844)
    reader.open()
    assert reader.js("return document.documentElement.scrollWidth <= innerWidth")
    first = by_suspicion()[0]
    assert not reader.one("#panel").is_displayed()
    reader.click(f"tr[data-index='{first}'] .thumb")
    assert reader.one("#panel").is_displayed()
    assert reader.one("#panel").get_attribute("role") == "dialog"
    assert reader.one("#panel img.big").get_attribute("alt").startswith("Sample -id")
    assert reader.one("#panel").rect["width"] <= 390
    reader.press("\ue00c")  # escape
    assert not reader.one("#panel").is_displayed()
    assert reader.js("return document.activeElement.dataset.index") == str(first)
    reader.press("\ue007")  # enter
    assert reader.one("#panel").is_displayed()
    reader.press("k")
    assert reader.one("#decided").get_property("textContent") == "1"


def test_everything_that_can_be_used_has_a_name_and_every_image_a_text(reader: Reader) -> None:
    used = [one for one in reader.all("button, select, input") if one.is_displayed()]
    assert len(used) > 100
    assert [one.get_attribute("outerHTML") for one in (*used[:20], *used[-20:]) if not one.accessible_name] == []
    assert reader.js("return [...document.images].every((image) => image.alt !== '')")


@pytest.mark.parametrize(
    "sample, words",
    [
        (page.Text(f"{ATTACK} " + "word " * 1000), "The first 4,000 of 5,041 characters."),
        (page.Values(["<b>width", "height"], [1.5, 2]), "<b>width\n1.5\nheight\n2"),
        (None, "mean_loss"),
    ],
)
def test_texts_values_and_bare_rows_are_shown(driver: Any, tmp_path: Path, sample: Any, words: str) -> None:
    report = table()
    about = summary(report) | {
        "noise_rate": {"estimate": None, "low": None, "high": None, "reason": "There are no two groups."},
        "flips": [],
        "warnings": [],
        "accuracy": None,
    }
    page.write(tmp_path / "a.html", report, about, show=None if sample is None else lambda _: sample, rows=9)
    wide(driver)
    reader = Reader(driver, (tmp_path / "a.html").as_uri())
    reader.open()
    assert words in reader.one("#panel").text
    assert "There are no two groups." in reader.one(".figures").text
    assert reader.one("#holds").text.startswith("This page holds the 9 most suspicious of 130 samples.")
    assert reader.js("return window.hit") is None
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []
