//! Typed access to the keys of a `config.json`.

use serde_json::Value as Json;

use crate::model::error::{KeyError, KeyProblem};

/// An object of the file. A value of another type is an error and not replaced by a default; null counts as missing.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub &'a Json);

impl<'a> Fields<'a> {
    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, KeyError> {
        match self.0.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| {
                let differs = KeyProblem::Differs {
                    found: value.to_string(),
                    expected: expected.to_owned(),
                };
                differs.of(name)
            }),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, KeyError> {
        self.read(name, "a whole number", |value| {
            value.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    /// [`Fields::count`], where the file has to have the key.
    pub(super) fn required(&self, name: &str) -> Result<usize, KeyError> {
        self.count(name)?.ok_or_else(|| KeyProblem::Missing.of(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, KeyError> {
        self.read(name, "a number", Json::as_f64)
    }

    pub(super) fn optional_flag(&self, name: &str) -> Result<Option<bool>, KeyError> {
        self.read(name, "a boolean", Json::as_bool)
    }

    /// A boolean that is false where the file does not have the key.
    pub(super) fn flag(&self, name: &str) -> Result<bool, KeyError> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, KeyError> {
        self.read(name, "a string", Json::as_str)
    }
}
