from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.negotiation import AnswerForm, NotAcceptable, choose_answer_form
from shared.jobs import ImageFormat

PNG, JPEG, WEBP = (AnswerForm(image_format=form) for form in ImageFormat)
AS_JSON = AnswerForm(image_format=ImageFormat.PNG, as_json=True)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", PNG),
        ("*/*", PNG),
        ("image/*", PNG),
        ("image/png", PNG),
        ("image/jpeg", JPEG),
        ("image/jpg", JPEG),
        ("IMAGE/WebP", WEBP),
        ("application/json", AS_JSON),
        ("application/*", AS_JSON),
        ("image/webp;q=0.9, image/png;q=0.8", WEBP),
        ("image/webp;q=0.5, */*;q=0.1", WEBP),
        ("image/*;q=0.2, application/json", AS_JSON),
        ("*/*, image/png;q=0", JPEG),
        ("text/html, image/avif, image/jpeg;q=0.9", JPEG),
    ],
)
def test_the_form_that_the_client_likes_best(accept, form):
    assert choose_answer_form(accept) == form


@pytest.mark.parametrize("accept", ["text/html", "image/avif", "*/*;q=0", "image/png;q=0", "image/png;q=x"])
def test_what_is_not_there_is_not_acceptable(accept):
    with pytest.raises(NotAcceptable):
        choose_answer_form(accept)


@given(st.text())
def test_any_header_is_answered_or_refused(accept):
    with suppress(NotAcceptable):
        assert isinstance(choose_answer_form(accept), AnswerForm)
