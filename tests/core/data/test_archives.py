import io
import shutil
import subprocess
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
    members = archives.open_contents(str(pack(name))).members
    assert sorted(members) == [f"{i}.num" for i in range(5)]
    assert [members[f"{i}.num"].read() for i in (3, 0, 4)] == [b"3", b"0", b"4"]


def test_a_compressed_tar_is_inflated_once_and_again_when_it_changed(pack, cache_folder):
    path = pack("a.tar.gz")
    archives.open_contents(str(path))
    (copy,) = (cache_folder / "archives").iterdir()
    before = copy.stat().st_mtime_ns
    archives.open_contents(str(path))
    assert copy.stat().st_mtime_ns == before
    assert len(archives.open_contents(str(pack("a.tar.gz", count=7))).members) == 7


def test_no_partial_copy_stays_behind(pack, cache_folder):
    path = pack("a.tar.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.tar\.gz cannot be read .* Fetch it again"):
        archives.open_contents(str(path))
    assert not list((cache_folder / "archives").iterdir())


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_damaged_archives(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no archive" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        archives.open_contents(str(tmp_path / name))


def test_cache_folder_that_cannot_be_made(pack, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LACUNA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Set LACUNA_CACHE"):
        archives.open_contents(str(pack("a.tar.gz")))


def test_an_archive_cut_short_after_indexing_gives_bad_samples(pack):
    path = pack("a.tar")
    member = list(archives.open_contents(str(path)).members.values())[-1]
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


def tar_of(path, *members, mode="w"):
    """A tar of (name, content) or of (name, link type, target)."""
    with tarfile.open(path, mode) as archive:
        for name, *rest in members:
            entry = tarfile.TarInfo(name)
            if len(rest) == 1:
                entry.size = len(rest[0])
                archive.addfile(entry, io.BytesIO(rest[0]))
            else:
                entry.type, entry.linkname = rest
                archive.addfile(entry)
    return str(path)


def contents(path) -> dict[str, bytes]:
    return {name: member.read() for name, member in archives.open_contents(str(path)).members.items()}


def reasons(path) -> list[str]:
    """Why members are passed over."""
    return [reason for reason, _ in archives.open_contents(str(path)).passed_over]


HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    ("name", "link", "target"),
    [
        ("a/1.num", HARD, "a/0.num"),
        ("b/1.num", HARD, "./a/0.num"),
        ("a/1.num", SOFT, "0.num"),
        ("b/c/1.num", SOFT, "../../a/0.num"),
    ],
)
def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path, name, link, target):
    path = tar_of(tmp_path / "l.tar", ("a/0.num", b"7"), (name, link, target))
    assert contents(path) == {"a/0.num": b"7", name: b"7"} and not reasons(path)


def test_links_over_links(tmp_path):
    path = tar_of(
        tmp_path / "l.tar",
        ("3.num", SOFT, "2.num"),
        ("2.num", SOFT, "1.num"),
        ("0.num", b"5"),
        ("1.num", HARD, "0.num"),
    )
    assert contents(path) == {f"{number}.num": b"5" for number in range(4)}


def test_links_that_lead_nowhere_are_named(tmp_path):
    path = tar_of(
        tmp_path / "l.tar",
        ("0.num", b"5"), ("circle.num", SOFT, "circle.num"), ("out.num", SOFT, "/etc/passwd"),
        ("gone.num", HARD, "9.num"),
    )  # fmt: skip
    assert list(contents(path)) == ["0.num"] and reasons(path) == [archives.LOST_LINK] * 3


