"""The annotation app as it is served: what it lets through, and its pages in a real browser."""

import http.client
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

from editreward.annotation import people
from editreward.annotation.database import Database
from editreward.annotation.gate import COOKIE, MOST_TRIES
from editreward.cli import command as cli
from editreward.data.sources import load_groups
from editreward.data.storage import write_groups
from editreward.groups.protocol import DEFAULT_PROTOCOL, read_protocol
from tests.helpers.browser import PATIENCE, headless_chromium, requested, wait_for
from tests.helpers.processes import free_port

PROTOCOL = read_protocol()
NAMES = PROTOCOL.names
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
"""Of the candidates: what the browser shows tells which one it is."""

NASTY = (
    "<img src=x onerror=\"document.title='broken into'\"> ${document.title} {{value}} <|Reward|> & <b>把圆变成蓝色</b>"
)


def image(colour: tuple[int, int, int]) -> dict:
    content = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": "a-name-that-tells-the-editor.png"}


def group(group_id: str, score: float | None = None) -> dict:
    return {
        "group_id": group_id,
        "origin": "secret-origin",
        "category": "colour",
        "instruction": NASTY,
        "language": "en",
        "source_images": [image((255, 255, 255)), image((0, 0, 0))],
        "candidates": [
            {
                "image": image(colour),
                "editor": f"secret-editor-{index}",
                "seed": index,
                "scores": None if score is None else dict.fromkeys(NAMES, score),
                "annotations": [],
                "rationale": None,
            }
            for index, colour in enumerate(COLOURS)
        ],
        "preferences": [],
    }


class Server:
    """`editreward annotate serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.database = folder / "annotations.sqlite"
        if not self.database.exists():
            with Database(self.database, create=True) as database:
                self.tokens = people.add_annotators(database, ["ada", "grace"])
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = ["annotate", "serve", "--dataset", str(self.folder / "groups"), "--database", str(self.database)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "editreward.cli", *arguments, "--port", str(self.port), *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        lines: list[str] = []
        while not lines or self.base not in lines[-1]:
            lines.append(self.process.stdout.readline())
            assert lines[-1], f"the server ended: {''.join(lines)}"
        wait_for(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() is None, OSError)

    def kill(self) -> None:
        """End it at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def request(
        self, method: str, path: str, key: str = "", body: str = "", kind: str = "", address: str = ""
    ) -> tuple[int, dict, bytes]:
        """Status, headers and content, for a path that is sent as it is, by a proxy for an address."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Cookie": f"{COOKIE}={key}"} if key else {}
        headers |= {"X-Forwarded-For": address} if address else {}
        if body:
            headers["Content-Type"] = kind or "application/x-www-form-urlencoded"
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), content

    def sign_in(self, name: str, token: str) -> tuple[int, str]:
        """Status, and the key of the session where there is one."""
        status, headers, _ = self.request("POST", "/sign-in", body=urlencode({"name": name, "token": token}))
        cookie = {name.lower(): value for name, value in headers.items()}.get("set-cookie", "")
        return status, cookie.partition("=")[2].partition(";")[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three groups to rate and two annotators."""
    folder = tmp_path_factory.mktemp("annotation")
    write_groups((group(f"group-{number}") for number in range(3)), folder / "groups")
    started = Server(folder, "--ratings-per-group", "2")
    yield started
    started.kill()


# Over HTTP

SECRETS = (b"group-0", b"secret", b"Reward", PROTOCOL.title.encode(), PROTOCOL.dimensions[0].title.encode(), b"grace")


