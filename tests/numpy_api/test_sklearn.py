"""The optimizer of scikit-learn's Gaussian processes: likelihoods, bounds, restarts, copies, its checks."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from rprop_kernels.scipy import METHODS
from rprop_kernels.sklearn import gp_optimizer

RULES = ("rprop-", "rprop+", "irprop-", "irprop+")


def series(n=40):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 10, n))
    return x[:, None], np.sin(x) + 0.2 * rng.normal(size=n)


def kernel(**bounds):
    return ConstantKernel(1.0) * RBF(3.0, **bounds) + WhiteKernel(0.5)


@pytest.fixture
def bounds_may_be_met():
    """scikit-learn warns where the optimum is at a bound."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The optimal value found for dimension", ConvergenceWarning)
        yield


@pytest.mark.parametrize("rule", RULES)
def test_regression_reaches_the_likelihood_of_l_bfgs_b(rule):
    x, y = series()
    reference = GaussianProcessRegressor(kernel()).fit(x, y)
    model = GaussianProcessRegressor(kernel(), optimizer=gp_optimizer(rule)).fit(x, y)
    assert abs(model.log_marginal_likelihood_value_ - reference.log_marginal_likelihood_value_) < 1e-5
    np.testing.assert_allclose(model.kernel_.theta, reference.kernel_.theta, atol=1e-3)
    assert model.log_marginal_likelihood_value_ == model.log_marginal_likelihood(model.kernel_.theta)


@pytest.mark.parametrize("rule", RULES)
def test_classification_reaches_the_likelihood_of_l_bfgs_b(rule):
    x, y = series()
    labels = np.digitize(y, [-0.4, 0.4])  # three classes
    reference = GaussianProcessClassifier(ConstantKernel(1.0) * RBF(1.0), n_jobs=1).fit(x, labels)
    model = clone(reference).set_params(optimizer=gp_optimizer(rule)).fit(x, labels)
    pairs = zip(model.base_estimator_.estimators_, reference.base_estimator_.estimators_, strict=True)
    for mine, other in pairs:
        assert abs(mine.log_marginal_likelihood_value_ - other.log_marginal_likelihood_value_) < 1e-3
    assert (model.predict(x) == reference.predict(x)).all()


def test_bounds_are_respected_and_met(bounds_may_be_met):
    x, y = series()
    thetas = []

    class Watched(GaussianProcessRegressor):
        def log_marginal_likelihood(self, theta=None, *args, **options):
            thetas.append(np.array(theta))
            return super().log_marginal_likelihood(theta, *args, **options)

    bounds = {"length_scale_bounds": (2.5, 10.0)}  # the best length scale is below
    model = Watched(kernel(**bounds), optimizer=gp_optimizer()).fit(x, y)
    reference = GaussianProcessRegressor(kernel(**bounds)).fit(x, y)
    low, high = model.kernel_.bounds.T
    assert all((low <= theta).all() and (theta <= high).all() for theta in thetas if theta.size)
    assert model.kernel_.k1.k2.length_scale == pytest.approx(2.5, rel=1e-12)
    assert abs(model.log_marginal_likelihood_value_ - reference.log_marginal_likelihood_value_) < 1e-5


def test_a_fixed_parameter_stays():
    x, y = series()
    model = GaussianProcessRegressor(RBF(3.0) + WhiteKernel(0.04, "fixed"), optimizer=gp_optimizer())
    model.fit(x, y)
    assert model.kernel_.k2.noise_level == 0.04 and model.kernel_.k1.length_scale != 3.0


def test_restarts_help(bounds_may_be_met):
    x, y = series()
    start = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(40.0, (1e-1, 1e2)) + WhiteKernel(10.0, (1e-4, 1e2))
    once = GaussianProcessRegressor(start, optimizer=gp_optimizer(), random_state=0).fit(x, y)
    again = clone(once).set_params(n_restarts_optimizer=4).fit(x, y)
    reference = clone(again).set_params(optimizer="fmin_l_bfgs_b").fit(x, y)
    # the first start ends in the optimum that explains everything as noise
    assert again.log_marginal_likelihood_value_ > once.log_marginal_likelihood_value_ + 1
    assert abs(again.log_marginal_likelihood_value_ - reference.log_marginal_likelihood_value_) < 1e-4


