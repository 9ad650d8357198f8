"""Fit a thousand logistic curves at once: `jax.vmap` gives each its own loss, and each takes its own steps.

Every problem has bounds, so that widths stay positive.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rprop_kernels.optax import irprop_plus

TIMES = jnp.linspace(-3.0, 3.0, 40)
LOWER, UPPER = np.array([0.0, -3.0, 0.05]), np.array([10.0, 3.0, 3.0])


def curve(params):
    """Return height / (1 + exp(-(t - middle) / width))."""
    height, middle, width = params
    return height * jax.nn.sigmoid((TIMES - middle) / width)


def problems(count=1000, noise=0.02):
    """Return true parameters, shape (count, 3), and data, shape (count, times)."""
    keys = jax.random.split(jax.random.key(0), 2)
    low, high = jnp.array([0.5, -1.5, 0.2]), jnp.array([5.0, 1.5, 1.0])
    truth = low + (high - low) * jax.random.uniform(keys[0], (count, 3))
    return truth, jax.vmap(curve)(truth) + noise * jax.random.normal(keys[1], (count, TIMES.size))


def fit(data, steps=300):
    """Fit one curve; return its parameters and the loss at the last step."""
    optimizer = irprop_plus(learning_rate=0.1, bounds=(LOWER, UPPER))

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((curve(p) - data) ** 2))(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    params = jnp.array([1.0, 0.0, 1.0])
    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return params, losses[-1]


def main(count=1000):
    truth, data = problems(count)
    params, losses = jax.jit(jax.vmap(fit))(data)
    at_truth = ((jax.vmap(curve)(truth) - data) ** 2).sum(axis=1)
    below = jnp.mean(losses <= at_truth)
    print(f"{count} fits of three parameters in one call")
    print(f"loss below that of the true parameters: {below:.1%}")
    print(f"median error of height, middle, width: {jnp.median(jnp.abs(params - truth), axis=0)}")
    return params, losses, at_truth


if __name__ == "__main__":
    main()
