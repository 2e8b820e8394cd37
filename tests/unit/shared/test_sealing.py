import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.sealing import Sealer, SealError

SEALER = Sealer("a secret of the deployment")
encodable = st.text(st.characters(codec="utf-8"))


@given(encodable)
def test_what_was_sealed_opens(text):
    assert SEALER.open(SEALER.seal(text), max_age=60) == text


def test_another_process_with_the_same_secret_opens_it():
    assert Sealer("same").open(Sealer("same").seal("hf_token"), max_age=60) == "hf_token"


def test_another_secret_does_not_open_it():
    with pytest.raises(SealError):
        Sealer("other").open(SEALER.seal("hf_token"), max_age=60)


def test_the_text_is_not_readable_and_never_looks_the_same():
    sealed = SEALER.seal("hf_token")
    assert "hf_token" not in sealed
    assert sealed != SEALER.seal("hf_token")


@given(encodable)
def test_other_text_does_not_open(text):
    with pytest.raises(SealError):
        SEALER.open(text, max_age=60)


def test_a_changed_seal_does_not_open():
    sealed = SEALER.seal("hf_token")
    for place in (0, 10, 40, len(sealed) // 2):
        other = "A" if sealed[place] != "A" else "B"
        with pytest.raises(SealError):
            SEALER.open(sealed[:place] + other + sealed[place + 1 :], max_age=60)


def test_an_old_seal_does_not_open():
    sealed = Sealer("same", clock=lambda: 1_700_000_000.0).seal("hf_token")
    later = Sealer("same", clock=lambda: 1_700_000_061.0)
    assert later.open(sealed, max_age=61) == "hf_token"
    with pytest.raises(SealError, match="60 s"):
        later.open(sealed, max_age=60)


def test_a_sealer_whose_clock_is_ahead_does_no_harm():
    sealed = Sealer("same", clock=lambda: 1_700_003_600.0).seal("hf_token")
    assert Sealer("same", clock=lambda: 1_700_000_000.0).open(sealed, max_age=60) == "hf_token"
