from dataclasses import replace

from router.callers import idempotency_of, tenant_of
from router.negotiation import choose_answer_form
from router.schemas import GenerationRequest
from shared.refs import RepoId

REQUEST = GenerationRequest(
    model=RepoId("someone/crayon"), prompt="a cat", form=choose_answer_form(""), idempotency_key="key-1"
)


def test_callers_without_a_token_are_one_tenant():
    assert tenant_of(None) == ""


def test_a_token_is_a_tenant_and_cannot_be_read_from_it():
    assert tenant_of("hf_one") == tenant_of("hf_one") != tenant_of("hf_two")
    assert "hf_one" not in tenant_of("hf_one")


def test_a_request_without_a_key_promises_nothing():
    assert idempotency_of(replace(REQUEST, idempotency_key=None), "") is None


def test_the_same_key_of_another_tenant_is_another():
    assert idempotency_of(REQUEST, "a").key == idempotency_of(REQUEST, "a").key
    assert idempotency_of(REQUEST, "a").key != idempotency_of(REQUEST, "b").key


def test_another_request_under_the_same_key_can_be_told():
    other = replace(REQUEST, prompt="a dog")
    assert idempotency_of(other, "").key == idempotency_of(REQUEST, "").key
    assert idempotency_of(other, "").request != idempotency_of(REQUEST, "").request
