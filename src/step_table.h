/* A step as a table: a row for each parameter, with its addresses, sizes and hyper-parameters. Collectors fill it (see
 * _native.pyx); run_table steps all rows, on one thread or on several. Work is divided by weights across all rows, so
 * that one large parameter among many small ones still uses every core. */
#ifndef RPROP_STEP_TABLE_H
#define RPROP_STEP_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "loops.h"

enum {
    MAX_DIMS = 16,
    GATHER_SIZE = 256,      /* weights copied at a time from arrays that are not dense */
    OPTION_SIZE = 512,      /* weights with options stepped at a time; 256 take 6 % longer, 1024 fill the cache in double */
    THREAD_BLOCK = 64,      /* threads meet at multiples of this many weights: few cache lines are shared */
    CACHE_LINE = 64,        /* bytes */
    MIN_STREAMED = 1 << 17, /* weights from which the best point is written past the cache */
    MIN_ALIGNED_RUN = 4096, /* weights from which an aligned start pays; NumPy's arrays mostly start 16 bytes off */
};

/* 12 fields of 8 bytes. The gradients' addresses, which change on every step, are a column of their own. */
typedef struct {
    char *param, *state[2];  /* state[1]: torch's rule only */
    int64_t numel;
    int64_t numel_per_loss;  /* weights that share a loss outcome; 0: `rule` holds for all */
    int64_t first_loss;      /* index of the row's first outcome */
    int64_t offset;          /* weights in the rows before */
    int64_t hyper;           /* index into hypers */
    int64_t layout;          /* index into layouts; -1: all arrays are dense in one order */
    int64_t dtype, rule;
    int64_t extra;           /* index into extras; -1: none */
} Row;

/* The options of a row: arrays of its shape, or NULL. The bounds and `best` have its dtype; `frozen` holds bytes, not 0
 * where a weight is frozen. A step copies the weights that it leaves to `best` where they have improved. */
typedef struct {
    char *lower, *upper, *frozen, *best;
    int64_t flags;           /* SCALAR_LOWER, SCALAR_UPPER: the bound is one number */
} Extra;

enum { SCALAR_LOWER = 1, SCALAR_UPPER = 2 };

/* Common dimensions of all arrays of a row, outermost first; strides in bytes. */
typedef struct {
    int64_t ndim, shape[MAX_DIMS], strides[N_ARRAYS][MAX_DIMS];
} Layout;

typedef struct { char *begin, *end; } ByteRange;

/* GNU libgomp's entry points, found at run time; there is no OpenMP at build time. */
typedef void ParallelFunction(void (*body)(void *), void *data, unsigned n_threads, unsigned flags);
typedef int ThreadQuery(void);

/* The function of another engine that steps the weights begin..end of a table, in the place of run_range. */
typedef void RangeRunner(const int64_t *header, int64_t begin, int64_t end);

/* A table as that function receives it: addresses, and the number of rows. */
enum {
    HEADER_ROWS, HEADER_N_ROWS, HEADER_GRADS, HEADER_HYPERS, HEADER_LAYOUTS, HEADER_EXTRAS, HEADER_OUTCOMES, HEADER_IMPROVED,
    HEADER_LOOPS, HEADER_RUN_GATHERED, N_HEADER, /* the last two are that engine's own */
};

/* Bits of a dtype in the set of loops that a table needs; below them are those of the rules. */
enum { NEEDS_OPTIONS = N_RULES, NEEDS_GATHERED, N_NEEDS = 8 };

typedef struct {
    Row *rows;
    char **grads;                /* a gradient for each row */
    double (*hypers)[N_HYPER];
    Layout *layouts;
    Extra *extras;
    ByteRange *writes;           /* of every array that is written, in the order of collection */
    ByteRange *reads;            /* of the gradients and options */
    ByteRange *sorted_writes;    /* followed by a copy of `writes`: the last ones found to be disjoint */
    ByteRange *last_reads;       /* reads found to be disjoint from `sorted_writes` */
    ptrdiff_t n_rows, n_hypers, n_layouts, n_extras, n_writes, n_reads, n_sorted_writes, n_last_reads;
    ptrdiff_t row_capacity, grad_capacity, hyper_capacity, layout_capacity, extra_capacity, write_capacity, read_capacity;
    ptrdiff_t sorted_write_capacity, last_read_capacity;
    int64_t numel;               /* weights in all rows */
    double *largest;             /* NULL: a step; else nothing is stepped, and the largest |gradient| goes here: of each
                                  * loss on one thread, of each thread where there are several, or of all */
    const unsigned char *outcomes; /* a loss outcome each, for rows with numel_per_loss > 0; NULL: the rule of the row */
    const unsigned char *improved; /* NULL: none; a byte for each loss, or one for all, not 0 where `best` is due */
    int isa;
    unsigned n_threads;
    ParallelFunction *parallel;  /* NULL: one thread */
    ThreadQuery *thread_number, *thread_count;
    RangeRunner *runner;         /* NULL: run_range */
    uint64_t needs, ready;       /* loops that the rows need, and those that `runner` has */
    int64_t header[N_HEADER];    /* for `runner` */
} StepTable;

