from dataclasses import replace

import pytest

from router.body import SourcePicture
from router.classify import FullModel, LoraAdapter, Unsupported
from router.hub_metadata import CardDefaults
from router.negotiation import AnswerForm
from router.placement import place, serving_pools
from router.schemas import GenerationRequest, WantedAdapter
from router.strengths import WantedStrength
from shared.config import Limits
from shared.errors import AmbiguousWeights, InvalidRequest, NoPoolForBase, UnsupportedModel
from shared.jobs import ImageFormat
from shared.pools import BasePool
from shared.refs import AdapterRef, RepoId
from tests.builders import COMMIT, a_worker

SDXL, SD15 = RepoId("stability/sdxl"), RepoId("stable-diffusion-v1-5/stable-diffusion-v1-5")
POOLS = [BasePool(base=base, workers=(a_worker(base=base),)) for base in (SDXL, SD15)]
FILE = "pytorch_lora_weights.safetensors"
SEED = 41


def adapter(repo="some/style", **changes):
    found = LoraAdapter(
        repo=RepoId(repo),
        revision=COMMIT,
        bases=(SDXL,),
        weight_files=(FILE,),
        weight_name=FILE,
        restricted=False,
        defaults=CardDefaults(),
        trigger="",
        evidence=(),
    )
    return replace(found, **changes)


def full(repo=SDXL):
    return FullModel(repo=RepoId(repo), revision=COMMIT, pipeline_class="", evidence=())


def wanted(repo="some/other", **changes):
    return replace(WantedAdapter(field="parameters.loras[0].model", repo=RepoId(repo)), **changes)


def asked(**changes):
    request = GenerationRequest(
        model=RepoId("some/style"), prompt="a cat", form=AnswerForm(image_format=ImageFormat.WEBP)
    )
    return replace(request, **changes)


def put(request, model, *others, pools=POOLS):
    return place(request, model, others, pools, limits=Limits(), seed=SEED)


SOURCE = SourcePicture(data=b"picture", digest="ab" * 32)


def test_a_picture_leaves_its_size_to_the_worker():
    pools = [BasePool(base=SDXL, workers=(a_worker(base=SDXL, image_to_image=True),))]
    params = put(asked(source=SOURCE, source_strength=0.4), adapter(), pools=pools).params
    assert (params.source, params.strength) == (SOURCE.digest, 0.4)
    assert (params.width, params.height, params.steps) == (None, None, 20)
    sized = put(asked(source=SOURCE, width=32, height=64), adapter(), pools=pools).params
    assert (sized.width, sized.height, sized.strength) == (32, 64, None)


def test_a_base_that_does_not_start_from_pictures_is_refused_before_anything_waits():
    with pytest.raises(InvalidRequest, match=f"{SDXL} does not start from a picture") as caught:
        put(asked(source=SOURCE), adapter())
    assert caught.value.field == "inputs"


def test_an_adapter_is_pinned_to_commit_and_file_on_its_base():
    placement = put(asked(), adapter())

    assert placement.base == SDXL
    assert placement.adapters == (AdapterRef(repo=RepoId("some/style"), revision=COMMIT, weight_name=FILE),)
    assert placement.restricted == ()


def test_a_base_runs_without_adapters():
    placement = put(asked(model=SDXL), full())

    assert (placement.base, placement.adapters) == (SDXL, ())


def test_the_seed_of_the_request_wins_and_zero_is_one():
    assert put(asked(seed=0), adapter()).params.seed == 0
    assert put(asked(), adapter()).params.seed == SEED


def test_the_request_overrides_the_card_and_the_card_fills_what_is_open():
    card = CardDefaults(steps=4, guidance_scale=1.0, scheduler="LCMScheduler")
    filled = put(asked(), adapter(defaults=card)).params
    overridden = put(asked(steps=9, guidance_scale=0.0, scheduler="X"), adapter(defaults=card)).params

    assert (filled.steps, filled.guidance_scale, filled.scheduler) == (4, 1.0, "LCMScheduler")
    assert (overridden.steps, overridden.guidance_scale, overridden.scheduler) == (9, 0.0, "X")


def test_a_few_step_adapter_beside_a_style_brings_its_parameters():
    few = adapter("some/lcm", defaults=CardDefaults(steps=4, guidance_scale=0.0))
    params = put(asked(adapters=(wanted("some/lcm"),)), adapter(), few).params

    assert (params.steps, params.guidance_scale) == (4, 0.0)


