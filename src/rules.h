/* The update rules for one weight. The second half of this file is included for float and for double.
 *
 * No branch and no memory access depends on data, so that a loop over weights vectorises in every instruction set,
 * with gcc 12 to 16 and clang. What keeps it so:
 * - A condition is an int, joined by & | ^ and used by `?:` alone; && and || are short circuits, hence branches.
 * - An arm of `?:` is a value or one operation on values, never another `?:`.
 * - Implications between conditions are hidden (^ for "and not"), or gcc splits the loop body into paths. */
#ifndef RPROP_RULES_H
#define RPROP_RULES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"

/* A rule is named by its treatment of a weight whose gradient has changed its sign: the weight moves on by the smaller
 * step, stays for one step, or takes its last move back. BACKTRACK_ALL takes every remembered move back, whatever the
 * gradient. TORCH is the rule of torch.optim.Rprop. */
enum { MOVE, SKIP, BACKTRACK, BACKTRACK_ALL, TORCH, N_RULES };

/* The columns of a row of hyper-parameters; `direction` is -1 to maximize, else 1. */
enum { ETA_MINUS, ETA_PLUS, STEP_MIN, STEP_MAX, DIRECTION, N_HYPER };

#define REAL float
#define NAME(name) name##_float
#define FABS fabsf
#define COPYSIGN copysignf
#define BITS uint32_t
#define SIGN_BIT 0x80000000u
#define SHIFT 0x1p96f
#define THRESHOLD 0x1p32f
#define LEAST_STEP 0x1p-63f
#include "rules.h"

#define REAL double
#define NAME(name) name##_double
#define FABS fabs
#define COPYSIGN copysign
#define BITS uint64_t
#define SIGN_BIT 0x8000000000000000u
#define SHIFT 0x1p768
#define THRESHOLD 0x1p256
#define LEAST_STEP 0x1p-255
#include "rules.h"

#elif defined(REAL)

typedef struct { REAL eta_minus, eta_plus, step_min, step_max, direction; } NAME(Hyper);

static RPROP_INLINE NAME(Hyper) NAME(hyper)(const double *h)
{
    NAME(Hyper) rounded = {
        (REAL)h[ETA_MINUS], (REAL)h[ETA_PLUS], (REAL)h[STEP_MIN], (REAL)h[STEP_MAX], (REAL)h[DIRECTION],
    };
    return rounded;
}

/* For the rules whose state is one number: no step is smaller than LEAST_STEP, which that state can hold. */
static RPROP_INLINE NAME(Hyper) NAME(state_hyper)(const double *h)
{
    NAME(Hyper) raised = NAME(hyper)(h);
    raised.step_min = raised.step_min < LEAST_STEP ? LEAST_STEP : raised.step_min;
    return raised;
}

/* x, negated where y has its sign bit set. */
static RPROP_INLINE REAL NAME(mulsign)(REAL x, const REAL y)
{
    BITS a, b;
    memcpy(&a, &x, sizeof a);
    memcpy(&b, &y, sizeof b);
    a ^= b & SIGN_BIT;
    memcpy(&x, &a, sizeof a);
    return x;
}

/* -1, +0 or +1; +0 for NaN. */
static RPROP_INLINE REAL NAME(sign)(const REAL x) { return FABS(x) > 0 ? COPYSIGN(1, x) : 0; }

/* The rules of [RB93] and [IH03]; returns the new weight. `rule` is a compile-time constant. The state is the last
 * move q * D, or SHIFT * D where there is no sign q to remember. */
static RPROP_INLINE REAL NAME(update)(const int rule, const REAL w, const REAL grad, REAL *state, const NAME(Hyper) h)
{
    const REAL s = *state;
    const REAL size = FABS(s);
    const REAL g = NAME(mulsign)(grad, h.direction);
    const REAL c = rule == BACKTRACK_ALL ? -1 : NAME(mulsign)(s, g); /* has the sign of sign(g) * q, if both exist */

    const int has_sign = size <= THRESHOLD; /* q != 0 */
    const int has_grad = FABS(grad) > 0;    /* neither 0 nor NaN */
    const int compared = rule == BACKTRACK_ALL ? has_sign : has_sign & has_grad;
    const int flipped = compared & (c < 0);
    const int moves = rule == BACKTRACK_ALL ? 0                  /* a comparison of g, not has_grad: gcc 14 would */
                    : rule == MOVE ? FABS(g) > 0 : has_grad ^ flipped; /* split the body on it; ^: and not flipped */

    const REAL eta = c < 0 ? h.eta_minus : h.eta_plus;
    const REAL unscaled = has_sign ? size : size * (1 / SHIFT);
    REAL step = compared ? size * eta : unscaled; /* D */
    step = step < h.step_min ? h.step_min : step;
    step = step > h.step_max ? h.step_max : step;

    const REAL move = NAME(mulsign)(step, g);
    *state = moves ? move : step * SHIFT;
    REAL change = moves ? move : 0;
    if (rule == BACKTRACK || rule == BACKTRACK_ALL)
        change = flipped ? -s : change;
    return w - change;
}

/* torch.optim.Rprop; returns the new step size and sets `prev` to the gradient to move by and to remember. The weight
 * then changes by sign(*prev) * step, with the step as it is stored. `tiny`: the largest product that the storage type
 * rounds to 0. */
static RPROP_INLINE REAL NAME(torch_update)(const REAL grad, REAL *prev, const REAL last, const REAL tiny,
                                            const NAME(Hyper) h)
{
    const REAL g = NAME(mulsign)(grad, h.direction);
    const REAL c = g * *prev;
    const REAL not_plus = c < -tiny ? h.eta_minus : 1;
    const REAL eta = c > tiny ? h.eta_plus : not_plus;
    REAL step = last * eta;
    step = step < h.step_min ? h.step_min : step;
    step = step > h.step_max ? h.step_max : step;
    *prev = eta == h.eta_minus ? 0 : g; /* torch compares the factor, not the sign */
    return step;
}

/* The state of the same step without a sign. */
static RPROP_INLINE REAL NAME(forget)(const REAL state)
{
    const REAL size = FABS(state);
    return size > THRESHOLD ? size : size * SHIFT;
}

/* The state of a weight that has met a bound: no sign, and a step of half the width of its interval at most. */
static RPROP_INLINE REAL NAME(limit)(const REAL state, const REAL lower, const REAL upper)
{
    const REAL half = (upper - lower) / 2;
    const REAL largest = (half < LEAST_STEP ? LEAST_STEP : half) * SHIFT;
    const REAL scaled = NAME(forget)(state);
    return scaled > largest ? largest : scaled;
}

/* |grad| as bits, which are ordered as the numbers are and put NaN above infinity; 0 where a bound holds the weight. */
static RPROP_INLINE BITS NAME(free_gradient)(const REAL w, const REAL grad, const REAL lower, const REAL upper,
                                             const REAL direction)
{
    const REAL g = grad * direction;
    const int held = ((w <= lower) & (g > 0)) | ((w >= upper) & (g < 0));
    const REAL size = held ? 0 : FABS(grad);
    BITS bits;
    memcpy(&bits, &size, sizeof bits);
    return bits;
}

#undef REAL
#undef NAME
#undef FABS
#undef COPYSIGN
#undef BITS
#undef SIGN_BIT
#undef SHIFT
#undef THRESHOLD
#undef LEAST_STEP
#endif
