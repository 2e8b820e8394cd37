"""How far an adapter reaches, against one delta after the other, and against what it really changes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worker.engine.adapter import Delta, Meaning, Word
from worker.engine.contract import AdapterFault
from worker.engine.matrices import Dense, Hadamard, Kronecker, Matrix, Product, Tucker
from worker.engine.peaks import peaks_by, searches_of
from worker.engine.reach import LARGEST_PRODUCT, reach_of

ROWS, COLUMNS = 4, 6


def numbers(*shape: int) -> st.SearchStrategy[Tensor]:
    def drawn(seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return st.integers(0, 2**32).map(drawn)


def products_of(rows: int, columns: int) -> st.SearchStrategy[Product]:
    return st.integers(1, 3).flatmap(
        lambda rank: st.builds(Product, up=numbers(rows, rank), down=numbers(rank, columns))
    )


products = products_of(ROWS, COLUMNS)


def dense_or_product(rows: int, columns: int) -> st.SearchStrategy[Matrix]:
    return st.builds(Dense, values=numbers(rows, columns)) | products_of(rows, columns)


matrices: st.SearchStrategy[Matrix] = st.one_of(
    st.builds(Dense, values=numbers(ROWS, COLUMNS)),
    products,
    st.builds(Tucker, core=numbers(2, 3, 2), up=numbers(ROWS, 2), down=numbers(3, COLUMNS // 2)),
    st.builds(Hadamard, left=products, right=products),
    st.builds(Kronecker, left=dense_or_product(2, 3), right=dense_or_product(2, 2)),
)
deltas = st.builds(
    Delta,
    matrix=matrices,
    scale=st.floats(-3, 3),
    magnitude=st.none() | numbers(ROWS, 1).map(torch.abs),
)
words = st.builds(Word, token=st.just("w"), vectors=numbers(1, 3).map(lambda vectors: {"clip_l": vectors}))
meanings = st.builds(
    Meaning,
    changes=st.dictionaries(
        st.sampled_from("abc"), st.lists(deltas, min_size=1, max_size=3).map(tuple), max_size=3
    ),
    words=st.lists(words, max_size=2).map(tuple),
)


def reach(meaning: Meaning) -> tuple[float, float]:
    tensors = list(meaning.tensors)
    return reach_of(meaning).at(peaks_by(searches_of(tensors), len(tensors)))


def one_by_one(meaning: Meaning) -> tuple[float, float]:
    proportional = fixed = 0.0
    for changes in meaning.changes.values():
        total = rest = 0.0
        for delta in changes:
            peaks = [float(factor.abs().max()) for factor in delta.matrix.factors]
            total += abs(delta.scale) * delta.matrix.terms * math.prod(peaks)
            rest += 0.0 if delta.magnitude is None else float(delta.magnitude.max())
        proportional, fixed = max(proportional, total), max(fixed, rest)
    return proportional, fixed


@given(meanings)
def test_the_reach_of_many_changes_is_the_farthest_of_each_weights_sum(meaning: Meaning) -> None:
    assert reach(meaning) == pytest.approx(one_by_one(meaning))


@given(matrices)
def test_no_element_exceeds_its_terms_times_the_peaks_of_its_factors(matrix: Matrix) -> None:
    bound = matrix.terms * math.prod(float(factor.abs().max()) for factor in matrix.factors)
    assert float(matrix.dense(torch.device("cpu")).abs().max()) <= bound * 1.0001


@given(matrices)
def test_where_all_numbers_are_one_an_element_is_the_number_of_its_terms(matrix: Matrix) -> None:
    ones = matrix.exchanged(torch.ones_like)
    assert torch.equal(ones.dense(torch.device("cpu")), torch.full(ones.shape, float(matrix.terms)))


@given(deltas, numbers(ROWS, COLUMNS), st.floats(0, 2))
def test_no_weight_leaves_its_reach(delta: Delta, pristine: Tensor, strength: float) -> None:
    proportional, fixed = reach(Meaning(changes={"a": (delta,)}))
    most = proportional * strength + fixed + (0 if delta.magnitude is None else pristine.abs().max())
    assert float(delta.of(pristine, strength).abs().max()) <= float(most) * 1.0001 + 1e-6


@pytest.mark.parametrize("peaks", [[1e20, 1e20], [1e300, 1e300], [1e-30, 1e31], [0.0, 1e31]])
def test_what_leaves_float32_on_the_way_is_refused_by_its_weight(peaks: list[float]) -> None:
    """Also where the product would be small: one factor alone is too large to be computed with."""
    small = Delta(matrix=Product(up=torch.ones(2, 1), down=torch.ones(1, 2)), scale=1.0)
    at = reach_of(Meaning(changes={"first": (small,), "second": (small,), "third": (small,)}))
    assert at.at(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])) == (1.0, 0.0)
    with pytest.raises(AdapterFault, match="second: its factors are too large"):
        at.at(np.array([1.0, 1.0, *peaks, 1.0, 1.0]))


def test_vectors_of_words_may_be_as_large_as_they_like() -> None:
    small = Delta(matrix=Product(up=torch.ones(2, 1), down=torch.ones(1, 2)), scale=1.0)
    words = [Word(token=token, vectors={"clip_l": torch.full((1, 2), 3e38)}) for token in "abcdefghij"]
    meaning = Meaning(changes={"a": (small,)}, words=tuple(words))
    with np.errstate(all="raise"):
        assert reach(meaning) == (1.0, 0.0)


@pytest.mark.parametrize("scale", [2 * LARGEST_PRODUCT, math.inf, math.nan])
def test_a_scale_that_leaves_float32_is_refused(scale: float) -> None:
    delta = Delta(matrix=Product(up=torch.ones(2, 1), down=torch.ones(1, 2)), scale=scale)
    with pytest.raises(AdapterFault, match="too large"):
        reach(Meaning(changes={"a": (delta,)}))