def test_a_few_step_adapter_whose_card_says_nothing_is_known_by_its_name():
    few = adapter("latent-consistency/lcm-lora-sdxl")
    params = put(asked(), few).params

    assert (params.steps, params.guidance_scale, params.scheduler) == (4, 1.0, "LCMScheduler")


def test_it_goes_before_the_card_of_a_style_and_after_its_own_and_the_request():
    style = adapter(defaults=CardDefaults(steps=30, guidance_scale=7.0, scheduler="DDIMScheduler"))
    few = adapter("some/sdxl-lightning", defaults=CardDefaults(guidance_scale=0.5))
    params = put(asked(steps=6, adapters=(wanted("some/sdxl-lightning"),)), style, few).params

    assert (params.steps, params.guidance_scale) == (6, 0.5)
    assert (params.scheduler, params.timestep_spacing) == ("EulerDiscreteScheduler", "trailing")


def test_the_option_of_a_scheduler_does_not_outlive_the_request_for_another_one():
    params = put(asked(scheduler="DDIMScheduler"), adapter("some/sdxl-lightning")).params

    assert (params.scheduler, params.timestep_spacing) == ("DDIMScheduler", None)


def test_a_scheduler_that_the_base_does_not_take_is_not_recommended_to_it():
    pools = [BasePool(base=SDXL, workers=(a_worker(base=SDXL, schedulers=("DDIMScheduler",)),))]
    few, card = adapter("some/sdxl-lightning"), adapter(defaults=CardDefaults(scheduler="DDIMScheduler"))
    params = put(asked(), few, pools=pools).params
    assert (params.steps, params.guidance_scale) == (4, 0.0)
    assert (params.scheduler, params.timestep_spacing) == (None, None)
    assert put(asked(), card, pools=pools).params.scheduler == "DDIMScheduler"
    # who asks for it is told
    assert put(asked(scheduler="LCMScheduler"), card, pools=pools).params.scheduler == "LCMScheduler"


def test_an_adapter_may_need_a_strength_of_its_own_unless_the_request_names_one():
    name = "Hyper-FLUX.1-dev-8steps-lora.safetensors"
    few = adapter("some/hyper", weight_files=(name,), weight_name=name)

    assert put(asked(), few).adapters[0].scale == 0.125
    assert put(asked(strength=WantedStrength(scale=1.0)), few).adapters[0].scale == 1.0


def test_a_card_cannot_recommend_more_than_a_request_may_ask():
    params = put(asked(), adapter(defaults=CardDefaults(steps=900_000, guidance_scale=900.0))).params

    assert (params.steps, params.guidance_scale) == (Limits().max_steps, Limits().max_guidance)


def test_several_adapters_keep_their_order_and_strengths():
    request = asked(
        strength=WantedStrength(scale=0.5),
        adapters=(wanted("some/other", strength=WantedStrength(scale=-1.0)),),
    )
    refs = put(request, adapter(), adapter("some/other")).adapters

    assert [(ref.repo, ref.scale) for ref in refs] == [("some/style", 0.5), ("some/other", -1.0)]


def test_the_strengths_of_blocks_and_over_time_are_passed_on():
    wish = WantedStrength(blocks=(("unet.mid_block", 0.5),), schedule=((0.5, 0.0),))
    (ref,) = put(asked(strength=wish), adapter()).adapters

    assert (ref.scale, ref.blocks, ref.schedule) == (1.0, wish.blocks, wish.schedule)


def test_adapters_on_a_base_id():
    refs = put(asked(model=SDXL, adapters=(wanted(),)), full(), adapter("some/other")).adapters

    assert [ref.repo for ref in refs] == ["some/other"]


def test_adapters_of_different_bases_are_refused_naming_both():
    with pytest.raises(InvalidRequest) as caught:
        put(asked(adapters=(wanted(),)), adapter(), adapter("some/other", bases=(SD15,)))

    assert caught.value.field == "parameters.loras[0].model"
    assert SDXL in caught.value.message
    assert SD15 in caught.value.message


def test_of_several_bases_the_common_one_that_is_served_is_taken():
    gone = RepoId("some/gone")
    first = adapter(bases=(gone, SD15, SDXL))
    second = adapter("some/other", bases=(SDXL, gone))

    assert put(asked(adapters=(wanted(),)), first, second).base == SDXL


def test_a_base_is_found_under_its_old_name_and_in_any_case():
    assert put(asked(), adapter(bases=(RepoId("runwayml/stable-diffusion-v1-5"),))).base == SD15
    assert put(asked(), adapter(bases=(RepoId("Stability/SDXL"),))).base == SDXL


