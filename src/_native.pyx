# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The native half: the rules, the loops over memory, and one call for a whole step.

Read in this order: the rules (scalar, branch-free), the loops (one per array layout and instruction
set), the work list (jobs, overlap checks, threads), then the two ways in: NumPy arrays by the buffer
protocol, torch tensors by DLPack's C exchange. Python has checked the arguments (see ``cython_.py``);
here arrays are only read, compared and, when anything is not certain, refused before a byte is written.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy, memset

cdef extern from "cells.h" nogil:
    ctypedef struct half_cell:
        uint16_t bits
    ctypedef struct brain_cell:
        uint16_t bits
    float half_to_float(uint16_t)
    uint16_t float_to_half(float)
    float brain_to_float(uint16_t)
    uint16_t float_to_brain(float)
    float bits_float(uint32_t)
    float above_float(float, float)
    float differs_float(float, float)
    float negative_float(float)
    float both_float(float, float)
    float but_not_float(float, float)
    float joined_float(float, float)
    float signed_float(float, float)
    float pick_float(float, float, float)
    float scaled_float(float, int, float)
    double above_double(double, double)
    double differs_double(double, double)
    double negative_double(double)
    double both_double(double, double)
    double but_not_double(double, double)
    double joined_double(double, double)
    double signed_double(double, double)
    double pick_double(int, double, double, double)
    double scaled_double(double, int, double)
    int RPROP_BASELINE_WIDE

    ctypedef void inlined "RPROP_INLINE void"
    ctypedef void for_v3 "RPROP_V3 void"
    ctypedef void for_v4 "RPROP_V4 void"
    int RPROP_LEVELS
    int rprop_best_level()

    ctypedef struct dl_version:
        uint32_t major
    ctypedef struct dl_header:
        dl_version version
        dl_header* previous
    ctypedef struct dl_tensor:
        void* data
        int device_type
        int ndim
        int code
        int bits
        int lanes
        int64_t* shape
        int64_t* strides
        uint64_t byte_offset
    ctypedef struct dl_exchange:
        dl_header header
        int (*describe)(void*, dl_tensor*) noexcept
    ctypedef void (*gomp_parallel)(void (*)(void*) noexcept nogil, void*, unsigned, unsigned) noexcept nogil
    ctypedef int (*omp_query)() noexcept nogil

cdef extern from "<math.h>" nogil:
    double fabs(double)
    float fabsf(float)
    double copysign(double, double)
    float copysignf(float, float)

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    int PyDict_Next(object, Py_ssize_t*, PyObject**, PyObject**)
    PyObject* PyList_GetItem(object, Py_ssize_t) except NULL
    void* PyCapsule_GetPointer(object, const char*) except NULL
    void PyErr_Clear()
    object PyObject_CallMethodObjArgs(object, object, void*)     # without a tuple for the arguments
    PyObject* type_of "(PyObject *)Py_TYPE"(PyObject*)


# ---------------------------------------------------------------------------------------------- rules
# Scalar, on values already widened to `real`; no array, no error, no branch: each `if` below is a select
# that the compiler turns into a mask. An `and`, an `if` statement or a conditional store would cost up
# to nine times the speed where there is no AVX-512.

ctypedef fused real:
    float
    double

cdef enum Rule:
    MOVE = 0      # Rprop-: a flipped weight moves on by the smaller step
    STAY = 1      # iRprop-, and iRprop+ where the loss is not worse
    UNDO = 2      # Rprop+, and iRprop+ where the loss is worse
    RETREAT = 3   # iRprop+ after a loss that is NaN or infinite: every remembered move is taken back
    PRODUCT = 4   # torch.optim.Rprop

cdef struct Numbers:
    double eta_minus
    double eta_plus
    double step_min
    double step_max
    double direction   # -1 to maximize

cdef inline real magnitude(real x) noexcept nogil:
    if real is float:
        return fabsf(x)
    else:
        return fabs(x)

cdef inline real sign(real x) noexcept nogil:
    """-1, +0 or +1; +0 for NaN: one comparison covers zero and NaN."""
    if real is float:
        return copysignf(1, x) if fabsf(x) > 0 else <float>0
    else:
        return copysign(1, x) if fabs(x) > 0 else <double>0

# Masks, and what is done with them, are explained in cells.h.

cdef inline real above(const real a, const real b) noexcept nogil:
    return above_float(a, b) if real is float else above_double(a, b)

cdef inline real differs(const real a, const real b) noexcept nogil:
    return differs_float(a, b) if real is float else differs_double(a, b)

cdef inline real negative(const real x) noexcept nogil:
    return negative_float(x) if real is float else negative_double(x)

cdef inline real both(const real a, const real b) noexcept nogil:
    return both_float(a, b) if real is float else both_double(a, b)

cdef inline real but_not(const real a, const real b) noexcept nogil:
    return but_not_float(a, b) if real is float else but_not_double(a, b)

cdef inline real joined(const real a, const real b) noexcept nogil:
    return joined_float(a, b) if real is float else joined_double(a, b)

cdef inline real with_sign(const real x, const real like) noexcept nogil:
    return signed_float(x, like) if real is float else signed_double(x, like)

cdef inline real pick(const int wide, const real mask, const real a, const real b) noexcept nogil:
    return pick_float(mask, a, b) if real is float else pick_double(wide, mask, a, b)

cdef inline real scaled(const real x, const int exponent, const real mask) noexcept nogil:
    return scaled_float(x, exponent, mask) if real is float else scaled_double(x, exponent, mask)

cdef inline real one_state(const int wide, const int rule, const real direction, const real gradient, const real w, real* state,
                           const real eta_minus, const real eta_plus, const real step_min, const real step_max,
                           const int shift, const real threshold) noexcept nogil:
    """The four rules on the state of state.py, where SHIFT is 2^shift; returns the new weight."""
    cdef real s = state[0]
    cdef real size = magnitude(s)
    cdef real forgot = above(size, threshold)
    cdef real g = -s if rule == RETREAT else with_sign(gradient, direction)
    cdef real always = negative(<real>-1)
    cdef real moves = but_not(always, forgot) if rule == RETREAT else above(magnitude(gradient), <real>0)  # not 0, not NaN
    cdef real known = but_not(moves, forgot)                              # both signs, the last and the present one
    cdef real turn = with_sign(s, g)                                      # sign(g) * q, by the sign bit alone: no underflow
    cdef real flipped = both(negative(turn), known)
    cdef real new = pick(wide, known, size * pick(wide, turn, eta_minus, eta_plus), scaled(size, -shift, forgot))
    new = step_min if new < step_min else new
    new = step_max if new > step_max else new
    cdef real keeps = moves if rule == MOVE else but_not(moves, flipped)  # this move is made, and remembered
    cdef real move = with_sign(new, g)
    state[0] = pick(wide, keeps, move, scaled(new, shift, always))
    move = both(move, keeps)
    if rule == UNDO or rule == RETREAT:
        move = joined(move, both(-s, flipped))
    return w - move

