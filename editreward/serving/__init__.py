"""Scoring for many callers at once: a server, its client, and a scorer that threads share."""

from editreward.client import AsyncClient, Client, NoReward, ServerError

__all__ = ["AsyncClient", "Client", "NoReward", "ServerError"]
