"""The Space as it is served: its API, what it lets through, and its pages in a real browser."""

import csv
import json
import re
import runpy
import threading
import zipfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from editreward import load_scorer
from editreward.data.storage import write_groups
from editreward.reports.text import percent
from editreward.simulation import simulate_groups
from editreward_space import batch_tab
from editreward_space.api import PARAMETERS
from editreward_space.batch import run_batch
from editreward_space.inputs import EXAMPLES as SHOWN
from editreward_space.inputs import example_of
from editreward_space.rank_tab import ranked
from editreward_space.service import Service
from editreward_space.settings import Settings
from editreward_space.tidy import sweep
from tests.helpers.browser import headless_chromium, requested, wait_for
from tests.helpers.hub_server import TOKEN, Handler, Hub, Repository, StoredFile

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "space" / "examples"
SCENE = sorted((EXAMPLES / "scene").glob("*.png"))
INSTRUCTION = (EXAMPLES / "scene" / "instruction.txt").read_text(encoding="utf-8").strip()
NASTY = "<img src=x onerror=\"document.title='broken into'\">${document.title}{{value}}"


class Space:
    """`space/app.py`, served in a thread, and what it was started with."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GRADIO_TEMP_DIR", str(folder / "files"))
            patch.setenv("EDITREWARD_SPACE_MAX_IMAGE_MB", "1")
            app = runpy.run_path(str(ROOT / "space" / "app.py"), run_name="space")
        self.service: Service = app["service"]
        self.demo, self.files, options = app["demo"], folder / "files", app["launch_options"](app["service"])
        self.demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options)
        self.base = self.demo.local_url

    def client(self) -> Client:
        return Client(self.base, verbose=False)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("space")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "files"))
        started = Space(folder)
        yield started
        started.demo.close()


@pytest.fixture(scope="module")
def client(space: Space) -> Client:
    return space.client()


def uploads(paths: list[Path]) -> list[Any]:
    return [handle_file(str(path)) for path in paths]


def rank(client: Client, source: list[Path], instruction: str, edited: list[Path]) -> dict[str, Any]:
    return client.predict(uploads(source), instruction, uploads(edited), api_name="/rank")


def upload(space: Space, path: Path) -> dict[str, Any]:
    """An uploaded file, as data of a request."""
    answer = httpx.post(f"{space.base}gradio_api/upload", files={"files": (path.name, path.read_bytes())})
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


def call(space: Space, name: str, data: list[Any]) -> str:
    """What an endpoint answers to data sent as they are: `gradio_client` would upload files that are named in them."""
    event = httpx.post(f"{space.base}gradio_api/call/{name}", json={"data": data}).json()["event_id"]
    return httpx.get(f"{space.base}gradio_api/call/{name}/{event}", timeout=300).text


@pytest.fixture(scope="module")
def scorer() -> Any:
    from editreward import EditRewardScorer

    return EditRewardScorer.from_pretrained(device="cpu")


# The API


def test_the_endpoints_are_named_and_documented(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/rank", "/compare", "/batch", "/model"}
    for endpoint in named.values():
        assert endpoint["description"]
    parameters = {name: [p["parameter_name"] for p in endpoint["parameters"]] for name, endpoint in named.items()}
    assert parameters["/rank"] == ["source", "instruction", "edited"]
    assert parameters["/compare"] == ["source", "instruction", "first", "second"]
    assert parameters["/batch"] == ["table", "archive", "dataset", "split"]
    text = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in named)
    for endpoint in named.values():
        for parameter in endpoint["parameters"]:
            assert parameter["label"] == PARAMETERS[parameter["parameter_name"]]
            assert f"`{parameter['parameter_name']}`" in text
    optional = {p["parameter_name"] for p in named["/batch"]["parameters"] if p["parameter_has_default"]}
    assert optional == {"table", "archive", "dataset", "split"}


def test_the_api_answers_with_the_scorers_numbers(client, scorer):
    answer = rank(client, SCENE[:1], INSTRUCTION, SCENE[1:])
    best = scorer.best_of(SCENE[0], SCENE[1:], INSTRUCTION)
    assert [c["name"] for c in answer["candidates"]] == [SCENE[1 + index].name for index in best.order]
    assert [c["index"] for c in answer["candidates"]] == best.order
    for candidate, index in zip(answer["candidates"], best.order, strict=True):
        assert candidate["reward"] == pytest.approx(best.scores[index].reward, abs=1e-4)
        assert candidate["probability_best"] == pytest.approx(best.probabilities[index], abs=1e-4)
        for name, score in candidate["dimensions"].items():
            assert score["mean"] == pytest.approx(best.scores[index].dimensions[name].mean, abs=1e-4)
    both = client.predict(uploads(SCENE[:1]), INSTRUCTION, *uploads(SCENE[1:3]), api_name="/compare")
    expected = scorer.preference(SCENE[0], SCENE[1], SCENE[2], INSTRUCTION)
    assert both["probability_first"] == pytest.approx(expected, abs=1e-4)
    assert set(both["probability_first_by_dimension"]) == set(scorer.model.config.dimensions)
    assert client.predict(api_name="/model")["notes"] == scorer.notes


def test_the_documented_client_runs(space, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name, path in zip(("cat.png", "a.png", "b.png"), SCENE, strict=False):
        (tmp_path / name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert "http://127.0.0.1:7860" in block
    exec(block.replace("http://127.0.0.1:7860", space.base.rstrip("/")), {})
    assert re.search(r"^[ab]\.png [01]\.\d+$", capsys.readouterr().out, re.MULTILINE)


def test_a_batch_reports_its_bad_row_and_gives_two_files(client, scorer):
    table, archive = EXAMPLES / "batch.csv", EXAMPLES / "batch.zip"
    job = client.submit(*uploads([table, archive]), "", "train", api_name="/batch")
    answer, files = job.result()
    assert [state["done"] for state, _ in job.outputs()] == sorted(state["done"] for state, _ in job.outputs())
    assert (answer["done"], answer["total"], answer["errors"]) == (6, 6, 1)
    (bad,) = (row for row in answer["rows"] if row["error"])
    assert bad["group"] == "bad-row" and bad["error"] == "no-such-file.png is not in batch.zip."
    by_suffix = {Path(path).suffix: path for path in files}
    parquet = pd.read_parquet(by_suffix[".parquet"])
    assert parquet["reward"].dropna().tolist() == pytest.approx(
        [row["reward"] for row in answer["rows"] if row["reward"] is not None]
    )
    with open(by_suffix[".csv"], newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(answer["rows"]) == 16
    first = list(csv.DictReader(table.open(encoding="utf-8")))[0]
    with zipfile.ZipFile(archive) as images:
        source, *edited = (images.read(first[name]) for name in ("source", "edited", "edited_2", "edited_3"))
    expected = scorer.best_of(source, edited, first["instruction"]).scores
    found = [row["reward"] for row in answer["rows"] if row["group"] == first["id"]]
    assert found == pytest.approx([score.reward for score in expected], abs=1e-4)


def test_a_dataset_of_the_hub_is_scored_without_the_spaces_token(client, tmp_path, monkeypatch):
    groups = list(simulate_groups(2, split="test", seed=1, candidates=2))
    write_groups([group.to_row() for group in groups], tmp_path, split="test")
    tokens = set()

    def handle(self: Handler) -> None:
        tokens.add(self.headers.get("Authorization"))
        original(self)

    original = Handler.do_GET
    for method in ("do_GET", "do_HEAD", "do_POST"):
        monkeypatch.setattr(Handler, method, handle)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        repository = hub.repositories["org/groups"] = Repository(private=False)
        shards = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*.parquet")}
        repository.commit({name: StoredFile(path.read_bytes(), lfs=False) for name, path in shards.items()}, "data")
        answer, files = client.predict(None, None, "org/groups", "test", api_name="/batch")
        assert (answer["done"], answer["total"], answer["errors"]) == (2, 2, 0) and len(files) == 2
        assert [row["group"] for row in answer["rows"]] == [g.group_id for g in groups for _ in g.candidates]
        for name, split, message in (("org/gone", "test", "cannot be read"), ("org/groups", "x", "no Parquet files")):
            with pytest.raises(AppError, match=message):
                client.predict(None, None, name, split, api_name="/batch")
    assert tokens == {None}


@pytest.mark.parametrize(
    "source, instruction, edited, message",
    [
        (0, INSTRUCTION, 1, "no source image"),
        (1, INSTRUCTION, 0, "no edited image"),
        (1, "   ", 1, "instruction is empty"),
        (1, "a" * 2001, 1, "2000 characters"),
        (5, INSTRUCTION, 1, "5 source images; at most 4"),
        (1, INSTRUCTION, 17, "17 edited images; at most 16"),
    ],
)
def test_errors_say_what_is_wrong(space, source, instruction, edited, message):
    good = upload(space, SCENE[0])
    answer = call(space, "rank", [[good] * source, instruction, [good] * edited])
    assert "event: error" in answer and message in answer


def test_files_that_are_no_images_and_names_with_markup_come_back_escaped(client, tmp_path):
    path = tmp_path / "<b>x.png"
    path.write_text("no image")
    with pytest.raises(AppError) as caught:
        rank(client, SCENE[:1], INSTRUCTION, [path])
    assert "not an image" in str(caught.value) and "<b>" not in str(caught.value)


def test_links_are_not_fetched_and_paths_of_the_server_are_not_read(space, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    good = upload(space, SCENE[0])
    meta = good["meta"]
    assert "event: complete" in call(space, "rank", [[good], INSTRUCTION, [good]])
    with Hub() as internal:
        for path in (f"{internal.endpoint}/a.png", str(secret), str(ROOT / "README.md"), "/etc/passwd"):
            for bad in ({"path": path, "meta": meta}, {"path": path}, {"path": "", "url": path, "meta": meta}):
                answer = call(space, "rank", [[good], INSTRUCTION, [bad]])
                assert "event: error" in answer and "reward" not in answer, bad
        assert not internal.log
        # A file that was uploaded is read from its own path, whatever its data say of an address.
        answer = call(space, "rank", [[good], INSTRUCTION, [{**good, "url": f"{internal.endpoint}/b.png"}]])
        assert "event: complete" in answer and not internal.log


def get(url: str) -> tuple[int, bytes]:
    response = httpx.get(url, follow_redirects=False)
    return response.status_code, response.content


def test_only_files_of_the_app_are_served_and_their_addresses_cannot_be_guessed(client, space):
    targets = ["/etc/passwd", str(ROOT / "README.md"), str(ROOT / "space" / "app.py"), str(space.files), "..", "."]
    targets += [f"{space.files}/../../../../../../etc/passwd", f"{space.files}/%2e%2e/%2e%2e/x", "http://127.0.0.1:1/"]
    for target in targets:
        status, content = get(f"{space.base}gradio_api/file={target}")
        assert status in (403, 404), target
        assert b"root:" not in content and b"EditReward" not in content
    before = {path.parent.name for path in space.files.rglob("scores.csv")}
    client.predict(*uploads([EXAMPLES / "batch.csv", EXAMPLES / "batch.zip"]), "", "train", api_name="/batch")
    client.predict(*uploads([EXAMPLES / "batch.csv", EXAMPLES / "batch.zip"]), "", "train", api_name="/batch")
    names = {path.parent.name for path in space.files.rglob("scores.csv")} - before
    assert len(names) == 2 and all(re.fullmatch("[0-9a-f]{64}", name) for name in names)


def test_uploads_beyond_the_limit_are_refused(space):
    limit = space.demo.max_file_size
    assert limit == 200 * 2**20
    space.demo.max_file_size = 1000
    try:
        answer = httpx.post(f"{space.base}gradio_api/upload", files={"files": ("a.png", bytes(2000))})
    finally:
        space.demo.max_file_size = limit
    assert answer.status_code == 413
    assert space.demo._queue.max_size == 32


def test_the_examples_show_what_they_say(scorer):
    right, unknown = (example_of(name) for name, _, _ in SHOWN)
    best = scorer.best_of(right[0][0], right[2], right[1])
    is_varied = runpy.run_path(str(EXAMPLES / "make.py"))["is_varied"]
    groups = simulate_groups(1000, split="test", seed=0)
    truth = next(group for group in groups if group.language == "en" and is_varied(group))
    assert right[1] == truth.instruction and set(truth.candidates[best.index].scores.values()) == {4}
    assert best.probability > 0.9
    best = scorer.best_of(unknown[0][0], unknown[2], unknown[1])
    assert best.probability < 0.9 and Path(unknown[2][best.index]).name == "as-asked.jpg"
    twice = [*unknown[2], unknown[2][best.index]]  # neither of two that are the same is likely the best
    best = scorer.best_of(unknown[0][0], twice, unknown[1])
    page = ranked(Service(scorer, Settings()), *unknown[:2], twice)[0]
    assert f"The model does not know: with {escape(percent(1 - best.probability))} another one is the best" in page


def test_cards_show_where_if_it_is_asked_for(scorer):
    source, instruction, edited = example_of(SHOWN[0][0])
    service, blind = Service(scorer, Settings()), Service(load_scorer("pixels"), Settings())
    pages = [ranked(one, source, instruction, edited, True)[0] for one in (service, blind)]
    assert pages[0].count("What speaks against it in ") == len(edited) * len(scorer.dimensions)
    assert not blind.shows_where and "er-heat" not in pages[1]
    assert "er-heat" not in ranked(service, source, instruction, edited, False)[0]


def test_the_page_opens_with_an_example_ranked(space, scorer):
    numbers = {each["api_name"]: each["id"] for each in space.demo.config["dependencies"]}
    request = {"data": [], "fn_index": numbers["open_page"], "session_hash": "opening"}
    answer = httpx.post(f"{space.base}gradio_api/run/predict", json=request, timeout=300).raise_for_status().json()
    best = scorer.best_of(SCENE[0], SCENE[1:], INSTRUCTION)
    (page,) = answer["data"]
    assert "An example." in page and page.count("er-card") >= 5
    assert f"<b>{SCENE[1 + best.index].name}</b>" in page and escape(percent(best.probability)) in page


def test_uploads_are_refused_while_the_space_keeps_all_that_it_may(space, monkeypatch):
    answer = httpx.post(f"{space.base}gradio_api/upload", files={"files": ("a.png", bytes(20_000))})
    assert answer.status_code == 200
    monkeypatch.setattr(space.service.quota, "limit", 10_000)
    answer = httpx.post(f"{space.base}gradio_api/upload", files={"files": ("a.png", bytes(20_000))})
    assert answer.status_code == 507 and "Try again later" in answer.text
    assert httpx.get(space.base).status_code == 200


def test_uploads_downloads_and_broken_uploads_are_deleted_in_time_and_examples_stay(client, space):
    client.predict(*uploads([EXAMPLES / "batch.csv", EXAMPLES / "batch.zip"]), "", "train", api_name="/batch")
    (space.files / "tmp-of-a-broken-upload").write_bytes(bytes(10))
    before = {path for path in space.files.rglob("*") if path.is_file()}
    sweep(space.demo, age=3600)  # the machine may be slow
    assert {path for path in space.files.rglob("*") if path.is_file()} == before
    sweep(space.demo, age=-1)
    left = [path.read_bytes() for path in space.files.rglob("*") if path.is_file()]
    assert SCENE[0].read_bytes() in left  # thumbnails of examples
    assert set(left) <= {path.read_bytes() for path in EXAMPLES.rglob("*") if path.is_file()}
    assert all(any(path.iterdir()) for path in space.files.iterdir())


def test_a_batch_that_waits_for_its_turn_can_be_cancelled(space):
    numbers = {each["api_name"]: each["id"] for each in space.demo.config["dependencies"]}
    files = [upload(space, EXAMPLES / "batch.csv"), upload(space, EXAMPLES / "batch.zip")]

    def send(name: str, way: str, data: list[Any]) -> httpx.Response:
        request = {"data": data, "fn_index": numbers[name], "session_hash": "waiting"}
        return httpx.post(f"{space.base}gradio_api/{way}", json=request).raise_for_status()

    send("begin", "run/predict", [])
    assert "Cancelling" in send("cancel", "run/predict", []).text
    send("score_all", "queue/join", [*files, "", "train"])
    answer = httpx.get(f"{space.base}gradio_api/queue/data", params={"session_hash": "waiting"}, timeout=300).text
    assert "Cancelled after 0 of 6 groups" in answer
    send("begin", "run/predict", [])
    send("score_all", "queue/join", [*files, "", "train"])
    answer = httpx.get(f"{space.base}gradio_api/queue/data", params={"session_hash": "waiting"}, timeout=300).text
    assert "Cancelled" not in answer and "6 of 6 groups" in answer


def test_several_users_at_once_get_their_own_answers(space, scorer):
    answers: dict[int, Any] = {}

    def use(user: int) -> None:
        answers[user] = rank(space.client(), SCENE[:1], INSTRUCTION, SCENE[1 + user : 3 + user])

    users = [threading.Thread(target=use, args=(user,)) for user in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for user, answer in answers.items():
        best = scorer.best_of(SCENE[0], SCENE[1 + user : 3 + user], INSTRUCTION)
        assert [c["reward"] for c in answer["candidates"]] == pytest.approx(
            [best.scores[index].reward for index in best.order], abs=1e-4
        )


# In a browser


class Browser:
    """A headless Chromium on the Space."""

    def __init__(self, driver: Any, base: str) -> None:
        self.driver, self.base = driver, base

    def open(self) -> None:
        self.driver.get(self.base)
        self.wait(lambda: self.find("#rank-button"))

    def find(self, selector: str) -> list[Any]:
        """The elements that are shown."""
        return [found for found in self.driver.find_elements("css selector", selector) if found.is_displayed()]

    def text(self, selector: str) -> str:
        return " ".join(found.text for found in self.find(selector))

    def wait(self, condition: Any) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

        return wait_for(condition, StaleElementReferenceException, WebDriverException)

    def click(self, selector: str) -> None:
        element = self.wait(lambda: self.find(selector))[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def tab(self, name: str) -> None:
        self.wait(lambda: [tab.click() or tab for tab in self.find("button[role=tab]") if tab.text == name])

    def upload(self, label: str, *paths: Path) -> None:
        """Give files to the input with a label, and wait until they are shown."""
        script = (
            "const [label] = arguments; const blocks = [...document.querySelectorAll('.block')];"
            "const block = blocks.find((b) => b.offsetParent && b.querySelector('label')?.innerText.includes(label));"
            "return block;"
        )
        block = self.wait(lambda: self.driver.execute_script(script, label))
        block.find_element("css selector", "input[type=file]").send_keys("\n".join(map(str, paths)))
        if paths[0].suffix in (".csv", ".zip", ".jsonl"):
            self.wait(lambda: all(path.name.rsplit(".")[0] in block.text for path in paths))
        else:
            self.wait(
                lambda: (
                    len(self.driver.execute_script(script, label).find_elements("css selector", "img")) >= len(paths)
                )
            )

    def write(self, text: str) -> None:
        (field,) = (found for found in self.find("textarea"))
        field.clear()
        field.send_keys(text)

    def rank(self, source: Path, instruction: str, *edited: Path) -> None:
        self.upload("Source image", source)
        self.upload("Edited images", *edited)
        self.write(instruction)
        self.click("#rank-button")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with headless_chromium() as started:
        yield started


@pytest.fixture
def browser(driver: Any, space: Space) -> Browser:
    opened = Browser(driver, space.base)
    opened.open()
    return opened


def titles(browser: Browser) -> list[str]:
    return [found.text for found in browser.find("#rank-result .er-card h3")]


@pytest.mark.slow
def test_upload_rank_look_and_come_back_in_the_browser(browser, scorer, tmp_path):
    driver = browser.driver
    requested(driver)
    nasty = tmp_path / "<img src=x onerror=alert(1)>.png"
    nasty.write_bytes(SCENE[2].read_bytes())
    edited = [SCENE[1], nasty, SCENE[3]]
    instruction = f"{INSTRUCTION} {NASTY}"
    browser.rank(SCENE[0], instruction, *edited)
    browser.wait(lambda: len(titles(browser)) == 3)

    best = scorer.best_of(SCENE[0], edited, instruction)
    cards = browser.find("#rank-result .er-card")
    for place, (card, index) in enumerate(zip(cards, best.order, strict=True), 1):
        score = best.scores[index]
        assert card.text.startswith(f"{place}. ")
        for value in score.dimensions.values():
            assert str(value) in card.text
    assert browser.text(".er-instruction") == instruction and "broken" not in driver.title
    assert not driver.execute_script("return document.querySelector('img[src=x], #rank-result script')")
    assert "knows nothing else" in browser.text(".er-note")
    unnamed = "return [...document.querySelectorAll('.er-result img')].filter((image) => !image.alt).length"
    assert driver.execute_script(unnamed) == 0

    # Flicker alternates source and edit in place; side by side shows both; pressing again ends either.
    flicker, side = cards[0].find_elements("css selector", "button[data-er]")
    images = cards[0].find_elements("css selector", ".er-view img")

    def shown() -> tuple[bool, ...]:
        return tuple(image.is_displayed() for image in images)

    assert shown() == (True, False)
    flicker.click()
    for expected in ((False, True), (True, False), (False, True)):
        browser.wait(lambda expected=expected: shown() == expected)
    side.click()
    assert shown() == (True, True) and flicker.get_attribute("aria-pressed") == "false"
    assert images[1].get_attribute("src") == browser.find(".er-sources img")[0].get_attribute("src")
    side.click()
    assert shown() == (True, False)

    # Results survive another tab, and can be kept.
    before = titles(browser)
    browser.tab("About")
    browser.wait(lambda: "How to read the scores" in browser.text("body") and not titles(browser))
    assert "editreward-tiny" in browser.text("body") and "40 megapixels" in browser.text("body")
    browser.tab("Rank")
    browser.wait(lambda: titles(browser) == before)
    links = [link.get_attribute("href") for link in browser.find("a[download]")]
    (ranking,) = (json.loads(get(link)[1]) for link in links if link.endswith("ranking.json"))
    assert [c["rank"] for c in ranking["candidates"]] == [1, 2, 3] and ranking["instruction"] == instruction
    assert any(link.endswith("ranking.png") and get(link)[1].startswith(b"\x89PNG") for link in links)
    ours = (browser.base, "data:", "blob:", "about:", "chrome")
    assert {url for url in requested(driver) if not url.startswith(ours)} == set()


@pytest.mark.slow
def test_examples_errors_and_comparing_in_the_browser(browser, scorer):
    browser.click("#rank-button")
    browser.wait(lambda: "There is no source image" in browser.text("#rank-result [role=alert]"))
    browser.tab("Compare")
    browser.click(".er-examples tbody tr")
    browser.wait(lambda: len(browser.find(".image-frame img, [data-testid=image] img")) >= 3)
    browser.wait(lambda: browser.find("textarea")[0].get_attribute("value") == INSTRUCTION)
    browser.click("#compare-button")
    browser.wait(lambda: browser.find("#compare-result .er-slider"))
    probability = scorer.preference(SCENE[0], SCENE[1], SCENE[2], INSTRUCTION)
    assert percent(probability) in browser.text("#compare-result .er-answer")
    rows = browser.find("#compare-result tbody tr")
    assert [row.text.split()[0] for row in rows] == ["Instruction", "Visual", "Overall"]

    # By keys: the slider shows more of the second edit.
    from selenium.webdriver import Keys

    split = "return getComputedStyle(document.querySelector('.er-slider')).getPropertyValue('--er-split').trim()"
    assert browser.driver.execute_script(split) == "50%"
    (handle,) = browser.find(".er-range input")
    assert handle.get_attribute("aria-label")
    handle.send_keys(Keys.HOME)
    assert browser.driver.execute_script(split) == "0%"


@pytest.mark.slow
def test_a_batch_with_a_bad_row_in_the_browser(browser, tmp_path):
    nasty = NASTY.replace('"', "")
    browser.tab("Batch")
    table = (EXAMPLES / "batch.csv").read_text(encoding="utf-8")
    first = next(csv.DictReader(table.splitlines()))["id"]
    (tmp_path / "mine.csv").write_text(table.replace(first, nasty), encoding="utf-8")
    browser.upload("Table", tmp_path / "mine.csv")
    browser.click("#batch-button")
    browser.wait(lambda: "Give a table and a ZIP file" in browser.text("#batch-result [role=alert]"))
    browser.upload("Its images", EXAMPLES / "batch.zip")
    browser.click("#batch-button")
    browser.wait(lambda: len(browser.find("#batch-result .er-histogram")) == 2)
    assert "6 of 6 groups: 5 scored, 1 with errors" in browser.text("#batch-result")
    assert "bad-row: no-such-file.png is not in batch.zip." in browser.text(".er-errors")
    browser.wait(lambda: nasty in browser.text("#batch-table"))
    assert browser.driver.execute_script("return document.querySelectorAll('#batch-table img').length") == 0
    assert "broken" not in browser.driver.title
    links = [link.get_attribute("href") for link in browser.find("a[download]")]
    assert any(link.endswith("scores.csv") and get(link)[0] == 200 for link in links)
    assert any(link.endswith("scores.parquet") for link in links)


@pytest.mark.slow
def test_a_batch_is_cancelled_in_the_browser(browser, space, tmp_path, monkeypatch):
    rows = list(csv.DictReader((EXAMPLES / "batch.csv").open(encoding="utf-8")))[:1] * 40
    lines = [
        json.dumps({"instruction": row["instruction"], "source": row["source"], "edited": row["edited"]})
        for row in rows
    ]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    browser.tab("Batch")
    browser.upload("Table", tmp_path / "long.jsonl")
    browser.upload("Its images", EXAMPLES / "batch.zip")
    go, original = threading.Event(), Service.rank_all
    stops: list[threading.Event] = []

    def slow(self: Service, groups: Any) -> Any:
        results = original(self, groups)
        assert go.wait(300)
        return results

    def remembered(service: Service, items: Any, total: int, cancelled: threading.Event, **options: Any) -> Any:
        stops.append(cancelled)
        return run_batch(service, items, total, cancelled, **options)

    monkeypatch.setattr(Service, "rank_all", slow)
    monkeypatch.setattr(batch_tab, "run_batch", remembered)
    browser.click("#batch-button")
    browser.wait(lambda: "0 of 40 groups" in browser.text("#batch-result"))
    browser.click("#batch-cancel")
    wait_for(lambda: stops and stops[0].is_set())
    go.set()
    browser.wait(lambda: "Cancelled after 8 of 40 groups" in browser.text("#batch-result"))
    assert [link for link in browser.find("a[download]") if link.get_attribute("href").endswith("scores.csv")]


@pytest.mark.slow
def test_two_users_at_once_see_their_own_results_only(browser, driver, tmp_path):
    for user in ("ada", "grace"):
        for path in SCENE[1:3]:
            (tmp_path / f"{user}-{path.name}").write_bytes(path.read_bytes())
    mine = driver.current_window_handle
    windows = {"ada": mine}
    driver.switch_to.new_window("window")
    browser.open()
    windows["grace"] = driver.current_window_handle
    for user, window in windows.items():
        driver.switch_to.window(window)
        edits = sorted(tmp_path.glob(f"{user}-*"))
        browser.upload("Source image", SCENE[0])
        browser.upload("Edited images", *edits)
        browser.write(f"{INSTRUCTION} {user}")
    for window in windows.values():
        driver.switch_to.window(window)
        browser.click("#rank-button")
    for user, window in windows.items():
        driver.switch_to.window(window)
        browser.wait(lambda: len(titles(browser)) == 2)
        assert all(f" {user}-edit" in title for title in titles(browser))
        other = "grace" if user == "ada" else "ada"
        assert f"{other}-edit" not in driver.page_source
    driver.close()
    driver.switch_to.window(mine)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_everything_within_its_width_and_with_contrast(browser, driver, theme):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        driver.get(f"{browser.base}?__theme={theme}")
        browser.wait(lambda: browser.find("#rank-jump a"))  # the example is ranked, but out of sight
        browser.rank(SCENE[0], INSTRUCTION, *SCENE[1:3])
        browser.wait(lambda: len(titles(browser)) == 2)
        wide = "return [...document.querySelectorAll('html, .er-scroll, .grid-wrap')].filter((one) => one.offsetParent"
        wide += " !== null && one.scrollWidth > one.clientWidth).map((one) => one.className)"
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert driver.execute_script(wide) == []
        small = (
            "return [...document.querySelectorAll('.gallery-container button, .er-buttons button, #rank-jump a')]"
            ".filter((one) => one.offsetParent).map((one) => one.getBoundingClientRect())"
            ".filter((box) => Math.min(box.width, box.height) < 24).length"
        )
        assert driver.execute_script(small) == 0  # WCAG 2.2, 2.5.8
        for card in browser.find(".er-card"):
            assert card.rect["x"] >= 0 and card.rect["x"] + card.rect["width"] <= 390
        colours = (
            "const style = (s) => getComputedStyle(document.querySelector(s));"
            "return [style('.er-card .er-line').color, style('.er-card').backgroundColor].map((colour) =>"
            "colour.match(/[\\d.]+/g).slice(0, 3).map(Number))"
        )
        text, ground = (np.array(colour) / 255 for colour in driver.execute_script(colours))
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG 2.2, 1.4.3
        assert (luminance(ground) > 0.5) == (theme == "light")
        browser.tab("Compare")
        browser.click(".er-examples tbody tr")
        browser.wait(lambda: browser.find("#compare-result table"))
        assert driver.execute_script(wide) == []
    finally:
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def luminance(colour: np.ndarray) -> float:
    """Relative luminance of an sRGB colour, 0..1 (WCAG 2.2)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