/* ---------------------------------------------------------------------------------------------- filling the table */

/* Makes room for n items; 0, or -1 without memory. `items` is the address of a pointer. */
static int reserve(void *items, ptrdiff_t *capacity, ptrdiff_t n, size_t size)
{
    void *moved;
    if (n <= *capacity)
        return 0;
    n += n / 2 + 8;
    memcpy(&moved, items, sizeof moved);
    moved = realloc(moved, (size_t)n * size);
    if (moved == NULL)
        return -1;
    memcpy(items, &moved, sizeof moved);
    *capacity = n;
    return 0;
}

static void free_table(StepTable *table)
{
    free(table->rows);
    free(table->grads);
    free(table->hypers);
    free(table->layouts);
    free(table->extras);
    free(table->writes);
    free(table->reads);
    free(table->sorted_writes);
    free(table->last_reads);
}

/* Empties the table; buffers, and the result of the last overlap check, are kept. */
static void clear_table(StepTable *table)
{
    table->n_rows = table->n_hypers = table->n_layouts = table->n_extras = table->n_writes = table->n_reads = 0;
    table->numel = 0;
    table->needs = 0;
    table->largest = NULL;
    table->outcomes = table->improved = NULL;
}

static int64_t itemsize_of(int64_t dtype) { return dtype == DOUBLE ? 8 : dtype == FLOAT ? 4 : 2; }

/* The state of the four rules is float where the parameter has 16 bits; torch's has the parameter's dtype. */
static int state_dtype_of(int64_t dtype, int64_t rule)
{
    return (int)(rule == TORCH || dtype == DOUBLE ? dtype : FLOAT);
}

static int n_arrays_of(int64_t rule) { return rule == TORCH ? 4 : 3; }

static void get_itemsizes(int64_t dtype, int64_t rule, int64_t itemsize[N_ARRAYS])
{
    itemsize[PARAM] = itemsize[GRAD] = itemsize[LOWER] = itemsize[UPPER] = itemsize[BEST] = itemsize_of(dtype);
    itemsize[STATE] = itemsize[STATE2] = itemsize_of(state_dtype_of(dtype, rule));
    itemsize[FROZEN] = 1;
}

static int is_written(int array) { return array != GRAD && array != LOWER && array != UPPER && array != FROZEN; }

static int add_write(StepTable *table, char *begin, char *end)
{
    if (reserve(&table->writes, &table->write_capacity, table->n_writes + 1, sizeof(ByteRange)) < 0)
        return -1;
    table->writes[table->n_writes].begin = begin;
    table->writes[table->n_writes++].end = end;
    return 0;
}

static int64_t magnitude(int64_t stride) { return stride < 0 ? -stride : stride; }

/* Whether two elements of an array may share memory; never 0 when they do. Dimensions have more than one element. */
static int self_overlaps(const Layout *layout, int array, int64_t itemsize)
{
    const int64_t *strides = layout->strides[array];
    int64_t extent = itemsize;
    int used[MAX_DIMS] = {0};
    for (int done = 0; done < layout->ndim; done++) {
        int smallest = -1;
        for (int d = 0; d < layout->ndim; d++)
            if (!used[d] && (smallest < 0 || magnitude(strides[d]) < magnitude(strides[smallest])))
                smallest = d;
        if (magnitude(strides[smallest]) < extent)
            return 1;
        extent += magnitude(strides[smallest]) * (layout->shape[smallest] - 1);
        used[smallest] = 1;
    }
    return 0;
}

/* Sorts the dimensions by falling stride of the parameter, so that permuted arrays merge, and drops those of one
 * element; whether the outermost dimension of more than one element stayed the first. */
static int sort_dims(Layout *layout, const int *used, int n_used)
{
    const Layout given = *layout;
    int order[MAX_DIMS], n = 0, first = -1;
    for (int d = 0; d < given.ndim; d++) {
        if (given.shape[d] == 1)
            continue;
        int e = n++;
        for (; e > 0 && magnitude(given.strides[PARAM][order[e - 1]]) < magnitude(given.strides[PARAM][d]); e--)
            order[e] = order[e - 1];
        order[e] = d;
        if (first < 0)
            first = d;
    }
    for (int e = 0; e < n; e++) {
        layout->shape[e] = given.shape[order[e]];
        for (int i = 0; i < n_used; i++)
            layout->strides[used[i]][e] = given.strides[used[i]][order[e]];
    }
    layout->ndim = n;
    return n == 0 || order[0] == first;
}

