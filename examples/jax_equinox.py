"""Train an equinox module on all its data at once, by the four rules and by optax.rprop.

Rprop needs the full batch: it compares the signs of two gradients, and iRprop+ two losses.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from rprop_kernels.optax import irprop_minus, irprop_plus, rprop_minus, rprop_plus

OPTIMIZERS = {
    "rprop-": rprop_minus,
    "rprop+": rprop_plus,
    "irprop-": irprop_minus,
    "irprop+": irprop_plus,
    "optax.rprop": lambda rate: optax.with_extra_args_support(optax.rprop(rate)),
}


def spirals(count=200):
    """Return the points of two noisy spirals, and 0 or 1 for each."""
    turn = jnp.linspace(0.5, 3.0, count // 2) * jnp.pi
    spiral = jnp.stack([turn * jnp.cos(turn), turn * jnp.sin(turn)], axis=1) / 6
    points = jnp.concatenate([spiral, -spiral])
    return points + 0.02 * jax.random.normal(jax.random.key(1), points.shape), jnp.arange(count) // (count // 2)


def loss_function(model, points, labels):
    return optax.sigmoid_binary_cross_entropy(jax.vmap(model)(points), labels).mean()


def train(make, epochs=300):
    """Return the loss before every step, and the accuracy at the end."""
    points, labels = spirals()
    model = eqx.nn.MLP(2, "scalar", width_size=32, depth=2, activation=jax.nn.tanh, key=jax.random.key(0))
    optimizer = make(0.01)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: loss_function(eqx.combine(p, static), points, labels))(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return (eqx.apply_updates(params, updates), state), loss

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=epochs))
    (params, _), losses = run((params, optimizer.init(params)))
    model = eqx.combine(params, static)
    accuracy = jnp.mean((jax.vmap(model)(points) > 0) == labels)
    return losses, float(accuracy)


def main(names=tuple(OPTIMIZERS), epochs=300):
    print("             loss      accuracy")
    rows = {}
    for name in names:
        losses, accuracy = train(OPTIMIZERS[name], epochs)
        rows[name] = float(losses[-1]), accuracy
        print(f"{name:12s} {losses[-1]:.2e}  {accuracy:.1%}")
    return rows


if __name__ == "__main__":
    main()
