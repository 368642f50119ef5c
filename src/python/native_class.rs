//! Native Python classes and functions that are safe in any interpreter.
//!
//! `#[pyclass]` keeps one static type object for all interpreters of a process. These are heap types, created in each
//! interpreter by `PyType_FromSpec`, whose instances hold one Rust value.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::mem::{offset_of, size_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

/// A Rust type whose values live inside Python objects.
///
/// It holds no Python references, so the objects need no support for garbage collection.
pub trait Class: Sized + Send + Sync + 'static {
    /// Qualified name, `module.Class`.
    const NAME: &'static CStr;
    /// True if the instances are their own iterators, see [`Class::next`].
    const ITERATOR: bool = false;

    /// Returns the methods, terminated by [`Method::END`].
    fn methods() -> &'static [Method];

    /// Implements `__next__`: returns the next item, `None` at the end.
    fn next<'py>(&self, _py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(None)
    }
}

/// The memory of an instance: the object header, then the Rust value.
#[repr(C)]
struct Instance<T> {
    header: ffi::PyObject,
    value: T,
}

/// The heap type of `T` in one interpreter.
pub struct ClassObject<T> {
    type_object: Py<PyType>,
    value: PhantomData<fn() -> T>,
}

impl<T: Class> ClassObject<T> {
    /// Creates the type in the current interpreter.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        let mut slots = vec![
            slot(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void),
            slot(ffi::Py_tp_methods, T::methods().as_ptr().cast_mut().cast()),
        ];
        if T::ITERATOR {
            slots.push(slot(ffi::Py_tp_iter, iter_self as *mut c_void));
            slots.push(slot(ffi::Py_tp_iternext, iter_next::<T> as *mut c_void));
        }
        slots.push(slot(0, ptr::null_mut()));

        let mut spec = ffi::PyType_Spec {
            name: T::NAME.as_ptr(),
            basicsize: size_of::<Instance<T>>() as c_int,
            itemsize: 0,
            flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_IMMUTABLETYPE)
                as _,
            slots: slots.as_mut_ptr(),
        };
        const { assert!(offset_of!(Instance<T>, header) == 0) };
        // SAFETY: the spec and its slots live through the call; the name and the method table are static, as the type
        // keeps pointers to them; basicsize is that of the layout that dealloc and the methods use.
        let type_object = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec))? };
        Ok(Self { type_object: type_object.cast_into::<PyType>()?.unbind(), value: PhantomData })
    }

    /// Creates an instance that owns `value`.
    pub fn instance<'py>(&self, py: Python<'py>, value: T) -> PyResult<Instantiated<'py, T>> {
        let type_object = self.type_object.as_ptr().cast::<ffi::PyTypeObject>();
        // SAFETY: the type was created by `new` for this T and this interpreter; the value is written before other code
        // can see the object.
        unsafe {
            let object = ffi::PyType_GenericAlloc(type_object, 0);
            let object = Bound::from_owned_ptr_or_err(py, object)?;
            ptr::write(&raw mut (*object.as_ptr().cast::<Instance<T>>()).value, value);
            Ok(Instantiated { object, value: PhantomData })
        }
    }
}

/// A Python object known to hold a `T`.
pub struct Instantiated<'py, T> {
    object: Bound<'py, PyAny>,
    value: PhantomData<fn() -> T>,
}

impl<'py, T: Class> Instantiated<'py, T> {
    /// Returns the object.
    pub fn into_object(self) -> Bound<'py, PyAny> {
        self.object
    }

    /// Creates a built-in function object that calls `method` on this instance.
    pub fn bound_method(&self, method: &'static BoundMethod<T>) -> PyResult<Bound<'py, PyAny>> {
        new_function(self.object.py(), &method.method, Some(&self.object))
    }
}

/// A method that is not in the table of its class, but passed on as a function bound to one instance.
pub struct BoundMethod<T> {
    method: Method,
    class: PhantomData<fn() -> T>,
}

impl<T: Class> BoundMethod<T> {
    /// Creates a method as [`Method::of`] does.
    pub const fn of<F: MethodBody<T>>(name: &'static CStr, body: F) -> Self {
        Self { method: Method::of(name, body), class: PhantomData }
    }

