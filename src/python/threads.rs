//! The interpreters of a process, and the threads that belong to them.
//!
//! One rule makes pyo3 sound beside sub-interpreters: **a thread belongs to one interpreter for its whole life, and the
//! first thread state that it keeps is of that interpreter.** pyo3 attaches by `PyGILState_Ensure`, which uses the
//! thread's first thread state (until Python 3.11) or its last one; by the rule both are of that interpreter. Otherwise
//! the thread would run in the wrong interpreter, or wait for the lock that it holds itself.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::LazyLock;

use pyo3::ffi;
use pyo3::prelude::*;
use thiserror::Error;

use crate::sync::Mutex;

/// The global interpreter lock of an interpreter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gil {
    /// The lock of the main interpreter: of all interpreters that share it, one runs at a time.
    #[default]
    Shared,
    /// A lock of its own (Python 3.12 and later, PEP 684): the interpreter runs in parallel to others.
    Own,
}

impl Gil {
    /// True if this module's Python supports interpreters with a lock of their own.
    pub const CAN_BE_OWN: bool = cfg!(Py_3_12);

    /// True if a thread that waits for a shared lock can request it from threads of all interpreters. Before Python
    /// 3.13, only threads of its own interpreter release it on request; a thread of another one keeps it until it
    /// blocks.
    pub const IS_FAIR: bool = cfg!(Py_3_13);
}

/// The reason why a sub-interpreter could not be created.
#[derive(Debug, Error)]
pub enum CreateError {
    #[cfg(not(Py_3_12))]
    #[error("an interpreter with a GIL of its own needs Python 3.12 or later")]
    OwnGilUnsupported,
    #[cfg(not(Py_3_12))]
    #[error("Python cannot create an interpreter")]
    Failed,
    #[cfg(Py_3_12)]
    #[error("Python cannot create an interpreter: {0}")]
    Status(#[from] super::runtime::StatusError),
}

/// A handle to the main interpreter or a sub-interpreter, for threads to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterpreterHandle(Option<NonNull<ffi::PyInterpreterState>>);

// SAFETY: the pointer is never dereferenced here, only passed to functions of CPython that take their own locks.
unsafe impl Send for InterpreterHandle {}
// SAFETY: as above.
unsafe impl Sync for InterpreterHandle {}

impl InterpreterHandle {
    /// The main interpreter.
    pub const MAIN: Self = Self(None);

