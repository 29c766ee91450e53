"""Issue a token for the HTTP interface, for development: signed by a key pair of your own.

The configuration names the public keys under api.auth.jwks. If that is a file which is not there, this makes
a key pair: the public key goes into that file, the private one beside it, with the ending .pem and readable
by its owner only. In production tokens come from your issuer, and api.auth.jwks is its address.

Roles: viewer (status, metrics), auditor (also the audit log, conflicts, rows on hold), operator (also acts),
admin.

Examples:
  sync-worker token --role operator
  curl -H "Authorization: Bearer $(sync-worker token --role viewer)" http://127.0.0.1:3001/sync/status
"""

from __future__ import annotations

import argparse
import getpass
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.commands.common import OK, add_json, load_config, print_json
from replication.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

ROLES = ("viewer", "auditor", "operator", "admin")
BITS = 3072
_SNIPPET = "api: {auth: {jwks: keys.json, issuer: sync-worker-dev, audience: sync-worker}}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the token says."""
    parser.add_argument("--role", choices=ROLES, default="viewer", help="default: viewer")
    parser.add_argument("--subject", metavar="NAME", help="who it is for (default: the user who runs this)")
    parser.add_argument("--hours", type=float, default=8.0, metavar="N", help="valid for (default: 8)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a token."""
    config = load_config(args)
    auth = config.api.auth if config.api else None
    if auth is None:
        message = f"{args.config}: there is no api.auth, so no token is asked for"
        raise ConfigError(message, hint=f"write, for instance: {_SNIPPET}")
    if auth.is_remote:
        message = f"the keys are at {auth.jwks}, so tokens come from whoever keeps them"
        raise ConfigError(message, hint="for keys of your own name a file under api.auth.jwks")
    if not 0 < args.hours <= 24 * 366:
        message = f"--hours {args.hours}: a token is valid for more than no time and at most a year"
        raise ConfigError(message)
    import jwt

    private, kid = key_pair(Path(auth.jwks))
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": auth.issuer,
        "aud": auth.audience,
        "sub": args.subject or getpass.getuser(),
        "iat": now,
        "exp": now + int(args.hours * 3600),
        auth.roles_claim: [args.role],
    }
    token = jwt.encode(claims, private, algorithm="RS256", headers={"kid": kid})
    if args.json:
        print_json({"token": token, "claims": claims, "kid": kid})
    else:
        print(token)
    return OK


def key_pair(jwks: Path) -> tuple[RSAPrivateKey, str]:
    """The private key beside a file of public keys, and its ID; both are made if neither is there.

    Raises:
        ConfigError: the public keys are somebody else's.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    path = jwks.with_suffix(".pem")
    if not jwks.exists() and not path.exists():
        make_keys(jwks, path)
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), None)
        public = jwks.read_text(encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        message = f"{getattr(error, 'filename', None) or path}: no key pair of ours is there"
        hint = f"{jwks} and {path} belong together: remove what is left of them, or name another file"
        raise ConfigError(message, hint=hint) from error
    if not isinstance(private, RSAPrivateKey) or (kid := key_id(private)) not in public:
        message = f"{path} is not the key to {jwks}"
        raise ConfigError(message, hint="name another file under api.auth.jwks, and run this again")
    return private, kid


def make_keys(jwks: Path, path: Path) -> None:
    """Make a key pair."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    jwks.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    jwks.write_text(public_keys(private), encoding="utf-8")


def public_keys(private: RSAPrivateKey) -> str:
    """The JWKS of one key."""
    import json

    from jwt.algorithms import RSAAlgorithm

    entry = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    entry |= {"kid": key_id(private), "alg": "RS256", "use": "sig"}
    entry.pop("key_ops", None)
    return json.dumps({"keys": [entry]}, indent=2) + "\n"


def key_id(private: RSAPrivateKey) -> str:
    """A key's ID: a digest of the public key."""
    import hashlib

    from cryptography.hazmat.primitives import serialization

    text = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(text).hexdigest()[:16]