@pytest.mark.parametrize("key", ["", "wrong"])
def test_who_is_not_signed_in_sees_nothing(server, key):
    gradio = "/config /gradio_api/info /gradio_api/queue/data?session_hash=x /theme.css /assets/index.js /static/img/x"
    for path in ("/", *gradio.split(), "/image/1/source/0", "/gradio_api/file=/etc/passwd", "/docs", "/openapi.json"):
        status, headers, content = server.request("GET", path, key)
        assert status == (303 if path == "/" else 401), path
        assert not any(secret in content for secret in SECRETS), path
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/login", "/gradio_api/run/x", "/sign-out"):
        assert server.request("POST", path, key, body="{}", kind="application/json")[0] == 401, path
    status, headers, content = server.request("GET", "/sign-in", key)
    assert status == 200 and not any(secret in content for secret in SECRETS)


def test_a_wrong_name_or_token_gets_no_session(server):
    right = server.tokens["ada"]
    for name, token in (
        ("ada", "wrong"),
        ("ada", ""),
        ("grace", right),
        ("nobody", right),
        ("", ""),
        ("ada' --", right),
    ):
        assert server.sign_in(name, token) == (403, "")
    status, key = server.sign_in("ada", right)
    assert status == 303 and server.request("GET", "/", key)[0] == 200
    assert server.request("POST", "/sign-out", key)[0] == 303
    assert server.request("GET", "/", key)[0] == 303


def test_who_tries_many_tokens_has_to_wait_and_others_have_not(server):
    body = urlencode({"name": "ada", "token": "wrong"})
    found = [server.request("POST", "/sign-in", body=body, address="192.0.2.7") for _ in range(MOST_TRIES + 1)]
    assert [status for status, _, _ in found] == [403] * MOST_TRIES + [429]
    status, headers, content = found[-1]
    assert 0 < int({name.lower(): value for name, value in headers.items()}["retry-after"]) <= 600
    assert b"Too many wrong tries" in content and b'value="ada"' in content
    right = urlencode({"name": "ada", "token": server.tokens["ada"]})
    assert server.request("POST", "/sign-in", body=right, address="192.0.2.7")[0] == 429
    assert server.request("POST", "/sign-in", body=right, address="192.0.2.8")[0] == 303


def test_the_sign_in_page_says_what_it_is_for_and_takes_no_long_forms(server):
    content = server.request("GET", "/sign-in")[2].decode()
    assert "Rate edited images" in content and "ask them for a new one" in content and "30 days" in content
    nasty = urlencode({"name": NASTY, "token": "x"})
    assert "<img" not in server.request("POST", "/sign-in", body=nasty, address="192.0.2.9")[2].decode()
    assert server.request("POST", "/sign-in", body="name=" + "x" * 20_000)[0] == 413
    multipart = '--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n' + "x" * 20_000 + "\r\n--x--"
    assert server.request("POST", "/sign-in", body=multipart, kind="multipart/form-data; boundary=x")[0] == 413


def test_streams_are_read_by_those_whose_page_it_is(server):
    keys = {name: server.sign_in(name, token)[1] for name, token in server.tokens.items()}
    config = json.loads(server.request("GET", "/config", keys["ada"])[2])
    number = next(each["id"] for each in config["dependencies"] if each["targets"][0][1] == "load")
    call = json.dumps({"data": [], "fn_index": number, "session_hash": "adaspage"})
    path = "/gradio_api/queue/join"
    assert server.request("POST", path, keys["ada"], body=call, kind="application/json")[0] == 200
    path = "/gradio_api/queue/data?session_hash=adaspage"
    status, _, content = server.request("GET", path, keys["grace"])
    assert status == 403 and b"group" not in content.lower()
    status, _, content = server.request("GET", path, keys["ada"])
    assert status == 200 and b"process_completed" in content and b"image/" in content


