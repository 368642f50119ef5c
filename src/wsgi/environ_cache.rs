//! Environs of earlier requests, for the next request with the same keys.
//!
//! A client usually sends the same headers with each request of a connection, and many clients send headers of the same
//! names. A copy of the earlier environ then needs only the values that differ.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::params::CgiParams;
use crate::python::text::latin1;
use crate::sync::Mutex;

/// A bounded cache of environs by connection. Released attached to the interpreter of its objects.
pub struct EnvironCache {
    slots: Mutex<Box<[Slot]>>,
}

/// Several connections share a slot, and find the same environ if they send the same headers.
#[derive(Default)]
struct Slot {
    known: Option<Arc<Known>>,
    /// Number of requests that did not find their environ, since one did.
    misses: usize,
}

/// The environ of an earlier request.
struct Known {
    params: CgiParams,
    environ: Py<PyDict>,
    keys: EnvironKeys,
}

/// The keys of environ by the keys of the parameters.
pub enum EnvironKeys {
    /// One for each parameter, `None` if a later parameter overrides it.
    OneEach(Vec<Option<Py<PyString>>>),
    /// Headers are joined, so a value of environ may be that of several parameters.
    Joined,
}

/// With [`MAX_LENGTH`], bounds the memory of a cache to about 1 MB.
const SLOTS: usize = 64;
/// The maximum length of parameters that are worth their memory.
const MAX_LENGTH: usize = 4096;
/// A slot whose requests differ is filled anew once in so many.
const PATIENCE: usize = 16;

impl Default for EnvironCache {
    fn default() -> Self {
        Self { slots: Mutex::new((0..SLOTS).map(|_| Slot::default()).collect()) }
    }
}

impl EnvironCache {
    /// Returns a new environ with these parameters if an earlier request had the same keys.
    pub fn get<'py>(&self, py: Python<'py>, params: &CgiParams) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some((known, is_same)) = self.find(params) else { return Ok(None) };
        // Without the lock: the allocation may run the garbage collector, and so any code.
        let environ = known.environ.bind(py).copy()?;
        if let EnvironKeys::OneEach(keys) = &known.keys
            && !is_same
        {
            for ((key, known), value) in keys.iter().zip(known.params.values()).zip(params.values()) {
                if let Some(key) = key
                    && known != value
                {
                    environ.set_item(key, latin1(py, value)?)?;
                }
            }
        }
        Ok(Some(environ))
    }

    /// Returns the environ of which a copy can get the values of `params`, and whether it has the same values.
    fn find(&self, params: &CgiParams) -> Option<(Arc<Known>, bool)> {
        let mut slots = self.slots.lock();
        let slot = &mut slots[Self::slot(params)];
        let known = slot.known.as_ref().filter(|known| params.has_keys_of(&known.params));
        let found = known.map(|known| (known.clone(), params.has_values_of(&known.params)));
        let found = found.filter(|(known, is_same)| *is_same || matches!(known.keys, EnvironKeys::OneEach(_)));
        slot.misses = if found.is_some() { 0 } else { slot.misses + 1 };
        found
    }

    fn slot(params: &CgiParams) -> usize {
        params.connection as usize % SLOTS
    }

    /// Keeps a copy of `environ`, that of a request with these parameters, if another request may need it.
    pub fn insert(
        &self,
        params: &CgiParams,
        environ: &Bound<'_, PyDict>,
        keys: impl FnOnce() -> PyResult<EnvironKeys>,
    ) -> PyResult<()> {
        let index = Self::slot(params);
        let misses = self.slots.lock()[index].misses;
        if !(misses == 1 || misses.is_multiple_of(PATIENCE)) || params.len() > MAX_LENGTH {
            return Ok(());
        }
        let known = Known { params: params.clone(), environ: environ.copy()?.unbind(), keys: keys()? };
        let replaced = self.slots.lock()[index].known.replace(Arc::new(known));
        // Without the lock, too: another thread may wait for it while it has the GIL.
        drop(replaced);
        Ok(())
    }
}
