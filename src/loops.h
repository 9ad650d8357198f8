/* The loops over memory: one for each storage type, rule and instruction set. The second half of this file is included
 * for each storage type. 16-bit types are widened to float, computed there, and rounded wherever torch rounds. */
#ifndef RPROP_LOOPS_H
#define RPROP_LOOPS_H

#include <stddef.h>

#include "half.h"
#include "isa.h"
#include "rules.h"

/* The arrays of a row. STATE2 is for torch's rule only; those behind it are NULL where a row has none. */
enum { PARAM, GRAD, STATE, STATE2, LOWER, UPPER, FROZEN, BEST, N_ARRAYS };
enum { FLOAT, DOUBLE, HALF, BFLOAT16, N_DTYPES };

/* Steps n weights that are dense in every array. `hyper` is one row of hyper-parameters. */
typedef void Loop(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper);

#define T float
#define BITS_T uint32_t
#define ANY_T int
#define ANY(x, y) ((x) | (y))
#define STATE_T float
#define ORDER_T int32_t /* of positive floats as bits */
#define LOAD(x) (x)
#define STORE(x) (x)
#define NAME(name) name##_float
#define RULE(name) name##_float
#define TINY 0
#include "loops.h"

#define T double
#define BITS_T uint64_t
#define ANY_T double
#define ANY(x, y) ((y) ? 1 : (x))
#define STATE_T double
#define ORDER_T int64_t
#define LOAD(x) (x)
#define STORE(x) (x)
#define NAME(name) name##_double
#define RULE(name) name##_double
#define TINY 0
#include "loops.h"

#define T half_t
#define BITS_T uint16_t
#define ANY_T int
#define ANY(x, y) ((x) | (y))
#define STATE_T float
#define ORDER_T int32_t
#define LOAD(x) half_to_float(x)
#define STORE(x) float_to_half(x)
#define NAME(name) name##_half
#define RULE(name) name##_float
#define TINY 0x1p-25f /* half the least float16: a tie, which rounds to 0 */
#include "loops.h"

#define T bfloat16_t
#define BITS_T uint16_t
#define ANY_T int
#define ANY(x, y) ((x) | (y))
#define STATE_T float
#define ORDER_T int32_t
#define LOAD(x) bfloat16_to_float(x)
#define STORE(x) float_to_bfloat16(x)
#define NAME(name) name##_bfloat16
#define RULE(name) name##_float
#define TINY 0x1p-134f
#include "loops.h"