    /// Binds the calling thread to this interpreter for its whole life. It must not have used another one.
    pub fn attach_thread(self) -> AttachedThread {
        // SAFETY: the interpreter has not been ended, as `end` requires that no handle is left. The new state is not
        // current.
        let state = self.0.map(|interpreter| unsafe { new_state(interpreter.as_ptr()) });
        AttachedThread { handle: self, state, is_creator: false, not_send: PhantomData }
    }
}

/// Creates a thread state of the calling thread, which is not current.
///
/// # Safety
/// The interpreter is alive.
unsafe fn new_state(interpreter: *mut ffi::PyInterpreterState) -> NonNull<ffi::PyThreadState> {
    // SAFETY: by the caller's promise.
    let state = unsafe { ffi::PyThreadState_New(interpreter) };
    // Out of memory aborts, as in Rust's global allocator.
    NonNull::new(state).expect("memory for a thread state")
}

/// Creates an interpreter, whose first thread state becomes current. On an error the old state stays current.
///
/// # Safety
/// The thread is attached to the main interpreter.
#[cfg(Py_3_12)]
unsafe fn new_interpreter(gil: Gil) -> Result<*mut ffi::PyThreadState, CreateError> {
    let config = match gil {
        Gil::Shared => ffi::_PyInterpreterConfig_LEGACY_INIT,
        // The default forbids daemon threads, which could outlive the interpreter. Ours are not ended while they have
        // threads.
        Gil::Own => ffi::PyInterpreterConfig { allow_daemon_threads: 1, ..ffi::_PyInterpreterConfig_INIT },
    };
    let mut state = std::ptr::null_mut();
    // SAFETY: attached, by the caller's promise; both pointers are to live variables.
    let status = unsafe { ffi::Py_NewInterpreterFromConfig(&mut state, &config) };
    super::runtime::check(status)?;
    Ok(state)
}

/// Creates an interpreter, whose first thread state becomes current. On an error the old state stays current.
///
/// # Safety
/// The thread is attached to the main interpreter.
#[cfg(not(Py_3_12))]
unsafe fn new_interpreter(gil: Gil) -> Result<*mut ffi::PyThreadState, CreateError> {
    if gil == Gil::Own {
        return Err(CreateError::OwnGilUnsupported);
    }
    // SAFETY: attached, by the caller's promise.
    let state = unsafe { ffi::Py_NewInterpreter() };
    if state.is_null() { Err(CreateError::Failed) } else { Ok(state) }
}

/// Deletes the current thread state, which leaves the thread detached.
///
/// # Safety
/// `state` is current on this thread, and there is no other user of it.
unsafe fn delete_current(state: *mut ffi::PyThreadState) {
    // SAFETY: by the caller's promise.
    unsafe {
        ffi::PyThreadState_Clear(state);
        ffi::PyThreadState_DeleteCurrent();
    }
}

/// The binding of a thread to its interpreter. Keeps the thread state, and with it the values of `threading.local`.
pub struct AttachedThread {
    handle: InterpreterHandle,
    /// `None` in the main interpreter: pyo3 and extension modules create the thread's state there themselves, and would
    /// conflict with a second one.
    state: Option<NonNull<ffi::PyThreadState>>,
    /// True if the interpreter was created on this thread. Its state is kept then: Python 3.11 aborts when an
    /// interpreter without thread states gets a new one.
    is_creator: bool,
    /// Not `Send`.
    not_send: PhantomData<*mut ()>,
}

impl AttachedThread {
    /// Creates a sub-interpreter, and binds the calling thread to it, which must not have used Python before.
    ///
    /// Python must have been initialised.
    ///
    /// # Errors
    /// If Python cannot create it.
    pub fn create(gil: Gil) -> Result<Self, CreateError> {
        // CPython does not guarantee that interpreters can be created at the same time.
        static CREATION: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
        let _guard = CREATION.lock();
        // SAFETY: Python is initialised. The thread has no thread state; it gets one of the main interpreter, which is
        // needed to create another one. Before 3.12 pyo3 would always find that state, and never the one that comes
        // with the new interpreter. So both are deleted: each while it is current, or after its interpreter has another
        // one.
        unsafe {
            let outer = new_state(ffi::PyInterpreterState_Main()).as_ptr();
            ffi::PyEval_RestoreThread(outer);
            let first = new_interpreter(gil);
            if first.is_ok() {
                ffi::PyEval_SaveThread();
                ffi::PyEval_RestoreThread(outer);
            }
            delete_current(outer);
            let first = first?;
            let interpreter = ffi::PyThreadState_GetInterpreter(first);
            let state = new_state(interpreter);
            ffi::PyEval_RestoreThread(state.as_ptr());
            ffi::PyThreadState_Clear(first);
            ffi::PyThreadState_Delete(first);
            ffi::PyEval_SaveThread();
            let handle = InterpreterHandle(NonNull::new(interpreter));
            Ok(Self { handle, state: Some(state), is_creator: true, not_send: PhantomData })
        }
    }

    /// Returns the handle of the interpreter, for other threads.
    pub fn handle(&self) -> InterpreterHandle {
        self.handle
    }

    /// Runs `body` attached.
    ///
    /// In the main interpreter, a thread other than Python's main thread gets a new thread state each time.
    pub fn attach<R>(&mut self, body: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
        struct Detach;
        impl Drop for Detach {
            fn drop(&mut self) {
                // SAFETY: attached below; `body` leaves the thread attached.
                unsafe { ffi::PyEval_SaveThread() };
            }
        }

        let Some(state) = self.state else { return Python::attach(body) };
        // SAFETY: the state belongs to this thread and is not current, as `body` cannot borrow this value a second
        // time.
        unsafe { ffi::PyEval_RestoreThread(state.as_ptr()) };
        let _detach = Detach;
        // Finds the current thread state, and informs pyo3.
        Python::attach(body)
    }

