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
from urllib.parse import urljoin, urlsplit

import requests
import tenacity
import urllib3.exceptions
from requests.utils import get_auth_from_url, requote_uri

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
_MOST_REDIRECTS = 10
_CODINGS = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}
_PIECE = 1 << 16
_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


@dataclass(frozen=True)
class Retry:
    """How long to go on with a server that fails. All waits and time-outs are seconds.

    `attempts`: failures in a row without `least_gain` new bytes. `unreachable_attempts`: the
    same while nothing has come yet and there is no server to ask; their waits are longer, 6 s.
    `longest_ask`: the most that a server's Retry-After is obeyed. `answer_within`: for all of a
    small text, and for redirects. `least_rate`: bytes per second, on average over `rate_window`.
    """

    attempts: int = 8
    unreachable_attempts: int = 3
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_ask: float = 120.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    answer_within: float = 30.0
    least_gain: int = 1 << 16
    least_rate: int = 1 << 10
    rate_window: float = 60.0


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

    `reached` tells how far the step ever got: what gets on by `least_gain` is given new attempts.
    `kept` tells whether another run could go on from there.
    """
    failures = 0
    first = counted_from = reached()

    def counted() -> _T:
        nonlocal failures, counted_from
        try:
            return step()
        except TransientError:
            failures += 1
            if reached() >= counted_from + retry.least_gain:
                failures, counted_from = 1, reached()
            raise

    def offline(state: tenacity.RetryCallState) -> bool:
        return reached() == first and isinstance(_failure(state), UnreachableError)

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

    BrokenError and DownloadError for what fails here. The body is read with `body`.
    """
    with _Session() as session:
        with _explaining(url, retry=retry):
            answer = _followed(session, url, headers={**_HEADERS, **headers}, retry=retry)
        with answer:
            yield answer


def body(answer: requests.Response, *, url: str, retry: Retry) -> Iterator[bytes]:
    """Give the body as it is stored there, in pieces as they come.

    BrokenError when it breaks off or comes too slowly.
    """
    waited, came = 0.0, 0
    while True:
        begin = time.monotonic()
        with _explaining(url, retry=retry):
            # Not stream(): that waits for a whole piece, for hours if a byte comes now and then.
            data = answer.raw.read1(_PIECE, decode_content=False)
        if not data:
            return
        waited += time.monotonic() - begin
        came += len(data)
        if waited >= retry.rate_window:
            if came < retry.least_rate * waited:
                raise BrokenError(f"only {came} bytes came in {waited:.0f} s")
            waited, came = 0.0, 0
        yield data


def check_status(answer: requests.Response, *, url: str) -> None:
    """Pass 200 and 206. AbsentError, TransientError or DownloadError for the others."""
    status = answer.status_code
    if status in (200, 206):
        _refuse_coding(answer, url=url)
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
        deadline = time.monotonic() + retry.answer_within
        with opened(url, headers={}, retry=retry) as answer:
            check_status(answer, url=url)
            data = b""
            for piece in body(answer, url=url, retry=retry):
                data += piece
                if len(data) >= limit:
                    break
                if time.monotonic() > deadline:
                    raise BrokenError(f"not complete within {retry.answer_within:.0f} s")
        return data[:limit].decode(errors="replace")

    return persist(step, url=url, retry=retry, progress=progress)


class _Session(requests.Session):
    """Follows no redirect: to do so requests reads the whole body before it, of whatever size."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say that there is none."""


def _followed(
    session: requests.Session, url: str, *, headers: Mapping[str, str], retry: Retry
) -> requests.Response:
    """Give the answer at the end of the redirects; the bodies on the way are not read."""
    deadline = time.monotonic() + retry.answer_within
    times = (retry.connect_timeout, retry.read_timeout)
    here, auth = url, None
    for _ in range(_MOST_REDIRECTS + 1):
        answer = session.get(here, headers=headers, stream=True, timeout=times, auth=auth)
        if not answer.is_redirect:
            return answer
        answer.close()
        following = _target(here, answer.headers["Location"], url=url)
        auth = _login(session, here, following, auth=auth)
        here = following
        if time.monotonic() > deadline:
            raise BrokenError(f"redirected for more than {retry.answer_within:.0f} s")
    raise DownloadError(
        f"{weburl.shown(url)}: the server redirects for ever",
        hint="correct the image's address, or give a path",
    )


def _target(here: str, location: str, *, url: str) -> str:
    """Give the address that a Location names, if it may be asked."""
    try:
        # http.client reads headers as Latin-1; what is sent in them is UTF-8.
        target = urljoin(here, requote_uri(location.encode("latin-1").decode()))
        scheme = urlsplit(target).scheme
    except ValueError:
        what = "the server redirects to what is not an address"
        raise DownloadError(
            f"{weburl.shown(url)}: {what}", hint="correct the image's address, or give a path"
        ) from None
    leads = f"{weburl.shown(url)} leads to {weburl.shown(target)}"
    if scheme not in ("http", "https"):
        raise DownloadError(
            f"{leads}, which is not an http or https address",
            hint="correct the image's address, or give a path",
        )
    if scheme == "http" and urlsplit(here).scheme == "https":
        raise DownloadError(
            f"{leads}, which is not encrypted",
            hint="fetch the image by other means, check its hash and give its path",
        )
    return target


def _login(
    session: requests.Session, here: str, following: str, *, auth: tuple[str, str] | None
) -> tuple[str, str] | None:
    """Give the user and password for the next address: the same host's are kept, no other's."""
    other: bool = session.should_strip_auth(here, following)  # type: ignore[no-untyped-call]
    if other or any(get_auth_from_url(following)):
        return None
    own = get_auth_from_url(here)
    return own if any(own) else auth


def _refuse_coding(answer: requests.Response, *, url: str) -> None:
    """Refuse what was packed for the way: its hash is not the published file's.

    Some servers call a stored .gz that; it is what it should be.
    """
    coding = answer.headers.get("Content-Encoding", "").strip().lower()
    suffix = _CODINGS.get(coding.removeprefix("x-"))
    if coding in ("", "identity") or (suffix and weburl.file_name(url).lower().endswith(suffix)):
        return
    raise DownloadError(
        f"{weburl.shown(url)}: the server sends it packed ({coding[:40]!r}), which was not asked",
        hint="fetch the image by other means, check its hash and give its path",
    )


@contextmanager
def _explaining(url: str, *, retry: Retry) -> Iterator[None]:
    """Turn what requests, urllib3 and http.client let out into DownloadError or BrokenError."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _explained(error, url=url, retry=retry) from None
    except ValueError:  # of int(), of bytes that are no text, of addresses that cannot be
        raise BrokenError("the server's answer cannot be understood") from None


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
    return DownloadError(
        f"{weburl.shown(url)}: not an address that can be asked ({type(error).__name__})",
        hint="correct the image's address, or give a path",
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
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "(an unknown status)"
