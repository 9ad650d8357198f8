"""Forms of bounds, frozen masks and lr for each weight, in NumPy and torch: accepted ones and refused ones."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rprop_kernels.bounds import Constraints, holds_arrays, split_halves, split_option, to_value
from rprop_kernels.numpy import AskTell, RpropMinus


def numpy_array(**options):
    """One bare array of two weights, 1 and 1."""
    return RpropMinus(np.ones(2), **options)


def numpy_list(**options):
    return RpropMinus([np.ones(2)], **options)


def numpy_two(**options):
    return RpropMinus([np.ones(2), np.ones(3)], **options)


def ask_tell(**options):
    return AskTell([1.0, 1.0], **options)


def torch_list(**options):
    torch = pytest.importorskip("torch")
    from rprop_kernels.torch import RpropMinus

    return RpropMinus([torch.nn.Parameter(torch.ones(2))], **options)


def torch_two(**options):
    torch = pytest.importorskip("torch")
    from rprop_kernels.torch import RpropMinus

    return RpropMinus([torch.nn.Parameter(torch.ones(n)) for n in (2, 3)], **options)


ALL = (numpy_array, numpy_list, numpy_two, ask_tell, torch_list, torch_two)
ONE = (numpy_array, numpy_list, ask_tell, torch_list)
BARE = (numpy_array, ask_tell)
LISTS = (numpy_list, torch_list)
TWO = (numpy_two, torch_two)
PAIRS = r"np\.transpose\(pairs\)"

REFUSED = {
    "one number": (ALL, {"bounds": 1.0}, TypeError, r"bounds.* must be a tuple \(lower, upper\), got 1.0"),
    "text": (ALL, {"bounds": "ab"}, TypeError, r"bounds.* must be a tuple \(lower, upper\), got 'ab'"),
    "bytes": (ALL, {"bounds": b"\0\1"}, TypeError, r"bounds.* must be a tuple"),
    "SciPy's pairs of one weight": (ALL, {"bounds": [(0, 2)]}, TypeError, PAIRS),
    "SciPy's pairs of two": (ALL, {"bounds": [(0, 2), (0, 2)]}, TypeError, PAIRS),
    "SciPy's pairs as a tuple": (ALL, {"bounds": ((0, 2), (0, 2))}, TypeError, PAIRS),
    "SciPy's pairs of three as a tuple": (ALL, {"bounds": ((0, 2),) * 3}, TypeError, PAIRS),
    "a list of halves": (ALL, {"bounds": [0, 2]}, TypeError, r"must be a tuple \(lower, upper\), got \[0, 2\]"),
    "an array of halves": (ALL, {"bounds": np.array([[0, 0], [2, 2]])}, TypeError, "must be a tuple"),
    "a half that is a tuple": (ALL, {"bounds": (0, (2, 3))}, TypeError, PAIRS),
    "three halves": (ALL, {"bounds": (0, 1, 2)}, ValueError, r"must be \(lower, upper\), got 3 items"),
    "none": (ALL, {"bounds": ()}, ValueError, r"must be \(lower, upper\), got 0 items"),
    "a half of text": (ALL, {"bounds": ("a", None)}, TypeError, "lower bound.* is 'a' .*: pass numbers"),
    "a half True": (ALL, {"bounds": (None, True)}, TypeError, "upper bound.* is True .*: pass numbers"),
    "a half of booleans": (ONE, {"bounds": (np.array([False, True]), 2)}, TypeError, "lower bound.* is bool: pass num"),
    "a complex half": (ONE, {"bounds": (None, np.ones(2) * 1j)}, TypeError, "upper bound.* complex128: pass numbers"),
    "crossed": (ALL, {"bounds": (2.0, 0.0)}, ValueError, r"bounds of .*0.* cross.*: \[2.0, 0.0\] at index \(\)"),
    "crossed in one": (
        ONE, {"bounds": (1.0, np.array([2.0, 0.0]))}, ValueError, r"cross.*\[1.0, 0.0\] at index \(1,\); pass \(lower"
    ),
    "NaN": (ALL, {"bounds": (math.nan, 1.0)}, ValueError, r"are NaN.*\[nan, 1.0\]"),
    "NaN in an array": (ONE, {"bounds": (None, np.array([2, np.nan]))}, ValueError, r"\[-inf, nan\] at index \(1,\)"),
    "nothing finite": (ALL, {"bounds": (math.inf, math.inf)}, ValueError, "leave no finite value"),
    "below -inf": (ALL, {"bounds": (None, -math.inf)}, ValueError, "leave no finite value"),
    "outside": (ALL, {"bounds": (1.5, None)}, ValueError, r"starts outside.*: 1.0 at index \(0,\).*\[1.5, inf\]"),
    "outside in one": (
        ONE, {"bounds": (None, np.array([2.0, 0.5]))}, ValueError,
        r"0.* starts outside its bounds: 1.0 at index \(1,\) is not within \[-inf, 0.5\]",
    ),
    "shape": (ONE, {"bounds": (np.zeros(3), None)}, ValueError, r"lower bound .* has shape \(3,\), its parameter"),
    "a flat list for a list": (LISTS, {"bounds": ([0.0, 0.0], None)}, ValueError, "lower bound.* has 2 items for 1"),
    "too many items": (TWO, {"bounds": (0.0, [2.0] * 3)}, ValueError, "upper bound.* has 3 items for 2 parameters"),
    "one array for two": (TWO, {"bounds": (np.zeros(2), None)}, TypeError, "is one array for a list of parameters"),
    "a tuple in a list": (TWO, {"bounds": ([(0, 0), None], None)}, TypeError, r"lower bound.* has the item \(0, 0\)"),
    "masks of numbers": (ONE, {"frozen": np.array([0, 1])}, TypeError, "frozen.* is int64: pass booleans"),
    "a mask of one number": (ALL, {"frozen": 1}, TypeError, r"frozen.* is 1 .*: pass booleans"),
    "a mask of one float": (ALL, {"frozen": 1.0}, TypeError, r"frozen.* is 1.0 .*: pass booleans"),
    "a mask of text": (ALL, {"frozen": "all"}, TypeError, r"frozen.* is 'all' .*: pass booleans"),
    "a tuple of masks": (ALL, {"frozen": (True, False)}, TypeError, r"frozen.* is a tuple"),
    "mask shape": (ONE, {"frozen": np.zeros(3, bool)}, ValueError, r"frozen.* has shape \(3,\), its parameter \(2,\)"),
    "mask count": (TWO, {"frozen": [None]}, ValueError, "frozen.* has 1 items for 2 parameters"),
    "one mask for two": (TWO, {"frozen": np.zeros(2, bool)}, TypeError, "frozen.* is one array for a list"),
    "lr shape": (ONE, {"lr": np.full(3, 0.1)}, ValueError, r"lr.* has shape \(3,\), its parameter \(2,\)"),
    "lr count": (TWO, {"lr": [0.1]}, ValueError, "lr.* has 1 items for 2 parameters"),
    "one lr array for two": (TWO, {"lr": np.full(2, 0.1)}, TypeError, "lr.* is one array for a list of parameters"),
    "lr 0 in one": (ONE, {"lr": np.array([0.1, 0.0])}, ValueError, r"learning rate: lr.* is 0.0 at index \(1,\)"),
    "lr NaN": (ONE, {"lr": np.array([np.nan, 0.1])}, ValueError, r"Invalid learning rate: lr.* is nan at index \(0,\)"),
    "lr too large": (ONE, {"lr": np.array([0.1, 60.0])}, ValueError, r"is 60.0 at index \(1,\).*within step_sizes"),
    "lr 0 for one": (TWO, {"lr": [0.1, 0.0]}, ValueError, "Invalid learning rate: 0.0"),
    "lr None for one": (TWO, {"lr": [0.1, None]}, ValueError, r"lr.*None"),
    "lr of booleans": (ONE, {"lr": np.array([True, True])}, TypeError, "lr.* is bool: pass numbers"),
    "a tuple of lr": (ALL, {"lr": (0.1, 0.1)}, ValueError, r"lr must be one number, got \(0.1, 0.1\)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "case"), [(make, case) for case, row in REFUSED.items() for make in row[0]],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)  # fmt: skip
def test_a_refusal_names_the_place_the_value_and_the_remedy(make, case):
    _, options, error, text = REFUSED[case]
    with pytest.raises(error, match=text) as caught:
        make(**options)
    if make is ask_tell:
        assert "params[0]" not in str(caught.value)  # the user passed x0


INF = math.inf
TAKEN = {
    "numbers": (ALL, (-1, np.float32(3)), -1.0, 3.0),
    "one side": (ALL, (None, 3), None, 3.0),
    "an infinite side": (ALL, (-INF, 3), -INF, 3.0),
    "no side": (ALL, (None, None), None, None),
    "0-d arrays": (ALL, (np.array(-1), np.array(3.0)), -1.0, 3.0),
    "arrays": (ONE, (np.array([-1, 0]), np.array([3, 4.0], np.float32)), [-1.0, 0.0], [3.0, 4.0]),
    "an array that broadcasts": (ONE, (np.array([-1.0]), None), [-1.0, -1.0], None),
    "an array-like for a bare array": (BARE, ([-1, 0], [3, 4]), [-1.0, 0.0], [3.0, 4.0]),
    "lists": (LISTS, ([-1], [np.array([3.0, 4.0])]), -1.0, [3.0, 4.0]),
    "Bounds of arrays": (ONE, SimpleNamespace(lb=np.array([-1, 0]), ub=np.array([3, 4])), [-1.0, 0.0], [3.0, 4.0]),
    "Bounds of a number": (ALL, SimpleNamespace(lb=np.array([-1]), ub=[INF]), -1.0, INF),
    "transposed pairs": (ONE, tuple(np.transpose([(-1, 3), (0, 4)])), [-1.0, 0.0], [3.0, 4.0]),
}


def constraints_of(optimizer):
    """The constraints of the first parameter."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    made = optimizer._options[0].constraints if hasattr(optimizer, "param_groups") else optimizer._constraints
    return Constraints() if made is None or made[0] is None else made[0]


