//! Native Python classes and functions that are safe in any interpreter.
//!
//! `#[pyclass]` keeps one static type object for all interpreters of a process. These are heap types, created in each
//! interpreter by `PyType_FromSpec`, whose instances hold one Rust value.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, offset_of, size_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

/// A Rust type whose values live inside Python objects.
///
/// It holds no Python references that could be part of a cycle, so the objects need no support for garbage collection.
pub trait Class: Sized + Send + Sync + 'static {
    /// Qualified name, `module.Class`.
    const NAME: &'static CStr;
    /// True if the instances are their own iterators, see [`Class::next`].
    const ITERATOR: bool = false;
    /// True if the instances can be called, see [`Class::call`].
    const CALLABLE: bool = false;

    /// Returns the methods, terminated by [`Method::END`].
    fn methods() -> &'static [Method] {
        &[const { Method::END }]
    }

    /// Implements `__next__`: returns the next item, `None` at the end.
    fn next<'py>(&self, _py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(None)
    }

    /// Implements `__call__`.
    fn call<'py>(&self, arguments: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(arguments.py.None().into_bound(arguments.py))
    }
}

/// The memory of an instance.
#[repr(C)]
struct Instance<T> {
    header: ffi::PyObject,
    /// The function that CPython calls for a call of a [`Class::CALLABLE`], see `__vectorcalloffset__`.
    vectorcall: Option<ffi::vectorcallfunc>,
    /// `None` in an object that waits to be used again.
    value: Option<T>,
}

impl<T> Instance<T> {
    /// Returns the value of an object that code of an application refers to, which therefore has one.
    ///
    /// # Safety
    /// The object is an instance of this class, and lives as long as the result is used.
    unsafe fn value<'a>(object: *mut ffi::PyObject) -> &'a T {
        // SAFETY: as promised by the caller. The value changes only while nothing else refers to the object.
        let value = unsafe { &(*object.cast::<Self>()).value };
        value.as_ref().expect("an object with other references has a value")
    }
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
        let mut flags =
            ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_IMMUTABLETYPE;
        if T::CALLABLE {
            slots.push(slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void));
            slots.push(slot(ffi::Py_tp_members, VECTORCALL_OFFSET.0.as_ptr().cast_mut().cast()));
            flags |= ffi::Py_TPFLAGS_HAVE_VECTORCALL;
        }
        slots.push(slot(0, ptr::null_mut()));

        let mut spec = ffi::PyType_Spec {
            name: T::NAME.as_ptr(),
            basicsize: size_of::<Instance<T>>() as c_int,
            itemsize: 0,
            flags: flags as _,
            slots: slots.as_mut_ptr(),
        };
        const {
            assert!(offset_of!(Instance<T>, header) == 0);
            assert!(offset_of!(Instance<T>, vectorcall) == offset_of!(Instance<()>, vectorcall));
        }
        // SAFETY: the spec and its slots live through the call; the name and the tables are static, as the type keeps
        // pointers to them; basicsize is that of the layout that dealloc and the methods use.
        let type_object = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec))? };
        Ok(Self { type_object: type_object.cast_into::<PyType>()?.unbind(), value: PhantomData })
    }

    /// Creates an instance that owns `value`.
    pub fn instance(&self, py: Python<'_>, value: T) -> PyResult<Owned<T>> {
        let type_object = self.type_object.as_ptr().cast::<ffi::PyTypeObject>();
        // SAFETY: the type was created by `new` for this T and this interpreter; all fields are written before other code
        // can see the object.
        unsafe {
            let object = ffi::PyType_GenericAlloc(type_object, 0);
            let object = Bound::from_owned_ptr_or_err(py, object)?;
            let instance = object.as_ptr().cast::<Instance<T>>();
            ptr::write(&raw mut (*instance).vectorcall, T::CALLABLE.then_some(vectorcall::<T>));
            ptr::write(&raw mut (*instance).value, Some(value));
            Ok(Owned { object: object.unbind(), value: PhantomData })
        }
    }
}

/// A reference that the value of an object holds. CPython may release the object on a thread that pyo3 does not know to be
/// attached, one of the application, where `Py` must not be dropped.
pub struct Held(ManuallyDrop<Py<PyAny>>);

impl Held {
    /// Creates a reference for a value that is dropped attached: in an object of a [`Class`].
    pub fn new(object: Py<PyAny>) -> Self {
        Self(ManuallyDrop::new(object))
    }

    /// Returns the object.
    pub fn bind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.0.bind(py)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: a reference of its own, released once. The thread is attached: it deallocates the object, or it has not
        // given the value to an object yet.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) };
    }
}

/// A reference to an object that holds a `T`.
pub struct Owned<T> {
    object: Py<PyAny>,
    value: PhantomData<fn() -> T>,
}

/// The only reference to an object that holds no value: it waits to be used again.
pub struct Vacant<T>(Owned<T>);

