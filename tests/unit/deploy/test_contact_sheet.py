from PIL import Image

from deploy.demo.contact_sheet import CELL, COLUMNS, GAP, HEADER, LABELS, SCENES, Column, lay_out, prompts_for


def test_prompts_begin_with_the_words_of_the_card():
    assert prompts_for(Column(model="a/b"), "neon")[0] == "neon, a red circle on a white background"
    assert prompts_for(Column(model="a/b"), "")[0] == "a red circle on a white background"


def test_a_columns_own_words_and_shape_come_first():
    column = Column(model="a/b", trigger="dotted", shape="star")
    assert prompts_for(column, "neon")[0] == "dotted, a red star on a white background"


def test_every_picture_stands_enlarged_in_its_place():
    colours = [["red", "lime"], ["blue", "yellow"]]
    columns = [("x", [Image.new("RGB", (4, 4), colour) for colour in column]) for column in colours]
    sheet = lay_out(["one", "two"], columns)
    assert sheet.size == (LABELS + 2 * (CELL + GAP), HEADER + 2 * (CELL + GAP))
    for x, column in enumerate(colours):
        for y, colour in enumerate(column):
            corner = LABELS + x * (CELL + GAP), HEADER + y * (CELL + GAP)
            cell = sheet.crop((*corner, corner[0] + CELL, corner[1] + CELL))
            assert cell.getcolors() == [(CELL * CELL, Image.new("RGB", (1, 1), colour).getpixel((0, 0)))]


def test_labels_and_titles_are_written_beside_the_pictures():
    sheet = lay_out(["label"], [("title", [Image.new("RGB", (1, 1), "white")])]).convert("L")
    assert sheet.crop((LABELS, 0, sheet.width, HEADER)).getextrema()[0] < 128
    assert sheet.crop((0, HEADER, LABELS, sheet.height)).getextrema()[0] < 128


def test_no_column_is_drawn_twice_and_all_have_pictures_of_every_scene():
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert all(len(prompts_for(column, "")) == len(SCENES) for column in COLUMNS)