cdef inline real stopped(const int wide, const real w, real* state, const real lower, const real upper, const real most,
                         const int shift, const real threshold) noexcept nogil:
    """A weight within its bounds; at one it forgets its sign, and its step is ``most`` / 2^shift at the most."""
    cdef real always = negative(<real>-1)
    cdef real low = joined(above(lower, w), but_not(always, differs(w, lower)))
    cdef real high = joined(above(w, upper), but_not(always, differs(w, upper)))
    cdef real size = magnitude(state[0])
    size = scaled(size, shift, but_not(always, above(size, threshold)))
    size = most if size > most else size
    state[0] = pick(wide, joined(low, high), size, state[0])
    return pick(wide, high, upper, pick(wide, low, lower, w))

cdef inline real torch_factor(const int wide, const real product, const real eta_minus, const real eta_plus,
                              const real tiny) noexcept nogil:
    """What the step size is multiplied by; ``tiny`` is the largest product that the dtype rounds to 0."""
    if real is double and not wide:
        return eta_plus if product > tiny else eta_minus if product < -tiny else <real>1
    return pick(wide, above(product, tiny), eta_plus, pick(wide, above(-tiny, product), eta_minus, <real>1))

cdef inline real torch_clamp(const real step, const real step_min, const real step_max) noexcept nogil:
    cdef real raised = step_min if step < step_min else step
    return step_max if raised > step_max else raised

cdef inline real torch_keep(const int wide, const real gradient, const real factor, const real eta_minus) noexcept nogil:
    """The gradient to move by and to remember; torch asks the factor, not the sign, whether it flipped."""
    if real is double and not wide:
        return gradient if factor != eta_minus else <real>0
    return both(gradient, differs(factor, eta_minus))


# ---------------------------------------------------------------------------------------------- loops
# A cell is what memory holds: 16-bit types are widened to float, computed there, and rounded once per
# operation that torch rounds.

ctypedef fused cell:
    float
    double
    half_cell
    brain_cell

cdef inline float widen(const cell* at) noexcept nogil:
    if cell is half_cell:
        return half_to_float(at.bits)
    elif cell is brain_cell:
        return brain_to_float(at.bits)
    else:
        return <float>at[0]

cdef inline inlined narrow(cell* at, float x) noexcept nogil:
    if cell is half_cell:
        at.bits = float_to_half(x)
    elif cell is brain_cell:
        at.bits = float_to_brain(x)
    else:
        at[0] = x

cdef inline inlined four_loop(const int wide, const int rule, cell* w, const cell* g, void* state, Py_ssize_t n,
                              const Numbers* k) noexcept nogil:
    """The rules of the four classes; w INOUT, g IN, state INOUT (double for double, else float)."""
    cdef Py_ssize_t i
    cdef double* doubles = <double*>state
    cdef float* floats = <float*>state
    cdef double em = k.eta_minus, ep = k.eta_plus, low = k.step_min, high = k.step_max, way = k.direction
    cdef float emf = <float>em, epf = <float>ep, lowf = <float>low, highf = <float>high, wayf = <float>way
    cdef double limit = 2.0 ** 256, least = 2.0 ** -255
    cdef float limitf = <float>2.0 ** 32, leastf = <float>2.0 ** -63
    if cell is double:
        low = least if low < least else low
        for i in range(n):
            w[i] = one_state[double](wide, rule, way, g[i], w[i], &doubles[i], em, ep, low, high, 768, limit)
    else:
        lowf = leastf if lowf < leastf else lowf
        for i in range(n):
            narrow(&w[i], one_state[float](wide, rule, wayf, widen(&g[i]), widen(&w[i]), &floats[i],
                                           emf, epf, lowf, highf, 96, limitf))

cdef inline inlined torch_loop(const int wide, cell* w, const cell* g, cell* prev, cell* step_size, Py_ssize_t n,
                               const Numbers* k) noexcept nogil:
    """torch.optim.Rprop; w, prev, step_size INOUT, g IN. The numbers are already rounded to the cell's type."""
    cdef Py_ssize_t i
    cdef double em = k.eta_minus, ep = k.eta_plus, low = k.step_min, high = k.step_max, way = k.direction
    cdef double gradient, factor, step
    cdef float emf = <float>em, epf = <float>ep, lowf = <float>low, highf = <float>high, wayf = <float>way
    cdef float tiny = 0, gradientf, factorf, stepf
    if cell is half_cell:
        tiny = bits_float(0x33000000)   # 2^-25: half the least float16, a tie that rounds to 0
    elif cell is brain_cell:
        tiny = bits_float(0x00010000) / 2  # 2^-134, likewise
    if cell is double:
        for i in range(n):
            gradient = with_sign(g[i], way)
            factor = torch_factor[double](wide, gradient * prev[i], em, ep, 0)
            step = torch_clamp[double](step_size[i] * factor, low, high)
            gradient = torch_keep[double](wide, gradient, factor, em)
            step_size[i] = step
            prev[i] = gradient
            w[i] = w[i] - sign[double](gradient) * step
    else:
        for i in range(n):
            gradientf = with_sign(widen(&g[i]), wayf)
            factorf = torch_factor[float](wide, gradientf * widen(&prev[i]), emf, epf, tiny)
            stepf = torch_clamp[float](widen(&step_size[i]) * factorf, lowf, highf)
            gradientf = torch_keep[float](wide, gradientf, factorf, emf)
            narrow(&step_size[i], stepf)
            stepf = widen(&step_size[i])
            narrow(&prev[i], gradientf)
            narrow(&w[i], widen(&w[i]) - sign[float](gradientf) * stepf)

cdef inline inlined any_rule(const int wide, int rule, cell* w, const char* gradient, char* a, char* b, Py_ssize_t n,
                             const Numbers* k) noexcept nogil:
    """Choose the loop outside it, so that in each one the rule is a constant."""
    cdef const cell* g = <const cell*>gradient
    if rule == MOVE:
        four_loop(wide, MOVE, w, g, a, n, k)
    elif rule == STAY:
        four_loop(wide, STAY, w, g, a, n, k)
    elif rule == UNDO:
        four_loop(wide, UNDO, w, g, a, n, k)
    elif rule == RETREAT:
        four_loop(wide, RETREAT, w, g, a, n, k)
    else:
        torch_loop(wide, w, g, <cell*>a, <cell*>b, n, k)

# One function an instruction set: chosen at run time, and each can be forced in tests.

cdef void run_baseline(int rule, cell* w, const char* g, char* a, char* b, Py_ssize_t n, const Numbers* k) noexcept nogil:
    any_rule(RPROP_BASELINE_WIDE, rule, w, g, a, b, n, k)

cdef for_v3 run_v3(int rule, cell* w, const char* g, char* a, char* b, Py_ssize_t n, const Numbers* k) noexcept nogil:
    any_rule(1, rule, w, g, a, b, n, k)

cdef for_v4 run_v4(int rule, cell* w, const char* g, char* a, char* b, Py_ssize_t n, const Numbers* k) noexcept nogil:
    any_rule(1, rule, w, g, a, b, n, k)