impl<T: Class> Owned<T> {
    /// Returns the object.
    pub fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    /// Drops the value if this is the only reference to the object. Otherwise only the reference is dropped.
    pub fn vacate(self, _py: Python<'_>) -> Option<Vacant<T>> {
        // SAFETY: a live object, and this thread is attached.
        if unsafe { ffi::Py_REFCNT(self.object.as_ptr()) } != 1 {
            return None;
        }
        // SAFETY: an instance of T by the rule of the type. This thread is attached and has the only reference, and the
        // garbage collector, which does not track the object, finds no other.
        let value = unsafe { (*self.object.as_ptr().cast::<Instance<T>>()).value.take() };
        drop(value);
        Some(Vacant(self))
    }
}

impl<T: Class> Vacant<T> {
    /// Sets the value of the object.
    pub fn fill(self, _py: Python<'_>, value: T) -> Owned<T> {
        // SAFETY: as in `vacate`: this is still the only reference.
        unsafe { (*self.0.object.as_ptr().cast::<Instance<T>>()).value = Some(value) };
        self.0
    }
}

/// The entry that tells CPython where an instance has its function for calls (PEP 590).
struct VectorcallOffset([ffi::PyMemberDef; 2]);

// SAFETY: the entries are immutable; their pointers are to static text.
unsafe impl Sync for VectorcallOffset {}

static VECTORCALL_OFFSET: VectorcallOffset = VectorcallOffset([
    ffi::PyMemberDef {
        name: c"__vectorcalloffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset_of!(Instance<()>, vectorcall) as ffi::Py_ssize_t,
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    },
    ffi::PyMemberDef { name: ptr::null(), type_code: 0, offset: 0, flags: 0, doc: ptr::null() },
]);

/// The code of a method: a `fn` item or a closure without captures.
pub trait MethodBody<T>:
    for<'a, 'py> Fn(&'a T, &'a Arguments<'a, 'py>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

impl<T, F> MethodBody<T> for F where
    F: for<'a, 'py> Fn(&'a T, &'a Arguments<'a, 'py>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

/// The code of a free function: a `fn` item or a closure without captures.
pub trait FunctionBody:
    for<'a, 'py> Fn(&'a Arguments<'a, 'py>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
{
}

impl<F> FunctionBody for F where
    F: for<'a, 'py> Fn(&'a Arguments<'a, 'py>) -> PyResult<Bound<'py, PyAny>> + Copy + 'static
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
    let definition = (&raw const method.0).cast_mut();
    // SAFETY: the definition is static and never written to.
    unsafe {
        let function = ffi::PyCFunction_NewEx(definition, ptr::null_mut(), ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, function)
    }
}

/// The arguments of one call, borrowed from the caller.
pub struct Arguments<'a, 'py> {
    /// The token of the calling thread.
    pub py: Python<'py>,
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    names: Option<Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Arguments<'a, 'py> {
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
/// They must follow the vectorcall protocol (PEP 590), with `positional` as a plain number.
unsafe fn call_arguments<'a, 'py>(
    py: Python<'py>,
    values: *const *mut ffi::PyObject,
    positional: usize,
    names: *mut ffi::PyObject,
) -> Arguments<'a, 'py> {
    // SAFETY: by the protocol `names` is null or a tuple, and `values` holds the positional arguments, then one value
    // per name.
    unsafe {
        let names = (!names.is_null()).then(|| Borrowed::from_ptr(py, names).cast_unchecked::<PyTuple>());
        let total = positional + names.map_or(0, |names| names.len());
        let values = if total == 0 { &[] } else { std::slice::from_raw_parts(values, total) };
        Arguments { py, values, positional, names }
    }
}

unsafe extern "C" fn method_trampoline<T: Class, F: MethodBody<T>>(
    receiver: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| {
        // SAFETY: a method descriptor has checked the type of its receiver; the rest is the vectorcall protocol.
        let (value, arguments) =
            unsafe { (Instance::<T>::value(receiver), call_arguments(py, values, positional as usize, names)) };
        zst_fn::<F>()(value, &arguments).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn function_trampoline<F: FunctionBody>(
    _receiver: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| {
        // SAFETY: called by CPython with the vectorcall protocol.
        let arguments = unsafe { call_arguments(py, values, positional as usize, names) };
        zst_fn::<F>()(&arguments).map(Bound::into_ptr)
    })
}

unsafe extern "C" fn vectorcall<T: Class>(
    callable: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional_and_flag: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| {
        // SAFETY: only instances of T have this function; the rest is the vectorcall protocol.
        let (value, arguments) = unsafe {
            let positional = ffi::PyVectorcall_NARGS(positional_and_flag) as usize;
            (Instance::<T>::value(callable), call_arguments(py, values, positional, names))
        };
        value.call(&arguments).map(Bound::into_ptr)
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
        let value = unsafe { Instance::<T>::value(object) };
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
