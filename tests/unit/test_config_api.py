"""The section `api`."""

from __future__ import annotations

from pathlib import Path

from cluster.config_api import ApiConfig, AuthConfig, TlsConfig
from tests.unit.test_config import MINIMAL, read


def test_the_whole_interface_is_read() -> None:
    text = """\
api:
  host: 0.0.0.0
  port: 8443
  development: true
  auth: {jwks: keys.json, issuer: i, audience: a, leeway_seconds: 0, roles_claim: groups}
  tls: {certificate: /etc/tls.crt, key: tls.key}
  cors: ["https://app.example.com"]
  max_body_bytes: 1000
  rate: {subject: 5, address: 6}
  replicas: 3
"""
    auth = AuthConfig("/srv/keys.json", "i", "a", 0, "groups")
    tls = TlsConfig(Path("/etc/tls.crt"), Path("/srv/tls.key"))
    origins = ("https://app.example.com",)
    expected = ApiConfig("0.0.0.0", 8443, auth, tls, origins, True, 1000, 5, 6, 3)
    assert read(MINIMAL + text).api == expected
    assert expected.url == "https://0.0.0.0:8443"
    assert read(MINIMAL + "api:\n").api == ApiConfig("127.0.0.1", 3001)
