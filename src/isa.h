/* Instruction sets: the targets that loops are compiled for, and the best one that this machine can run. */
#ifndef RPROP_ISA_H
#define RPROP_ISA_H

#if defined(_MSC_VER)
#define RPROP_INLINE __forceinline
#else
#define RPROP_INLINE inline __attribute__((always_inline))
#endif

/* x86-64-v3 has AVX2, x86-64-v4 AVX-512. gcc knows both by these names from version 12 on. Elsewhere there is the
 * baseline alone, which the compiler vectorises by itself (SSE2 on x86-64, NEON on arm64). */
#define RPROP_TARGET_baseline
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define RPROP_TARGET_v3 __attribute__((target("arch=x86-64-v3")))
#define RPROP_TARGET_v4 __attribute__((target("arch=x86-64-v4")))
#define RPROP_ISAS 3

static int best_isa(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4"))
        return 2;
    return __builtin_cpu_supports("x86-64-v3") ? 1 : 0;
}
#else
#define RPROP_ISAS 1

static int best_isa(void) { return 0; }
#endif

#endif
