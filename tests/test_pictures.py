"""Pictures: the policy's server and the PRM see the same pixels, whatever the file is; a question points to them."""

import base64
import io
import json
import random
import zlib

import numpy as np
import pytest
from conftest import run_forked
from fake_server import ChatServer, seeded_policy, text_of
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from mm_prm import pictures
from mm_prm.cli import BadInput, Fault
from mm_prm.pictures import look, lost_pointers, open_picture, picture_bytes, place_pictures
from mm_prm.policy import image_part
from mm_prm.prm_model import image_tiles, image_token_counts, load_processor
from mm_prm.records import read_seed
from mm_prm.servers import readable

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken metadata
SIZE = (40, 24)


def drawing(mode="RGB"):
    """Blue on white, not symmetric in any way, 40 wide and 24 high."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((3, 2, 20, 9), fill=(20, 60, 200))
    draw.line((0, 23, 30, 12), fill=(200, 0, 0))
    return image.convert(mode)


def transparent():
    """The same drawing: its white is a hole, black beneath."""
    image = drawing("RGBA")
    pixels = np.array(image)
    pixels[(pixels[..., :3] == 255).all(-1)] = 0
    return Image.fromarray(pixels)


def colour_key(mode, key):
    """A PNG in which one colour, white in the drawing, is transparent."""
    image = drawing(mode)
    pixels = np.array(image)
    pixels[pixels == 255 if mode == "L" else (pixels == 255).all(-1)] = key
    return Image.fromarray(pixels), key


def palette():
    image = transparent().convert("RGB").quantize(8)
    return image, image.getpixel((39, 0))


def exif(turn):
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


def turned(turn):
    """The drawing as it lies in a file that says by EXIF how it is to be turned."""
    back = [None, None, 0, 3, 1, 5, 2, 6, 4][turn]  # 6 and 8 undo each other: quarter turns
    return drawing() if back is None else drawing().transpose(Image.Transpose(back))


def grey(dtype, *tones):
    """Two halves of one tone each."""
    levels = np.full(SIZE[::-1], tones[0], dtype)
    levels[:, 20:] = tones[1]
    return Image.fromarray(levels)


def lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(drawing(), *profiles, outputMode="LAB")


def files(folder):
    """A file of every kind: what is lossless and shows the drawing is called same_*."""
    frames = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")]}
    keyed, key = colour_key("RGB", (9, 9, 9))
    grey_key, level = colour_key("L", 5)
    indexed, hole = palette()
    several = bytes(0 if index == hole else 255 for index in range(256))
    made = [
        ("same_rgb.png", drawing(), {}),
        ("same_rgba.png", transparent(), {}),
        ("same_key.png", keyed, {"transparency": key}),
        ("same_palette.png", indexed, {"transparency": hole}),
        ("same_palette_alphas.png", indexed, {"transparency": several}),
        ("same_frames.png", drawing(), frames),
        ("same_frames_transparent.gif", transparent(), {**frames, "disposal": 2}),
        ("same.webp", transparent(), {"lossless": True, "exact": True}),
        ("same_frames.webp", drawing(), {"lossless": True, **frames}),
        ("same.bmp", drawing(), {}),
        ("same.ppm", drawing(), {}),
        ("same.tga", transparent(), {}),
        ("same.tiff", transparent(), {"compression": "tiff_lzw"}),
        ("same_pages.tiff", drawing(), frames),
        ("same.jp2", drawing(), {"irreversible": False}),
        *((f"same_turn_{turn}.png", turned(turn), {"exif": exif(turn)}) for turn in range(1, 9)),
        ("same_turned.webp", turned(6), {"lossless": True, "exif": exif(6)}),
        ("same_turned.tiff", turned(6), {"exif": exif(6)}),
        ("turned.jpg", turned(8), {"exif": exif(8), "quality": 95}),
        ("plain.jpg", drawing(), {"exif": exif(1)}),
        ("grey.jpg", drawing("L"), {}),
        ("cmyk.jpg", drawing("CMYK"), {}),
        ("two.mpo", drawing(), frames),
        ("grey.png", drawing("L"), {}),
        ("grey_alpha.png", transparent().convert("LA"), {}),
        ("grey_key.png", grey_key, {"transparency": level}),
        ("black_and_white.png", drawing("1"), {}),
        ("deep.png", grey("uint16", 12000, 40000), {}),
        ("deep_key.png", grey("uint16", 12000, 40000), {"transparency": 40000}),
        ("deep.tiff", grey("uint16", 12000, 40000), {}),
        ("deep.pgm", grey("uint16", 12000, 40000), {}),
        ("whole.tiff", grey("int32", 12000, 40000), {}),
        ("floats.tiff", grey("float32", 0.25, 0.75), {}),
        ("lab.tiff", lab(), {}),
        ("ycbcr.tiff", drawing("YCbCr"), {}),
        ("cmyk.tiff", drawing("CMYK"), {}),
        ("palette_alpha.tiff", transparent().convert("LA"), {}),
        ("lossy.avif", transparent(), {}),
        ("icon.ico", transparent().resize((32, 32)), {}),
    ]
    for name, image, options in made:
        image.save(folder / name, **options)
    return [folder / name for name, *_ in made]


@pytest.fixture(scope="module")
def every_file(tmp_path_factory):
    return files(tmp_path_factory.mktemp("pictures"))


def test_a_file_of_every_kind_shows_the_drawing(every_file):
    for path in (path for path in every_file if path.name.startswith("same")):
        image = open_picture(path)
        assert image.mode == "RGB" and image.size == SIZE, path.name
        assert np.abs(np.asarray(image).astype(int) - np.asarray(drawing())).max() <= 1, path.name


def test_lossy_files_come_close_to_it(every_file):
    for path in every_file:
        if path.name in ("turned.jpg", "plain.jpg", "cmyk.jpg", "lab.tiff", "ycbcr.tiff", "cmyk.tiff", "lossy.avif"):
            difference = np.asarray(open_picture(path)).astype(int) - np.asarray(drawing())
            assert np.abs(difference).mean() < 12, path.name
            assert open_picture(path).size == look(str(path))[:2] == SIZE


def test_the_server_decodes_what_the_prm_sees(every_file):
    """vLLM's own decoder, without a server."""
    server = pytest.importorskip("vllm.multimodal.media.image").ImageMediaIO()
    for path in every_file:
        kind, data = image_part(str(path))["image_url"]["url"].removeprefix("data:").split(";base64,")
        decoded = server.load_base64(kind, data).media.convert("RGB")  # as its processor does
        assert decoded.size == look(str(path))[:2]
        assert np.array_equal(np.asarray(decoded), np.asarray(open_picture(path))), path.name


