"""Files of clouds by format: right ones give their points, bad ones one reason."""

import builtins
import io
import zipfile

import h5py
import numpy as np
import pytest

from core.data.sources import Item
from core.errors import BadSample, UserError
from modalities.point.formats import files, pcd, text
from modalities.point.source import PointSource

POINTS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
SURFACE = 400
TRIANGLE = "OFF\n3 1 0\n0 0 0\n2 0 0\n0 1 0\n3 0 1 2\n"


@pytest.fixture
def save(tmp_path):
    """Writes a file and gives its item."""

    def save(name: str, content: bytes | str) -> Item:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Item(name, str(tmp_path / name))

    return save


def read(item: Item) -> np.ndarray:
    return files.read(item, SURFACE).points


def rows(separator: str = " ", columns: int = 3, header: str = "", end: str = "\n") -> str:
    lines = [separator.join(f"{value:.6f}" for value in row[:columns]) for row in POINTS]
    return header + end.join([*lines, ""])


def npy(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def hdf5(path, **arrays: np.ndarray) -> bytes:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path.read_bytes()


def ply(points: np.ndarray = POINTS, faces: str = "", element: str = "vertex") -> str:
    lines = ["ply", "format ascii 1.0", f"element {element} {len(points)}"]
    lines += [f"property float {name}" for name in ("nx", "ny", "nz", "x", "y", "z")[: points.shape[1]]]
    if faces:
        lines += ["element face 1", "property list uchar int vertex_indices"]
    return "\n".join([*lines, "end_header", *(" ".join(map(str, row)) for row in points.tolist()), faces, ""])


def pcd_header(
    fields: str, data: str, count: int, sizes: str = "4 4 4", types: str = "F F F", height: int = 1
) -> bytes:
    lines = ["# .PCD v0.7", "VERSION 0.7", f"FIELDS {fields}", f"SIZE {sizes}", f"TYPE {types}"]
    lines += [
        f"WIDTH {count // height}",
        f"HEIGHT {height}",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {count}",
        f"DATA {data}",
    ]
    return "\n".join([*lines, ""]).encode()


# Text


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.txt", rows(" "), 3),
        ("a.txt", rows("\t", 6), 6),
        ("a.xyz", rows(";"), 3),
        ("a.txt", rows(";").replace(".", ","), 3),  # decimal commas
        ("a.csv", rows(",", 6, "x,y,z,nx,ny,nz\n"), 6),
        ("a.csv", rows(", ", 3, '\ufeff# by hand\n\n"X", "Y", "Z"\n'), 3),
        ("a.pts", rows(" ", 3, "50\n"), 3),
        ("a.txt", rows("  ", 3, "// scan\n", end=" \r\n"), 3),
        ("a.csv", rows(",", 3, end=",\n"), 3),
        ("a.txt", rows() + "\n\n \n", 3),
        ("a.TXT", rows(",", 4), 4),
    ],
)
def test_text(save, name, content, columns):
    points = read(save(name, content))
    assert points.shape == (50, columns)
    assert np.allclose(points, POINTS[:, :columns], atol=1e-6)


@pytest.mark.parametrize(("header", "start"), [("id,x,y,z\n", 1), ("nx,ny,nz,X,Y,Z\n", 3), ("t;i;x;y;z\n", 2)])
def test_a_header_tells_the_coordinates(save, header, start):
    separator = ";" if ";" in header else ","
    width = len(header.split(separator))
    points = read(save("a.csv", rows(separator, width, header)))
    assert np.allclose(points[:, :3], POINTS[:, start : start + 3], atol=1e-6)
    assert np.allclose(points[:, 3:], np.delete(POINTS[:, :width], range(start, start + 3), 1), atol=1e-6)