FLUX, NF4, INT8 = RepoId("lab/flux"), RepoId("someone/flux-nf4"), RepoId("someone/flux-int8")


def a_pool(base, *, workers=1, **changes):
    return BasePool(base=base, workers=(a_worker(base=base, **changes),) * workers)


COPIES = [a_pool(NF4, copy_of=FLUX, workers=3), a_pool(INT8, copy_of=RepoId("Lab/FLUX"))]


def test_an_adapter_runs_on_the_very_base_and_else_on_a_quantised_copy_of_it():
    on_flux = adapter(bases=(FLUX,))

    assert put(asked(), on_flux, pools=[*COPIES, a_pool(FLUX)]).base == FLUX
    assert put(asked(), on_flux, pools=[*POOLS, COPIES[0]]).base == NF4


def test_a_base_that_runs_goes_before_a_copy_of_one_that_is_named_earlier():
    assert put(asked(), adapter(bases=(FLUX, SDXL)), pools=[*COPIES, *POOLS]).base == SDXL


@pytest.mark.parametrize("pools", [COPIES, COPIES[::-1]])
def test_of_several_copies_it_is_the_same_however_many_workers_they_have(pools):
    assert put(asked(), adapter(bases=(FLUX,)), pools=pools).base == INT8


def test_a_copy_is_known_by_the_old_name_of_its_original():
    pools = [a_pool(NF4, copy_of=RepoId("runwayml/stable-diffusion-v1-5"))]
    assert put(asked(), adapter(bases=(SD15,)), pools=pools).base == NF4


def test_a_copy_is_one_though_a_worker_of_an_older_version_does_not_say_so():
    pool = BasePool(base=NF4, workers=(a_worker(base=NF4), a_worker(base=NF4, copy_of=FLUX)))
    assert put(asked(), adapter(bases=(FLUX,)), pools=[pool]).base == NF4


@pytest.mark.parametrize("pools", [[], [a_pool(FLUX)]], ids=["none", "original"])
def test_a_copy_that_is_asked_for_and_does_not_run_now_is_missed_whatever_goes_with_it(pools):
    request = asked(model=NF4, adapters=(wanted(),))
    with pytest.raises(NoPoolForBase):
        put(request, full(NF4), adapter("some/other", bases=(FLUX,)), pools=pools)


def test_adapters_of_a_base_and_of_its_copy_go_together_on_the_copy():
    trained_on_copy = adapter("some/other", bases=(NF4,))
    request = asked(adapters=(wanted(),))

    assert put(request, adapter(bases=(FLUX,)), trained_on_copy, pools=COPIES).base == NF4
    with pytest.raises(InvalidRequest, match="only on one base"):
        put(request, adapter(bases=(FLUX,)), trained_on_copy, pools=[a_pool(FLUX)])


def test_a_copy_that_is_asked_for_by_name_takes_adapters_of_its_original():
    assert put(asked(adapters=(wanted(),)), full(NF4), adapter(bases=(FLUX,)), pools=COPIES).base == NF4


@pytest.mark.parametrize("adapters", [(), (wanted(),)])
def test_a_full_model_is_not_drawn_by_a_copy_of_it_which_the_refusal_names(adapters):
    others = [adapter("some/other", bases=(FLUX,)) for _ in adapters]
    with pytest.raises(NoPoolForBase, match=f"by its name: {INT8}, {NF4}"):
        put(asked(model=FLUX, adapters=adapters), full(FLUX), *others, pools=COPIES)


def test_what_serves_an_id_is_listed_as_it_would_be_taken():
    pools = [*COPIES, a_pool(FLUX)]
    assert [pool.base for pool in serving_pools(adapter(bases=(FLUX,)), pools)] == [FLUX, INT8, NF4]
    assert [pool.base for pool in serving_pools(full(NF4), pools)] == [NF4]
    assert serving_pools(full(FLUX), COPIES) == ()


def test_without_a_pool_the_base_and_those_that_run_are_named():
    with pytest.raises(NoPoolForBase) as caught:
        put(asked(), adapter(bases=(RepoId("some/flux"),)))
    assert all(name in caught.value.message for name in ("some/flux", SDXL, SD15))

    with pytest.raises(NoPoolForBase, match="no base runs now"):
        put(asked(), adapter(), pools=[])


def test_a_full_model_that_no_pool_serves_is_no_mystery():
    with pytest.raises(NoPoolForBase, match="some/finetune"):
        put(asked(), full("some/finetune"))


