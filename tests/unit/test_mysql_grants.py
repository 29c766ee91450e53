"""Lines of SHOW GRANTS."""

from __future__ import annotations

import pytest

from replication.engines.mysql.grants import Grants, parse_grant


@pytest.mark.parametrize(
    ("line", "privilege", "database", "table", "held"),
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `a`@`%` WITH GRANT OPTION", "REPLICATION SLAVE", "shop", "t", True),
        ("GRANT SELECT, INSERT ON `shop`.* TO `a`@`%`", "INSERT", "shop", "t", True),
        ("GRANT SELECT, INSERT ON `shop`.* TO `a`@`%`", "DELETE", "shop", "t", False),
        ("GRANT SELECT ON `shop`.* TO `a`@`%`", "SELECT", "shops", "t", False),
        ("GRANT SELECT ON `sh_p%`.* TO `a`@`%`", "SELECT", "shops", "t", True),
        (r"GRANT SELECT ON `sh\_p`.* TO `a`@`%`", "SELECT", "shop", "t", False),
        (r"GRANT SELECT ON `sh\_p`.* TO `a`@`%`", "SELECT", "sh_p", "t", True),
        ("GRANT SELECT ON `a``b`.`c d` TO `a`@`%`", "SELECT", "a`b", "c d", True),
        ("GRANT SELECT ON `shop`.`t` TO `a`@`%`", "SELECT", "shop", "u", False),
        ("GRANT SELECT (`a`, `b`), DELETE ON `shop`.`t` TO `a`@`%`", "SELECT", "shop", "t", False),
        ("GRANT SELECT (`a`, `b`), DELETE ON `shop`.`t` TO `a`@`%`", "DELETE", "shop", "t", True),
    ],
)
def test_what_a_grant_covers(line: str, privilege: str, database: str, table: str, held: bool) -> None:
    grant = parse_grant(line)
    assert grant is not None
    assert Grants("a", (grant,)).on_table(privilege, database, table) is held


def test_only_the_whole_server_counts_everywhere() -> None:
    grants = [parse_grant(f"GRANT REPLICATION CLIENT ON {on} TO `a`@`%`") for on in ("*.*", "`shop`.*")]
    assert [g and Grants("a", (g,)).everywhere("REPLICATION CLIENT") for g in grants] == [True, False]


def test_roles_and_proxies_are_no_grants_on_tables() -> None:
    assert parse_grant("GRANT `team`@`%` TO `a`@`%`") is None
    assert parse_grant("GRANT PROXY ON ``@`` TO `root`@`localhost`") is None
