"""Apache Kafka for tests, where Java and its jars are to be had: one node that is broker and controller."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from confluent_kafka.admin import AdminClient

from cluster.servers.process import OwnServer, ServerFailed, ServerProcess, free_port

_CLUSTER = "c3luYy13b3JrZXItdGVzdA"
_JVM = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_SCRAM = ("SCRAM-SHA-512", "SCRAM-SHA-256")
_SECURITY = "org.apache.kafka.common.security"
_RULES = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "allow.everyone.if.no.acl.found": "true",
}


class NoJava(RuntimeError):
    """This machine has no Java; the message says so in one line."""


class ApacheKafka(OwnServer):
    """One node on loopback; what it holds is on disk and outlives its process.

    Args:
        path: folder for its data and its log.
        jars: folder with the jars of a release, `libs` of what Apache distributes.
        port: TCP port for clients; a free one by default.
        advertised: the port that clients are sent to, where that is another.
        tls: a folder with `server.pem` and `server.key`; clients speak TLS then.
        user: name and password for SCRAM and PLAIN; topics may then have rules who does what.

    Raises:
        NoJava: there is no program to run it.
    """

    def __init__(
        self,
        path: Path,
        jars: Path,
        *,
        port: int = 0,
        advertised: int = 0,
        tls: Path | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        if (java := shutil.which("java")) is None:
            message = f"Apache Kafka of {jars} needs Java 17 or newer: install it"
            raise NoJava(message)
        path.mkdir(parents=True, exist_ok=True)
        self.port, self._user = port or free_port(), user
        self.inner = f"127.0.0.1:{free_port()}"
        """`host:port`, for whoever may do everything: without TLS and password."""
        self._data, self._properties = path / "data", path / "server.properties"
        self._java = [java, *_JVM, "-cp", f"{jars}/*"]
        settings = self._settings(advertised or self.port) | (_tls(path, tls) if tls else {})
        settings |= _logins(*user) if user else {}
        protocol = ("SASL_" if user else "") + ("SSL" if tls else "PLAINTEXT")
        settings["listener.security.protocol.map"] += f",CLIENT:{protocol}"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        command = [*self._java, "kafka.Kafka", str(self._properties)]
        self._process = ServerProcess("kafka", command, path / "server.log", self._serves)

    @property
    def address(self) -> str:
        """`host:port`, for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers; the first time on an empty disk.

        Raises:
            ServerFailed: it does not.
        """
        if not self._data.exists():
            self._format()
        self._process.start(120)

    def stop(self) -> None:
        """End it; safe to call twice."""
        self._process.kill()

    def _settings(self, advertised: int) -> dict[str, str]:
        control = f"127.0.0.1:{free_port()}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{control}",
            "controller.listener.names": "CONTROL",
            "listeners": f"CLIENT://{self.address},INNER://{self.inner},CONTROL://{control}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{advertised},INNER://{self.inner}",
            "inter.broker.listener.name": "INNER",
            "listener.security.protocol.map": "INNER:PLAINTEXT,CONTROL:PLAINTEXT",
            "log.dirs": str(self._data),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
        }

    def _format(self) -> None:
        words = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._properties)]
        if self._user:
            name, password = self._user
            for mechanism in _SCRAM:
                words += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        done = subprocess.run([*self._java, *words], check=False, capture_output=True, text=True)
        if done.returncode:
            message = f"kafka could not make its storage: {done.stderr or done.stdout}"
            raise ServerFailed(message)

    def _serves(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.inner, "log_level": 0})
        return bool(admin.list_topics(timeout=1.0).brokers)


def _logins(name: str, password: str) -> dict[str, str]:
    """Settings for a user; the passwords of SCRAM are in the storage."""
    modules = dict.fromkeys(_SCRAM, f"{_SECURITY}.scram.ScramLoginModule required;")
    modules["PLAIN"] = f'{_SECURITY}.plain.PlainLoginModule required user_{name}="{password}";'
    how = {f"listener.name.client.{m.lower()}.sasl.jaas.config": module for m, module in modules.items()}
    return {"sasl.enabled.mechanisms": ",".join(modules), **how, **_RULES}


def _tls(path: Path, certificates: Path) -> dict[str, str]:
    """Settings for a certificate of one's own."""
    both = path / "both.pem"
    both.write_text("".join((certificates / name).read_text() for name in ("server.key", "server.pem")))
    return {
        "listener.name.client.ssl.keystore.type": "PEM",
        "listener.name.client.ssl.keystore.location": str(both),
    }
