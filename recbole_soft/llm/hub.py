"""Is the model hub there? Asked before its client is, which tries for minutes; cached models need no hub."""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.error
import urllib.request

HUB_PATIENCE_SECONDS = 10.0
FIRST_SERVER_ERROR = 500


def hub_answers() -> bool:
    """Whether the model hub can be reached at all."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []

    def ask() -> None:
        # The address is the hub client's own (HF_ENDPOINT), and nothing of the answer is used.
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310
        try:
            urllib.request.urlopen(request, timeout=HUB_PATIENCE_SECONDS).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= FIRST_SERVER_ERROR:  # the hub's client would try again for a minute
                return
        except (OSError, ValueError, http.client.HTTPException) as error:
            # A certificate that Python does not know is an answer, too: the hub's client brings its own list.
            if not isinstance(getattr(error, "reason", None), ssl.SSLError):
                return
        answers.append(True)

    # The timeout above holds for each address of the hub and not for the look-up of its name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_PATIENCE_SECONDS)
    return bool(answers)
