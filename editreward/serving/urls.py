"""Images by address: none is fetched unless the operator allowed its beginning."""

import ssl
import urllib.parse
from collections.abc import Sequence
from functools import cached_property

import httpx

SECONDS = 20.0


def check_prefix(prefix: str) -> str:
    """A beginning of addresses that may be allowed.

    Raises:
        ValueError: it does not end the host with a slash, so that other hosts begin with it, too.
    """
    parts = urllib.parse.urlsplit(prefix)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.startswith("/"):
        raise ValueError(f"An allowed address looks like https://host/folder/, not {prefix!r}.")
    return prefix


class Fetcher:
    """Fetches images from allowed addresses. Redirects are not followed: they could lead anywhere.

    Args:
        prefixes: beginnings of addresses.
        max_bytes: of one image.
    """

    def __init__(self, prefixes: Sequence[str], max_bytes: int) -> None:
        self._prefixes, self._max_bytes = tuple(map(check_prefix, prefixes)), max_bytes

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """Made once: reading all certificates takes 20 ms, in which the event loop stands still."""
        return httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str) -> bytes:
        """The content of an address.

        Raises:
            ValueError: it is not allowed, cannot be fetched, or is too long.
        """
        path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
        if not url.startswith(self._prefixes or (" ",)) or ".." in path.split("/") or "\\" in path:
            raise ValueError("addresses are fetched only where the server's operator allowed them; send the image")
        try:
            async with (
                httpx.AsyncClient(
                    verify=self._context, trust_env=False, timeout=SECONDS, follow_redirects=False
                ) as client,
                client.stream("GET", url) as response,
            ):
                if response.status_code != 200:
                    raise ValueError(f"the address answered {response.status_code}")
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > self._max_bytes:
                        raise ValueError(f"the address sends more than {self._max_bytes:,} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ValueError(f"the address cannot be fetched ({type(error).__name__})") from error
        return bytes(content)
