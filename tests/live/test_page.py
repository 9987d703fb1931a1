"""The status page of a running service, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.live.process import PATIENCE, Settings, serving
from tests.support.smtp_client import RawClient

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="apt-get install chromium chromium-driver"
    ),
    pytest.mark.timeout(180),
]

QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
# Quotes are how such signs come into an address; qmail-smtpd takes them away.
HOSTILE = "<script>document.title='owned'</script>@example.test"
QUOTED = b'"' + HOSTILE.replace("@", '"@').encode()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for word in (*QUIET, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def text_of(browser: webdriver.Chrome, selector: str) -> str:
    """By one script: the page may replace the element at any moment."""
    found = "return document.querySelector(arguments[0])?.innerText ?? ''"
    return str(browser.execute_script(found, selector))


def wait_for(browser: webdriver.Chrome, selector: str, text: str) -> None:
    waiting = WebDriverWait(browser, PATIENCE, 0.1)
    waiting.until(lambda b: text in text_of(b, selector))


async def guess(port: int, *recipients: bytes) -> None:
    async with await RawClient.connect(port) as client:
        await client.reply()
        await client.command(b"HELO <b>c</b>")
        await client.command(b"MAIL FROM:<>")
        for recipient in recipients:
            await client.command(b"RCPT TO:<%s>" % recipient)


async def test_it_is_alive_and_holds_what_strangers_send(
    browser: webdriver.Chrome, tmp_path: Path, settings: Settings
) -> None:
    async with serving(tmp_path, settings) as served:
        await guess(served.port, b"nobody@example.test")
        browser.get(served.status)
        assert "ready" in text_of(browser, "header")
        assert "nobody@example.test" in text_of(browser, "#live")
        # Alive: what comes now is shown without a reload; and it is text.
        browser.execute_script("window.same = true")
        await guess(served.port, QUOTED)
        wait_for(browser, "#live", HOSTILE)
        assert browser.execute_script("return window.same") is True
        assert browser.title == "qmail-backstop"
        explained(browser)
        severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
        assert severe == []
    wait_for(browser, ".note", "the service does not answer")


def explained(browser: webdriver.Chrome) -> None:
    """The box, in place."""
    box = browser.find_element(By.NAME, "address")
    box.send_keys("nobody@example.test")
    box.submit()
    wait_for(browser, "#explained", "reject")
    assert "550 5.1.1" in text_of(browser, "#explained")
    assert browser.execute_script("return location.pathname") == "/"


@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
async def test_it_fits(
    browser: webdriver.Chrome, tmp_path: Path, settings: Settings, width: int
) -> None:
    long = b"x" * 200 + b"@example.test"
    async with serving(tmp_path, settings) as served:
        await guess(served.port, long, *(b"u%d@example.test" % n for n in range(9)))
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True},
        )
        browser.get(served.status)
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= width
        # It leaves the others their room: no address of a client is broken up.
        client = browser.find_element(By.CSS_SELECTOR, ".last td:nth-child(2)")
        assert client.text == "127.0.0.1"
        assert client.size["height"] < 40
        assert "@example.test" in text_of(browser, ".last")
        browser.get(f"{served.status}explain?address={long.decode()}")
        assert browser.execute_script(wide) <= width


async def test_it_is_useful_without_scripts(
    browser: webdriver.Chrome, tmp_path: Path, settings: Settings
) -> None:
    async with serving(tmp_path, settings) as served:
        off = {"value": True}
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", off)
        browser.get(served.status)
        box = browser.find_element(By.NAME, "address")
        box.send_keys("nobody@example.test")
        browser.find_element(By.TAG_NAME, "button").click()
        wait_for(browser, "#explained", "550 5.1.1")
        assert "/explain?" in browser.current_url