def test_text_is_read_in_chunks(save, monkeypatch):
    monkeypatch.setattr(text, "CHUNK", 7)
    assert np.allclose(read(save("a.txt", rows(","))), POINTS[:, :3], atol=1e-6)
    with pytest.raises(BadSample, match="line 52 has 'x' for a number"):
        read(save("a.txt", rows(" ", 3, "x y z\n") + "1 2 x\n"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (rows() + "1 2\n", "line 51 has 2 columns, the lines before it 3"),
        (rows() + "1 2 3 4\n5 6 7 8\n", "line 51 has 4 columns"),
        (rows(",") + "1,2,abc\n", "line 51 has 'abc' for a number"),
        (rows(",") + "1,,3\n", "line 51 has '' for a number"),
        (rows(" ", 3, "x y z\n# made\n") + "\n\n1 2 abc\n", "line 55 has 'abc'"),
        ("airplane_0001\nairplane_0002\n", "holds no row of three numbers or more; it begins with 'airplane_0001'"),
        ("1 2\n3 4\n", "holds no row of three numbers"),
        ("\x00\x01\x02 binary", "holds no row of three numbers"),
        ("", "the file is empty"),
        ("\n\n\n", "holds no row of three numbers"),
        ("1 2 3\n", "holds 1 point: two or more are needed"),
        (rows() + "nan 1 2\n1 inf 3\n", "2 of its 52 points are not finite .NaN or inf., the first is number 50"),
    ],
)
def test_bad_text(save, content, reason):
    with pytest.raises(BadSample, match=reason):
        read(save("a.txt", content))


# Arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int16])
def test_arrays_of_numbers(save, dtype):
    values = (POINTS * 100).astype(dtype)
    for item in (save("a.npy", npy(values)), save("a.npz", npz(points=values, faces=np.zeros((999, 3), int)))):
        points = read(item)
        assert points.dtype.isnative and (points == values).all()


def test_large_arrays_stay_on_disk(save, monkeypatch):
    monkeypatch.setattr("modalities.point.formats.array.MAPPED", 100)
    points = read(save("a.npy", npy(POINTS)))
    assert isinstance(points, np.memmap) and (points == POINTS).all()


def test_an_array_of_named_columns(save):
    values = np.zeros(50, [("i", "u1"), ("x", "f4"), ("y", "f4"), ("z", "f8"), ("red", "u1")])
    values["x"], values["y"], values["z"] = POINTS[:, :3].T
    values["red"] = 51
    points = read(save("a.npy", npy(values)))
    assert np.allclose(points[:, :3], POINTS[:, :3]) and np.allclose(points[:, 4], 0.2) and points.shape == (50, 5)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (POINTS[:0], "holds no point"),
        (POINTS[:1], "holds 1 point"),
        (POINTS[:, :2], r"shape \(50, 2\): a cloud is \(points, 3 \+ channels\)"),
        (POINTS[:, 0], r"shape \(50,\)"),
        (POINTS.T[:3], "whose axes are swapped"),
        (np.stack([POINTS, POINTS]), "holds 2 clouds.*data.source.rows=true"),
        (POINTS > 0, "values of type bool"),
        (POINTS.astype(complex), "values of type complex"),
        (np.array([["1", "2", "3"]] * 3), "values of type <U1"),
        (np.where(POINTS > 2, np.inf, POINTS), "are not finite"),
    ],
)
def test_arrays_that_are_no_cloud(save, array, reason):
    for item in (save("a.npy", npy(array)), save("a.npz", npz(points=array))):
        with pytest.raises(BadSample, match=reason):
            read(item)


def test_damaged_and_pickled_arrays(save):
    pickled = npy(np.array([{}], dtype=object), allow_pickle=True)
    for name, content in (
        ("a.npy", npy(POINTS)[:-50]),
        ("a.npy", npy(POINTS)[:20]),
        ("a.npz", npz(points=POINTS)[:300]),
        ("a.npy", pickled),
        ("a.h5", b"no hdf5"),
    ):
        with pytest.raises(BadSample, match="is no readable"):
            read(save(name, content))


def test_hdf5(save, tmp_path):
    content = hdf5(tmp_path / "x.h5", points=POINTS, more=np.zeros(9999))
    assert (read(save("a.h5", content)) == POINTS).all()
    with pytest.raises(BadSample, match=r"is no readable .h5 file"):
        read(save("a.h5", content[:1000]))
    with pytest.raises(BadSample, match=r"shape \(5,\)"):
        read(save("b.hdf5", hdf5(tmp_path / "y.h5", label=np.arange(5))))
    with pytest.raises(BadSample, match="holds no array"):
        read(save("c.h5", hdf5(tmp_path / "z.h5")))


# PLY and meshes


