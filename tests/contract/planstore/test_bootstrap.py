"""How a plan store is put together, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.bootstrap import build, seed
from entitlement_sidecar.planstore.catalogue import current_catalogue
from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.planstore.subscriptions import Target, latest_subscription
from entitlement_sidecar.wire.catalogue_file import parse_catalogue


@pytest.fixture
def config(database: Database, tmp_path: Path) -> PlanstoreConfig:
    """Settings of a plan store on the database."""
    url = database.engine.url.render_as_string(hide_password=False)
    config = PlanstoreConfig(
        database=url, http="127.0.0.1:0", grpc="127.0.0.1:0", state_dir=tmp_path / "state"
    )
    prepare_state(config)
    return config


def found(database: Database, tenant: str = "acme") -> tuple[str, str | None, bool]:
    """Name of the catalogue, the tenant's plan, and whether it is suspended."""
    with database.reading() as session:
        catalogue = current_catalogue(session)
        row = latest_subscription(session, tenant)
        assert catalogue is not None
        return (
            catalogue[1].name,
            row.plan.code if row else None,
            row is not None and row.suspended_at is not None,
        )


def test_an_empty_database_is_seeded(
    database: Database, config: PlanstoreConfig, catalogue_text: str
) -> None:
    """The example and its tenant, once and not again."""
    example = parse_catalogue(catalogue_text, "example")

    seed(config, example, "acme", "basic")
    seed(config, example, "acme", "basic")

    assert found(database) == ("shop", "basic", False)


def test_seeding_undoes_nothing(shop: Any, config: PlanstoreConfig, catalogue_text: str) -> None:
    """Another catalogue, another plan and a suspension stay as their user left them."""
    shop.apply(catalogue_text.replace("catalogue: shop", "catalogue: mine"))
    shop.subscribe(plan="free")
    with shop.database.writing() as session:
        shop.subscriptions.suspend(session, Target(tenant_id="acme"))
    shop.key.save(config.key_path)
    before = shop.outbox()

    seed(config, parse_catalogue(catalogue_text, "example"), "acme", "basic")

    assert found(shop.database) == ("mine", "free", True)
    assert shop.outbox() == before


def test_a_plan_that_is_not_for_sale_is_no_reason_to_fail(
    shop: Any, config: PlanstoreConfig, catalogue_text: str
) -> None:
    """A database with a catalogue of its own is left as it is."""
    shop.key.save(config.key_path)

    seed(config, parse_catalogue(catalogue_text, "example"), "acme", "no-such")

    assert found(shop.database) == ("shop", None, False)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("foo=bar", 'invalid connection option "foo"'),
        ("connect_timeout=soon", "connect_timeout: 'soon'"),
        ("host=127.0.0.1&port=soon", "soon"),
    ],
)
def test_an_option_that_no_driver_knows_is_named(tmp_path: Path, option: str, named: str) -> None:
    """A wrong option of the URL is an error of the setting, for the plan store and for its migration."""
    config = PlanstoreConfig(
        database=f"postgresql://user:secret@127.0.0.1:1/name?{option}", state_dir=tmp_path / "state"
    )
    for start in (build, lambda config: migrate(config.database_url)):
        with pytest.raises(ConfigurationError, match=named) as caught:
            start(config)

        assert "secret" not in str(caught.value)


def test_a_database_that_is_away_is_told(tmp_path: Path, free_port: int) -> None:
    """Nobody at the port: in a line, without the password."""
    config = PlanstoreConfig(
        database=f"postgresql://user:secret@127.0.0.1:{free_port}/name", state_dir=tmp_path / "state"
    )
    with pytest.raises(
        ConfigurationError, match=rf"^--database: cannot be reached: .*{free_port}.*"
    ) as caught:
        build(config)

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
