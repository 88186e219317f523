import pytest
from flows.notify import check_webhook, notify, quote_message

from relearn.errors import ParamsError


@pytest.mark.parametrize(
    "address", ["secret", "http://", "http://secret:port/", "ftp://secret/x", "http://secret\n/", "//secret"]
)
def test_a_broken_webhook_is_told_without_its_address(monkeypatch, caplog, address):
    class Named:
        id, name, message = "1", "x", "why"

    monkeypatch.setenv("RELEARN_WEBHOOK", address)
    with pytest.raises(
        ParamsError, match=r"^RELEARN_WEBHOOK: wanted an address such as https://host/path, got"
    ) as caught:
        check_webhook()
    notify(Named, Named, Named)
    assert "RELEARN_WEBHOOK: the webhook did not accept the message: " in caplog.text
    assert "secret" not in caplog.text + str(caught.value)
    monkeypatch.setenv("RELEARN_WEBHOOK", "https://host/path")
    check_webhook()


def test_webhook_is_told_once_and_its_address_to_nobody(webhook, monkeypatch, caplog):
    class Named:
        id, name, message = "1", "x", "why"

    address, told = webhook
    monkeypatch.delenv("RELEARN_WEBHOOK", raising=False)
    notify(Named, Named, Named)
    monkeypatch.setenv("RELEARN_WEBHOOK", address)
    notify(Named, Named, Named)
    (body,) = told
    assert body["text"].startswith("x x: x\n```\nwhy\n```\n")
    monkeypatch.setenv("RELEARN_WEBHOOK", "http://127.0.0.1:9/secret")
    notify(Named, Named, Named)
    assert "the webhook did not accept the message: ConnectError" in caplog.text
    assert "secret" not in caplog.text


def test_messages_are_not_live_in_chats():
    told = quote_message("a <!channel> & ![](http://h/x.png)\n```\n\x1b[2J")
    assert told == "```\na &lt;!channel&gt; &amp; ![](http://h/x.png)\n'''\n\\u001b[2J\n```"
