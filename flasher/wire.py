"""HTTP requests that are worth repeating, repeated; the others explained. Shell.

No message carries more of an address than flasher.weburl.shown lets through.
"""

from __future__ import annotations

import email.utils
import errno
import http
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import requests
import tenacity
import urllib3.exceptions

from flasher import __version__, weburl
from flasher.errors import DownloadError
from flasher.model import Progress

_T = TypeVar("_T")

_GIVEN_UP = "check the connection, then run the same command again"
_HEADERS = {
    "User-Agent": f"piflash/{__version__}",
    # The bytes as they are stored there: their hash is what counts.
    "Accept-Encoding": "identity",
}
_WORTH_REPEATING = (408, 429)
_ABSENT = (403, 404, 410)
_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


@dataclass(frozen=True)
class Retry:
    """How long to go on with a server that fails. All waits and time-outs are seconds.

    `attempts`: failures in a row without one new byte. `unreachable_attempts`: the same while
    nothing has come yet and there is no server to ask; their waits are longer, 6 s in all.
    `longest_ask`: the most that a server's Retry-After is obeyed.
    """

    attempts: int = 8
    unreachable_attempts: int = 3
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_ask: float = 120.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0


class TransientError(Exception):
    """Something that may go away by itself. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, *, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class BrokenError(TransientError):
    """The connection failed, or broke off."""


class UnreachableError(BrokenError):
    """There is no such host here, or nobody listens there: this machine may be offline."""


class AbsentError(DownloadError):
    """The server says that there is no such thing, or not for us."""


def persist(
    step: Callable[[], _T],
    *,
    url: str,
    retry: Retry,
    progress: Progress,
    reached: Callable[[], int] = lambda: 0,
    kept: Callable[[], bool] = lambda: False,
) -> _T:
    """Repeat the step while it raises TransientError. DownloadError when it is time to give up.

    `reached` tells how far the step ever got: whatever gets on is given new attempts. `kept` tells
    whether another run could go on from there.
    """
    failures = 0
    first = best = reached()

    def counted() -> _T:
        nonlocal failures, best
        try:
            return step()
        except TransientError:
            failures = 1 if reached() > best else failures + 1
            best = max(best, reached())
            raise

    def offline(state: tenacity.RetryCallState) -> bool:
        return best == first and isinstance(_failure(state), UnreachableError)

    def limit(state: tenacity.RetryCallState) -> int:
        few = min(retry.attempts, retry.unreachable_attempts)
        return few if offline(state) else retry.attempts

    def wait(state: tenacity.RetryCallState) -> float:
        doublings = failures + 1 if offline(state) else failures - 1
        planned: float = min(retry.first_wait * 2**doublings, retry.longest_wait)
        return max(planned, _failure(state).after)

    def tell(state: tenacity.RetryCallState) -> None:
        progress.say(
            f"{weburl.shown(url)}: {_failure(state).reason}; attempt {failures + 1} of "
            f"{limit(state)} in {wait(state):.1f} s"
        )

    repeated = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=lambda state: failures >= limit(state) or _failure(state).after > retry.longest_ask,
        wait=wait,
        before_sleep=tell,
        reraise=True,
    )
    try:
        return repeated(counted)
    except TransientError as error:
        asked = f" and asks to wait {error.after:.0f} s" if error.after else ""
        raise DownloadError(
            f"{weburl.shown(url)}: {error.reason}{asked}; given up after {failures} attempts",
            hint=f"{_GIVEN_UP}: what has come is kept" if kept() else _GIVEN_UP,
        ) from None


def _failure(state: tenacity.RetryCallState) -> TransientError:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, TransientError) else TransientError("")


@contextmanager
def opened(url: str, *, headers: Mapping[str, str], retry: Retry) -> Iterator[requests.Response]:
    """Ask for an address and give the answer, whatever its status, its body not yet read.

    BrokenError and DownloadError for what fails here and while the body is read.
    """
    times = (retry.connect_timeout, retry.read_timeout)
    try:
        with (
            requests.Session() as session,
            session.get(url, headers={**_HEADERS, **headers}, stream=True, timeout=times) as answer,
        ):
            _refuse_downgrade(url, answer)
            yield answer
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _explained(error, url=url, retry=retry) from None


def check_status(answer: requests.Response, *, url: str) -> None:
    """Pass 200 and 206. AbsentError, TransientError or DownloadError for the others."""
    status = answer.status_code
    if status in (200, 206):
        return
    words = f"the server answers {status} {_phrase(status)}"
    if status >= 500 or status in _WORTH_REPEATING:
        raise TransientError(words, after=_retry_after(answer.headers.get("Retry-After")))
    if status in _ABSENT:
        raise AbsentError(
            f"{weburl.shown(url)}: {words}",
            hint="correct the image's address, or fetch it by other means and give its path",
        )
    raise DownloadError(
        f"{weburl.shown(url)}: {words}",
        hint="open the address in a browser to see what it wants, or give the image's path",
    )


def read_text(url: str, *, limit: int, retry: Retry, progress: Progress) -> str:
    """Give a small text; what is behind `limit` bytes is left. AbsentError if there is none."""

    def step() -> str:
        with opened(url, headers={}, retry=retry) as answer:
            check_status(answer, url=url)
            data = b""
            for chunk in answer.raw.stream(limit, decode_content=False):
                data += chunk
                if len(data) >= limit:
                    break
        return data[:limit].decode(errors="replace")

    return persist(step, url=url, retry=retry, progress=progress)


def _refuse_downgrade(url: str, answer: requests.Response) -> None:
    final = answer.url or url
    if url.lower().startswith("https:") and not final.lower().startswith("https:"):
        raise DownloadError(
            f"{weburl.shown(url)} leads to {weburl.shown(final)}, which is not encrypted",
            hint="fetch the image by other means, check its hash and give its path",
        )


def _explained(error: Exception, *, url: str, retry: Retry) -> Exception:
    """Say what failed, without the address that these exceptions carry in their text."""
    chain = list(_chain(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
        return DownloadError(
            f"{weburl.shown(url)}: the server's certificate cannot be verified",
            hint="check this machine's clock; behind a company's proxy set REQUESTS_CA_BUNDLE to "
            "its certificate file",
        )
    passing = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.ProtocolError,
        urllib3.exceptions.TimeoutError,
        urllib3.exceptions.SSLError,
    )
    if isinstance(error, passing):
        unreachable = any(_is_unreachable(cause) for cause in chain)
        failure = UnreachableError if unreachable else BrokenError
        return failure(_reason(chain, retry=retry))
    what = {"TooManyRedirects": "the server redirects for ever"}.get(
        type(error).__name__, f"not an address that can be asked ({type(error).__name__})"
    )
    return DownloadError(
        f"{weburl.shown(url)}: {what}", hint="correct the image's address, or give a path"
    )


def _is_unreachable(cause: BaseException) -> bool:
    return isinstance(cause, socket.gaierror) or (
        isinstance(cause, OSError) and cause.errno in _UNREACHABLE
    )


def _reason(chain: list[BaseException], *, retry: Retry) -> str:
    # First, for urllib3 also counts a refused connection as a ConnectTimeoutError.
    for error in chain:
        if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
            return error.strerror[:1].lower() + error.strerror[1:]
    for error in chain:
        if isinstance(error, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError):
            return f"no connection within {retry.connect_timeout:.0f} s"
        if isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
            return f"nothing came for {retry.read_timeout:.0f} s"
    if any(isinstance(error, ssl.SSLError | urllib3.exceptions.SSLError) for error in chain):
        return "the encrypted connection failed"
    return "the connection broke"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and what it wraps: as a cause, a reason or an argument."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        this = waiting.pop(0)
        if id(this) in seen:
            continue
        seen.add(id(this))
        yield this
        inner = (getattr(this, "reason", None), *this.args, this.__cause__, this.__context__)
        waiting += (item for item in inner if isinstance(item, BaseException))


def _retry_after(value: str | None) -> float:
    """Read Retry-After: seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "(an unknown status)"