/* Merges neighbouring dimensions that are one run in every array. */
static void merge_dims(Layout *layout, const int *used, int n_used)
{
    int e = 0;
    for (int d = 1; d < layout->ndim; d++) {
        int merges = 1;
        for (int i = 0; i < n_used; i++)
            merges &= layout->strides[used[i]][e] == layout->strides[used[i]][d] * layout->shape[d];
        if (merges)
            layout->shape[e] *= layout->shape[d];
        else
            layout->shape[++e] = layout->shape[d];
        for (int i = 0; i < n_used; i++)
            layout->strides[used[i]][e] = layout->strides[used[i]][d];
    }
    if (layout->ndim > 0)
        layout->ndim = e + 1;
}

static ByteRange byte_range(char *data, const Layout *layout, int array, int64_t itemsize)
{
    ByteRange range = {data, data + itemsize};
    for (int d = 0; d < layout->ndim; d++) {
        const int64_t distance = layout->strides[array][d] * (layout->shape[d] - 1);
        if (distance < 0)
            range.begin += distance;
        else
            range.end += distance;
    }
    return range;
}

/* Whether all elements of an array are one number in memory. */
static int is_scalar(const Layout *layout, int array)
{
    for (int d = 0; d < layout->ndim; d++)
        if (layout->shape[d] != 1 && layout->strides[array][d] != 0)
            return 0;
    return 1;
}

/* Adds one parameter: 1; 0 where it must be refused; -1 without memory. `layout` holds the arrays' common shape and
 * their strides; it is changed. Options that the row does not have are NULL. With n_losses > 0 each element of the first
 * dimension has a loss outcome of its own. */
static int add_row(StepTable *table, int dtype, int rule, ptrdiff_t hyper, int64_t n_losses,
                   char *const data[N_ARRAYS], Layout *layout)
{
    const int has_options = data[LOWER] != NULL || data[UPPER] != NULL || data[FROZEN] != NULL || data[BEST] != NULL;
    int used[N_ARRAYS], scalar[N_ARRAYS] = {0}, n_used = 0, dense = 1;
    int64_t itemsize[N_ARRAYS], expected[N_ARRAYS], numel = 1;
    if (n_losses > 0 && (rule == TORCH || layout->ndim == 0 || layout->shape[0] != n_losses))
        return 0;
    for (int d = 0; d < layout->ndim; d++)
        numel *= layout->shape[d];
    if (numel == 0)
        return 1;
    for (int i = 0; i < (has_options ? N_ARRAYS : n_arrays_of(rule)); i++)
        if (i < n_arrays_of(rule) || (i > STATE2 && data[i] != NULL))
            used[n_used++] = i;
    get_itemsizes(dtype, rule, itemsize);
    if (has_options) {
        scalar[LOWER] = data[LOWER] != NULL && is_scalar(layout, LOWER);
        scalar[UPPER] = data[UPPER] != NULL && is_scalar(layout, UPPER);
    }
    for (int k = 0; k < n_used; k++) {
        const int i = used[k];
        expected[i] = itemsize[i];
        if ((uintptr_t)data[i] & (uintptr_t)(itemsize[i] - 1)) /* the compiler relies on alignment */
            return 0;
    }
    for (int64_t d = layout->ndim - 1; d >= 0; d--)
        for (int k = 0; k < n_used; k++) {
            const int i = used[k];
            dense &= layout->shape[d] == 1 || layout->strides[i][d] == expected[i] || scalar[i];
            expected[i] *= layout->shape[d];
        }
    if (!dense) {
        const int ordered = sort_dims(layout, used, n_used);
        if (n_losses > 1 && !ordered) /* the rows of a loss are not contiguous */
            return 0;
        for (int k = 0; k < n_used; k++) {
            const int i = used[k];
            for (int d = 0; d < layout->ndim; d++)
                if (layout->strides[i][d] & (itemsize[i] - 1))
                    return 0;
            if (is_written(i) && self_overlaps(layout, i, itemsize[i]))
                return 0;
        }
        merge_dims(layout, used, n_used);
        dense = layout->ndim <= 1;
        for (int k = 0; k < n_used; k++)
            dense &= layout->ndim == 0 || layout->strides[used[k]][0] == itemsize[used[k]] || scalar[used[k]];
    }
    if (n_losses > 0 && !dense)
        return 0;

    if (reserve(&table->rows, &table->row_capacity, table->n_rows + 1, sizeof(Row)) < 0
            || reserve(&table->grads, &table->grad_capacity, table->n_rows + 1, sizeof(char *)) < 0
            || reserve(&table->reads, &table->read_capacity, table->n_reads + n_used, sizeof(ByteRange)) < 0
            || reserve(&table->extras, &table->extra_capacity, table->n_extras + has_options, sizeof(Extra)) < 0
            || reserve(&table->layouts, &table->layout_capacity, table->n_layouts + !dense, sizeof(Layout)) < 0)
        return -1;
    for (int k = 0; k < n_used; k++) {
        const int i = used[k];
        const ByteRange contiguous = {data[i], data[i] + (scalar[i] ? 1 : numel) * itemsize[i]};
        const ByteRange range = dense ? contiguous : byte_range(data[i], layout, i, itemsize[i]);
        if (!is_written(i))
            table->reads[table->n_reads++] = range;
        else if (add_write(table, range.begin, range.end) < 0)
            return -1;
    }
    table->grads[table->n_rows] = data[GRAD];
    Row *row = &table->rows[table->n_rows++];
    row->param = data[PARAM];
    row->state[0] = data[STATE];
    row->state[1] = rule == TORCH ? data[STATE2] : NULL;
    row->numel = numel;
    row->numel_per_loss = n_losses > 0 ? numel / n_losses : 0;
    row->first_loss = 0;
    row->offset = table->numel;
    row->hyper = hyper;
    row->layout = -1;
    row->dtype = dtype;
    row->rule = rule;
    row->extra = -1;
    if (has_options) {
        Extra *extra = &table->extras[table->n_extras];
        extra->lower = data[LOWER];
        extra->upper = data[UPPER];
        extra->frozen = data[FROZEN];
        extra->best = data[BEST];
        extra->flags = (scalar[LOWER] ? SCALAR_LOWER : 0) | (scalar[UPPER] ? SCALAR_UPPER : 0);
        row->extra = table->n_extras++;
    }
    if (!dense) {
        table->layouts[table->n_layouts] = *layout;
        row->layout = table->n_layouts++;
    }
    const int has_limits = data[LOWER] != NULL || data[UPPER] != NULL || data[FROZEN] != NULL;
    const uint64_t rules = table->outcomes != NULL ? 1u << SKIP | 1u << BACKTRACK | 1u << BACKTRACK_ALL : 1u << rule;
    const uint64_t options = has_limits ? 1u << NEEDS_OPTIONS : 0;
    const uint64_t gathered = has_options || !dense ? 1u << NEEDS_GATHERED : 0;
    table->needs |= (rules | options | gathered) << (N_NEEDS * dtype);
    table->numel += numel;
    return 1;
}