ctypedef void (*kernel)(int, void*, const char*, char*, char*, Py_ssize_t, const Numbers*) noexcept nogil

cdef enum Cell:
    FLOAT = 0
    DOUBLE = 1
    HALF = 2
    BRAIN = 3

cdef kernel choose(int level, int kind) noexcept nogil:
    if level == 2:
        return (<kernel>run_v4[float] if kind == FLOAT else <kernel>run_v4[double] if kind == DOUBLE
                else <kernel>run_v4[half_cell] if kind == HALF else <kernel>run_v4[brain_cell])
    if level == 1:
        return (<kernel>run_v3[float] if kind == FLOAT else <kernel>run_v3[double] if kind == DOUBLE
                else <kernel>run_v3[half_cell] if kind == HALF else <kernel>run_v3[brain_cell])
    return (<kernel>run_baseline[float] if kind == FLOAT else <kernel>run_baseline[double] if kind == DOUBLE
            else <kernel>run_baseline[half_cell] if kind == HALF else <kernel>run_baseline[brain_cell])


cdef inline inlined stop_loop(const int wide, real* w, real* state, const real* lower, const real* upper, const real* most,
                              Py_ssize_t n) noexcept nogil:
    """Weights within their bounds; w and state INOUT, the rest IN."""
    cdef Py_ssize_t i
    cdef double limit = 2.0 ** 256
    cdef float limitf = <float>2.0 ** 32
    for i in range(n):
        if real is double:
            w[i] = stopped[double](wide, w[i], &state[i], lower[i], upper[i], most[i], 768, limit)
        else:
            w[i] = stopped[float](wide, w[i], &state[i], lower[i], upper[i], most[i], 96, limitf)

cdef void stop_baseline(real* w, real* state, const real* lower, const real* upper, const real* most, Py_ssize_t n) noexcept nogil:
    stop_loop(RPROP_BASELINE_WIDE, w, state, lower, upper, most, n)

cdef for_v3 stop_v3(real* w, real* state, const real* lower, const real* upper, const real* most, Py_ssize_t n) noexcept nogil:
    stop_loop(1, w, state, lower, upper, most, n)

cdef for_v4 stop_v4(real* w, real* state, const real* lower, const real* upper, const real* most, Py_ssize_t n) noexcept nogil:
    stop_loop(1, w, state, lower, upper, most, n)


# ------------------------------------------------------------------------------------------ work list
# A job is one parameter: where it lies and which rule it follows. Work is split among threads by
# elements, over all jobs, so one large tensor among many small ones still uses every core.

cdef enum:
    MAX_DIMS = 16
    CHUNK = 256          # elements gathered at a time from arrays that are not dense
    SPLIT = 64           # threads meet at multiples of this, so that they share few cache lines
    LINE = 64            # bytes in a cache line
    LONG = 4096          # elements from which a start off a line pays: NumPy's arrays mostly lie 16 bytes behind one

cdef struct Layout:
    # Common dimensions of w, g, a, b after merging, outermost first; strides in bytes.
    int ndim
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t strides[4][MAX_DIMS]

cdef struct Job:
    char* at[4]                       # w, g, a, b (b only for torch's rule)
    Py_ssize_t size
    Py_ssize_t before                 # elements in the jobs before this one
    Py_ssize_t layout                 # index, or -1 where all arrays are dense in one order
    Py_ssize_t row                    # elements a verdict applies to, or 0: one rule for all
    int kind
    int rule
    int arrays                        # 3 or 4
    int numbers                       # index

cdef struct Span:
    char* low
    char* high

cdef struct Work:
    Job* jobs
    Layout* layouts
    Numbers* numbers
    Span* written                     # of every array that a job writes, in job order
    Span* ordered                     # the same, sorted
    Span* read                        # of the gradients
    Span* read_before                 # as they were when they were last found apart from `ordered`
    Py_ssize_t n_jobs, n_layouts, n_numbers, n_written, n_read, n_ordered, n_read_before
    Py_ssize_t room_jobs, room_layouts, room_numbers, room_written, room_ordered, room_read, room_before
    Py_ssize_t total
    const unsigned char* verdicts     # a Verdict a row, for jobs with row > 0
    int level
    omp_query thread_number, thread_count
    gomp_parallel parallel            # NULL: on this thread alone
    unsigned count

cdef int cell_size(int kind) noexcept nogil:
    return 8 if kind == DOUBLE else 4 if kind == FLOAT else 2

cdef int state_size(Job* job) noexcept nogil:
    return cell_size(job.kind) if job.rule == PRODUCT else 8 if job.kind == DOUBLE else 4

cdef int grow(void** items, Py_ssize_t* room, Py_ssize_t wanted, size_t size) except -1:
    cdef void* moved
    cdef Py_ssize_t more
    if wanted > room[0]:
        more = wanted + wanted // 2 + 8
        moved = PyMem_Realloc(items[0], more * size)
        if moved == NULL:
            raise MemoryError()
        items[0] = moved
        room[0] = more
    return 0

cdef void release(Work* work) noexcept:
    PyMem_Free(work.jobs)
    PyMem_Free(work.layouts)
    PyMem_Free(work.numbers)
    PyMem_Free(work.written)
    PyMem_Free(work.ordered)
    PyMem_Free(work.read)
    PyMem_Free(work.read_before)

cdef void clear(Work* work) noexcept:
    work.n_jobs = work.n_layouts = work.n_numbers = work.n_written = work.n_read = work.total = 0
    work.verdicts = NULL

cdef int add_numbers(Work* work, object five) except -1:
    """(eta_minus, eta_plus, step_min, step_max, direction) -> its index."""
    grow(<void**>&work.numbers, &work.room_numbers, work.n_numbers + 1, sizeof(Numbers))
    cdef Numbers* k = &work.numbers[work.n_numbers]
    k.eta_minus, k.eta_plus, k.step_min, k.step_max, k.direction = five
    work.n_numbers += 1
    return <int>work.n_numbers - 1

cdef int add_span(Work* work, char* low, char* high) except -1:
    grow(<void**>&work.written, &work.room_written, work.n_written + 1, sizeof(Span))
    work.written[work.n_written].low = low
    work.written[work.n_written].high = high
    work.n_written += 1
    return 0

cdef inline Py_ssize_t span(Py_ssize_t stride) noexcept nogil:
    return -stride if stride < 0 else stride

cdef bint self_overlaps(int ndim, const Py_ssize_t* shape, const Py_ssize_t* strides, Py_ssize_t itemsize) noexcept nogil:
    """Whether two elements may share memory; never False when they do. Shape entries are above 1."""
    cdef Py_ssize_t reach = itemsize, stride
    cdef int done, d, best
    cdef bint used[MAX_DIMS]
    for d in range(ndim):
        used[d] = False
    for done in range(ndim):
        best = -1
        for d in range(ndim):
            if not used[d] and (best < 0 or span(strides[d]) < span(strides[best])):
                best = d
        stride = span(strides[best])
        if stride < reach:
            return True
        reach += stride * (shape[best] - 1)
        used[best] = True
    return False

