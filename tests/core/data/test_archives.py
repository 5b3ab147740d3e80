import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor

import pytest

from core.data import archives
from core.data.sources import Item
from core.errors import BadSample, UserError


@pytest.fixture
def pack(write):
    """Packs number files into an archive of the given name, with "./" before the names as `tar c .` has them."""

    def pack(name, count=5):
        folder = write([f"in/{i}.num" for i in range(count)])
        path = folder / name
        files = sorted((folder / "in").iterdir())
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in files:
                    archive.write(file, file.name)
        else:
            with tarfile.open(path, "w:" + (path.suffix[1:] if path.suffix != ".tar" else "")) as archive:
                archive.add(folder / "in", ".")
        return path

    return pack


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_members_are_read_in_any_order(pack, name):
    members = {member.name.removeprefix("./"): member for member in archives.list_members(str(pack(name)))}
    assert sorted(members) == [f"{i}.num" for i in range(5)]
    assert [members[f"{i}.num"].read() for i in (3, 0, 4)] == [b"3", b"0", b"4"]


def test_a_compressed_tar_is_inflated_once_and_again_when_it_changed(pack, cache_folder):
    path = pack("a.tar.gz")
    archives.list_members(str(path))
    (copy,) = (cache_folder / "archives").iterdir()
    before = copy.stat().st_mtime_ns
    archives.list_members(str(path))
    assert copy.stat().st_mtime_ns == before
    assert len(archives.list_members(str(pack("a.tar.gz", count=7)))) == 7


def test_no_partial_copy_stays_behind(pack, cache_folder):
    path = pack("a.tar.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.tar\.gz cannot be read .* Fetch it again"):
        archives.list_members(str(path))
    assert not list((cache_folder / "archives").iterdir())


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_damaged_archives(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no archive" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        archives.list_members(str(tmp_path / name))


def test_cache_folder_that_cannot_be_made(pack, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Set LACUNA_CACHE"):
        archives.list_members(str(pack("a.tar.gz")))


def test_an_archive_cut_short_after_indexing_gives_bad_samples(pack):
    path = pack("a.tar")
    member = archives.list_members(str(path))[-1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadSample, match=r"cannot be read: .* ends before this member"):
        Item("k", member.path, member=member.name, span=member.span).open()


def _read(path, number):
    return archives.read_zip(path, f"{number}.num")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_share_a_zip(pack):
    path = str(pack("a.zip", count=200))
    _read(path, 0)  # the parent's handle is open when the workers start
    with ProcessPoolExecutor(2) as workers:
        contents = list(workers.map(_read, [path] * 200, range(200)))
    assert contents == [str(number).encode() for number in range(200)]
