"""Report that a run did not end well: a POST to the address in the environment variable RELEARN_WEBHOOK.

The address is no parameter, because anyone who has it can write there. The body is what Slack, Mattermost and others
accept: a JSON object with `text`; and `flow`, `run`, `state`, `message`, `url` for programs.
"""

import logging
import os
from typing import Any

import httpx
from prefect.settings import PREFECT_UI_URL

from relearn.errors import ParamsError
from relearn.runtime.text import escape_lines

log = logging.getLogger(__name__)

WEBHOOK = "RELEARN_WEBHOOK"
N_TRIES = 3
TIMEOUT_SECONDS = 10


def check_webhook() -> None:
    """Raise `ParamsError`, without the address, which is a secret, if nothing could be sent there."""
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ParamsError(
            where=WEBHOOK, wanted="an address such as https://host/path", got="something else", advice="unset or fix it"
        )


def quote_message(message: str) -> str:
    """Return a message as a block that chats show literally: names in it are no links, images or mentions.

    Slack wants three entities (https://docs.slack.dev/messaging/formatting-message-text), others a block of code.
    """
    shown = escape_lines(message).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")
    return f"```\n{shown}\n```"


def notify(flow: Any, flow_run: Any, state: Any) -> None:
    """Send how a run ended to the webhook, if there is one."""
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    url = f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}"
    body = {
        "text": f"{flow.name} {flow_run.name}: {state.name}\n{quote_message(str(state.message))}\n{url}",
        "flow": flow.name,
        "run": flow_run.name,
        "state": state.name,
        "message": state.message,
        "url": url,
    }
    client = httpx.Client(transport=httpx.HTTPTransport(retries=N_TRIES), timeout=TIMEOUT_SECONDS)
    try:
        with client:
            client.post(address, json=body).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # its text has the address, which is a secret
        log.warning("%s: the webhook did not accept the message: %s", WEBHOOK, type(error).__name__)
