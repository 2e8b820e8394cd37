import json
import shlex

from deploy.announcement import EXAMPLES, curl_command, death_text, example_for, ready_text
from deploy.plan import DEMO_BASES
from deploy.system import Death


def test_the_command_line_survives_a_shell():
    example = EXAMPLES[0]
    program, url, *arguments = shlex.split(curl_command("http://h:1", example))
    assert (program, url) == ("curl", f"http://h:1/models/{example.model}")
    assert json.loads(arguments[arguments.index("-d") + 1]) == {"inputs": example.prompt}
    assert arguments[-2:] == ["-o", "picture.png"]


def test_both_bases_of_the_demo_have_an_adapter_to_try():
    assert all(example_for(base).model != base for base in DEMO_BASES)


def test_an_unknown_base_is_tried_by_itself():
    assert example_for("a/b").model == "a/b"


def test_it_says_where_what_how_and_how_to_stop():
    text = ready_text("http://h:1", ("a/b", "c/d"), 3.21)
    for part in ("after 3.2 s: http://h:1", "a/b, c/d", "/models/a/b ", "/models/c/d ", "Ctrl-C"):
        assert part in text


def test_a_death_names_the_part_how_it_ended_and_its_last_words():
    text = death_text(Death(name="hub", exit_code=3, tail=('{"message": "no such folder", "x": 1}', "end")))
    assert text == (
        "hub ended by itself with exit code 3, so everything was stopped. Its last lines:\n"
        "  no such folder (x=1)\n  end"
    )


def test_a_death_by_signal_names_the_signal():
    assert "was ended by SIGKILL" in death_text(Death(name="hub", exit_code=-9, tail=()))
    assert "was ended by signal 63" in death_text(Death(name="hub", exit_code=-63, tail=()))
