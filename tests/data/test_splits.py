import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.data import held_out


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_the_parts_are_disjoint_complete_sorted_and_stratified(rng, share):
    labels = rng.permutation(np.repeat([3, 0, 7, 9], [100, 37, 2, 1]))
    kept, held = held_out(labels, share, seed=4)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(140))
    assert np.array_equal(kept, np.sort(kept))
    assert np.array_equal(held, np.sort(held))
    counts = np.bincount(labels[held], minlength=10)[[3, 0, 7, 9]]
    expected = [min(max(round(share * n), 1), n - 1) for n in (100, 37, 2, 1)]
    assert counts.tolist() == expected
    assert all(np.array_equal(a, b) for a, b in zip(held_out(labels, share, seed=4), (kept, held), strict=True))


def test_another_seed_draws_others_and_the_draw_never_changes():
    labels = np.arange(40) % 4
    assert held_out(labels, 0.2, 0)[1].tolist() == [9, 16, 18, 19, 22, 23, 24, 37]  # fixes every split of a fifth
    assert not np.array_equal(held_out(labels, 0.2, 0)[1], held_out(labels, 0.2, 1)[1])


@pytest.mark.parametrize(
    ("labels", "share", "seed", "message"),
    [
        ([0, 0, 1], 0, 0, "share is 0 but must be between 0 and 1, both excluded"),
        ([0, 0, 1], 1.0, 0, "share is 1.0 but must be between 0 and 1"),
        ([0, 0, 1], float("nan"), 0, "share is nan but must be"),
        ([0, 0, 1], "a", 0, "share is 'a' but must be"),
        ([0, 0, 1], 0.5, -1, "seed is -1 but must be a whole number of at least 0"),
        ([0, 1, 2], 0.5, 0, "none of 3 samples can be held out; a class must have at least two"),
        ([[0, 1]], 0.5, 0, "labels are int64 (1, 2) but must be whole numbers (N,)"),
        ([0.5, 1], 0.5, 0, "labels are float64 (2,) but must be whole numbers (N,)"),
        (np.zeros(0, int), 0.5, 0, "none of 0 samples can be held out"),
    ],
)
def test_what_cannot_be_split_is_named(labels, share, seed, message):
    with pytest.raises(InputError) as error:
        held_out(labels, share, seed)
    assert message in str(error.value)