cdef bint add_layout(Layout* layout, int arrays, const Py_ssize_t* itemsize, int ndim, const Py_ssize_t* shape,
                     const Py_ssize_t* strides[4], Py_ssize_t rows) noexcept:
    """Sort and merge the dimensions of arrays that are not all C-contiguous; False where they must be refused."""
    cdef int order[MAX_DIMS]
    cdef int d, e, i
    cdef bint merges
    # Dimensions of one element say nothing; the rest by falling stride of w, so that permuted tensors merge.
    for d in range(ndim):
        if shape[d] == 1:
            continue
        if layout.ndim == MAX_DIMS:
            return False
        e = layout.ndim
        while e > 0 and span(strides[0][order[e - 1]]) < span(strides[0][d]):
            order[e] = order[e - 1]
            e -= 1
        order[e] = d
        layout.ndim += 1
    for e in range(layout.ndim):
        layout.shape[e] = shape[order[e]]
        for i in range(arrays):
            layout.strides[i][e] = strides[i][order[e]]
    if rows > 0 and layout.ndim > 0 and order[0] != 0 and shape[0] > 1:
        return False                                 # rows are not outermost
    for i in range(arrays):
        if i != 1 and self_overlaps(layout.ndim, layout.shape, layout.strides[i], itemsize[i]):
            return False
    # Merge neighbours that are one run in every array.
    e = 0
    for d in range(1, layout.ndim):
        merges = True
        for i in range(arrays):
            if layout.strides[i][e] != layout.strides[i][d] * layout.shape[d]:
                merges = False
        if merges:
            layout.shape[e] *= layout.shape[d]
        else:
            e += 1
            layout.shape[e] = layout.shape[d]
        for i in range(arrays):
            layout.strides[i][e] = layout.strides[i][d]
    if layout.ndim > 0:
        layout.ndim = e + 1
    return True

cdef int add_job(Work* work, int kind, int rule, int numbers, int ndim, const Py_ssize_t* shape,
                 const Py_ssize_t* strides[4], void** at, Py_ssize_t rows) except -1:
    """Take one parameter, or return 0 where it must be refused. Strides are in bytes, zero sizes are gone."""
    cdef int arrays = 4 if rule == PRODUCT else 3
    cdef Py_ssize_t itemsize[4]
    cdef Layout layout
    cdef Py_ssize_t expected[4]
    cdef int d, i
    cdef Py_ssize_t size = 1, low, high, reach
    cdef bint dense
    grow(<void**>&work.jobs, &work.room_jobs, work.n_jobs + 1, sizeof(Job))
    cdef Job* job = &work.jobs[work.n_jobs]
    job.kind = kind
    job.rule = rule
    job.arrays = arrays
    job.numbers = numbers
    job.layout = -1
    job.row = 0
    itemsize[0] = itemsize[1] = cell_size(kind)
    itemsize[2] = itemsize[3] = state_size(job)

    layout.ndim = 0
    dense = True
    for i in range(arrays):
        expected[i] = itemsize[i]
        if <uintptr_t>at[i] % itemsize[i] != 0:      # the compiler takes numbers to lie where they belong
            return 0
    for d in range(ndim - 1, -1, -1):
        for i in range(arrays):
            dense = dense and (shape[d] == 1 or strides[i][d] == expected[i])
            if shape[d] > 1 and strides[i][d] % itemsize[i] != 0:
                return 0
            expected[i] *= shape[d]
        size *= shape[d]
    if not dense:
        if not add_layout(&layout, arrays, itemsize, ndim, shape, strides, rows):
            return 0
        dense = layout.ndim <= 1
        for i in range(arrays):
            if layout.ndim == 1 and layout.strides[i][0] != itemsize[i]:
                dense = False
    if rows > 0:
        if not dense:
            return 0
        job.row = size // rows
    if not dense:
        grow(<void**>&work.layouts, &work.room_layouts, work.n_layouts + 1, sizeof(Layout))
        work.layouts[work.n_layouts] = layout
        job.layout = work.n_layouts
        work.n_layouts += 1
    for i in range(arrays):
        job.at[i] = <char*>at[i]
        low = 0
        high = size * itemsize[i] if dense else itemsize[i]
        for d in range(0 if dense else layout.ndim):
            reach = layout.strides[i][d] * (layout.shape[d] - 1)
            if reach < 0:
                low += reach
            else:
                high += reach
        if i == 1:
            grow(<void**>&work.read, &work.room_read, work.n_read + 1, sizeof(Span))
            work.read[work.n_read].low = job.at[i] + low
            work.read[work.n_read].high = job.at[i] + high
            work.n_read += 1
        else:
            add_span(work, job.at[i] + low, job.at[i] + high)
    job.size = size
    job.before = work.total
    work.total += size
    work.n_jobs += 1
    return 1

cdef int by_low(const void* x, const void* y) noexcept nogil:
    cdef char* a = (<const Span*>x).low
    cdef char* b = (<const Span*>y).low
    return -1 if a < b else 1 if a > b else 0

cdef bint apart(Work* work) except -1:
    """Whether no written array touches another, or a gradient. What was found is kept for the next step:
    as a key to compare with, never as memory to use."""
    cdef Py_ssize_t i, low, high, middle
    cdef Py_ssize_t n = work.n_written
    if n == 0:
        return True
    cdef bint same = n == work.n_ordered and memcmp(work.written, work.ordered + n, n * sizeof(Span)) == 0
    if not same:
        work.n_ordered = 0
        grow(<void**>&work.ordered, &work.room_ordered, 2 * n, sizeof(Span))
        memcpy(work.ordered, work.written, n * sizeof(Span))
        memcpy(work.ordered + n, work.written, n * sizeof(Span))
        qsort(work.ordered, n, sizeof(Span), by_low)
        for i in range(1, n):
            if work.ordered[i].low < work.ordered[i - 1].high:
                return False
        work.n_read_before = 0
    for i in range(work.n_read):
        if i < work.n_read_before and work.read[i].low == work.read_before[i].low \
                and work.read[i].high == work.read_before[i].high:
            continue
        low, high = 0, n                              # the first span that ends behind the gradient's start
        while low < high:
            middle = (low + high) // 2
            if work.ordered[middle].high <= work.read[i].low:
                low = middle + 1
            else:
                high = middle
        if low < n and work.ordered[low].low < work.read[i].high:
            work.n_read_before = 0
            return False
    work.n_ordered = n
    if work.n_read > 0:
        grow(<void**>&work.read_before, &work.room_before, work.n_read, sizeof(Span))
        memcpy(work.read_before, work.read, work.n_read * sizeof(Span))
    work.n_read_before = work.n_read
    return True