@pytest.mark.parametrize(
    ("make", "case"), [(make, case) for case, row in TAKEN.items() for make in row[0]],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)  # fmt: skip
def test_forms_of_bounds(make, case):
    _, bounds, *expected = TAKEN[case]
    halves = constraints_of(make(bounds=bounds))[:2]
    assert [x.tolist() if hasattr(x, "tolist") else x for x in halves] == expected


def test_bounds_of_scipy():
    Bounds = pytest.importorskip("scipy.optimize").Bounds
    for make in (numpy_array, torch_list):
        for bounds in (Bounds(), Bounds(-1, 3), Bounds([-1, 0], 3)):
            lower, upper, _ = constraints_of(make(bounds=bounds))
            for half, expected in ((lower, bounds.lb), (upper, bounds.ub)):
                np.testing.assert_array_equal(np.broadcast_to(half, 2), np.broadcast_to(expected, 2))


def test_tensors_are_taken_by_numpy_and_arrays_by_torch():
    torch = pytest.importorskip("torch")
    low = torch.tensor([-1.0, 0.0], requires_grad=True)
    for make in (numpy_array, torch_list):
        lower, _, frozen = constraints_of(make(bounds=(low, None), frozen=torch.tensor([True, False])))
        assert (lower.tolist(), frozen.tolist()) == ([-1.0, 0.0], [True, False])
        assert not getattr(lower, "requires_grad", False)