/* ------------------------------------------------------------------------------------------------- overlap check */

static int compare_ranges(const void *x, const void *y)
{
    const char *a = ((const ByteRange *)x)->begin, *b = ((const ByteRange *)y)->begin;
    return a < b ? -1 : a > b;
}

/* Whether no written array overlaps another one or a gradient; -1 without memory. The ranges found to be disjoint are
 * kept for the next step, to be compared and never dereferenced. */
static int is_disjoint(StepTable *table)
{
    const ptrdiff_t n = table->n_writes;
    if (n == 0)
        return 1;
    if (n != table->n_sorted_writes
            || memcmp(table->writes, table->sorted_writes + n, (size_t)n * sizeof(ByteRange)) != 0) {
        table->n_sorted_writes = table->n_last_reads = 0;
        if (reserve(&table->sorted_writes, &table->sorted_write_capacity, 2 * n, sizeof(ByteRange)) < 0)
            return -1;
        memcpy(table->sorted_writes, table->writes, (size_t)n * sizeof(ByteRange));
        memcpy(table->sorted_writes + n, table->writes, (size_t)n * sizeof(ByteRange));
        qsort(table->sorted_writes, (size_t)n, sizeof(ByteRange), compare_ranges);
        for (ptrdiff_t i = 1; i < n; i++)
            if (table->sorted_writes[i].begin < table->sorted_writes[i - 1].end)
                return 0;
    }
    for (ptrdiff_t i = 0; i < table->n_reads; i++) {
        const ByteRange read = table->reads[i];
        ptrdiff_t low = 0, high = n; /* finds the first write that ends after the gradient's start */
        if (i < table->n_last_reads && read.begin == table->last_reads[i].begin && read.end == table->last_reads[i].end)
            continue;
        while (low < high) {
            const ptrdiff_t middle = (low + high) / 2;
            if (table->sorted_writes[middle].end <= read.begin)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < n && table->sorted_writes[low].begin < read.end) {
            table->n_last_reads = 0;
            return 0;
        }
    }
    table->n_sorted_writes = n;
    if (reserve(&table->last_reads, &table->last_read_capacity, table->n_reads, sizeof(ByteRange)) < 0)
        return -1;
    if (table->n_reads > 0)
        memcpy(table->last_reads, table->reads, (size_t)table->n_reads * sizeof(ByteRange));
    table->n_last_reads = table->n_reads;
    return 1;
}

