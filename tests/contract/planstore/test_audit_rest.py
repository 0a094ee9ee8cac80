"""The audit log over REST, and exports of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.cli.audit_file import CSV, FIELDS, JSON_LINES, ExportFile, verify_export
from entitlement_sidecar.domain.audit import FindingKind
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.audit import Actor, Change, acting, record
from support.auditing import NOW, Log
from support.shop import Shop

PATH = "/api/billing/audit"
ODD = 'a, "b"\r\n=c; é\n'


@pytest.fixture
def log(shop: Shop) -> Log:
    """Five entries on top of the catalogue's; one of another tenant by another actor, for an odd reason."""
    log = Log(shop.database)
    log.write(4)
    with acting(Actor("bob", "billing-admin", ODD)), shop.database.writing() as session:
        record(session, Change("credit.granted", "credit/1", "other"), NOW)
    return log


def entries(shop: Shop, **query: Any) -> list[dict[str, Any]]:
    """One page."""
    answer = shop.rest.get(PATH, params=query)
    assert answer.is_success, answer.text
    found: list[dict[str, Any]] = answer.json()["entries"]
    return found


@pytest.mark.usefixtures("log")
def test_the_newest_come_first_by_page(shop: Shop) -> None:
    """Each page names the next, in either order, and every entry comes once."""
    newest = [entry["sequence"] for entry in entries(shop)]
    assert newest == sorted(newest, reverse=True)

    for order in ("newest", "oldest"):
        found, cursor = [], ""
        while cursor is not None:
            page = shop.rest.get(PATH, params={"limit": 2, "cursor": cursor, "order": order}).json()
            found += [entry["sequence"] for entry in page["entries"]]
            cursor = page["next_cursor"]
        assert found == (newest if order == "newest" else newest[::-1])


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("query", "resources"),
    [
        ({"tenant_id": "other"}, ["credit/1"]),
        ({"actor": "bob"}, ["credit/1"]),
        ({"action": "credit.granted"}, ["credit/1"]),
        ({"resource": "plan/p2"}, ["plan/p2"]),
        ({"since": "2026-03-01T12:00:03Z"}, ["plan/p4", "plan/p3"]),
        ({"since": "2026-03-01T12:00:01Z", "until": "2026-03-01T13:00:03+01:00"}, ["plan/p2", "plan/p1"]),
        ({"tenant_id": "acme", "actor": "bob"}, []),
    ],
)
def test_filters_leave_out_the_rest(shop: Shop, query: dict[str, str], resources: list[str]) -> None:
    """Each filter on its own, and together."""
    assert [entry["resource"] for entry in entries(shop, **query)] == resources


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "first"}, "cursor"),
        ({"since": "2026-03-01T12:00:03"}, "since"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "since"),
        ({"until": "soon"}, "until"),
        ({"until": "9999-12-31T23:59:59-14:00"}, "until"),
        ({"order": "up"}, "order"),
        ({"tenant": "acme"}, "tenant"),
    ],
)
def test_a_wrong_query_names_its_field(shop: Shop, query: dict[str, str], field: str) -> None:
    """Nothing is guessed, and nothing unknown is left out silently."""
    answer = shop.rest.get(PATH, params=query)

    assert answer.status_code == 422, answer.text
    assert [violation["field"] for violation in answer.json()["violations"]] == [field]


def test_verification_by_page_names_what_is_wrong(shop: Shop, log: Log) -> None:
    """The findings of all pages are those of the log."""
    log.tamper("UPDATE audit_log SET actor = 'mallory' WHERE resource = 'plan/p3'")
    pages, cursor = [], ""
    while cursor is not None:
        page = shop.rest.get(f"{PATH}/verify", params={"limit": 2, "cursor": cursor}).json()
        pages.append(page)
        cursor = page["next_cursor"]

    assert sum(page["entries"] for page in pages) == pages[-1]["newest"]
    (finding,) = [finding for page in pages for finding in page["findings"]]
    assert sum(page["findings_count"] for page in pages) == 1
    assert (finding["kind"], finding["actor"], finding["resource"]) == ("content", "mallory", "plan/p3")
    assert shop.rest.get(f"{PATH}/verify", params={"limit": 0}).status_code == 422


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("form", [JSON_LINES, CSV])
def test_an_export_verifies_offline(shop: Shop, tmp_path: Path, form: str) -> None:
    """Whatever texts hold; cut short anywhere it goes on after the last whole entry."""
    path, said = tmp_path / "export", entries(shop, order="oldest")
    with ExportFile(path, form, resume=False) as file:
        file.write(said)
    whole = path.read_bytes()
    report = verify_export(path)
    assert (report.count, report.findings) == (0, ())
    assert report.told == (
        f"{len(said)} entries verified, 1 to {len(said)}, which has hash {said[-1]['hash']}"
    )

    for cut in range(1, len(whole), 97):
        path.write_bytes(whole[:cut])
        with ExportFile(path, form, resume=True) as file:
            file.write(entry for entry in said if entry["sequence"] > file.last)
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    with pytest.raises(ConfigurationError, match="cut short"):
        verify_export(path)


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("form", [JSON_LINES, CSV])
def test_a_tampered_export_is_found(shop: Shop, tmp_path: Path, form: str) -> None:
    """An edit, a missing entry, a swap; an export with filters has gaps by right."""
    path, said = tmp_path / "export", entries(shop, order="oldest")

    def found(*wanted: dict[str, Any], gaps: bool = False) -> list[tuple[FindingKind, int]]:
        path.unlink(missing_ok=True)
        with ExportFile(path, form, resume=False) as file:
            file.write(wanted)
        return [(finding.kind, finding.sequence) for finding in verify_export(path, gaps=gaps).findings]

    first, second, third, *others = said
    assert found(first, second | {"actor": "mallory"}, third) == [(FindingKind.CONTENT, 2)]
    assert found(first, third, *others) == [(FindingKind.MISSING, 2)]
    assert found(second, third) == []
    assert found(first, third, *others, gaps=True) == []
    assert (FindingKind.LINK, 2) in found(first, third, second)
    assert found(first | {"previous": "11" * 32}) == [(FindingKind.CONTENT, 1), (FindingKind.LINK, 1)]


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    """With the file and the line; a file that is there is not overwritten unasked."""
    path = tmp_path / "export"
    for content, problem in (
        ('{"sequence": 1}\n', r"export: line 1: .*missing required field"),
        ("a,b\n1,2\n", r"line 1: expected an export of the audit log, with the columns sequence,at"),
        (",".join(FIELDS) + "\n1,2\n", r"line 2: "),
        ("{}\n\xff", r"line 1"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=problem):
            verify_export(path)
    with pytest.raises(ConfigurationError, match="is there already: go on with --resume"):
        ExportFile(path, JSON_LINES, resume=False)
    with pytest.raises(ConfigurationError, match=r"cannot be (read|written)"):
        ExportFile(tmp_path, JSON_LINES, resume=True)
    with pytest.raises(ConfigurationError, match="is json-lines: resume it with that --format"):
        ExportFile(path, CSV, resume=True)
    with pytest.raises(ConfigurationError, match="cannot be written: No such file"):
        ExportFile(tmp_path / "none" / "export", CSV, resume=False)
    path.write_text("")
    assert verify_export(path).told == "no entries"
