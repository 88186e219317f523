"""Tell somebody that a run did not end well: a POST to the address in the environment variable RELEARN_WEBHOOK.

The address is no parameter, for whoever has it can write there. The body is what Slack, Mattermost and others take:
a JSON object with `text`; and `flow`, `run`, `state`, `message`, `url` for programs.
"""

import logging
import os
from typing import Any

import httpx
from prefect.settings import PREFECT_UI_URL

log = logging.getLogger(__name__)

WEBHOOK = "RELEARN_WEBHOOK"
N_TRIES = 3
TIMEOUT_SECONDS = 10


def notify(flow: Any, flow_run: Any, state: Any) -> None:
    """Tell how a run ended, if there is somebody to tell."""
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    url = f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}"
    body = {
        "text": f"{flow.name} {flow_run.name}: {state.name}: {state.message}\n{url}",
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
    except httpx.HTTPError as error:  # its text has the address, which is a secret
        log.warning("%s: the webhook could not be told: %s", WEBHOOK, type(error).__name__)
