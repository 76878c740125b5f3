//! Who has sent a request, and its body.

use std::{marker::PhantomData, time::Duration};

use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::{HeaderMap, Response, header::CONTENT_TYPE, request::Parts};
use serde::de::DeserializeOwned;
use tonic::Status;

use super::{
    json,
    local::LocalChannel,
    status::{Refusal, Unsupported},
};
use crate::{
    auth::count_refusal,
    rpc::{Door, Envelopes, HeldBytes, LocalCaller, MadeMessages, ReceivedBody, ServiceError},
};

/// Headers with the time that a caller gives its request, in milliseconds: Connect's, and the one of all other protocols.
const TIMEOUTS: [&str; 2] = ["connect-timeout-ms", "x-request-timeout-ms"];

/// Most digits of a timeout, as Connect has them.
const TIMEOUT_DIGITS: usize = 10;

/// Who has sent a request. As an extractor, it refuses callers that nobody knows, and requests beyond the limit on open ones.
#[derive(Clone)]
pub(crate) struct Caller {
    local: LocalCaller,
    /// What is wrong with the time that it gives its request.
    wrong_timeout: Option<ServiceError>,
}

impl Caller {
    /// The caller of a request, before it is known whether it may call.
    pub(super) fn of(head: &Parts) -> Result<Self, Refusal> {
        let (timeout, wrong_timeout) = match timeout(&head.headers) {
            Ok(timeout) => (timeout, None),
            Err(error) => (None, Some(error)),
        };
        match LocalCaller::of(&head.headers, &head.extensions, timeout) {
            Some(local) => Ok(Self { local, wrong_timeout }),
            None => Err(Status::internal("the request has not come over the HTTP port").into()),
        }
    }

    /// A channel for the caller's calls, which the log says came through this door.
    pub(crate) fn channel(&self, door: Door) -> LocalChannel {
        LocalChannel::new(self.local.clone(), door)
    }

    /// The id of its request, which all of its calls have and its answer says.
    pub(crate) fn request_id(&self) -> &str {
        self.local.request_id()
    }

    /// The refusal of its request for this error.
    pub(crate) fn refusal(&self, error: &ServiceError) -> Refusal {
        error.to_status(self.local.request_id()).into()
    }

    /// Makes a call whose messages are made as they arrive; see [`LocalCaller::call_with`].
    pub(super) async fn call_with(
        &self,
        door: Door,
        head: Parts,
        messages: MadeMessages,
    ) -> Response<tonic::body::Body> {
        self.local.clone().call_with(door, head, messages).await
    }

    /// Whether the caller may send a body, as [`LocalCaller::admit`] says, and has said for how long in a way that is understood.
    pub(super) fn admit(&self) -> Result<(), ServiceError> {
        self.local.admit()?;
        self.wrong_timeout.clone().map_or(Ok(()), Err)
    }

    /// See [`LocalCaller::read`].
    pub(super) async fn read(&self, body: axum::body::Body) -> Result<ReceivedBody, ServiceError> {
        self.local.read(body).await
    }

    /// See [`LocalCaller::envelopes`].
    pub(super) fn envelopes(&self, body: axum::body::Body) -> Envelopes {
        self.local.envelopes(body)
    }

    /// See [`LocalCaller::memory`].
    pub(super) fn memory(&self) -> HeldBytes {
        self.local.memory()
    }

    /// Most bytes of an encoded message.
    pub(super) fn message_bytes(&self) -> usize {
        self.local.limits().message_bytes
    }

    /// Most memory for the values of a JSON body: see [`json::most_memory`].
    pub(super) fn most_memory(&self) -> usize {
        json::most_memory(self.local.limits())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let caller = Self::of(head)?;
        match caller.admit() {
            Ok(()) => Ok(caller),
            Err(error) => {
                if let ServiceError::Unauthenticated(rejection) = &error {
                    count_refusal(rejection.name());
                }
                Err(caller.refusal(&error))
            }
        }
    }
}

/// The time that the caller gives its request, if it says so.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ServiceError> {
    let given = TIMEOUTS
        .iter()
        .find_map(|name| Some((*name, headers.get(*name)?)));
    let Some((name, value)) = given else {
        return Ok(None);
    };
    let digits = value.as_bytes();
    let is_number = (1..=TIMEOUT_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let millis = is_number.then(|| value.to_str().ok()?.parse().ok()).flatten();
    match millis {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(ServiceError::field(
            name,
            format!("must be a number of milliseconds, of at most {TIMEOUT_DIGITS} digits"),
        )),
    }
}

/// A request with a JSON body, which has been read as a whole.
pub(crate) struct Received {
    pub(crate) caller: Caller,
    body: ReceivedBody,
}

impl Received {
    /// The body as a value. Its memory counts to the request for as long as this lives.
    ///
    /// # Errors
    /// When it is not JSON or not such a value, with the path of the field that is wrong.
    pub(crate) fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        let most_memory = self.caller.most_memory();
        json::read(&mut self.body, most_memory, PhantomData::<T>).map_err(|error| self.caller.refusal(&error))
    }

    /// The body as it was sent, for doors that read no value of which they do not know the place. What they make of it may take
    /// as much memory again, and counts to the request for as long as this lives.
    ///
    /// # Errors
    /// When the memory for requests is used up.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, Refusal> {
        let held = self.body.hold(self.body.bytes.len());
        held.map_err(|error| self.caller.refusal(&error))?;
        Ok(self.body.bytes.clone())
    }

    /// Counts this many more copies of the body to the request, for what is made of it, for as long as this lives.
    ///
    /// # Errors
    /// When the memory for requests is used up.
    pub(crate) fn hold_copies(&mut self, copies: usize) -> Result<(), Refusal> {
        let bytes = self.body.bytes.len().saturating_mul(copies);
        self.body.hold(bytes).map_err(|error| self.caller.refusal(&error))
    }
}

impl<S: Sync> FromRequest<S> for Received {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let (mut head, body) = request.into_parts();
        if !is_json(&head.headers) {
            return Err(Refusal::unsupported(
                Unsupported::Content,
                "send the body with `content-type: application/json`",
            ));
        }
        let caller = Caller::from_request_parts(&mut head, state).await?;
        let body = caller.read(body).await;
        let body = body.map_err(|error| caller.refusal(&error))?;
        Ok(Self { caller, body })
    }
}

/// Whether the body is JSON, in the only encoding that JSON has.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
}

/// The type of the body without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn given(name: &'static str, value: &str) -> Result<Option<Duration>, ServiceError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        timeout(&headers)
    }

    #[test]
    fn timeouts_are_milliseconds() {
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for name in TIMEOUTS {
            assert_eq!(given(name, "250"), Ok(Some(Duration::from_millis(250))));
            assert_eq!(
                given(name, "9999999999"),
                Ok(Some(Duration::from_millis(9_999_999_999)))
            );
            for wrong in ["", "-1", "1s", "1.5", "12345678901", " 1"] {
                let error = given(name, wrong).unwrap_err();
                assert!(
                    matches!(&error, ServiceError::InvalidFields(fields) if fields[0].field == name),
                    "{wrong:?}"
                );
            }
        }
    }

    #[test]
    fn json_is_known_by_its_type() {
        let is = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
            is_json(&headers)
        };
        assert!(is("application/json") && is("Application/JSON; charset=utf-8"));
        assert!(!is("text/plain") && !is("application/jsonx") && !is_json(&HeaderMap::new()));
    }
}
