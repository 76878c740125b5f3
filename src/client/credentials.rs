//! What a client shows to a server that asks who it is.

use std::fmt;

use tonic::metadata::AsciiMetadataValue;

use crate::secret::Secret;

/// An API key or token, as it is sent with each call. Its debug form hides it, and HTTP/2 does not put it into the table by
/// which it shortens headers.
#[derive(Clone)]
pub struct BearerToken(AsciiMetadataValue);

/// A text that is no key and no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key or token is one word of visible ASCII characters")]
pub struct BadToken;

impl BearerToken {
    /// The key or token in this text, without the white space around it.
    ///
    /// # Errors
    /// When it is no single word of visible ASCII characters.
    pub fn new(text: &Secret) -> Result<Self, BadToken> {
        let word = text.expose().trim();
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadToken);
        }
        let header = Secret::new(format!("Bearer {word}"));
        let mut value = AsciiMetadataValue::try_from(header.expose()).map_err(|_| BadToken)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value of the header `authorization`.
    pub(super) fn header(&self) -> AsciiMetadataValue {
        self.0.clone()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(hidden)")
    }
}

/// A client's certificate with its key, in PEM form.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    /// The certificate, and those between it and its authority.
    pub certificates: Vec<u8>,
    /// The certificate's private key.
    pub key: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_not_in_its_debug_form() {
        let token = BearerToken::new(&Secret::new(" bw_x\n".to_owned())).unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer bw_x");
        for shown in [format!("{token:?}"), format!("{:?}", token.header())] {
            assert!(!shown.contains("bw_x"), "{shown}");
        }
        for wrong in ["", " ", "a b", "a\nb", "\u{e4}"] {
            assert_eq!(
                BearerToken::new(&Secret::new(wrong.to_owned())).err(),
                Some(BadToken)
            );
        }
    }
}
