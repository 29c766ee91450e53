"""An archive of the audit log that is away is seen wherever an operator looks, and so is its end."""

from __future__ import annotations

import pytest

from actors.archiving import Archiving
from cluster.archive import Archive, ArchiveAway
from cluster.commands.status import _print_archive
from tests.fixtures.api_bed import Bed
from tests.fixtures.parts import LocalHandle


def test_an_archive_that_is_away_is_visible_everywhere_and_so_is_its_end(
    bed: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bed.config.audit_path.parent / "copy"
    parts, client = bed.backend.parts, bed.client("viewer")
    assert client.get("/sync/status").json()["archive"] is None
    archiving = Archiving(Archive(bed.config.audit_path, folder.as_uri()).push, 3600)
    try:
        audit = parts()["audit"]
        methods = {**audit.methods, "archived": archiving.status}
        bed.backend.parts = lambda: {**parts(), "audit": LocalHandle(**methods)}
        with pytest.raises(ArchiveAway):
            archiving.push()
        status = client.get("/sync/status").json()["archive"]
        assert (status["copied"], bool(status["since"])) == ("", True)
        health = client.get("/health").json()
        assert (health["status"], "archive_away") == ("degraded", health["troubles"][0]["what"])
        assert str(folder) not in str(health), "why is for those with a token"
        _print_archive(archiving.status())
        assert "the archive is away since" in capsys.readouterr().out

        folder.mkdir()
        archiving.push()
        assert client.get("/sync/status").json()["archive"]["copied"]
        assert client.get("/health").json()["status"] == "ok"
        _print_archive(archiving.status())
        assert capsys.readouterr().out.endswith("is in the archive\n")
    finally:
        archiving.close()
