from router.base_aliases import MOVED, current_id, same_base
from shared.refs import RepoId, parse_repo_id


def test_a_moved_id_is_known_by_its_new_name_whatever_its_case():
    new = "stable-diffusion-v1-5/stable-diffusion-v1-5"

    assert current_id(RepoId("runwayml/stable-diffusion-v1-5")) == new
    assert current_id(RepoId("RunwayML/Stable-Diffusion-V1-5")) == new


def test_other_ids_stay():
    assert current_id(RepoId("Someone/Base")) == "Someone/Base"


def test_ids_that_differ_in_case_are_the_same_base():
    assert same_base(RepoId("Someone/Base"), RepoId("someone/base"))
    assert not same_base(RepoId("someone/base"), RepoId("someone/base2"))


def test_the_table_is_keyed_in_lower_case_and_leads_to_ids_that_stay():
    for old, new in MOVED.items():
        assert old == old.lower()
        assert current_id(parse_repo_id(new)) == new