cdef void gather(char* to, const char* start, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t i
    if itemsize == 4:
        for i in range(n):
            (<float*>to)[i] = (<const float*>(start + i * stride))[0]
    elif itemsize == 8:
        for i in range(n):
            (<double*>to)[i] = (<const double*>(start + i * stride))[0]
    else:
        for i in range(n):
            (<uint16_t*>to)[i] = (<const uint16_t*>(start + i * stride))[0]

cdef void scatter(char* start, Py_ssize_t stride, const char* source, Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t i
    if itemsize == 4:
        for i in range(n):
            (<float*>(start + i * stride))[0] = (<const float*>source)[i]
    elif itemsize == 8:
        for i in range(n):
            (<double*>(start + i * stride))[0] = (<const double*>source)[i]
    else:
        for i in range(n):
            (<uint16_t*>(start + i * stride))[0] = (<const uint16_t*>source)[i]

cdef void run_strided(Work* work, Job* job, kernel f, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    """Elements low..high of a job that is not dense, a piece of an innermost row at a time."""
    cdef double room[4][CHUNK]
    cdef Layout* layout = &work.layouts[job.layout]
    cdef int last = layout.ndim - 1
    cdef Py_ssize_t itemsize[4]
    cdef Py_ssize_t inner = layout.shape[last], n, row, index
    cdef char* at[4]
    cdef char* use[4]
    cdef int i, d
    itemsize[0] = itemsize[1] = cell_size(job.kind)
    itemsize[2] = itemsize[3] = state_size(job)
    use[3] = at[3] = NULL
    while low < high:
        row = low // inner
        index = low - row * inner
        n = inner - index
        n = high - low if high - low < n else n
        n = CHUNK if n > CHUNK else n
        for i in range(job.arrays):
            at[i] = job.at[i] + index * layout.strides[i][last]
        for d in range(last - 1, -1, -1):
            index = row % layout.shape[d]
            row = row // layout.shape[d]
            for i in range(job.arrays):
                at[i] += index * layout.strides[i][d]
        for i in range(job.arrays):
            use[i] = at[i]
            if layout.strides[i][last] != itemsize[i]:
                use[i] = <char*>room[i]
                gather(use[i], at[i], layout.strides[i][last], n, itemsize[i])
        f(job.rule, use[0], use[1], use[2], use[3], n, &work.numbers[job.numbers])
        for i in range(job.arrays):
            if i != 1 and use[i] != at[i]:
                scatter(at[i], layout.strides[i][last], use[i], n, itemsize[i])
        low += n

cdef int rule_of(unsigned char verdict) noexcept nogil:
    return STAY if verdict == 0 else UNDO if verdict == 1 else RETREAT

cdef void run_rows(Work* work, Job* job, kernel f, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    """Elements low..high of a dense job whose rows have verdicts of their own; neighbours alike go together."""
    cdef Py_ssize_t row, n
    cdef Py_ssize_t size = cell_size(job.kind), state = state_size(job)
    while low < high:
        row = low // job.row
        n = job.row - (low - row * job.row)
        while low + n < high and work.verdicts[row + 1] == work.verdicts[row]:
            row += 1
            n += job.row
        n = high - low if high - low < n else n
        f(rule_of(work.verdicts[row]), job.at[0] + low * size, job.at[1] + low * size, job.at[2] + low * state,
          NULL, n, &work.numbers[job.numbers])
        low += n

cdef void run_part(Work* work, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    """Elements low..high of the whole work list."""
    cdef Py_ssize_t i = 0, top = work.n_jobs, middle, start, stop, end, lead, size, state
    cdef Job* job
    cdef kernel f
    while i < top:                                    # the job that holds element `low`
        middle = (i + top) // 2
        if work.jobs[middle].before + work.jobs[middle].size <= low:
            i = middle + 1
        else:
            top = middle
    while i < work.n_jobs and work.jobs[i].before < high:
        job = &work.jobs[i]
        start = low - job.before if low > job.before else 0
        stop = high - job.before if high - job.before < job.size else job.size
        f = choose(work.level, job.kind)
        if job.layout >= 0:
            run_strided(work, job, f, start, stop)
        elif job.row > 0:
            run_rows(work, job, f, start, stop)
        else:
            size, state = cell_size(job.kind), state_size(job)
            while start < stop:                       # a first piece up to a line's end, then the rest
                lead = -<uintptr_t>(job.at[0] + start * size) % LINE // size
                end = start + lead if lead > 0 and stop - start >= LONG else stop
                f(job.rule, job.at[0] + start * size, job.at[1] + start * size, job.at[2] + start * state,
                  job.at[3] + start * state if job.arrays == 4 else NULL, end - start, &work.numbers[job.numbers])
                start = end
        i += 1

cdef void run_share(void* data) noexcept nogil:
    """What one of several threads does."""
    cdef Work* work = <Work*>data
    cdef Py_ssize_t me = work.thread_number(), all_ = work.thread_count(), units = (work.total + SPLIT - 1) // SPLIT
    cdef Py_ssize_t low = units * me // all_ * SPLIT, high = units * (me + 1) // all_ * SPLIT
    run_part(work, low, work.total if high > work.total else high)

cdef int ask_threads(Work* work, object threads, Py_ssize_t threshold) except -1:
    """How many threads ``threads()`` grants: (count, GOMP_parallel, thread number, thread count) or None. It is asked
    only above the threshold, and before anything is written: it is Python, where errors and signals can strike."""
    work.parallel = NULL
    if work.total >= threshold and threads is not None:
        granted = threads()
        if granted is not None and granted[0] > 1:
            work.count = granted[0]
            work.thread_number = <omp_query><uintptr_t>granted[2]
            work.thread_count = <omp_query><uintptr_t>granted[3]
            work.parallel = <gomp_parallel><uintptr_t>granted[1]
    return 0

cdef void run_all(Work* work) noexcept:
    """Every job."""
    with nogil:
        if work.parallel != NULL:
            work.parallel(run_share, work, work.count, 0)
        else:
            run_part(work, 0, work.total)


# ---------------------------------------------------------------------------------------- NumPy arrays

cdef int kind_of(const char* format) noexcept:
    if format == NULL or format[0] == 0 or format[1] != 0:
        return -1
    return FLOAT if format[0] == c"f" else DOUBLE if format[0] == c"d" else HALF if format[0] == c"e" else -1

cdef class Views:
    """Buffers held for the length of a step."""
    cdef Py_buffer* views
    cdef Py_ssize_t count, room

    cdef Py_buffer* add(self, object array, int flags) except NULL:
        grow(<void**>&self.views, &self.room, self.count + 1, sizeof(Py_buffer))
        PyObject_GetBuffer(array, &self.views[self.count], flags)
        self.count += 1
        return &self.views[self.count - 1]

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)

cdef bint same_shape(Py_buffer* x, Py_buffer* y) noexcept:
    cdef int d
    if x.ndim != y.ndim:
        return False
    for d in range(x.ndim):
        if x.shape[d] != y.shape[d]:
            return False
    return True

cdef class ArrayStep:
    """A whole step on arrays that offer the buffer protocol. One object serves one optimizer: it keeps its
    scratch space, so that nothing is allocated after the first step."""
    cdef Work work
    cdef Views views
    cdef bint busy

    def __init__(self, int level):
        if not 0 <= level < RPROP_LEVELS:
            raise ValueError(f"level must be 0..{RPROP_LEVELS - 1}, got {level}")
        self.work.level = level
        self.views = Views()

    def __dealloc__(self):
        release(&self.work)

    def __call__(self, int rule, weights, gradients, states, numbers, verdicts, threads, Py_ssize_t threshold):
        """True when every array was stepped; False, and nothing touched, when one cannot be taken.

        ``numbers`` is (eta_minus, eta_plus, step_min, step_max, direction); ``verdicts`` is None or bytes-like,
        one verdict a row; ``threads`` is as in ask_threads.
        """
        if self.busy:                # another thread is in the middle of a step of this optimizer
            return False
        self.busy = True
        try:
            if not self.collect(rule, weights, gradients, states, numbers, verdicts):
                return False
            ask_threads(&self.work, threads, threshold)
            run_all(&self.work)
            return True
        except (BufferError, TypeError, ValueError):
            return False
        finally:
            for i in range(self.views.count):
                PyBuffer_Release(&self.views.views[i])
            self.views.count = 0
            self.busy = False

    cdef bint collect(self, int rule, weights, gradients, states, numbers, verdicts) except -1:
        cdef Work* work = &self.work
        cdef Py_ssize_t i, j, rows = 0
        cdef Py_ssize_t n = len(weights)
        cdef int k, d, arrays = 4 if rule == PRODUCT else 3
        cdef Py_buffer* v[4]
        cdef const Py_ssize_t* strides[4]
        cdef void* at[4]
        cdef bint empty
        clear(work)
        k = add_numbers(work, numbers)
        if len(gradients) != n or len(states) != n:
            return False
        grow(<void**>&self.views.views, &self.views.room, 4 * n + 1, sizeof(Py_buffer))   # pointers stay valid
        if verdicts is not None:
            v[0] = self.views.add(verdicts, 0)
            work.verdicts = <const unsigned char*>v[0].buf
            rows = v[0].len
        for i in range(n):
            state, weight, gradient = states[i], weights[i], gradients[i]
            # Many a type offers a buffer, and not all mean by it what an array does (masked arrays). The states are
            # ours, so they are plain ones.
            if type(gradient) is not type(state[0]) and type(gradient) is not type(weight):
                return False
            v[0] = self.views.add(weight, PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE)
            v[1] = self.views.add(gradient, PyBUF_STRIDES | PyBUF_FORMAT)
            for j in range(2, arrays):
                v[j] = self.views.add(state[j - 2], PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE)
            kind = kind_of(v[0].format)
            if kind < 0 or kind_of(v[1].format) != kind:
                return False
            empty = False
            for j in range(arrays):
                if j > 1 and kind_of(v[j].format) != (FLOAT if kind == HALF and rule != PRODUCT else kind):
                    return False
                if not same_shape(v[0], v[j]):
                    return False
                strides[j] = v[j].strides
                at[j] = v[j].buf
            for d in range(v[0].ndim):
                empty = empty or v[0].shape[d] == 0
            if rows > 0 and (v[0].ndim == 0 or v[0].shape[0] != rows):
                return False
            if not empty and not add_job(work, kind, rule, k, v[0].ndim, v[0].shape, strides, at, rows):
                return False
        return apart(work)


cdef bint constant(Py_buffer* x) noexcept:
    """Whether it is one number, seen many times."""
    cdef int d
    for d in range(x.ndim):
        if x.shape[d] != 1 and x.strides[d] != 0:
            return False
    return True

cdef bint alike(Py_buffer* x, Py_buffer* y) noexcept:
    """Whether both lie in memory in one order."""
    cdef int d
    for d in range(x.ndim):
        if x.shape[d] != 1 and x.strides[d] != y.strides[d]:
            return False
    return True

cdef void stop_all(int level, real** at, Py_ssize_t* ahead, Py_ssize_t n) noexcept nogil:
    """In pieces, since a bound that is one number stands in a piece's length of memory (ahead: 0)."""
    cdef Py_ssize_t start = 0, length
    while start < n:
        length = CHUNK if n - start > CHUNK else n - start
        if level == 2:
            stop_v4(at[0] + start, at[1] + start, at[2] + ahead[2] * start, at[3] + ahead[3] * start,
                    at[4] + ahead[4] * start, length)
        elif level == 1:
            stop_v3(at[0] + start, at[1] + start, at[2] + ahead[2] * start, at[3] + ahead[3] * start,
                    at[4] + ahead[4] * start, length)
        else:
            stop_baseline(at[0] + start, at[1] + start, at[2] + ahead[2] * start, at[3] + ahead[3] * start,
                          at[4] + ahead[4] * start, length)
        start += length

def stop_at_bounds(int level, weight, state, lower, upper, most):
    """True when weights beyond a bound were set on it and have forgotten their sign; False, and nothing touched, when
    the arrays are not dense in one order. All of one dtype and shape; the last three may be one number broadcast."""
    if not 0 <= level < RPROP_LEVELS:
        raise ValueError(f"level must be 0..{RPROP_LEVELS - 1}, got {level}")
    cdef Views views = Views()
    cdef Py_buffer* v[5]
    cdef double room[3][CHUNK]
    cdef void* at[5]
    cdef Py_ssize_t ahead[5]
    cdef Py_ssize_t i, j, n, itemsize
    cdef int kind, d
    cdef bint rows = True, columns = True
    cdef Py_ssize_t expected
    grow(<void**>&views.views, &views.room, 5, sizeof(Py_buffer))                              # pointers stay valid
    try:
        for i, array in enumerate((weight, state, lower, upper, most)):
            v[i] = views.add(array, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if i < 2 else 0))
    except (BufferError, TypeError, ValueError):
        return False
    kind = kind_of(v[0].format)
    if kind != FLOAT and kind != DOUBLE:
        return False
    itemsize = cell_size(kind)
    n = v[0].len // itemsize
    expected = itemsize
    for d in range(v[0].ndim - 1, -1, -1):
        rows = rows and (v[0].shape[d] == 1 or v[0].strides[d] == expected)
        expected *= v[0].shape[d]
    expected = itemsize
    for d in range(v[0].ndim):
        columns = columns and (v[0].shape[d] == 1 or v[0].strides[d] == expected)
        expected *= v[0].shape[d]
    if n > 0 and not rows and not columns:
        return False
    for i in range(5):
        at[i], ahead[i] = v[i].buf, 1
        if kind_of(v[i].format) != kind or not same_shape(v[0], v[i]):
            return False
        if i > 1 and n > 1 and constant(v[i]):
            for j in range(CHUNK):
                if kind == FLOAT:
                    (<float*>room[i - 2])[j] = (<float*>v[i].buf)[0]
                else:
                    room[i - 2][j] = (<double*>v[i].buf)[0]
            at[i], ahead[i] = <void*>room[i - 2], 0
        elif n > 0 and not alike(v[0], v[i]):
            return False
    if kind == FLOAT:
        stop_all[float](level, <float**>at, ahead, n)
    else:
        stop_all[double](level, <double**>at, ahead, n)
    return True


# --------------------------------------------------------------------------------------- torch tensors

cdef struct Slot:
    # One parameter as it was when the plan was made. Addresses are compared with, never followed.
    PyObject* parameter
    Py_ssize_t place           # of its state among the entries of optimizer.state, or -1
    void* seen[4]              # where parameter and state lay when they were last asked for lazy negation

cdef struct Counter:
    char* at
    int bits

cdef struct Entry:
    PyObject* parameter
    PyObject* state

cdef class Torch:
    """What this module must know of torch: given once by Python, so that nothing here imports it."""
    cdef object tensor, parameter, increment_version, modes, threads, kinds, cpu, strided
    cdef dl_exchange* exchange

    def __init__(self, tensor, parameter, increment_version, modes, threads, exchange, kinds, cpu, strided):
        """``modes``: pairs of functions, a quick and a sure one (or None), that return something true where a dispatch
        mode, a tracer or the like is active;
        ``threads``: see ask_threads; ``exchange``: the capsule of the DLPack exchange table, or None to read tensors
        by their Python attributes; for that ``kinds``, {dtype: (code, bits)}, ``cpu``, the device, and ``strided``,
        the layout."""
        self.tensor, self.parameter = tensor, parameter
        self.increment_version, self.modes, self.threads = increment_version, modes, threads
        self.kinds, self.cpu, self.strided = kinds, cpu, strided
        self.exchange = NULL
        if exchange is None:
            return
        cdef dl_header* header = <dl_header*>PyCapsule_GetPointer(exchange, b"dlpack_exchange_api")
        while header != NULL and header.version.major != 1:
            header = header.previous
        self.exchange = <dl_exchange*>header

    cdef int describe(self, PyObject* tensor, dl_tensor* out, int64_t* room) except -1:
        """Fill ``out`` for a plain CPU tensor; -2 (no error set) for anything else. ``room`` holds shape and
        strides where they must be copied."""
        cdef PyObject* kind = type_of(tensor)
        if kind != <PyObject*>self.tensor and kind != <PyObject*>self.parameter:
            return -2
        if self.exchange == NULL:
            return self.describe_slowly(<object>tensor, out, room)
        if self.exchange.describe(tensor, out) != 0:
            PyErr_Clear()
            return -2
        return 0 if out.device_type == 1 and out.lanes == 1 else -2

    cdef int describe_slowly(self, object tensor, dl_tensor* out, int64_t* room) except -1:
        cdef int d
        try:
            known = self.kinds.get(tensor.dtype)
            if known is None or tensor.device != self.cpu or tensor.layout is not self.strided:
                return -2
            out.code, out.bits = known
            out.data = <void*><uintptr_t>tensor.data_ptr()
            shape, strides = tensor.shape, tensor.stride()
            out.ndim = len(shape)
            if out.ndim > MAX_DIMS:
                return -2
            for d in range(out.ndim):
                room[d] = shape[d]
                room[MAX_DIMS + d] = strides[d]
        except (RuntimeError, NotImplementedError):       # tensors without memory of their own
            return -2
        out.shape = room
        out.strides = room + MAX_DIMS
        out.byte_offset = 0
        return 0

cdef int torch_kind(dl_tensor* t) noexcept:
    if t.code == 2:
        return FLOAT if t.bits == 32 else DOUBLE if t.bits == 64 else HALF if t.bits == 16 else -1
    return BRAIN if t.code == 4 and t.bits == 16 else -1

cdef bint same_pair(object value, object seen) except -1:
    """Whether a pair of numbers is what it was; a tuple cannot change, a list can."""
    if value is seen:
        return True
    return type(value) in (tuple, list) and tuple(value) == seen

cdef enum Outcome:
    DONE = 0       # every parameter was stepped
    STALE = 1      # something changed since the plan was made: make a new one
    REFUSED = 2    # a tensor that must be left to torch's own operations; nothing was touched

cdef class TorchStep:
    """A whole step of one torch optimizer, all groups in one call. Objects are compared by identity with
    those of the plan, pointers and shapes are read anew each time."""
    cdef Work work
    cdef Torch torch
    cdef Slot* slots
    cdef Entry* entries
    cdef Counter* counters
    cdef Py_ssize_t n_slots, n_entries, n_counters, room_slots, room_entries, room_counters
    cdef list groups           # of each: (number of parameters, etas, step_sizes, maximize, lr, numbers of each kind)
    cdef bint product, busy

    def __init__(self, Torch torch, int level, bint product):
        if not 0 <= level < RPROP_LEVELS:
            raise ValueError(f"level must be 0..{RPROP_LEVELS - 1}, got {level}")
        self.torch = torch
        self.work.level = level
        self.product = product
        self.groups = None

    def __dealloc__(self):
        release(&self.work)
        PyMem_Free(self.slots)
        PyMem_Free(self.entries)
        PyMem_Free(self.counters)

    def plan(self, state, param_groups, list numbers):
        """Remember which objects make up the optimizer.

        ``numbers``: for each group (etas, step_sizes, maximize, lr or None, five), where ``five`` holds, for
        float32, float64, float16 and bfloat16, the numbers of add_numbers, or None where that type is refused.
        """
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, i
        cdef dict places = {}
        if self.busy:                # the step that another thread is in the middle of reads the old one
            return
        self.groups = None
        if type(param_groups) is not list:
            return
        self.n_entries = self.n_slots = 0
        while PyDict_Next(state, &position, &key, &value):
            grow(<void**>&self.entries, &self.room_entries, self.n_entries + 1, sizeof(Entry))
            self.entries[self.n_entries].parameter = key
            self.entries[self.n_entries].state = value
            places[<uintptr_t>key] = self.n_entries
            self.n_entries += 1
        groups = []
        for group, (etas, step_sizes, maximize, lr, five) in zip(param_groups, numbers, strict=True):
            for parameter in group["params"]:
                grow(<void**>&self.slots, &self.room_slots, self.n_slots + 1, sizeof(Slot))
                self.slots[self.n_slots].parameter = <PyObject*>parameter
                memset(self.slots[self.n_slots].seen, 0, 4 * sizeof(void*))
                self.slots[self.n_slots].place = places.get(<uintptr_t><PyObject*>parameter, -1)
                self.n_slots += 1
            groups.append((len(group["params"]), tuple(etas), tuple(step_sizes), maximize, lr, five))
        self.groups = groups

    def __call__(self, int rule, state, param_groups, bytes verdicts, Py_ssize_t threshold):
        """One step; returns an Outcome. ``rule`` is a Rule; ``verdicts`` is None, or holds one a row."""
        cdef int outcome
        cdef Py_ssize_t i
        cdef list written, gradients
        for quick, sure in self.torch.modes:
            if quick() and (sure is None or sure()):
                return REFUSED
        if self.busy or type(param_groups) is not list:      # busy: another thread is in the middle of a step of ours
            return REFUSED
        if self.groups is None:
            return STALE
        self.busy = True
        try:
            written, gradients = [], []              # they keep the tensors alive while the lock is released
            outcome = self.collect(rule, state, param_groups, verdicts, written, gradients)
            if outcome != DONE:
                return outcome
            if not apart(&self.work):
                return REFUSED
            ask_threads(&self.work, self.torch.threads, threshold)
            if written:
                self.torch.increment_version(written)         # raises what torch raises, before a byte is written
            for i in range(self.n_counters):
                if self.counters[i].bits == 32:
                    (<float*>self.counters[i].at)[0] += 1
                else:
                    (<double*>self.counters[i].at)[0] += 1
            run_all(&self.work)
            return DONE
        finally:
            self.busy = False

    cdef int collect(self, int rule, object state, list param_groups, bytes verdicts, list written,
                     list gradients) except -1:
        cdef Work* work = &self.work
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, i = 0, count, index, rows = 0
        cdef Py_ssize_t n_groups = len(param_groups)
        cdef int numbers[4]
        cdef int outcome
        cdef Slot* slot = self.slots
        cdef tuple seen, five
        cdef list params, groups = self.groups, inner = []   # asking tensors lets other threads run, who may clear all
        clear(work)
        if not isinstance(state, dict):                 # a mapping of the user's own
            return REFUSED
        self.n_counters = 0
        if verdicts is not None:
            work.verdicts = <const unsigned char*><const char*>verdicts
            rows = len(verdicts)
        if len(state) != self.n_entries or n_groups != len(groups):
            return STALE
        while PyDict_Next(state, &position, &key, &value):
            if self.entries[i].parameter != key or self.entries[i].state != value:
                return STALE
            inner.append(<object>value)
            i += 1
        for index in range(n_groups):
            seen = <tuple>groups[index]
            group = <object>PyList_GetItem(param_groups, index)
            listed = group["params"]
            if type(listed) is not list:
                return REFUSED
            params = <list>listed
            count = <Py_ssize_t>seen[0]
            if len(params) != count or group["maximize"] is not seen[3] \
                    or not same_pair(group["etas"], seen[1]) or not same_pair(group["step_sizes"], seen[2]) \
                    or (seen[4] is not None and group["lr"] is not seen[4]):
                return STALE
            if self.product and (group["capturable"] is not False or group["differentiable"] is not False):
                return REFUSED
            five = <tuple>seen[5]
            numbers[0] = numbers[1] = numbers[2] = numbers[3] = -1
            for i in range(count):
                parameter = <object>PyList_GetItem(params, i)
                if <PyObject*>parameter != slot.parameter:
                    return STALE
                gradient = parameter.grad
                if gradient is not None:
                    if slot.place < 0:
                        return STALE
                    outcome = self.add(rule, slot, parameter, gradient, <object>PyList_GetItem(inner, slot.place), five,
                                       numbers, rows, written)
                    if outcome != DONE:
                        return outcome
                    gradients.append(gradient)
                slot += 1
        return DONE

    cdef int add(self, int rule, Slot* slot, object parameter, object gradient, object state, tuple five, int* numbers,
                 Py_ssize_t rows, list written) except -1:
        """Take one parameter into the work list."""
        cdef Work* work = &self.work
        cdef Torch torch = self.torch
        cdef dl_tensor t[4]
        cdef dl_tensor counter
        cdef int64_t room[5][2 * MAX_DIMS]
        cdef PyObject* found[4]
        cdef PyObject* key
        cdef void* at[4]
        cdef Py_ssize_t shape[MAX_DIMS]
        cdef Py_ssize_t strides[4][MAX_DIMS]
        cdef const Py_ssize_t* rows_of[4]
        cdef Py_ssize_t itemsize, stride
        cdef int i, d, kind, other, arrays = 4 if self.product else 3
        cdef bint empty = False, asked
        if type(state) is not dict:
            return REFUSED
        found[0] = <PyObject*>parameter
        found[1] = <PyObject*>gradient
        if self.product:
            found[2] = PyDict_GetItemWithError(state, "prev")
            found[3] = PyDict_GetItemWithError(state, "step_size")
            key = PyDict_GetItemWithError(state, "step")
            if key == NULL:
                return STALE
            written.append(<object>key)
        else:
            found[2] = PyDict_GetItemWithError(state, "move")
        for i in range(arrays):
            if found[i] == NULL:
                return STALE
            if i != 1:
                written.append(<object>found[i])         # at once: it must outlive whatever other threads do
        # DLPack does not tell of lazy negation, and asking costs as much as all the rest: a gradient is asked each
        # time, what lasts when it has come to lie elsewhere. Other threads run meanwhile, so what was described before
        # is described anew.
        if PyObject_CallMethodObjArgs(gradient, "is_neg", NULL) is not False:
            return REFUSED
        asked = True
        while asked:
            asked = False
            for i in range(arrays):
                if torch.describe(found[i], &t[i], room[i]) < 0:
                    return REFUSED
            for i in range(arrays):
                if i != 1 and slot.seen[i] != t[i].data:
                    slot.seen[i] = t[i].data
                    asked = True
                    if PyObject_CallMethodObjArgs(<object>found[i], "is_neg", NULL) is not False:
                        slot.seen[i] = NULL
                        return REFUSED
        kind = torch_kind(&t[0])
        if kind < 0 or five[kind] is None or t[0].ndim > MAX_DIMS or torch_kind(&t[1]) != kind:
            return REFUSED
        if rows > 0 and (t[0].ndim == 0 or t[0].shape[0] != rows):
            return REFUSED
        for d in range(t[0].ndim):
            shape[d] = t[0].shape[d]
            empty = empty or shape[d] == 0
        for i in range(arrays):
            other = torch_kind(&t[i])
            if other != (FLOAT if i > 1 and kind > 1 and not self.product else kind) or t[i].ndim != t[0].ndim:
                return REFUSED
            if t[i].data == NULL and not empty:
                return REFUSED
            itemsize = t[i].bits // 8
            stride = itemsize
            for d in range(t[0].ndim - 1, -1, -1):
                if t[i].shape[d] != shape[d]:
                    return REFUSED
                strides[i][d] = stride if t[i].strides == NULL else t[i].strides[d] * itemsize
                stride *= shape[d]
            rows_of[i] = strides[i]
            at[i] = <char*>t[i].data + t[i].byte_offset
        if self.product:
            if torch.describe(key, &counter, room[4]) < 0 or counter.ndim != 0 or counter.code != 2 or counter.bits < 32 \
                    or counter.bits > 64 or counter.data == NULL:
                return REFUSED
            grow(<void**>&self.counters, &self.room_counters, self.n_counters + 1, sizeof(Counter))
            self.counters[self.n_counters].at = <char*>counter.data + counter.byte_offset
            self.counters[self.n_counters].bits = counter.bits
            add_span(work, self.counters[self.n_counters].at, self.counters[self.n_counters].at + counter.bits // 8)
            self.n_counters += 1
        if empty:
            return DONE
        if numbers[kind] < 0:
            numbers[kind] = add_numbers(work, five[kind])
        return DONE if add_job(work, kind, rule, numbers[kind], t[0].ndim, shape, rows_of, at, rows) else REFUSED


def levels():
    """How many instruction sets this build has (1 or 3), and the best one that this machine can run."""
    return RPROP_LEVELS, rprop_best_level()
