/* Protection where Python threads run at the same time: a flag that one of them takes, and items with references of
 * their own. With the global lock both cost what they did without. */
#ifndef RPROP_FREE_THREADS_H
#define RPROP_FREE_THREADS_H

#include <Python.h>

#if defined(_MSC_VER)
#include <intrin.h>
typedef long Flag;
static int take(Flag *flag) { return _InterlockedExchange(flag, 1) == 0; }
static void release(Flag *flag) { _InterlockedExchange(flag, 0); }
#else
typedef int Flag;
static int take(Flag *flag) { return __atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0; }
static void release(Flag *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
#endif

/* An item of a list; NULL and an IndexError where another thread has shortened it. */
static PyObject *list_item(PyObject *list, Py_ssize_t i)
{
#ifdef Py_GIL_DISABLED
    return PyList_GetItemRef(list, i);
#else
    PyObject *item = PyList_GetItem(list, i);
    Py_XINCREF(item);
    return item;
#endif
}

/* A value of a dict; None where it is missing. */
static PyObject *dict_item(PyObject *dict, PyObject *key)
{
    PyObject *item;
#ifdef Py_GIL_DISABLED
    if (PyDict_GetItemRef(dict, key, &item) < 0)
        return NULL;
#else
    item = PyDict_GetItemWithError(dict, key);
    if (item == NULL && PyErr_Occurred())
        return NULL;
    Py_XINCREF(item);
#endif
    if (item == NULL) {
        item = Py_None;
        Py_INCREF(item);
    }
    return item;
}

#endif