def test_several_files_have_to_be_chosen_from():
    files = ("2step.safetensors", "4step.safetensors")
    open_choice = adapter(weight_files=files, weight_name=None)
    with pytest.raises(AmbiguousWeights) as caught:
        put(asked(), open_choice)
    assert caught.value.choices == files
    assert put(asked(weight_name=files[1]), open_choice).adapters[0].weight_name == files[1]


@pytest.mark.parametrize(
    ("request_", "others", "field"),
    [
        (asked(weight_name="x.bin"), (), "parameters.weight_name"),
        (
            asked(adapters=(wanted(weight_name="x"),)),
            (adapter("some/other"),),
            "parameters.loras[0].weight_name",
        ),
        (
            asked(adapters=(wanted(weight_name="x", field="lora"),)),
            (adapter("some/other"),),
            "parameters.weight_name",
        ),
    ],
)
def test_a_file_that_is_not_there_is_refused_where_it_was_named(request_, others, field):
    with pytest.raises(InvalidRequest) as caught:
        put(request_, adapter(), *others)
    assert caught.value.field == field
    assert FILE in caught.value.message


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora_scale", {"strength": WantedStrength(scale=0.5)}),
        ("lora_schedule", {"strength": WantedStrength(schedule=((0.5, 0.0),))}),
        ("weight_name", {"weight_name": "x"}),
    ],
)
def test_a_base_has_no_adapter_to_scale_or_choose_a_file_of(name, changes):
    with pytest.raises(InvalidRequest) as caught:
        put(asked(model=SDXL, **changes), full())
    assert caught.value.field == f"parameters.{name}"


def test_an_adapter_is_taken_once():
    with pytest.raises(InvalidRequest, match="named twice"):
        put(asked(adapters=(wanted("some/style"),)), adapter(), adapter())


def test_two_files_of_one_repository_are_two_adapters():
    both = adapter(weight_files=("a.safetensors", "b.safetensors"), weight_name=None)
    request = asked(
        weight_name="a.safetensors", adapters=(wanted("some/style", weight_name="b.safetensors"),)
    )
    assert len(put(request, both, both).adapters) == 2


def test_a_full_model_is_no_further_adapter():
    with pytest.raises(InvalidRequest, match="is a full model"):
        put(asked(adapters=(wanted(),)), adapter(), full("some/other"))


def test_what_is_unsupported_is_refused_with_its_reason():
    broken = Unsupported(repo=RepoId("a/b"), revision=COMMIT, reason="it is a VAE", evidence=())
    with pytest.raises(UnsupportedModel, match="it is a VAE"):
        put(asked(), broken)
    with pytest.raises(UnsupportedModel, match=r"loras\[0\].*it is a VAE"):
        put(asked(adapters=(wanted(),)), adapter(), broken)


def test_adapters_are_counted_with_the_path_s_own():
    more = tuple(wanted(f"some/a{n}") for n in range(8))
    others = tuple(adapter(f"some/a{n}") for n in range(8))
    with pytest.raises(InvalidRequest, match="at most 8"):
        put(asked(adapters=more), adapter(), *others)
    assert len(put(asked(model=SDXL, adapters=more), full(), *others).adapters) == 8


def test_restricted_adapters_are_named_apart():
    request = asked(adapters=(wanted(),))
    placement = put(request, adapter(), adapter("some/other", restricted=True))
    assert [ref.repo for ref in placement.restricted] == ["some/other"]


def test_size_and_steps_that_all_leave_open_are_the_bases_so_that_the_queue_knows_the_work():
    params = put(asked(width=32), adapter()).params
    base = POOLS[0].workers[0]

    assert (params.width, params.height, params.steps) == (32, base.default_height, base.default_steps)


EMB = "style_emb.safetensors"
LEARNED = "an icon in the style of <s0><s1>"


def pivotal(repo="some/style", **changes):
    return adapter(repo, **{"weight_files": (FILE, "style.safetensors", EMB)} | changes)


def names(placement):
    return [(ref.repo, ref.weight_name) for ref in placement.adapters]


@pytest.mark.parametrize("texts", [{"prompt": LEARNED}, {"negative_prompt": "<s12>"}], ids=str)
def test_learned_words_in_a_file_of_their_own_come_with_their_adapter(texts):
    wish = WantedStrength(scale=0.5, blocks=(("unet.mid_block", 0.5),), schedule=((0.5, 0.0),))
    weights, words = put(asked(strength=wish, **texts), pivotal()).adapters

    assert (weights.weight_name, weights.blocks) == (FILE, wish.blocks)
    assert words == replace(weights, weight_name=EMB, blocks=())