def test_restarts_of_the_classifier_start_outside_its_bounds_and_work(bounds_may_be_met):
    x, y = series()
    start = ConstantKernel(1.0, (1e-2, 10.0)) * RBF(1.0, (0.1, 10.0))
    model = GaussianProcessClassifier(start, optimizer=gp_optimizer(), n_restarts_optimizer=3, random_state=0)
    model.fit(x, y > 0)
    low, high = model.kernel_.bounds.T
    assert (low <= model.kernel_.theta).all() and (model.kernel_.theta <= high).all()


def test_a_nonfinite_likelihood():
    """obj_func is +inf where the covariance is not positive definite; NaN must not win among restarts."""

    def infinite(theta, eval_gradient=True):
        return math.inf, np.zeros(2)

    def nan(theta, eval_gradient=True):
        return math.nan, np.zeros(2)

    for objective in (infinite, nan):
        with pytest.warns(ConvergenceWarning, match=r"irprop\+ failed to converge \(status=3\)"):
            theta, value = gp_optimizer()(objective, np.zeros(2), bounds=np.array([[-1, 1], [-1, 1]]))
        assert value == math.inf and theta.tolist() == [0.0, 0.0]

    def walled(theta, eval_gradient=True):
        if theta[0] > 1:
            return math.inf, np.zeros(1)
        return (theta[0] - 0.9) ** 2, 2 * (theta - 0.9)

    theta, value = gp_optimizer(gtol=1e-7)(walled, np.zeros(1), bounds=np.array([[-5, 5]]))
    assert abs(theta[0] - 0.9) < 1e-6 and value < 1e-12


def test_ending_early_warns_at_the_users_line():
    x, y = series()
    with pytest.warns(ConvergenceWarning, match=r"rprop- failed to converge \(status=1\): .*maxiter") as caught:
        GaussianProcessRegressor(kernel(), optimizer=gp_optimizer("rprop-", maxiter=2)).fit(x, y)
    assert caught[0].filename == __file__


def test_clone_copy_and_pickle():
    x, y = series()
    model = GaussianProcessRegressor(kernel(), optimizer=gp_optimizer("rprop+", gtol=1e-2, lr=0.3))
    model.fit(x, y)
    for other in (clone(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.fit(x, y)
        np.testing.assert_array_equal(other.kernel_.theta, model.kernel_.theta)
        assert other.optimizer.keywords == model.optimizer.keywords


def test_options_reach_the_search():
    with pytest.raises(ValueError, match="no method 'sgd': choose one of rprop-"):
        gp_optimizer("sgd")
    x, y = series(10)
    with pytest.raises(ValueError, match="Invalid eta values"):
        GaussianProcessRegressor(kernel(), optimizer=gp_optimizer(etas=(2, 3))).fit(x, y)
    coarse = GaussianProcessRegressor(kernel(), optimizer=gp_optimizer(gtol=1.0)).fit(x, y)
    fine = GaussianProcessRegressor(kernel(), optimizer=gp_optimizer(gtol=1e-6)).fit(x, y)
    assert coarse.log_marginal_likelihood_value_ < fine.log_marginal_likelihood_value_


@parametrize_with_checks(
    [
        GaussianProcessRegressor(RBF(1.0, (0.1, 10.0)), alpha=1e-2, optimizer=gp_optimizer(maxiter=50)),
        GaussianProcessClassifier(RBF(1.0, (0.1, 10.0)), optimizer=gp_optimizer(maxiter=3)),
    ]
)
def test_sklearns_estimator_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn's warnings about the data of its checks
        check(estimator)


def test_options_are_validated_at_once():
    with pytest.raises(TypeError, match="gp_optimizer has no option bounds, maxitr: there is maxiter"):
        gp_optimizer(maxitr=1, bounds=None)


@pytest.mark.parametrize("optimizer", [gp_optimizer, METHODS["irprop+"]], ids=["no parentheses", "a method for scipy"])
def test_another_optimizer_names_the_right_one(optimizer):
    x, y = series(10)
    with pytest.raises(TypeError, match=r"optimizer=gp_optimizer\(\)"):
        GaussianProcessRegressor(kernel(), optimizer=optimizer).fit(x, y)