def test_tiles_are_counted_as_they_are_cut(every_file, desk, tmp_path):
    processor = load_processor(str(desk))
    processor.image_processor.crop_to_patches, processor.image_processor.max_patches = True, 6
    paths = [str(path) for path in every_file]
    for name, turn in (("wide.png", 1), ("high.png", 6)):
        Image.new("RGB", (600, 100), "red").save(tmp_path / name, exif=exif(turn))
        paths.append(str(tmp_path / name))
    pixels, counts = image_tiles(processor, paths)
    assert image_token_counts(processor, paths) == counts and sum(counts) == 16 * len(pixels)
    assert counts[-1] == counts[-2] > 16


def test_only_plain_files_are_sent_as_they_are(every_file):
    own = {path.name for path in every_file if picture_bytes(str(path))[1] == path.read_bytes()}
    assert own == {"same_rgb.png", "same_frames.png", "same_turn_1.png", "plain.jpg", "grey.jpg", "grey.png"}
    kinds = {picture_bytes(str(path))[0] for path in every_file}
    assert kinds == {"image/png", "image/jpeg"}


@pytest.mark.parametrize(
    ("name", "image", "options", "tones"),
    [
        ("a.png", grey("uint16", 12000, 40000), {}, (47, 156)),
        ("b.png", grey("uint16", 12000, 40000), {"transparency": 40000}, (47, 255)),
        ("c.pgm", grey("uint16", 257, 65535), {}, (1, 255)),
        ("d.tiff", grey("int32", 100, 200), {}, (100, 200)),
        ("e.tiff", grey("int32", 12000, 40000), {}, (47, 156)),
        ("f.tiff", grey("int32", 10**6, 10**9), {}, (0, 255)),
        ("g.tiff", grey("float32", 0.2, 1), {}, (51, 255)),
        ("h.tiff", grey("float32", 20, 200), {}, (20, 200)),
        ("i.tiff", grey("float32", -3, 65535), {}, (0, 255)),
        ("j.tiff", grey("float32", np.nan, np.inf), {}, (0, 0)),
        ("k.tiff", grey("float32", 0, 1e30), {}, (0, 255)),
    ],
)
def test_a_deeper_picture_is_scaled_to_8_bits(tmp_path, name, image, options, tones):
    image.save(tmp_path / name, **options)
    seen = open_picture(tmp_path / name)
    assert (seen.getpixel((0, 0))[0], seen.getpixel((39, 0))[0]) == tones


