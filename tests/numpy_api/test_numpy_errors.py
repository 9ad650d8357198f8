"""Errors of the NumPy optimizers: each names the remedy and is raised before anything changes."""

import numpy as np
import pytest

from rprop_kernels.backends import supported_backends, unavailable_reason
from rprop_kernels.numpy import IRpropMinus, IRpropPlus, RpropMinus, RpropPlus
from rprop_kernels.numpy.validation import validate_arrays

windows = np.lib.stride_tricks.sliding_window_view
base = np.zeros(8)


@pytest.fixture(params=supported_backends("arrays"))
def backend(request):
    if reason := unavailable_reason(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def read_only(array):
    array.setflags(write=False)
    return array


PARAMS = {
    "number": (1.0, TypeError, r"params\[0\] is a builtins.float, not a numpy.ndarray: pass np.array"),
    "list": ([0.0, 1.0], TypeError, r"params\[0\] is a builtins.float, not a numpy.ndarray: pass np.array"),
    "nested list": ([[0.0, 1.0]], TypeError, r"params\[0\] is a builtins.list, not a numpy.ndarray"),
    "matrix": (np.zeros(2).view(np.recarray), TypeError, r"pass np\.asarray"),
    "masked": (np.ma.zeros(2), TypeError, r"MaskedArray, not a numpy.ndarray: pass np.asarray"),
    "none": ([], ValueError, "params is empty"),
    "integer": (np.zeros(2, int), TypeError, r"int64: .* pass x.astype\(float\)"),
    "boolean": (np.zeros(2, bool), TypeError, r"bool: .* pass x.astype\(float\)"),
    "half": (np.zeros(2, np.float16), TypeError, r"float16.* pass x.astype\(np.float32\)"),
    "complex": (np.zeros(2, complex), TypeError, "complex128: pass float32 or float64"),
    "long": (np.zeros(2, np.longdouble), TypeError, "pass float32 or float64"),
    "object": (np.zeros(2, object), TypeError, "object: pass float32 or float64"),
    "byte order": (np.zeros(2, ">f4"), TypeError, r"foreign byte order \(>f4\): pass x.astype\(np.float32\)"),
    "read-only": (read_only(np.zeros(2)), ValueError, "read-only.*pass a copy"),
    "broadcast": ([np.zeros(2), read_only(np.broadcast_to(1.0, 3))], ValueError, r"params\[1\] is read-only"),
    "self-overlap": (
        np.lib.stride_tricks.as_strided(base, (3, 3), (8, 8)),
        ValueError,
        r"several elements in the same memory: pass a copy",
    ),
    "stride 0": (np.lib.stride_tricks.as_strided(base, (3,), (0,)), ValueError, "in the same memory: pass"),
    "stride 0, huge": (np.lib.stride_tricks.as_strided(base, (1 << 40,), (0,)), ValueError, "in the same memory: pass"),
    "shifted by bytes": (np.lib.stride_tricks.as_strided(base, (3,), (4,)), ValueError, "in the same memory"),
    "twice": ([base, base], ValueError, r"params\[1\] and params\[0\] overlap.*: list each array once"),
    "overlap": ([base[:5], np.zeros(3), base[4:]], ValueError, r"params\[2\] and params\[0\] overlap"),
    "reversed": ([base[::-1], base[::2]], ValueError, "overlap"),
}


@pytest.mark.parametrize("case", PARAMS)
def test_parameters_that_are_refused(case):
    params, error, text = PARAMS[case]
    with pytest.raises(error, match=text):
        RpropMinus(params)


def test_interleaved_parameters_are_accepted():
    memory = np.zeros(24)
    RpropMinus([memory[::2], memory[1::2]]).step([np.ones(12), -np.ones(12)])
    assert memory.tolist() == [-0.01, 0.01] * 12
    square = np.zeros((4, 4))
    RpropMinus([square[:2, :2], square[:2, 2:], square[2:, 1:3], np.zeros((2, 0))])
    # interleaved axes: neither steps over the extent of the other, yet no address occurs twice
    RpropMinus(np.lib.stride_tricks.as_strided(memory, (2, 2), (16, 24)))


GRADS = {
    "too few": ([np.ones(2)], ValueError, "1 gradients for 2 parameters: pass one for each"),
    "too many": ([np.ones(2), np.ones((2, 2)), np.ones(2)], ValueError, "3 gradients for 2 parameters"),
    "bare array": (np.ones((2, 2)), TypeError, "grads is a ndarray: pass a list with a gradient for each"),
    "generator": ((g for g in [np.ones(2), np.ones((2, 2))]), TypeError, "grads is a generator: pass a list"),
    "none": ([np.ones(2), None], TypeError, r"grads\[1\] is a builtins.NoneType"),
    "lists": ([[1.0, 1.0], np.ones((2, 2))], TypeError, r"grads\[0\] is a builtins.list, not a numpy.nd"),
    "shape": ([np.ones(2), np.ones(4)], ValueError, r"grads\[1\] has shape \(4,\), its parameter \(2, 2\)"),
    "would broadcast": ([np.ones(2), np.ones((1, 2))], ValueError, r"grads\[1\] has shape \(1, 2\)"),
    "dtype": (
        [np.ones(2), np.ones((2, 2))[0:].astype(np.float32)],
        TypeError,
        r"grads\[1\] is float32, its parameter float64: pass it as grad.astype\(np.float64\)",
    ),
    "integer": ([np.ones(2), np.ones((2, 2), int)], TypeError, r"grads\[1\] is int64: .*astype\(float\)"),
    "byte order": ([np.ones(2), np.ones((2, 2), ">f8")], TypeError, r"grads\[1\] has foreign byte order"),
}


@pytest.mark.parametrize("frozen", [None, [np.array([True, False]), None]], ids=["free", "frozen"])
@pytest.mark.parametrize("case", GRADS)
def test_gradients_that_are_refused_change_nothing(case, frozen, backend):
    grads, error, text = GRADS[case]
    params = [np.zeros(2), np.zeros((2, 2))]
    optimizer = RpropMinus(params, frozen=frozen, backend=backend)
    before = optimizer.state_dict()
    with pytest.raises(error, match=text):
        optimizer.step(grads)
    assert not any(w.any() for w in params)
    for old, new in zip(before["moves"], optimizer.state_dict()["moves"], strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_refused_step_keeps_the_loss(backend):
    optimizer = IRpropPlus(np.zeros(2), backend=backend)
    optimizer.step(np.ones(2), 3.0)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(np.ones(3), 1.0)
    assert optimizer.state_dict()["loss"] == 3.0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_gradient_may_not_share_memory_with_a_parameter(count, backend):
    params = [np.ones(4) for _ in range(count)]
    optimizer = RpropMinus(params, backend=backend)
    for overlapping in (params[-1], params[0][::-1]):
        grads = [np.ones(4) for _ in range(count)]
        grads[-1] = overlapping
        with pytest.raises(ValueError, match="overlap in memory: pass a copy of the gradient"):
            optimizer.step(grads)
    assert all((w == 1).all() for w in params)


def test_gradients_may_share_memory_with_each_other(backend):
    params, g = [np.zeros(4), np.zeros(4), np.zeros(4)], np.ones(6)
    RpropMinus(params, backend=backend).step([g[:4], g[2:], g[:4]])
    validate_arrays(params, [g[:4], g[2:], g[:4]])
    assert [w.tolist() for w in params] == [[-0.01] * 4] * 3


def test_a_parameter_made_read_only_later_is_refused(backend):
    params = [np.zeros(2), np.zeros(2)]
    optimizer = RpropMinus(params, backend=backend)
    params[1].setflags(write=False)
    with pytest.raises(ValueError, match=r"params\[1\] is read-only"):
        optimizer.step([np.ones(2), np.ones(2)])
    assert not params[0].any()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: setattr(w, "shape", (2, 3)),
        lambda w: w.resize((7,), refcheck=False),
    ],
    ids=["shape", "size"],
)
def test_a_parameter_that_changed_its_shape_is_refused(change, backend):
    w = np.zeros(6)
    optimizer = RpropMinus(w, backend=backend)
    change(w)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(np.ones(6))
    with pytest.raises(ValueError, match=r"params\[0\] has changed its shape"):
        optimizer.step(np.ones(w.shape))
    assert not w.any()


