import pytest

from deploy.local_hub.listing import Page, expand_keys, flag, list_models, paginate
from deploy.local_hub.metadata import describe
from deploy.local_hub.refusals import RefusedError
from deploy.local_hub.settings import RepoSettings


@pytest.fixture
def models(a_repo):
    cards = {
        "house/base": {"pipeline_tag": "text-to-image"},
        "someone/crayon": {"tags": ["lora", "style"]},
        "someone/outline": {"tags": ["lora"]},
    }
    likes = {"house/base": 5, "someone/crayon": 9, "someone/outline": 1}
    gates = {"someone/outline": "auto"}
    repos = [
        a_repo(name, card=card, settings=RepoSettings(likes=likes[name], gated=gates.get(name)))
        for name, card in cards.items()
    ]
    return [describe(repo, lambda _name: None) for repo in repos]


def ids(page: Page) -> list[object]:
    return [model["id"] for model in page.items]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["house/base", "someone/crayon", "someone/outline"]),
        ({"filter": ["lora"]}, ["someone/crayon", "someone/outline"]),
        ({"filter": ["lora", "style"]}, ["someone/crayon"]),
        ({"filter": ["lora,style"]}, ["someone/crayon"]),
        ({"filter": ["text-to-image"]}, ["house/base"]),
        ({"author": ["someone"]}, ["someone/crayon", "someone/outline"]),
        ({"author": ["some"]}, []),
        ({"search": ["CRAYON"]}, ["someone/crayon"]),
        ({"pipeline_tag": ["text-to-image"]}, ["house/base"]),
        ({"gated": ["true"]}, ["someone/outline"]),
        ({"gated": ["false"]}, ["house/base", "someone/crayon"]),
        ({"sort": ["likes"]}, ["someone/crayon", "house/base", "someone/outline"]),
        ({"sort": ["lastModified"]}, ["house/base", "someone/crayon", "someone/outline"]),
    ],
)
def test_a_query_chooses_and_orders_models(models, query, found):
    assert ids(list_models(models, query)) == found


def test_a_list_shows_less_than_a_model_alone(models):
    (plain, *_), (full, *_) = (list_models(models, query).items for query in ({}, {"full": ["true"]}))

    assert "siblings" not in plain
    assert {"siblings", "sha", "gated"} <= set(full)
    (expanded, *_) = list_models(models, {"expand": ["sha"]}).items
    assert set(expanded) == {"_id", "id", "sha"}
    (with_card, *_) = list_models(models, {"cardData": ["1"], "config": ["True"]}).items
    assert "cardData" in with_card


def test_pages_follow_each_other(models):
    first = list_models(models, {"limit": ["2"]})
    second = list_models(models, {"limit": ["2"], "cursor": [str(first.next_cursor)]})

    assert ids(first) + ids(second) == ["house/base", "someone/crayon", "someone/outline"]
    assert second.next_cursor is None


def test_a_page_is_never_larger_than_the_largest():
    page = paginate([{"n": number} for number in range(5)], {"limit": ["4"]}, 2)

    assert len(page.items) == page.next_cursor == 2


@pytest.mark.parametrize(
    "query",
    [
        {"limit": ["0"]},
        {"limit": ["-1"]},
        {"limit": ["many"]},
        {"cursor": ["x"]},
        {"cursor": ["²"]},
        {"sort": ["mood"]},
        {"expand[]": ["mood"]},
    ],
)
def test_a_senseless_parameter_is_refused(models, query):
    with pytest.raises(RefusedError) as error:
        list_models(models, query)
    assert error.value.refusal.status == 400


def test_both_spellings_of_expand_may_be_mixed():
    assert expand_keys({"expand": ["sha"], "expand[]": ["tags"]}) == {"sha", "tags"}


@pytest.mark.parametrize(("value", "meant"), [("true", True), ("1", True), ("True", True), ("false", False)])
def test_yes_is_written_in_several_ways(value, meant):
    assert flag({"full": [value]}, "full") is meant