    /// Creates a function object of this method, from within another method of the same instance.
    pub fn bind<'py>(&'static self, arguments: &Arguments<'_, 'py, T>) -> PyResult<Bound<'py, PyAny>> {
        new_function(arguments.py, &self.method, Some(&arguments.receiver.to_owned()))
    }
}

/// The code of a method: a `fn` item or a closure without captures.
pub trait MethodBody<T>:
    for<'a, 'py> Fn(&'a T, &'a Arguments<'a, 'py, T>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

impl<T, F> MethodBody<T> for F where
    F: for<'a, 'py> Fn(&'a T, &'a Arguments<'a, 'py, T>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

/// The code of a free function: a `fn` item or a closure without captures.
pub trait FunctionBody:
    for<'a, 'py> Fn(&'a Arguments<'a, 'py, ()>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

impl<F> FunctionBody for F where
    F: for<'a, 'py> Fn(&'a Arguments<'a, 'py, ()>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

/// One entry of a method table.
#[repr(transparent)]
pub struct Method(ffi::PyMethodDef);

// SAFETY: the entry is immutable; its pointers are to static text and code.
unsafe impl Sync for Method {}

impl Method {
    /// The end of a table.
    pub const END: Self = Self(ffi::PyMethodDef::zeroed());

    /// Creates a method `name` of class `T` that runs `body`.
    pub const fn of<T: Class, F: MethodBody<T>>(name: &'static CStr, body: F) -> Self {
        const { assert!(size_of::<F>() == 0, "a method body captures nothing") };
        let _ = body;
        Self::entry(name, method_trampoline::<T, F>)
    }

    /// Creates a free function `name` that runs `body`.
    pub const fn function<F: FunctionBody>(name: &'static CStr, body: F) -> Self {
        const { assert!(size_of::<F>() == 0, "a function body captures nothing") };
        let _ = body;
        Self::entry(name, function_trampoline::<F>)
    }

    const fn entry(name: &'static CStr, code: ffi::PyCFunctionFastWithKeywords) -> Self {
        Self(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: code },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: ptr::null(),
        })
    }
}

/// Creates a function object for an entry created by [`Method::function`].
pub fn function<'py>(py: Python<'py>, method: &'static Method) -> PyResult<Bound<'py, PyAny>> {
    new_function(py, method, None)
}

fn new_function<'py>(
    py: Python<'py>,
    method: &'static Method,
    receiver: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let definition = (&raw const method.0).cast_mut();
    let receiver = receiver.map_or(ptr::null_mut(), |object| object.as_ptr());
    // SAFETY: the definition is static and never written to; the receiver is alive and referenced by the new object.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyCFunction_NewEx(definition, receiver, ptr::null_mut())) }
}

/// The arguments of one call, borrowed from the caller.
pub struct Arguments<'a, 'py, T> {
    /// The token of the calling thread.
    pub py: Python<'py>,
    receiver: Borrowed<'a, 'py, PyAny>,
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    names: Option<Borrowed<'a, 'py, PyTuple>>,
    class: PhantomData<fn() -> T>,
}

impl<'a, 'py, T> Arguments<'a, 'py, T> {
    /// Assigns the arguments to the parameters `names`, of which the first `required` are mandatory.
    ///
    /// # Errors
    /// `TypeError`, worded as by CPython, for missing, surplus, repeated and unknown arguments.
    pub fn bind<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> PyResult<[Option<Borrowed<'a, 'py, PyAny>>; N]> {
        let mut bound = [const { None }; N];
        if self.positional > N {
            let message = format!("{function}() takes at most {N} arguments ({} given)", self.positional);
            return Err(PyTypeError::new_err(message));
        }
        for (index, target) in bound.iter_mut().enumerate().take(self.positional) {
            *target = Some(self.value(index));
        }
        if let Some(keywords) = self.names {
            for (index, keyword) in keywords.iter().enumerate() {
                let keyword = keyword.cast::<PyString>()?.to_str()?.to_owned();
                let Some(parameter) = names.iter().position(|name| *name == keyword) else {
                    let message = format!("{function}() got an unexpected keyword argument '{keyword}'");
                    return Err(PyTypeError::new_err(message));
                };
                if bound[parameter].is_some() {
                    let message = format!("{function}() got multiple values for argument '{keyword}'");
                    return Err(PyTypeError::new_err(message));
                }
                bound[parameter] = Some(self.value(self.positional + index));
            }
        }
        if let Some(missing) = (0..required).find(|index| bound[*index].is_none()) {
            let message = format!("{function}() missing required argument '{}' (pos {})", names[missing], missing + 1);
            return Err(PyTypeError::new_err(message));
        }
        Ok(bound)
    }

    fn value(&self, index: usize) -> Borrowed<'a, 'py, PyAny> {
        // SAFETY: the vectorcall protocol keeps every argument alive for the call.
        unsafe { Borrowed::from_ptr(self.py, self.values[index]) }
    }
}

fn slot(slot: c_int, pfunc: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot { slot, pfunc }
}

/// Runs `body` attached, and converts its error or panic to a Python exception.
fn guarded<R>(error_value: R, body: impl for<'py> FnOnce(Python<'py>) -> PyResult<R>) -> R {
    // The caller holds the GIL already. Attaching again informs pyo3, also on threads that the application has started.
    Python::attach(|py| match catch_unwind(AssertUnwindSafe(|| body(py))) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            error.restore(py);
            error_value
        }
        Err(panic) => {
            let message = format!("internal error of the WSGI module: {}", panic_text(&*panic));
            PyRuntimeError::new_err(message).restore(py);
            error_value
        }
    })
}

