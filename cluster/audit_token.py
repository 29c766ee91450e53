"""The audit log's keys in a hardware token, through PKCS#11: the key that signs heads, and the master key.

Neither key leaves the token. `python-pkcs11` is needed, and is imported only here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from replication.audit.heads import SignerUnavailable
from replication.errors import ConfigError, NodeUnavailable

_POINT_BYTES = 32
_NONCE_BYTES = 12
_TAG_BITS = 128


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """Where the token is, and the labels of the keys in it.

    Attributes:
        module: the token's PKCS#11 library.
        token: the token's label.
        pin: its user PIN.
        signing_key: label of the Ed25519 key pair that signs heads; empty for none.
        key: label of the AES-256 master key; empty for none.
    """

    module: str
    token: str
    pin: str = field(repr=False)
    signing_key: str = ""
    key: str = ""


class TokenSigner:
    """Signs heads on the token; see `replication.audit.heads.Signer`.

    Args:
        config: the token.

    Raises:
        ConfigError: there is no such token or key.
    """

    def __init__(self, config: TokenConfig) -> None:
        import_library()
        self._config = config
        self._open()

    def _open(self) -> None:
        import pkcs11

        label = self._config.signing_key
        session = _session(self._config)
        public = _key(session, self._config, pkcs11.ObjectClass.PUBLIC_KEY, label)
        self._private = _key(session, self._config, pkcs11.ObjectClass.PRIVATE_KEY, label)
        # DER: an octet string of 32 bytes; some tokens leave its two bytes of head away.
        self._public = bytes(public[pkcs11.Attribute.EC_POINT])[-_POINT_BYTES:]

    @property
    def public_key(self) -> bytes:
        """See `Signer`."""
        return self._public

    def sign(self, data: bytes) -> bytes:
        """See `Signer`."""
        import pkcs11

        try:
            return bytes(self._private.sign(data, mechanism=pkcs11.Mechanism.EDDSA))
        except pkcs11.PKCS11Error:
            _logged_in.cache_clear()  # a token that was away and is back wants a new session
        try:
            self._open()
            return bytes(self._private.sign(data, mechanism=pkcs11.Mechanism.EDDSA))
        except (pkcs11.PKCS11Error, ConfigError) as error:
            message = f"the token does not sign with '{self._config.signing_key}': {_reason(error)}"
            hint = "look after the token; heads are signed again by themselves"
            raise SignerUnavailable(message, hint=hint) from error


class TokenMasterKey:
    """Wraps data keys on the token; see `replication.audit.keys.MasterKey`.

    Args:
        config: the token.

    Raises:
        ConfigError: there is no such token or key.
    """

    def __init__(self, config: TokenConfig) -> None:
        import_library()
        import pkcs11

        self._key = _key(_session(config), config, pkcs11.ObjectClass.SECRET_KEY, config.key)
        self._name = f"pkcs11:{config.token}/{config.key}"

    @property
    def name(self) -> str:
        """See `MasterKey`."""
        return self._name

    def wrap(self, key: bytes, about: bytes) -> bytes:
        """See `MasterKey`."""
        import pkcs11

        nonce = os.urandom(_NONCE_BYTES)
        try:
            return nonce + bytes(self._key.encrypt(key, **_gcm(nonce, about)))
        except pkcs11.PKCS11Error as error:
            raise _away(error) from error

    def unwrap(self, wrapped: bytes, about: bytes) -> bytes:
        """See `MasterKey`."""
        import pkcs11
        from pkcs11 import exceptions

        nonce, data = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        wrong = (exceptions.EncryptedDataInvalid, exceptions.EncryptedDataLenRange, exceptions.GeneralError)
        try:
            return bytes(self._key.decrypt(data, **_gcm(nonce, about)))
        except wrong:
            message = "not wrapped by this key"
            raise ValueError(message) from None
        except pkcs11.PKCS11Error as error:
            raise _away(error) from error


def _gcm(nonce: bytes, about: bytes) -> dict[str, Any]:
    import pkcs11

    parameters = pkcs11.GCMParams(nonce, about, _TAG_BITS)
    return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}


def _away(error: Exception) -> NodeUnavailable:
    message = f"the token does not answer: {_reason(error)}"
    return NodeUnavailable(message, hint="look after the token named in audit.pkcs11")


def import_library() -> None:
    """Import `python-pkcs11`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pkcs11  # noqa: F401
    except ImportError as error:
        message = "audit.pkcs11: the package python-pkcs11 is not installed"
        raise ConfigError(message, hint="pip install 'sync-worker[pkcs11]'") from error


@lru_cache
def _logged_in(module: str, token: str, pin: str) -> Any:
    """A session. A process logs in to a token once: PKCS#11 refuses a second time."""
    import pkcs11

    return pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin)


def _session(config: TokenConfig) -> Any:
    """A session of a user who has logged in."""
    import pkcs11
    from pkcs11 import exceptions

    try:
        return _logged_in(config.module, config.token, config.pin)
    except exceptions.NoSuchToken as error:
        message = f"audit.pkcs11.token: no token '{config.token}' at {config.module}"
        raise ConfigError(message, hint="name a token that the module has, by its label") from error
    except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange) as error:
        message = f"audit.pkcs11.pin: the token '{config.token}' does not take it"
        raise ConfigError(message, hint="give the user PIN; a token locks after a few wrong ones") from error
    except (pkcs11.PKCS11Error, OSError, RuntimeError) as error:
        message = f"audit.pkcs11.module: {config.module}: {_reason(error)}"
        raise ConfigError(message, hint="name the token's PKCS#11 library, e.g. libsofthsm2.so") from error


def _key(session: Any, config: TokenConfig, kind: Any, label: str) -> Any:
    import pkcs11
    from pkcs11 import exceptions

    try:
        return session.get_key(object_class=kind, label=label)
    except (exceptions.NoSuchKey, exceptions.MultipleObjectsReturned) as error:
        some = "no" if isinstance(error, exceptions.NoSuchKey) else "more than one"
        what = {
            pkcs11.ObjectClass.SECRET_KEY: "AES key",
            pkcs11.ObjectClass.PUBLIC_KEY: "public key",
            pkcs11.ObjectClass.PRIVATE_KEY: "private key",
        }[kind]
        message = f"audit.pkcs11: {some} {what} '{label}' in the token '{config.token}'"
        raise ConfigError(message, hint="docs/audit.md says how to make one") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
