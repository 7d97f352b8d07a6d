"""The connection form and the test button in a real Airflow's UI, by a real browser; ``make ui`` runs it.

It needs Chromium and its driver (Debian: ``chromium`` and ``chromium-driver``), so it is no part of ``make test``.
Airflow's markup is not ours and may change; what is looked for are names, labels and roles, never classes.
"""

from __future__ import annotations

import shutil
import sys
import time

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from airflow_provider_modelstudio.get_provider_info import get_provider_info
from airflow_provider_modelstudio.sandbox.server import Sandbox
from demo.private_airflow import PrivateAirflow
from demo.sessions import Sessions
from tests.airflow.test_scheduler import free_port

PASSWORD = "made-up-password"
KEY = "sk-made-up-0123456789"
(CONNECTION,) = get_provider_info()["connection-types"]

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("error:::airflow_provider_modelstudio"),
]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(engine="hashed", user="elastic", password=PASSWORD) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """An API server with its database; nothing that runs a task."""
    folder = tmp_path_factory.mktemp("airflow")
    with Sessions(folder) as sessions:
        made = PrivateAirflow(sessions, dags=folder, port=free_port(), settings={})
        made.migrate()
        sessions.start("api-server", [sys.executable, "-m", "airflow", "api-server"], made.environment)
        deadline = time.monotonic() + 240
        while True:
            sessions.check()
            try:
                made.get("/api/v2/monitor/health")
            except ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            else:
                break
        yield made


@pytest.fixture(scope="module")
def browser():
    driver = shutil.which("chromedriver")
    assert driver, "the driver of Chromium is not installed; on Debian: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,2400"):
        options.add_argument(argument)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def page(browser, airflow):
    browser.get(f"{airflow.url}/connections")
    return Page(browser)


class Page:
    """The list of connections, and the form in front of it."""

    def __init__(self, browser):
        self.browser = browser

    def wait(self, condition):
        return WebDriverWait(self.browser, 60).until(lambda _: condition())

    def all(self, path):
        return [element for element in self.browser.find_elements(By.XPATH, path) if element.is_displayed()]

    def one(self, path):
        return self.wait(lambda: self.all(path))[0]

    def click(self, path):
        self.one(path).click()

    def field(self, name):
        return self.one(f"//*[@role='dialog']//*[@name='{name}']")

    def fill(self, **values):
        for name, value in values.items():
            self.field(name).send_keys(value, Keys.TAB)

    def lines(self):
        return self.one("//*[@role='dialog']").text.splitlines()


def extras():
    """Each field's label, and the sentence below it."""
    for said in CONNECTION["conn-fields"].values():
        yield said["label"]
        yield said["description"]


def test_form(page, sandbox):
    """The form has our labels and help texts in our order, and both secrets are typed unseen."""
    page.click("//button[contains(., 'Add Connection')]")
    page.fill(connection_id="modelstudio_default")
    kind = page.one("//*[@role='dialog']//*[@role='combobox']")
    kind.click()
    kind.send_keys(CONNECTION["hook-name"], Keys.ENTER)
    page.field("host")
    standard = list(CONNECTION["ui-field-behaviour"]["relabeling"].values())
    assert [line for line in page.lines() if line in standard] == standard
    for name, hint in CONNECTION["ui-field-behaviour"]["placeholders"].items():
        assert page.field(name).get_attribute("placeholder") == hint
    assert page.field("password").get_attribute("type") == "password"
    assert not page.all("//*[@name='schema']")
    page.fill(host=sandbox.url, login="elastic", password=PASSWORD, port=sandbox.url.rpartition(":")[2])

    page.click("//*[@role='dialog']//button[.='Extra Fields']")
    key = page.field("element_model_studio_api_key")
    assert key.get_attribute("type") == "password"
    said = list(extras())
    assert [line for line in page.lines() if line in said] == said
    page.fill(element_model_studio_api_key=KEY)
    page.click("//*[@role='dialog']//button[contains(., 'Save')]")
    page.one("//tr[contains(., 'modelstudio_default')]")


def test_saved_secrets_come_back_masked(page):
    """Neither secret is in the page when the saved connection is opened again."""
    page.click("//tr[contains(., 'modelstudio_default')]//button[@aria-label='Edit Connection']")
    assert page.field("login").get_attribute("value") == "elastic"
    assert page.field("password").get_attribute("value") == "***"
    page.click("//*[@role='dialog']//button[.='Extra Fields']")
    assert page.field("element_model_studio_api_key").get_attribute("value") == "***"
    assert PASSWORD not in page.browser.page_source
    assert KEY not in page.browser.page_source
    page.click("//*[@role='dialog']//button[@aria-label='Close']")
    page.wait(lambda: not page.all("//*[@role='dialog']"))


def test_button(page, sandbox):
    """The test button shows a sentence of ours, and nothing was billed for it."""
    page.click("//tr[contains(., 'modelstudio_default')]//button[@aria-label='Test Connection']")
    toast = page.one("//*[@data-scope='toast'][contains(., 'Connect')]")
    assert "Connected to cluster modelstudio-sandbox, Elasticsearch 8.17.0: 5 inference endpoints." in toast.text
    assert not sandbox.bill
