//! Reads JSON of an endpoint: typed, and with errors that name a field and repeat no value.

use serde::de::DeserializeOwned;

use super::error::RemoteError;

/// Longest name of an endpoint that is repeated: of its model, version or error, in bytes.
const NAME_BYTES: usize = 128;

/// Reads a message.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, RemoteError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let is_type = error.inner().is_data();
        RemoteError::malformed(match (is_type, name(&path)) {
            (true, Some(path)) if path != "." => format!("`{path}` is missing or not of its type"),
            (true, _) => "a message is not of its form".to_owned(),
            (false, _) => "a message is not JSON".to_owned(),
        })
    })?;
    json.end()
        .map_err(|_| RemoteError::malformed("a message is followed by something else"))?;
    Ok(read)
}

/// A text of an endpoint that may be repeated in errors, logs and provenance: short, printable ASCII, without spaces, so that
/// it is a name and quotes nobody.
pub(super) fn name(text: &str) -> Option<String> {
    let is_name = (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Said {
        tokens: u32,
    }

    #[test]
    fn errors_name_fields_and_repeat_no_values() {
        let error = |text: &str| match read::<Said>(text.as_bytes()) {
            Err(RemoteError::Malformed { what }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            error(r#"{"tokens":"secret"}"#),
            "`tokens` is missing or not of its type"
        );
        assert_eq!(error(r#"{"tokens":1"#), "a message is not JSON");
        assert_eq!(error("secret"), "a message is not JSON");
        assert_eq!(error("[]"), "a message is not of its form");
        assert_eq!(
            error(r#"{"tokens":1} 2"#),
            "a message is followed by something else"
        );
        assert_eq!(read(br#"{"tokens":1,"more":[]} "#), Ok(Said { tokens: 1 }));
    }

    #[test]
    fn names_are_short_and_printable() {
        assert_eq!(name("vllm-0.9"), Some("vllm-0.9".to_owned()));
        for text in ["", "two words", "ä", &"x".repeat(NAME_BYTES + 1)] {
            assert_eq!(name(text), None, "{text}");
        }
    }
}