def test_ply(save, tmp_path):
    """Coordinates come first, wherever they stand; binary files too."""
    from plyfile import PlyData

    item = save("a.ply", ply())
    assert np.allclose(read(item), POINTS[:, [3, 4, 5, 0, 1, 2]])

    content = PlyData.read(item.path)
    for order in "<>":
        content.text, content.byte_order = False, order
        content.write(tmp_path / "b.ply")
        assert np.allclose(read(Item("b", str(tmp_path / "b.ply"))), POINTS[:, [3, 4, 5, 0, 1, 2]])
    cut = save("c.ply", (tmp_path / "b.ply").read_bytes()[:-100])
    with pytest.raises(BadSample, match=r"is no readable .ply file"):
        read(cut)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ply()[:-200], "is no readable .ply file"),
        ("hello", "is no readable .ply file"),
        (ply(element="point"), "has no element 'vertex'"),
        (ply(POINTS[:, :5]), "has nx, ny, nz, x, y: a cloud needs x, y and z"),
    ],
)
def test_bad_ply(save, content, reason):
    with pytest.raises(BadSample, match=reason):
        read(save("a.ply", content))


def on_triangle(points: np.ndarray) -> bool:
    x, y, z = points.T
    return bool((z == 0).all() and (x >= 0).all() and (y >= 0).all() and (x / 2 + y <= 1 + 1e-6).all())


STL = (
    "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 2 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid a\n"
)
VERTICES = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 2, 0, 0], [0, 0, 0, 0, 1, 0]], float)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.off", TRIANGLE),
        ("a.off", TRIANGLE.replace("OFF\n", "OFF")),  # as many files of ModelNet40 have it
        ("a.off", TRIANGLE.replace("OFF\n", "OFF\n# by hand\n\n")),
        ("a.obj", "v 0 0 0\nv 2 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("a.obj", "mtllib a.mtl\no a\nv 0 0 0\nv 2 0 0\nv 0 1 0\nusemtl red\nf 1// 2// 3//\n"),
        ("a.stl", STL),
        ("a.ply", ply(VERTICES, faces="3 0 1 2")),
    ],
)
def test_meshes_give_points_on_their_surface(save, name, content):
    cloud = files.read(save(name, content), SURFACE)
    assert cloud.points.shape == (SURFACE, 3) and on_triangle(cloud.points) and "surface" in cloud.notes[0]
    # Uniform: the centroid of the triangle.
    assert np.abs(cloud.points.mean(0) - [2 / 3, 1 / 3, 0]).max() < 0.1
    assert (files.read(save(name, content), SURFACE).points == cloud.points).all()


def test_surfaces_count_by_area(save):
    """A face of nine times the area gets nine times the points, though it has as many corners."""
    content = "OFF\n6 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 9\n3 0 9\n0 3 9\n3 0 1 2\n3 3 4 5\n"
    points = files.read(save("a.off", content), 5000).points
    assert abs((points[:, 2] == 9).mean() - 0.9) < 0.03


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.off", TRIANGLE.replace("0 1 0", "1 0 0"), "its 1 faces have no area"),
        ("a.off", TRIANGLE.replace("0 1 0", "nan 1 0"), "not finite"),
        ("a.off", TRIANGLE[:20], "is no readable .off file"),
        ("a.obj", "hello\n", "."),
        ("a.stl", b"\0" * 40, "."),
        ("a.off", "", "the file is empty"),
    ],
)
def test_bad_meshes(save, name, content, reason):
    with pytest.raises(BadSample, match=reason):
        read(save(name, content))


def test_meshes_without_faces_are_clouds(save):
    assert read(save("a.off", "OFF\n3 0 0\n0 0 0\n2 0 0\n0 1 0\n")).tolist() == [[0, 0, 0], [2, 0, 0], [0, 1, 0]]
    assert len(read(save("a.obj", "v 0 0 0\nv 2 0 0\nv 0 1 0\n"))) == 3


# PCD


def test_pcd_ascii_and_binary(save):
    body = rows().encode()
    assert np.allclose(read(save("a.pcd", pcd_header("x y z", "ascii", 50) + body)), POINTS[:, :3], atol=1e-6)
    body = np.ascontiguousarray(POINTS[:, :3]).tobytes()
    assert (read(save("b.pcd", pcd_header("x y z", "binary", 50) + body)) == POINTS[:, :3]).all()
    swapped = read(save("c.pcd", pcd_header("z x y", "binary", 50) + body))
    assert (swapped == POINTS[:, [1, 2, 0]]).all()


