"""What every provider promises in bad networks: to open, ping, close, and tell no secret."""

import asyncio
import traceback
from secrets import token_hex
from urllib.parse import urlsplit

from grelmicro.errors import OutOfContextError
from grelmicro.providers import Provider
from grelmicro.testing.conformance._faults import (
    FAULTS,
    away,
    behind,
    faults_of,
    in_time,
    works_again,
)
from grelmicro.testing.conformance._kit import BrokenPromiseError, clause, promise
from grelmicro.testing.conformance._subject import Capability, Subject

_PINGS = (*FAULTS, Capability.PING)


async def _ping(provider: Provider, name: str = "") -> None:
    seconds = await provider.ping()
    promise(seconds >= 0, f"ping() returned {seconds!r}, and not the seconds that it took")


async def _error_of_a_ping(provider: Provider) -> Exception:
    try:
        await in_time(_ping(provider))
    except BrokenPromiseError:
        raise
    except Exception as error:
        return error
    raise BrokenPromiseError("a ping was answered without a server")


@clause("provider.fault.error", needs=_PINGS, closed=True, seconds=60.0, slow=True)
async def ping_error(subject: Subject) -> None:
    """A ping without a server raises an error that says something, whose type is the driver's.

    Readiness checks show it to whoever is called at night. Let the driver's error pass, or chain
    one of your own to it. An open provider without a server is not a closed one, so it is no
    OutOfContextError.
    """
    async with behind(subject, "provider") as (proxy, provider):
        await in_time(_ping(provider))
        away(proxy)
        for _ in range(2):  # the first may only find out that its connection is lost
            error = await _error_of_a_ping(provider)
        promise(
            not isinstance(error, OutOfContextError | NotImplementedError),
            f"a ping without a server raised {error!r}",
        )
        promise(str(error).strip(), f"a ping without a server raised a silent {error!r}")


@clause("provider.fault.opens", needs=_PINGS, closed=True, seconds=90.0, slow=True)
async def opens(subject: Subject) -> None:
    """Opened without a server it opens or fails in time, and what has opened works later.

    Services start in any order. Connect with the first operation, or bound the attempt. Leave
    nothing behind when opening fails.
    """
    async with behind(subject, "provider") as (proxy, _):
        away(proxy)
        assert subject.at is not None
        provider = subject.at(proxy.url_for(subject.endpoint))
        try:
            await in_time(provider.__aenter__())
        except BrokenPromiseError:
            raise
        except Exception:
            proxy.heal()
            await in_time(provider.__aenter__())
        else:
            await _error_of_a_ping(provider)
            proxy.heal()
        try:
            await works_again(_ping, provider)
        finally:
            await in_time(provider.__aexit__(None, None, None))


@clause("provider.fault.closes", needs=_PINGS, closed=True, seconds=90.0, slow=True)
async def closes(subject: Subject) -> None:
    """It closes in time while its server does not answer, and whoever waits for that is told.

    A service that cannot be shut down is killed, with all that it has not finished. Take no leave
    of a server without a timeout. Fail what is under way.
    """
    async with behind(subject, "provider") as (proxy, _):
        assert subject.at is not None
        provider = subject.at(proxy.url_for(subject.endpoint))
        await provider.__aenter__()
        await in_time(_ping(provider))
        proxy.stall()
        pings = [asyncio.ensure_future(_ping(provider)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await in_time(provider.__aexit__(None, None, None))
        await in_time(asyncio.wait(pings))
        for ping in pings:
            promise(ping.cancelled() or ping.exception(), "a ping was answered by a stalled server")


@clause(
    "provider.fault.masked",
    needs=(*_PINGS, Capability.CREDENTIALS),
    closed=True,
    seconds=60.0,
    slow=True,
)
async def masked(subject: Subject) -> None:
    """No error of a server that is away, or refuses a login, shows the password.

    Errors go to logs. Do not put a URL into a message, or mask it first; raise nothing from an
    error that shows it.
    """
    secret = token_hex(8)
    async with behind(subject, "provider") as (proxy, _):
        url = urlsplit(proxy.url_for(subject.endpoint))
        url = url._replace(netloc=f"user:{secret}@{proxy.host}:{proxy.port}")
        for fault in (away, lambda proxy: proxy.heal()):
            fault(proxy)
            shown = await _shown_by(subject, url.geturl())
            promise(secret not in shown, f"an error shows it: {shown.replace(secret, '<it>')}")


async def _shown_by(subject: Subject, url: str) -> str:
    """What a log would have of opening and a ping, if they fail."""

    async def try_it() -> None:
        assert subject.at is not None
        async with subject.at(url) as provider:
            await _ping(provider)

    try:
        await in_time(try_it())
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return ""


faults_of("provider", _ping, _PINGS)