def test_a_lock_of_another_program_is_told_and_stops_no_pages(server):
    key = server.sign_in("ada", server.tokens["ada"])[1]
    other = sqlite3.connect(server.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        body = urlencode({"name": "grace", "token": server.tokens["grace"]})
        answers: list[tuple[int, dict, bytes]] = []
        waits = threading.Thread(target=lambda: answers.append(server.request("POST", "/sign-in", body=body)))
        waits.start()
        assert server.request("GET", "/", key)[0] == 200 and not answers  # while the other still waits
        waits.join()
        assert answers[0][0] == 503 and b"Another program has locked annotations.sqlite" in answers[0][2]
        assert server.request("POST", "/sign-out", key)[0] == 503
    finally:
        other.close()
    assert server.request("POST", "/sign-out", key)[0] == 303


def test_the_session_is_out_of_reach_of_scripts_and_other_sites(server):
    body = urlencode({"name": "ada", "token": server.tokens["ada"]})
    _, headers, _ = server.request("POST", "/sign-in", body=body)
    cookie = {name.lower(): value for name, value in headers.items()}["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_nothing_but_the_dataset_is_served(server):
    key = server.sign_in("ada", server.tokens["ada"])[1]
    here = str(Path(__file__).resolve())
    targets = (
        "/etc/passwd",
        here,
        str(server.database),
        str(server.folder / "groups/data/train-00000-of-00001.parquet"),
    )
    paths = [
        f"{prefix}{target}" for target in targets for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/")
    ]
    paths += [f"{prefix}{'../' * 12}etc/passwd" for prefix in ("/static/", "/assets/", "/svelte/", "/image/1/source/")]
    paths += [f"{prefix}{'%2e%2e%2f' * 12}etc/passwd" for prefix in ("/static/", "/assets/", "/image/1/source/")]
    paths += [f"{prefix}//etc/passwd" for prefix in ("/static", "/assets", "/svelte")]
    paths += [f"/gradio_api/proxy={server.base}/config", "/monitoring", "/gradio_api/vibe-code/", "/gradio_api/runs"]
    paths += [
        "/image/1/secret/0",
        "/image/1/source/-1",
        "/image/1/source/9",
        "/image/1/candidate/99",
        "/image/x/source/0",
        f"/image/{2**63}/source/0",
        f"/image/{'9' * 18}/source/0",
        f"/image/1/source/{'9' * 40}",
    ]
    for path in paths:
        status, _, content = server.request("GET", path, key)
        assert status in (403, 404, 405, 422), (path, status)
        assert b"root:" not in content and b"PAR1" not in content and b"import http.client" not in content
    for path in ("/gradio_api/upload", "/gradio_api/process_recording", "/gradio_api/component_server", "/login"):
        assert server.request("POST", path, key, body="{}", kind="application/json")[0] == 404, path


def test_annotators_get_the_images_of_their_own_groups_only(server):
    keys = {name: server.sign_in(name, token)[1] for name, token in server.tokens.items()}
    with Database(server.database) as database:
        from editreward.annotation.assignment import Policy, next_assignment

        assignment = next_assignment(database, "ada", Policy())
    for place, candidate in enumerate(assignment.order):
        path = f"/image/{assignment.id}/candidate/{place}"
        status, headers, content = server.request("GET", path, keys["ada"])
        assert status == 200 and content == image(COLOURS[candidate])["bytes"]
        assert not any("tells-the-editor" in value for value in headers.values())
        assert server.request("GET", path, keys["grace"])[0] == 404


def test_the_page_names_no_editor(server):
    key = server.sign_in("ada", server.tokens["ada"])[1]
    for path in ("/", "/config"):
        status, _, content = server.request("GET", path, key)
        assert status == 200 and b"secret" not in content and b"tells-the-editor" not in content


def test_without_annotators_the_server_does_not_start(server, tmp_path, capsys):
    path = tmp_path / "empty.sqlite"
    Database(path, create=True).close()
    arguments = ["annotate", "serve", "--dataset", str(server.folder / "groups"), "--database", str(path)]
    assert cli.main(arguments) == 2
    assert "has no annotators: add them with `editreward annotate people --add`" in capsys.readouterr().err


# In a browser


class Browser:
    """A headless Chromium and what annotators do in it."""

    def __init__(self, driver: Any, base: str) -> None:
        self.driver, self.base = driver, base

    def find(self, selector: str) -> Any:
        """The elements that are shown."""
        return [found for found in self.driver.find_elements("css selector", selector) if found.is_displayed()]

    def text(self, selector: str) -> str:
        return " ".join(found.text for found in self.find(selector))

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException

        return wait_for(condition, StaleElementReferenceException)

    def sign_in(self, name: str, token: str) -> None:
        self.driver.delete_all_cookies()
        self.driver.get(self.base)
        assert self.driver.current_url.endswith("/sign-in")
        self.driver.find_element("name", "name").send_keys(name)
        self.driver.find_element("name", "token").send_keys(token)
        self.click("form button")

    def click(self, selector: str) -> None:
        self.find(selector)[0].click()

    def keys(self, *keys: str) -> None:
        """Type keys, one after another."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def save(self) -> None:
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    def page(self) -> str:
        """Which page is shown, once its images are there."""
        key = self.wait(lambda: self.driver.execute_script("return document.querySelector('#page-key')?.dataset.key"))
        script = (
            "const images = [...document.querySelectorAll('#cards img')].filter((image) => image.offsetParent);"
            "return images.every((image) => image.complete && image.naturalWidth > 0);"
        )
        self.wait(lambda: self.driver.execute_script(script))
        time.sleep(0.2)  # the script marks the first candidate a moment later
        return str(key)

    def next_page(self, before: str) -> str:
        """The page that is shown after another one."""
        self.wait(lambda: self.page() != before)
        return self.page()

    def candidates(self) -> list[int]:
        """Which candidate is at each place, by the colour of its pixels."""
        script = (
            "const images = [...document.querySelectorAll('img.candidate')].filter((image) => image.offsetParent);"
            "return images.map((image) => {"
            "const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;"
            "const context = canvas.getContext('2d'); context.drawImage(image, 0, 0, 1, 1);"
            "return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); });"
        )
        return [COLOURS.index(tuple(colour)) for colour in self.driver.execute_script(script)]

    def marks(self) -> list[list[int | None]]:
        """The scores that are marked, for each place."""
        script = (
            "const cards = [...document.querySelectorAll('.candidate-card')].filter((card) => card.offsetParent);"
            "return cards.map((card) => [...card.querySelectorAll('.rating')].map((rating) =>"
            "[...rating.querySelectorAll('input')].findIndex((input) => input.checked) + 1 || null));"
        )
        return self.driver.execute_script(script)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Headless Chromium."""
    with headless_chromium() as started:
        yield started


@pytest.mark.slow
def test_sign_in_rate_reload_be_killed_continue_and_export(server, driver, tmp_path):
    browser = Browser(driver, server.base)
    browser.sign_in("grace", "a wrong token")
    assert browser.wait(lambda: "Name or token is wrong" in browser.text("body")) and not browser.find("#cards")
    browser.sign_in("grace", server.tokens["grace"])

    # By mouse: a group is shown as it is in the dataset, and nothing in it runs.
    first = browser.page()
    assert browser.text(".instruction") == NASTY and driver.title == PROTOCOL.title
    order = browser.candidates()
    assert sorted(order) == [0, 1, 2]
    expected: dict[int, list[int]] = {}
    for place, candidate in enumerate(order):
        expected[candidate] = [1 + candidate, 4 - candidate]
        for name, score in zip(NAMES, expected[candidate], strict=True):
            browser.click(f"#rate-{place}-{name} label:nth-of-type({score})")
    assert browser.marks() == [expected[candidate] for candidate in order]

    # Enlarged, and flickering.
    browser.click(".candidate-card .view")
    viewer = browser.wait(lambda: browser.find("#viewer"))[0]
    assert viewer.get_attribute("data-showing") == "candidate" and viewer.get_attribute("data-flicker") == "off"
    browser.keys("f")
    for showing in ("source", "candidate", "source"):
        browser.wait(lambda showing=showing: viewer.get_attribute("data-showing") == showing)
    before = viewer.find_element("css selector", ".before").get_attribute("src")
    browser.keys("r")
    browser.wait(lambda: viewer.find_element("css selector", ".before").get_attribute("src") != before)
    browser.keys("v")
    browser.wait(lambda: not browser.find("#viewer"))

    # Marks survive a reload and a server that is killed; so does the session.
    with Database(server.database) as database:
        browser.wait(lambda: len(database.rows("SELECT * FROM drafts")) >= 6)
        assert not [rating for rating in database.ratings() if rating.annotator == "grace"]
    driver.refresh()
    reloaded = browser.next_page(first)
    assert browser.marks() == [expected[candidate] for candidate in order] and browser.candidates() == order
    server.kill()
    server.start()
    driver.refresh()
    restarted = browser.next_page(reloaded)
    assert browser.marks() == [expected[candidate] for candidate in order] and browser.candidates() == order

    # Another tab shows the same group. What is saved in one is not overwritten in the other.
    tab = driver.current_window_handle
    driver.switch_to.new_window("tab")
    driver.get(server.base)
    other = browser.page()
    driver.switch_to.window(tab)
    browser.click("#save")
    second = browser.next_page(restarted)
    assert "Saved" in browser.text("#notice") and browser.marks() == [[None, None]] * 3
    driver.switch_to.window(driver.window_handles[-1])
    browser.click("#save")
    browser.next_page(other)
    assert "another tab" in browser.text("#notice")
    driver.close()
    driver.switch_to.window(tab)

    # The server is killed under an open page, which goes on when there is a server again; by keys only.
    order = browser.candidates()
    browser.keys(*"434")
    browser.wait(lambda: browser.marks() == [[4, 3], [4, None], [None, None]])
    browser.save()
    browser.wait(lambda: "please score B (Visual quality), C" in browser.text("#notice"))
    server.kill()
    server.start()
    browser.keys(*"343")
    browser.wait(lambda: browser.marks() == [[4, 3], [4, 3], [4, 3]])
    browser.save()
    third = browser.next_page(second)
    browser.keys("b")
    back = browser.next_page(third)
    browser.wait(lambda: browser.marks() == [[4, 3]] * 3)
    browser.keys("1")  # corrected
    browser.wait(lambda: browser.marks()[0] == [1, 3])
    browser.save()
    browser.next_page(back)
    browser.keys("s", " ")
    browser.wait(lambda: browser.find("#skip-area input:checked"))
    browser.click("#skip")
    browser.wait(lambda: "nothing left for you" in browser.text("body"))
    assert "2 rated, 1 skipped" in browser.text(".status")
    assert {url for url in requested(driver) if not url.startswith((server.base, "data:", "blob:", "about:"))} == set()

    output = tmp_path / "out"
    arguments = ["annotate", "export", "--dataset", str(server.folder / "groups"), "--output", str(output)]
    assert cli.main([*arguments, "--database", str(server.database)]) == 0
    rows = load_groups(output).with_format("arrow")[:].to_pylist()
    found = [
        [[candidate["scores"][name] for name in NAMES] for candidate in row["candidates"]]
        for row in rows
        if row["candidates"][0]["annotations"]
    ]
    corrected: list[Any] = [[4, 3]] * 3
    corrected[order[0]] = [1, 3]
    assert found == [[expected[candidate] for candidate in range(3)], corrected]
    with Database(server.database) as database:
        assert database.skips() == [("group-2", "grace", PROTOCOL.skip_reasons[0], "")]


@pytest.mark.slow
def test_calibration_in_the_browser(driver, tmp_path):
    write_groups([group("group-0")], tmp_path / "groups")
    write_groups([group("calibration-0", 3.0)], tmp_path / "known", split="calibration")
    text = DEFAULT_PROTOCOL.read_text(encoding="utf-8")
    (tmp_path / "protocol.yaml").write_text(text.replace(PROTOCOL.title, "Try <b>this</b>"), encoding="utf-8")
    options = ("--protocol", str(tmp_path / "protocol.yaml"), "--calibration", f"{tmp_path / 'known'}:calibration")
    server = Server(tmp_path, *options)
    try:
        browser = Browser(driver, server.base)
        browser.sign_in("ada", server.tokens["ada"])
        browser.wait(lambda: "please rate 1 groups" in browser.text("body"))
        browser.wait(lambda: driver.switch_to.active_element.get_attribute("id") == "start")
        browser.keys(" ")
        browser.wait(lambda: "Calibration round 1" in browser.text(".status"))
        assert browser.text("h1") == "Try <b>this</b>"
        for score, verdict in (("1", "not close enough"), ("3", "You passed")):
            browser.page()
            browser.keys(*(score * 6))
            browser.wait(lambda score=score: browser.marks() == [[int(score)] * 2] * 3)
            browser.save()
            browser.wait(lambda verdict=verdict: verdict in browser.text("body"))
            if score == "1":
                result = browser.page()
                browser.keys("b")
                browser.next_page(result)
                assert "Reference: Instruction following 3, Visual quality 3" in browser.text(".candidate-card")
                assert not browser.find("#save")
                browser.keys("n")
                browser.wait(lambda: browser.find("#start"))
            browser.wait(lambda: driver.switch_to.active_element.get_attribute("id") == "start")
            browser.keys(" ")
            browser.wait(lambda: browser.find("#cards"))
        browser.wait(lambda: "Calibration" not in browser.text(".status"))
    finally:
        server.kill()


@pytest.mark.slow
def test_adjudication_in_the_browser(driver, tmp_path):
    rated = group("group-0")
    for index, candidate in enumerate(rated["candidates"]):
        candidate["annotations"] = [{"annotator": "<i>alan</i>", **dict.fromkeys(NAMES, 1.0 + index)}]
    write_groups([rated], tmp_path / "groups")
    entries = [
        {"tuple_id": "three", "group_id": "group-0", "candidates": [2, 0, 1], "reason": "no majority"},
        {"tuple_id": "two", "group_id": "group-0", "candidates": [1, 0], "reason": "inconsistent"},
    ]
    (tmp_path / "tuples.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    server = Server(tmp_path, "--adjudicate", str(tmp_path / "tuples.jsonl"))
    try:
        browser = Browser(driver, server.base)
        for name in ("ada", "grace"):
            browser.sign_in(name, server.tokens[name])
            page = browser.page()
            assert browser.candidates() == [2, 0, 1]
            assert "<i>alan</i> 3 3" in " ".join(browser.text(".candidate-card .scores").split())
            if name == "grace":
                assert "ada B > A > C" in " ".join(browser.text("#proposals").split())
            browser.keys(*"113")
            browser.save()
            browser.wait(lambda: "without ties" in browser.text("#notice"))
            for place, rank in enumerate((2, 1, 3)):
                browser.click(f"#rank-{place} label:nth-of-type({rank})")
            browser.save()
            browser.next_page(page)
            assert browser.candidates() == [1, 0]
            browser.keys(*"11")  # of two, a tie
            browser.save()
            browser.wait(lambda: "Saved" in browser.text("#notice"))
        browser.wait(lambda: "0 not settled" in browser.text(".status"))
        arguments = ["annotate", "export", "--database", str(server.database)]
        assert cli.main([*arguments, "--rankings", str(tmp_path / "rankings.jsonl")]) == 0
        found = [json.loads(line) for line in (tmp_path / "rankings.jsonl").read_text().splitlines()]
        assert [(entry["tuple_id"], entry["candidates"], entry["ranks"]) for entry in found] == [
            ("three", [2, 0, 1], [2, 1, 3]),
            ("two", [1, 0], [1, 1]),
        ]
        assert all(entry["annotators"] == ["ada", "grace"] for entry in found)
    finally:
        server.kill()