/// Returns the message of a caught panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

/// Returns the only value of a zero-sized `fn` item or closure type.
fn zst_fn<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: a value of this type was given to `Method::of` or `Method::function`, it is Copy and has no bytes.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Wraps the arguments that CPython passes to a function.
///
/// # Safety
/// They must follow the vectorcall protocol of `METH_FASTCALL | METH_KEYWORDS`.
unsafe fn call_arguments<'a, 'py, T>(
    py: Python<'py>,
    receiver: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Arguments<'a, 'py, T> {
    // SAFETY: by the protocol `names` is null or a tuple, and `values` holds the positional arguments, then one value
    // per name. The receiver of a free function is null; None stands for it and is not used.
    unsafe {
        let names = (!names.is_null()).then(|| Borrowed::from_ptr(py, names).cast_unchecked::<PyTuple>());
        let positional = positional as usize;
        let total = positional + names.map_or(0, |names| names.len());
        let values = if total == 0 { &[] } else { std::slice::from_raw_parts(values, total) };
        let receiver = if receiver.is_null() { ffi::Py_None() } else { receiver };
        let receiver = Borrowed::from_ptr(py, receiver);
        Arguments { py, receiver, values, positional, names, class: PhantomData }
    }
}

unsafe extern "C" fn method_trampoline<T: Class, F: MethodBody<T>>(
    receiver: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| {
        // SAFETY: a method descriptor has checked the type of its receiver, and a bound method was created from an
        // instance of T; the rest is the vectorcall protocol.
        let (value, arguments) = unsafe {
            let value = &(*receiver.cast::<Instance<T>>()).value;
            (value, call_arguments::<T>(py, receiver, values, positional, names))
        };
        zst_fn::<F>()(value, &arguments).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn function_trampoline<F: FunctionBody>(
    receiver: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| {
        // SAFETY: called by CPython with the vectorcall protocol.
        let arguments = unsafe { call_arguments::<()>(py, receiver, values, positional, names) };
        zst_fn::<F>()(&arguments).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn iter_self(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: CPython passes a live object; tp_iter returns a new reference.
    unsafe {
        ffi::Py_INCREF(object);
        object
    }
}

unsafe extern "C" fn iter_next<T: Class>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| {
        // SAFETY: only the type of `Instance<T>` has the slot.
        let value = unsafe { &(*object.cast::<Instance<T>>()).value };
        // Null without an exception is the end of the iteration.
        Ok(value.next(py)?.map_or(ptr::null_mut(), Bound::into_ptr))
    })
}

unsafe extern "C" fn dealloc<T: Class>(object: *mut ffi::PyObject) {
    // SAFETY: the reference count is zero, so there is no other user of the value; an instance of a heap type owns a
    // reference to its type, released last.
    unsafe {
        let type_object = ffi::Py_TYPE(object);
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            ptr::drop_in_place(&raw mut (*object.cast::<Instance<T>>()).value);
        }));
        drop(dropped);
        let free = ffi::PyType_GetSlot(type_object, ffi::Py_tp_free);
        let free = std::mem::transmute::<*mut c_void, ffi::freefunc>(free);
        free(object.cast());
        ffi::Py_DECREF(type_object.cast());
    }
}
