"""Who may ask: nobody in particular, a user with a password, or the bearer of an API key. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field

from airflow_provider_modelstudio.sandbox.refusals import Refusal, unauthenticated

__all__ = ["Credentials"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What the server accepts; everything when nothing is set.

    ``api_key``: either the encoded form that goes into the header, or ``id:key``.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password come together")

    def refusal(self, authorization: str | None, target: str) -> Refusal | None:
        """Why a request is not let in; ``None`` when it is.

        ``authorization``: the header. ``target``: path and query, which the refusal names.
        """
        if self.user is None and self.api_key is None:
            return None
        scheme, _, secret = (authorization or "").strip().partition(" ")
        secret = secret.strip()
        match scheme.lower():
            case "basic":
                user, _, password = _decoded(secret).partition(":")
                if self.user is not None and _same(user, self.user) and _same(password, self.password or ""):
                    return None
                return unauthenticated(f"unable to authenticate user [{user}] for REST request [{target}]")
            case "apikey":
                if self.api_key is not None and (_same(secret, self.api_key) or _same(_decoded(secret), self.api_key)):
                    return None
                return unauthenticated(
                    "unable to authenticate with provided credentials and anonymous access is not allowed for this request"
                )
            case _:
                return unauthenticated(f"missing authentication credentials for REST request [{target}]")


def _decoded(secret: str) -> str:
    try:
        return base64.b64decode(secret, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
