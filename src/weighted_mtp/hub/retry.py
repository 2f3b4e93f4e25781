"""What can go wrong between here and the hub, and which errors a retry may fix."""

from time import sleep
from typing import final

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from weighted_mtp.progress import say

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt; there are no more attempts than these
LONGEST_WAIT = 300.0  # seconds that we wait because the hub asks for it: the window of its rate limits


class HubError(Exception):
    """What went wrong, in words that follow the repository's name."""


@final
class Patience:
    """A bounded number of bounded waits."""

    def __init__(self) -> None:
        self.left = list(WAITS)

    def wait(self, error: Exception) -> None:
        """Wait before another attempt, as long as the hub asks if it does. Raises `error` if another makes no sense."""
        asked = asked_wait(error)
        if not self.left or not may_pass(error) or asked > LONGEST_WAIT:
            raise error
        if asked:
            say(f"the hub asks to wait: {asked:.0f} s")
        sleep(max(self.left.pop(0), asked))


def asked_wait(error: Exception) -> float:
    """Seconds that the hub asks to wait: what is left of its rate limit's window, or Retry-After."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    limit = parse_ratelimit_headers(headers)
    if error.response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0  # its clock and ours differ
    seconds = headers.get("Retry-After", "").strip()
    return float(seconds) if seconds.isdigit() else 0.0


def may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, httpx2.TimeoutException | httpx2.NetworkError | httpx2.RemoteProtocolError | HubError)