/* ---------------------------------------------------------------------------------------------------- running it */

static void copy_strided(char *to, ptrdiff_t to_stride, const char *from, ptrdiff_t from_stride, ptrdiff_t n,
                         int64_t itemsize)
{
    if (itemsize == 4)
        for (ptrdiff_t i = 0; i < n; i++)
            *(float *)(to + i * to_stride) = *(const float *)(from + i * from_stride);
    else if (itemsize == 8)
        for (ptrdiff_t i = 0; i < n; i++)
            *(double *)(to + i * to_stride) = *(const double *)(from + i * from_stride);
    else if (itemsize == 2)
        for (ptrdiff_t i = 0; i < n; i++)
            *(uint16_t *)(to + i * to_stride) = *(const uint16_t *)(from + i * from_stride);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            to[i * to_stride] = from[i * from_stride];
}

/* NULL where the row has none. */
static void get_arrays(const StepTable *table, const Row *row, char *arrays[N_ARRAYS])
{
    static const Extra NO_OPTIONS = {NULL, NULL, NULL, NULL, 0};
    const Extra *extra = row->extra >= 0 ? &table->extras[row->extra] : &NO_OPTIONS;
    arrays[PARAM] = row->param;
    arrays[GRAD] = table->grads[row - table->rows];
    arrays[STATE] = row->state[0];
    arrays[STATE2] = row->state[1];
    arrays[LOWER] = extra->lower;
    arrays[UPPER] = extra->upper;
    arrays[FROZEN] = extra->frozen;
    arrays[BEST] = extra->best;
}

/* Writes n times the number at `bound`, or where that is NULL an infinity. */
static void fill_bound(const StepTable *table, const Row *row, char *to, const char *bound, double infinity, int64_t n)
{
    static const char mask = 1;
    double number = 0;
    if (bound == NULL) {
        MASK_LOOPS[table->isa][row->dtype]((char *)&number, (const char *)&number, &mask, infinity, 1);
        bound = (const char *)&number;
    }
    const int64_t itemsize = itemsize_of(row->dtype);
    copy_strided(to, itemsize, bound, 0, n, itemsize);
}

/* Copies weights to the best point. Streamed, they do not push out of the cache the arrays that the step is to read; a
 * step of 1 M weights then takes a tenth longer, else a half. */
static void copy_best(char *to, const char *from, ptrdiff_t n_bytes, int stream)
{
    ptrdiff_t done = 0;
#ifdef __SSE2__
    if (stream) {
        done = (ptrdiff_t)((0 - (uintptr_t)to) % 16);
        done = done < n_bytes ? done : n_bytes;
        memcpy(to, from, (size_t)done);
        for (; done + 16 <= n_bytes; done += 16)
            _mm_stream_si128((__m128i *)(to + done), _mm_loadu_si128((const __m128i *)(from + done)));
    }
#else
    (void)stream;
#endif
    memcpy(to + done, from + done, (size_t)(n_bytes - done));
}

/* n weights with options, in parts whose arrays stay in the cache for the second look at those that met a bound. `arrays`
 * are dense, but for a scalar bound; BEST is NULL where nothing is to be copied. */