def test_a_colour_key_of_16_bits_is_transparent(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    chunk = PngImagePlugin.putchunk
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(8)
    chunk(file, b"IHDR", (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0]))
    chunk(file, b"tRNS", bytes.fromhex("8001") * 3)
    chunk(file, b"IDAT", zlib.compress(b"\0" + bytes.fromhex("8001") * 3 + bytes.fromhex("4000") * 3))
    chunk(file, b"IEND", b"")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    assert list(np.asarray(open_picture(tmp_path / "a.png"))[0, :, 0]) == [255, 0x40]


def test_what_a_decoder_raises_names_the_file(every_file, tmp_path):
    rng, refused = random.Random(0), 0
    for source in every_file:
        data = source.read_bytes()
        for number in range(12):
            broken = bytearray(data)
            for _ in range(4):
                broken[rng.randrange(len(data))] = rng.randrange(256)
            path = tmp_path / f"{number}{source.name}"
            path.write_bytes(broken if number else data[: len(data) // 2])
            try:
                open_picture(path)
            except ValueError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
                refused += 1
    assert refused > len(every_file)


@pytest.mark.parametrize(
    "error", [MemoryError(), IndexError("x"), SyntaxError("a\nb"), RuntimeError(), OverflowError()]
)
def test_any_exception_of_a_decoder_is_that_pictures_error(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    drawing().save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ValueError, match=r"a.png cannot be opened as an image \(.+\)$"):
        look(str(tmp_path / "a.png"))
    with pytest.raises(Fault, match="image .*a.png cannot be opened"):
        image_part(str(tmp_path / "a.png"))


def test_postscript_is_not_handed_to_another_program(tmp_path):
    drawing().save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match=r"a.eps cannot be opened as an image \(it is EPS"):
        open_picture(tmp_path / "a.eps")


def test_broken_exif_does_not_cost_the_picture(tmp_path):
    drawing().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\0\0")
    assert open_picture(tmp_path / "a.jpg").size == SIZE


def test_a_url_or_a_whole_picture_is_no_path(tmp_path):
    data = base64.b64encode(bytes(4000)).decode()
    for image, words in (
        ("https://example.org/a.png", "https://example.org/a.png is not the path of a file"),
        (f"data:image/png;base64,{data}", "a data URI is not the path"),
        (data, "cannot be opened"),
    ):
        row = {"id": "a", "question": "q", "correct_answer": "1", "image_path": image}
        (tmp_path / "seed.json").write_text(json.dumps([row]))
        with pytest.raises(BadInput, match=words) as error:
            read_seed(tmp_path / "seed.json")
        assert len(str(error.value)) < 500 and "AAAAAAAA" not in str(error.value).partition("...")[2]


def test_no_message_repeats_a_picture():
    said = readable("bad request:\n {'url': 'data:image/png;base64,iVBORw0KGgo+/=='}" + 1000 * " x")
    assert said.startswith("bad request: {'url': '(picture)'} x") and len(said) == 400
    assert readable(f"no picture: {'Zm9v' * 100}!") == "no picture: (picture)!"


@pytest.mark.parametrize(
    ("question", "count", "placed", "lost"),
    [
        ("How many?", 1, "How many?", 0),
        ("<image>\nHow many?", 1, "How many?", 0),
        ("<image>\n<image>\nWhich, <image2> or <image_1>?", 2, "Which, [image 2] or [image 1]?", 0),
        ("Look at <image>. How many?", 1, "Look at [image 1]. How many?", 0),
        ("Image-1: <image>\nImage-2: <image>\nWhich?", 2, "Image-1: [image 1]\nImage-2: [image 2]\nWhich?", 0),
        ("See <img_3362>, <img_77> and <img_3362>", 2, "See [image 1], [image 2] and [image 1]", 0),
        ("<image_0> or <image_1>?", 2, "[image 1] or [image 2]?", 0),
        ('As <img src="a.png"/> and <Image 2> show', 2, "As [image 1] and [image 2] show", 0),
        ("<|image_1|> and <img>", 2, "[image 1] and [image 1]", 0),
        ("Which kite?\n<image1>\n<image2>", 1, "Which kite?\n[image 1]\n[image 2]", 1),
        ("<image>\n<image>\nWhich?", 1, "[image 2]\nWhich?", 1),
        ("<image>", 1, "[image 1]", 0),
        ("is a<image or img>b?", 0, "is a<image or img>b?", 0),
    ],
)
def test_a_question_points_to_its_pictures_in_words(question, count, placed, lost):
    assert place_pictures(question, count) == placed
    assert place_pictures(placed, count) == placed
    assert lost_pointers(placed, count) == lost


def test_a_question_that_points_to_a_picture_needs_one(seed_file):
    rows = json.loads(seed_file.read_text())
    rows[2]["question"] = "Is <image_2> larger?"
    seed_file.write_text(json.dumps(rows))
    with pytest.raises(
        BadInput, match=r"id c\): field 'question': points to a picture \(<image_2>\), but there is none"
    ):
        read_seed(seed_file)


def test_no_placeholder_reaches_the_server_and_lost_ones_are_counted(seed_file, tmp_path):
    row = json.loads(seed_file.read_text())[0]
    questions = ["Look at <image>. x?", "<image>\nx?", "<image1> is part of <image2>, x?"]
    rows = [row | {"id": str(number), "question": question} for number, question in enumerate(questions)]
    seed_file.write_text(json.dumps(rows))
    with ChatServer(seeded_policy) as server:
        args = ["--policy_endpoint", server.url, "--model", "m", "--num_rollouts", "2", "--concurrency", "1"]
        args += ["--benchmark", "seed", "--data", seed_file, "--output_file", tmp_path / "out" / "r.json"]
        done = run_forked("eval/generate_rollouts.py", *args)
    assert done.returncode == 0, done.stderr
    sent = [text_of(request).rpartition("Question: ")[2] for request in server.requests]
    assert sent == ["Look at [image 1]. x?", "x?", "[image 1] is part of [image 2], x?"]
    assert "1 questions point to more pictures than they have: id 2" in done.stderr
    record = json.loads((tmp_path / "out" / "r.json").read_text())[0]
    assert record["question"] == sent[0] and record["image_path"] == str(tmp_path / "p0.png")


def test_the_limit_is_checked_before_a_picture_is_decoded(tmp_path, monkeypatch):
    drawing().save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_IMAGE_PIXELS", 959)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    with pytest.raises(ValueError, match="960 pixels, over the limit 959"):
        open_picture(tmp_path / "a.png")