@pytest.mark.parametrize("seed", range(40))
def test_overlap_is_found_as_by_counting_addresses(seed):
    """Random strided views of one buffer: the check agrees with a set of byte addresses."""
    rng = np.random.default_rng(seed)
    buffer = np.zeros(400)

    def view():
        shape = tuple(rng.integers(1, 4, rng.integers(1, 4)))
        strides = tuple(int(s) for s in 8 * rng.integers(-6, 7, len(shape)))
        return np.lib.stride_tricks.as_strided(buffer[rng.integers(60, 100) :], shape, strides)

    def addresses(array):
        first = array.__array_interface__["data"][0]
        return [first + int(np.dot(index, array.strides)) for index in np.ndindex(array.shape)]

    views = [view() for _ in range(3)]
    everything = [address for v in views for address in addresses(v)]
    overlapping = len(set(everything)) < len(everything)
    try:
        validate_arrays(views)
    except ValueError as error:
        assert overlapping, error
    else:
        assert not overlapping


def test_maximize_is_a_flag():
    with pytest.raises(TypeError, match=r"maximize is 'no' .*: pass True or False"):
        RpropMinus(np.zeros(2), maximize="no")
    optimizer = RpropMinus(np.zeros(2), maximize=np.True_)
    with pytest.raises(TypeError, match="maximize is 2"):
        optimizer.maximize = 2
    assert optimizer.maximize is True


