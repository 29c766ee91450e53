"""Tokens: JWT signed with RS256 by a key of a JWKS. Nothing else is taken, whatever a token says."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import RSAAlgorithm

from cluster.config_api import AuthConfig
from replication.errors import ConfigError, NodeUnavailable

log = logging.getLogger(__name__)
ALGORITHM = "RS256"
LEAST_BITS = 2048
FRESH_SECONDS = 300.0
"""So long keys from an address are used without asking again."""
SOON_SECONDS = 10.0
"""An unknown key ID asks again, at most so often: anybody can make one up."""
FETCH_SECONDS, MOST_BYTES = 5.0, 1 << 20
REQUIRED = ("exp", "iss", "aud", "sub")


class TokenRefused(Exception):
    """A token that is not taken; the message says why, without anything of the token."""


class KeySet:
    """The public keys, read again when they may have changed.

    Args:
        place: a file, or an https address.
        clock: monotonic seconds.
    """

    def __init__(self, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, RSAPublicKey] = {}
        self._asked: float | None = None
        self._stamp: tuple[int, int] = (0, 0)

    def find(self, kid: str) -> RSAPublicKey | None:
        """The key of that ID.

        Raises:
            ConfigError, NodeUnavailable: the keys cannot be read, and none are known from before.
        """
        with self._lock:
            if "://" in self._place:
                self._follow_address(kid)
            else:
                self._follow_file()
            return self._keys.get(kid)

    def _follow_file(self) -> None:
        path = Path(self._place)
        try:
            found = path.stat()
            if (stamp := (found.st_mtime_ns, found.st_size)) != self._stamp:
                self._keys = read_keys(path.read_bytes())
                self._stamp = stamp
        except OSError as error:
            message = f"api.auth.jwks: {self._place}: {error.strerror or error}"
            hint = "'sync-worker token' makes keys for development; else put your issuer's JWKS there"
            raise ConfigError(message, hint=hint) from error

    def _follow_address(self, kid: str) -> None:
        age = None if self._asked is None else self._clock() - self._asked
        if age is not None and age < (FRESH_SECONDS if kid in self._keys else SOON_SECONDS):
            return
        self._asked = self._clock()
        try:
            with urlopen(self._place, timeout=FETCH_SECONDS) as answer:
                self._keys = read_keys(answer.read(MOST_BYTES))
        except (OSError, ConfigError) as error:
            log.warning("keys_not_fetched", extra={"jwks": self._place, "error": str(error)})
            if not self._keys:
                message = f"the keys at {self._place} cannot be fetched"
                raise NodeUnavailable(message) from error


def read_keys(text: bytes) -> dict[str, RSAPublicKey]:
    """The keys of a JWKS that RS256 can be checked with, by their IDs; others are passed over.

    Raises:
        ConfigError: it is no JWKS.
    """
    try:
        entries = json.loads(text)["keys"]
        found = {str(e["kid"]): _key(e) for e in entries if _fits(e)}
    except (ValueError, KeyError, TypeError, jwt.InvalidKeyError) as error:
        message = "api.auth.jwks: this is no JWKS"
        raise ConfigError(message, hint='it is JSON with "keys", each with kty, kid, n and e') from error
    return {kid: key for kid, key in found.items() if key.key_size >= LEAST_BITS}


def _fits(entry: Mapping[str, Any]) -> bool:
    fits = entry["kty"] == "RSA" and "kid" in entry and "d" not in entry
    return bool(fits and entry.get("alg", ALGORITHM) == ALGORITHM and entry.get("use", "sig") == "sig")


def _key(entry: Mapping[str, Any]) -> RSAPublicKey:
    key = RSAAlgorithm.from_jwk(dict(entry))
    assert isinstance(key, RSAPublicKey)
    return key


class Verifier:
    """Checks tokens.

    Args:
        auth: whose tokens are taken.
        keys: the public keys.
    """

    def __init__(self, auth: AuthConfig, keys: KeySet | None = None) -> None:
        self._auth = auth
        self._keys = keys or KeySet(auth.jwks)

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says.

        Raises:
            TokenRefused: it is not taken.
            ConfigError, NodeUnavailable: the keys cannot be read.
        """
        auth = self._auth
        try:
            head = jwt.get_unverified_header(token)
            if head.get("alg") != ALGORITHM:  # before any key is looked at
                message = "only tokens signed with RS256 are taken"
                raise TokenRefused(message)
            kid = head.get("kid")
            key = self._keys.find(kid) if isinstance(kid, str) else None
            if key is None:
                message = "the token's kid names none of the keys"
                raise TokenRefused(message)
            found: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=auth.audience,
                issuer=auth.issuer,
                leeway=auth.leeway_seconds,
                options={"require": list(REQUIRED)},
            )
        except jwt.ExpiredSignatureError as error:
            message = "the token has expired"
            raise TokenRefused(message) from error
        except jwt.MissingRequiredClaimError as error:
            message = f"the token lacks {error.claim}"
            raise TokenRefused(message) from error
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError) as error:
            message = "the token is of another issuer, or for another audience"
            raise TokenRefused(message) from error
        except (jwt.PyJWTError, ValueError) as error:
            message = "this is no valid token"
            raise TokenRefused(message) from error
        return found

    def roles(self, claims: Mapping[str, Any]) -> list[str]:
        """The roles that a token names."""
        named = claims.get(self._auth.roles_claim, [])
        return (
            named.split()
            if isinstance(named, str)
            else [r for r in named if isinstance(r, str)]
            if isinstance(named, list)
            else []
        )
