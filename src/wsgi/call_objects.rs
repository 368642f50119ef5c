//! The Python objects of one call: `start_response`, `write` and `wsgi.input`.
//!
//! A later call uses them again if the application has kept none of them.

use std::sync::Arc;

use pyo3::prelude::*;

use super::input::Input;
use super::response::Response;
use super::start_response::{StartResponse, Write};
use crate::python::native_class::{ClassObject, Held, Owned, Vacant};
use crate::sync::Mutex;

/// The objects of one call. Released attached to their interpreter.
pub struct CallObjects {
    pub start_response: Owned<StartResponse>,
    write: Owned<Write>,
    pub input: Owned<Input>,
    spare: Arc<Spare>,
}

/// The classes of one interpreter, and objects of earlier calls. Released attached to that interpreter.
pub struct CallObjectFactory {
    start_response: ClassObject<StartResponse>,
    write: ClassObject<Write>,
    input: ClassObject<Input>,
    spare: Arc<Spare>,
}

type Spare = Mutex<Vec<(Vacant<StartResponse>, Vacant<Write>, Vacant<Input>)>>;

/// As many calls as usually run at the same time.
const MAX_SPARE: usize = 64;

impl CallObjectFactory {
    /// Creates the classes in the current interpreter.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            start_response: ClassObject::new(py)?,
            write: ClassObject::new(py)?,
            input: ClassObject::new(py)?,
            spare: Arc::default(),
        })
    }

    /// Returns the objects of a call.
    pub fn objects(&self, py: Python<'_>, response: &Response, input: &Input) -> PyResult<CallObjects> {
        let spare = self.spare.lock().pop();
        let start_value = |write: &Owned<Write>| StartResponse {
            response: response.clone(),
            write: Held::new(write.object().clone_ref(py)),
        };
        let (start_response, write, input) = match spare {
            Some((start_response, write, vacant_input)) => {
                let write = write.fill(py, Write(response.clone()));
                (start_response.fill(py, start_value(&write)), write, vacant_input.fill(py, input.clone()))
            }
            None => {
                let write = self.write.instance(py, Write(response.clone()))?;
                let start_response = self.start_response.instance(py, start_value(&write))?;
                (start_response, write, self.input.instance(py, input.clone())?)
            }
        };
        Ok(CallObjects { start_response, write, input, spare: self.spare.clone() })
    }
}

impl CallObjects {
    /// Releases the objects. The application may have kept some.
    pub fn release(self, py: Python<'_>) {
        // In this order: `start_response` refers to `write`.
        if let Some(start_response) = self.start_response.vacate(py)
            && let Some(write) = self.write.vacate(py)
            && let Some(input) = self.input.vacate(py)
        {
            let mut spare = self.spare.lock();
            if spare.len() < MAX_SPARE {
                spare.push((start_response, write, input));
            }
        }
    }
}