def test_bytes_are_not_pairs():
    for name in ("etas", "step_sizes"):
        with pytest.raises(ValueError, match=name):
            RpropMinus(np.zeros(2), **{name: b"\x00\x01"})


@pytest.mark.parametrize(
    "options",
    [
        {"lr": "0.01"},
        {"lr": True},
        {"lr": np.array("0.01")},
        {"etas": True},
        {"step_sizes": ["1e-6", 50]},
        {"step_sizes": (False, 50)},
        {"step_sizes": np.array([False, True])},
    ],
    ids=str,
)
def test_text_and_truth_values_are_no_hyperparameters(options):
    (name, value), *_ = options.items()
    text = rf"^{name} must be (one number|two numbers), got .*: pass a"
    with pytest.raises(ValueError, match=text):
        RpropMinus(np.zeros(2), **options)
    optimizer = RpropMinus(np.zeros(2))
    with pytest.raises(ValueError, match=text):
        setattr(optimizer, name, value)
    saved = {**optimizer.state_dict(), **options}
    with pytest.raises(ValueError, match=text):
        optimizer.load_state_dict(saved)


def test_numpy_scalars_and_arrays_become_floats():
    optimizer = RpropMinus(np.zeros(2), lr=np.array(0.01), etas=np.array([0.5, 1.2]), step_sizes=(np.float32(0), 50))
    assert all(type(x) is float for x in (optimizer.lr, *optimizer.etas, *optimizer.step_sizes))


@pytest.mark.parametrize("cls", [RpropMinus, RpropPlus, IRpropMinus, IRpropPlus])
@pytest.mark.parametrize(
    ("loss", "error", "text"),
    [
        ("0.3", TypeError, "loss is '0.3'"),
        (True, TypeError, "loss is True"),
        (np.True_, TypeError, "loss is"),
        (1j, TypeError, "loss is 1j"),
        (np.ones(2), ValueError, r"loss has shape \(2,\).*loss\.mean\(\).*batched=True"),
        (np.ones(3), ValueError, r"loss has shape \(3,\)"),
        (np.ones((2, 2)), ValueError, r"loss has shape \(2, 2\)"),
        (np.ones(0), ValueError, r"loss has shape \(0,\)"),
    ],
    ids=str,
)
def test_a_bad_loss_is_the_same_error_in_all_classes(cls, loss, error, text, backend):
    x = np.ones(2)
    optimizer = cls(x, backend=backend)
    with pytest.raises(error, match=text):
        optimizer.step(np.ones(2), loss)
    assert x.tolist() == [1.0, 1.0]
    optimizer.step(np.ones(2), loss=np.float32(0.3))
    assert x.tolist() != [1.0, 1.0]