#define LOOPS_OF_DTYPE(isa, dtype) \
    { MOVE_##isa##_##dtype, SKIP_##isa##_##dtype, BACKTRACK_##isa##_##dtype, BACKTRACK_ALL_##isa##_##dtype, TORCH_##isa##_##dtype }
#define LOOPS_OF_ISA(isa) \
    { LOOPS_OF_DTYPE(isa, float), LOOPS_OF_DTYPE(isa, double), LOOPS_OF_DTYPE(isa, half), LOOPS_OF_DTYPE(isa, bfloat16) }

static Loop *const LOOPS[RPROP_ISAS][N_DTYPES][N_RULES] = {
    LOOPS_OF_ISA(baseline),
#if RPROP_ISAS > 1
    LOOPS_OF_ISA(v3),
    LOOPS_OF_ISA(v4),
#endif
};

/* Steps n weights, stops them at their bounds and returns whether any met one; their states are not yet limited. */
typedef int BoundedLoop(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper);
/* Of n weights, each with its options. */
typedef void OptionLoop(char *const arrays[N_ARRAYS], ptrdiff_t n);

#define BOUNDED_LOOPS_OF_DTYPE(isa, dtype) \
    { BOUNDED_MOVE_##isa##_##dtype, BOUNDED_SKIP_##isa##_##dtype, BOUNDED_BACKTRACK_##isa##_##dtype, \
      BOUNDED_BACKTRACK_ALL_##isa##_##dtype }
#define BOUNDED_LOOPS_OF_ISA(isa) \
    { BOUNDED_LOOPS_OF_DTYPE(isa, float), BOUNDED_LOOPS_OF_DTYPE(isa, double), BOUNDED_LOOPS_OF_DTYPE(isa, half), \
      BOUNDED_LOOPS_OF_DTYPE(isa, bfloat16) }
#define OPTION_LOOPS_OF_ISA(name, isa) { name##_##isa##_float, name##_##isa##_double, name##_##isa##_half, name##_##isa##_bfloat16 }

static BoundedLoop *const BOUNDED_LOOPS[RPROP_ISAS][N_DTYPES][TORCH] = {
    BOUNDED_LOOPS_OF_ISA(baseline),
#if RPROP_ISAS > 1
    BOUNDED_LOOPS_OF_ISA(v3),
    BOUNDED_LOOPS_OF_ISA(v4),
#endif
};

/* Limits the states of the weights that are at a bound. */
static OptionLoop *const LIMIT_LOOPS[RPROP_ISAS][N_DTYPES] = {
    OPTION_LOOPS_OF_ISA(LIMIT, baseline),
#if RPROP_ISAS > 1
    OPTION_LOOPS_OF_ISA(LIMIT, v3),
    OPTION_LOOPS_OF_ISA(LIMIT, v4),
#endif
};

/* Frozen weights forget their signs. */
static OptionLoop *const FORGET_LOOPS[RPROP_ISAS][N_DTYPES] = {
    OPTION_LOOPS_OF_ISA(FORGET, baseline),
#if RPROP_ISAS > 1
    OPTION_LOOPS_OF_ISA(FORGET, v3),
    OPTION_LOOPS_OF_ISA(FORGET, v4),
#endif
};

/* The largest |gradient| of n weights, without those that a bound holds; NaN counts as larger than infinity. */
typedef double GradientLoop(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper);

static GradientLoop *const GRADIENT_LOOPS[RPROP_ISAS][N_DTYPES] = {
    OPTION_LOOPS_OF_ISA(GRADIENT, baseline),
#if RPROP_ISAS > 1
    OPTION_LOOPS_OF_ISA(GRADIENT, v3),
    OPTION_LOOPS_OF_ISA(GRADIENT, v4),
#endif
};

static GradientLoop *const FREE_GRADIENT_LOOPS[RPROP_ISAS][N_DTYPES] = {
    OPTION_LOOPS_OF_ISA(FREE_GRADIENT, baseline),
#if RPROP_ISAS > 1
    OPTION_LOOPS_OF_ISA(FREE_GRADIENT, v3),
    OPTION_LOOPS_OF_ISA(FREE_GRADIENT, v4),
#endif
};

/* Copies n numbers, with `value` in the place of those of frozen weights. */
typedef void MaskLoop(char *to, const char *from, const char *frozen, double value, ptrdiff_t n);

static MaskLoop *const MASK_LOOPS[RPROP_ISAS][N_DTYPES] = {
    OPTION_LOOPS_OF_ISA(MASK, baseline),
#if RPROP_ISAS > 1
    OPTION_LOOPS_OF_ISA(MASK, v3),
    OPTION_LOOPS_OF_ISA(MASK, v4),
#endif
};

#elif defined(T)

static RPROP_INLINE void NAME(update_loop)(const int rule, char *const arrays[N_ARRAYS], const ptrdiff_t n,
                                           const double *hyper)
{
    T *const w = (T *)arrays[PARAM];
    const T *const g = (const T *)arrays[GRAD];
    STATE_T *const state = (STATE_T *)arrays[STATE];
    const RULE(Hyper) h = RULE(state_hyper)(hyper);
    for (ptrdiff_t i = 0; i < n; i++)
        w[i] = STORE(RULE(update)(rule, LOAD(w[i]), LOAD(g[i]), &state[i], h));
}

/* The hyper-parameters are already rounded to the storage type. The weight is read before anything is stored, or gcc 14
 * and 16 leave the loop scalar and gcc 12 takes up to four times as long. */
static RPROP_INLINE void NAME(torch_loop)(char *const arrays[N_ARRAYS], const ptrdiff_t n, const double *hyper)
{
    T *const w = (T *)arrays[PARAM];
    const T *const g = (const T *)arrays[GRAD];
    T *const prevs = (T *)arrays[STATE];
    T *const step_sizes = (T *)arrays[STATE2];
    const RULE(Hyper) h = RULE(hyper)(hyper);
    for (ptrdiff_t i = 0; i < n; i++) {
        const STATE_T x = LOAD(w[i]);
        STATE_T prev = LOAD(prevs[i]);
        const T step = STORE(RULE(torch_update)(LOAD(g[i]), &prev, LOAD(step_sizes[i]), TINY, h));
        step_sizes[i] = step;
        prevs[i] = STORE(prev);
        w[i] = STORE(x - RULE(sign)(prev) * LOAD(step));
    }
}

/* The weight is rounded before it is compared. ANY is the form of "or" that gcc 12 vectorises beside the type. */
static RPROP_INLINE int NAME(bounded_loop)(const int rule, char *const arrays[N_ARRAYS], const ptrdiff_t n,
                                           const double *hyper)
{
    T *const w = (T *)arrays[PARAM];
    const T *const g = (const T *)arrays[GRAD];
    STATE_T *const state = (STATE_T *)arrays[STATE];
    const T *const lower = (const T *)arrays[LOWER];
    const T *const upper = (const T *)arrays[UPPER];
    const RULE(Hyper) h = RULE(state_hyper)(hyper);
    ANY_T hit = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T moved = STORE(RULE(update)(rule, LOAD(w[i]), LOAD(g[i]), &state[i], h));
        const STATE_T x = LOAD(moved), low = LOAD(lower[i]), high = LOAD(upper[i]);
        const int is_low = x <= low, is_high = x >= high, stopped = is_low | is_high;
        const STATE_T bound = is_high ? high : low;
        const STATE_T next = stopped ? bound : x;
        w[i] = STORE(next);
        hit = ANY(hit, stopped);
    }
    return hit != 0;
}

static RPROP_INLINE void NAME(limit_loop)(char *const arrays[N_ARRAYS], const ptrdiff_t n)
{
    const T *const w = (const T *)arrays[PARAM];
    STATE_T *const state = (STATE_T *)arrays[STATE];
    const T *const lower = (const T *)arrays[LOWER];
    const T *const upper = (const T *)arrays[UPPER];
    for (ptrdiff_t i = 0; i < n; i++) {
        const STATE_T x = LOAD(w[i]), low = LOAD(lower[i]), high = LOAD(upper[i]), s = state[i];
        const STATE_T limited = RULE(limit)(s, low, high);
        state[i] = (x <= low) | (x >= high) ? limited : s;
    }
}

/* Copies, with `value` in the place of frozen weights: by bits, since gcc 12 branches on `?:` with a byte. */
static RPROP_INLINE void NAME(mask_loop)(char *to, const char *from, const char *frozen, const double value,
                                         const ptrdiff_t n)
{
    const T masked = STORE((STATE_T)value);
    BITS_T bits;
    memcpy(&bits, &masked, sizeof bits);
    for (ptrdiff_t i = 0; i < n; i++) {
        const BITS_T mask = (BITS_T)0 - (BITS_T)(frozen[i] != 0);
        ((BITS_T *)to)[i] = (((const BITS_T *)from)[i] & ~mask) | (bits & mask);
    }
}

/* Without a sign there is no move to take back. */
static RPROP_INLINE void NAME(forget_loop)(char *const arrays[N_ARRAYS], const ptrdiff_t n)
{
    STATE_T *const state = (STATE_T *)arrays[STATE];
    const char *const frozen = arrays[FROZEN];
    for (ptrdiff_t i = 0; i < n; i++) {
        const STATE_T s = state[i], forgotten = RULE(forget)(s);
        state[i] = frozen[i] ? forgotten : s;
    }
}

/* `bounded` is a compile-time constant. */
static RPROP_INLINE double NAME(gradient_loop)(const int bounded, char *const arrays[N_ARRAYS], const ptrdiff_t n,
                                               const double *hyper)
{
    const T *const w = (const T *)arrays[PARAM];
    const T *const g = (const T *)arrays[GRAD];
    const T *const lower = (const T *)arrays[LOWER];
    const T *const upper = (const T *)arrays[UPPER];
    const STATE_T direction = (STATE_T)hyper[DIRECTION];
    ORDER_T largest = 0;
    STATE_T result;
    for (ptrdiff_t i = 0; i < n; i++) {
        const STATE_T grad = LOAD(g[i]);
        const ORDER_T bits = bounded
            ? (ORDER_T)RULE(free_gradient)(LOAD(w[i]), grad, LOAD(lower[i]), LOAD(upper[i]), direction)
            : (ORDER_T)RULE(free_gradient)(0, grad, -1, 1, 1);
        largest = bits > largest ? bits : largest;
    }
    memcpy(&result, &largest, sizeof result);
    return result;
}

#define DEFINE_LOOP(rule, isa) \
    RPROP_TARGET_##isa static void NAME(rule##_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper) \
    { \
        NAME(update_loop)(rule, arrays, n, hyper); \
    } \
    RPROP_TARGET_##isa static int NAME(BOUNDED_##rule##_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n, \
                                                               const double *hyper) \
    { \
        return NAME(bounded_loop)(rule, arrays, n, hyper); \
    }