static void run_options(const StepTable *table, const Row *row, int rule, char *const arrays[N_ARRAYS], int64_t flags,
                        int64_t n)
{
    double filled_lower[OPTION_SIZE], filled_upper[OPTION_SIZE];
    double masked_grad[OPTION_SIZE], masked_lower[OPTION_SIZE], masked_upper[OPTION_SIZE];
    const int64_t itemsize = itemsize_of(row->dtype), state_size = itemsize_of(state_dtype_of(row->dtype, rule));
    const double *hyper = table->hypers[row->hyper];
    MaskLoop *mask = MASK_LOOPS[table->isa][row->dtype];
    const int bounded = arrays[LOWER] != NULL || arrays[UPPER] != NULL;
    const int fills_lower = arrays[LOWER] == NULL || (flags & SCALAR_LOWER);
    const int fills_upper = arrays[UPPER] == NULL || (flags & SCALAR_UPPER);
    const int64_t size = n < OPTION_SIZE ? n : OPTION_SIZE;
    char *use[N_ARRAYS] = {NULL};
    if (bounded && fills_lower)
        fill_bound(table, row, (char *)filled_lower, arrays[LOWER], -INFINITY, size);
    if (bounded && fills_upper)
        fill_bound(table, row, (char *)filled_upper, arrays[UPPER], INFINITY, size);
    for (int64_t start = 0; start < n; start += OPTION_SIZE) {
        const ptrdiff_t part = (ptrdiff_t)(n - start < OPTION_SIZE ? n - start : OPTION_SIZE);
        use[PARAM] = arrays[PARAM] + start * itemsize;
        use[GRAD] = arrays[GRAD] + start * itemsize;
        use[STATE] = arrays[STATE] + start * state_size;
        if (rule == TORCH)
            use[STATE2] = arrays[STATE2] + start * state_size;
        if (arrays[BEST] != NULL)
            copy_best(arrays[BEST] + start * itemsize, use[PARAM], part * itemsize, n >= MIN_STREAMED);
        if (bounded) {
            use[LOWER] = fills_lower ? (char *)filled_lower : arrays[LOWER] + start * itemsize;
            use[UPPER] = fills_upper ? (char *)filled_upper : arrays[UPPER] + start * itemsize;
        }
        if (arrays[FROZEN] != NULL) {
            use[FROZEN] = arrays[FROZEN] + start;
            mask((char *)masked_grad, use[GRAD], use[FROZEN], 0, part);
            use[GRAD] = (char *)masked_grad;
            if (rule == BACKTRACK_ALL)
                FORGET_LOOPS[table->isa][row->dtype](use, part);
            if (bounded) {
                mask((char *)masked_lower, use[LOWER], use[FROZEN], -INFINITY, part);
                mask((char *)masked_upper, use[UPPER], use[FROZEN], INFINITY, part);
                use[LOWER] = (char *)masked_lower;
                use[UPPER] = (char *)masked_upper;
            }
        }
        if (!bounded)
            LOOPS[table->isa][row->dtype][rule](use, part, hyper);
        else if (BOUNDED_LOOPS[table->isa][row->dtype][rule](use, part, hyper))
            LIMIT_LOOPS[table->isa][row->dtype](use, part);
    }
#ifdef __SSE2__
    if (arrays[BEST] != NULL && n >= MIN_STREAMED)
        _mm_sfence();
#endif
}

/* The larger one; NaN is larger than all. */
static double larger(double x, double y) { return x != x || x > y ? x : y; }

/* The largest gradient among n weights that are neither frozen nor held at a bound. */
static double largest_gradient(const StepTable *table, const Row *row, char *const arrays[N_ARRAYS], int64_t flags,
                               int64_t n)
{
    double filled_lower[GATHER_SIZE], filled_upper[GATHER_SIZE], masked_grad[GATHER_SIZE], result = 0;
    const int64_t itemsize = itemsize_of(row->dtype);
    const double *hyper = table->hypers[row->hyper];
    const int bounded = arrays[LOWER] != NULL || arrays[UPPER] != NULL;
    const int fills_lower = arrays[LOWER] == NULL || (flags & SCALAR_LOWER);
    const int fills_upper = arrays[UPPER] == NULL || (flags & SCALAR_UPPER);
    const int64_t size = n < GATHER_SIZE ? n : GATHER_SIZE;
    char *use[N_ARRAYS] = {NULL};
    if (!bounded && arrays[FROZEN] == NULL)
        return GRADIENT_LOOPS[table->isa][row->dtype](arrays, (ptrdiff_t)n, hyper);
    if (bounded && fills_lower)
        fill_bound(table, row, (char *)filled_lower, arrays[LOWER], -INFINITY, size);
    if (bounded && fills_upper)
        fill_bound(table, row, (char *)filled_upper, arrays[UPPER], INFINITY, size);
    for (int64_t start = 0; start < n; start += GATHER_SIZE) {
        const ptrdiff_t part = (ptrdiff_t)(n - start < GATHER_SIZE ? n - start : GATHER_SIZE);
        GradientLoop *loop = (bounded ? FREE_GRADIENT_LOOPS : GRADIENT_LOOPS)[table->isa][row->dtype];
        use[PARAM] = arrays[PARAM] + start * itemsize;
        use[GRAD] = arrays[GRAD] + start * itemsize;
        if (bounded) {
            use[LOWER] = fills_lower ? (char *)filled_lower : arrays[LOWER] + start * itemsize;
            use[UPPER] = fills_upper ? (char *)filled_upper : arrays[UPPER] + start * itemsize;
        }
        if (arrays[FROZEN] != NULL) {
            MASK_LOOPS[table->isa][row->dtype]((char *)masked_grad, use[GRAD], arrays[FROZEN] + start, 0, part);
            use[GRAD] = (char *)masked_grad;
        }
        result = larger(loop(use, part, hyper), result);
    }
    return result;
}