@pytest.mark.parametrize("prompt", ["a cat", "<s>", "<s0", "< s0>", "<so>"])
def test_a_prompt_without_learned_words_needs_no_file_of_them(prompt):
    assert names(put(asked(prompt=prompt), pivotal())) == [("some/style", FILE)]


def test_the_file_of_learned_words_comes_after_all_adapters():
    request = asked(prompt=LEARNED, adapters=(wanted("some/other"), wanted("some/third")))
    placement = put(request, adapter(), pivotal("some/other"), adapter("some/third"))

    assert names(placement) == [
        ("some/style", FILE),
        ("some/other", FILE),
        ("some/third", FILE),
        ("some/other", EMB),
    ]


@pytest.mark.parametrize(
    ("first", "second", "active"), [(1.0, -1.0, 1.0), (0.0, -0.5, -0.5), (0.0, 0.0, 0.0)]
)
def test_adapters_that_share_a_file_of_words_bring_it_once_and_it_is_active_while_one_of_them_is(
    first, second, active
):
    files = ("a.safetensors", "b.safetensors", "embeddings.safetensors")
    request = asked(
        prompt=LEARNED,
        weight_name="a.safetensors",
        strength=WantedStrength(scale=first),
        adapters=(wanted("some/style", weight_name="b.safetensors", strength=WantedStrength(scale=second)),),
    )
    both = [adapter(weight_files=files, weight_name=None) for _ in range(2)]
    *_, words = (placed := put(request, *both)).adapters

    assert [name for _, name in names(placed)] == list(files)
    assert words.scale == active


def test_words_are_those_of_the_weights_that_were_chosen():
    files = ("day.safetensors", "day_emb.safetensors", "night.safetensors", "night_emb.safetensors")
    request = asked(prompt=LEARNED, weight_name="night.safetensors")
    placement = put(request, adapter(weight_files=files, weight_name=None))

    assert names(placement) == [("some/style", "night.safetensors"), ("some/style", "night_emb.safetensors")]


def test_a_learned_word_that_any_of_several_files_may_mean_is_no_guess():
    several = adapter(weight_files=(FILE, "day_emb.safetensors", "night_emb.safetensors"))
    with pytest.raises(InvalidRequest, match=r"<s0>.*day_emb\.safetensors, some/style/night_emb") as caught:
        put(asked(prompt=LEARNED), several)
    assert caught.value.field == "parameters.loras"
    assert names(put(asked(), several)) == [("some/style", FILE)]


def test_a_learned_word_of_other_weights_is_no_guess_either():
    files = ("a.safetensors", "a_emb.safetensors", "b.safetensors")
    with pytest.raises(InvalidRequest, match=r"<s0>.*a_emb\.safetensors"):
        put(asked(prompt=LEARNED, weight_name="b.safetensors"), adapter(weight_files=files))


def test_two_adapters_with_learned_words_go_together_until_a_prompt_says_one():
    both = (pivotal(), pivotal("some/other"))
    placement = put(asked(adapters=(wanted(),)), *both)
    assert names(placement) == [("some/style", FILE), ("some/other", FILE)]

    with pytest.raises(InvalidRequest, match=f"<s0>.*some/style/{EMB}, some/other/{EMB}"):
        put(asked(prompt=LEARNED, adapters=(wanted(),)), *both)


def test_a_request_that_names_a_file_of_words_gets_that_one_alone():
    request = asked(prompt=LEARNED, adapters=(wanted(), wanted(weight_name=EMB)))
    placement = put(request, pivotal(), pivotal("some/other"), pivotal("some/other"))

    assert names(placement) == [("some/style", FILE), ("some/other", FILE), ("some/other", EMB)]


def test_words_alone_are_drawn_with_when_they_are_named():
    placement = put(asked(prompt=LEARNED, weight_name=EMB), adapter(weight_files=(EMB,), weight_name=None))

    assert names(placement) == [("some/style", EMB)]


def test_words_that_come_with_an_adapter_do_not_count_as_one():
    more = tuple(wanted(f"some/a{n}") for n in range(7))
    others = tuple(adapter(f"some/a{n}") for n in range(7))

    assert len(put(asked(prompt=LEARNED, adapters=more), pivotal(), *others).adapters) == 9


def test_words_of_a_restricted_adapter_are_restricted():
    placement = put(asked(prompt=LEARNED), pivotal(restricted=True))

    assert placement.restricted == placement.adapters
    assert len(placement.restricted) == 2