def test_pcd_packed_colours_and_padding(save):
    kind = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("_", "u1", (4,)), ("rgb", "u4"), ("normal", "f4", (2,))]
    values = np.zeros(50, kind)
    values["x"], values["y"], values["z"] = POINTS[:, :3].T
    values["rgb"], values["normal"] = (255 << 16) | (51 << 8), POINTS[:, 3:5]
    header = pcd_header("x y z _ rgb normal", "binary", 50, "4 4 4 1 4 4", "F F F U U F")
    header = header.replace(b"WIDTH", b"COUNT 1 1 1 4 1 2\nWIDTH")
    points = read(save("a.pcd", header + values.tobytes()))
    assert np.allclose(points, np.c_[POINTS[:, :3], np.tile([1, 0.2, 0], (50, 1)), POINTS[:, 3:5]])


def test_organised_pcd_leaves_out_what_was_not_measured(save):
    values = np.array(POINTS[:, :3])
    values[::5] = np.nan
    item = save("a.pcd", pcd_header("x y z", "binary", 50, height=5) + values.tobytes())
    cloud = files.read(item, SURFACE)
    assert (cloud.points == np.delete(values, range(0, 50, 5), 0)).all() and "left out" in cloud.notes[0]
    # NaN in a plain list of points is a fault.
    with pytest.raises(BadSample, match="10 of its 50 points are not finite"):
        read(save("b.pcd", pcd_header("x y z", "binary", 50) + values.tobytes()))


def pack(content: bytes) -> bytes:
    """LZF of literal runs alone, but for zeros, which are a run of copies."""
    result, place = b"", 0
    while place < len(content):
        zeros = len(content[place:]) - len(content[place:].lstrip(b"\0"))
        if zeros >= 10:
            length = min(zeros - 1, 264)  # one literal zero, then copies of it
            result += b"\0\0" + bytes([7 << 5, length - 9, 0])
            place += 1 + length
        else:
            result += bytes([0, content[place]])
            place += 1
    return result


def test_compressed_pcd(save):
    values = np.array(POINTS[:, :3])
    values[10:30] = 0
    content = values.T.tobytes()  # field after field
    packed = pack(content)
    assert len(packed) < 2 * len(content) and pcd.unpack(packed, len(content)) == content
    body = np.array([len(packed), len(content)], "<u4").tobytes() + packed
    header = pcd_header("x y z", "binary_compressed", 50)
    assert (read(save("a.pcd", header + body)) == values).all()

    for bad in (body[:-20], body[:4], body[:8] + b"\xe0" * (len(packed) - 1) + b"\x20"):
        with pytest.raises(BadSample, match=r"is cut|are damaged"):
            read(save("b.pcd", header + bad))


def test_lzf_copies_of_a_pattern_that_overlap():
    """ "abc", then a copy of 7 bytes from 3 behind the end."""
    assert pcd.unpack(b"\x02abc" + bytes([5 << 5, 2]), 10) == b"abcabcabca"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "its header has no FIELDS"),
        (pcd_header("x y i", "ascii", 2) + b"1 2 3\n4 5 6\n", "the file has x, y, i"),
        (pcd_header("x y z", "ascii", 3) + b"1 2 3\n4 5 6\n", "is cut: it has 2 of 3 points"),
        (pcd_header("x y z", "binary", 50) + b"\0" * 30, "is cut: it has 2 of 50 points"),
        (pcd_header("x y z", "binary_lz4", 50), "DATA binary_lz4"),
        (pcd_header("x y", "ascii", 2) + b"1 2\n", "of unlike length"),
        (pcd_header("x y z", "ascii", 2) + b"1 2 c\n4 5 6\n", "is no readable .pcd file"),
    ],
)
def test_bad_pcd(save, content, reason):
    with pytest.raises(BadSample, match=reason):
        read(save("a.pcd", content))


# LAS


@pytest.fixture
def las(tmp_path):
    import laspy

    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = [0.001] * 3, [500_000, 6_000_000, 0]
    content = laspy.LasData(header)
    for axis, offset in zip("xyz", header.offsets, strict=True):
        setattr(content, axis, POINTS[:, "xyz".index(axis)].astype(float) + offset)
    content.red, content.intensity = np.full(50, 65535), np.arange(50)
    for ending in ("las", "laz"):
        content.write(str(tmp_path / f"a.{ending}"))
    return tmp_path


