"""`migrate`: the schema, from a checkout or from nothing but an installed wheel."""

import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import text

from mailroom.db.engine import check_contract, connect_engine
from tests.cli.command import Ended, run
from tests.cli.conftest import Here
from tests.db.migrating import HEAD
from tests.machine import ROOT
from tests.wheels import install

EACH_SERVER = True


def assert_at_head(url: str) -> None:
    engine = connect_engine(url)
    check_contract(engine)
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO accounts (email, login) VALUES ('ada@example.com', 'ada')"))
        assert connection.scalar(text("SELECT count(*) FROM jobs")) == 1
        connection.execute(text("DELETE FROM accounts"))
        connection.execute(text("DELETE FROM jobs"))
    engine.dispose()


@pytest.mark.slow
def test_a_database_is_migrated_once(here: Here, empty_url: str) -> None:
    for _ in range(2):
        ended = here("migrate", env={"MAILROOM_DATABASE_URL": empty_url})
        assert (ended.code, ended.out, ended.err) == (0, f"the database is at revision {HEAD}\n", "")
        assert_at_head(empty_url)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mailroom installed from a wheel."""
    return install(ROOT, tmp_path_factory.mktemp("wheel"))


def from_wheel(installed: Path, *arguments: str, url: str, cwd: Path) -> Ended:
    """Run python with the wheel and what it depends on, without the checkout (-S: no editable install)."""
    env = {"PYTHONPATH": f"{installed}:{sysconfig.get_path('purelib')}", "MAILROOM_DATABASE_URL": url}
    return run([sys.executable, "-S", *arguments], env=env, cwd=cwd)


@pytest.mark.slow
def test_a_wheel_brings_all_it_needs(installed: Path) -> None:
    [wheel] = installed.parent.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("mailroom", "alembic"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                place = file.relative_to(ROOT).as_posix()
                assert (place if folder == "mailroom" else f"mailroom/{place}") in names
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.slow
def test_a_wheel_migrates_from_an_empty_folder(installed: Path, empty_url: str, tmp_path: Path) -> None:
    where = from_wheel(installed, "-c", "import mailroom; print(mailroom.__file__)", url=empty_url, cwd=tmp_path)
    assert Path(where.out.strip()) == installed / "mailroom" / "__init__.py"
    for _ in range(2):
        ended = from_wheel(installed, "-m", "mailroom", "migrate", url=empty_url, cwd=tmp_path)
        assert (ended.code, ended.out) == (0, f"the database is at revision {HEAD}\n"), ended.err
        assert "plugin" not in ended.err  # what Alembic is made of
        assert_at_head(empty_url)
    assert list(tmp_path.iterdir()) == []
