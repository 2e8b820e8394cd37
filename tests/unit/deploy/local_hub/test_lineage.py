import pytest

from deploy.local_hub.lineage import Relation, base_models, relation


@pytest.mark.parametrize(
    ("base_model", "named"),
    [
        ("house/base", ("house/base",)),
        (["house/base", "house/other", "house/base"], ("house/base", "house/other")),
        ("./output/merged", ()),
        ("https://example.org/house/base", ()),
        (" house/base", ()),
        (["house/base", 7, None], ("house/base",)),
        (None, ()),
    ],
)
def test_only_what_can_be_an_id_is_a_base(base_model, named):
    assert base_models({"base_model": base_model}) == named


@pytest.mark.parametrize(
    ("tags", "files", "bases", "inferred"),
    [
        (["lora"], [], ["a/b"], Relation.ADAPTER),
        (["LoRA"], [], ["a/b"], Relation.ADAPTER),
        (["template:sd-lora"], [], ["a/b"], Relation.ADAPTER),
        ([], ["adapter_config.json"], ["a/b"], Relation.ADAPTER),
        ([], ["pytorch_lora_weights.bin"], ["a/b"], Relation.ADAPTER),
        (["lora"], [], ["a/b", "c/d"], Relation.ADAPTER),
        ([], ["style.safetensors"], ["a/b"], Relation.FINETUNE),
        ([], [], ["a/b", "c/d"], Relation.MERGE),
    ],
)
def test_the_relation_is_inferred_from_what_is_there(tags, files, bases, inferred):
    assert relation({}, tags, files, bases) is inferred


def test_the_cards_word_goes_before_all_signs():
    assert relation({"base_model_relation": "quantized"}, ["lora"], [], ["a/b"]) is Relation.QUANTIZED


def test_a_relation_that_does_not_exist_is_passed_over():
    assert relation({"base_model_relation": ["adapter"]}, [], [], ["a/b"]) is Relation.FINETUNE
