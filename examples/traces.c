/* Read a golden trace and check an iRprop- with it.

   cc -std=c11 -ffp-contract=off -DREAL=double -DREAD=strtod examples/traces.c -o traces
   ./traces rprop_kernels/traces/zeros.float64.json

   For files of float32: -DREAL=float -DREAD=strtof. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef REAL real;
enum { MAX_TEXT = 1 << 20, MAX_NUMBERS = 1 << 16, MAX_WEIGHTS = 64 };

/* Copy the numbers of the list behind a key, nested or not, or a single number; return how many. */
static size_t numbers(const char *text, const char *key, real *to) {
    const char *at = text ? strstr(text, key) : NULL;
    size_t n = 0;
    int depth = 0;
    for (at = at ? at + strlen(key) : ""; *at;) {
        if (strchr(" ,\n[]", *at)) {
            depth += (*at == '[') - (*at == ']');
            if (*at++ == ']' && depth == 0) break;
        } else {
            char *end;
            to[n++] = READ(at, &end);
            if (end == at || n == MAX_NUMBERS) exit(2); /* not a number */
            at = end;
            if (depth == 0) break;
        }
    }
    return n;
}

int main(int argc, char **argv) {
    static char text[MAX_TEXT];
    static real w[MAX_NUMBERS], gradients[MAX_NUMBERS], expected[MAX_NUMBERS], lr[1], etas[2], step_sizes[2];
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file || !fread(text, 1, MAX_TEXT - 1, file)) return 2;
    fclose(file);
    const char *rules = strstr(text, "\"rules\":"), *rule = rules ? strstr(rules, "\"irprop-\":") : NULL;
    size_t n = numbers(text, "\"w0\":", w), total = numbers(text, "\"gradients\":", gradients);
    if (!rule || n == 0 || n > MAX_WEIGHTS || numbers(rule, "\"w\":", expected) != total) return 2;
    if (numbers(text, "\"lr\":", lr) != 1 || numbers(text, "\"etas\":", etas) != 2) return 2;
    if (numbers(text, "\"step_sizes\":", step_sizes) != 2) return 2;

    int q[MAX_WEIGHTS] = {0};
    real D[MAX_WEIGHTS];
    for (size_t i = 0; i < n; i++) D[i] = lr[0];
    for (size_t k = 0; k < total; k++) { /* step k / n, weight k % n */
        size_t i = k % n;
        int sign = (gradients[k] > 0) - (gradients[k] < 0), c = sign * q[i];
        if (c > 0) D[i] *= etas[1];
        if (c < 0) D[i] *= etas[0], sign = 0;
        if (D[i] < step_sizes[0]) D[i] = step_sizes[0];
        if (D[i] > step_sizes[1]) D[i] = step_sizes[1];
        q[i] = sign;
        w[i] -= (real)sign * D[i];
        if (memcmp(&w[i], &expected[k], sizeof(real))) {
            printf("step %zu, weight %zu: %.9g, not %.9g\n", k / n + 1, i, (double)w[i], (double)expected[k]);
            return 1;
        }
    }
    printf("%zu weights, %zu steps: iRprop-\n", n, total / n);
    return 0;
}