/* n weights whose arrays are dense. */
static void run_arrays(const StepTable *table, const Row *row, int rule, char *const arrays[N_ARRAYS], int64_t flags,
                       int64_t n)
{
    if (table->largest != NULL) {
        double *slot = table->largest + (table->parallel != NULL ? table->thread_number() : 0);
        *slot = larger(largest_gradient(table, row, arrays, flags, n), *slot);
    } else if (row->extra >= 0)
        run_options(table, row, rule, arrays, flags, n);
    else
        LOOPS[table->isa][row->dtype][rule](arrays, (ptrdiff_t)n, table->hypers[row->hyper]);
}

/* The arrays of a dense row from weight `begin` on; returns the flags of its options. */
static int64_t get_dense(const StepTable *table, const Row *row, int64_t begin, char *arrays[N_ARRAYS])
{
    const int64_t flags = row->extra >= 0 ? table->extras[row->extra].flags : 0;
    const int64_t itemsize = itemsize_of(row->dtype), state_size = itemsize_of(state_dtype_of(row->dtype, row->rule));
    get_arrays(table, row, arrays);
    arrays[PARAM] += begin * itemsize;
    arrays[GRAD] += begin * itemsize;
    arrays[STATE] += begin * state_size;
    if (row->rule == TORCH)
        arrays[STATE2] += begin * state_size;
    if (arrays[LOWER] != NULL && !(flags & SCALAR_LOWER))
        arrays[LOWER] += begin * itemsize;
    if (arrays[UPPER] != NULL && !(flags & SCALAR_UPPER))
        arrays[UPPER] += begin * itemsize;
    if (arrays[FROZEN] != NULL)
        arrays[FROZEN] += begin;
    if (arrays[BEST] != NULL)
        arrays[BEST] += begin * itemsize;
    return flags;
}

/* Weights begin..end of a row that is dense. */
static void run_dense(const StepTable *table, const Row *row, int rule, int improved, int64_t begin, int64_t end)
{
    char *arrays[N_ARRAYS];
    const int64_t flags = get_dense(table, row, begin, arrays);
    if (!improved)
        arrays[BEST] = NULL;
    run_arrays(table, row, rule, arrays, flags, end - begin);
}

/* Weights begin..end of a row that is not dense, a part of an innermost dimension at a time. */
static void run_strided(const StepTable *table, const Row *row, int64_t begin, int64_t end)
{
    double buffers[N_ARRAYS][GATHER_SIZE];
    const Layout *layout = &table->layouts[row->layout];
    const int last = (int)layout->ndim - 1;
    const int64_t inner = layout->shape[last];
    int64_t itemsize[N_ARRAYS];
    char *start[N_ARRAYS], *at[N_ARRAYS], *use[N_ARRAYS] = {NULL};
    int used[N_ARRAYS], n_used = 0;
    get_arrays(table, row, start);
    if (table->improved == NULL || !table->improved[0])
        start[BEST] = NULL;
    get_itemsizes(row->dtype, row->rule, itemsize);
    for (int i = 0; i < N_ARRAYS; i++)
        if (start[i] != NULL)
            used[n_used++] = i;
    while (begin < end) {
        int64_t outer = begin / inner, index = begin - outer * inner, n = inner - index;
        n = n < end - begin ? n : end - begin;
        n = n < GATHER_SIZE ? n : GATHER_SIZE;
        for (int k = 0; k < n_used; k++)
            at[used[k]] = start[used[k]] + index * layout->strides[used[k]][last];
        for (int d = last - 1; d >= 0; d--) {
            index = outer % layout->shape[d];
            outer /= layout->shape[d];
            for (int k = 0; k < n_used; k++)
                at[used[k]] += index * layout->strides[used[k]][d];
        }
        for (int k = 0; k < n_used; k++) {
            const int i = used[k];
            use[i] = at[i];
            if (layout->strides[i][last] != itemsize[i]) {
                use[i] = (char *)buffers[i];
                if (i != BEST)
                    copy_strided(use[i], itemsize[i], at[i], layout->strides[i][last], n, itemsize[i]);
            }
        }
        run_arrays(table, row, (int)row->rule, use, 0, n);
        for (int k = 0; k < n_used; k++) {
            const int i = used[k];
            if (is_written(i) && use[i] != at[i] && table->largest == NULL)
                copy_strided(at[i], layout->strides[i][last], use[i], itemsize[i], n, itemsize[i]);
        }
        begin += n;
    }
}

/* Weights begin..end of a dense row with a loss outcome for every numel_per_loss weights; neighbours with the same
 * outcome are stepped together. */
