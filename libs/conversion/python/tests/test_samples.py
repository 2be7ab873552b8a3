import numpy as np
import pytest
from PIL import Image

from reef_convert.events import ConvertError
from reef_convert.samples import load_image, open_samples, sameness

SHAPES = [[1, 16, 16, 3]]


def opened(path, preprocessing, tmp_path, *, filename=None, shapes=SHAPES, names=("images",), limit=None, what="calibration"):
    return open_samples(path, filename or path.name, preprocessing, shapes, list(names), tmp_path / "scratch", limit, what)


def code_of(*args, **options):
    with pytest.raises(ConvertError) as caught:
        opened(*args, **options)
    return caught.value.code


def test_pictures_with_their_labels(pictures, preprocessing, tmp_path):
    samples = opened(pictures, preprocessing, tmp_path)
    assert samples.count == 30 and samples.labels[:3] == ["red", "green", "blue"] and samples.names[0] == "00.png"
    first = next(iter(samples))[0]
    assert first.shape == (1, 16, 16, 3) and first.dtype == np.float32 and -1 <= first.min() and first.max() <= 1
    assert [one[0].shape for one in samples] == [one[0].shape for one in samples], "it can be read again"


def test_a_limit_takes_from_the_whole_set(pictures, preprocessing, tmp_path):
    assert opened(pictures, preprocessing, tmp_path, limit=3).names == ["00.png", "10.png", "20.png"]


@pytest.mark.parametrize(
    "colours, noise, said",
    [
        ([(200, 30, 30)] * 4, 0, "one and the same colour"),
        ([(0, 0, 0)] * 4, 0, "one and the same colour"),
        ([(200, 30, 30), (30, 200, 30), (30, 30, 200)], 0, "3 of 3 calibration samples are of one colour each"),
        ([(200, 30, 30), (30, 200, 30), (30, 30, 200)], 40, None),
    ],
)
def test_a_set_of_plain_colours_is_called_that(preprocessing, tmp_path, colours, noise, said):
    (tmp_path / "set").mkdir()
    for index, colour in enumerate(colours):
        grain = np.random.default_rng(index).integers(-noise, noise + 1, (20, 20, 3))
        Image.fromarray(np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)).save(tmp_path / "set" / f"{index}.png")
    told = sameness(opened(tmp_path / "set", preprocessing, tmp_path))
    assert told is None if said is None else said in told


def test_stretch_and_centre_crop(preprocessing, tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    plain = {**preprocessing, "mean": [0], "std": [1]}
    cropped = load_image(tmp_path / "a.png", {**plain, "resize": "center-crop"})
    # The scaling filter reaches over the cut, as it does on the devices, which scale first and cut then.
    assert cropped[0, :, 1:-1].min() == 255 and cropped.min() > 200
    stretched = load_image(tmp_path / "a.png", plain)[0, 0, :, 0]
    assert stretched[0] == 0 and stretched[8] == 255 and stretched[15] == 0


def test_any_size_can_be_cropped(preprocessing, tmp_path):
    for size in ((7, 300), (300, 7), (17, 16), (1, 1), (223, 331)):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a.png")
        assert load_image(tmp_path / "a.png", {**preprocessing, "resize": "center-crop"}).shape == (1, 16, 16, 3)


def test_each_channel_has_its_own_mean(preprocessing, tmp_path):
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "a.png")
    values = load_image(tmp_path / "a.png", {**preprocessing, "mean": [10, 10, 10], "std": [1, 2, 4]})
    assert values[0, 0, 0].tolist() == [0, 5, 5]


def test_transparency_is_black_grey_is_spread_and_rotation_is_undone(preprocessing, tmp_path):
    plain = {**preprocessing, "mean": [0], "std": [1]}
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png", plain).max() == 0
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png", plain)[0, 0, 0].tolist() == [77, 77, 77]
    assert load_image(tmp_path / "grey.png", {**plain, "channels": 1}).shape == (1, 16, 16, 1)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert load_image(tmp_path / "turned.png", plain)[0, 0, 0, 0] == 0