@pytest.mark.parametrize("ending", ["las", "laz"])
def test_las(las, ending, save):
    """Millimetres are kept at the coordinates of a map, where single precision has 0.5 m."""
    points = read(Item("a", str(las / f"a.{ending}")))
    assert np.abs(points[:, :3] - (POINTS[:, :3] - POINTS[:, :3].min(0))).max() < 0.002
    assert (points[:, 4:] == [1, 0, 0]).all() and np.allclose(points[:, 3] * 65535, range(50))

    content = (las / f"a.{ending}").read_bytes()
    for bad in (content[:-400], content[:100], b"x" * 500):
        with pytest.raises(BadSample, match=rf"is no readable .{ending} file|is cut"):
            read(save(f"b.{ending}", bad))


# Archives, missing packages


def test_members_of_archives(save, tmp_path, las):
    contents = {
        "a.txt": rows(),
        "a.npy": npy(POINTS),
        "a.npz": npz(points=POINTS),
        "a.h5": hdf5(tmp_path / "x.h5", points=POINTS),
        "a.ply": ply(),
        "m.ply": ply(VERTICES, faces="3 0 1 2"),
        "a.off": TRIANGLE,
        "a.pcd": pcd_header("x y z", "ascii", 50) + rows().encode(),
        "a.laz": (las / "a.laz").read_bytes(),
    }
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    for name in contents:
        member = Item(f"all.zip::{name}", str(tmp_path / "all.zip"), member=name)
        loose = save(name, contents[name])
        assert (read(member) == read(loose)).all(), name


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.ply", "plyfile", "points"),
        ("a.off", "trimesh", "points"),
        ("a.las", "laspy", "points"),
        ("a.h5", "h5py", "points"),
        ("a.fbx", "open3d", "open3d"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(save, monkeypatch, name, package, extra):
    real = builtins.__import__

    def without(module, *arguments, **options):
        if module.partition(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(module, *arguments, **options)

    item = save(name, ply() if name == "a.ply" else TRIANGLE)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf'pip install "lacuna-ssl\[{extra}\]"'):
        read(item)


def test_arrays_and_text_need_no_extra(save, monkeypatch):
    import sys

    for package in ("trimesh", "plyfile", "laspy", "h5py", "open3d"):
        monkeypatch.setitem(sys.modules, package, None)
    for item in (save("a.npy", npy(POINTS)), save("a.npz", npz(points=POINTS)), save("a.txt", rows(" ", 6))):
        assert read(item).shape == (50, 6)
    assert read(save("a.pcd", pcd_header("x y z", "ascii", 50) + rows().encode())).shape == (50, 3)


def _named_file(path, form, **arrays):
    if form == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    return Item("x", str(path))


@pytest.mark.parametrize("form", [".npz", ".h5"])
def test_several_arrays_are_channels(tmp_path, form):
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float16)
    normals = np.random.default_rng(1).integers(-127, 128, (20, 3), dtype=np.int8)
    height = np.arange(20, dtype=np.float32)
    item = _named_file(tmp_path / f"a{form}", form, points=points, normals=normals, height=height)
    cloud = files.read(item, 10, ["points", "normals", "height"]).points
    assert cloud.shape == (20, 7) and np.array_equal(cloud[:, 6], height)
    np.testing.assert_allclose(cloud[:, :3], points, atol=1e-6)
    np.testing.assert_allclose(cloud[:, 3:6], normals / 127, atol=1e-6)
    assert files.read(item, 10).points.shape == (20, 3)


@pytest.mark.parametrize("form", [".npz", ".h5"])
@pytest.mark.parametrize(
    "names, words", [(["points", "colour"], "'colour'"), (["points", "short"], "points 20, short 4")]
)
def test_arrays_that_do_not_fit(tmp_path, form, names, words):
    item = _named_file(tmp_path / f"a{form}", form, points=np.random.rand(20, 3), short=np.zeros((4, 1)))
    with pytest.raises(BadSample, match=f"modality.reader.arrays.*{words}"):
        files.read(item, 10, names)


def test_rows_of_several_arrays(tmp_path):
    points, normals = np.random.rand(3, 20, 3), np.random.randint(-127, 128, (3, 20, 3)).astype(np.int8)
    np.savez(tmp_path / "shapes.npz", points=points, normals=normals, label=np.array([0, 1, 1]))
    item = PointSource(str(tmp_path / "shapes.npz"), holdout=0.4).items("train")[0]
    cloud = files.read(item, 10, ["points", "normals"]).points
    (row,) = [number for number in range(3) if np.allclose(cloud[:, :3], points[number])]
    np.testing.assert_allclose(cloud[:, 3:], normals[row] / 127, atol=1e-6)