@pytest.mark.parametrize("make", [numpy_list, torch_list], ids=lambda make: make.__name__)
def test_options_are_copies(make):
    low, mask = np.array([-1.0, 0.0]), np.array([True, False])
    optimizer = make(bounds=(low, None), frozen=mask)
    low[:], mask[:] = 7.0, True
    lower, _, frozen = constraints_of(optimizer)
    assert (lower.tolist(), frozen.tolist()) == ([-1.0, 0.0], [True, False])


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("frozen", [True, False, np.True_])
def test_one_mask_for_all(make, frozen):
    assert constraints_of(make(frozen=frozen)).frozen.tolist() == [bool(frozen)] * 2


def test_advice_for_pairs_does_not_reach_users_of_scipy():
    minimize = pytest.importorskip("scipy.optimize").minimize
    from rprop_kernels.scipy import irprop_plus

    for bounds in ([(0, 1), (3, 2)], [(0, 1)], [1, 2], [("a", 1), (0, 1)]):
        with pytest.raises((TypeError, ValueError)) as caught:
            minimize(lambda x: (x @ x, 2 * x), [1.0, 1.0], jac=True, method=irprop_plus, bounds=bounds)
        assert "transpose" not in str(caught.value) and "lower, upper" not in str(caught.value).replace(
            "pass (lower, upper) with lower <= upper everywhere", ""
        )


def test_parts():
    assert split_halves(None) == (None, None)
    assert split_option("lr", 1.0, 3) == [1.0] * 3
    assert split_option("lr", [1.0, 2.0], 1, array_like=True) == [[1.0, 2.0]]
    assert to_value("lr", 3) == 3.0 and type(to_value("lr", np.int64(3))) is float
    with pytest.raises(TypeError, match="x is no array"):
        to_value("x", [[1.0], [1.0, 2.0]])
    for option, expected in (
        (None, False), (1.0, False), ((None, 1.0), False), (np.ones(()), False), ([1.0], True), (np.ones(1), True),
        ((None, [1.0]), True), (SimpleNamespace(lb=np.ones(1), ub=1), False),
        (SimpleNamespace(lb=np.ones(2), ub=1), True),
    ):  # fmt: skip
        assert holds_arrays(option) == expected, option
