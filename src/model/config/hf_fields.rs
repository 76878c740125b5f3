//! Typed access to the keys of a `config.json`.

use serde_json::Value as Json;

/// An object of the file. What is there but of another type is an error, not a default; null is not there.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub &'a Json);

impl<'a> Fields<'a> {
    fn read<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.0.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| format!("{name} is {value}, not {wanted}")),
        }
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, String> {
        self.read(name, "a number", |value| {
            value.as_u64().and_then(|v| usize::try_from(v).ok())
        })
    }

    pub(super) fn required(&self, name: &str) -> Result<usize, String> {
        self.count(name)?.ok_or_else(|| format!("{name} is missing"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, String> {
        self.read(name, "a number", Json::as_f64)
    }

    pub(super) fn optional_flag(&self, name: &str) -> Result<Option<bool>, String> {
        self.read(name, "a boolean", Json::as_bool)
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        self.read(name, "a string", Json::as_str)
    }
}
