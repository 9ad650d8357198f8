# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, freethreading_compatible=True
"""The entry points of the compiled backend: they fill a step table (``step_table.h``) and run it.

The rules are in ``rules.h``, the loops over memory in ``loops.h``. This module only marshals: NumPy arrays by the
buffer protocol, torch tensors by DLPack's C exchange table. Python has validated the arguments; arrays are validated
here, and anything uncertain is refused before a byte is written.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from *:
    """
    #ifndef SOURCE_HASH
    #define SOURCE_HASH unknown
    #endif
    #define AS_TEXT(x) #x
    #define TEXT_OF(x) AS_TEXT(x)
    static const char source_marker[] = "rprop_kernels source " TEXT_OF(SOURCE_HASH);
    """
    const char* source_marker

cdef extern from "step_table.h" nogil:
    enum:
        MAX_DIMS
        PARAM, GRAD, STATE, STATE2, LOWER, UPPER, FROZEN, BEST, N_ARRAYS
        FLOAT, DOUBLE, HALF, BFLOAT16, N_DTYPES
        TORCH, N_RULES
        N_HYPER
        RPROP_ISAS
    ctypedef struct Layout:
        int64_t ndim
        int64_t shape[MAX_DIMS]
        int64_t strides[N_ARRAYS][MAX_DIMS]
    ctypedef void ParallelFunction(void (*)(void*), void*, unsigned, unsigned)
    ctypedef int ThreadQuery()
    ctypedef void RangeRunner(const int64_t*, int64_t, int64_t)
    enum:
        HEADER_LOOPS, HEADER_RUN_GATHERED, N_HEADER
    ctypedef struct Row:
        int64_t dtype
    ctypedef struct Extra:
        int64_t flags
    ctypedef struct StepTable:
        Row* rows
        char** grads
        double (*hypers)[N_HYPER]
        Extra* extras
        Py_ssize_t n_rows, n_hypers, n_layouts, n_extras, hyper_capacity
        int64_t numel
        const unsigned char* outcomes
        const unsigned char* improved
        int isa
        unsigned n_threads
        ParallelFunction* parallel
        ThreadQuery* thread_number
        ThreadQuery* thread_count
        RangeRunner* runner
        uint64_t needs, ready
        double* largest
        int64_t header[N_HEADER]
    int reserve(void*, Py_ssize_t*, Py_ssize_t, size_t)
    void free_table(StepTable*)
    void clear_table(StepTable*)
    int add_write(StepTable*, char*, char*)
    int add_row(StepTable*, int dtype, int rule, Py_ssize_t hyper, int64_t n_losses, char**, Layout*)
    int is_disjoint(StepTable*)
    void run_table(StepTable*)
    int state_dtype_of(int64_t dtype, int64_t rule)
    int n_arrays_of(int64_t rule)
    double larger(double, double)
    int best_isa()

cdef extern from "dlpack.h":
    enum:
        DL_CPU, DL_FLOAT, DL_BFLOAT, DL_BOOL
    ctypedef struct DLPackVersion:
        uint32_t major
    ctypedef struct DLPackHeader:
        DLPackVersion version
        DLPackHeader* previous
    ctypedef struct DLTensor:
        void* data
        int device_type
        int device_id
        int ndim
        int code
        int bits
        int lanes
        int64_t* shape
        int64_t* strides
        uint64_t byte_offset
    ctypedef struct DLPackExchange:
        DLPackHeader header
        int (*read)(void*, DLTensor*) noexcept

cdef extern from "free_threads.h":
    ctypedef int Flag
    bint take(Flag*)
    void release(Flag*)
    object list_item(object, Py_ssize_t)
    object dict_item(object, object)

cdef extern from "Python.h":
    int PyDict_Next(object, Py_ssize_t*, PyObject**, PyObject**)
    PyObject* PyList_GetItem(object, Py_ssize_t) except NULL
    PyObject* PyTuple_GetItem(object, Py_ssize_t) except NULL
    void* PyCapsule_GetPointer(object, const char*) except NULL
    void PyErr_Clear()
    object PyObject_CallFunctionObjArgs(object, PyObject*, void*)     # needs no tuple of arguments
    PyObject* type_of "(PyObject *)Py_TYPE"(PyObject*)


# ------------------------------------------------------------------------------------ for both collectors

cdef int check(int status) except -1:
    """Raise where a function of step_table.h returned -1, which is without memory."""
    if status < 0:
        raise MemoryError()
    return status

cdef int check_isa(int isa) except -1:
    if not 0 <= isa < RPROP_ISAS:
        raise ValueError(f"isa must be 0..{RPROP_ISAS - 1}, got {isa}")
    return isa

cdef Py_ssize_t add_hyper(StepTable* table, object hyper) except -1:
    """Add (eta_minus, eta_plus, step_min, step_max, direction); return its index."""
    check(reserve(&table.hypers, &table.hyper_capacity, table.n_hypers + 1, N_HYPER * sizeof(double)))
    cdef double* row = table.hypers[table.n_hypers]
    row[0], row[1], row[2], row[3], row[4] = hyper
    table.n_hypers += 1
    return table.n_hypers - 1

cdef int get_threads(StepTable* table, object threads, Py_ssize_t threshold) except -1:
    """Call ``threads()``, which returns (count, GOMP_parallel, omp_get_thread_num, omp_get_num_threads) or None.

    It is called from ``threshold`` weights on, and before anything is written: Python may raise.
    """
    table.parallel = NULL
    if table.numel >= threshold and threads is not None:
        team = threads()
        if team is not None and team[0] > 1:
            table.n_threads = team[0]
            table.parallel = <ParallelFunction*><uintptr_t>team[1]
            table.thread_number = <ThreadQuery*><uintptr_t>team[2]
            table.thread_count = <ThreadQuery*><uintptr_t>team[3]
    return 0

cdef bint set_improved(StepTable* table, bytes improved, Py_ssize_t* n_losses) except -1:
    """Set where the best point is to be copied: a byte for all, or for each loss, of which there may be outcomes."""
    cdef Py_ssize_t n = len(improved)
    if n_losses[0] > 0 and n != n_losses[0]:
        return False
    if n > 1:
        n_losses[0] = n
    table.improved = <const unsigned char*><const char*>improved
    return True

cdef list measure(StepTable* table, Py_ssize_t n_losses):
    """Return the largest |gradient| of the collected table, of each loss or of all."""
    cdef Py_ssize_t i, n = n_losses if n_losses > 0 else table.n_threads if table.parallel != NULL else 1
    cdef double* largest = <double*>calloc(n, sizeof(double))
    if largest == NULL:
        raise MemoryError()
    if n_losses > 0:
        table.parallel = NULL          # a loss may have weights in the parts of several threads
    table.largest = largest
    try:
        with nogil:
            run_table(table)
        if n_losses > 0:
            return [largest[i] for i in range(n)]
        for i in range(1, n):
            largest[0] = larger(largest[i], largest[0])
        return [largest[0]]
    finally:
        table.largest = NULL
        free(largest)

cdef int prepare(StepTable* table, object engine) except -1:
    """Let another engine compile the loops that the table needs, before anything is written.

    ``engine`` is None, or a function of the set of needs that returns the addresses of a RangeRunner, of its table of
    loops and of its function for rows that are not dense or have options.
    """
    if engine is not None and (table.needs & ~table.ready) != 0:
        runner, loops, run_gathered = engine(table.needs)
        table.runner = <RangeRunner*><uintptr_t>runner
        table.header[HEADER_LOOPS], table.header[HEADER_RUN_GATHERED] = loops, run_gathered
        table.ready |= table.needs
    return 0


# ------------------------------------------------------------------------------------------- NumPy arrays

cdef int dtype_of_format(const char* format) noexcept:
    if format == NULL or format[0] == 0 or format[1] != 0:
        return -1
    return FLOAT if format[0] == c"f" else DOUBLE if format[0] == c"d" else -1

cdef bint same_shape(Py_buffer* x, Py_buffer* y) noexcept:
    cdef int d
    if x.ndim != y.ndim:
        return False
    for d in range(x.ndim):
        if x.shape[d] != y.shape[d]:
            return False
    return True

cdef class Buffers:
    """Buffers held for the length of a step."""
    cdef Py_buffer* items
    cdef Py_ssize_t count, capacity

    cdef int reserve(self, Py_ssize_t n) except -1:
        return check(reserve(&self.items, &self.capacity, n, sizeof(Py_buffer)))

    cdef Py_buffer* add(self, object array, int flags) except NULL:
        """Get a buffer, for which room is reserved."""
        PyObject_GetBuffer(array, &self.items[self.count], flags)
        self.count += 1
        return &self.items[self.count - 1]

    cdef int release(self) except -1:
        while self.count > 0:
            self.count -= 1
            PyBuffer_Release(&self.items[self.count])
        return 0

    def __dealloc__(self):
        self.release()
        free(self.items)

cdef class ArrayStep:
    """Steps on arrays that offer the buffer protocol. One object serves one optimizer: it keeps its buffers, so that
    nothing is allocated after the first step."""
    cdef StepTable table
    cdef Buffers buffers
    cdef object engine
    cdef Flag busy

    def __init__(self, int isa, engine=None):
        """``engine``: see prepare."""
        self.table.isa = check_isa(isa)
        self.engine = engine
        self.buffers = Buffers()

    def __dealloc__(self):
        free_table(&self.table)

    def __call__(self, int rule, params, grads, states, hyper, outcomes, constraints, threads, Py_ssize_t threshold,
                 bests=None, bytes improved=None):
        """Step all arrays and return True; return False, with nothing changed, where one of them is unsupported.

        ``hyper`` is (eta_minus, eta_plus, step_min, step_max, direction); ``outcomes`` is None or bytes-like, one
        outcome for each element of the first dimension; ``constraints`` is None or has None or
        ``(lower, upper, frozen)`` for each array, see add_option; ``threads``: see get_threads. ``bests`` is None or
        has an array for each of ``params``, to which it is copied before the step where ``improved``: a byte for all, or
        one for each element of the first dimension.
        """
        if not take(&self.busy):     # in use by another thread
            return False
        try:
            if not self.collect(rule, params, grads, states, hyper, outcomes, constraints, bests, improved):
                return False
            prepare(&self.table, self.engine)
            get_threads(&self.table, threads, threshold)
            with nogil:
                run_table(&self.table)
            return True
        except (BufferError, TypeError, ValueError):
            return False
        finally:
            self.buffers.release()
            release(&self.busy)

    def largest_gradient(self, params, grads, states, hyper, bytes outcomes, constraints, threads, Py_ssize_t threshold):
        """Return the largest |gradient| of the weights that are neither frozen nor held at a bound by it, NaN where one
        is NaN: a list of one number, or of one for each of ``outcomes``. None where an array is unsupported."""
        if not take(&self.busy):
            return None
        try:
            if not self.collect(0, params, grads, states, hyper, outcomes, constraints):
                return None
            get_threads(&self.table, threads, threshold)
            return measure(&self.table, 0 if outcomes is None else len(outcomes))
        except (BufferError, TypeError, ValueError):
            return None
        finally:
            self.buffers.release()
            release(&self.busy)

    cdef bint collect(self, int rule, params, grads, states, hyper, outcomes, constraints, bests=None,
                      bytes improved=None) except -1:
        cdef StepTable* table = &self.table
        cdef Py_ssize_t n = len(params), n_losses = 0, hyper_index, i
        cdef int j, d, ndim, dtype, arrays = n_arrays_of(rule)
        cdef Py_buffer* buffers[N_ARRAYS]
        cdef char* data[N_ARRAYS]
        cdef Layout layout
        if not 0 <= rule < N_RULES or len(grads) != n or len(states) != n:
            return False
        if constraints is not None and (len(constraints) != n or rule == TORCH):
            return False
        if bests is not None and len(bests) != n:
            return False
        clear_table(table)
        hyper_index = add_hyper(table, hyper)
        self.buffers.reserve(7 * n + 1)                   # so that pointers stay valid
        if outcomes is not None:
            buffers[0] = self.buffers.add(outcomes, 0)
            table.outcomes = <const unsigned char*>buffers[0].buf
            n_losses = buffers[0].len
        if bests is not None and not set_improved(table, improved, &n_losses):
            return False
        for i in range(n):
            state, param, grad = states[i], params[i], grads[i]
            # Some types offer a buffer that does not mean their values (masked arrays). A state is a plain array.
            if type(grad) is not type(state[0]) and type(grad) is not type(param):
                return False
            buffers[PARAM] = self.buffers.add(param, PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE)
            buffers[GRAD] = self.buffers.add(grad, PyBUF_STRIDES | PyBUF_FORMAT)
            for j in range(STATE, arrays):
                buffers[j] = self.buffers.add(state[j - STATE], PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE)
            dtype = dtype_of_format(buffers[PARAM].format)
            ndim = buffers[PARAM].ndim
            if dtype < 0 or ndim > MAX_DIMS:
                return False
            layout.ndim = ndim
            for d in range(ndim):
                layout.shape[d] = buffers[PARAM].shape[d]
            for j in range(arrays):
                if dtype_of_format(buffers[j].format) != dtype or buffers[j].ndim != ndim:
                    return False
                data[j] = <char*>buffers[j].buf
                for d in range(ndim):
                    if buffers[j].shape[d] != layout.shape[d]:
                        return False
                    layout.strides[j][d] = buffers[j].strides[d]
            data[LOWER] = data[UPPER] = data[FROZEN] = data[BEST] = NULL
            if constraints is not None and constraints[i] is not None:
                lower, upper, frozen = constraints[i]
                if not (self.add_option(LOWER, lower, dtype, data, &layout)
                        and self.add_option(UPPER, upper, dtype, data, &layout)
                        and self.add_option(FROZEN, frozen, dtype, data, &layout)):
                    return False
            if bests is not None and not self.add_option(BEST, bests[i], dtype, data, &layout):
                return False
            if not check(add_row(table, dtype, rule, hyper_index, n_losses, data, &layout)):
                return False
        return check(is_disjoint(table))

    cdef bint add_option(self, int j, array, int dtype, char** data, Layout* layout) except -1:
        """Read an option of the last row: None, one number (an array of shape ()) or an array of the row's shape.

        Bounds have the row's dtype; ``frozen`` has NumPy's bool.
        """
        if array is None:
            return True
        cdef Py_buffer* buffer = self.buffers.add(array, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if j == BEST else 0))
        cdef int d
        if j == FROZEN:
            if buffer.format == NULL or buffer.format[0] != c"?" or buffer.format[1] != 0:
                return False
        elif dtype_of_format(buffer.format) != dtype:
            return False
        if buffer.ndim != layout.ndim and (buffer.ndim != 0 or j == BEST):
            return False
        data[j] = <char*>buffer.buf
        for d in range(layout.ndim):
            if buffer.ndim != 0 and buffer.shape[d] != layout.shape[d]:
                return False
            layout.strides[j][d] = 0 if buffer.ndim == 0 else buffer.strides[d]
        return True


# ------------------------------------------------------------------------------------------ torch tensors

cdef enum StepStatus:
    STEPPED = 0        # every parameter was stepped
    REPLAN = 1         # the optimizer has changed since plan(): call it and retry
    UNSUPPORTED = 2    # nothing was changed; the step is one for torch's own operations

cdef struct PlannedParam:
    # A parameter as recorded in the plan. Its addresses are compared, never dereferenced.
    PyObject* param
    Py_ssize_t state_index     # among the entries of optimizer.state; -1: none
    void* checked_data[N_ARRAYS]      # of its arrays when they were last checked for lazy negation

cdef struct StateEntry:
    PyObject* param
    PyObject* state

cdef struct StepCounter:
    char* data
    int bits

cdef class TorchApi:
    """The parts of torch in use, handed over by Python, so that nothing here imports it."""
    cdef object tensor, parameter, is_neg, increment_version, mode_checks, threads, read_attributes
    cdef DLPackExchange* exchange

    def __init__(self, tensor, parameter, increment_version, mode_checks, threads, exchange, read_attributes):
        """
        Args:
            tensor, parameter: the types of tensors that are read.
            increment_version: increments the version counters of a list of tensors.
            mode_checks: pairs (fast, exact or None) of functions that return a true value while a dispatch mode, a
                tracer or the like is active.
            threads: see get_threads.
            exchange: the capsule of the DLPack exchange table, or None before torch 2.10.
            read_attributes: used where that is None; returns (code, bits, address, shape, strides) of a strided CPU
                tensor in DLPack's terms, or None for any other.
        """
        self.tensor, self.parameter, self.is_neg = tensor, parameter, tensor.is_neg
        self.increment_version, self.mode_checks, self.threads = increment_version, mode_checks, threads
        self.read_attributes = read_attributes
        self.exchange = NULL
        if exchange is None:
            return
        cdef DLPackHeader* header = <DLPackHeader*>PyCapsule_GetPointer(exchange, b"dlpack_exchange_api")
        while header != NULL and header.version.major != 1:
            header = header.previous
        self.exchange = <DLPackExchange*>header

    cdef int read_tensor(self, PyObject* tensor, DLTensor* out, int64_t* dims, int device_type) except -1:
        """Fill ``out`` and return 1 for a plain tensor of that kind of device, else 0. ``dims`` holds shape and strides if need be."""
        cdef PyObject* type_ = type_of(tensor)
        if type_ != <PyObject*>self.tensor and type_ != <PyObject*>self.parameter:
            return 0
        if self.exchange == NULL:
            return device_type == DL_CPU and self.read_slowly(<object>tensor, out, dims)
        if self.exchange.read(tensor, out) != 0:
            PyErr_Clear()
            return 0
        return out.device_type == device_type and out.lanes == 1

    cdef int read_slowly(self, object tensor, DLTensor* out, int64_t* dims) except -1:
        cdef int d
        attributes = self.read_attributes(tensor)
        if attributes is None:
            return 0
        out.code, out.bits, address, shape, strides = attributes
        out.data = <void*><uintptr_t>address
        out.device_id = 0
        out.ndim = len(shape)
        if out.ndim > MAX_DIMS:
            return 0
        for d in range(out.ndim):
            dims[d] = shape[d]
            dims[MAX_DIMS + d] = strides[d]
        out.shape = dims
        out.strides = dims + MAX_DIMS
        out.byte_offset = 0
        return 1

    cdef bint is_negated(self, PyObject* tensor) except -1:
        """Ask for lazy negation, which DLPack does not report. Other threads may run meanwhile."""
        return PyObject_CallFunctionObjArgs(self.is_neg, tensor, NULL) is not False

    cdef bint mode_active(self) except -1:
        for fast_check, exact_check in self.mode_checks:
            if fast_check() and (exact_check is None or exact_check()):
                return True
        return False

cdef int dtype_of_tensor(DLTensor* t) noexcept:
    if t.code == DL_FLOAT:
        return FLOAT if t.bits == 32 else DOUBLE if t.bits == 64 else HALF if t.bits == 16 else -1
    return BFLOAT16 if t.code == DL_BFLOAT and t.bits == 16 else -1

cdef bint pair_unchanged(object value, object planned) except -1:
    """Whether a pair of numbers is the planned tuple; a list may have changed in place."""
    if value is planned:
        return True
    return type(value) in (tuple, list) and tuple(value) == planned

cdef bint lr_unchanged(object lr, object planned) except -1:
    """``planned`` is None for anything, the type float for any float, or the lr itself."""
    return planned is None or lr is planned or (planned is float and type(lr) is float)

cdef bint options_unchanged(object group, tuple planned) except -1:
    """Whether bounds and frozen masks are those of the plan; their tensors are read on every step."""
    cdef Py_ssize_t i
    if group.get("bounds") is not planned[6] or group.get("frozen") is not planned[7]:
        return False
    for current, before in <list>planned[8]:
        if len(<list>current) != len(<tuple>before):
            return False
        for i in range(len(<tuple>before)):
            if PyList_GetItem(current, i) != PyTuple_GetItem(before, i):
                return False
    return True

cdef class TorchStep:
    """Steps of one torch optimizer, all groups in one call. Objects are compared by identity with those of the plan;
    addresses and shapes are read on every step."""
    cdef StepTable table
    cdef TorchApi torch
    cdef PlannedParam* params
    cdef StateEntry* entries
    cdef StepCounter* counters
    cdef Py_ssize_t n_params, n_entries, n_counters, param_capacity, entry_capacity, counter_capacity
    cdef list groups           # of each: (number of parameters, etas, step_sizes, maximize, lr, hypers of each dtype,
                               # bounds, frozen, the lists among them, constraints)
    cdef object engine
    cdef int device_type, device_id
    cdef bint torch_rule
    cdef Flag busy

    def __init__(self, TorchApi torch, int isa, bint torch_rule, engine=None, int device_type=DL_CPU):
        """``engine``: see prepare; ``device_type``: of DLPack, where the tensors lie."""
        self.device_type = device_type
        self.table.isa = check_isa(isa)
        self.engine = engine
        self.torch = torch
        self.torch_rule = torch_rule
        self.groups = None

    def __dealloc__(self):
        free_table(&self.table)
        free(self.params)
        free(self.entries)
        free(self.counters)

    def plan(self, state, param_groups, list hypers):
        """Record the objects that make up the optimizer.

        ``hypers`` holds for each group (etas, step_sizes, maximize, lr, rounded, constraints): for ``lr`` see lr_unchanged;
        ``rounded`` has for float32, float64, float16 and bfloat16 a tuple as in add_hyper, or None where that dtype is
        unsupported, and ``constraints`` is None or has None or (lower, upper, frozen) for each parameter, see
        add_option.
        """
        if not take(&self.busy):     # another thread is in the middle of a step and reads the old plan
            return
        try:
            self.make_plan(state, param_groups, hypers)
        finally:
            release(&self.busy)

    cdef int make_plan(self, state, param_groups, list hypers) except -1:
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0
        cdef PlannedParam* planned
        cdef dict index_of = {}
        self.groups = None
        if type(param_groups) is not list:
            return 0
        self.n_entries = self.n_params = 0
        with cython.critical_section(state):
            while PyDict_Next(state, &position, &key, &value):
                check(reserve(&self.entries, &self.entry_capacity, self.n_entries + 1, sizeof(StateEntry)))
                self.entries[self.n_entries].param = key
                self.entries[self.n_entries].state = value
                index_of[<uintptr_t>key] = self.n_entries
                self.n_entries += 1
        groups = []
        for group, (etas, step_sizes, maximize, lr, rounded, constraints) in zip(param_groups, hypers, strict=True):
            for param in group["params"]:
                check(reserve(&self.params, &self.param_capacity, self.n_params + 1, sizeof(PlannedParam)))
                planned = &self.params[self.n_params]
                planned.param = <PyObject*>param
                planned.state_index = index_of.get(<uintptr_t><PyObject*>param, -1)
                memset(planned.checked_data, 0, sizeof(planned.checked_data))
                self.n_params += 1
            bounds, frozen = group.get("bounds"), group.get("frozen")
            lists = [(half, tuple(half)) for half in (*(bounds or ()), frozen) if type(half) is list]
            groups.append((len(group["params"]), tuple(etas), tuple(step_sizes), maximize, lr, rounded, bounds, frozen,
                           lists, constraints))
        self.groups = groups
        return 0

    def __call__(self, int rule, state, param_groups, bytes outcomes, Py_ssize_t threshold, prepare_launch=None,
                 Py_ssize_t n_losses=0, list bests=None, bytes improved=None):
        """Make one step; return a StepStatus. ``outcomes`` is None, or one for each element of the first dimension.

        ``prepare_launch``, where given, makes the step of tensors on a device, all of one dtype: it is called with
        the rows, gradients, hyper-parameters and options of the table as bytes, the dtype and the number of the device,
        and returns None or the function that launches. There ``n_losses`` is the number of outcomes, which lie there.

        ``bests`` is None or has a tensor for each parameter of all groups, to which those with a gradient are copied
        before the step where ``improved``: a byte for all, or one for each element of the first dimension.
        """
        cdef int status
        cdef Py_ssize_t i
        cdef list written, grads
        if not 0 <= rule < N_RULES or (rule == TORCH) != self.torch_rule:
            raise ValueError(f"rule {rule} is not one of this step")
        if type(param_groups) is not list or self.torch.mode_active() or not take(&self.busy):
            return UNSUPPORTED
        try:
            if self.groups is None:
                return REPLAN
            written, grads = [], []        # they keep the tensors alive while the lock is released
            status = self.collect(rule, state, param_groups, outcomes, n_losses, written, grads, bests, improved)
            if status != STEPPED:
                return status
            if not check(is_disjoint(&self.table)):
                return UNSUPPORTED
            launch = None
            if prepare_launch is not None and self.table.n_rows > 0:
                launch = self.make_launch(prepare_launch)
                if launch is None:
                    return UNSUPPORTED
            prepare(&self.table, self.engine)
            get_threads(&self.table, self.torch.threads, threshold)
            if written:
                self.torch.increment_version(written)      # before a byte is written: it may raise
            for i in range(self.n_counters):
                if self.counters[i].bits == 32:
                    (<float*>self.counters[i].data)[0] += 1
                else:
                    (<double*>self.counters[i].data)[0] += 1
            if launch is not None:
                launch()
            elif prepare_launch is None:
                with nogil:
                    run_table(&self.table)
            return STEPPED
        finally:
            release(&self.busy)

    def largest_gradient(self, int rule, state, param_groups, bytes outcomes, Py_ssize_t threshold):
        """Return a StepStatus and, as ArrayStep.largest_gradient, the largest |gradient|; nothing is stepped."""
        cdef int status
        cdef list written = [], grads = []
        if type(param_groups) is not list or self.torch.mode_active() or not take(&self.busy):
            return UNSUPPORTED, None
        try:
            if self.groups is None:
                return REPLAN, None
            status = self.collect(rule, state, param_groups, outcomes, 0, written, grads)
            if status != STEPPED:
                return status, None
            get_threads(&self.table, self.torch.threads, threshold)
            return STEPPED, measure(&self.table, 0 if outcomes is None else len(outcomes))
        finally:
            release(&self.busy)

    cdef object make_launch(self, object prepare_launch):
        """Hand the table over as bytes; None where it is not for one launch."""
        cdef StepTable* table = &self.table
        cdef Py_ssize_t i
        if table.n_layouts > 0:
            return None
        for i in range(table.n_rows):
            if table.rows[i].dtype != table.rows[0].dtype:
                return None
        return prepare_launch(PyBytes_FromStringAndSize(<char*>table.rows, table.n_rows * sizeof(Row)),
                              PyBytes_FromStringAndSize(<char*>table.grads, table.n_rows * sizeof(char*)),
                              PyBytes_FromStringAndSize(<char*>table.hypers, table.n_hypers * N_HYPER * sizeof(double)),
                              PyBytes_FromStringAndSize(<char*>table.extras, table.n_extras * sizeof(Extra)),
                              table.rows[0].dtype, self.device_id)

    cdef int collect(self, int rule, object state, list param_groups, bytes outcomes, Py_ssize_t n_losses,
                     list written, list grads, list bests=None, bytes improved=None) except -1:
        """Fill the table."""
        cdef StepTable* table = &self.table
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, i = 0, count, index
        cdef Py_ssize_t n_groups = len(param_groups)
        cdef Py_ssize_t hyper_index[N_DTYPES]
        cdef int status
        cdef PlannedParam* planned = self.params
        cdef tuple group_plan, rounded, constraints
        cdef list params, groups = self.groups, states = []   # held, since other threads may run and clear everything
        clear_table(table)
        self.n_counters = 0
        self.device_id = -1
        if not isinstance(state, dict):                 # a mapping of the user's own
            return UNSUPPORTED
        if outcomes is not None:
            table.outcomes = <const unsigned char*><const char*>outcomes
            n_losses = len(outcomes)
        if bests is not None and (len(bests) != self.n_params or not set_improved(table, improved, &n_losses)):
            return UNSUPPORTED
        if len(state) != self.n_entries or n_groups != len(groups):
            return REPLAN
        with cython.critical_section(state):
            while PyDict_Next(state, &position, &key, &value):
                if i >= self.n_entries or self.entries[i].param != key or self.entries[i].state != value:
                    return REPLAN
                states.append(<object>value)
                i += 1
        for index in range(n_groups):
            group_plan = <tuple>groups[index]
            group = list_item(param_groups, index)
            listed = group["params"]
            if type(listed) is not list:
                return UNSUPPORTED
            params = <list>listed
            count = <Py_ssize_t>group_plan[0]
            if len(params) != count or group["maximize"] is not group_plan[3] \
                    or not pair_unchanged(group["etas"], group_plan[1]) \
                    or not pair_unchanged(group["step_sizes"], group_plan[2]) \
                    or (group_plan[4] is not None and not lr_unchanged(group["lr"], group_plan[4])):
                return REPLAN
            if not self.torch_rule and not options_unchanged(group, group_plan):
                return REPLAN
            if self.torch_rule and (group["capturable"] is not False or group["differentiable"] is not False):
                return UNSUPPORTED
            rounded, constraints = <tuple>group_plan[5], <tuple>group_plan[9]
            hyper_index[0] = hyper_index[1] = hyper_index[2] = hyper_index[3] = -1
            for i in range(count):
                param = list_item(params, i)
                if <PyObject*>param != planned.param:
                    return REPLAN
                grad = param.grad
                if grad is not None:
                    if planned.state_index < 0:
                        return REPLAN
                    status = self.add(rule, planned, param, grad, list_item(states, planned.state_index),
                                      rounded, hyper_index, n_losses, written,
                                      None if constraints is None else constraints[i],
                                      None if bests is None else <object>PyList_GetItem(bests, planned - self.params))
                    if status != STEPPED:
                        return status
                    grads.append(grad)
                planned += 1
        return STEPPED

    cdef int add(self, int rule, PlannedParam* planned, object param, object grad, object state, tuple rounded,
                 Py_ssize_t* hyper_index, Py_ssize_t n_losses, list written, tuple constraints, object best) except -1:
        """Add one parameter to the table."""
        cdef StepTable* table = &self.table
        cdef TorchApi torch = self.torch
        cdef DLTensor t[N_ARRAYS]
        cdef DLTensor counter
        cdef int64_t dims[N_ARRAYS + 1][2 * MAX_DIMS]
        cdef PyObject* tensors[N_ARRAYS]
        cdef PyObject* step = NULL
        cdef char* data[N_ARRAYS]
        cdef Layout layout
        cdef int64_t itemsize, stride
        cdef int i, d, dtype, arrays = 4 if self.torch_rule else 3
        cdef bint unchecked = True
        if type(state) is not dict:
            return UNSUPPORTED
        tensors[PARAM] = <PyObject*>param
        tensors[GRAD] = <PyObject*>grad
        if self.torch_rule:
            first, second, count = dict_item(state, "prev"), dict_item(state, "step_size"), dict_item(state, "step")
            tensors[STATE], tensors[STATE2], step = <PyObject*>first, <PyObject*>second, <PyObject*>count
            if count is None:
                return REPLAN
            written.append(count)
        else:
            first = dict_item(state, "move")
            tensors[STATE] = <PyObject*>first
        for i in range(arrays):
            if tensors[i] == <PyObject*>None:
                return REPLAN
            if i != GRAD:
                written.append(<object>tensors[i])         # at once: it must outlive the actions of other threads
        # A check for lazy negation costs as much as everything else. A gradient is checked on every step, the lasting
        # tensors where their address has changed; after such a check all are read again.
        if torch.is_negated(<PyObject*>grad):
            return UNSUPPORTED
        while unchecked:
            unchecked = False
            for i in range(arrays):
                if not torch.read_tensor(tensors[i], &t[i], dims[i], self.device_type):
                    return UNSUPPORTED
            for i in range(arrays):
                if i != GRAD and planned.checked_data[i] != t[i].data:
                    planned.checked_data[i] = t[i].data
                    unchecked = True
                    if torch.is_negated(tensors[i]):
                        planned.checked_data[i] = NULL
                        return UNSUPPORTED
        dtype = dtype_of_tensor(&t[PARAM])
        if dtype < 0 or t[PARAM].ndim > MAX_DIMS or dtype_of_tensor(&t[GRAD]) != dtype:
            return UNSUPPORTED
        if self.device_id < 0:
            self.device_id = t[PARAM].device_id
        layout.ndim = t[PARAM].ndim
        for d in range(t[PARAM].ndim):
            layout.shape[d] = t[PARAM].shape[d]
        for i in range(arrays):
            if t[i].device_id != self.device_id:
                return UNSUPPORTED
            if t[i].ndim != layout.ndim or dtype_of_tensor(&t[i]) != (state_dtype_of(dtype, rule) if i > GRAD else dtype):
                return UNSUPPORTED
            itemsize = stride = t[i].bits // 8
            for d in range(t[i].ndim - 1, -1, -1):
                if t[i].shape[d] != layout.shape[d]:
                    return UNSUPPORTED
                layout.strides[i][d] = stride if t[i].strides == NULL else t[i].strides[d] * itemsize
                stride *= layout.shape[d]
            if t[i].data == NULL and stride > 0:
                return UNSUPPORTED
            data[i] = <char*>t[i].data + t[i].byte_offset
        data[LOWER] = data[UPPER] = data[FROZEN] = data[BEST] = NULL
        if constraints is not None:
            for i in range(3):
                tensors[LOWER + i] = PyTuple_GetItem(constraints, i)
                if not self.add_option(LOWER + i, tensors[LOWER + i], dtype, data, &layout):
                    return REPLAN                      # the dtype or shape of the parameter has changed
        if best is not None and not self.add_option(BEST, <PyObject*>best, dtype, data, &layout):
            return UNSUPPORTED
        if self.torch_rule:
            if not torch.read_tensor(step, &counter, dims[4], DL_CPU) or counter.ndim != 0 or counter.code != DL_FLOAT \
                    or counter.bits < 32 or counter.bits > 64 or counter.data == NULL:
                return UNSUPPORTED
            self.add_counter(<char*>counter.data + counter.byte_offset, counter.bits)
        if hyper_index[dtype] < 0:
            if rounded[dtype] is None:
                return UNSUPPORTED
            hyper_index[dtype] = add_hyper(table, rounded[dtype])
        return STEPPED if check(add_row(table, dtype, rule, hyper_index[dtype], n_losses, data, &layout)) else UNSUPPORTED

    cdef bint add_option(self, int j, PyObject* tensor, int dtype, char** data, Layout* layout) except -1:
        """Read an option of a row: None, one number (of shape ()) or a tensor of the row's shape.

        Bounds have the row's dtype; ``frozen`` has torch's bool.
        """
        cdef DLTensor t
        cdef int64_t dims[2 * MAX_DIMS]
        cdef int64_t itemsize, stride
        cdef int d
        if tensor == <PyObject*>None:
            return True
        if not self.torch.read_tensor(tensor, &t, dims, self.device_type):
            return False
        if t.ndim != layout.ndim and (t.ndim != 0 or j == BEST):
            return False
        if t.device_id != self.device_id:
            return False
        if (t.code != DL_BOOL or t.bits != 8) if j == FROZEN else dtype_of_tensor(&t) != dtype:
            return False
        itemsize = stride = t.bits // 8
        for d in range(<int>layout.ndim - 1, -1, -1):
            if t.ndim == 0:
                layout.strides[j][d] = 0
                continue
            if t.shape[d] != layout.shape[d]:
                return False
            layout.strides[j][d] = stride if t.strides == NULL else t.strides[d] * itemsize
            stride *= layout.shape[d]
        data[j] = <char*>t.data + t.byte_offset
        return t.data != NULL or stride == 0

    cdef int add_counter(self, char* data, int bits) except -1:
        check(reserve(&self.counters, &self.counter_capacity, self.n_counters + 1, sizeof(StepCounter)))
        self.counters[self.n_counters].data = data
        self.counters[self.n_counters].bits = bits
        self.n_counters += 1
        return check(add_write(&self.table, data, data + bits // 8))


def source_hash():
    """Return the hash of the sources of this build, as in ``rprop_kernels/install.py``."""
    return source_marker[21:].decode()


def instruction_sets():
    """Return the number of instruction sets in this build (1 or 3) and the index of the best one this machine runs."""
    return RPROP_ISAS, best_isa()