def test_links_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr("a/0.num", "5")
        link = zipfile.ZipInfo("b/1.num")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "../a/0.num")
    assert contents(tmp_path / "l.zip") == {"a/0.num": b"5", "b/1.num": b"5"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
@pytest.mark.parametrize("content", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_content_tells_how_a_tar_is_compressed(tmp_path, name, content):
    assert contents(tar_of(tmp_path / name, ("0.num", b"5"), mode=content)) == {"0.num": b"5"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_zip_that_is_called_a_tar(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("0.num", "5")
    assert contents(tmp_path / name) == {"0.num": b"5"}
    item = Item("k", str(tmp_path / name), member="0.num")
    assert item.suffix == ".num" and item.open() == b"5"


def test_zstd_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    with pytest.raises(UserError, match="compressed with zstd"):
        archives.open_contents(str(tmp_path / "a.tar"))


def test_damaged_compression_is_one_message(tmp_path):
    """Of zlib, whose error is of no common kind, in particular."""
    path = tmp_path / "a.tar.gz"
    tar_of(path, ("0.num", bytes(range(256)) * 200), mode="w:gz")
    for position in range(40, path.stat().st_size, 7):  # behind the header, which holds a name
        damaged = bytearray(path.read_bytes())
        damaged[position] ^= 0xFF
        (tmp_path / f"{position}.tar.gz").write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            archives.open_contents(str(tmp_path / f"{position}.tar.gz"))


def test_joined_tars_are_read_to_the_end(tmp_path):
    parts = [tar_of(tmp_path / f"{number}.tar", (f"{number}.num", b"5")) for number in range(3)]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join((tmp_path / part).read_bytes() for part in parts))
    assert list(contents(joined)) == ["0.num", "1.num", "2.num"] and not reasons(joined)


def test_a_damaged_header_ends_nothing(tmp_path):
    """Of three members the second one's header is damaged: the third is read, and the damage is named."""
    path = tmp_path / "a.tar"
    tar_of(path, *((f"{number}.num", b"5" * 600) for number in range(3)))
    damaged = bytearray(path.read_bytes())
    damaged[1536 + 148] ^= 0xFF  # its checksum
    path.write_bytes(damaged)
    assert list(contents(path)) == ["0.num", "2.num"] and reasons(path) == [archives.DAMAGED]


@pytest.mark.parametrize("garbage", [b"x" * 100, b"x" * 5000])
def test_bytes_after_the_end_are_named(tmp_path, garbage):
    path = tmp_path / "a.tar"
    tar_of(path, ("0.num", b"5"))
    path.write_bytes(path.read_bytes() + garbage)
    assert list(contents(path)) == ["0.num"] and reasons(path) == [archives.DAMAGED]


def test_a_tar_cut_within_a_header(tmp_path):
    path = tmp_path / "a.tar"
    tar_of(path, ("0.num", b"5"), ("1.num", b"6"))
    path.write_bytes(path.read_bytes()[: 1024 + 100])
    assert list(contents(path)) == ["0.num"] and reasons(path) == [archives.DAMAGED]


def test_members_that_are_no_files_of_their_own(tmp_path):
    path = tar_of(
        tmp_path / "a.tar",
        ("0.num", b"old"), ("0.num", b"new"), ("inner.tar", b"5"), ("inner.zip", b"5"), ("pipe", tarfile.FIFOTYPE, ""),
    )  # fmt: skip
    assert contents(path) == {"0.num": b"new"}
    found = [archives.REPLACED, archives.NESTED, archives.NESTED, archives.DEVICE]
    assert sorted(reasons(path)) == sorted(found)


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program")
def test_a_sparse_file_is_named(tmp_path):
    with (tmp_path / "0.num").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"5")
    (tmp_path / "1.num").write_bytes(b"6")
    subprocess.run(["tar", "--sparse", "-cf", "s.tar", "0.num", "1.num"], cwd=tmp_path, check=True)
    assert contents(tmp_path / "s.tar") == {"1.num": b"6"} and reasons(tmp_path / "s.tar") == [archives.SPARSE]


def test_encrypted_members_are_named(tmp_path):
    path = tmp_path / "e.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.num", "5")
        archive.writestr("1.num", "6")
    marked = bytearray(path.read_bytes())
    entry = marked.rindex(b"PK\x01\x02")  # the second one's line in the directory
    marked[entry + 8] |= 1
    path.write_bytes(marked)
    assert contents(path) == {"0.num": b"5"} and reasons(path) == [archives.ENCRYPTED]


def test_backslashes_divide_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("cat\\1.num", "5")
    member = archives.open_contents(str(tmp_path / "w.zip")).members["cat/1.num"]
    assert member.read() == b"5"


def test_an_empty_member_is_a_bad_sample(tmp_path):
    path = tar_of(tmp_path / "a.tar", ("0.num", b""))
    member = archives.open_contents(path).members["0.num"]
    with pytest.raises(BadSample, match="empty"):
        Item("k", member.path, member=member.name, span=member.span).open()


def test_zero_bytes_in_place_of_a_member_are_named(tmp_path):
    path = tmp_path / "a.tar"
    tar_of(path, *((f"{number}.num", b"5" * 600) for number in range(3)))
    content = path.read_bytes()
    path.write_bytes(content[:1536] + bytes(1536) + content[3072:])
    assert list(contents(path)) == ["0.num", "2.num"] and reasons(path) == [archives.DAMAGED]


@pytest.mark.parametrize(("end", "note"), [(0, "no end mark"), (1 << 20, "members may be lost"), (1024, ""), (512, "")])
def test_the_end_of_a_tar(tmp_path, end, note):
    path = tmp_path / "a.tar"
    tar_of(path, ("0.num", b"5"))
    path.write_bytes(path.read_bytes()[:1024] + bytes(end))
    assert list(contents(path)) == ["0.num"] and not reasons(path)
    notes = archives.open_contents(str(path)).notes
    assert note in notes[0] if note else not notes


def test_a_zip_cut_behind_a_zip_inside_it(tmp_path):
    """The directory that such a file ends in is that of the inner one."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("0.num", "5")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.npz", inner.getvalue())
        archive.writestr("b.npz", inner.getvalue())
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: content.index(inner.getvalue()) + len(inner.getvalue())])
    with pytest.raises(UserError, match="does not list its first file"):
        archives.open_contents(str(tmp_path / "cut.zip"))