static void run_loss_rows(const StepTable *table, const Row *row, int64_t begin, int64_t end)
{
    static const int RULE_FOR_OUTCOME[] = {SKIP, BACKTRACK, BACKTRACK_ALL}; /* not worse, worse, not finite */
    const unsigned char *outcomes = table->outcomes == NULL ? NULL : table->outcomes + row->first_loss;
    const unsigned char *improved = table->improved == NULL ? NULL : table->improved + row->first_loss;
    while (begin < end) {
        int64_t loss = begin / row->numel_per_loss;
        const unsigned char outcome = outcomes == NULL ? 0 : outcomes[loss];
        const int rule = outcomes == NULL ? (int)row->rule : RULE_FOR_OUTCOME[outcome < 2 ? outcome : 2];
        const int is_best = improved != NULL && improved[loss] != 0;
        int64_t stop = (loss + 1) * row->numel_per_loss;
        if (table->largest != NULL) {
            char *arrays[N_ARRAYS];
            double *slot = table->largest + row->first_loss + loss;
            const int64_t flags = get_dense(table, row, begin, arrays), n = (stop < end ? stop : end) - begin;
            *slot = larger(largest_gradient(table, row, arrays, flags, n), *slot);
            begin = stop;
            continue;
        }
        while (stop < end && (outcomes == NULL || outcomes[loss + 1] == outcome)
               && (improved != NULL && improved[loss + 1] != 0) == is_best) {
            stop += row->numel_per_loss;
            loss++;
        }
        stop = stop < end ? stop : end;
        run_dense(table, row, rule, is_best, begin, stop);
        begin = stop;
    }
}

/* Weights begin..end of the whole table. */
static void run_range(const StepTable *table, int64_t begin, int64_t end)
{
    ptrdiff_t i = 0, high = table->n_rows; /* finds the row that holds weight `begin` */
    while (i < high) {
        const ptrdiff_t middle = (i + high) / 2;
        if (table->rows[middle].offset + table->rows[middle].numel <= begin)
            i = middle + 1;
        else
            high = middle;
    }
    const int improved = table->improved != NULL && table->improved[0] != 0;
    for (; i < table->n_rows && table->rows[i].offset < end; i++) {
        const Row *row = &table->rows[i];
        int64_t start = begin > row->offset ? begin - row->offset : 0;
        const int64_t stop = end - row->offset < row->numel ? end - row->offset : row->numel;
        if (row->layout >= 0) {
            run_strided(table, row, start, stop);
        } else if (row->numel_per_loss > 0) {
            run_loss_rows(table, row, start, stop);
        } else {
            const int64_t itemsize = itemsize_of(row->dtype);
            const uintptr_t address = (uintptr_t)(row->param + start * itemsize);
            const int64_t lead = (int64_t)((0 - address) % CACHE_LINE) / itemsize; /* weights before an aligned start */
            if (lead > 0 && stop - start >= MIN_ALIGNED_RUN) {
                run_dense(table, row, (int)row->rule, improved, start, start + lead);
                start += lead;
            }
            run_dense(table, row, (int)row->rule, improved, start, stop);
        }
    }
}

static void run_part(const StepTable *table, int64_t begin, int64_t end)
{
    if (table->runner != NULL && table->largest == NULL)
        table->runner(table->header, begin, end);
    else
        run_range(table, begin, end);
}

/* This thread's part of the table. */
static void run_thread(void *data)
{
    const StepTable *table = data;
    const int64_t thread = table->thread_number(), n_threads = table->thread_count();
    const int64_t blocks = (table->numel + THREAD_BLOCK - 1) / THREAD_BLOCK;
    const int64_t begin = blocks * thread / n_threads * THREAD_BLOCK;
    const int64_t end = blocks * (thread + 1) / n_threads * THREAD_BLOCK;
    run_part(table, begin, end < table->numel ? end : table->numel);
}

static void run_table(StepTable *table)
{
    if (table->numel == 0)
        return;
    if (table->runner != NULL) {
        table->header[HEADER_ROWS] = (int64_t)(intptr_t)table->rows;
        table->header[HEADER_N_ROWS] = table->n_rows;
        table->header[HEADER_GRADS] = (int64_t)(intptr_t)table->grads;
        table->header[HEADER_HYPERS] = (int64_t)(intptr_t)table->hypers;
        table->header[HEADER_LAYOUTS] = (int64_t)(intptr_t)table->layouts;
        table->header[HEADER_EXTRAS] = (int64_t)(intptr_t)table->extras;
        table->header[HEADER_OUTCOMES] = (int64_t)(intptr_t)table->outcomes;
        table->header[HEADER_IMPROVED] = (int64_t)(intptr_t)table->improved;
    }
    if (table->parallel != NULL)
        table->parallel(run_thread, table, table->n_threads, 0);
    else
        run_part(table, 0, table->numel);
}

#endif
