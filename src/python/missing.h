/* CPython's functions that pyo3-ffi does not declare; build.rs makes bindings of those it names. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
