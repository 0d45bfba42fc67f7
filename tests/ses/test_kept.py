"""The file of raw error answers, where somebody else may have been before."""

import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailroom.ses.answer_file import NAME, AnswerFile


def keep(folder: Path) -> None:
    AnswerFile(folder).append("7", [1, 2], {"Error": {"Code": "MessageRejected"}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "output"
    found.mkdir(mode=0o700)
    return found


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def symlink(file: Path) -> None:
    file.symlink_to(file.parent.parent / "foreign")


def dangling(file: Path) -> None:
    file.symlink_to(file.parent.parent / "nothing")


def hard_link(file: Path) -> None:
    file.hardlink_to(file.parent.parent / "foreign")


def read_by_somebody(file: Path) -> None:
    os.mkfifo(file)
    # As an attacker would: with a reader, opening it succeeds.
    file.with_suffix(".reader").write_text(str(os.open(file, os.O_RDONLY | os.O_NONBLOCK)))


def listening_socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(file))


def writable_by_all(file: Path) -> None:
    file.touch()
    file.chmod(0o666)


def writable_by_the_group(file: Path) -> None:
    file.touch()
    file.chmod(0o660)


def of_another_user(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    file.touch(mode=0o600)
    os.chown(file, 65534, 65534)


TRAPS: list[Callable[[Path], object]] = [
    *(symlink, dangling, hard_link, os.mkfifo, read_by_somebody, Path.mkdir, listening_socket),
    *(writable_by_all, writable_by_the_group, of_another_user),
]


@pytest.mark.parametrize("trap", TRAPS)
def test_a_file_that_is_not_ours_alone_is_left_alone(
    folder: Path, caplog: pytest.LogCaptureFixture, trap: Callable[[Path], object]
) -> None:
    (folder.parent / "foreign").write_text("theirs")
    (folder.parent / "foreign").chmod(0o600)
    trap(folder / NAME)
    before = os.lstat(folder / NAME)
    keep(folder)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "ses answer not kept" in caplog.text
    after = os.lstat(folder / NAME)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert (folder.parent / "foreign").read_text() == "theirs"
    assert not (folder.parent / "nothing").exists()


def linked(folder: Path) -> Path:
    (folder.parent / "link").symlink_to(folder)
    return folder.parent / "link"


def open_to_all(folder: Path) -> Path:
    folder.chmod(0o777)
    return folder


def like_tmp(folder: Path) -> Path:
    folder.chmod(0o1777)
    return folder


def open_to_the_group(folder: Path) -> Path:
    folder.chmod(0o770)
    return folder


def anothers(folder: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(folder, 65534, 65534)
    return folder


def no_folder(folder: Path) -> Path:
    (folder.parent / "file").touch()
    return folder.parent / "file"


@pytest.mark.parametrize("trap", [linked, open_to_all, like_tmp, open_to_the_group, anothers, no_folder])
def test_a_folder_that_is_not_ours_alone_is_left_alone(
    folder: Path, caplog: pytest.LogCaptureFixture, trap: Callable[[Path], Path]
) -> None:
    keep(trap(folder))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_made_is_for_its_owner_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path / "made" / "output")
    keep(tmp_path / "made" / "output")
    found = tmp_path / "made" / "output"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert stat.S_IMODE((found / NAME).stat().st_mode) == 0o600
    assert (found / NAME).read_text().count("MessageRejected") == 2
    assert caplog.records == []


def test_trouble_is_told_once_and_looked_at_each_time(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = AnswerFile(folder)
    (folder / NAME).symlink_to("/dev/null")
    for _ in range(3):
        kept.append(None, [], "")
    assert len(caplog.records) == 1
    (folder / NAME).unlink()
    kept.append(None, [], "x")
    assert (folder / NAME).read_text().endswith('"answer": "x"}\n')


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another")
def test_a_way_on_which_another_could_lead_elsewhere_is_not_taken(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    os.chown(theirs, 65_534, 65_534)
    link = tmp_path / "link"
    link.symlink_to(ours)
    os.lchown(link, 65_534, 65_534)
    for folder in (link / "below", theirs / "below"):
        AnswerFile(folder).append("1", [1], {})
    assert list(ours.iterdir()) == list(theirs.iterdir()) == []
