//! Attributes that an object may lack.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Returns an attribute of an object, `None` if there is no attribute of this name.
///
/// # Errors
/// The exception of a property, or of `__getattr__`, other than `AttributeError`.
pub fn optional<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = object.py();
    // The string that this interpreter has for the name, by which it finds what it has looked up before.
    let name = PyString::intern(py, name);
    #[cfg(Py_3_13)]
    {
        object.getattr_opt(name)
    }
    // pyo3 would raise an AttributeError and discard it, which takes 5,000 instructions.
    #[cfg(not(Py_3_13))]
    {
        let mut attribute = std::ptr::null_mut();
        // SAFETY: attached, with two live objects; the result is 1 with a new reference, 0, or -1 with an exception.
        unsafe {
            let result = super::missing::_PyObject_LookupAttr(object.as_ptr(), name.as_ptr(), &mut attribute);
            if result < 0 {
                return Err(PyErr::fetch(py));
            }
            Ok(Bound::from_owned_ptr_or_opt(py, attribute))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::runtime::start_for_tests;

    #[test]
    fn only_an_attribute_error_means_that_there_is_none() {
        start_for_tests();
        Python::attach(|py| {
            let object = py.eval(
                c"type('Class', (), {'one': 1, 'two': property(lambda self: 1 / 0), \
                  'three': property(lambda self: self.four)})()",
                None,
                None,
            );
            let object = object.unwrap();
            let get = |name| optional(&object, name);
            assert_eq!(get("one").unwrap().unwrap().extract::<i32>().unwrap(), 1);
            assert!(get("two").is_err());
            assert!(get("three").unwrap().is_none());
            assert!(get("four").unwrap().is_none());
        });
    }
}
