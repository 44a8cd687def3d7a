"""Settings of a server: limits, and what is allowed."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Limits on what a request may ask for, and on what all requests together may hold.

    Attributes:
        body_bytes: bytes of a request.
        body_seconds: seconds in which a request's body must have arrived.
        image_pixels: pixels of one image.
        groups, edits: groups and edits of a request.
        candidates, sources: edits and source images of a group.
        instruction_characters: characters of an instruction.
        held_bytes: bytes of bodies and decoded images of all requests at a time; beyond, requests are told to wait;
            one that takes more by itself is refused.
        request_seconds: the longest deadline; that of requests that bring none.
    """

    body_bytes: int = 64 * 2**20
    body_seconds: float = 60.0
    image_pixels: int = 2**24
    groups: int = 64
    edits: int = 256
    candidates: int = 256
    sources: int = 8
    instruction_characters: int = 4000
    held_bytes: int = 2 * 2**30
    request_seconds: float = 600.0


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        token: what callers must show; None lets everybody in.
        limits: see `Limits`.
        allowed_urls: beginnings of addresses that images may be fetched from, each with host and path: "https://host/".
        reward_name: what UniRL calls this reward.
        max_edits, max_wait, max_queued: of the `Batcher`.
    """

    token: str | None = field(default=None, repr=False)
    limits: Limits = Limits()
    allowed_urls: tuple[str, ...] = ()
    reward_name: str = "editreward"
    max_edits: int = 64
    max_wait: float = 0.005
    max_queued: int = 1024