def test_nothing_there(preprocessing, tmp_path):
    (tmp_path / "empty").mkdir()
    assert code_of(tmp_path / "empty", preprocessing, tmp_path) == "calibration.empty"
    assert code_of(tmp_path / "empty", preprocessing, tmp_path, what="samples") == "samples.empty"


def test_some_unreadable_pictures_are_left_out_all_are_refused(preprocessing, tmp_path, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"not a picture")
    assert code_of(folder, preprocessing, tmp_path) == "calibration.unreadable"
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    assert opened(folder, preprocessing, tmp_path).names == ["good.png"]
    assert "bad.jpg" in capsys.readouterr().out


def test_something_else_than_pictures(preprocessing, tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert code_of(tmp_path / "a.txt", preprocessing, tmp_path) == "calibration.unreadable"


def test_pictures_do_not_fit_a_model_with_two_inputs(pictures, preprocessing, tmp_path):
    assert code_of(pictures, preprocessing, tmp_path, shapes=[[1, 4], [1, 4]], names=("a", "b")) == "calibration.not_images"


@pytest.mark.parametrize("text", [b"name;class\na;b\n", b"", b"\xff\xfe\x00bad"])
def test_labels_that_cannot_be_read(preprocessing, tmp_path, text):
    folder = tmp_path / "labelled"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "labels.csv").write_bytes(text)
    assert code_of(folder, preprocessing, tmp_path) == "calibration.labels_unreadable"


def test_labels_as_a_spreadsheet_writes_them(preprocessing, tmp_path):
    folder = tmp_path / "labelled"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "labels.csv").write_bytes("\ufefffile, label\r\na.png, red fox\r\nsub/b.png,7\r\nc.png\r\ngone.png,x\r\n".encode())
    samples = opened(folder, preprocessing, tmp_path)
    assert dict(zip(samples.names, samples.labels)) == {"a.png": "red fox", "sub/b.png": "7", "c.png": None}


def test_arrays(preprocessing, tmp_path):
    np.savez(tmp_path / "a.npz", b=np.ones((5, 2), np.float32), a=np.zeros((5, 3), np.uint8), labels=np.arange(5))
    samples = opened(tmp_path / "a.npz", {"kind": "raw"}, tmp_path, shapes=[[1, 3], [1, 2]], names=("a", "b"))
    assert samples.count == 5 and samples.labels == ["0", "1", "2", "3", "4"]
    assert [column.shape for column in next(iter(samples))] == [(1, 3), (1, 2)], "by name, whatever their order in the file"


def test_arrays_that_do_not_fit(tmp_path):
    raw = {"kind": "raw"}
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 3), np.float32))
    assert code_of(tmp_path / "a.npz", raw, tmp_path, shapes=[[1, 4]], names=("x",)) == "calibration.shape_differs"
    assert code_of(tmp_path / "a.npz", raw, tmp_path, shapes=[[1, 3], [1, 3]], names=("x", "y")) == "calibration.shape_differs"
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 3), np.float32))
    assert code_of(tmp_path / "none.npz", raw, tmp_path, shapes=[[1, 3]], names=("x",)) == "calibration.empty"
    np.savez(tmp_path / "code.npz", x=np.array([{"a": 1}], dtype=object))
    assert code_of(tmp_path / "code.npz", raw, tmp_path, shapes=[[1, 3]], names=("x",)) == "calibration.unreadable"
    (tmp_path / "text.npz").write_bytes(b"hello")
    assert code_of(tmp_path / "text.npz", raw, tmp_path, shapes=[[1, 3]], names=("x",)) == "calibration.unreadable"
    np.savez(tmp_path / "labels.npz", x=np.zeros((5, 3), np.float32), labels=np.zeros(4))
    assert code_of(tmp_path / "labels.npz", raw, tmp_path, shapes=[[1, 3]], names=("x",)) == "calibration.labels_unreadable"
