"""batched=True: one loss for each row of the parameters, in the four classes and AskTell."""

import copy
import math
import pickle

import numpy as np
import pytest

from rprop_kernels.backends import supported_backends, unavailable_reason
from rprop_kernels.numpy import METHODS, AskTell, IRpropPlus

CLASSES = list(METHODS.values())
DUPLICATES = {"copy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.fixture(params=supported_backends("arrays"))
def backend(request):
    if reason := unavailable_reason(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def contents(optimizer):
    return repr(optimizer.state_dict()), [x.tolist() for x in optimizer.params]


BAD = [
    (1.0, ValueError, r"loss has shape \(\), but batched=True needs .*shape \(B,\)"),
    (np.float32(1.0), ValueError, r"loss has shape \(\), but batched=True"),
    (np.ones((2, 1)), ValueError, r"loss has shape \(2, 1\), but batched=True"),
    ([1.0], ValueError, r"shape \(1,\), but params\[0\] has shape \(2, 3\): with batched=True .* must be 1"),
    (np.ones(3), ValueError, r"shape \(3,\), but params\[0\] has shape \(2, 3\): with batched=True .* must be 3"),
    (["a", "b"], TypeError, "loss is"),
    (np.ones(2) * 1j, TypeError, "loss is"),
]


@pytest.mark.parametrize("cls", [*CLASSES, AskTell])
@pytest.mark.parametrize(("loss", "error", "text"), BAD, ids=str)
def test_a_bad_loss_of_rows_is_the_same_error_in_all_classes(cls, loss, error, text):
    search = cls(np.ones((2, 3)), batched=True) if cls is AskTell else None
    optimizer = search.optimizer if search else cls(np.ones((2, 3)), batched=True)
    before = contents(optimizer)
    with pytest.raises(error, match=text):
        search.tell(loss, search.ask()) if search else optimizer.step(np.ones((2, 3)), loss)
    assert contents(optimizer) == before
    search.tell([1.0, 2.0], search.ask()) if search else optimizer.step(np.ones((2, 3)), [1.0, 2.0])
    assert contents(optimizer) != before


@pytest.mark.parametrize("rule", METHODS)
def test_without_it_the_loss_of_ask_and_tell_is_one_element(rule):
    search = AskTell(np.ones((2, 3)), rule)
    search.ask()
    for loss in ([1.0, 2.0], np.ones((2, 3)), []):
        with pytest.raises(ValueError, match=r"loss has shape .*loss\.mean\(\).*batched=True"):
            search.tell(loss, np.ones((2, 3)))
    search.tell([[1.0]], np.ones((2, 3)))
    assert search.best_loss == 1.0


def test_every_parameter_has_the_rows():
    optimizer = IRpropPlus([np.ones((2, 3)), np.ones(2), np.ones(3)], batched=True)
    with pytest.raises(ValueError, match=r"but params\[2\] has shape \(3,\): .*put it into an optimizer of its own"):
        optimizer.step([np.ones((2, 3)), np.ones(2), np.ones(3)], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"params\[0\] has shape \(\): with batched=True"):
        IRpropPlus(np.ones(()), batched=True).step(np.ones(()), [1.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (1, 3), (1, 2, 2)])
@pytest.mark.parametrize("rule", METHODS)
def test_one_row_is_a_problem_of_its_own(rule, shape, dtype, backend):
    row, alone = np.ones(shape, dtype), np.ones(shape, dtype)
    batched = METHODS[rule](row, lr=0.5, batched=True, backend=backend)
    single = METHODS[rule](alone, lr=0.5, backend=backend)
    searches = [AskTell(np.ones(shape, dtype), rule, lr=0.5, batched=b, backend=backend) for b in (True, False)]
    for sign, loss in ((1, 2.0), (-1, 3.0), (1, 1.0), (1, math.nan), (1, 1.0), (-1, 0.5)):
        grad = np.full(shape, sign, dtype)
        batched.step(grad, np.array([loss]))
        single.step(grad, np.array([loss]))
        assert np.array_equal(row, alone)
        for search, value in zip(searches, ([loss], loss), strict=True):
            search.ask()
            search.tell(value, grad)
        assert np.array_equal(*(search.ask() for search in searches))
    assert np.array_equal(batched.state_dict()["moves"], single.state_dict()["moves"])
    if rule == "irprop+":
        assert batched.state_dict()["loss"].tolist() == [0.5] and single.state_dict()["loss"] == 0.5
    assert searches[0].best_loss.tolist() == [searches[1].best_loss] == [0.5]


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("cls", CLASSES)
def test_batched_travels_with_copies(cls, duplicate):
    optimizer = cls(np.ones((2, 3)), batched=True)
    for _ in range(2):
        copied = duplicate(optimizer)
        with pytest.raises(ValueError, match="batched=True"):
            copied.step(np.ones((2, 3)), 1.0)
        for each in (copied, optimizer):
            each.step(np.ones((2, 3)), [1.0, 2.0])
        assert contents(copied) == contents(optimizer)


@pytest.mark.parametrize("cls", CLASSES)
def test_batched_is_a_bool_and_not_in_the_state(cls):
    for value in (1, None, "yes"):
        with pytest.raises(TypeError, match=r"batched is .*pass True or False"):
            cls(np.ones(2), batched=value)
    assert "batched" not in cls(np.ones(2), batched=np.True_).state_dict()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("batched", [False, True])
def test_a_state_with_the_other_kind_of_loss_is_refused(batched, rows, tmp_path):
    one, other = (IRpropPlus(np.ones((rows, 3)), batched=b) for b in (batched, not batched))
    one.step(np.ones((rows, 3)), np.ones(rows) if batched else 1.0)
    other.step(np.ones((rows, 3)), 2.0 if batched else np.full(rows, 2.0))
    before = contents(other)
    kind = rf"one number for each of {rows} rows" if batched else "one number"
    text = f"loss of the state is {kind}: load it into an optimizer made with batched={batched}"
    with pytest.raises(ValueError, match=text):
        other.load_state_dict(one.state_dict() | {"etas": (0.25, 2.0)})
    one.save(tmp_path / "state")
    with pytest.raises(ValueError, match=text):
        other.load(tmp_path / "state")
    assert contents(other) == before
    other.load_state_dict(one.state_dict() | {"loss": None})
    same_kind = IRpropPlus(np.ones((rows, 3)), batched=batched)
    same_kind.load(tmp_path / "state")
    assert repr(same_kind.state_dict()) == repr(one.state_dict())