#define DEFINE_LOOPS(isa) \
    DEFINE_LOOP(MOVE, isa) \
    DEFINE_LOOP(SKIP, isa) \
    DEFINE_LOOP(BACKTRACK, isa) \
    DEFINE_LOOP(BACKTRACK_ALL, isa) \
    RPROP_TARGET_##isa static void NAME(TORCH_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper) \
    { \
        NAME(torch_loop)(arrays, n, hyper); \
    } \
    RPROP_TARGET_##isa static void NAME(LIMIT_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n) \
    { \
        NAME(limit_loop)(arrays, n); \
    } \
    RPROP_TARGET_##isa static double NAME(GRADIENT_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper) \
    { \
        return NAME(gradient_loop)(0, arrays, n, hyper); \
    } \
    RPROP_TARGET_##isa static double NAME(FREE_GRADIENT_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n, \
                                                               const double *hyper) \
    { \
        return NAME(gradient_loop)(1, arrays, n, hyper); \
    } \
    RPROP_TARGET_##isa static void NAME(FORGET_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n) \
    { \
        NAME(forget_loop)(arrays, n); \
    } \
    RPROP_TARGET_##isa static void NAME(MASK_##isa)(char *to, const char *from, const char *frozen, double value, \
                                                    ptrdiff_t n) \
    { \
        NAME(mask_loop)(to, from, frozen, value, n); \
    }

DEFINE_LOOPS(baseline)
#if RPROP_ISAS > 1
DEFINE_LOOPS(v3)
DEFINE_LOOPS(v4)
#endif

#undef T
#undef BITS_T
#undef ORDER_T
#undef ANY_T
#undef ANY
#undef STATE_T
#undef LOAD
#undef STORE
#undef NAME
#undef RULE
#undef TINY
#undef DEFINE_LOOP
#undef DEFINE_LOOPS
#endif