    /// Ends the interpreter: its modules and objects are gone when this returns. Release all references of Rust code
    /// and all other handles before.
    ///
    /// # Errors
    /// The number of threads that are still in it, ours or the application's. The interpreter then stays in memory, as
    /// ending it would abort the process.
    pub fn end(mut self) -> Result<(), usize> {
        let Some(state) = self.state else { return Err(1) };
        // SAFETY: as in `attach`; while the interpreter's lock is held, none of its threads can start another.
        unsafe {
            ffi::PyEval_RestoreThread(state.as_ptr());
            let others = thread_states(ffi::PyThreadState_GetInterpreter(state.as_ptr())) - 1;
            if others > 0 {
                ffi::PyEval_SaveThread();
                return Err(others);
            }
            self.state = None;
            end_interpreter(state.as_ptr());
        }
        Ok(())
    }
}

/// Returns the number of thread states of an interpreter.
///
/// # Safety
/// The calling thread is attached to it.
unsafe fn thread_states(interpreter: *mut ffi::PyInterpreterState) -> usize {
    let mut count = 0;
    // SAFETY: only attached threads add and remove states, and no other is attached meanwhile.
    unsafe {
        let mut state = ffi::PyInterpreterState_ThreadHead(interpreter);
        while !state.is_null() {
            count += 1;
            state = ffi::PyThreadState_Next(state);
        }
    }
    count
}

/// Ends the interpreter of `state` and leaves the thread without an interpreter.
///
/// # Safety
/// `state` is current, and the only state of its interpreter.
unsafe fn end_interpreter(state: *mut ffi::PyThreadState) {
    // SAFETY: by the caller's promise. Before 3.12 the lock is still held afterwards, without a thread state. A state
    // of the main interpreter releases it.
    unsafe {
        #[cfg(not(Py_3_12))]
        let outer = ffi::PyThreadState_New(ffi::PyInterpreterState_Main());
        ffi::Py_EndInterpreter(state);
        #[cfg(not(Py_3_12))]
        {
            ffi::PyThreadState_Swap(outer);
            delete_current(outer);
        }
    }
}

impl Drop for AttachedThread {
    fn drop(&mut self) {
        if let Some(state) = self.state
            && !self.is_creator
        {
            // SAFETY: the state belongs to this thread and is not current.
            unsafe {
                ffi::PyEval_RestoreThread(state.as_ptr());
                delete_current(state.as_ptr());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::interpreter::{Interpreter, Preparation};
    use crate::python::runtime::start_for_tests;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    const GILS: &[Gil] = if Gil::CAN_BE_OWN { &[Gil::Shared, Gil::Own] } else { &[Gil::Shared] };

    /// Returns the ID of the interpreter that this thread is attached to.
    fn number(_: Python<'_>) -> i64 {
        // SAFETY: attached.
        unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) }
    }

    /// Runs `body` on a new thread, which has never used Python.
    fn elsewhere<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
        thread::spawn(body).join().unwrap()
    }

    /// Uses pyo3 in ways that attach again, and checks that the thread stays in its interpreter. Returns the ID of
    /// that.
    fn stays(py: Python<'_>) -> i64 {
        // Creates, normalises and prints an exception, and releases an object: each attaches again.
        let error = py.import("no_such_module").unwrap_err();
        assert!(error.to_string().contains("no_such_module"));
        let inner = py.detach(|| Python::attach(number));
        drop(py.import("sys").unwrap().unbind());
        assert_eq!((number(py), Python::attach(number)), (inner, inner));
        inner
    }

    #[test]
    fn a_thread_stays_in_its_interpreter_whatever_pyo3_does() {
        start_for_tests();
        for gil in GILS {
            elsewhere(|| {
                let mut creator = AttachedThread::create(*gil).unwrap();
                let here = creator.attach(stays);
                assert_ne!(here, 0, "the main interpreter");
                let handle = creator.handle();
                let numbers = elsewhere(move || {
                    let mut attached = handle.attach_thread();
                    [attached.attach(stays), attached.attach(stays)]
                });
                assert_eq!(numbers, [here, here]);
                assert_eq!(creator.attach(stays), here);
                assert_eq!(elsewhere(|| InterpreterHandle::MAIN.attach_thread().attach(stays)), 0);
                assert_eq!(creator.end(), Ok(()));
            });
        }
    }

    #[test]
    fn interpreters_are_prepared_and_ended_while_others_run() {
        start_for_tests();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let busy = thread::spawn(move || {
            InterpreterHandle::MAIN.attach_thread().attach(|py| {
                let mut rounds = 0;
                while !py.detach(|| stopped.load(Ordering::Relaxed)) {
                    py.run(c"sum(range(1000))", None, None).unwrap();
                    rounds += 1;
                }
                rounds
            })
        });
        for gil in GILS.iter().cycle().take(6) {
            elsewhere(|| {
                let mut attached = AttachedThread::create(*gil).unwrap();
                attached.attach(|py| {
                    let preparation = Preparation { path: &[], facts: &[], environment: Some(&Vec::new()) };
                    let interpreter = Interpreter::prepare(py, &preparation).map_err(|e| e.display(py)).unwrap();
                    py.run(c"import threading as t\nassert t.current_thread() is t.main_thread()", None, None).unwrap();
                    interpreter.shut_down(py, std::time::Duration::from_secs(5));
                });
                attached.end().unwrap();
            });
        }
        stop.store(true, Ordering::Relaxed);
        assert!(busy.join().unwrap() > 0);
    }

    #[test]
    fn an_interpreter_with_other_threads_is_not_ended() {
        start_for_tests();
        for gil in GILS {
            elsewhere(|| {
                let creator = AttachedThread::create(*gil).unwrap();
                let handle = creator.handle();
                let (leave, left) = mpsc::channel::<()>();
                let (enter, entered) = mpsc::channel();
                let other = thread::spawn(move || {
                    let mut attached = handle.attach_thread();
                    attached.attach(|_| enter.send(()).unwrap());
                    left.recv().unwrap();
                });
                entered.recv().unwrap();
                assert_eq!(creator.end(), Err(1));
                leave.send(()).unwrap();
                other.join().unwrap();
            });
        }
    }
}
