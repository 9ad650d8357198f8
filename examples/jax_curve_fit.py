"""Fit a curve in JAX: 300 steps of iRprop+ in one compiled loop, `jax.lax.scan`.

The data are two peaks with noise on a sloping line; bounds keep the widths positive.
"""

import jax
import jax.numpy as jnp
import optax

from rprop_kernels.optax import irprop_plus

TRUTH = {
    "height": jnp.array([3.0, 1.5]),
    "centre": jnp.array([1.5, 3.5]),
    "width": jnp.array([0.3, 0.6]),
    "line": jnp.array([0.5, -0.1]),
}
START = {
    "height": jnp.array([1.0, 1.0]),
    "centre": jnp.array([1.0, 4.0]),
    "width": jnp.array([0.5, 0.5]),
    "line": jnp.array([0.0, 0.0]),
}
LOWER = {"height": 0.0, "centre": 0.0, "width": 0.05, "line": None}
UPPER = {"height": None, "centre": 5.0, "width": 2.0, "line": None}
X = jnp.linspace(0.0, 5.0, 200)


def curve(params):
    """Return two peaks of Gauss and a line at all X."""
    offset = (X - params["centre"][:, None]) / params["width"][:, None]
    peaks = params["height"][:, None] * jnp.exp(-0.5 * offset**2)
    return peaks.sum(axis=0) + params["line"][0] + params["line"][1] * X


def measurements(noise=0.05):
    return curve(TRUTH) + noise * jax.random.normal(jax.random.key(0), X.shape)


def loss_function(params, data):
    return jnp.mean((curve(params) - data) ** 2)


@jax.jit
def fit(params, data):
    """Return the fitted parameters and the loss before every step."""
    optimizer = irprop_plus(learning_rate=0.1, bounds=(LOWER, UPPER))

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_function)(params, data)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=300)
    return params, losses


def main():
    data = measurements()
    params, losses = fit(START, data)
    print(f"mean of squares: {losses[0]:.4f} at the start, {losses[-1]:.6f} after {len(losses)} steps")
    print(f"                 {loss_function(TRUTH, data):.6f} at the true parameters\n")
    print("        found           true")
    for name, (first, second) in TRUTH.items():
        print(f"{name:7s} {params[name][0]:6.3f} {params[name][1]:6.3f}   {first:6.3f} {second:6.3f}")
    return params, losses


if __name__ == "__main__":
    main()
