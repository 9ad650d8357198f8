/* The loops over memory: one for each storage type, rule and instruction set. The second half of this file is included
 * for each storage type. 16-bit types are widened to float, computed there, and rounded wherever torch rounds. */
#ifndef RPROP_LOOPS_H
#define RPROP_LOOPS_H

#include <stddef.h>

#include "half.h"
#include "isa.h"
#include "rules.h"

/* The arrays of a row; STATE2 is for torch's rule only. */
enum { PARAM, GRAD, STATE, STATE2, N_ARRAYS };
enum { FLOAT, DOUBLE, HALF, BFLOAT16, N_DTYPES };

/* Steps n weights that are dense in every array. `hyper` is one row of hyper-parameters. */
typedef void Loop(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper);

#define T float
#define STATE_T float
#define LOAD(x) (x)
#define STORE(x) (x)
#define NAME(name) name##_float
#define RULE(name) name##_float
#define TINY 0
#include "loops.h"

#define T double
#define STATE_T double
#define LOAD(x) (x)
#define STORE(x) (x)
#define NAME(name) name##_double
#define RULE(name) name##_double
#define TINY 0
#include "loops.h"

#define T half_t
#define STATE_T float
#define LOAD(x) half_to_float(x)
#define STORE(x) float_to_half(x)
#define NAME(name) name##_half
#define RULE(name) name##_float
#define TINY 0x1p-25f /* half the least float16: a tie, which rounds to 0 */
#include "loops.h"

#define T bfloat16_t
#define STATE_T float
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

typedef void ClampLoop(char *const arrays[N_ARRAYS], const char *lower, const char *upper, const char *most, ptrdiff_t n);
#define CLAMP_LOOPS_OF_ISA(isa) \
    { CLAMP_##isa##_float, CLAMP_##isa##_double, CLAMP_##isa##_half, CLAMP_##isa##_bfloat16 }

static ClampLoop *const CLAMP_LOOPS[RPROP_ISAS][N_DTYPES] = {
    CLAMP_LOOPS_OF_ISA(baseline),
#if RPROP_ISAS > 1
    CLAMP_LOOPS_OF_ISA(v3),
    CLAMP_LOOPS_OF_ISA(v4),
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

/* Weights within their bounds; every array but the parameter and its state is read only. */
static RPROP_INLINE void NAME(clamp_loop)(char *const arrays[N_ARRAYS], const char *lower, const char *upper,
                                          const char *most, const ptrdiff_t n)
{
    T *const w = (T *)arrays[PARAM];
    STATE_T *const state = (STATE_T *)arrays[STATE];
    for (ptrdiff_t i = 0; i < n; i++)
        w[i] = STORE(RULE(clamp)(LOAD(w[i]), &state[i], LOAD(((const T *)lower)[i]), LOAD(((const T *)upper)[i]),
                                 ((const STATE_T *)most)[i]));
}

#define DEFINE_LOOP(rule, isa) \
    RPROP_TARGET_##isa static void NAME(rule##_##isa)(char *const arrays[N_ARRAYS], ptrdiff_t n, const double *hyper) \
    { \
        NAME(update_loop)(rule, arrays, n, hyper); \
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
    RPROP_TARGET_##isa static void NAME(CLAMP_##isa)(char *const arrays[N_ARRAYS], const char *lower, \
                                                     const char *upper, const char *most, ptrdiff_t n) \
    { \
        NAME(clamp_loop)(arrays, lower, upper, most, n); \
    }

DEFINE_LOOPS(baseline)
#if RPROP_ISAS > 1
DEFINE_LOOPS(v3)
DEFINE_LOOPS(v4)
#endif

#undef T
#undef STATE_T
#undef LOAD
#undef STORE
#undef NAME
#undef RULE
#undef TINY
#undef DEFINE_LOOP
#undef DEFINE_LOOPS
#endif
